import bz2
import datetime
import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.found import Found, Limits
from pipeline.tables import TableColumns, TableError, read_table
from tests.inputs import small_inputs

LIMITS = Limits(max_file_bytes=1000)
TEXT = TableColumns(text="text")


def read(data: bytes, columns: TableColumns = TEXT, limits: Limits = LIMITS) -> list[Found]:
    return list(read_table(io.BytesIO(data), "table", columns, limits))


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(table: pa.Table, **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def outcomes(
    data: bytes, columns: TableColumns = TEXT, limits: Limits = LIMITS
) -> list[tuple[bytes | None, str | None]]:
    return [(f.raw, f.reason) for f in read(data, columns, limits)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, bz2.compress])
def test_json_lines_are_read_however_they_are_packed(pack):
    data = pack(lines({"text": "één", "n": 1}, {"text": "two"}))
    assert outcomes(data) == [("één".encode(), None), (b"two", None)]


def test_real_prose_is_read_from_a_path_and_as_parquet_alike():
    path = small_inputs() / "prose" / "prose.jsonl.gz"
    columns = TableColumns(text="text", url="url", language="language", origin="work", extra={"licence": "licence"})
    found = list(read_table(path, path.name, columns, Limits()))
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert [f.raw for f in found] == [row["text"].encode() for row in rows]
    assert [f.path.decode() for f in found] == [row["url"] for row in rows]
    assert len({f.path for f in found}) == len(found) == 200
    assert {f.fields["language"] for f in found} == {"en"}
    again = list(read_table(io.BytesIO(parquet(pa.Table.from_pylist(rows))), path.name, columns, Limits()))
    assert again == found


def test_the_path_is_the_url_else_the_id_else_empty_and_never_the_number_of_the_row():
    columns = TableColumns(text="text", id="id", url="url")
    rows = ({"text": "a", "id": "i", "url": "https://www.example.co.uk/x"}, {"text": "b", "id": 7}, {"text": "c"})
    found = read(lines(*rows), columns)
    assert [f.path for f in found] == [b"https://www.example.co.uk/x", b"7", b""]
    assert [f.origin for f in found] == ["example.co.uk", "table", "table"]
    assert [f.locator for f in found] == [f"table!row/{i:09d}" for i in range(3)]


def test_mapped_columns_become_fields_and_the_others_are_not_read():
    columns = TableColumns(text="body", origin="site", language="lang", date="day", extra={"stars": "n", "tags": "t"})
    row = {"body": "x", "site": "s", "lang": "en", "day": "2020-01-02", "n": 3, "t": ["b", "a"], "other": 1}
    (found,) = read(lines(row), columns)
    assert (found.origin, found.revision) == ("s", "2020-01-02")
    assert found.fields == {"origin": "s", "language": "en", "date": "2020-01-02", "stars": "3", "tags": '["b", "a"]'}
    table = pa.table(
        {"body": ["x"], "day": [datetime.date(2020, 1, 2)], "n": [None], "t": [[1]], "site": ["s"], "lang": ["en"]}
    )
    (found,) = read(parquet(table), columns)
    assert found.fields == {"origin": "s", "language": "en", "date": "2020-01-02", "tags": "[1]"}


def test_rows_without_text_and_lines_that_are_no_object_are_broken_records():
    data = lines({"text": None}, {"other": 1}, {"text": 3}, [1], "x") + b'{"text": "cut\n{\n' + lines({"text": ""})
    assert outcomes(data) == [(None, "broken_record")] * 7 + [(b"", None)]


def test_lone_surrogates_and_bytes_that_are_no_utf8_are_undecodable():
    data = (
        lines({"text": "\ud800"}, {"text": "x", "url": "\udfff"})
        + b'{"text": "\xff"}\n'
        + lines({"text": "\ud83d\ude00"})
    )
    assert outcomes(data, TableColumns(text="text", url="url")) == [
        (None, "undecodable"),
        (None, "undecodable"),
        (None, "undecodable"),
        ("😀".encode(), None),
    ]


def test_json_nested_a_hundred_thousand_deep_is_a_broken_record():
    data = b'{"text": ' + b"[" * 100_000 + b"\n" + lines({"text": "x"})
    assert outcomes(data, limits=Limits()) == [(None, "broken_record"), (b"x", None)]


def test_empty_lines_are_no_rows_and_the_last_line_needs_no_newline():
    assert outcomes(b'\n\r\n{"text": "a"}\r\n\n{"text": "b"}') == [(b"a", None), (b"b", None)]
    assert outcomes(b"") == []
    assert outcomes(b"\n") == []


def test_a_text_of_exactly_the_limit_is_kept_and_one_byte_more_is_not():
    data = lines({"text": "x" * 1000}, {"text": "x" * 1001})
    assert [f.reason for f in read(data)] == [None, "too_large"]
    assert [f.reason for f in read(parquet(pa.table({"text": ["x" * 1000, "x" * 1001]})))] == [None, "too_large"]


def test_a_line_of_exactly_four_times_the_limit_is_parsed_and_one_byte_more_is_not():
    def line(size: int) -> bytes:
        return b'{"text": "a", "x": "' + b"y" * (size - 22) + b'"}'

    assert len(line(4000)) == 4000
    found = read(line(4000) + b"\n" + line(4001) + b"\n" + line(3000))
    assert [(f.reason, f.size) for f in found] == [(None, 1), ("too_large", 4001), (None, 1)]


