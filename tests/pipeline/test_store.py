"""Files appear whole or not at all; the digest of logical rows sees every value and nothing else."""

import errno
import io
import os
import pickle
import socket
import ssl
import uuid
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.minhash import MinHashParameters
from pipeline import schemas
from pipeline.annotate import signature_schema
from pipeline.digest import LogicalDigest
from pipeline.ranges import RangeFile
from pipeline.records import Record, Stage
from pipeline.remote import is_transient
from pipeline.store import (
    StorageError,
    Store,
    fixed_rows,
    open_url,
    sha256_of,
    source_files,
    storage_errors,
)
from pipeline.verify import check

SCHEMAS: dict[str, pa.Schema] = {
    name.lower(): value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)
}
SCHEMAS |= {"signatures": signature_schema(MinHashParameters())}
MIXED = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("real", pa.float64(), nullable=False),
        pa.field("flag", pa.bool_()),
        pa.field("small", pa.string()),
        pa.field("large", pa.large_string()),
        pa.field("raw", pa.binary()),
        pa.field("id", pa.binary(4)),
        pa.field("list", pa.list_(pa.field("element", pa.string())), nullable=False),
        pa.field(
            "pieces",
            pa.list_(pa.field("element", pa.struct([pa.field("a", pa.uint32(), nullable=False)]), nullable=False)),
            nullable=False,
        ),
    ]
)


@pytest.fixture(params=["file", "memory"])
def store(request: Any, tmp_path: Any) -> Any:
    return Store(str(tmp_path / "out") if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def values_of(field: pa.Field) -> st.SearchStrategy[Any]:
    """Values that fit a field, None where it is nullable."""
    kind = field.type
    if pa.types.is_struct(kind):
        base: st.SearchStrategy[Any] = st.fixed_dictionaries({child.name: values_of(child) for child in kind})
    elif pa.types.is_list(kind):
        base = st.lists(values_of(kind.value_field), max_size=3)
    elif pa.types.is_boolean(kind):
        base = st.booleans()
    elif pa.types.is_fixed_size_binary(kind):
        base = st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    elif pa.types.is_binary(kind):
        base = st.binary(max_size=4)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        base = st.text(max_size=4)
    elif pa.types.is_floating(kind):
        base = st.floats(allow_nan=False).map(lambda x: x + 0.0)
    else:
        low, high = (
            (0, 2**kind.bit_width - 1) if str(kind).startswith("u") else (-(2 ** (kind.bit_width - 1)), 2**31 - 1)
        )
        base = st.integers(low, high)
    return st.none() | base if field.nullable else base


def rows_of(schema: pa.Schema, least: int = 0) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(
        st.fixed_dictionaries({field.name: values_of(field) for field in schema}), min_size=least, max_size=6
    )


def batch_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema)


def digest_of(schema: pa.Schema, *batches: pa.RecordBatch | pa.Table) -> str:
    digest = LogicalDigest(schema)
    for batch in batches:
        digest.update(batch)
    return digest.hexdigest()


# Files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_there_with_its_bytes_when_the_block_ends(store: Any) -> None:
    with store.create("a/b/c.bin") as file:
        file.write(b"whole")
    assert (store.read("a/b/c.bin"), store.size("a/b/c.bin"), store.exists("a/b/c.bin")) == (b"whole", 5, True)


def fail_amid(store: Store, path: str) -> None:
    with store.create(path) as file:
        file.write(b"half")
        raise KeyError


def test_a_writer_that_fails_leaves_nothing(store: Any) -> None:
    with pytest.raises(KeyError):
        fail_amid(store, "a/b.bin")
    assert not store.exists("a/b.bin")
    assert list(store.files()) == []


def test_a_writer_that_fails_leaves_what_was_there_before(store: Any) -> None:
    store.write("a.bin", b"before")
    with pytest.raises(KeyError):
        fail_amid(store, "a.bin")
    assert store.read("a.bin") == b"before"


