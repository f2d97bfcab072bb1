"""Deduplicate: equal texts, then MinHash near-duplicates at file level (DeepSeek-Coder, section 2.3).

Only what judging keeps is clustered. One order over all documents (longest first, then id) decides who is kept; what is
near a better one that is kept goes (:mod:`pipeline.cluster`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.clusters import Dropped
from filters.minhash import MinHashParameters
from pipeline.cluster import NO_RANK, near_duplicates
from pipeline.engine import Engine
from pipeline.judge import Shard
from pipeline.records import Record, Stage, commit, find
from pipeline.schemas import DUPLICATES
from pipeline.store import Store, fixed_rows

MODULES = ("pipeline.deduplicate", "filters.clusters", "filters.minhash")
EXACT, NEAR = "exact_duplicate", "near_duplicate"
_REASONS = ("", EXACT, NEAR)


@dataclass(frozen=True)
class Ranking:
    """The n documents that judging keeps, shard after shard, and their ranks: 0 is the best.

    By position: ``ids`` (n, 16), ``row`` in the shard, ``has_words``, ``rank``. ``bounds``: the first position of each
    shard, and n. By rank: ``at``, its position; ``exact_of``, the best rank of equal text, or -1.
    """

    ids: NDArray[np.uint8]
    row: NDArray[np.uint32]
    has_words: NDArray[np.bool_]
    bounds: NDArray[np.int64]
    at: NDArray[np.int64]
    rank: NDArray[np.int64]
    exact_of: NDArray[np.int64]


def order(ids: NDArray[np.uint8], n_chars: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Positions from best to worst: the longer text, then the lesser id."""
    words = np.ascontiguousarray(ids).view(">u8")
    return np.lexsort((words[:, 1], words[:, 0], -n_chars.astype(np.int64)))


