"""Select and plan: caps by origin in keyed order; every token of every selected sample in one sequence, once."""

import hashlib
import itertools
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.keyed import keyed_u64_batch
from pipeline import mixture
from pipeline.mixture import CAP, Samples, over_cap, packed, pieces_of, plan, read_samples, select, window_order
from pipeline.records import Record, Stage
from pipeline.schemas import PLAN, SELECTION, TOKENS
from pipeline.store import Store, Written
from pipeline.token_shards import token_writer
from tests.pipeline.test_judge import manifest_of
from tests.pipeline.test_token_shards import batch_of

SELECTIONS = {"code": Stage("selection", "f" * 16, "code"), "web": Stage("selection", "f" * 16, "web")}
PLANS = Stage("plan", "f" * 16)
NEWLINE = 9
LINE_ENDS = np.arange(100) == NEWLINE

Tokens = list[tuple[str, str, Record]]


def shard(
    store: Store, name: str, samples: list[dict[str, Any]], source: str = "code", groups: int = 2
) -> tuple[str, str, Record]:
    """A token shard; each sample has tokens and may name component, split, origin, fim."""
    batch = batch_of([s["tokens"] for s in samples])
    ids = [hashlib.blake2b(f"{source}/{name}/{i}".encode(), digest_size=16).digest() for i in range(len(samples))]
    columns = {
        "sample_id": ids,
        "source": [source] * len(samples),
        "component": [s.get("component", "code") for s in samples],
        "split": [s.get("split", "train") for s in samples],
        "origin": [s.get("origin", "o") for s in samples],
        "fim": [s.get("fim", False) for s in samples],
    }
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else batch.column(f.name) for f in TOKENS]
    whole = pa.RecordBatch.from_arrays(arrays, schema=TOKENS)
    stage = Stage("tokens", "f" * 16, source)
    with token_writer(store, stage.file(name)) as writer:
        size = max(1, -(-len(samples) // groups))
        for at in range(0, len(samples), size):
            writer.write(pa.Table.from_batches([whole.slice(at, size)]).combine_chunks().to_batches()[0])
    n = sum(len(s["tokens"]) for s in samples)
    return source, name, Record(stage, name, {}, (writer.written,), {"tokens": n})


def lines(n: int, every: int = 7) -> list[int]:
    return [NEWLINE if i % every == every - 1 else 1 + i % 5 for i in range(n)]


def corpus(store: Store) -> Tokens:
    rng = np.random.default_rng(3)

    def samples(n: int, component: str) -> list[dict[str, Any]]:
        return [
            {
                "tokens": lines(int(rng.integers(1, 130))),
                "component": component,
                "origin": f"o{i % 6}",
                "split": "validation" if i % 6 == 0 else "train",
            }
            for i in range(n)
        ]

    return [
        shard(store, "a", samples(60, "code")),
        shard(store, "b", [*samples(30, "text"), *samples(20, "code")]),
        shard(store, "empty", []),
        shard(store, "c", samples(40, "text"), "web"),
    ]


def planned(
    store: Store, tokens: Tokens, length: int = 64, **mixture: Any
) -> tuple[Samples, list[Record], list[Record]]:
    manifest = manifest_of(seed=4, mixture=mixture, plan={"sequence_length": length})
    selected, selection = select(store, SELECTIONS, tokens, manifest)
    return selected, selection, plan(store, PLANS, selected, tokens, LINE_ENDS, manifest)


def sequences(store: Store, record: Record) -> list[dict[str, Any]]:
    table = store.read_table(record.files[0].path)
    assert table.schema == PLAN
    return list(table.to_pylist())


@pytest.fixture
def store(tmp_path: Any) -> Any:
    return Store(str(tmp_path))


# Plan -------------------------------------------------------------------------------------------------------------


def test_every_token_of_every_sample_stands_in_one_sequence_of_its_component_and_split_once(store: Any) -> None:
    tokens = corpus(store)
    _, _, plans = planned(store, tokens)
    tables = [store.read_table(record.files[0].path).to_pylist() for _, _, record in tokens]
    seen: dict[tuple[int, int], list[tuple[int, int]]] = {}
    assert [p.unit for p in plans] == ["shards", "train-code", "train-text", "validation-code", "validation-text"]
    for record in plans[1:]:
        for sequence in sequences(store, record):
            assert sequence["n_tokens"] == sum(p["length"] for p in sequence["pieces"]) <= 64
            for piece in sequence["pieces"]:
                sample = tables[piece["shard"]][piece["row"]]
                assert record.unit == f"{sample['split']}-{sample['component']}"
                seen.setdefault((piece["shard"], piece["row"]), []).append((piece["start"], piece["length"]))
    for s, table in enumerate(tables):
        for r, sample in enumerate(table):
            runs = sorted(seen.pop((s, r)))
            assert [start for start, _ in runs] == [0, *np.cumsum([n for _, n in runs])[:-1].tolist()]
            assert sum(n for _, n in runs) == sample["n_tokens"]
            assert (len(runs) == 1) == (sample["n_tokens"] <= 64)
            for (start, n), _ in pairwise(runs):
                assert sample["tokens"][start + n - 1] == NEWLINE
    assert seen == {}


def test_records_count_samples_tokens_and_padding(store: Any) -> None:
    tokens = corpus(store)
    _, _, plans = planned(store, tokens)
    assert sum(p.counts["tokens"] for p in plans[1:]) == sum(r.counts["tokens"] for _, _, r in tokens)
    for record in plans[1:]:
        rows = sequences(store, record)
        assert record.counts["sequences"] == len(rows) == record.files[0].rows
        assert [row["sequence"] for row in rows] == list(range(len(rows)))
        assert record.counts["padding"] == sum(64 - row["n_tokens"] for row in rows)
        assert record.counts["pieces"] == sum(len(row["pieces"]) for row in rows) >= record.counts["samples"]


def test_the_list_of_shards_says_what_the_numbers_in_pieces_mean(store: Any) -> None:
    tokens = corpus(store)
    _, _, plans = planned(store, tokens)
    assert store.read_table(plans[0].files[0].path).to_pylist() == [
        {"source": source, "shard": name, "rows": r.files[0].rows, "digest": r.digest} for source, name, r in tokens
    ]


def test_the_same_samples_give_the_same_bytes(store: Any, tmp_path: Any) -> None:
    other = Store(str(tmp_path / "other"))
    first, again = planned(store, corpus(store)), planned(other, corpus(other))
    assert [p.files for p in first[2]] == [p.files for p in again[2]]
    assert [p.files for p in first[1]] == [p.files for p in again[1]]


def test_a_plan_that_is_there_is_found_and_another_length_reads_no_other_samples(store: Any) -> None:
    tokens = corpus(store)
    first = planned(store, tokens)[2]
    times = {path: store.read(path) for path in store.files("plan")}
    assert [p.files for p in planned(store, tokens)[2]] == [p.files for p in first]
    assert {path: store.read(path) for path in store.files("plan")} == times


def test_samples_are_packed_in_keyed_order_and_not_by_length_or_place(store: Any) -> None:
    tokens = [shard(store, "a", [{"tokens": lines(64)} for _ in range(50)])]
    selected, _, plans = planned(store, tokens)
    rows = [row["pieces"][0]["row"] for row in sequences(store, plans[1])]
    keys = keyed_u64_batch(4, "pack", selected.ids)
    assert rows == np.argsort(keys).tolist() != sorted(rows)


def test_a_sample_of_exactly_one_sequence_is_not_cut(store: Any) -> None:
    tokens = [shard(store, "a", [{"tokens": lines(64)}, {"tokens": lines(65)}, {"tokens": [9] * 64, "fim": True}])]
    _, _, plans = planned(store, tokens)
    cuts: dict[int, list[tuple[int, int]]] = {}
    for sequence in sequences(store, plans[1]):
        for piece in sequence["pieces"]:
            cuts.setdefault(piece["row"], []).append((piece["start"], piece["length"]))
    assert {row: sorted(runs) for row, runs in cuts.items()} == {0: [(0, 64)], 1: [(0, 63), (63, 2)], 2: [(0, 64)]}


def test_a_sample_with_fim_is_never_cut(store: Any) -> None:
    tokens = [shard(store, "a", [{"tokens": lines(65), "fim": True}])]
    with pytest.raises(AssertionError, match="FIM"):
        planned(store, tokens)


def test_a_build_without_samples_has_a_plan_without_sequences(store: Any) -> None:
    for tokens in ([], [shard(store, "empty", [])]):
        selected, selection, plans = planned(store, tokens)
        assert (len(selected.ids), len(selection), [p.unit for p in plans]) == (0, len(tokens), ["shards"])


def synthetic(lengths: np.ndarray, seed: int = 0) -> Samples:
    samples = Samples.empty(len(lengths))
    samples.ids = np.random.default_rng(seed).integers(0, 256, (len(lengths), 16), dtype=np.uint8)
    samples.shard[:], samples.row[:], samples.n_tokens[:] = 0, np.arange(len(lengths)), lengths
    samples.component[:], samples.split[:], samples.origin[:] = 0, 0, np.arange(len(lengths)) % 97
    samples.is_fim[:], samples.components, samples.splits = False, ("code",), ("train",)
    return samples


def test_padding_of_150000_samples_is_at_most_a_fifth_of_a_percent(store: Any, monkeypatch: Any) -> None:
    """Median 500 tokens, as measured on code; samples beyond L are cut at their (synthetic) line ends."""
    lengths = np.exp(np.random.default_rng(0).normal(np.log(500), 1.2, 150_000)).astype(np.int64).clip(2)
    samples = synthetic(lengths)

    class Lines:
        def tokens(self, row: int) -> np.ndarray:
            result = np.ones(int(lengths[row]), np.uint32)
            result[row % 13 :: 11] = NEWLINE
            return result

    monkeypatch.setattr("pipeline.mixture.TokenShard", lambda store, path: Lines())
    token_record = Record(Stage("tokens", "f" * 16, "code"), "a", {}, (store.write_table("x", SELECTION, []),), {})
    manifest = manifest_of(plan={"sequence_length": 4096})
    _, record = plan(store, PLANS, samples, [("code", "a", token_record)], LINE_ENDS, manifest)
    assert record.counts["tokens"] == lengths.sum()
    assert record.counts["samples"] == 150_000
    assert record.counts["padding"] <= 0.002 * record.counts["sequences"] * 4096
    table = store.read_table(record.files[0].path)
    assert table.column("sequence").to_pylist() == list(range(table.num_rows))
    pieces = pa.chunked_array([c.flatten() for c in table.column("pieces").chunks]).combine_chunks()
    rows, counts = np.unique(pieces.field("row").to_numpy(), return_counts=True)
    assert len(rows) == 150_000
    assert (counts[lengths <= 4096] == 1).all()
    assert int(pieces.field("length").to_numpy().sum(dtype=np.int64)) == lengths.sum()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(16, 40))
def test_pieces_cover_each_sample_in_order_and_only_long_ones_are_cut(sizes: Any, length: Any) -> None:
    class Lines:
        def tokens(self, row: int) -> np.ndarray:
            return np.array(lines(sizes[row]), np.uint32)

    samples = synthetic(np.array(sizes, np.int64))
    order = np.random.default_rng(len(sizes)).permutation(len(sizes)).astype(np.uint32)
    pieces = pieces_of(samples, order, length, LINE_ENDS, lambda _: Lines())  # type: ignore[arg-type, return-value]
    assert [i for i, _ in itertools.groupby(pieces.sample.tolist())] == order.tolist()
    for i, size in enumerate(sizes):
        mine = pieces.sample == i
        starts, runs = pieces.start[mine].tolist(), pieces.length[mine].tolist()
        assert starts == [0, *np.cumsum(runs)[:-1].tolist()]
        assert sum(runs) == size
        assert max(runs) <= length
        assert (len(runs) > 1) == (size > length)


# Caps -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2), st.integers(0, 1)), max_size=25),
    st.integers(1, 120),
    st.integers(0, 3),
)
def test_samples_of_an_origin_and_component_are_taken_in_keyed_order_until_the_cap(
    rows: Any, cap: Any, seed: Any
) -> None:
    samples = synthetic(np.array([r[0] for r in rows], np.int64))
    samples.component[:], samples.origin[:], samples.components = (
        [r[1] for r in rows],
        [r[2] for r in rows],
        tuple("abc"),
    )
    keys = keyed_u64_batch(seed, "cap", samples.ids)
    expected = np.zeros(len(rows), bool)
    for group in {r[1:] for r in rows}:
        taken = 0
        for i in sorted((i for i in range(len(rows)) if rows[i][1:] == group), key=lambda i: keys[i]):
            taken += rows[i][0]
            expected[i] = taken > cap
    assert over_cap(samples, cap, seed).tolist() == expected.tolist()


