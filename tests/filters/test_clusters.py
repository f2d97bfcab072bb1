"""Clusters: the kernels against plain Python, in any order of input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.clusters import Dropped, Edges, Shared, deal, keep_greedily, link, shared, unite
from filters.minhash import MinHashParameters

PARAMETERS = MinHashParameters(permutations=64, bands=8, threshold_percent=70)
ENTRIES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), max_size=80)


def u64(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def sidecar_of(rank: int) -> np.ndarray:
    """A few families of similar sidecars; members differ in rank % 37 of 64 bytes."""
    row = np.full(64, rank % 3, np.uint8)
    row[: rank * 7 % 37] = 100 + rank
    return row


def link_oracle(entries: list[tuple[int, int]], cap: int) -> set[tuple[int, int, int]]:
    edges = set()
    for key in {key for key, _ in entries}:
        leaders: list[int] = []
        for rank in sorted({rank for k, rank in entries if k == key}):
            equal = [int((sidecar_of(leader) == sidecar_of(rank)).sum()) for leader in leaders]
            first = next((i for i, n in enumerate(equal) if n >= PARAMETERS.least_matches), None)
            if first is not None:
                edges.add((leaders[first], rank, equal[first]))
            elif len(leaders) < cap:
                leaders.append(rank)
    return edges


def linked(entries: list[tuple[int, int]], cap: int = 256) -> Edges:
    found = shared(u64([key * 977 for key, _ in entries]), u64([rank for _, rank in entries]))
    sidecars = np.array([sidecar_of(int(rank)) for rank in found.ranks], np.uint8).reshape(-1, 64)
    return link(found, sidecars, PARAMETERS, cap)


def greedy_oracle(edges: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    dropped: dict[int, tuple[int, int]] = {}
    for rank in sorted({rank for better, worse, _ in edges for rank in (better, worse)}):
        kept = [(-matches, better) for better, worse, matches in edges if worse == rank and better not in dropped]
        if kept:
            matches, better = min(kept)
            dropped[rank] = (better, -matches)
    return [(rank, kept, matches) for rank, (kept, matches) in sorted(dropped.items())]


def rows(table: Edges | Dropped) -> list[tuple[int, ...]]:
    return [tuple(int(x) for x in row) for row in zip(*table, strict=True)]


@settings(deadline=None)
@given(ENTRIES)
def test_only_keys_of_several_documents_stay_each_entry_once(entries: list[tuple[int, int]]) -> None:
    found = shared(u64([k for k, _ in entries]), u64([r for _, r in entries]))
    distinct = set(entries)
    expected = sorted((k, r) for k, r in distinct if sum(k == other for other, _ in distinct) > 1)
    assert [(int(k), int(found.ranks[row])) for k, row in zip(found.keys, found.rows, strict=True)] == expected
    assert found.ranks.tolist() == sorted({r for _, r in expected})


@settings(deadline=None)
@given(ENTRIES, st.integers(1, 4), st.randoms(use_true_random=False))
def test_links_are_those_of_plain_python_in_any_order(entries, cap, random) -> None:  # type: ignore[no-untyped-def]
    edges = linked(entries, cap)
    assert rows(edges) == sorted(link_oracle(entries, cap))
    random.shuffle(entries)
    assert rows(linked(entries + entries[:3], cap)) == rows(edges)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda p: p[0] < p[1]), st.integers(180, 256)
    ),
    st.randoms(use_true_random=False),
)
def test_greedy_keeping_is_that_of_plain_python_in_any_order(pairs, random) -> None:  # type: ignore[no-untyped-def]
    edges = [(better, worse, matches) for (better, worse), matches in pairs.items()]
    expected = greedy_oracle(edges)
    for _ in range(2):
        columns = list(zip(*edges, strict=True)) or [(), (), ()]
        table = Edges(u64(list(columns[0])), u64(list(columns[1])), np.array(columns[2], np.uint16))
        assert rows(keep_greedily(table)) == expected
        random.shuffle(edges)
        edges += edges[:2]


def test_a_document_like_a_dropped_one_only_is_kept() -> None:
    edges = Edges(u64([1, 2]), u64([2, 3]), np.array([200, 250], np.uint16))
    assert rows(keep_greedily(edges)) == [(2, 1, 200)]


def test_the_kept_document_with_most_matches_is_named_and_the_best_among_equals() -> None:
    edges = Edges(u64([1, 2, 3]), u64([9, 9, 9]), np.array([200, 210, 210], np.uint16))
    assert rows(keep_greedily(edges)) == [(9, 2, 210)]


def test_ranks_above_the_signed_range_keep_their_order() -> None:
    high = 2**64 - 1
    found = shared(u64([5, 5, 6]), u64([high, 2**63, 1]))
    assert found.ranks.tolist() == [2**63, high]
    edges = link(found, np.zeros((2, 64), np.uint8), PARAMETERS)
    assert rows(edges) == [(2**63, high, 64)]
    assert rows(keep_greedily(edges)) == [(high, 2**63, 64)]


@pytest.mark.parametrize(("different", "expected"), [(19, 1), (20, 0)])
def test_a_pair_exactly_at_the_threshold_is_linked(different: int, expected: int) -> None:
    assert PARAMETERS.least_matches == 45
    sidecars = np.zeros((2, 64), np.uint8)
    sidecars[1, :different] = 1
    assert len(link(shared(u64([1, 1]), u64([1, 2])), sidecars, PARAMETERS).better) == expected


def test_a_bucket_without_likeness_has_at_most_cap_leaders() -> None:
    n = 50
    found = shared(np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64))
    sidecars = np.tile(np.arange(n, dtype=np.uint8)[:, None], 64)
    sidecars[-1] = 7
    assert rows(link(found, sidecars, PARAMETERS, cap=8)) == [(7, n - 1, 64)]
    assert rows(link(found, sidecars, PARAMETERS, cap=7)) == []


def test_nothing_in_gives_nothing_out() -> None:
    edges = linked([])
    assert rows(edges) == []
    assert rows(keep_greedily(edges)) == []


def test_sidecars_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        link(Shared(u64([]), np.zeros(0, np.int64), u64([])), np.zeros((1, 64), np.uint8), PARAMETERS)


@pytest.mark.parametrize("shift", [0, 40])
def test_keys_that_differ_in_few_bits_are_told_apart(shift: int) -> None:
    keys = np.arange(1000, dtype=np.uint64) << np.uint64(shift)
    found = shared(np.concatenate((keys, keys[:10])), np.arange(1010, dtype=np.uint64))
    assert found.keys.tolist() == sorted(keys[:10].tolist() * 2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 19)), max_size=40), st.integers(1, 6))
def test_documents_that_share_keys_are_dealt_to_one_part_in_the_order_of_their_least(pairs, n_parts) -> None:
    n = 20
    component = list(range(n))
    for _, a, b in [(k, a, b) for k, a in pairs for other, b in pairs if k == other]:
        low, high = sorted((component[a], component[b]))
        component = [low if c == high else c for c in component]
    ordered = sorted(pairs)
    parent = np.arange(n, dtype=np.uint32)
    for half in (ordered[::2], ordered[1::2], ordered):  # as partitions come: in any order, several times
        columns = np.array(half, np.uint64).reshape(-1, 2)
        unite(parent, np.ascontiguousarray(columns[:, 0]), np.ascontiguousarray(columns[:, 1]))
    takes_part = np.isin(np.arange(n), [rank for _, rank in pairs])
    parts = deal(parent, takes_part, n_parts, 99)
    assert [int(p) == 99 for p in parts] == [not t for t in takes_part]
    roots = sorted({component[i] for i in np.flatnonzero(takes_part)})
    mine = [int(parts[i]) for i in np.flatnonzero(takes_part)]
    assert mine == [int(parts[component[i]]) for i in np.flatnonzero(takes_part)]
    assert [int(parts[r]) for r in roots] == sorted(int(parts[r]) for r in roots)
    assert all(0 <= part < n_parts for part in mine)
