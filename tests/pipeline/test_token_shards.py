"""Token shards: what the memory map shows is what any Parquet reader decodes."""

import importlib.util
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.schemas import TOKENS
from pipeline.store import Store
from pipeline.token_shards import TokenShard, token_writer, zero_copy_options


def batch_of(samples: list[Any], first: int = 0) -> pa.RecordBatch:
    """Samples with these tokens; the other columns are filled in."""
    rows = [
        {
            "sample_id": (first + i).to_bytes(16, "big"),
            "pieces": [{"document": (first + i).to_bytes(16, "big"), "first_token": 0}] * (i % 3),
            "n_tokens": len(tokens), "n_bytes": 3, "component": "code", "language": "C", "source": "s",
            "origin": f"o{i % 5}", "split": "train", "fim": i % 2 == 0, "redactions": 0,
        }
        for i, tokens in enumerate(samples)
    ]  # fmt: skip
    flat = np.concatenate([*(np.asarray(t, np.uint32) for t in samples), np.empty(0, np.uint32)])
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in samples], dtype=np.int64)]).astype(np.int32)
    kind = TOKENS.field("tokens").type
    tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=kind)
    others = pa.RecordBatch.from_pylist(rows, TOKENS.remove(TOKENS.get_field_index("tokens")))
    columns = [tokens if name == "tokens" else others.column(name) for name in TOKENS.names]
    return pa.RecordBatch.from_arrays(columns, schema=TOKENS)


def write(store: Store, groups: list[list[Any]]) -> str:
    with token_writer(store, "t.parquet") as writer:
        for number, samples in enumerate(groups):
            writer.write(batch_of(samples, number * 1000))
    return "t.parquet"


def decoded(store: Store) -> list[list[int]]:
    return list(store.read_table("t.parquet", ["tokens"]).column("tokens").to_pylist())


SAMPLE = st.lists(st.integers(0, 2**32 - 1), max_size=12)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(SAMPLE, max_size=5), max_size=4), st.data())
@example([], None)
@example([[[]]], None)
@example([[[], [1], []], [[], []], [[2]]], None)
def test_runs_of_tokens_are_those_that_pyarrow_decodes(tmp_path_factory: Any, groups: Any, data: Any) -> None:
    store = Store(str(tmp_path_factory.getbasetemp() / "runs"))
    shard = TokenShard(store, write(store, groups))
    expected = [sample for samples in groups for sample in samples]
    assert decoded(store) == expected
    assert shard.is_mapped
    assert shard.n_tokens.tolist() == [len(sample) for sample in expected]
    assert [shard.tokens(row).tolist() for row in range(len(expected))] == expected
    if data is not None and expected:
        row = data.draw(st.integers(0, len(expected) - 1))
        start = data.draw(st.integers(0, len(expected[row])))
        length = data.draw(st.integers(0, len(expected[row]) - start))
        assert shard.tokens(row, start, length).tolist() == expected[row][start : start + length]


@pytest.mark.parametrize(
    ("rows", "most", "groups"), [(1, 900_000, 1), (50_000, 40, 1), (3000, 1000, 3), (30_000, 3, 1), (7, 300_000, 5)]
)
def test_large_shards_are_mapped_and_equal(tmp_path: Any, rows: Any, most: Any, groups: Any) -> None:
    rng = np.random.default_rng(rows)
    store = Store(str(tmp_path))
    parts = [[rng.integers(0, 102_400, n, np.uint32) for n in rng.integers(0, most, rows)] for _ in range(groups)]
    shard = TokenShard(store, write(store, parts))
    assert shard.is_mapped
    column = store.read_table("t.parquet", ["tokens"]).column("tokens").combine_chunks()
    flat, offsets = column.flatten().to_numpy(), column.offsets.to_numpy()
    assert sum(len(sample) for part in parts for sample in part) == len(flat)
    for row in rng.integers(0, rows * groups, 200).tolist():
        np.testing.assert_array_equal(shard.tokens(row), flat[offsets[row] : offsets[row + 1]])