def test_a_table_writer_that_fails_leaves_nothing(store: Any) -> None:
    def batches() -> Any:
        yield batch_of([{"reason": "a"}] * 1000, schemas.VERDICTS)
        raise KeyError

    with pytest.raises(KeyError):
        store.write_table("a.parquet", schemas.VERDICTS, batches())
    assert list(store.files()) == []


def test_a_file_under_way_is_not_seen_under_its_name(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    with store.create("a.bin") as file:
        file.write(b"x")
        assert not store.exists("a.bin")
        (name,) = os.listdir(tmp_path)
        assert name.startswith("a.bin.tmp.")


def test_sweeping_removes_files_of_killed_attempts_only(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    store.write("d/a.bin", b"x")
    (tmp_path / "d" / "a.bin.tmp.0123").write_bytes(b"y")
    store.sweep()
    assert list(store.files()) == ["d/a.bin"]


def test_removing_what_is_gone_is_no_error(store: Any) -> None:
    store.write("a", b"x")
    store.remove("a")
    store.remove("a")
    assert store.size("a") is None


def test_files_are_listed_sorted_and_below_the_root(store: Any) -> None:
    for path in ("b/z", "a", "b/c/d"):
        store.write(path, b"")
    assert list(store.files()) == ["a", "b/c/d", "b/z"]
    assert list(store.files("b")) == ["b/c/d", "b/z"]
    assert list(store.files("none")) == []


def test_a_range_is_the_bytes_from_start_to_end_as_far_as_the_file_goes(store: Any) -> None:
    store.write("a", b"0123456789")
    ranges = [(0, 4), (4, 10), (8, 20), (3, 3), (20, 30)]
    assert [store.read_range("a", *r) for r in ranges] == [b"0123", b"456789", b"89", b"", b""]
    with pytest.raises(FileNotFoundError):
        store.read_range("none", 0, 1)


def test_a_new_file_is_made_once_and_exchanged_only_for_what_it_held(monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.remote._SETTLE_SECONDS", 0.0)
    store = Store(f"memory://{uuid.uuid4().hex}")
    assert store.write_new("a", b"1")
    assert not store.write_new("a", b"2")
    assert not store.exchange("a", b"2", b"3")
    assert not store.exchange("none", b"2", b"3")
    assert store.exchange("a", b"1", b"3")
    assert store.read("a") == b"3"


@given(st.data())
@settings(deadline=None)
def test_a_file_read_by_ranges_is_the_file(data: Any) -> None:
    content = os.urandom(data.draw(st.sampled_from([0, 1, 500, 5000])))
    asked: list[tuple[int, int]] = []

    def read(start: int, end: int) -> bytes:
        asked.append((start, end))
        return content[start:end]

    with mock.patch.multiple("pipeline.ranges", _SMALL=600, _LEAST_AHEAD=16, _MOST_AHEAD=256):
        file, oracle = RangeFile(len(content), read), io.BytesIO(content)
        for _ in range(data.draw(st.integers(1, 12))):
            if data.draw(st.booleans()):
                where = data.draw(st.integers(0, 6000)), data.draw(st.sampled_from([0, 0, 1, 2]))
                place = min(where[0], 100) if where[1] else where[0]
                assert file.seek(place, where[1]) == oracle.seek(place, where[1])
            n = data.draw(st.sampled_from([-1, 0, 1, 10, 700]))
            assert file.read(n) == oracle.read(n)
            assert file.tell() == oracle.tell()
    assert all(0 <= start < end <= len(content) for start, end in asked)


def test_a_file_that_shrinks_while_it_is_read_is_an_error() -> None:
    file = RangeFile(10, lambda start, end: b"short")
    with pytest.raises(OSError, match="5 bytes where 10 were expected"):
        file.read()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (BrokenPipeError(), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (KeyError(), False),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), False),
        (ssl.SSLCertVerificationError(), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Any, expected: Any) -> None:
    assert is_transient(error) is expected


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (503, "SlowDown", True),
        (500, "InternalError", True),
        (502, "", True),
        (429, "TooManyRequests", True),
        (400, "RequestTimeout", True),
        (409, "ConditionalRequestConflict", True),
        (404, "NoSuchKey", False),
        (403, "AccessDenied", False),
        (412, "PreconditionFailed", False),
        (416, "InvalidRange", False),
        (501, "NotImplemented", False),
        (507, "XMinioStorageFull", False),
    ],
)
def test_an_answer_is_told_by_its_code_and_status(status: int, code: str, expected: bool) -> None:
    class ClientError(Exception):
        response: ClassVar[dict[str, Any]] = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }

    translated = OSError("as s3fs gives it")
    translated.__cause__ = ClientError()
    assert is_transient(translated) is expected