def test_without_a_cap_nothing_is_left_out() -> None:
    assert not over_cap(synthetic(np.array([10**9])), None, 0).any()


def test_what_is_over_the_cap_is_named_beside_its_shard_and_not_planned(store: Any) -> None:
    tokens = corpus(store)
    selected, selection, plans = planned(store, tokens, max_tokens_per_origin=700)
    reasons = [store.read_table(r.files[0].path).column("reason").to_pylist() for r in selection]
    assert [len(r) for r in reasons] == [record.files[0].rows for _, _, record in tokens]
    assert {r for part in reasons for r in part} == {"", CAP}
    assert len(selected.ids) == sum(part.count("") for part in reasons)
    assert [r.counts["dropped"] for r in selection] == [part.count(CAP) for part in reasons]
    everything = sum(r.counts["tokens"] for _, _, r in tokens)
    assert everything == sum(p.counts.get("tokens", 0) for p in plans) + sum(
        r.counts["dropped_tokens"] for r in selection
    )
    by_origin: dict[tuple[int, int], int] = {}
    for origin, component, n in zip(
        selected.origin.tolist(), selected.component.tolist(), selected.n_tokens.tolist(), strict=True
    ):
        by_origin[origin, component] = by_origin.get((origin, component), 0) + n
    assert max(by_origin.values()) <= 700


