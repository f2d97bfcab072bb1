"""Cluster: from packed signatures to near-duplicates, in one pass of five steps that hand files to each other.

    keys        every document's band keys, by the partition of the key
    buckets     in each partition, the keys that several documents share
    components  documents that share keys, directly or by others, belong together; components are dealt out to parts
    gather      the buckets and the sidecars of each part
    verify      in each part: sidecars against the leaders of each bucket, then greedy keeping

No step holds more than a share of the documents but ``components``, which holds some 13 bytes for each. The greedy
choice needs the edges of a component only, so it is made where the component lies, and its result is that of all
documents at once, whatever the numbers of partitions and parts.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import clusters
from filters.clusters import Dropped
from filters.minhash import MinHashParameters
from pipeline.blocks import read_blocks, write_blocks
from pipeline.engine import Engine
from pipeline.passes import Step, run_pass
from pipeline.records import Record, Stage, commit, find
from pipeline.store import Store, Written, fixed_rows

LIBRARIES = ("numba", "numpy")
NO_RANK = np.uint64(2**64 - 1)
STEPS: tuple["StepName", ...] = ("keys", "buckets", "components", "gather", "verify")
_NO_PART = np.uint32(2**32 - 1)
_KEY = np.dtype([("key", "<u8"), ("rank", "<u8")])
_BLOCK_BYTES = 128 << 20
_LEAST = 4
_DROPPED = pa.schema(
    [
        pa.field("rank", pa.uint64(), nullable=False),
        pa.field("kept", pa.uint64(), nullable=False),
        pa.field("matches", pa.uint16(), nullable=False),
    ]
)

StepName = Literal["keys", "buckets", "components", "gather", "verify"]


@dataclass(frozen=True)
class Layout:
    """How the work is divided; decides no result. ``rows``: documents that take part."""

    rows: int
    groups: int
    partitions: int
    parts: int

    def units(self, step: StepName) -> list[str]:
        """The names of the units of a step."""
        groups = [f"group-{g:05d}" for g in range(self.groups)]
        partitions = [f"partition-{p:05d}" for p in range(self.partitions)]
        if step == "verify":
            return [f"part-{v:05d}" for v in range(self.parts)]
        return {"keys": groups, "buckets": partitions, "components": ["all"], "gather": groups + partitions}[step]


def divide(rows: Sequence[int], parameters: MinHashParameters) -> tuple[Layout, list[slice]]:
    """From the documents that take part of each signature file: the layout, and the files of each group.

    No unit's input passes some 128 MB, unless a file or a component of documents is larger.
    """
    total, width = sum(rows), parameters.bands * _KEY.itemsize
    bounds, room = [0], min(_BLOCK_BYTES, total * width // _LEAST)
    for number, n in enumerate(rows):
        if n * width > room and number > bounds[-1]:
            bounds.append(number)
            room = min(_BLOCK_BYTES, total * width // _LEAST)
        room -= n * width
    groups = [slice(first, last) for first, last in zip(bounds, [*bounds[1:], len(rows)], strict=True)]
    partitions = max(_LEAST, -(-total * width // _BLOCK_BYTES))
    parts = max(_LEAST, -(-total * parameters.permutations // _BLOCK_BYTES))
    return Layout(total, len(groups), partitions, parts), groups


def near_duplicates(
    store: Store,
    files: Sequence[str],
    ranks: Sequence[NDArray[np.uint64]],
    parameters: MinHashParameters,
    engine: Engine,
    key: str,
) -> Dropped:
    """The near-duplicates among the documents of some signature files, by rank (the lower the better, dense from 0).

    ``ranks`` has for each file the rank of every row, or ``NO_RANK`` where it takes no part; ``key`` names the input.
    """
    layout, groups = divide([int((mine != NO_RANK).sum()) for mine in ranks], parameters)
    if not layout.rows:
        return Dropped(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint16))
    n_ranks = 1 + max(int(mine[mine != NO_RANK].max(initial=0)) for mine in ranks)
    folder = f"work/cluster-{key[:16]}-{layout.groups}-{layout.partitions}-{layout.parts}"
    work = _Cluster(store, "keys", folder, {"all": key}, layout, parameters, n_ranks)
    if not work.is_done("components"):
        for name, group in zip(layout.units("keys"), groups, strict=True):
            _save(store, work.ranks_of(name), np.concatenate(ranks[group]))
    run_pass("deduplicate", [work.step(name, [files[group] for group in groups]) for name in STEPS], engine, LIBRARIES)
    verified = work.stage("verify")
    table = pa.concat_tables([store.read_table(verified.file(unit)) for unit in layout.units("verify")])
    by_rank = np.argsort(table.column("rank").to_numpy())
    store.remove_folder(work.folder)
    return Dropped(*(table.column(name).to_numpy()[by_rank] for name in _DROPPED.names))


@dataclass(frozen=True)
class _Cluster:
    """The work of one step."""

    store: Store
    name: StepName
    folder: str
    inputs: Mapping[str, str]
    layout: Layout
    parameters: MinHashParameters
    n_ranks: int

    def stage(self, step: StepName) -> Stage:
        return Stage(self.folder, step)

    def is_done(self, step: StepName) -> bool:
        return all(replace(self, name=step).has(unit) for unit in self.layout.units(step))

    def has(self, unit: str) -> bool:
        """Whether the unit of this step is done. Band keys go when the components are there."""
        if find(self.store, self.stage(self.name), unit, self.inputs) is not None:
            return True
        return self.name == "keys" and self.is_done("components")

    def ranks_of(self, group: str) -> str:
        return f"{self.folder}/ranks-{group}.npy"

    def step(self, name: StepName, files: Sequence[Sequence[str]]) -> Step:
        """The step as a part of a pass; ``files``: those of each group."""
        work, units = replace(self, name=name), self.layout.units(name)
        size = self.layout.rows * self.parameters.bands * _KEY.itemsize // len(units)
        specifications: list[dict[str, Any]] = [
            {"unit": unit, "number": number, "size": size} for number, unit in enumerate(units)
        ]
        if name in ("keys", "gather"):
            for specification, group in zip(specifications, files, strict=False):
                specification["files"] = list(group)
        return Step(f"deduplicate-{name}", work, specifications, lambda unit: work.has(unit["unit"]))

    def setup(self) -> None:
        """Nothing is heavy."""

    def run(self, specification: dict[str, Any]) -> int:
        """Do one unit of the step and commit it; gives the bytes handed on. No text passes."""
        unit, number = specification["unit"], specification["number"]
        if self.has(unit):
            return 0
        if self.name == "keys":
            record = self._keys(unit, specification["files"])
        elif self.name == "buckets":
            record = self._buckets(unit, number)
        elif self.name == "components":
            record = self._components(unit)
        elif self.name == "gather" and "files" in specification:
            record = self._sidecars(unit, specification["files"])
        elif self.name == "gather":
            record = self._shared(unit)
        else:
            record = self._verify(unit, number)
        return sum(file.size for file in record.files)

    def _write(self, unit: str, rows: NDArray[Any], destinations: NDArray[Any], n_destinations: int) -> Record:
        return write_blocks(self.store, self.stage(self.name), unit, self.inputs, rows, destinations, n_destinations)

    def _keys(self, unit: str, files: Sequence[str]) -> Record:
        ranks = _load(self.store, self.ranks_of(unit))
        rows = np.flatnonzero(ranks != NO_RANK)
        keys = [fixed_rows(self.store.read_table(path, ["keys"]).column("keys")) for path in files]
        block = np.empty(len(rows) * self.parameters.bands, _KEY)
        block["key"] = np.concatenate(keys)[rows].view("<u8").ravel()
        block["rank"] = np.repeat(ranks[rows], self.parameters.bands)
        partition = (block["key"] >> np.uint64(32)) % np.uint64(self.layout.partitions)
        return self._write(unit, block, partition, self.layout.partitions)

    def _buckets(self, unit: str, number: int) -> Record:
        block = read_blocks(self.store, self.stage("keys"), self.layout.units("keys"), number, _KEY)
        found = clusters.shared(np.ascontiguousarray(block["key"]), np.ascontiguousarray(block["rank"]))
        shared = np.empty(len(found.keys), _KEY)
        shared["key"], shared["rank"] = found.keys, found.ranks[found.rows]
        return self._write(unit, shared, np.zeros(len(shared), np.uint8), 1)

    def _components(self, unit: str) -> Record:
        """Write the part of every row and key, and let the band keys go."""
        parent: NDArray[Any] = np.arange(self.n_ranks, dtype=np.uint32 if self.n_ranks < 2**32 else np.uint64)
        is_shared = np.zeros(self.n_ranks, bool)
        for bucket in self.layout.units("buckets"):
            block = read_blocks(self.store, self.stage("buckets"), [bucket], 0, _KEY)
            ranks = np.ascontiguousarray(block["rank"])
            clusters.unite(parent, np.ascontiguousarray(block["key"]), ranks)
            is_shared[ranks.astype(np.int64)] = True
        parts = clusters.deal(parent, is_shared, self.layout.parts, int(_NO_PART))
        written = []
        for group in self.layout.units("keys"):
            ranks = _load(self.store, self.ranks_of(group))
            of_row = np.full(len(ranks), _NO_PART)
            rows = np.flatnonzero(ranks != NO_RANK)
            of_row[rows] = parts[ranks[rows].astype(np.int64)]
            written.append(_save(self.store, self._parts_of(group), of_row))
        for bucket in self.layout.units("buckets"):
            ranks = read_blocks(self.store, self.stage("buckets"), [bucket], 0, _KEY)["rank"]
            written.append(_save(self.store, self._parts_of(bucket), parts[ranks.astype(np.int64)]))
        record = commit(self.store, Record(self.stage(self.name), unit, self.inputs, tuple(written), {}))
        self.store.remove_folder(self.stage("keys").directory)
        return record

    def _parts_of(self, unit: str) -> str:
        """The part of every row of a group, or of every key of a partition."""
        return self.stage("components").file(f"parts-{unit}", ".npy")

    def _sidecars(self, unit: str, files: Sequence[str]) -> Record:
        ranks, parts, first = _load(self.store, self.ranks_of(unit)), _load(self.store, self._parts_of(unit)), 0
        blocks, destinations = [np.empty(0, self._sidecar)], [np.empty(0, np.uint32)]
        for path in files:
            table = self.store.read_table(path, ["sidecar"])
            mine = slice(first, first + table.num_rows)
            rows = np.flatnonzero(parts[mine] != _NO_PART)
            block = np.empty(len(rows), self._sidecar)
            block["rank"], block["sidecar"] = ranks[mine][rows], fixed_rows(table.column("sidecar"))[rows]
            blocks.append(block)
            destinations.append(parts[mine][rows])
            first += table.num_rows
        return self._write(unit, np.concatenate(blocks), np.concatenate(destinations), self.layout.parts)

    def _shared(self, unit: str) -> Record:
        block = read_blocks(self.store, self.stage("buckets"), [unit], 0, _KEY)
        return self._write(unit, block, _load(self.store, self._parts_of(unit)), self.layout.parts)

    @property
    def _sidecar(self) -> np.dtype[Any]:
        return np.dtype([("rank", "<u8"), ("sidecar", "u1", (self.parameters.permutations,))])

    def _verify(self, unit: str, number: int) -> Record:
        gathered, layout = self.stage("gather"), self.layout
        block = read_blocks(self.store, gathered, layout.units("buckets"), number, _KEY)
        found = clusters.shared(np.ascontiguousarray(block["key"]), np.ascontiguousarray(block["rank"]))
        sidecars = read_blocks(self.store, gathered, layout.units("keys"), number, self._sidecar)
        by_rank = np.argsort(sidecars["rank"])
        if not np.array_equal(sidecars["rank"][by_rank], found.ranks):
            raise AssertionError(f"{unit}: {len(found.ranks)} documents in buckets, {len(sidecars)} sidecars")
        edges = clusters.link(found, sidecars["sidecar"][by_rank], self.parameters)
        dropped = clusters.keep_greedily(edges)
        rows = pa.RecordBatch.from_arrays([pa.array(column) for column in dropped], schema=_DROPPED)
        stage = self.stage(self.name)
        written = self.store.write_table(stage.file(unit), _DROPPED, [rows])
        return commit(self.store, Record(stage, unit, self.inputs, (written,), {"edges": len(edges.better)}))


def _save(store: Store, path: str, array: NDArray[Any]) -> Written:
    buffer = io.BytesIO()
    np.save(buffer, array)
    store.write(path, buffer.getvalue())
    return Written(path, len(array), "", buffer.tell(), "")


def _load(store: Store, path: str) -> NDArray[Any]:
    if store.is_local:
        return np.asarray(np.load(store.full(path), mmap_mode="r"))
    return np.asarray(np.load(io.BytesIO(store.read(path))))
