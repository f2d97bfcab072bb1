"""From the manifest's sources to crawl units, with everything that moves pinned before work starts.

A file is pinned to the SHA-256 of its bytes, a branch to a commit, in ``lock.json`` in the output. A unit's name comes
from the content of its inputs, never from a local path: the same bytes under another path are the same unit.
"""

import difflib
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline import github
from pipeline.archives import origin_of
from pipeline.manifest import ArchiveSource, GitRepository, GitSource, ManifestError, Source, TableSource
from pipeline.store import Store, open_url, sha256_of, source_files
from pipeline.tables import column_names

LOCK = "lock.json"
_PEEKED = 16
GONE = "gone"
"""In place of a commit: the remote repository is not there (any more), which is a reject and stops nothing."""

_GONE = re.compile(r"not found|could not read Username|Authentication failed|returned error: (404|410|451)")


@dataclass(frozen=True, order=True)
class Input:
    """One container to read: a file by its hash, or a repository at a commit (``digest`` is then the commit)."""

    name: str
    digest: str
    origin: str
    url: str
    size: int

    @property
    def slug(self) -> str:
        """A name for files and units: readable and unique by content."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name)[:80].strip('-.') or 'input'}-{self.digest[:12]}"


@dataclass(frozen=True)
class CrawlUnit:
    """What one worker crawls in one go."""

    name: str
    inputs: tuple[Input, ...]

    @property
    def size(self) -> int:
        """Bytes of the containers."""
        return sum(i.size for i in self.inputs)

    @property
    def digests(self) -> dict[str, str]:
        """Inputs as they stand in a record: no local path."""
        return {i.slug: i.digest for i in self.inputs}

    def as_json(self) -> dict[str, Any]:
        """Give the specification that travels to a worker."""
        return {"name": self.name, "inputs": [asdict(i) for i in self.inputs]}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "CrawlUnit":
        """Read a specification."""
        return CrawlUnit(value["name"], tuple(Input(**i) for i in value["inputs"]))


class Lock:
    """Pins of a build: files to hashes, branches to commits. Machine-dependent, so it enters no digest."""

    def __init__(self, store: Store):
        self._store = store
        self._pins = _read_pins(store)
        self._changed = False

    def sha256(self, url: str, change: str) -> str:
        """The hash of a file; read again only when its size or date changed."""
        pin = self._pins["files"].get(url)
        if pin is None or (pin["change"] != change and "://" not in url):
            pin = {"change": change, "sha256": sha256_of(lambda: open_url(url))}
            self._pins["files"][url] = pin
            self._changed = True
        return str(pin["sha256"])

    def commit(self, repository: GitRepository) -> str:
        """The commit of a branch, as it was when this build first saw it."""
        key = f"{repository.url}@{repository.ref}"
        if key not in self._pins["git"]:
            self._pins["git"][key] = _resolve(repository)
            self._changed = True
        return str(self._pins["git"][key])

    def save(self) -> None:
        """Write the pins, if there are new ones."""
        if self._changed:
            self._store.write_json(LOCK, self._pins)
            self._changed = False


def _read_pins(store: Store) -> dict[str, Any]:
    try:
        pins: dict[str, Any] = store.read_json(LOCK)
        if isinstance(pins["files"], dict) and isinstance(pins["git"], dict):
            return pins
    except FileNotFoundError:
        return {"files": {}, "git": {}}
    except (ValueError, KeyError, TypeError):
        pass
    raise ManifestError(f"{store.full(LOCK)} is damaged; remove it, and what moves is pinned anew")


def crawl_units(source: Source, lock: Lock) -> list[CrawlUnit]:
    """Divide a source into units; sorted by name. Raises ManifestError for a path or repository that is missing."""
    if isinstance(source, GitSource):
        inputs = [_repository(r, lock, number) for number, r in enumerate(source.repositories)]
    else:
        inputs = [_file(url, change, source, lock) for url, change in _files(source.paths)]
    unique = sorted({i.slug: i for i in sorted(inputs, reverse=True)}.values())
    buckets = getattr(source, "buckets", None)
    if buckets is None:
        return [CrawlUnit(i.slug, (i,)) for i in sorted(unique, key=lambda i: i.slug)]
    groups: dict[int, list[Input]] = defaultdict(list)
    for i in unique:
        digest = hashlib.blake2b(i.origin.encode(), digest_size=8).digest()
        groups[int.from_bytes(digest, "little") % buckets].append(i)
    return [CrawlUnit(f"bucket-{b:05d}-of-{buckets:05d}", tuple(sorted(groups[b]))) for b in sorted(groups)]


def _files(patterns: Iterable[str]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for number, pattern in enumerate(patterns):
        try:
            found.update(source_files(pattern))
        except FileNotFoundError:
            raise ManifestError(f"nothing matches {pattern}{nearest(pattern)}", "paths", number) from None
    return sorted(found.items())


def nearest(path: str) -> str:
    """What to say of a local path that is missing: the nearest name that is there, or the folder that is missing."""
    if "://" in path or any(mark in path for mark in "*?["):
        return ""
    missing = Path(path)
    while not missing.parent.is_dir():
        missing = missing.parent
    close = difflib.get_close_matches(missing.name, sorted(os.listdir(missing.parent)), n=1, cutoff=0.6)
    return f"; did you mean {missing.parent / close[0]}?" if close else f"; {missing.parent} has no {missing.name!r}"


def check_columns(source: TableSource, units: Iterable[CrawlUnit]) -> None:
    """Look at the first tables of a source. Raises ManifestError where one lacks the mapped text column."""
    wanted = source.columns.text
    for unit in islice(units, _PEEKED):
        with open_url(unit.inputs[0].url) as stream:
            names = column_names(stream, source.limits)
        if names and wanted not in names:
            close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
            raise ManifestError(f"{unit.inputs[0].name} has no column {wanted!r}; {hint}", "columns", "text")


def _file(url: str, change: str, source: Source, lock: Lock) -> Input:
    name = url.rstrip("/").rsplit("/", 1)[-1]
    local = url.removeprefix("file://")
    size = os.path.getsize(local) if "://" not in local else 0
    origin = origin_of(name) if isinstance(source, ArchiveSource) else ""
    return Input(name, lock.sha256(local, change), origin, local, size)


def _resolve(repository: GitRepository) -> str:
    try:
        return github.resolve(repository.url, repository.ref)
    except github.GitError as error:
        if "://" in repository.url and _GONE.search(str(error)):
            return GONE
        raise


def _repository(repository: GitRepository, lock: Lock, number: int) -> Input:
    """A repository; its name is that of its origin, with a hash, as many repositories share a last segment."""
    local = github.local_path(repository.url)
    try:
        commit = lock.commit(repository)
        origin = github.identity(local, commit) if local else github.hosted(repository.url)
    except github.GitError as error:
        raise ManifestError(str(error), "repositories", number) from None
    name = f"{origin.rsplit('/', 1)[-1][:64]}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
    return Input(name, commit, origin, str(local or repository.url), 0)