def test_equal_names_of_origins_in_two_sources_are_two_origins(store: Any) -> None:
    tokens = [shard(store, "a", [{"tokens": lines(50)}]), shard(store, "a", [{"tokens": lines(50)}], "web")]
    selected, _, _ = planned(store, tokens, max_tokens_per_origin=60)
    assert len(selected.ids) == 2


def test_the_order_of_shards_decides_neither_who_is_selected_nor_how_many_tokens_are_planned(
    store: Any, tmp_path: Any
) -> None:
    tokens = corpus(store)
    first, _, one = planned(store, tokens, max_tokens_per_origin=700)
    other = Store(str(tmp_path / "other"))
    second, _, two = planned(other, corpus(other)[::-1], max_tokens_per_origin=700)
    assert {i.tobytes() for i in first.ids} == {i.tobytes() for i in second.ids}
    assert [p.counts for p in one[1:]] == [p.counts for p in two[1:]]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("mask", [0, 7, 2**64 - 1])
def test_the_keyed_order_is_by_hash_then_id_then_place_even_where_hashes_tie(
    n: Any, mask: Any, monkeypatch: Any
) -> None:
    """A mask leaves few different hashes, or none; some ids are equal, too."""

    def hashes(seed: int, purpose: str, ids: np.ndarray) -> np.ndarray:
        return keyed_u64_batch(seed, purpose, ids) & np.uint64(mask)

    monkeypatch.setattr("pipeline.mixture.keyed_u64_batch", hashes)
    monkeypatch.setattr("pipeline.mixture._BLOCK", 64)
    ids = np.random.default_rng(n).integers(0, 256, (2 * n, 16), dtype=np.uint8)
    ids[::5] = 9
    rows = np.flatnonzero(np.arange(2 * n) % 2).astype(np.uint32)
    expected = sorted(rows.tolist(), key=lambda i: (int(hashes(1, "x", ids[[i]])[0]), ids[i].tobytes(), i))
    assert mixture._keyed_order(ids, rows, 1, "x").tolist() == expected


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(1, 25))
def test_windows_are_taken_in_turn_and_each_the_longest_first(lengths: Any, window: Any) -> None:
    expected = sorted(range(len(lengths)), key=lambda i: (i // window, -lengths[i], i))
    assert window_order(np.array(lengths, np.uint32), window).tolist() == expected


def test_reading_selecting_and_planning_hold_at_most_100_bytes_a_sample(store: Any) -> None:
    n, ids = 200_000, np.random.default_rng(0).integers(0, 256, (200_000, 16), dtype=np.uint8)
    tokens = [
        shard(store, f"{i}", [{"tokens": [1] * (1 + k % 3), "origin": f"o{k}"} for k in range(5000)]) for i in range(2)
    ]
    planned(store, tokens, max_tokens_per_origin=3)  # compiles the kernels
    samples = synthetic(np.arange(n) % 60 + 1)
    samples.ids = ids
    tracemalloc.start()
    samples.keep(~over_cap(samples, 2000, 0))
    manifest = manifest_of(seed=4, plan={"sequence_length": 64})
    plan(store, Stage("plan", "0" * 16), samples, tokens, LINE_ENDS, manifest)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / n < 100


def test_more_samples_or_pieces_than_32_bits_number_are_refused(store: Any) -> None:
    record = Record(Stage("tokens", "f" * 16), "a", {}, (Written("a", 2**32, "", 0, ""),), {})
    with pytest.raises(ValueError, match="4,294,967,296 samples"):
        read_samples(store, [record])
    with pytest.raises(ValueError, match="4,294,967,296 pieces"):
        packed(np.broadcast_to(np.uint32(1), 2**32), 16)


def test_samples_are_read_as_they_stand_in_the_shards(store: Any) -> None:
    tokens = corpus(store)
    samples = read_samples(store, [record for _, _, record in tokens])
    rows = [row for _, _, record in tokens for row in store.read_table(record.files[0].path).to_pylist()]
    assert [i.tobytes() for i in samples.ids] == [row["sample_id"] for row in rows]
    assert samples.n_tokens.tolist() == [row["n_tokens"] for row in rows]
    assert [samples.components[i] for i in samples.component] == [row["component"] for row in rows]
    assert [samples.splits[i] for i in samples.split] == [row["split"] for row in rows]
    assert samples.is_fim.tolist() == [row["fim"] for row in rows]
    pairs = {(o, row["source"], row["origin"]) for o, row in zip(samples.origin.tolist(), rows, strict=True)}
    assert len({p[0] for p in pairs}) == len({p[1:] for p in pairs}) == len(pairs)
    assert samples.shard.tolist() == [n for n, (_, _, r) in enumerate(tokens) for _ in range(r.files[0].rows)]