def test_a_file_system_that_is_not_known_is_one_sentence() -> None:
    with pytest.raises(StorageError, match=r"can't use nope://x/out: Protocol not known: nope"):
        Store("nope://x/out").read("a")


def test_equal_json_values_are_equal_bytes(store: Any) -> None:
    store.write_json("a", {"b": 1, "a": [2]})
    store.write_json("b", {"a": [2], "b": 1})
    assert store.read("a") == store.read("b")
    assert store.read_json("a") == {"a": [2], "b": 1}


def test_a_store_travels_by_its_url_alone(store: Any) -> None:
    store.write("a", b"x")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("a") == b"x"
    assert len(pickle.dumps(store)) < 300


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_disk_refuses_is_one_sentence_that_says_what_to_do(tmp_path: Any, number: Any) -> None:
    with pytest.raises(StorageError) as caught, storage_errors("tokens/a.parquet"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == (
        f"can't write tokens/a.parquet: {os.strerror(number)}. Free space or mend the permissions and run the same "
        "command again: it goes on where it was."
    )
    assert list(Store(str(tmp_path)).files()) == []


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Any) -> None:
    (tmp_path / "tokens").write_bytes(b"")
    with pytest.raises(StorageError, match=r"^can't write tokens/a\.bin: "):
        Store(str(tmp_path)).write("tokens/a.bin", b"x")


@pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError(), TimeoutError()])
def test_a_broken_connection_is_not_taken_for_a_full_disk(tmp_path: Any, error: Any) -> None:
    with pytest.raises(type(error)), Store(str(tmp_path)).create("a"):
        raise error


def test_damaged_input_read_while_a_file_is_written_is_not_taken_for_a_full_disk(tmp_path: Any) -> None:
    """pyarrow raises OSError without a number for a damaged page."""
    with pytest.raises(OSError, match="decompression failed"), Store(str(tmp_path)).create("a"):
        raise OSError("decompression failed")


def test_a_pattern_a_folder_and_a_file_give_their_files_sorted(tmp_path: Any) -> None:
    for name in ("b.whl", "a.whl", "c.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.whl").write_bytes(b"")

    def names(pattern: str) -> list[str]:
        files = source_files(pattern)
        assert all(file.size == len(file.url.rsplit("/", 1)[1]) for file in files if "/d/" not in file.url)
        return [file.url.rsplit("/", 1)[1] for file in files]

    assert names(f"{tmp_path}/*.whl") == ["a.whl", "b.whl"]
    assert names(str(tmp_path)) == ["a.whl", "b.whl", "c.txt", "e.whl"]
    assert names(f"{tmp_path}/c.txt") == ["c.txt"]
    with pytest.raises(FileNotFoundError):
        source_files(f"{tmp_path}/*.zip")


def test_a_file_that_changed_is_noticed(tmp_path: Any) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    (before,) = source_files(str(path))
    path.write_bytes(b"xy")
    (after,) = source_files(str(path))
    assert before.url == after.url
    assert before.change != after.change
    assert (before.size, after.size) == (1, 2)


def test_inputs_are_read_by_url(tmp_path: Any) -> None:
    (tmp_path / "a").write_bytes(b"x")
    for url in (f"{tmp_path}/a", f"file://{tmp_path}/a"):
        with open_url(url) as file:
            assert file.read() == b"x"
        assert sha256_of(partial(open_url, url)).startswith("2d711642b726b044")


# Tables -----------------------------------------------------------------------------------------------------------


