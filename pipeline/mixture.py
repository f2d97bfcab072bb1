"""Select and plan: from token counts to sequences, reading tables only.

``select`` decides which samples may be trained on (caps); ``plan`` packs them into sequences of L tokens, best-fit in a
keyed order; the weights of the components are left to the loader (DeepSeek-Coder-V2, section 2: 60 % code, 10 % math,
30 % natural language).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from filters.keyed import keyed_u64_batch
from pipeline.manifest import Manifest
from pipeline.packing import best_fit, cut
from pipeline.records import Record, Stage, commit, find
from pipeline.schemas import PLAN, SELECTION
from pipeline.store import Store, fixed_rows
from pipeline.token_shards import TokenShard

SELECT_MODULES = ("pipeline.mixture",)
PLAN_MODULES = ("pipeline.mixture", "pipeline.packing")
CAP = "origin_cap"
_SEQUENCES_PER_BATCH = 65_536
_WINDOW = 16_384


@dataclass(frozen=True)
class Samples:
    """Every sample of the build in columns: ``ids`` (n, 16) uint8; ``shard`` and ``row`` say where its tokens lie."""

    ids: NDArray[np.uint8]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]
    n_tokens: NDArray[np.int64]
    component: NDArray[np.int64]
    split: NDArray[np.int64]
    origin: NDArray[np.int64]
    is_fim: NDArray[np.bool_]
    components: tuple[str, ...]
    splits: tuple[str, ...]

    def where(self, rows: NDArray[Any]) -> "Samples":
        """Some of the samples."""
        columns = (self.ids, self.shard, self.row, self.n_tokens, self.component, self.split, self.origin, self.is_fim)
        ids, shard, row, n_tokens, component, split, origin, is_fim = (column[rows] for column in columns)
        return Samples(ids, shard, row, n_tokens, component, split, origin, is_fim, self.components, self.splits)


def read_samples(store: Store, shards: Sequence[Record]) -> Samples:
    """Read the small columns of every token shard; component, split and (source, origin) become numbers."""
    columns = ["sample_id", "n_tokens", "component", "split", "source", "origin", "fim"]
    numbers = {"component": _Numbers(), "split": _Numbers(), "origin": _Numbers()}
    parts: dict[str, list[Any]] = {name: [] for name in ("ids", "shard", "row", "n_tokens", "fim", *numbers)}
    for number, record in enumerate(shards):
        row = 0
        for batch in store.batches(record.files[0].path, columns):
            parts["ids"].append(fixed_rows(batch.column("sample_id")))
            parts["shard"].append(np.full(batch.num_rows, number, np.int64))
            parts["row"].append(np.arange(row, row + batch.num_rows))
            parts["n_tokens"].append(batch.column("n_tokens").to_numpy().astype(np.int64))
            parts["fim"].append(batch.column("fim").to_numpy(zero_copy_only=False))
            sources, origins = batch.column("source").to_pylist(), batch.column("origin").to_pylist()
            joined = pa.array([f"{s}\0{o}" for s, o in zip(sources, origins, strict=True)], pa.string())
            parts["origin"].append(numbers["origin"].of(joined))
            for name in ("component", "split"):
                parts[name].append(numbers[name].of(batch.column(name)))
            row += batch.num_rows
    empty = {"ids": np.empty((0, 16), np.uint8), "fim": np.empty(0, bool)}
    joined_parts = {
        name: np.concatenate([*chunks, empty.get(name, np.empty(0, np.int64))]) for name, chunks in parts.items()
    }
    return Samples(
        joined_parts["ids"],
        joined_parts["shard"],
        joined_parts["row"],
        joined_parts["n_tokens"],
        joined_parts["component"],
        joined_parts["split"],
        joined_parts["origin"],
        joined_parts["fim"],
        numbers["component"].names,
        numbers["split"].names,
    )


class _Numbers:
    """Numbers strings in the order in which they come; the numbers serve grouping only, never an order."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._seen)

    def of(self, values: pa.Array) -> NDArray[np.int64]:
        encoded = values.dictionary_encode()
        known = [self._seen.setdefault(value, len(self._seen)) for value in encoded.dictionary.to_pylist()]
        return np.asarray(np.array(known, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)])