def test_a_hundred_megabytes_in_one_line_are_counted_and_never_held():
    data = gzip.compress(lines({"text": "a"}) + b'{"text": "' + b"x" * (100 << 20) + b'"}\n' + lines({"text": "b"}), 1)
    limits = Limits(max_ratio=10_000)
    tracemalloc.start()
    found = list(read_table(io.BytesIO(data), "table", TEXT, limits))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(f.raw, f.reason) for f in found] == [(b"a", None), (None, "too_large"), (b"b", None)]
    assert found[1].size == (100 << 20) + 12
    assert peak < 16 << 20


def test_a_bomb_ends_in_a_ratio():
    data = gzip.compress(b'{"text": "' + b"x" * (100 << 20))
    assert [f.reason for f in read(data, limits=Limits())] == ["ratio"]


@pytest.mark.parametrize("packed", [gzip.compress(lines(*[{"text": f"{i}" * 20} for i in range(50)]), mtime=0)])
def test_json_lines_cut_anywhere_give_the_lines_before_the_cut(packed):
    whole = read(packed)
    for cut in range(len(packed)):
        part = read(packed[:cut])
        if part:
            assert part[:-1] == whole[: len(part) - 1]
            assert part[-1].reason in {"truncated", "broken_record"}
    assert len(read(packed[:-8])) == 51


def test_damage_behind_many_lines_costs_only_what_comes_after():
    rows = [{"text": f"{i * 7919}"} for i in range(40_000)]
    packed = gzip.compress(lines(*rows), mtime=0)
    found = read(packed[: len(packed) // 2])
    assert len(found) > 15_000
    assert [f.reason for f in found] == [None] * (len(found) - 1) + ["truncated"]


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]
)
def test_parquet_is_read_by_row_groups_whatever_kind_of_text_it_holds(compression, kind):
    texts = [f"text {i % 300}" if i % 7 else None for i in range(1000)]
    column = pa.array(texts).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(texts).cast(kind)
    data = parquet(pa.table({"text": column}), compression=compression, row_group_size=90)
    assert outcomes(data) == [(t.encode(), None) if t else (None, "broken_record") for t in texts]


def test_a_missing_column_of_parquet_names_the_file_the_column_and_what_is_near():
    data = parquet(pa.table({"content": ["x"], "n": [1]}))
    with pytest.raises(TableError, match=r"table has no column 'contnet'; it has content, n; did you mean 'content'\?"):
        read(data, TableColumns(text="contnet"))
    with pytest.raises(TableError, match=r"has no column 'zzz'; it has content, n$"):
        read(data, TableColumns(text="content", url="zzz"))
    with pytest.raises(TableError, match="column 'n' is int64, not text"):
        read(data, TableColumns(text="n"))


def test_a_broken_parquet_is_one_reject():
    data = parquet(pa.table({"text": ["x" * 50] * 100}))
    assert [f.reason for f in read(data[:-10])] == ["broken_container"]
    assert [f.reason for f in read(b"PAR1")] == ["broken_container"]


def test_a_unit_stops_at_its_rows_and_at_its_bytes():
    rows = [{"text": "x" * 100}] * 9
    for data in (lines(*rows), parquet(pa.Table.from_pylist(rows))):
        assert [f.reason for f in read(data, limits=Limits(max_unit_files=4))] == [None] * 4 + ["unit_files"]
        assert [f.reason for f in read(data, limits=Limits(max_unit_bytes=450))][-1] == "unit_bytes"


def test_a_parquet_that_can_not_seek_is_unsupported():
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    assert [f.reason for f in read_table(Pipe(b"PAR1xxxx"), "t", TEXT, LIMITS)] == ["unsupported"]


def test_an_unknown_key_of_the_columns_is_refused():
    with pytest.raises(ValueError, match="txt"):
        TableColumns.model_validate({"txt": "x"})


@given(st.lists(st.fixed_dictionaries({"text": st.text(max_size=50), "id": st.text(max_size=9)}), max_size=9))
def test_any_rows_go_through_json_lines_and_parquet_alike(rows):
    columns = TableColumns(text="text", id="id")
    expected = [(row["text"].encode(), row["id"].encode()) for row in rows]
    assert [(f.raw, f.path) for f in read(lines(*rows), columns)] == expected
    schema = pa.schema([("text", pa.string()), ("id", pa.string())])
    assert [(f.raw, f.path) for f in read(parquet(pa.Table.from_pylist(rows, schema)), columns)] == expected


SMALL_PARQUET = parquet(pa.table({"text": [f"row {i}" for i in range(300)]}), row_group_size=100, compression="zstd")
SMALL_LINES = gzip.compress(lines(*[{"text": f"row {i}"} for i in range(300)]), mtime=0)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([SMALL_PARQUET, SMALL_LINES, gzip.decompress(SMALL_LINES)]), st.data())
def test_damage_anywhere_never_raises(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        found = read(bytes(damaged))
    except TableError:
        return
    for row in found:
        assert row.reason or row.raw is not None


def test_two_columns_of_the_text_s_name_are_a_message():
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(TableError, match="has 2 columns 'text'; name them apart"):
        read(parquet(twice))


def test_a_column_whose_name_is_no_utf8_is_damage():
    damaged = parquet(pa.table({"text": ["a"], "other": ["b"]})).replace(b"other", b"oth\xffr")
    assert [row.reason for row in read(damaged)] == ["broken_container"]


def test_a_fault_of_the_machine_is_no_row():
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 4 or (size or 0) > 100_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    for data in (SMALL_LINES, gzip.decompress(SMALL_LINES), SMALL_PARQUET):
        with pytest.raises(OSError, match="Input/output error"):
            list(read_table(Failing(data), "table", TEXT, LIMITS))
