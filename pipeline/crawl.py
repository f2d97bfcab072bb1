"""Crawl: the world to documents, rejects and origins. Text is written once, here.

Public repositories and pages are collected (DeepSeek-Coder-V2, section 2); what a document and a unit are stands in
``docs/data.md``.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from filters import html, licences, notebooks, text
from pipeline import archives, common_crawl, github, tables
from pipeline.found import Found
from pipeline.inputs import GONE, CrawlUnit, Input
from pipeline.manifest import ArchiveSource, GitSource, Shards, Source, WarcSource
from pipeline.records import Record, Stage, commit
from pipeline.schemas import DOCUMENTS, ORIGINS, REJECTS
from pipeline.store import Store, TableWriter, Written, open_url

MODULES = ("pipeline.crawl",)
LIBRARIES = ("fastwarc", "turbohtml", "publicsuffixlist", "orjson")

FORMS = {"archives": "file", "git": "file", "warc": "page", "tables": "record"}
_REJECT_BATCH = 50_000
_BLOCK = 1 << 20
_LARGEST = 2**63 - 1


class Body(NamedTuple):
    """The text of a document, or the reason why there is none."""

    text: str | None
    encoding: str
    reason: str | None


class ChangedInputError(Exception):
    """A URL no longer gives the bytes whose hash is pinned."""


def document_id(source: str, origin: str, path: bytes, raw_sha256: bytes) -> bytes:
    """16 bytes: blake2b-128 over (source name, origin key, path or URL, SHA-256 of the raw bytes), length-prefixed."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (source.encode(), origin.encode("utf-8", "surrogateescape"), path, raw_sha256):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def read_body(form: str, found: Found) -> Body:
    """Turn raw bytes into text: pages lose their HTML, notebooks become scripts, files are decoded."""
    assert found.raw is not None
    if form == "page":
        page = html.extract(found.raw, found.charset)
        return Body(page.text, "html", page.reason)
    if form == "file" and found.path.endswith(b".ipynb"):
        script = notebooks.to_script(found.raw)
        return Body(script.text, "notebook", script.reason)
    decoded = text.decode(found.raw, found.charset)
    return Body(decoded.text, decoded.encoding, decoded.reason)


@dataclass
class Crawl:
    """Crawl one unit: read its containers in order, write shards, rejects and origins, then the record."""

    source: Source
    shards: Shards
    quarantine: frozenset[str]
    stage: Stage
    store: Store

    def setup(self) -> None:
        """Nothing heavy to load."""

    def run(self, specification: dict[str, Any]) -> int:
        """Crawl the unit of this specification; gives the bytes of text written."""
        unit = CrawlUnit.from_json(specification)
        form = FORMS[self.source.kind]
        with self.store.table_writer(self.stage.file(unit.name, ".rejects.parquet"), REJECTS) as rejects:
            writer = _UnitWriter(self, unit, rejects)
            for container in unit.inputs:
                for found in self._read(container):
                    try:
                        writer.add(found, form)
                    except Exception as error:
                        error.add_note(f"document {_display(found.locator)}")
                        raise
            writer.finish()
        return writer.commit(rejects.written)

    def _read(self, container: Input) -> Iterator[Found]:
        source, limits = self.source, self.source.limits
        if isinstance(source, GitSource):
            yield from _read_repository(source, container)
            return
        with _open(container) as stream:
            if isinstance(source, ArchiveSource):
                yield from archives.read_archive(stream, container.name, limits)
            elif isinstance(source, WarcSource):
                yield from common_crawl.read_warc(stream, container.name, limits)
            else:
                yield from tables.read_table(stream, container.name, source.columns, limits)


