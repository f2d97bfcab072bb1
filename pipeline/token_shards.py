"""Token shards: ordinary Parquet whose token column is a memory map at the same time.

``tokens`` is a list of uint32, PLAIN, uncompressed, without dictionary or statistics, one version-2 data page a row
group, so the last ``4 * n`` bytes of its column chunk are the raw little-endian tokens. Any Parquet reader reads the
file; this one needs only the footer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schemas import TOKENS
from pipeline.store import Store, TableWriter

_TOKENS = "tokens.list.element"
_HEADER = 64
_OTHERS = ("component", "language", "source", "origin", "split")


def zero_copy_options() -> dict[str, Any]:
    """Parquet writer options that give the layout."""
    leaves = [path for field in TOKENS for path in _leaves(field)]
    return {
        "compression": {leaf: "NONE" if leaf == _TOKENS else "ZSTD" for leaf in leaves},
        "use_dictionary": list(_OTHERS),
        "write_statistics": False,
        "data_page_version": "2.0",
        "data_page_size": 1 << 30,
        "max_rows_per_page": 1 << 30,
    }


def _leaves(field: pa.Field) -> Iterator[str]:
    kind = field.type
    if pa.types.is_list(kind):
        inner = kind.value_field
        if pa.types.is_struct(inner.type):
            yield from (f"{field.name}.list.element.{child.name}" for child in inner.type)
        else:
            yield f"{field.name}.list.element"
    else:
        yield field.name


@contextmanager
def token_writer(store: Store, path: str) -> Iterator[TableWriter]:
    """Open a token shard for writing; each batch is a row group."""
    with store.table_writer(path, TOKENS, **zero_copy_options()) as writer:
        yield writer


class TokenShard:
    """Reads runs of tokens of a shard: by memory map where the layout holds, else by decoding a row group."""

    def __init__(self, store: Store, path: str):
        self._store, self._path = store, path
        with store.open(path) as file:
            parquet = pq.ParquetFile(file)
            self._metadata = parquet.metadata
            lengths = [
                parquet.read_row_group(group, columns=["n_tokens"]).column(0).to_numpy()
                for group in range(parquet.num_row_groups)
            ]
        self.n_tokens: np.ndarray = np.concatenate([*lengths, np.empty(0, np.uint32)]).astype(np.int64)
        self._group_of_row = np.repeat(np.arange(len(lengths)), [len(group) for group in lengths])
        starts = [np.concatenate([[0], np.cumsum(group[:-1], dtype=np.int64)]) for group in lengths if len(group)]
        self._start_of_row: np.ndarray = np.concatenate([*starts, np.empty(0, np.int64)]).astype(np.int64)
        self._groups: dict[int, np.ndarray] = {}
        self._map = np.memmap(store.full(path), np.uint8, "r") if store.is_local else None

    def tokens(self, row: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """``length`` tokens of a sample from ``start`` on (uint32)."""
        end = int(self.n_tokens[row]) if length is None else start + length
        first = int(self._start_of_row[row])
        return self._group(int(self._group_of_row[row]))[first + start : first + end]

    @property
    def is_mapped(self) -> bool:
        """Whether every row group has the zero-copy layout and lies on a local disk."""
        return self._map is not None and all(
            self._raw_offset(g) is not None for g in range(self._metadata.num_row_groups)
        )

    def _group(self, group: int) -> np.ndarray:
        if group not in self._groups:
            offset = self._raw_offset(group) if self._map is not None else None
            if offset is not None and self._map is not None:
                count = int(self.n_tokens[self._group_of_row == group].sum())
                self._groups[group] = self._map[offset : offset + 4 * count].view("<u4")
            else:
                with self._store.open(self._path) as file:
                    column = pq.ParquetFile(file).read_row_group(group, columns=["tokens"]).column(0)
                self._groups = {group: column.combine_chunks().flatten().to_numpy()}
        return self._groups[group]

    def _raw_offset(self, group: int) -> int | None:
        """Byte offset of the raw tokens of a row group, or None where the layout is another."""
        row_group = self._metadata.row_group(group)
        for i in range(row_group.num_columns):
            chunk = row_group.column(i)
            if chunk.path_in_schema == _TOKENS:
                break
        else:
            return None
        if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or "PLAIN" not in chunk.encodings:
            return None
        raw = 4 * int(self.n_tokens[self._group_of_row == group].sum())
        levels = chunk.total_compressed_size - raw
        if levels < 0 or _page_size(self._header(chunk.data_page_offset)) < raw:
            return None
        return int(chunk.data_page_offset + levels)

    def _header(self, offset: int) -> bytes:
        with self._store.open(self._path) as file:
            file.seek(offset)
            return file.read(_HEADER)


def _page_size(header: bytes) -> int:
    """Bytes of a data page behind its header: the third field of Thrift's compact ``PageHeader`` (Parquet format)."""
    value = at = 0
    for _ in range(3):
        at += 1
        value = shift = 0
        while True:
            byte = header[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
    return value >> 1