def exact_duplicates(text_hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For hashes in rank order (n, 16): the least rank with the same hash, or -1 for the first of its kind."""
    words = np.ascontiguousarray(text_hashes).view("<u8")
    by_hash = np.lexsort((words[:, 1], words[:, 0]))
    words = words[by_hash]
    is_first = np.ones(len(by_hash), bool)
    is_first[1:] = (words[1:, 0] != words[:-1, 0]) | (words[1:, 1] != words[:-1, 1])
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(by_hash)), 0))
    result = np.full(len(by_hash), -1, np.int64)
    result[by_hash[~is_first]] = by_hash[first[~is_first]]
    return result


def rank(store: Store, shards: Sequence[Shard], verdicts: Sequence[Record]) -> Ranking:
    """Read ids, lengths and text hashes of what judging keeps, and order it. Some 80 bytes a document at the peak."""
    counts = [verdict.counts["outcomes"].get("", 0) for verdict in verdicts]
    bounds = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    n = int(bounds[-1])
    ids, hashes = np.empty((n, 16), np.uint8), np.empty((n, 16), np.uint8)
    row, n_chars, has_words = np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, bool)
    for number, (shard, verdict) in enumerate(zip(shards, verdicts, strict=True)):
        mine = slice(bounds[number], bounds[number + 1])
        kept = np.flatnonzero(pc.equal(store.read_table(verdict.files[0].path).column("reason"), "").to_numpy())
        signatures = store.read_table(shard.tables["signatures"].files[0].path, ["n_words", "text_hash"])
        measures = store.read_table(shard.tables["measures"].files[0].path, ["n_chars"])
        ids[mine] = fixed_rows(store.read_table(shard.path, ["id"]).column("id"))[kept]
        hashes[mine] = fixed_rows(signatures.column("text_hash"))[kept]
        row[mine], n_chars[mine] = kept, measures.column("n_chars").to_numpy()[kept]
        has_words[mine] = signatures.column("n_words").to_numpy()[kept] > 0
    at = order(ids, n_chars)
    hashes = hashes[at]
    return Ranking(ids, row, has_words, bounds, at, _inverse(at), exact_duplicates(hashes))


def _inverse(at: NDArray[np.int64]) -> NDArray[np.int64]:
    result = np.empty(len(at), np.int64)
    result[at] = np.arange(len(at))
    return result


def deduplicate(
    store: Store,
    stages: Mapping[str, Stage],
    shards: Sequence[Shard],
    verdicts: Sequence[Record],
    parameters: MinHashParameters,
    engine: Engine,
) -> list[Record]:
    """Find duplicates over the whole build and write a table beside every shard."""
    signed = [(s.source, s.name, s.digest, s.tables["signatures"].digest) for s in shards]
    inputs = inputs_of(stages, [(*s, v.digest) for s, v in zip(signed, verdicts, strict=True)])
    known = [find(store, stages[shard.source], shard.name, inputs) for shard in shards]
    if all(record is not None for record in known):
        return [record for record in known if record is not None]
    ranking = rank(store, shards, verdicts)
    files = [shard.tables["signatures"].files[0].path for shard in shards]
    ranks = ranks_of_rows(ranking, [shard.rows for shard in shards])
    rows = duplicate_rows(ranking, near_duplicates(store, files, ranks, parameters, engine, inputs["all"]))
    del ranks
    return [_write(store, stages[s.source], s, inputs, _table(ranking, rows, n, s.rows)) for n, s in enumerate(shards)]


def _write(store: Store, stage: Stage, shard: Shard, inputs: Mapping[str, str], table: pa.RecordBatch) -> Record:
    written = store.write_table(stage.file(shard.name), DUPLICATES, [table])
    reasons = table.column("reason").value_counts().to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in reasons if entry["values"]}
    return commit(store, Record(stage, shard.name, inputs, (written,), {"duplicates": dict(sorted(counts.items()))}))


def inputs_of(stages: Mapping[str, Stage], shards: Sequence[tuple[str | None, ...]]) -> dict[str, str]:
    """The inputs of every unit: the whole build. Of each shard source, name and the digests of its tables."""
    made_of = [[stage.fingerprint for stage in stages.values()], *shards]
    return {"all": hashlib.sha256(orjson.dumps(made_of)).hexdigest()}


def ranks_of_rows(ranking: Ranking, rows: Sequence[int]) -> list[NDArray[np.uint64]]:
    """For each shard (of so many rows) the rank of every row that is clustered, elsewhere ``NO_RANK``.

    Left out are what judging drops, equal texts but the best, and texts without a word, which resemble nothing.
    """
    takes_part = ranking.has_words & (ranking.exact_of[ranking.rank] < 0)
    result = []
    for number, n_rows in enumerate(rows):
        mine = np.arange(ranking.bounds[number], ranking.bounds[number + 1])
        mine = mine[takes_part[mine]]
        ranks = np.full(n_rows, NO_RANK)
        ranks[ranking.row[mine]] = ranking.rank[mine]
        result.append(ranks)
    return result


@dataclass(frozen=True)
class DuplicateRows:
    """By rank: 0 kept, 1 exact, 2 near; the rank kept instead; matching permutations."""

    what: NDArray[np.uint8]
    kept: NDArray[np.int64]
    matches: NDArray[np.uint16]


def duplicate_rows(ranking: Ranking, dropped: Dropped) -> DuplicateRows:
    """Join near and exact duplicates; an exact duplicate of a dropped document points to the one that is kept."""
    n = len(ranking.at)
    what, kept, matches = np.zeros(n, np.uint8), np.arange(n), np.zeros(n, np.uint16)
    near = dropped.rank.astype(np.int64)
    what[near], kept[near], matches[near] = 2, dropped.kept.astype(np.int64), dropped.matches
    exact = np.flatnonzero(ranking.exact_of >= 0)
    first = ranking.exact_of[exact]
    what[exact], kept[exact], matches[exact] = 1, kept[first], matches[first]
    return DuplicateRows(what, kept, matches)


def _table(ranking: Ranking, rows: DuplicateRows, number: int, n_rows: int) -> pa.RecordBatch:
    mine = slice(ranking.bounds[number], ranking.bounds[number + 1])
    place, ranks = ranking.row[mine], ranking.rank[mine]
    what, matches, kept = np.zeros(n_rows, np.uint8), np.zeros(n_rows, np.uint16), np.zeros((n_rows, 16), np.uint8)
    what[place], matches[place] = rows.what[ranks], rows.matches[ranks]
    kept[place] = ranking.ids[ranking.at[rows.kept[ranks]]]
    is_null = what == 0
    ids = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), n_rows, [pa.array(~is_null).buffers()[1], pa.py_buffer(kept)], int(is_null.sum())
    )
    names = pa.DictionaryArray.from_arrays(pa.array(what), pa.array(_REASONS)).cast(pa.string())
    return pa.RecordBatch.from_arrays([names, ids, pa.array(matches)], schema=DUPLICATES)