def test_a_written_table_says_rows_size_and_checksum_of_its_file(store: Any) -> None:
    written = store.write_table("t.parquet", schemas.VERDICTS, [batch_of([{"reason": "a"}] * 3, schemas.VERDICTS)] * 2)
    assert (written.path, written.rows, written.size) == ("t.parquet", 6, store.size("t.parquet"))
    assert written.sha256 == sha256_of(lambda: store.open("t.parquet"))
    assert store.read_table("t.parquet").num_rows == 6
    assert [batch.num_rows for batch in store.batches("t.parquet", ["reason"])] == [3, 3]


def test_an_empty_batch_makes_no_row_group(store: Any) -> None:
    empty, full = batch_of([], schemas.VERDICTS), batch_of([{"reason": "a"}], schemas.VERDICTS)
    store.write_table("t.parquet", schemas.VERDICTS, [empty, full, empty])
    assert [batch.num_rows for batch in store.batches("t.parquet", ["reason"])] == [1]


def test_rows_of_another_schema_are_refused(store: Any) -> None:
    other = pa.schema([pa.field("other", pa.string())])
    with pytest.raises(ValueError, match="do not fit"):
        store.write_table("t.parquet", schemas.VERDICTS, [batch_of([{"other": "a"}], other)])


@pytest.mark.parametrize("batches", [[], [batch_of([], schemas.ORIGINS)]], ids=["no batch", "an empty batch"])
def test_a_table_without_rows_is_whole_when_verified(store: Any, batches: Any) -> None:
    """What a unit writes that offered only rejects."""
    written = store.write_table("t.parquet", schemas.ORIGINS, batches)
    assert list(check(store, Record(Stage("documents", "f"), "u", {}, (written,), {}))) == []


@given(st.lists(st.binary(min_size=3, max_size=3), max_size=6), st.data())
def test_fixed_rows_are_those_of_plain_python_in_any_chunks(values: Any, data: Any) -> None:
    cut = data.draw(st.integers(0, len(values)))
    whole = pa.array([b"pad", *values], pa.binary(3)).slice(1)
    expected = np.frombuffer(b"".join(values), np.uint8).reshape(-1, 3)
    for column in (whole, pa.chunked_array([whole.slice(0, cut), whole.slice(cut)])):
        np.testing.assert_array_equal(fixed_rows(column), expected)


# The digest of logical rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), MIXED], ids=[*SCHEMAS, "mixed"])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_digest_does_not_depend_on_batches_slices_or_tables(schema: Any, data: Any) -> None:
    rows = data.draw(rows_of(schema))
    cut = data.draw(st.integers(0, len(rows)))
    whole = batch_of(rows, schema)
    padded = batch_of([*rows[:1], *rows, *rows[:1]], schema).slice(min(1, len(rows)), len(rows))
    table = pa.Table.from_batches([whole.slice(0, cut), whole.slice(cut)])
    expected = digest_of(schema, whole)
    assert digest_of(schema, whole.slice(0, cut), whole.slice(cut)) == expected
    assert digest_of(schema, padded) == expected
    assert digest_of(schema, padded.slice(0, cut), padded.slice(cut)) == expected
    assert digest_of(schema, table) == expected
    assert digest_of(schema, *(batch_of([row], schema) for row in rows), batch_of([], schema)) == expected


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), MIXED], ids=[*SCHEMAS, "mixed"])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_digest_is_that_of_the_rows_read_back_whatever_the_writer_chose(schema: Any, data: Any) -> None:
    rows = data.draw(rows_of(schema))
    options: dict[str, Any] = {
        "use_dictionary": data.draw(st.booleans()),
        "compression": data.draw(st.sampled_from(["none", "zstd"])),
    }
    options["data_page_version"] = data.draw(st.sampled_from(["1.0", "2.0"]))
    store = Store(f"memory://{uuid.uuid4().hex}")
    written = store.write_table("t", schema, [batch_of(rows[:2], schema), batch_of(rows[2:], schema)], **options)
    record = Record(Stage("role", "f"), "u", {}, (written,), {})
    assert written.digest == digest_of(schema, batch_of(rows, schema))
    assert digest_of(schema, store.read_table("t")) == written.digest
    assert list(check(store, record)) == []


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), MIXED], ids=[*SCHEMAS, "mixed"])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_digest_differs_when_a_value_a_null_or_the_order_does(schema: Any, data: Any) -> None:
    rows = data.draw(rows_of(schema, least=1))
    row = data.draw(st.integers(0, len(rows) - 1))
    field = data.draw(st.sampled_from(list(schema)))
    value = data.draw(values_of(field))
    changed = [dict(r) for r in rows]
    changed[row][field.name] = value
    whole, other = batch_of(rows, schema), batch_of(changed, schema)
    assert (digest_of(schema, other) == digest_of(schema, whole)) == other.equals(whole)
    backwards = batch_of(rows[::-1], schema)
    assert (digest_of(schema, backwards) == digest_of(schema, whole)) == backwards.equals(whole)
    assert digest_of(schema, whole, whole) != digest_of(schema, whole)


