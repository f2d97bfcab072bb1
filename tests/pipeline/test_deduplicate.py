"""Deduplicate: the Beam stage against plain Python on all documents at once."""

import itertools
import random
import uuid
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import clusters, minhash, words
from filters.clusters import Dropped
from pipeline import cluster
from pipeline.cluster import near_duplicates
from pipeline.deduplicate import (
    Ranking,
    deduplicate,
    duplicate_rows,
    exact_duplicates,
    order,
    rank,
    ranks_of_rows,
)
from pipeline.engine import Engine
from pipeline.judge import Shard
from pipeline.records import Record, Stage
from pipeline.schemas import DUPLICATES
from pipeline.store import Store, fixed_rows
from tests.pipeline.test_judge import PARAMETERS, judged, manifest_of, shard_of

ENGINE = Engine(quiet=True)
STAGES = {"code": Stage("duplicates", "f" * 16, "code")}
VOCABULARY = [f"word{i}" for i in range(400)]


def text_of(seed: int, n: int = 300) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=n)


def changed(text: list[str], n: int, seed: int) -> list[str]:
    """Replace n words, spread evenly."""
    result = list(text)
    for k in range(n):
        result[(k * len(text) // n + seed) % len(text)] = f"new{seed}x{k}"
    return result


def planted() -> list[str]:
    """Families of near-duplicates at several distances, exact ones, and strangers."""
    texts = []
    for family in range(12):
        base = text_of(family)
        texts += [" ".join(changed(base, n, n)) for n in (1, 2, 3, 5, 8, 12, 20, 40)]
        texts += [" ".join(base), " ".join(base), " ".join([*base, "tail", "of", "it"])]
    texts += [texts[5]] * 2 + [" ".join(text_of(1000 + i, 80)) for i in range(40)]
    return [*texts, "!!! ???", "!!! ???", "a b", "a  b"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: Any) -> Any:
    """Shards of planted documents with verdicts; some are dropped by judging before."""
    store = Store(str(tmp_path_factory.mktemp("duplicates")))
    rows = [{"path": f"{i}.py".encode(), "text": text} for i, text in enumerate(planted())]
    rows.append({"path": b"dropped.toml", "text": rows[0]["text"]})
    random.Random(1).shuffle(rows)
    shards = [shard_of(store, rows[i::3], f"s{i}", row_group=20) for i in range(3)]
    loose = manifest_of(rules={"code": {"max_average_line": 10**6, "max_line": 10**6, "min_alpha_percent": 0}})
    return store, shards, judged(store, shards, loose)


def run(store: Store, shards: list[Shard], verdicts: list[Record], engine: Engine = ENGINE) -> list[Record]:
    for path in list(store.files("duplicates")):
        store.remove(path)
    return deduplicate(store, STAGES, shards, verdicts, PARAMETERS, engine)


def rows_of(store: Store, shards: list[Shard], verdicts: list[Record], records: list[Record]) -> list[dict[str, Any]]:
    """All documents with text, verdict and what became of them."""
    found = []
    for shard, verdict, record in zip(shards, verdicts, records, strict=True):
        table = store.read_table(shard.path, ["id", "path", "text"])
        table = table.append_column("verdict", store.read_table(verdict.files[0].path).column("reason"))
        duplicates = store.read_table(record.files[0].path)
        assert duplicates.schema == DUPLICATES
        for name in DUPLICATES.names:
            table = table.append_column(name, duplicates.column(name))
        found += table.to_pylist()
    return found


@pytest.fixture(scope="module")
def outcome(corpus: Any) -> Any:
    store, shards, verdicts = corpus
    return rows_of(store, shards, verdicts, run(store, shards, verdicts))


@cache
def shingles(text: str) -> frozenset[tuple[str, ...]]:
    found = words.of(text)
    size = PARAMETERS.shingle
    return frozenset(tuple(found[i : i + size]) for i in range(max(1, len(found) - size + 1))) if found else frozenset()


def jaccard(a: str, b: str) -> float:
    left, right = shingles(a), shingles(b)
    return len(left & right) / len(left | right) if left | right else 0.0


def oracle(rows: list[dict[str, Any]]) -> dict[bytes, tuple[str, bytes | None]]:
    """All kept pairs with a common band, verified by estimate, dropped greedily: plain Python over everything."""
    kept = sorted((r for r in rows if not r["verdict"]), key=lambda r: (-len(r["text"]), r["id"]))
    result: dict[bytes, tuple[str, bytes | None]] = {r["id"]: ("", None) for r in rows}
    first: dict[str, bytes] = {}
    unique = []
    for row in kept:
        if row["text"] in first:
            result[row["id"]] = ("exact_duplicate", first[row["text"]])
        else:
            first[row["text"]] = row["id"]
            unique.append(row)
    signed = minhash.sign(pa.array([r["text"] for r in unique], pa.large_string()), PARAMETERS)
    keys, sidecars = minhash.band_keys(signed.signature, PARAMETERS), minhash.sidecar(signed.signature)
    buckets: dict[int, list[int]] = {}
    for i in np.flatnonzero(signed.words).tolist():
        for key in keys[i].tolist():
            buckets.setdefault(key, []).append(i)
    edges: dict[int, set[int]] = {}
    for members in buckets.values():
        leaders: list[int] = []
        for i in members:
            near = next((j for j in leaders if (sidecars[i] == sidecars[j]).sum() >= PARAMETERS.least_matches), None)
            if near is None:
                leaders.append(i)
            else:
                edges.setdefault(i, set()).add(near)
    dropped: dict[int, int] = {}
    for i in sorted(edges):
        alive = [(-int((sidecars[i] == sidecars[j]).sum()), j) for j in edges[i] if j not in dropped]
        if alive:
            dropped[i] = min(alive)[1]
            result[unique[i]["id"]] = ("near_duplicate", unique[dropped[i]]["id"])
    for identity, (what, of) in list(result.items()):
        if what == "exact_duplicate" and of is not None and result[of][0]:
            result[identity] = (what, result[of][1])
    return result


# The stage --------------------------------------------------------------------------------------------------------


def test_every_document_has_the_outcome_of_plain_python_over_all_of_them(outcome: Any) -> None:
    assert {row["id"]: (row["reason"], row["kept"]) for row in outcome} == oracle(outcome)
    assert {row["reason"] for row in outcome} == {"", "exact_duplicate", "near_duplicate"}


def test_what_judging_drops_is_neither_a_duplicate_nor_the_cause_of_one(outcome: Any) -> None:
    dropped = {row["id"] for row in outcome if row["verdict"]}
    assert len(dropped) == 1
    assert all(row["reason"] == "" and row["kept"] is None for row in outcome if row["id"] in dropped)
    assert not dropped & {row["kept"] for row in outcome}


def test_near_duplicates_are_as_alike_as_the_threshold_says_within_the_error_of_the_estimate(outcome: Any) -> None:
    """64 permutations: four standard deviations are 0.25."""
    by_id = {row["id"]: row for row in outcome}
    for row in outcome:
        if row["reason"] == "near_duplicate":
            assert jaccard(row["text"], by_id[row["kept"]]["text"]) >= 0.7 - 0.25


def test_no_two_kept_documents_are_nearly_equal(outcome: Any) -> None:
    kept = [row["text"] for row in outcome if not row["reason"] and not row["verdict"]]
    alike = [(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :] if jaccard(a, b) >= 0.95]
    assert alike == []


def test_what_is_kept_instead_is_kept_and_better(outcome: Any) -> None:
    by_id = {row["id"]: row for row in outcome}
    for row in outcome:
        if row["reason"]:
            kept = by_id[row["kept"]]
            assert (kept["reason"], kept["verdict"]) == ("", "")
            assert (-len(kept["text"]), kept["id"]) < (-len(row["text"]), row["id"])


def test_an_exact_duplicate_of_a_dropped_document_points_to_the_one_that_is_kept(outcome: Any) -> None:
    by_text: dict[str, list[dict[str, Any]]] = {}
    for row in outcome:
        if not row["verdict"]:
            by_text.setdefault(row["text"], []).append(row)
    chained = [
        group for group in by_text.values() if {r["reason"] for r in group} == {"exact_duplicate", "near_duplicate"}
    ]
    assert chained
    for group in chained:
        assert len({row["kept"] for row in group}) == 1
        assert {row["matches"] for row in group} == {
            next(r["matches"] for r in group if r["reason"] == "near_duplicate")
        }


def test_texts_without_a_word_are_exact_duplicates_but_never_near(outcome: Any) -> None:
    marks = [row["reason"] for row in outcome if row["text"] == "!!! ???"]
    assert sorted(marks) == ["", "exact_duplicate"]


def test_the_stage_gives_what_one_call_of_the_kernels_on_all_keys_gives(corpus: Any, outcome: Any) -> None:
    store, shards, verdicts = corpus
    ranking = rank(store, shards, verdicts)
    tables = [store.read_table(shard.tables["signatures"].files[0].path) for shard in shards]
    ranks = np.concatenate(ranks_of_rows(ranking, [shard.rows for shard in shards]))
    rows = np.flatnonzero(ranks != cluster.NO_RANK)
    keys = np.concatenate([fixed_rows(table.column("keys")) for table in tables])[rows].view("<u8")
    found = clusters.shared(keys.ravel(), np.repeat(ranks[rows], PARAMETERS.bands))
    row_of = {int(ranks[row]): row for row in rows}
    sidecars = np.concatenate([fixed_rows(table.column("sidecar")) for table in tables])
    dropped = clusters.keep_greedily(clusters.link(found, sidecars[[row_of[int(r)] for r in found.ranks]], PARAMETERS))
    ids = ranking.ids[ranking.at]
    expected = {
        ids[int(i)].tobytes(): (ids[int(k)].tobytes(), int(m))
        for i, k, m in zip(dropped.rank, dropped.kept, dropped.matches, strict=True)
    }
    assert {r["id"]: (r["kept"], r["matches"]) for r in outcome if r["reason"] == "near_duplicate"} == expected


@pytest.mark.parametrize("size", [1 << 30, 20_000, 1_000])
def test_the_number_of_partitions_changes_nothing(corpus: Any, outcome: Any, monkeypatch: Any, size: Any) -> None:
    store, shards, verdicts = corpus
    monkeypatch.setattr(cluster, "_BLOCK_BYTES", size)
    assert rows_of(store, shards, verdicts, run(store, shards, verdicts)) == outcome


def test_the_number_of_workers_changes_nothing(corpus: Any, outcome: Any) -> None:
    store, shards, verdicts = corpus
    assert rows_of(store, shards, verdicts, run(store, shards, verdicts, Engine(workers=2, quiet=True))) == outcome


def test_the_order_of_shards_changes_nothing(corpus: Any, outcome: Any) -> None:
    store, shards, verdicts = corpus
    again = rows_of(store, shards[::-1], verdicts[::-1], run(store, shards[::-1], verdicts[::-1]))
    assert sorted(again, key=lambda r: r["id"]) == sorted(outcome, key=lambda r: r["id"])


def test_how_documents_lie_in_shards_changes_nothing(corpus: Any, outcome: Any, tmp_path: Any) -> None:
    other = Store(str(tmp_path))
    rows = [{"path": row["path"], "text": row["text"]} for row in outcome]
    whole = [shard_of(other, rows, "all")]
    loose = manifest_of(rules={"code": {"max_average_line": 10**6, "max_line": 10**6, "min_alpha_percent": 0}})
    verdicts = judged(other, whole, loose)
    again = rows_of(other, whole, verdicts, run(other, whole, verdicts))
    assert sorted(again, key=lambda r: r["id"]) == sorted(outcome, key=lambda r: r["id"])


def test_records_count_duplicates_and_a_second_run_finds_them(corpus: Any) -> None:
    store, shards, verdicts = corpus
    records = run(store, shards, verdicts)
    for record in records:
        reasons = store.read_table(record.files[0].path).column("reason").to_pylist()
        assert record.counts["duplicates"] == {r: reasons.count(r) for r in sorted(set(reasons) - {""})}

    class NoEngine(Engine):
        def pipeline(self) -> Any:
            raise AssertionError

    assert deduplicate(store, STAGES, shards, verdicts, PARAMETERS, NoEngine()) == records


def test_nothing_but_duplicates_stays_behind(corpus: Any) -> None:
    store, shards, verdicts = corpus
    run(store, shards, verdicts)
    assert list(store.files("work")) == []


@pytest.mark.parametrize("step", cluster.STEPS)
def test_what_is_done_of_a_pass_is_not_done_again(corpus: Any, outcome: Any, monkeypatch: Any, step: Any) -> None:
    """A build killed amid the pass goes on with the units that lack; band keys are let go when they have served."""
    store, shards, verdicts = corpus
    write, done = cluster._Cluster.run, []

    def dies(self: Any, specification: Any) -> Any:
        if self.name == step and specification["number"] == len(self.layout.units(step)) - 1:
            raise KeyboardInterrupt
        done.append((self.name, specification["unit"]))
        return write(self, specification)

    monkeypatch.setattr(cluster._Cluster, "run", dies)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Beam wraps what a worker raises
        run(store, shards, verdicts)
    first, done[:] = list(done), []

    def noted(self: Any, specification: Any) -> Any:
        done.append((self.name, specification["unit"]))
        return write(self, specification)

    monkeypatch.setattr(cluster._Cluster, "run", noted)
    assert rows_of(store, shards, verdicts, run(store, shards, verdicts)) == outcome
    assert first
    assert not set(first) & set(done)


def test_a_build_without_documents_or_without_kept_ones_has_no_duplicates(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    assert deduplicate(store, STAGES, [], [], PARAMETERS, ENGINE) == []
    shards = [shard_of(store, [{"path": b"a.toml", "text": "a"}])]
    (record,) = deduplicate(store, STAGES, shards, judged(store, shards), PARAMETERS, ENGINE)
    assert store.read_table(record.files[0].path).to_pylist() == [{"reason": "", "kept": None, "matches": 0}]


# Pure functions ---------------------------------------------------------------------------------------------------


def ids_of(ids: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1)), max_size=20))
def test_the_best_is_the_longest_and_among_equals_the_least_id(rows: Any) -> None:
    ids, lengths = ids_of([r[0] for r in rows]), np.array([r[1] for r in rows], np.uint32)
    expected = sorted(range(len(rows)), key=lambda i: (-rows[i][1], rows[i][0]))
    found = order(ids, lengths).tolist()
    assert [(rows[i][1], rows[i][0]) for i in found] == [(rows[i][1], rows[i][0]) for i in expected]


