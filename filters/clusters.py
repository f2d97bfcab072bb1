"""From band keys to dropped near-duplicates: verified edges, then greedy keeping (docs/benchmarks.md).

A rank is a u64 that is unique to a document and the lower the better (quality in the upper bits, a dense id below).
In each bucket of equal keys the documents come in rank order and are compared to the bucket's leaders only, so a bucket
of boilerplate costs its size times its leaders, never its square. Nothing here depends on the order of the input.

    keys, ranks --shared--> who needs a sidecar --link--> edges (of all partitions together) --keep_greedily--> dropped
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from filters.minhash import MinHashParameters
from filters.words import equal_bytes

_MIX = np.uint64(0x9E3779B97F4A7C15)


class Shared(NamedTuple):
    """The keys that several documents share, ordered by key, then rank.

    ``keys`` u64[m]; ``rows`` i64[m] leads from each to its document in ``ranks`` u64[k], which is ascending and unique:
    the documents whose sidecars :func:`link` needs, in this order.
    """

    keys: NDArray[np.uint64]
    rows: NDArray[np.int64]
    ranks: NDArray[np.uint64]


class Edges(NamedTuple):
    """Verified pairs: the better (lower) rank, the worse one, and how many bytes of their sidecars are equal."""

    better: NDArray[np.uint64]
    worse: NDArray[np.uint64]
    matches: NDArray[np.uint16]


class Dropped(NamedTuple):
    """Near-duplicates to drop, ascending by rank, each with the kept document that stands for it."""

    rank: NDArray[np.uint64]
    kept: NDArray[np.uint64]
    matches: NDArray[np.uint16]


def shared(keys: NDArray[np.uint64], ranks: NDArray[np.uint64]) -> Shared:
    """Drop keys that only one document has. ``keys`` and ``ranks``: u64[n], one entry for a document's band.

    An entry may be repeated; it counts once. Most keys are single (some 90 %), so a counting filter goes before the
    sort.
    """
    bits = max(6, int(2 * len(keys)).bit_length())
    positions = _perhaps_shared(keys, np.uint64(64 - bits), np.zeros(1 << bits, np.uint8))
    keys, ranks = keys[positions], ranks[positions]
    order = np.argsort(keys)
    keys, ranks = keys[order], ranks[order]
    count = _keep_shared(keys, ranks)
    distinct, rows = np.unique(ranks[:count], return_inverse=True)
    return Shared(keys[:count], rows.astype(np.int64), distinct)


def unite(parent: NDArray[np.unsignedinteger], keys: NDArray[np.uint64], ranks: NDArray[np.uint64]) -> None:
    """Join the documents of each run of equal keys. ``parent``: unsigned[n], at first ``arange(n)``; changed in place.

    Afterwards documents are in one component if a chain of parents leads them to the same rank, the component's least.
    """
    _unite(parent, keys, ranks)


def deal(
    parent: NDArray[np.unsignedinteger], takes_part: NDArray[np.bool_], n_parts: int, none: int
) -> NDArray[np.uint32]:
    """The part of each rank, u32[n]: components stay whole and go by their least rank to parts of much the same size.

    ``none`` for ranks that take no part; of a component all do or none.
    """
    parts = np.full(len(parent), none, np.uint32)
    _deal(parent, takes_part, max(1, -(-int(takes_part.sum()) // n_parts)), parts)
    return parts


def link(found: Shared, sidecars: NDArray[np.uint8], parameters: MinHashParameters, cap: int = 256) -> Edges:
    """Verified edges, unique and ascending by (better, worse). ``sidecars``: u8[k, K] in the order of ``found.ranks``.

    In each bucket a document is linked to the first of the leaders (by rank) whose estimated similarity reaches the
    threshold; without one it becomes a leader itself, unless the bucket has ``cap`` leaders already.
    Raises ValueError if the sidecars' shape does not fit.
    """
    expected = (len(found.ranks), parameters.permutations)
    if sidecars.shape != expected:
        raise ValueError(f"sidecars have shape {sidecars.shape}, expected {expected}")
    better = np.empty(len(found.rows), np.int64)
    worse = np.empty(len(found.rows), np.int64)
    matches = np.empty(len(found.rows), np.uint16)
    flat = np.ascontiguousarray(sidecars).reshape(-1)
    count = _link(
        found.keys, found.rows, flat, parameters.permutations, parameters.least_matches, cap, better, worse, matches
    )
    pairs = better[:count] * len(found.ranks) + worse[:count]
    _, first = np.unique(pairs, return_index=True)
    return Edges(found.ranks[better[first]], found.ranks[worse[first]], matches[first])


def keep_greedily(edges: Edges) -> Dropped:
    """Walk the documents from the best to the worst and drop each that has an edge to a better one that is kept.

    It is credited to the kept one with the most equal bytes, the lowest rank among equals. Edges may come in any
    order and repeatedly (from several partitions). Only documents with edges take memory, some 50 bytes an edge.
    """
    ranks, nodes = np.unique(np.concatenate((edges.better, edges.worse)), return_inverse=True)
    better, worse = nodes[: len(edges.better)], nodes[len(edges.better) :]
    credited = _keep_greedily(better, worse, edges.matches, np.full(len(ranks), -1, np.int64))
    dropped = np.flatnonzero(credited >= 0)
    chosen = credited[dropped]
    return Dropped(ranks[dropped], edges.better[chosen], edges.matches[chosen])


@njit(cache=True, nogil=True)
def _perhaps_shared(keys, shift, seen):  # type: ignore[no-untyped-def]
    """Positions of keys whose slot was met more than once: all shared keys and some others."""
    for i in range(keys.size):
        slot = np.int64((keys[i] * _MIX) >> shift)
        if seen[slot] < 2:
            seen[slot] += 1
    count = 0
    for i in range(keys.size):
        count += seen[np.int64((keys[i] * _MIX) >> shift)] > 1
    positions = np.empty(count, np.int64)
    count = 0
    for i in range(keys.size):
        if seen[np.int64((keys[i] * _MIX) >> shift)] > 1:
            positions[count] = i
            count += 1
    return positions


@njit(cache=True, nogil=True)
def _keep_shared(keys, ranks):  # type: ignore[no-untyped-def]
    """Sort the ranks of each run of equal keys, drop repeated ones and then runs of one; returns how many are left."""
    kept = start = 0
    while start < keys.size:
        stop = start + 1
        while stop < keys.size and keys[stop] == keys[start]:
            stop += 1
        if stop - start > 1:
            ranks[start:stop].sort()
            if ranks[start] != ranks[stop - 1]:
                for i in range(start, stop):
                    if i == start or ranks[i] != ranks[i - 1]:
                        keys[kept], ranks[kept] = keys[i], ranks[i]
                        kept += 1
        start = stop
    return kept


@njit(cache=True, nogil=True)
def _root(parent, node):  # type: ignore[no-untyped-def]
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def _unite(parent, keys, ranks):  # type: ignore[no-untyped-def]
    for i in range(1, keys.size):
        if keys[i] == keys[i - 1]:
            a, b = _root(parent, ranks[i - 1]), _root(parent, ranks[i])
            if a != b:
                parent[max(a, b)] = min(a, b)


@njit(cache=True, nogil=True)
def _deal(parent, takes_part, per_part, parts):  # type: ignore[no-untyped-def]
    sizes = np.zeros(parent.size, np.uint32)
    for node in range(parent.size):
        if takes_part[node]:
            sizes[_root(parent, node)] += np.uint32(1)
    before = 0
    for node in range(parent.size):
        if sizes[node] > 0:
            parts[node] = before // per_part
            before += sizes[node]
    for node in range(parent.size):
        if takes_part[node]:
            parts[node] = parts[_root(parent, node)]


@njit(cache=True, nogil=True)
def _link(keys, rows, sidecars, width, least, cap, better, worse, matches):  # type: ignore[no-untyped-def]
    leaders = np.empty(cap, np.int64)
    count = n_leaders = 0
    for i in range(keys.size):
        if i == 0 or keys[i] != keys[i - 1]:
            n_leaders = 0
        row = rows[i]
        equal = -1
        for j in range(n_leaders):
            equal = 0
            for at in range(0, width, 64):
                equal += equal_bytes(sidecars, leaders[j] * width + at, sidecars, row * width + at)
            if equal >= least:
                better[count], worse[count], matches[count] = leaders[j], row, equal
                count += 1
                break
        if equal < least and n_leaders < cap:
            leaders[n_leaders] = row
            n_leaders += 1
    return count


@njit(cache=True, nogil=True)
def _keep_greedily(better, worse, matches, credited):  # type: ignore[no-untyped-def]
    """For each document the edge by which it goes, or -1; documents are numbered by rank."""
    ends = np.zeros(credited.size + 1, np.int64)
    for edge in range(worse.size):
        ends[worse[edge] + 1] += 1
    for node in range(credited.size):
        ends[node + 1] += ends[node]
    edges = np.empty(worse.size, np.int64)
    for edge in range(worse.size):
        edges[ends[worse[edge]]] = edge
        ends[worse[edge]] += 1
    first = 0
    for node in range(credited.size):
        best = -1
        for edge in edges[first : ends[node]]:
            if credited[better[edge]] < 0 and (
                best < 0
                or matches[edge] > matches[best]
                or (matches[edge] == matches[best] and better[edge] < better[best])
            ):
                best = edge
        credited[node] = best
        first = ends[node]
    return credited
