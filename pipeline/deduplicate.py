"""Deduplicate: equal texts, then MinHash near-duplicates at file level (DeepSeek-Coder, section 2.3).

Only what judging keeps is clustered. One order over all documents (longest first, then id) decides who is kept;
packed band keys travel through the shuffle, texts never. Each bucket's members are verified against its leaders by
their sidecars, and a document goes only if it is near a better one that is kept.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from filters import clusters
from filters.clusters import Dropped, Edges
from filters.minhash import MinHashParameters
from pipeline.engine import Engine
from pipeline.judge import Shard
from pipeline.passes import BuildFaultError, CheckedDoFn, Key
from pipeline.progress import Progress
from pipeline.records import Record, Stage, commit, find
from pipeline.schemas import DUPLICATES
from pipeline.store import Store, fixed_rows

MODULES = ("pipeline.deduplicate", "filters.clusters", "filters.minhash")
LIBRARIES = ("numba", "numpy")
EXACT, NEAR = "exact_duplicate", "near_duplicate"
_BLOCK = np.dtype([("key", "<u8"), ("rank", "<u8")])
_NONE = np.uint64(2**64 - 1)
_PARTITION_BYTES = 64 << 20
EDGES = pa.schema(
    [
        pa.field("better", pa.uint64(), nullable=False),
        pa.field("worse", pa.uint64(), nullable=False),
        pa.field("matches", pa.uint16(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Ranking:
    """All judged-kept documents in one order, best first: arrays of n, ``ids`` (n, 16)."""

    ids: NDArray[np.uint8]
    shard: NDArray[np.uint32]
    row: NDArray[np.uint32]
    exact_of: NDArray[np.int64]
    n_words: NDArray[np.uint32]

    def by_shard(self, n_shards: int) -> list[NDArray[np.int64]]:
        """The ranks of each shard's documents."""
        by_shard = np.argsort(self.shard, kind="stable")
        bounds = np.searchsorted(self.shard[by_shard], np.arange(n_shards + 1))
        return [by_shard[a:b] for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]