@given(st.lists(st.sampled_from([bytes(16), b"a" * 16, b"\xff" * 16, b"a" * 15 + b"b", b"b" + b"a" * 15]), max_size=20))
def test_an_exact_duplicate_points_to_the_first_of_its_hash(hashes: Any) -> None:
    first: dict[bytes, int] = {}
    expected = []
    for i, value in enumerate(hashes):
        expected.append(first.get(value, -1))
        first.setdefault(value, i)
    assert exact_duplicates(ids_of(hashes)).tolist() == expected


def ranking_of(bounds: list[int], rank: list[int], exact_of: list[int], has_words: list[bool]) -> Ranking:
    """A ranking of n documents that stand in their shards as they come."""
    n, at = len(rank), np.argsort(rank)
    row = np.concatenate([np.arange(b - a, dtype=np.uint32) for a, b in itertools.pairwise(bounds)])
    ids, words = np.zeros((n, 16), np.uint8), np.array(has_words)
    return Ranking(ids, row, words, np.array(bounds), at, np.array(rank), np.array(exact_of))


def test_duplicates_of_duplicates_are_credited_to_what_is_kept() -> None:
    ranking = ranking_of([0, 6], list(range(6)), [-1, -1, 0, -1, 1, 3], [True] * 6)
    dropped = Dropped(np.array([1, 3], np.uint64), np.array([0, 0], np.uint64), np.array([60, 50], np.uint16))
    rows = duplicate_rows(ranking, dropped)
    assert rows.what.tolist() == [0, 2, 1, 2, 1, 1]
    assert rows.kept.tolist() == [0, 0, 0, 0, 0, 0]
    assert rows.matches.tolist() == [0, 60, 0, 50, 60, 50]


