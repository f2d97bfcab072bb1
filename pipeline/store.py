"""Files of a build on any fsspec file system: atomic writes, Arrow tables with the digest of their logical rows.

A file is written under a temporary name of this attempt and renamed (local disk), or put as one object; readers
follow records, never a listing.
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
from typing import Any, BinaryIO, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.digest import LogicalDigest


class StorageError(Exception):
    """The file system refused: disk full, read-only folder, no permission."""


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

    @cached_property
    def _fs_root(self) -> tuple[Any, str]:
        fs, root = fsspec.url_to_fs(self.url)
        return fs, root.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    @property
    def is_local(self) -> bool:
        """Whether the root lies on a local disk."""
        return bool(self._fs_root[0].protocol in ("file", "local") or "file" in self._fs_root[0].protocol)

    def full(self, path: str) -> str:
        """The path as the file system names it."""
        root = self._fs_root[1]
        return f"{root}/{path}" if path else root

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        fs = self._fs_root[0]
        return os.path.exists(self.full(path)) if self.is_local else bool(fs.exists(self.full(path)))

    def size(self, path: str) -> int | None:
        """Size in bytes, or None where the file is missing."""
        try:
            return int(
                os.stat(self.full(path)).st_size if self.is_local else self._fs_root[0].info(self.full(path))["size"]
            )
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading, seekable."""
        if self.is_local:
            return open(self.full(path), "rb")
        return cast(BinaryIO, self._fs_root[0].open(self.full(path), "rb"))

    def read(self, path: str) -> bytes:
        """Read a small file whole."""
        with self.open(path) as file:
            return file.read()

    def read_json(self, path: str) -> Any:
        """Read a small JSON file."""
        return json.loads(self.read(path))

    def files(self, path: str = "") -> Iterator[str]:
        """List every file below a folder, sorted. For cleaning and verifying; never to find inputs."""
        fs, root = self._fs_root
        try:
            found = fs.find(self.full(path))
        except FileNotFoundError:
            return
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
        with storage_errors(path):
            try:
                self._fs_root[0].rm_file(self.full(path))
            except FileNotFoundError:
                return

    def remove_folder(self, path: str) -> None:
        """Remove a folder that may be gone already, with all that it holds."""
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
                    self._fs_root[0].put_file(file.name, final)
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
        with self.create(path) as file:
            file.write(data)

    def write_new(self, path: str, data: bytes) -> bool:
        """Write a small file that must not be there; tells whether this call made it.

        Not for local disks. An object store is asked for a conditional write (``If-None-Match``).
        """
        with storage_errors(path):
            try:
                self._fs_root[0].pipe_file(self.full(path), data, mode="create")
            except FileExistsError:
                return False
        return True

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


def source_files(pattern: str) -> list[tuple[str, str]]:
    """Expand a path, folder or glob (an fsspec URL) to ``(URL, what changes when the file changes)``, sorted.

    A folder stands for every file below it. Raises FileNotFoundError where nothing matches.
    """
    fs, path = fsspec.url_to_fs(pattern)
    if any(mark in path for mark in "*?["):
        found = fs.glob(path)
    elif fs.isdir(path):
        found = fs.find(path)
    else:
        found = [path] if fs.exists(path) else []
    files = [(fs.unstrip_protocol(name), str(fs.ukey(name))) for name in sorted(found) if not fs.isdir(name)]
    if not files:
        raise FileNotFoundError(pattern)
    return files


def open_url(url: str) -> BinaryIO:
    """Open an input for reading."""
    fs, path = fsspec.url_to_fs(url)
    return open(path, "rb") if "file" in fs.protocol else cast(BinaryIO, fs.open(path, "rb"))


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