def order(ids: NDArray[np.uint8], n_chars: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Positions from best to worst: the longer text, then the lesser id."""
    words = np.ascontiguousarray(ids).view(">u8")
    return np.lexsort((words[:, 1], words[:, 0], -n_chars.astype(np.int64)))


def exact_duplicates(text_hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For hashes in rank order (n, 16): the least rank with the same hash, or -1 for the first of its kind."""
    result = np.full(len(text_hashes), -1, np.int64)
    if not len(text_hashes):
        return result
    words = np.ascontiguousarray(text_hashes).view("<u8")
    by_hash = np.lexsort((words[:, 1], words[:, 0]))
    is_first = np.concatenate([[True], (words[by_hash[1:]] != words[by_hash[:-1]]).any(axis=1)])
    leader = by_hash[np.maximum.accumulate(np.where(is_first, np.arange(len(by_hash)), 0))]
    result[by_hash[~is_first]] = leader[~is_first]
    return result


def rank(store: Store, shards: Sequence[Shard], verdicts: Sequence[Record]) -> Ranking:
    """Read ids, lengths and text hashes of what judging keeps, and order it. Some 50 bytes a document."""
    columns: dict[str, list[Any]] = {name: [] for name in ("ids", "shard", "row", "n_chars", "hashes", "n_words")}
    for number, (shard, verdict) in enumerate(zip(shards, verdicts, strict=True)):
        reasons = store.read_table(verdict.files[0].path).column("reason").to_numpy(zero_copy_only=False)
        kept = np.flatnonzero(reasons == "")
        signatures = store.read_table(shard.tables["signatures"].files[0].path, ["n_words", "text_hash"])
        measures = store.read_table(shard.tables["measures"].files[0].path, ["n_chars"])
        ids = store.read_table(shard.path, ["id"])
        columns["ids"].append(fixed_rows(ids.column("id"))[kept])
        columns["shard"].append(np.full(len(kept), number, np.uint32))
        columns["row"].append(kept.astype(np.uint32))
        columns["n_chars"].append(measures.column("n_chars").to_numpy()[kept])
        columns["hashes"].append(fixed_rows(signatures.column("text_hash"))[kept])
        columns["n_words"].append(signatures.column("n_words").to_numpy()[kept])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    best_first = order(joined["ids"], joined["n_chars"])
    exact = exact_duplicates(joined["hashes"][best_first])
    ids, of_shard, row, n_words = (joined[name][best_first] for name in ("ids", "shard", "row", "n_words"))
    return Ranking(ids, of_shard, row, exact, n_words)


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
    edges = find_edges(store, ranking, shards, parameters, engine, inputs["all"])
    dropped = clusters.keep_greedily(edges)
    rows = duplicate_rows(ranking, dropped)
    records = []
    for shard, mine in zip(shards, ranking.by_shard(len(shards)), strict=True):
        table = _table_of_shard(ranking, rows, mine, shard.rows)
        stage = stages[shard.source]
        written = store.write_table(stage.file(shard.name), DUPLICATES, [table])
        reasons = table.column("reason").value_counts().to_pylist()
        counts = {entry["values"]: entry["counts"] for entry in reasons if entry["values"]}
        records.append(
            commit(store, Record(stage, shard.name, inputs, (written,), {"duplicates": dict(sorted(counts.items()))}))
        )
    return records


def inputs_of(stages: Mapping[str, Stage], shards: Sequence[tuple[str | None, ...]]) -> dict[str, str]:
    """The inputs of every unit: the whole build. Of each shard source, name and the digests of its tables."""
    made_of = [[stage.fingerprint for stage in stages.values()], *shards]
    return {"all": hashlib.sha256(orjson.dumps(made_of)).hexdigest()}


@dataclass(frozen=True)
class DuplicateRows:
    """By rank: 0 kept, 1 exact, 2 near; the rank kept instead; matching permutations."""

    what: NDArray[np.uint8]
    kept: NDArray[np.int64]
    matches: NDArray[np.uint16]


def duplicate_rows(ranking: Ranking, dropped: Dropped) -> DuplicateRows:
    """Join near and exact duplicates; an exact duplicate of a dropped document points to the one that is kept."""
    n = len(ranking.ids)
    what, kept, matches = np.zeros(n, np.uint8), np.arange(n), np.zeros(n, np.uint16)
    near = dropped.rank.astype(np.int64)
    what[near], kept[near], matches[near] = 2, dropped.kept.astype(np.int64), dropped.matches
    exact = np.flatnonzero(ranking.exact_of >= 0)
    first = ranking.exact_of[exact]
    what[exact], kept[exact], matches[exact] = 1, kept[first], matches[first]
    return DuplicateRows(what, kept, matches)


def _table_of_shard(ranking: Ranking, rows: DuplicateRows, mine: NDArray[np.int64], n_rows: int) -> pa.RecordBatch:
    place = ranking.row[mine]
    what, matches = np.zeros(n_rows, np.uint8), np.zeros(n_rows, np.uint16)
    kept = np.full(n_rows, -1, np.int64)
    what[place], matches[place], kept[place] = rows.what[mine], rows.matches[mine], rows.kept[mine]
    names = np.array(["", EXACT, NEAR], object)[what]
    ids = [ranking.ids[k].tobytes() if w else None for k, w in zip(kept.tolist(), what.tolist(), strict=True)]
    columns = [pa.array(names, pa.string()), pa.array(ids, pa.binary(16)), pa.array(matches)]
    return pa.RecordBatch.from_arrays(columns, schema=DUPLICATES)


def find_edges(
    store: Store, ranking: Ranking, shards: Sequence[Shard], parameters: MinHashParameters, engine: Engine, key: str
) -> Edges:
    """One pass over packed signatures: band keys are grouped by partition, each partition writes verified edges."""
    work = Stage(f"work/edges-{key[:16]}", "partitions")
    takes_part = (ranking.exact_of < 0) & (ranking.n_words > 0)
    n_bytes = int(takes_part.sum()) * parameters.bands * _BLOCK.itemsize
    partitions = max(4, -(-n_bytes // _PARTITION_BYTES))
    inputs = {"all": key, "partitions": str(partitions)}
    units: list[dict[str, Any]] = [{"unit": f"{p:05d}", "size": n_bytes // partitions} for p in range(partitions)]
    missing = [p for p in range(partitions) if find(store, work, f"{p:05d}", inputs) is None]
    if missing:
        specification = _write_specification(store, work, ranking, takes_part, shards)
        map_, reduce = (
            _Map(store, specification, parameters, partitions, missing),
            _Reduce(store, work, specification, parameters, inputs),
        )
        done = lambda unit: find(store, work, unit["unit"], inputs) is not None  # noqa: E731
        with Progress("deduplicate", [units[p] for p in missing], done, engine.quiet), engine.watch():
            try:
                with engine.pipeline() as pipeline:
                    _ = (
                        pipeline
                        | "Shards" >> beam.Create(range(len(shards)), reshuffle=False)
                        | "Key" >> beam.ParDo(Key())
                        | "Spread" >> beam.GroupByKey()
                        | "Band keys" >> beam.ParDo(map_)
                        | "Buckets" >> beam.GroupByKey()
                        | "Verify" >> beam.ParDo(reduce)
                    )
            except Exception as error:
                raise engine.explain(error) from error
        lost = [u["unit"] for u in units if not done(u)]
        if lost:
            raise BuildFaultError(
                f"deduplicate: partitions {', '.join(lost)} stayed incomplete; run the same command again"
            )
    tables = [store.read_table(work.file(unit["unit"])) for unit in units]
    edges = pa.concat_tables(tables)
    result = Edges(*(edges.column(name).to_numpy() for name in EDGES.names))
    store.remove_folder(work.role)
    return _unique(result)


def _unique(edges: Edges) -> Edges:
    """Edges of all partitions, sorted, each once (two documents may share buckets in several partitions)."""
    by_pair = np.lexsort((edges.worse, edges.better))
    better, worse, matches = edges.better[by_pair], edges.worse[by_pair], edges.matches[by_pair]
    is_new = np.ones(len(better), bool)
    is_new[1:] = (better[1:] != better[:-1]) | (worse[1:] != worse[:-1])
    return Edges(better[is_new], worse[is_new], matches[is_new])


def _write_specification(
    store: Store, work: Stage, ranking: Ranking, takes_part: NDArray[np.bool_], shards: Sequence[Shard]
) -> str:
    """Files that the workers share: the rank of every row of every shard, and where the document of a rank lies."""
    for number, (shard, ranks) in enumerate(zip(shards, ranking.by_shard(len(shards)), strict=True)):
        mine = ranks[takes_part[ranks]]
        of_row = np.full(shard.rows, _NONE)
        of_row[ranking.row[mine]] = mine.astype(np.uint64)
        _save(store, work.file(f"ranks-{number:06d}", ".npy"), of_row)
    _save(store, work.file("where", ".npy"), np.stack([ranking.shard, ranking.row]))
    path = work.file("shards", ".specification")
    store.write_json(
        path, {"signatures": [s.tables["signatures"].files[0].path for s in shards], "directory": work.directory}
    )
    return path


@beam.typehints.with_input_types(tuple[int, Iterable[int]])
@beam.typehints.with_output_types(tuple[int, bytes])
class _Map(CheckedDoFn):
    """The band keys of a shard, packed by partition: 16 bytes for each document and band."""

    def __init__(
        self, store: Store, specification: str, parameters: MinHashParameters, partitions: int, wanted: Sequence[int]
    ):
        super().__init__(LIBRARIES)
        self._store, self._path, self._parameters = store, specification, parameters
        self._partitions, self._wanted = partitions, frozenset(wanted)

    def setup(self) -> None:
        super().setup()
        self._specification = self._store.read_json(self._path)

    def process(self, element: tuple[int, Iterable[int]]) -> Iterator[tuple[int, bytes]]:
        for number in element[1]:
            ranks = _load(self._store, f"{self._specification['directory']}/ranks-{number:06d}.npy")
            rows = np.flatnonzero(ranks != _NONE)
            table = self._store.read_table(self._specification["signatures"][number], ["keys"])
            keys = fixed_rows(table.column("keys"))[rows].view("<u8")
            block = np.empty(keys.size, _BLOCK)
            block["key"], block["rank"] = keys.ravel(), np.repeat(ranks[rows], self._parameters.bands)
            partition = (block["key"] >> np.uint64(32)) % np.uint64(self._partitions)
            by_partition = np.argsort(partition, kind="stable")
            bounds = np.searchsorted(partition[by_partition], np.arange(self._partitions + 1))
            for p in range(self._partitions):
                if p in self._wanted:
                    yield p, block[by_partition[bounds[p] : bounds[p + 1]]].tobytes()


@beam.typehints.with_input_types(tuple[int, Iterable[bytes]])
@beam.typehints.with_output_types(int)
class _Reduce(CheckedDoFn):
    """Group the keys of a partition into buckets, verify against leaders, write the edges."""

    def __init__(
        self, store: Store, stage: Stage, specification: str, parameters: MinHashParameters, inputs: Mapping[str, str]
    ):
        super().__init__(LIBRARIES)
        self._store, self._stage, self._path = store, stage, specification
        self._parameters, self._inputs = parameters, dict(inputs)

    def setup(self) -> None:
        super().setup()
        self._specification = self._store.read_json(self._path)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[int]:
        partition, blocks = element
        unit = f"{partition:05d}"
        if find(self._store, self._stage, unit, self._inputs) is None:
            block = np.frombuffer(b"".join(blocks), _BLOCK)
            edges = self._edges(np.ascontiguousarray(block["key"]), np.ascontiguousarray(block["rank"]))
            columns = [pa.array(edges.better), pa.array(edges.worse), pa.array(edges.matches)]
            rows = pa.RecordBatch.from_arrays(columns, schema=EDGES)
            written = self._store.write_table(self._stage.file(unit), EDGES, [rows])
            commit(self._store, Record(self._stage, unit, self._inputs, (written,), {"edges": written.rows}))
        return iter(())

    def _edges(self, keys: NDArray[np.uint64], ranks: NDArray[np.uint64]) -> Edges:
        found = clusters.shared(keys, ranks)
        return clusters.link(found, self._sidecars(found.ranks), self._parameters)

    def _sidecars(self, ranks: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """The sidecars of these ranks (k, permutations), read from the shards that hold them."""
        shard, row = _load(self._store, f"{self._specification['directory']}/where.npy")[:, ranks.astype(np.int64)]
        result = np.empty((len(ranks), self._parameters.permutations), np.uint8)
        for number in np.unique(shard).tolist():
            mine = shard == number
            table = self._store.read_table(self._specification["signatures"][number], ["sidecar"])
            result[mine] = fixed_rows(table.column("sidecar"))[row[mine]]
        return result


def _save(store: Store, path: str, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    store.write(path, buffer.getvalue())


def _load(store: Store, path: str) -> NDArray[Any]:
    if store.is_local:
        return np.asarray(np.load(store.full(path), mmap_mode="r"))
    return np.asarray(np.load(io.BytesIO(store.read(path))))