def test_the_rows_of_a_shard_have_the_ranks_of_what_is_clustered() -> None:
    """Dropped by judging (a fourth row), equal to a better one (rank 1), without words (rank 4): no rank."""
    none = int(cluster.NO_RANK)
    ranking = ranking_of([0, 2, 2, 5], [3, 1, 0, 4, 2], [-1, 0, -1, -1, -1], [True, True, True, False, True])
    assert [r.tolist() for r in ranks_of_rows(ranking, [2, 0, 4])] == [[3, none], [], [0, none, 2, none]]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_files_are_divided_into_groups_in_their_order(rows: Any) -> None:
    layout, groups = cluster.divide(rows, PARAMETERS)
    assert [n for group in groups for n in rows[group]] == rows
    assert all(len(rows[group]) for group in groups)
    assert layout.groups == len(groups)
    largest = -(-sum(rows) // 4)
    assert all(sum(rows[group]) <= largest or len(rows[group]) == 1 for group in groups)


def test_a_stage_over_an_object_store_gives_the_same(outcome: Any) -> None:
    memory = Store(f"memory://{uuid.uuid4().hex}")
    rows = [{"path": row["path"], "text": row["text"]} for row in outcome]
    moved = [shard_of(memory, rows, "all")]
    loose = manifest_of(rules={"code": {"max_average_line": 10**6, "max_line": 10**6, "min_alpha_percent": 0}})
    verdicts = judged(memory, moved, loose)
    again = rows_of(memory, moved, verdicts, deduplicate(memory, STAGES, moved, verdicts, PARAMETERS, ENGINE))
    assert sorted(again, key=lambda r: r["id"]) == sorted(outcome, key=lambda r: r["id"])


def test_a_document_without_shared_keys_has_no_edge(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    shards = [shard_of(store, [{"path": b"a.py", "text": "one two three four five six"}])]
    ranking = rank(store, shards, judged(store, shards))
    ranks = ranks_of_rows(ranking, [1])
    dropped = near_duplicates(
        store, [shards[0].tables["signatures"].files[0].path], ranks, PARAMETERS, ENGINE, "k" * 64
    )
    assert [len(column) for column in dropped] == [0, 0, 0]
