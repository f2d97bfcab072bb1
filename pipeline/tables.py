"""Tables as sources: rows of text from Parquet and JSON lines (plain, gzip, zstandard), told apart by their bytes."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from pipeline.common_crawl import registered_domain
from pipeline.found import Found, Limits
from pipeline.inflate import CHUNK, ContainerError, Inflated, Meter, Source, inflate

_BATCH_ROWS = 128
_LINE_PER_TEXT = 4


class TableError(Exception):
    """A mapped column is not in a table, or holds no text; the message names the file, the column and what is near."""


class TableColumns(BaseModel):
    """Which columns of a table mean what; only these are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(description="the column with the text of a document")
    id: str | None = Field(None, description="a stable name of the row, its path where it has no URL")
    url: str | None = Field(None, description="where the text is from: the path, and by its domain the origin")
    origin: str | None = Field(None, description="what the row belongs to, where that is not the domain of its URL")
    language: str | None = Field(None, description="the declared language of the text")
    date: str | None = Field(None, description="when it was written or captured")
    extra: Mapping[str, str] = Field(default_factory=dict, description="further fields: name, then column")

    def fields(self) -> dict[str, str]:
        """Every field but the text, to its column."""
        own = {name: getattr(self, name) for name in ("id", "url", "origin", "language", "date")}
        return {name: column for name, column in own.items() if column} | dict(self.extra)


def read_table(
    path_or_stream: str | Path | BinaryIO, name: str, columns: TableColumns, limits: Limits
) -> Iterator[Found]:
    """Offer every row in the order of the table; a row number counts all rows from 0, and all lines but empty ones.

    The path is the URL, else the id, else empty, so that equal rows without a name are one document; ``raw`` is the
    text in UTF-8 (Parquet: as stored), the locator ``name!row/000000123``. A row without text or a line that is no JSON
    object is a ``broken_record``, a lone surrogate or a line that is no UTF-8 ``undecodable``; a line above four times
    ``max_file_bytes`` is ``too_large`` and never held in memory. Raises :class:`TableError` before the first row where
    Parquet lacks a mapped column.
    """
    with ExitStack() as stack:
        if isinstance(path_or_stream, str | Path):
            stream: BinaryIO = stack.enter_context(open(path_or_stream, "rb"))
        else:
            stream = path_or_stream
        rows = _Rows(name, columns, limits)
        source = Source(stream)
        try:
            if source.peek(4) == b"PAR1":
                yield from _read_parquet(stream, rows)
            else:
                yield from _read_lines(inflate(source, Meter(limits, source)), rows)
        except ContainerError as error:
            yield rows.found(None, {}, 0, error.reason)


def column_names(stream: BinaryIO, limits: Limits) -> list[str]:
    """The columns of a Parquet table, or the keys of the first 100 JSON objects; none where the file is damaged."""
    import pyarrow.parquet as pq

    source = Source(stream)
    try:
        if source.peek(4) == b"PAR1":
            stream.seek(0)
            return list(pq.ParquetFile(stream).schema_arrow.names)
        lines = _lines(inflate(source, Meter(limits, source)), _LINE_PER_TEXT * limits.max_file_bytes)
        objects = [json.loads(line) for _, line in islice(lines, 100) if line and line.strip()]
        return sorted({key for row in objects if isinstance(row, dict) for key in row})
    except (ContainerError, ValueError, OSError, RecursionError):
        return []