def test_the_digest_differs_when_a_name_a_type_or_the_order_of_columns_does() -> None:
    ones = pa.array([1, 2], pa.int32())
    schemas_ = [
        pa.schema([("a", pa.int32()), ("b", pa.int32())]),
        pa.schema([("b", pa.int32()), ("a", pa.int32())]),
        pa.schema([("a", pa.int32()), ("c", pa.int32())]),
        pa.schema([("a", pa.int32()), ("b", pa.uint32())]),
        pa.schema([("a", pa.int32())]),
    ]
    digests = {digest_of(s, pa.RecordBatch.from_arrays([ones.cast(f.type) for f in s], schema=s)) for s in schemas_}
    assert len(digests) == len(schemas_)


def test_texts_of_equal_bytes_that_are_cut_elsewhere_differ() -> None:
    schema = pa.schema([pa.field("a", pa.string(), nullable=False)])
    assert digest_of(schema, batch_of([{"a": "ab"}, {"a": "c"}], schema)) != digest_of(
        schema, batch_of([{"a": "a"}, {"a": "bc"}], schema)
    )


def test_a_null_is_not_an_empty_value_and_hides_no_bytes() -> None:
    schema = pa.schema([pa.field("a", pa.binary(2)), pa.field("b", pa.string()), pa.field("c", pa.int32())])

    def batch(hidden: bytes) -> pa.RecordBatch:
        valid = pa.py_buffer(b"\x01")
        fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2), 2, [valid, pa.py_buffer(b"aa" + hidden[:2])])
        offsets = pa.py_buffer(np.array([0, 1, 3], np.int32))
        text = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"a" + hidden[:2]), valid)
        numbers = pa.Array.from_buffers(pa.int32(), 2, [valid, pa.py_buffer(b"\x01\0\0\0" + hidden)])
        return pa.RecordBatch.from_arrays([fixed, text, numbers], schema=schema)

    rows: list[dict[str, Any]] = [{"a": b"aa", "b": "a", "c": 1}, {"a": None, "b": None, "c": None}]
    plain = digest_of(schema, batch_of(rows, schema))
    assert digest_of(schema, batch(b"\0\0\0\0")) == digest_of(schema, batch(b"wxyz")) == plain
    for name, value in (("a", b"\0\0"), ("b", ""), ("c", 0)):
        filled = [rows[0], rows[1] | {name: value}]
        assert digest_of(schema, batch_of(filled, schema)) != plain


def test_the_digest_of_known_rows_never_changes() -> None:
    """A corpus is named by it: this value may change only together with every root digest in the world."""
    rows = [{"reason": "near_duplicate", "kept": b"0123456789abcdef", "matches": 200}]
    rows.append({"reason": "", "kept": None, "matches": 0})
    assert digest_of(schemas.DUPLICATES, batch_of(rows, schemas.DUPLICATES)) == (
        "3b597f00fbc835024d1b6a649bbede3ee187d5219b38cf506eaaf2e5870b9f98"
    )


def test_every_schema_is_covered() -> None:
    assert set(SCHEMAS) >= {"documents", "rejects", "origins", "tokens", "plan", "duplicates", "verdicts"}
    assert Path(schemas.__file__).read_text().count("= pa.schema(") == len(SCHEMAS) - 1
