"""Deduplicate: the Beam stage against plain Python on all documents at once."""

import random
import uuid
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import clusters, minhash, words
from filters.clusters import Dropped, Edges
from pipeline import deduplicate as module
from pipeline.deduplicate import Ranking, deduplicate, duplicate_rows, exact_duplicates, find_edges, order, rank
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
    places = list(zip(ranking.shard.tolist(), ranking.row.tolist(), strict=True))
    takes_part = np.flatnonzero((ranking.exact_of < 0) & (ranking.n_words > 0))
    keys = np.concatenate(
        [fixed_rows(tables[s].column("keys"))[r : r + 1].view("<u8")[0] for s, r in np.array(places)[takes_part]]
    )
    found = clusters.shared(keys, np.repeat(takes_part.astype(np.uint64), PARAMETERS.bands))
    sidecars = np.concatenate(
        [fixed_rows(tables[s].column("sidecar"))[r : r + 1] for s, r in np.array(places)[found.ranks.astype(np.int64)]]
    )
    dropped = clusters.keep_greedily(clusters.link(found, sidecars, PARAMETERS))
    expected = {
        ranking.ids[int(i)].tobytes(): (ranking.ids[int(k)].tobytes(), int(m))
        for i, k, m in zip(dropped.rank, dropped.kept, dropped.matches, strict=True)
    }
    assert {r["id"]: (r["kept"], r["matches"]) for r in outcome if r["reason"] == "near_duplicate"} == expected


@pytest.mark.parametrize("size", [1 << 30, 20_000, 1_000])
def test_the_number_of_partitions_changes_nothing(corpus: Any, outcome: Any, monkeypatch: Any, size: Any) -> None:
    store, shards, verdicts = corpus
    monkeypatch.setattr(module, "_PARTITION_BYTES", size)
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


def test_partitions_that_are_done_are_not_done_again(corpus: Any, outcome: Any, monkeypatch: Any) -> None:
    """A build killed amid the pass goes on with the partitions that lack."""
    store, shards, verdicts = corpus
    reduced: list[int] = []
    process = module._Reduce.process

    def dies(self: Any, element: Any) -> Any:
        if element[0] == 2:
            raise KeyboardInterrupt
        reduced.append(element[0])
        return process(self, element)

    monkeypatch.setattr(module._Reduce, "process", dies)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Beam wraps what a worker raises
        run(store, shards, verdicts)

    def noted(self: Any, element: Any) -> Any:
        reduced.append(element[0])
        return process(self, element)

    done = {path.rsplit("/", 1)[1] for path in store.files("work") if path.endswith(".json")}
    monkeypatch.setattr(module._Reduce, "process", noted)
    first, reduced[:] = list(reduced), []
    assert rows_of(store, shards, verdicts, run(store, shards, verdicts)) == outcome
    assert {f"{p:05d}.json" for p in first} == done
    assert sorted(reduced) == [p for p in range(4) if p not in first]


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


def test_duplicates_of_duplicates_are_credited_to_what_is_kept() -> None:
    ranking = Ranking(
        np.zeros((6, 16), np.uint8), np.zeros(6, np.uint32), np.arange(6, dtype=np.uint32),
        np.array([-1, -1, 0, -1, 1, 3]), np.ones(6, np.uint32),
    )  # fmt: skip
    dropped = Dropped(np.array([1, 3], np.uint64), np.array([0, 0], np.uint64), np.array([60, 50], np.uint16))
    rows = duplicate_rows(ranking, dropped)
    assert rows.what.tolist() == [0, 2, 1, 2, 1, 1]
    assert rows.kept.tolist() == [0, 0, 0, 0, 0, 0]
    assert rows.matches.tolist() == [0, 60, 0, 50, 60, 50]


def test_ranks_of_each_shard_are_its_rows_in_the_order_of_ranks() -> None:
    ranking = Ranking(
        np.zeros((5, 16), np.uint8), np.array([2, 0, 2, 2, 0], np.uint32), np.arange(5, dtype=np.uint32),
        np.full(5, -1), np.ones(5, np.uint32),
    )  # fmt: skip
    assert [r.tolist() for r in ranking.by_shard(4)] == [[1, 4], [], [0, 2, 3], []]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(6, 9), st.just(60)), max_size=20), st.randoms())
def test_edges_of_several_partitions_count_once(rows: Any, shuffler: Any) -> None:
    rows = rows + shuffler.sample(rows, len(rows) // 2)
    shuffler.shuffle(rows)
    columns = [np.array([r[i] for r in rows], t) for i, t in enumerate((np.uint64, np.uint64, np.uint16))]
    found = module._unique(Edges(*columns))
    assert list(zip(found.better.tolist(), found.worse.tolist(), found.matches.tolist(), strict=True)) == sorted(
        set(rows)
    )


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
    edges = find_edges(store, ranking, shards, PARAMETERS, ENGINE, "k" * 64)
    assert [len(column) for column in edges] == [0, 0, 0]