def over_cap(samples: Samples, cap: int | None, seed: int) -> NDArray[np.bool_]:
    """Which samples exceed the cap of their origin in their component: taken in keyed order until it is reached."""
    if cap is None or not len(samples.ids):
        return np.zeros(len(samples.ids), bool)
    order = _keyed_order(samples.ids, seed, "cap", (samples.origin, samples.component))
    group = np.stack([samples.origin[order], samples.component[order]])
    is_first = np.concatenate([[True], (group[:, 1:] != group[:, :-1]).any(axis=0)])
    running = np.cumsum(samples.n_tokens[order])
    before = running - samples.n_tokens[order]
    start = np.maximum.accumulate(np.where(is_first, before, 0))
    result = np.zeros(len(order), bool)
    result[order] = running - start > cap
    return result


def select(
    store: Store, stages: Mapping[str, Stage], tokens: Sequence[tuple[str, str, Record]], manifest: Manifest
) -> tuple[Samples, list[Record]]:
    """Write why each sample is left out, beside its token shard; gives the selected samples and the records.

    ``tokens`` are (source, shard name, record) in a fixed order.
    """
    samples = read_samples(store, [record for _, _, record in tokens])
    is_over = over_cap(samples, manifest.mixture.max_tokens_per_origin, manifest.seed)
    bounds = np.searchsorted(samples.shard, np.arange(len(tokens) + 1))
    records = []
    for number, (source, name, record) in enumerate(tokens):
        reasons = np.where(is_over[bounds[number] : bounds[number + 1]], CAP, "")
        rows = pa.RecordBatch.from_arrays([pa.array(reasons, pa.string())], schema=SELECTION)
        inputs = {"tokens": record.digest, "reasons": hashlib.sha256(orjson.dumps(reasons.tolist())).hexdigest()}
        stage = stages[source]
        known = find(store, stage, name, inputs)
        if known is None:
            written = store.write_table(stage.file(name), SELECTION, [rows])
            rows_here = slice(bounds[number], bounds[number + 1])
            dropped = int(samples.n_tokens[rows_here][is_over[rows_here]].sum())
            counts = {"dropped": int((reasons == CAP).sum()), "dropped_tokens": dropped}
            known = commit(store, Record(stage, name, inputs, (written,), counts))
        records.append(known)
    return samples.where(~is_over), records


@dataclass(frozen=True)
class Pieces:
    """Runs of tokens to be packed, in stream order: sample number, first token, length."""

    sample: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


def pieces_of(
    samples: Samples, length: int, line_ends: NDArray[np.bool_], shard_of: Callable[[int], TokenShard]
) -> Pieces:
    """Samples longer than ``length`` are cut at line ends; all others stay whole."""
    is_long = samples.n_tokens > length
    if (is_long & samples.is_fim).any():
        raise AssertionError("a sample with FIM is longer than a sequence")
    counts = np.ones(len(samples.ids), np.int64)
    starts_of: dict[int, NDArray[np.int64]] = {}
    long_ones = np.flatnonzero(is_long)
    for i in long_ones[np.argsort(samples.shard[long_ones], kind="stable")].tolist():
        tokens = shard_of(int(samples.shard[i])).tokens(int(samples.row[i]))
        starts_of[i] = cut(len(tokens), np.flatnonzero(line_ends[tokens]) + 1, length)
        counts[i] = len(starts_of[i])
    first = np.concatenate([[0], np.cumsum(counts)])
    start = np.zeros(first[-1], np.int64)
    size = np.repeat(samples.n_tokens, counts)
    for i, starts in starts_of.items():
        start[first[i] : first[i + 1]] = starts
        size[first[i] : first[i + 1]] = np.diff([*starts, samples.n_tokens[i]])
    return Pieces(np.repeat(np.arange(len(counts)), counts), start, size)


def plan(
    store: Store,
    stage: Stage,
    samples: Samples,
    tokens: Sequence[tuple[str, str, Record]],
    line_ends: NDArray[np.bool_],
    manifest: Manifest,
) -> list[Record]:
    """Pack the selected samples of each split and component; writes the list of token shards and the plan's tables."""
    length, store_digest = manifest.plan.sequence_length, hashlib.sha256()
    listed = [{"source": source, "shard": name, "digest": record.digest} for source, name, record in tokens]
    store_digest.update(orjson.dumps(listed) + samples.ids.tobytes())
    inputs = {"samples": store_digest.hexdigest()}
    shard_of = lru_cache(maxsize=1)(lambda number: TokenShard(store, tokens[number][2].files[0].path))
    records = [_write_shard_list(store, stage, inputs, tokens)]
    for split in sorted(samples.splits):
        for component in sorted(samples.components):
            rows = (samples.split == samples.splits.index(split)) & (
                samples.component == samples.components.index(component)
            )
            unit = f"{split}-{component}"
            if not rows.any():
                continue
            known = find(store, stage, unit, inputs)
            if known is None:
                part = samples.where(np.flatnonzero(rows))
                part = part.where(_keyed_order(part.ids, manifest.seed, "pack", ()))
                known = _plan_part(store, stage, unit, inputs, part, shard_of, line_ends, length)
            records.append(known)
    return records


