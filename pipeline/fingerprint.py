"""The name of a stage's directory: a hash of everything that decides its content (``docs/data.md``).

Configuration, the source of the stage's modules with all that they import of ours, the versions of the libraries
that decide content, the quarantine, and the fingerprints upstream. Not the inputs, not a path, not a time.
"""

import ast
import hashlib
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

OURS = ("pipeline", "filters", "languages")
_BY_VALUE = frozenset({"pipeline.manifest", "pipeline.sources"})
"""The manifest's models: what they hold enters by its value, so that a new key elsewhere renames nothing."""


def fingerprint(
    role: str,
    configuration: Mapping[str, Any],
    modules: Iterable[str],
    libraries: Iterable[str] = (),
    upstream: Iterable[str] = (),
) -> str:
    """Name what makes a stage: 16 hexadecimal digits."""
    made_of = {
        "role": role,
        "configuration": configuration,
        "code": {name: code_digest(name) for name in sorted(modules)},
        "libraries": {name: library_version(name) for name in sorted(libraries)},
        "unicode": unicodedata.unidata_version,
        "upstream": sorted(upstream),
    }
    return hashlib.sha256(orjson.dumps(made_of, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def environment_digest(modules: Iterable[str], libraries: Iterable[str]) -> str:
    """What a worker compares with its driver before it works: code and content-deciding libraries."""
    return fingerprint("environment", {"python": sys.version_info[:2]}, modules, libraries)


@lru_cache(maxsize=256)
def code_digest(module: str) -> str:
    """SHA-256 over the source of a module, of all of ours that it imports, and of the data files beside them."""
    digest = hashlib.sha256()
    for path in sorted(_closure(module)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=256)
def library_version(name: str) -> str:
    """Installed version of a distribution, or ``absent``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@lru_cache(maxsize=256)
def _closure(module: str) -> frozenset[Path]:
    found: set[Path] = set()
    waiting = [module]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name in _BY_VALUE:
            continue
        seen.add(name)
        path = _source_of(name)
        if path is None:
            continue
        found.add(path)
        found.update(p for p in path.parent.iterdir() if p.suffix in {".tsv", ".yml", ".parquet"})
        waiting.extend(_imports(path))
    return frozenset(found)


def _source_of(name: str) -> Path | None:
    """The file of one of our modules. They lie side by side, so nothing needs to be imported to find them."""
    path = Path(__file__).resolve().parent.parent.joinpath(*name.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@lru_cache(maxsize=512)
def _imports(path: Path) -> tuple[str, ...]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found += [name for name in names if name.split(".")[0] in OURS]
    return tuple(found)
