"""Files of a build on any fsspec file system: atomic writes, Arrow tables with the digest of their logical rows.

A file is written under a temporary name of this attempt and renamed (local disk), or put as one object
(``pipeline.remote``); readers follow records, never a listing.
"""

import hashlib
import json
import os
import posixpath
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from pipeline.digest import LogicalDigest
from pipeline.remote import Remote, file_system, refuse_secrets, retried, tag_of
from pipeline.remote import StorageError as StorageError


@dataclass(frozen=True)
class Written:
    """A committed table: path below the root, rows, logical digest, size and SHA-256 of the file."""

    path: str
    rows: int
    digest: str
    size: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Give the entry of a record."""
        return {"path": self.path, "rows": self.rows, "digest": self.digest, "bytes": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class Store:
    """A folder (an fsspec URL) that holds a build. Cheap to pickle; paths are relative to the root, with ``/``."""

    url: str

    def __post_init__(self) -> None:
        refuse_secrets(self.url)

    @cached_property
    def _fs_root(self) -> tuple[Any, str]:
        fs, root = file_system(self.url)
        return fs, root.rstrip("/")

    @cached_property
    def _remote(self) -> Remote:
        return Remote(self._fs_root[0])

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    @property
    def is_local(self) -> bool:
        """Whether the root lies on a local disk."""
        return isinstance(self._fs_root[0], LocalFileSystem)

    def full(self, path: str) -> str:
        """The path as the file system names it."""
        root = self._fs_root[1]
        return f"{root}/{path}" if path else root

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Size in bytes, or None where the file is missing."""
        if not self.is_local:
            head = self._remote.head(self.full(path))
            return None if head is None else head.size
        try:
            return os.stat(self.full(path)).st_size
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading, seekable."""
        return open(self.full(path), "rb") if self.is_local else self._remote.open(self.full(path))

    def read(self, path: str) -> bytes:
        """Read a small file whole."""
        if not self.is_local:
            return self._remote.read(self.full(path))
        with self.open(path) as file:
            return file.read()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Read bytes ``start`` to ``end`` of a file, in one request."""
        if not self.is_local:
            return self._remote.read_range(self.full(path), start, end)
        with open(self.full(path), "rb") as file:
            return os.pread(file.fileno(), end - start, start)

    def read_json(self, path: str) -> Any:
        """Read a small JSON file."""
        return json.loads(self.read(path))

    def files(self, path: str = "") -> Iterator[str]:
        """List every file below a folder, sorted. For cleaning and verifying; never to find inputs."""
        fs, root = self._fs_root
        found = fs.find(self.full(path)) if self.is_local else self._remote.find(self.full(path))
        for name in sorted(found):
            yield posixpath.relpath(str(name).replace(os.sep, "/"), root.replace(os.sep, "/"))

    def sweep(self) -> None:
        """Remove temporary files of attempts that were killed. Only for who holds the lease."""
        if self.is_local:
            for path in self.files():
                if ".tmp." in path.rsplit("/", 1)[-1]:
                    self.remove(path)

    def remove(self, path: str) -> None:
        """Remove a file that may be gone already."""
        if not self.is_local:
            self._remote.remove(self.full(path))
            return
        with storage_errors(path), suppress(FileNotFoundError):
            os.unlink(self.full(path))

    def remove_folder(self, path: str) -> None:
        """Remove a folder that may be gone already, with all that it holds."""
        if not self.is_local:
            self._remote.remove_folder(self.full(path))
            return
        with storage_errors(path), suppress(FileNotFoundError):
            self._fs_root[0].rm(self.full(path), recursive=True)

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """Write a file that appears whole at the end of the block, or not at all.

        On a local disk under a temporary name that is renamed; elsewhere into a local temporary file that is put as one
        object. Raises StorageError where the place can't be written; other errors of the block pass as they are.
        """
        final = self.full(path)
        if not self.is_local:
            with tempfile.NamedTemporaryFile(prefix="headrace-") as file:
                yield cast(BinaryIO, _Guarded(file, path))
                with storage_errors(path):
                    file.flush()
                size = file.tell()
                file.seek(0)
                self._remote.put(cast(BinaryIO, file), size, final)
            return
        temporary = f"{final}.tmp.{uuid.uuid4().hex}"
        with storage_errors(path):
            os.makedirs(os.path.dirname(final), exist_ok=True)
            opened = open(temporary, "wb")  # noqa: SIM115 - closed below, where its errors are told apart
        try:
            yield cast(BinaryIO, _Guarded(opened, path))
            with storage_errors(path):
                opened.close()
                os.replace(temporary, final)
        except BaseException:
            with suppress(OSError):
                opened.close()
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def write(self, path: str, data: bytes) -> None:
        """Write a small file atomically."""
        if not self.is_local:
            self._remote.write(self.full(path), data)
            return
        with self.create(path) as file:
            file.write(data)

    def write_new(self, path: str, data: bytes) -> bool:
        """Write a small file that must not be there; tells whether it holds these bytes now. Not for local disks."""
        return self.exchange(path, None, data)

    def exchange(self, path: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it holds ``old`` (None: if it is not there); tells whether it holds ``new`` now.

        Not for local disks. See :meth:`pipeline.remote.Remote.exchange`.
        """
        return self._remote.exchange(self.full(path), old, new)

    def write_json(self, path: str, value: Any) -> None:
        """Write JSON with sorted keys, so that equal values are equal bytes. Names of files may be no UTF-8."""
        self.write(path, json.dumps(value, sort_keys=True, indent=1).encode())

    def read_table(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read (some columns of) a Parquet table."""
        with self.open(path) as file:
            return pq.read_table(file, columns=None if columns is None else list(columns))

    def batches(self, path: str, columns: Sequence[str], rows: int = 1 << 20) -> Iterator[pa.RecordBatch]:
        """Iterate over the row groups of a Parquet table, one at a time."""
        with self.open(path) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=list(columns), use_threads=False).combine_chunks()
                if table.num_rows:
                    yield table.to_batches()[0]

    def write_table(
        self, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table], **options: Any
    ) -> Written:
        """Write a Parquet table from batches, a row group each."""
        with self.table_writer(path, schema, **options) as writer:
            for batch in batches:
                writer.write(batch)
        return writer.written

    @contextmanager
    def table_writer(self, path: str, schema: pa.Schema, **options: Any) -> Iterator["TableWriter"]:
        """Open a Parquet table to push batches into; it appears whole at the end of the block, or not at all."""
        with self.create(path) as file:
            writer = TableWriter(path, file, schema, options)
            try:
                yield writer
                writer.close()
            except BaseException:
                writer.abandon()
                raise