class _UnitWriter:
    """Collects what a unit offers; holds at most one shard's text, as the UTF-8 bytes of each document."""

    def __init__(self, crawl: Crawl, unit: CrawlUnit, rejects: TableWriter):
        self._crawl, self._unit, self._rejects_writer = crawl, unit, rejects
        self._rows: list[tuple[bytes, dict[str, Any], bytes]] = []
        self._text_bytes = self._offered = self._documents = 0
        self._shards: list[Written] = []
        self._shard_bytes: list[int] = []
        self._rejects: list[dict[str, Any]] = []
        self._reasons: Counter[str] = Counter()
        self._origins: dict[tuple[str, str], list[int]] = {}
        self._licences: dict[tuple[str, str], tuple[int, bytes, str]] = {}

    def add(self, found: Found, form: str) -> None:
        """Take one offered row: a document or a reject."""
        self._offered += 1
        sha = hashlib.sha256(found.raw).digest() if found.raw is not None else None
        reason, body = found.reason, None
        if reason is None and sha is not None and sha.hex() in self._crawl.quarantine:
            reason = "quarantined"
        if reason is None:
            body = read_body(form, found)
            reason = body.reason
        row: dict[str, Any] = {
            "source": self._crawl.source.name,
            "origin": _display(found.origin),
            "path": found.path,
            "path_display": found.path.decode("utf-8", "replace"),
            "revision": _display(found.revision),
            "locator": _display(found.locator),
        }
        origin = (row["origin"], row["revision"] if form == "file" else "")
        if found.raw is not None and isinstance(self._crawl.source, ArchiveSource):
            self._note_licence(origin, found.path, found.raw)
        if body is None or body.text is None or sha is None:
            self._reasons[reason or "empty"] += 1
            self._rejects.append(
                row | {"size": min(found.size, _LARGEST), "reason": reason or "empty", "raw_sha256": sha}
            )
            if len(self._rejects) == _REJECT_BATCH:
                self._write_rejects()
            return
        text_bytes = body.text.encode()
        row |= {"form": form, "raw_bytes": found.size, "raw_sha256": sha, "encoding": body.encoding}
        row |= {"declared_language": found.fields.get("language", ""), "text_bytes": len(text_bytes)}
        row["id"] = document_id(row["source"], found.origin, found.path, sha)
        self._rows.append((row["id"], row, text_bytes))
        totals = self._origins.setdefault(origin, [0, 0])
        totals[0] += 1
        totals[1] += len(text_bytes)
        self._documents += 1
        self._text_bytes += len(text_bytes)
        shards = self._crawl.shards
        if self._text_bytes >= shards.text_bytes or len(self._rows) >= shards.rows:
            self._write_shard()

    def finish(self) -> None:
        """Write what is left."""
        if self._rows:
            self._write_shard()
        self._write_rejects()

    def commit(self, rejects: Written) -> int:
        """Write the origins, then the record. Rows offered = documents + rejects."""
        stage, store = self._crawl.stage, self._crawl.store
        origins = [
            {"source": self._crawl.source.name, "origin": origin[0], "revision": origin[1]}
            | {"licence": self._licences[origin][-1] if origin in self._licences else None}
            | {"documents": documents, "text_bytes": size}
            for origin, (documents, size) in sorted(self._origins.items())
        ]
        origin_rows = pa.RecordBatch.from_pylist(origins, ORIGINS)
        written = store.write_table(stage.file(self._unit.name, ".origins.parquet"), ORIGINS, [origin_rows])
        files = (*self._shards, rejects, written)
        if self._offered != self._documents + rejects.rows or self._documents != sum(s.rows for s in self._shards):
            raise AssertionError(f"{self._unit.name}: {self._offered} offered, {self._documents} + {rejects.rows} kept")
        counts: dict[str, Any] = {
            "offered": self._offered,
            "documents": self._documents,
            "text_bytes": self._shard_bytes,
        }
        counts["rejects"] = dict(sorted(self._reasons.items()))
        commit(store, Record(stage, self._unit.name, self._unit.digests, files, counts))
        return sum(self._shard_bytes)

    def _note_licence(self, origin: tuple[str, str], path: bytes, raw: bytes) -> None:
        """Of several files that tell a licence, the shortest path counts, then the least path and licence."""
        if licence := licences.licence_of(path, raw):
            told = (len(path), path, licence)
            self._licences[origin] = min(self._licences.get(origin, told), told)

    def _write_rejects(self) -> None:
        self._rejects_writer.write(pa.RecordBatch.from_pylist(self._rejects, REJECTS))
        self._rejects = []

    def _write_shard(self) -> None:
        self._rows.sort(key=lambda row: row[0])
        name = f"{self._unit.name}-{len(self._shards):05d}"
        batches = _batches(self._rows, self._crawl.shards.row_group_bytes)
        file = self._crawl.stage.file(name)
        self._shards.append(self._crawl.store.write_table(file, DOCUMENTS, batches, use_dictionary=_REPEATING))
        self._shard_bytes.append(self._text_bytes)
        self._rows, self._text_bytes = [], 0


_REPEATING = ["form", "source", "origin", "revision", "encoding", "declared_language"]


def _batches(rows: list[tuple[bytes, dict[str, Any], bytes]], limit: int) -> Iterator[pa.RecordBatch]:
    """Cut sorted rows into row groups of about ``limit`` bytes of text; each row's text is let go as it is taken."""
    rows.reverse()
    while rows:
        group: list[dict[str, Any]] = []
        texts: list[bytes] = []
        size = 0
        while rows and (not texts or size + len(rows[-1][2]) <= limit):
            _, row, text_bytes = rows.pop()
            group.append(row)
            texts.append(text_bytes)
            size += len(text_bytes)
        text_column = pa.array(texts, pa.large_binary()).view(pa.large_string())
        columns = [
            text_column if f.name == "text" else pa.array([row[f.name] for row in group], f.type) for f in DOCUMENTS
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=DOCUMENTS)


def _open(container: Input) -> BinaryIO:
    """A container for reading. What lies elsewhere is fetched to a temporary file first and held against its pin."""
    if "://" not in container.url:
        return open_url(container.url)
    file = TemporaryFile(prefix="headrace-")  # noqa: SIM115 - the caller closes it
    digest = hashlib.sha256()
    with open_url(container.url) as remote:
        while block := remote.read(_BLOCK):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != container.digest:
        file.close()
        raise ChangedInputError(
            f"{container.url} has changed since it was pinned (SHA-256 {container.digest[:12]}…, now "
            f"{digest.hexdigest()[:12]}…): remove its line from lock.json to take it as it is now"
        )
    file.seek(0)
    return cast(BinaryIO, file)


def _read_repository(source: GitSource, container: Input) -> Iterator[Found]:
    if container.digest == GONE:
        yield Found(container.origin, b"", container.origin, 0, None, "gone")
        return
    if "://" not in container.url:
        yield from github.read_git(Path(container.url), container.digest, container.origin, source.limits)
        return
    with TemporaryDirectory(prefix="headrace-git-") as folder:
        into = Path(folder) / "repository.git"
        github.fetch(container.url, container.digest, into)
        yield from github.read_git(into, container.digest, container.origin, source.limits)


def _display(name: str) -> str:
    """A name from the world as valid text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