def test_tokens_are_a_view_of_the_file_and_not_a_copy(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    shard = TokenShard(store, write(store, [[[1, 2, 3], [4]]]))
    tokens = shard.tokens(0)
    assert not tokens.flags.owndata
    assert tokens.dtype == np.dtype("<u4")
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 9


def test_the_tokens_of_a_group_lie_raw_in_the_file(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    tokens = np.arange(5000, dtype=np.uint32) * 7919
    write(store, [[tokens[:3000], tokens[3000:]]])
    data = store.read("t.parquet")
    assert data.count(tokens.astype("<u4").tobytes()) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"compression": "none", "use_dictionary": False, "data_page_size": 4096, "write_batch_size": 16},
        {
            "compression": "none",
            "use_dictionary": False,
            "data_page_size": 4096,
            "write_batch_size": 16,
            "data_page_version": "2.0",
        },
        {
            "compression": "none",
            "use_dictionary": False,
            "column_encoding": {"tokens.list.element": "BYTE_STREAM_SPLIT"},
        },
        {
            "compression": "none",
            "use_dictionary": False,
            "column_encoding": {"tokens.list.element": "DELTA_BINARY_PACKED"},
        },
    ],
    ids=["zstd", "dictionary", "many pages", "many pages of version 2", "byte stream split", "delta"],
)
def test_another_layout_is_decoded_to_the_same(tmp_path: Any, options: Any) -> None:
    store = Store(str(tmp_path))
    rng = np.random.default_rng(0)
    samples = [rng.integers(0, 50, n, np.uint32) for n in rng.integers(0, 300, 500)]
    table = pa.Table.from_batches([batch_of(samples[:200]), batch_of(samples[200:])])
    settings_ = {"row_group_size": 200} | options
    pq.write_table(table, store.full("t.parquet"), **settings_)
    shard = TokenShard(store, "t.parquet")
    for row in (0, 499, 250, 199, 200, 3):
        np.testing.assert_array_equal(shard.tokens(row), samples[row])
    np.testing.assert_array_equal(shard.tokens(250, 2, 5), samples[250][2:7])


def test_a_shard_in_an_object_store_is_decoded_a_group_at_a_time() -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    shard = TokenShard(store, write(store, [[[1, 2], []], [[3]]]))
    assert not shard.is_mapped
    assert [shard.tokens(row).tolist() for row in (2, 0, 1, 2)] == [[3], [1, 2], [], [3]]
    assert len(shard._groups) == 1


def test_every_other_column_is_read_as_it_was_written(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    batch = batch_of([[1, 2], [], [3]])
    with token_writer(store, "t.parquet") as writer:
        writer.write(batch)
    assert store.read_table("t.parquet").equals(pa.Table.from_batches([batch]))
    metadata = pq.read_metadata(store.full("t.parquet")).row_group(0)
    names = [metadata.column(i).path_in_schema for i in range(metadata.num_columns)]
    assert set(zero_copy_options()["compression"]) == set(names)


@pytest.mark.skipif(not importlib.util.find_spec("polars"), reason="polars is not installed")
def test_polars_reads_a_shard(tmp_path: Any) -> None:
    import polars  # type: ignore[import-not-found, unused-ignore]

    store = Store(str(tmp_path))
    write(store, [[[1, 2], []], [[3]]])
    assert polars.read_parquet(store.full("t.parquet"))["tokens"].to_list() == [[1, 2], [], [3]]


@pytest.mark.skipif(not importlib.util.find_spec("duckdb"), reason="duckdb is not installed")
def test_duckdb_reads_a_shard(tmp_path: Any) -> None:
    import duckdb  # type: ignore[import-not-found, unused-ignore]

    store = Store(str(tmp_path))
    write(store, [[[1, 2], []], [[3]]])
    rows = duckdb.sql(f"select tokens from '{store.full('t.parquet')}'").fetchall()
    assert [row[0] for row in rows] == [[1, 2], [], [3]]