class TableWriter:
    """Writes batches as row groups and keeps the digest of the logical rows, which outlives a change of writer."""

    written: Written

    def __init__(self, path: str, file: BinaryIO, schema: pa.Schema, options: dict[str, Any]):
        self._path, self._schema, self._rows = path, schema, 0
        self._digest, self._file = LogicalDigest(schema), _HashingFile(file)
        settings = {"write_statistics": False} | options
        if settings.setdefault("compression", "zstd") == "zstd":
            settings["compression_level"] = 1
        self._writer = pq.ParquetWriter(pa.PythonFile(self._file, "w"), schema, **settings)

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add a row group."""
        self._digest.update(batch)
        self._rows += batch.num_rows
        if batch.num_rows:
            table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
            self._writer.write_table(table, row_group_size=table.num_rows)

    def close(self) -> None:
        """Finish the file; ``written`` is there from now on."""
        self._writer.close()
        sha256, size = self._file.sha256.hexdigest(), self._file.size
        self.written = Written(self._path, self._rows, self._digest.hexdigest(), size, sha256)

    def abandon(self) -> None:
        """Let go of a file that will not be kept."""
        self._file.discard = True
        self._writer.close()


def fixed_rows(column: pa.ChunkedArray | pa.Array) -> NDArray[np.uint8]:
    """A fixed-size binary column as an array of shape (rows, width)."""
    width = column.type.byte_width
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(c.buffers()[1], np.uint8)[c.offset * width : (c.offset + len(c)) * width]
        for c in chunks
        if len(c)
    ]
    return np.concatenate([*parts, np.empty(0, np.uint8)]).reshape(-1, width)


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turn what a full disk or a read-only folder raises into one message that a person can act on."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(error, BrokenPipeError | ConnectionError | TimeoutError):
            raise
        raise StorageError(
            f"can't write {path}: {error.strerror or error}. Free space or mend the permissions and run the same "
            "command again: it goes on where it was."
        ) from error


class SourceFile(NamedTuple):
    """An input file: its URL, what changes when it changes, its size in bytes (0 where a web server doesn't tell)."""

    url: str
    change: str
    size: int


def source_files(pattern: str) -> list[SourceFile]:
    """Expand a path, folder or glob (an fsspec URL) to its files, sorted, by one listing.

    A folder stands for every file below it. Raises FileNotFoundError where nothing matches, StorageError where the
    place can't be listed.
    """
    fs, path = file_system(pattern)
    found: dict[str, Any] = retried(pattern, lambda: _listed(fs, path))
    files = [
        SourceFile(fs.unstrip_protocol(name), tag_of(info) or str(fs.ukey(name)), int(info.get("size") or 0))
        for name, info in sorted(found.items())
        if info.get("type") != "directory" and not name.endswith("/")
    ]
    if not files:
        raise FileNotFoundError(pattern)
    return files


def _listed(fs: Any, path: str) -> dict[str, Any]:
    if any(mark in path for mark in "*?["):
        found = fs.glob(path, detail=True)
    elif is_web(path) and not fs.isdir(path):
        found = {path: {}}
    else:
        found = fs.find(path, detail=True)
    return {name: info or fs.info(name) for name, info in found.items()}


def is_web(url: str) -> bool:
    """Whether a URL is served by a web server, which tells little of a file and may not read ranges."""
    return url.startswith(("http://", "https://"))


def open_url(url: str) -> BinaryIO:
    """Open an input for reading. Raises FileNotFoundError."""
    fs, path = file_system(url)
    if isinstance(fs, LocalFileSystem):
        return open(path, "rb")
    if is_web(url):
        return cast(BinaryIO, retried(url, lambda: fs.open(path, "rb")))
    return Remote(fs).open(path)


def sha256_of(read: Callable[[], BinaryIO]) -> str:
    """SHA-256 of a file, read in blocks."""
    with read() as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


class _HashingFile:
    """A write-only file that hashes what passes."""

    def __init__(self, file: BinaryIO):
        self._file, self.sha256, self.size, self.closed = file, hashlib.sha256(), 0, False
        self.discard = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.discard:
            return view.nbytes
        self.sha256.update(view)
        self.size += view.nbytes
        self._file.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self.discard:
            self._file.flush()

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


class _Guarded:
    """A file whose writes raise StorageError where the disk refuses."""

    def __init__(self, file: Any, path: str):
        self._file, self._path = file, path

    def write(self, data: Any) -> int:
        with storage_errors(self._path):
            return int(self._file.write(data))

    def flush(self) -> None:
        with storage_errors(self._path):
            self._file.flush()