class _Rows:
    """What the rows of one table share, and the number of the next."""

    def __init__(self, name: str, columns: TableColumns, limits: Limits) -> None:
        self.name, self.columns, self.limits = name, columns, limits
        self.fields = columns.fields()
        self.number = 0
        self.bytes = 0

    def found(self, raw: bytes | None, fields: dict[str, str], size: int, reason: str | None) -> Found:
        locator = f"{self.name}!row/{self.number:09d}"
        self.number += 1
        url = fields.get("url", "")
        path = url or fields.get("id", "")
        origin = fields.get("origin") or (registered_domain(url.encode()) if url else "") or self.name
        return Found(origin, path.encode(), locator, size, raw, reason, fields.get("date", ""), fields=fields)

    def row(self, text: bytes | None, values: Mapping[str, Any]) -> Found:
        """One row: its text in UTF-8, or None where it has none, and the values of the mapped columns by field."""
        if self.number >= self.limits.max_unit_files:
            raise ContainerError("unit_files")
        try:
            fields = {name: _as_text(value) for name, value in values.items() if value is not None}
            for value in fields.values():
                value.encode()
        except (UnicodeError, ValueError, RecursionError):
            return self.found(None, {}, len(text or b""), "undecodable")
        size = len(text or b"")
        self.bytes += size
        if self.bytes > self.limits.max_unit_bytes:
            raise ContainerError("unit_bytes")
        if text is None:
            return self.found(None, fields, 0, "broken_record")
        if len(fields.get("url") or fields.get("id") or "") > self.limits.max_path_bytes:
            return self.found(None, {}, size, "path_length")
        if size > self.limits.max_file_bytes:
            return self.found(None, fields, size, "too_large")
        return self.found(text, fields, size, None)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime | date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _read_lines(data: Inflated, rows: _Rows) -> Iterator[Found]:
    for size, line in _lines(data, _LINE_PER_TEXT * rows.limits.max_file_bytes):
        if line is None:
            yield rows.found(None, {}, size, "too_large")
        elif line.strip():
            yield _json_row(line, rows)


def _lines(data: Inflated, most: int) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its length, None for one above ``most``; at damage, what came before it and then the error."""
    rest, passed = b"", 0
    error: ContainerError | None = None
    while error is None:
        try:
            piece = data.read(CHUNK)
        except ContainerError as damage:
            piece, error = data.rest(), damage
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            size = passed + len(line)
            yield size, line if size <= most else None
            passed = 0
        if passed + len(rest) > most:
            passed, rest = passed + len(rest), b""
    if error:
        raise error
    if passed or rest:
        yield passed + len(rest), rest if not passed else None


def _json_row(line: bytes, rows: _Rows) -> Found:
    import orjson

    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(line)
        except UnicodeDecodeError:
            return rows.found(None, {}, len(line), "undecodable")
        except (ValueError, RecursionError):
            return rows.found(None, {}, len(line), "broken_record")
    if not isinstance(value, dict):
        return rows.found(None, {}, len(line), "broken_record")
    text = value.get(rows.columns.text)
    fields = {name: value.get(column) for name, column in rows.fields.items()}
    if not isinstance(text, str):
        return rows.row(None, fields)
    try:
        return rows.row(text.encode(), fields)
    except UnicodeEncodeError:
        return rows.found(None, {}, len(line), "undecodable")


def _read_parquet(stream: BinaryIO, rows: _Rows) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not stream.seekable():
        raise ContainerError("unsupported")
    stream.seek(0)
    try:
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        _check(file.schema_arrow, rows)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a damaged name of a column is no UTF-8
        raise _damage(error) from error
    wanted = [rows.columns.text, *rows.fields.values()]
    batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=list(dict.fromkeys(wanted)), use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            texts = _plain(batch.column(rows.columns.text)).cast(pa.large_binary())
            columns = {field: batch.column(column) for field, column in rows.fields.items()}
            values = {field: column.to_pylist() for field, column in columns.items()}
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _damage(error) from error
        for i in range(batch.num_rows):
            yield rows.row(texts[i].as_py(), {field: column[i] for field, column in values.items()})


def _plain(column: Any) -> Any:
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def _damage(error: Exception) -> Exception:
    """A fault of the machine stays what it is (it has an error number); anything else is damage of the file."""
    return error if isinstance(error, OSError) and error.errno is not None else ContainerError("broken_container")


def _check(schema: Any, rows: _Rows) -> None:
    import pyarrow as pa

    for column in (rows.columns.text, *rows.fields.values()):
        if column not in schema.names:
            near = difflib.get_close_matches(column, schema.names, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TableError(f"{rows.name} has no column {column!r}; it has {', '.join(schema.names)}{hint}")
        if schema.names.count(column) > 1:
            raise TableError(f"{rows.name} has {schema.names.count(column)} columns {column!r}; name them apart")
    kind = schema.field(rows.columns.text).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)):
        raise TableError(f"{rows.name}: column {rows.columns.text!r} is {kind}, not text")
