"""From the manifest's sources to crawl units, with everything that moves pinned before work starts.

A file is pinned to the SHA-256 of its bytes, a branch to a commit, in ``lock.json`` in the output. A unit's name comes
from the content of its inputs, never from a local path: the same bytes under another path are the same unit.
"""

import difflib
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pipeline import github
from pipeline.archives import origin_of
from pipeline.manifest import ArchiveSource, GitRepository, GitSource, ManifestError, Source, TableSource
from pipeline.progress import Progress
from pipeline.remote import refuse_secrets, retried
from pipeline.store import SourceFile, StorageError, Store, is_web, open_url, sha256_of, source_files
from pipeline.tables import column_names

T = TypeVar("T")

LOCK = "lock.json"
_PEEKED = 16
_READERS = 16
_MOST_WRONG = 20
_QUIET_SECONDS = 5.0
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

    def sha256s(self, files: Sequence[SourceFile]) -> list[str]:
        """The hashes of files. Each is read once, and again only when its size, date or tag changed.

        What a web server gives is pinned for good.
        """
        new = [file for file in files if self._is_new(file)]
        for file, digest in zip(new, _read_all(new), strict=True):
            self._pins["files"][file.url] = {"change": file.change, "sha256": digest}
            self._changed = True
        return [str(self._pins["files"][file.url]["sha256"]) for file in files]

    def _is_new(self, file: SourceFile) -> bool:
        pin = self._pins["files"].get(file.url)
        return pin is None or (pin["change"] != file.change and not is_web(file.url))

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


def _read_all(files: Sequence[SourceFile]) -> list[str]:
    """SHA-256 of each file: from afar several at a time, with a line of progress when it takes long."""
    done: set[str] = set()

    def read(file: SourceFile) -> str:
        digest = retried(file.url, lambda: sha256_of(lambda: open_url(file.url)))
        done.add(file.url)
        return digest

    units = [{"url": file.url, "size": file.size} for file in files]
    n_readers = _READERS if any("://" in file.url for file in files) else 1
    progress = Progress("read inputs", units, lambda unit: unit["url"] in done, noun="files", after=_QUIET_SECONDS)
    with progress, ThreadPoolExecutor(n_readers) as pool:
        return list(pool.map(read, files))


def crawl_units(source: Source, lock: Lock) -> list[CrawlUnit]:
    """Divide a source into units; sorted by name. Raises ManifestError with every path or repository that is missing.

    Its key is that of the first one.
    """
    if isinstance(source, GitSource):
        inputs = _each(source.repositories, "repositories", lambda repository: _repository(repository, lock))
    else:
        found = {file.url: file for files in _each(source.paths, "paths", _files) for file in files}
        files = [found[url] for url in sorted(found)]
        inputs = [_file(file, digest, source) for file, digest in zip(files, lock.sha256s(files), strict=True)]
    unique = sorted({i.slug: i for i in sorted(inputs, reverse=True)}.values())
    buckets = getattr(source, "buckets", None)
    if buckets is None:
        return [CrawlUnit(i.slug, (i,)) for i in sorted(unique, key=lambda i: i.slug)]
    groups: dict[int, list[Input]] = defaultdict(list)
    for i in unique:
        digest = hashlib.blake2b(i.origin.encode(), digest_size=8).digest()
        groups[int.from_bytes(digest, "little") % buckets].append(i)
    return [CrawlUnit(f"bucket-{b:05d}-of-{buckets:05d}", tuple(sorted(groups[b]))) for b in sorted(groups)]


def _each(entries: Iterable[Any], key: str, look: Callable[[Any], T]) -> list[T]:
    """Look at every entry of a list of the manifest; what is wrong with some is one ManifestError (the first 20)."""
    found: list[T] = []
    wrong: list[tuple[int, str]] = []
    for number, entry in enumerate(entries):
        if len(wrong) == _MOST_WRONG:
            break
        try:
            found.append(look(entry))
        except (ManifestError, StorageError) as error:
            wrong.append((number, str(error)))
    if wrong:
        raise ManifestError("\n".join(message for _, message in wrong), key, wrong[0][0])
    return found


def _files(pattern: str) -> list[SourceFile]:
    try:
        files = source_files(pattern)
    except FileNotFoundError:
        raise ManifestError(f"nothing matches {pattern}{nearest(pattern)}") from None
    return [file._replace(url=file.url.removeprefix("file://")) for file in files]


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


def _file(file: SourceFile, digest: str, source: Source) -> Input:
    name = file.url.rstrip("/").rsplit("/", 1)[-1]
    return Input(name, digest, origin_of(name) if isinstance(source, ArchiveSource) else "", file.url, file.size)


def _resolve(repository: GitRepository) -> str:
    try:
        return github.resolve(repository.url, repository.ref)
    except github.GitError as error:
        if "://" in repository.url and _GONE.search(str(error)):
            return GONE
        raise


def _repository(repository: GitRepository, lock: Lock) -> Input:
    """A repository; its name is that of its origin, with a hash, as many repositories share a last segment."""
    refuse_secrets(repository.url)
    local = github.local_path(repository.url)
    try:
        commit = lock.commit(repository)
        origin = github.identity(local, commit) if local else github.hosted(repository.url)
    except github.GitError as error:
        raise ManifestError(str(error)) from None
    name = f"{origin.rsplit('/', 1)[-1][:64]}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
    return Input(name, commit, origin, str(local or repository.url), 0)