def _plan_part(
    store: Store,
    stage: Stage,
    unit: str,
    inputs: dict[str, str],
    samples: Samples,
    shard_of: Callable[[int], TokenShard],
    line_ends: NDArray[np.bool_],
    length: int,
) -> Record:
    pieces = pieces_of(samples, length, line_ends, shard_of)
    by_window = window_order(pieces.length)
    bins = np.empty(len(by_window), np.int64)
    bins[by_window] = best_fit(pieces.length[by_window], length)
    written = store.write_table(stage.file(unit), PLAN, _sequences(samples, pieces, bins))
    n_tokens = int(pieces.length.sum())
    counts = {"samples": len(samples.ids), "pieces": len(bins), "sequences": written.rows, "tokens": n_tokens}
    counts |= {"padding": written.rows * length - n_tokens}
    if n_tokens != int(samples.n_tokens.sum()):
        raise AssertionError(f"{unit}: {int(samples.n_tokens.sum())} tokens selected, {n_tokens} planned")
    return commit(store, Record(stage, unit, inputs, (written,), counts))


def window_order(lengths: NDArray[np.int64], window: int = _WINDOW) -> NDArray[np.int64]:
    """Positions in the order of packing: longest first inside each window of the stream.

    Plain stream order leaves 0.25 % of padding on the demo's code, this 0.14 % (docs/benchmarks.md): the short pieces
    at the end of a window fill what the long ones left. Which sequence is read when is decided by the loader.
    """
    positions = np.arange(len(lengths))
    return np.lexsort((positions, -lengths, positions // window))


def _sequences(samples: Samples, pieces: Pieces, bins: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    order = np.argsort(bins, kind="stable")
    counts = np.bincount(bins)
    ends = np.cumsum(counts)
    fields = PLAN.field("pieces").type
    for first in range(0, len(counts), _SEQUENCES_PER_BATCH):
        last = min(first + _SEQUENCES_PER_BATCH, len(counts))
        begin = int(ends[first] - counts[first])
        rows = order[begin : int(ends[last - 1])]
        sample = pieces.sample[rows]
        columns = (samples.shard[sample], samples.row[sample], pieces.start[rows], pieces.length[rows])
        piece = pa.StructArray.from_arrays(
            [pa.array(c.astype(np.uint32)) for c in columns], fields=list(fields.value_type)
        )
        offsets = np.concatenate([[0], np.cumsum(counts[first:last])])
        n_tokens = np.add.reduceat(pieces.length[rows], offsets[:-1])
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(np.arange(first, last, dtype=np.uint64)),
                pa.array(n_tokens.astype(np.uint32)),
                pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), piece, type=fields),
            ],
            schema=PLAN,
        )


_SHARD_LIST = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)


def _write_shard_list(
    store: Store, stage: Stage, inputs: dict[str, str], tokens: Sequence[tuple[str, str, Record]]
) -> Record:
    known = find(store, stage, "shards", inputs)
    if known is not None:
        return known
    rows = [
        {"source": source, "shard": name, "rows": record.files[0].rows, "digest": record.digest}
        for source, name, record in tokens
    ]
    written = store.write_table(stage.file("shards"), _SHARD_LIST, [pa.RecordBatch.from_pylist(rows, _SHARD_LIST)])
    return commit(store, Record(stage, "shards", inputs, (written,), {"shards": len(rows)}))


def _keyed_order(
    ids: NDArray[np.uint8], seed: int, purpose: str, groups: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Positions sorted by (groups, keyed hash, id)."""
    words = np.ascontiguousarray(ids).view(">u8")
    keys = keyed_u64_batch(seed, purpose, ids)
    return np.lexsort((words[:, 1], words[:, 0], keys, *reversed(groups)))
