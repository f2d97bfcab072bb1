"""The digest of a table's logical rows: what a unit holds, whoever wrote the file (``docs/data.md``)."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa


class LogicalDigest:
    """SHA-256 over a table's values, column by column, independent of batches, offsets, dictionaries and writers.

    Of each column: name and type, then for every level of nesting the validity (one byte a value) where nullable,
    lengths as int64 for lists and strings, and the values as little-endian bytes.
    """

    def __init__(self, schema: pa.Schema):
        self._schema = schema
        self._hashes: dict[str, Any] = {}

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows."""
        if batch.schema != self._schema:
            raise ValueError(f"rows of {batch.schema} do not fit {self._schema}")
        if not batch.num_rows:
            return
        for field in self._schema:
            column = batch.column(field.name)
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                self._add(field.name, field, chunk)

    def hexdigest(self) -> str:
        """The digest of the rows so far."""
        total = hashlib.sha256()
        for field in self._schema:
            total.update(f"{field.name}:{field.type}\n".encode())
        for key in sorted(self._hashes):
            total.update(f"{key}:".encode() + self._hashes[key].digest())
        return total.hexdigest()

    def _feed(self, key: str, data: Any) -> None:
        if key not in self._hashes:
            self._hashes[key] = hashlib.sha256()
        self._hashes[key].update(data)

    def _add(self, key: str, field: pa.Field, array: pa.Array) -> None:
        kind = array.type
        if field.nullable:
            self._feed(key + "/valid", np.asarray(array.is_valid()).view(np.uint8))
            if array.null_count:
                array = array.fill_null(_zero(kind))
        if pa.types.is_struct(kind):
            for i, child in enumerate(kind):
                self._add(f"{key}.{child.name}", child, array.field(i))
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._feed(key + "/length", _lengths(array))
            self._add(key + "[]", kind.value_field, array.flatten())
        elif pa.types.is_boolean(kind):
            self._feed(key, np.asarray(array).view(np.uint8))
        elif pa.types.is_fixed_size_binary(kind):
            width, data = kind.byte_width, array.buffers()[1]
            self._feed(key, data[array.offset * width : (array.offset + len(array)) * width] if data else b"")
        elif _is_variable(kind):
            self._feed(key + "/length", _lengths(array))
            offsets, data = _offsets(array), array.buffers()[2]
            self._feed(key, data[int(offsets[0]) : int(offsets[-1])] if data else b"")
        else:
            self._feed(key, np.ascontiguousarray(array.to_numpy(zero_copy_only=False)))


def _is_variable(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _offsets(array: pa.Array) -> np.ndarray:
    wide = pa.types.is_large_list(array.type) or pa.types.is_large_string(array.type)
    wide = wide or pa.types.is_large_binary(array.type)
    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(len(array) + 1, np.int64)
    offsets = np.frombuffer(buffer, np.int64 if wide else np.int32)
    return offsets[array.offset : array.offset + len(array) + 1]


def _lengths(array: pa.Array) -> np.ndarray:
    return np.diff(_offsets(array)).astype("<i8")


def _zero(kind: pa.DataType) -> Any:
    if pa.types.is_fixed_size_binary(kind):
        return pa.scalar(bytes(kind.byte_width), kind)
    if _is_variable(kind):
        return pa.scalar("" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else b"", kind)
    return pa.scalar(0, pa.int8()).cast(kind)
