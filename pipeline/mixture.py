"""Select and plan: from token counts to sequences, reading tables only.

``select`` decides which samples may be trained on (caps); ``plan`` packs them into sequences of L tokens, best-fit in a
keyed order; the weights of the components are left to the loader (DeepSeek-Coder-V2, section 2: 60 % code, 10 % math,
30 % natural language).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import DTypeLike, NDArray

from filters.keyed import keyed_u64_batch
from pipeline.manifest import Manifest
from pipeline.packing import best_fit, cut, most_pieces
from pipeline.records import Record, Stage, commit, find
from pipeline.schemas import PLAN, SELECTION
from pipeline.store import Store, fixed_rows
from pipeline.token_shards import TokenShard

SELECT_MODULES = ("pipeline.mixture",)
PLAN_MODULES = ("pipeline.mixture", "pipeline.packing")
CAP = "origin_cap"
_MOST = 2**32 - 1
_SEQUENCES_PER_BATCH = 65_536
_WINDOW = 16_384
_BLOCK = 1 << 20
_LOW, _32 = np.uint64(2**32 - 1), np.uint64(32)


@dataclass
class Samples:
    """Every sample of the build in columns, 36 bytes a sample; ``shard`` and ``row`` say where its tokens lie.

    ``component`` and ``split`` number ``components`` and ``splits``; ``origin`` numbers pairs of source and origin.
    """

    ids: NDArray[np.uint8]
    shard: NDArray[np.uint32]
    row: NDArray[np.uint32]
    n_tokens: NDArray[np.uint32]
    origin: NDArray[np.uint32]
    component: NDArray[np.uint16]
    split: NDArray[np.uint8]
    is_fim: NDArray[np.bool_]
    components: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @staticmethod
    def empty(n: int) -> "Samples":
        """Columns to be filled."""
        ids, origin = np.empty((n, 16), np.uint8), np.zeros(n, np.uint32)
        shard, row, n_tokens = (np.empty(n, np.uint32) for _ in range(3))
        return Samples(
            ids, shard, row, n_tokens, origin, np.empty(n, np.uint16), np.empty(n, np.uint8), np.empty(n, bool)
        )

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Drop the others, one column after another, so that no two copies of all stand in memory."""
        for name in ("ids", "shard", "row", "n_tokens", "origin", "component", "split", "is_fim"):
            setattr(self, name, getattr(self, name)[rows])


def read_samples(store: Store, shards: Sequence[Record]) -> Samples:
    """Read the small columns of every token shard. Raises ValueError for more than 2**32 - 1 samples."""
    n = sum(record.files[0].rows for record in shards)
    if n > _MOST:
        raise ValueError(f"{n:,} samples, expected at most {_MOST:,} in one build")
    samples, end = Samples.empty(n), 0
    components: dict[str, int] = {}
    splits: dict[str, int] = {}
    origins = []
    for number, record in enumerate(shards):
        columns = ["sample_id", "n_tokens", "component", "split", "origin", "fim"]
        table = store.read_table(record.files[0].path, columns)
        rows = slice(end, end + record.files[0].rows)
        samples.ids[rows] = fixed_rows(table.column("sample_id"))
        samples.shard[rows], samples.row[rows] = number, np.arange(table.num_rows)
        samples.n_tokens[rows] = table.column("n_tokens").to_numpy()
        samples.is_fim[rows] = table.column("fim").to_numpy()
        samples.component[rows] = _numbers(table.column("component"), components, np.uint16)
        samples.split[rows] = _numbers(table.column("split"), splits, np.uint8)
        origin = table.column("origin").combine_chunks().dictionary_encode()
        names = pc.binary_join_element_wise(record.stage.source, origin.dictionary, "\0").cast(pa.large_string())
        origins.append(pa.DictionaryArray.from_arrays(origin.indices, names))
        end = rows.stop
    if origins:
        unified = pa.chunked_array(origins).unify_dictionaries()
        np.concatenate([chunk.indices for chunk in unified.chunks], out=samples.origin, casting="unsafe")
    samples.components, samples.splits = tuple(components), tuple(splits)
    return samples


def _numbers(values: pa.ChunkedArray, seen: dict[str, int], kind: DTypeLike) -> NDArray[np.unsignedinteger]:
    """Number a few different strings in the order in which they come; for grouping only, never for an order."""
    encoded = values.combine_chunks().dictionary_encode()
    known = np.array([seen.setdefault(value, len(seen)) for value in encoded.dictionary.to_pylist()], kind)
    return np.asarray(known[encoded.indices.to_numpy()])


def over_cap(samples: Samples, cap: int | None, seed: int) -> NDArray[np.bool_]:
    """Which samples exceed the cap of their origin in their component: taken in keyed order until it is reached."""
    n = len(samples.ids)
    result = np.zeros(n, bool)
    if cap is not None and n:
        order = _keyed_order(samples.ids, np.arange(n, dtype=np.uint32), seed, "cap")
        taken = np.zeros((int(samples.origin.max()) + 1, int(samples.component.max()) + 1), np.int64)
        _over_cap(order, samples.origin, samples.component, samples.n_tokens, cap, taken, result)
    return result


@njit(cache=True, nogil=True)
def _over_cap(order, origin, component, n_tokens, cap, taken, result):  # type: ignore[no-untyped-def]
    for i in order:
        taken[origin[i], component[i]] += n_tokens[i]
        result[i] = taken[origin[i], component[i]] > cap


def select(
    store: Store, stages: Mapping[str, Stage], tokens: Sequence[tuple[str, str, Record]], manifest: Manifest
) -> tuple[Samples, list[Record]]:
    """Write why each sample is left out, beside its token shard; gives the selected samples and the records.

    ``tokens`` are (source, shard name, record) in a fixed order.
    """
    samples = read_samples(store, [record for _, _, record in tokens])
    is_over = over_cap(samples, manifest.mixture.max_tokens_per_origin, manifest.seed)
    records, end = [], 0
    for source, name, record in tokens:
        start, end = end, end + record.files[0].rows
        mine = is_over[start:end]
        inputs = {"tokens": record.digest, "reasons": hashlib.sha256(mine.tobytes()).hexdigest()}
        stage = stages[source]
        known = find(store, stage, name, inputs)
        if known is None:
            reasons = pa.array(["", CAP], pa.string()).take(pa.array(mine.astype(np.uint8)))
            rows = pa.RecordBatch.from_arrays([reasons], schema=SELECTION)
            written = store.write_table(stage.file(name), SELECTION, [rows])
            counts = {"dropped": int(mine.sum()), "dropped_tokens": int(samples.n_tokens[start:end][mine].sum())}
            known = commit(store, Record(stage, name, inputs, (written,), counts))
        records.append(known)
    if is_over.any():
        samples.keep(~is_over)
    return samples, records


@dataclass(frozen=True)
class Pieces:
    """Runs of tokens to be packed, in stream order: sample number, first token, length."""

    sample: NDArray[np.uint32]
    start: NDArray[np.uint32]
    length: NDArray[np.uint32]


def pieces_of(
    samples: Samples,
    order: NDArray[np.uint32],
    length: int,
    line_ends: NDArray[np.bool_],
    shard_of: Callable[[int], TokenShard],
) -> Pieces:
    """Pieces of the samples in this order: those longer than ``length`` are cut at line ends, others stay whole."""
    n_tokens = samples.n_tokens[order]
    long_ones = np.flatnonzero(n_tokens > length)
    if not len(long_ones):
        return Pieces(order, np.zeros_like(order), n_tokens)
    if samples.is_fim[order[long_ones]].any():
        raise AssertionError("a sample with FIM is longer than a sequence")
    starts, cuts = _cut(samples, order[long_ones], length, line_ends, shard_of)
    counts, is_long = np.ones(len(order), np.int64), np.zeros(len(order), bool)
    counts[long_ones], is_long[long_ones] = cuts, True
    sample, end = np.repeat(order, counts), np.repeat(n_tokens, counts)
    start = np.zeros_like(sample)
    start[np.repeat(is_long, counts)] = starts
    np.copyto(end[:-1], start[1:], where=start[1:] > 0)
    return Pieces(sample, start, np.subtract(end, start, out=end))


def _cut(
    samples: Samples,
    rows: NDArray[np.uint32],
    length: int,
    line_ends: NDArray[np.bool_],
    shard_of: Callable[[int], TokenShard],
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Where the pieces of long samples start, one sample after another, and how many each has."""
    room = most_pieces(samples.n_tokens[rows].astype(np.int64), length)
    first = np.cumsum(room) - room
    starts, counts = np.empty(int(room.sum()), np.uint32), np.empty(len(rows), np.int64)
    for i in np.lexsort((samples.row[rows], samples.shard[rows])):
        tokens = shard_of(int(samples.shard[rows[i]])).tokens(int(samples.row[rows[i]]))
        counts[i] = cut(tokens, line_ends, length, starts[first[i] : first[i] + room[i]])
    return starts[np.arange(len(starts)) - np.repeat(first, room) < np.repeat(counts, room)], counts


def plan(
    store: Store,
    stage: Stage,
    samples: Samples,
    tokens: Sequence[tuple[str, str, Record]],
    line_ends: NDArray[np.bool_],
    manifest: Manifest,
) -> list[Record]:
    """Pack the selected samples of each split and component; writes the list of token shards and the plan's tables."""
    length = manifest.plan.sequence_length
    listed = [{"source": source, "shard": name, "digest": record.digest} for source, name, record in tokens]
    digest = hashlib.sha256(orjson.dumps(listed))
    digest.update(np.ascontiguousarray(samples.ids).data)
    inputs = {"samples": digest.hexdigest()}
    shard_of = lru_cache(maxsize=1)(lambda number: TokenShard(store, tokens[number][2].files[0].path))
    records = [_write_shard_list(store, stage, inputs, tokens)]
    for split in sorted(samples.splits):
        for component in sorted(samples.components):
            is_part = samples.split == samples.splits.index(split)
            is_part &= samples.component == samples.components.index(component)
            unit = f"{split}-{component}"
            if not is_part.any():
                continue
            known = find(store, stage, unit, inputs)
            if known is None:
                rows = np.flatnonzero(is_part).astype(np.uint32)
                order = _keyed_order(samples.ids, rows, manifest.seed, "pack")
                pieces = pieces_of(samples, order, length, line_ends, shard_of)
                if int(pieces.length.sum()) != int(samples.n_tokens[rows].sum()):
                    raise AssertionError(
                        f"{unit}: {samples.n_tokens[rows].sum()} tokens, {pieces.length.sum()} planned"
                    )
                known = _plan_part(store, stage, unit, inputs, samples, pieces, length)
            records.append(known)
    return records


def _plan_part(
    store: Store, stage: Stage, unit: str, inputs: dict[str, str], samples: Samples, pieces: Pieces, length: int
) -> Record:
    written = store.write_table(stage.file(unit), PLAN, _sequences(samples, pieces, packed(pieces.length, length)))
    n_tokens = int(pieces.length.sum())
    counts = {"samples": int((pieces.start == 0).sum()), "pieces": len(pieces.length), "sequences": written.rows}
    counts |= {"tokens": n_tokens, "padding": written.rows * length - n_tokens}
    return commit(store, Record(stage, unit, inputs, (written,), counts))


def packed(lengths: NDArray[np.uint32], capacity: int) -> NDArray[np.uint64]:
    """``sequence << 32 | position`` of all pieces, ascending. Raises ValueError for more than 2**32 - 1 pieces."""
    if len(lengths) > _MOST:
        raise ValueError(f"{len(lengths):,} pieces, expected at most {_MOST:,} in one component and split")
    order = window_order(lengths)
    keys = best_fit(lengths[order], capacity).astype(np.uint64)
    keys <<= _32
    keys |= order
    keys.sort()
    return keys


def window_order(lengths: NDArray[np.uint32], window: int = _WINDOW) -> NDArray[np.uint32]:
    """Positions in the order of packing: longest first inside each window of the stream.

    Plain stream order leaves 0.25 % of padding on the demo's code, this 0.14 % (docs/benchmarks.md): the short pieces
    at the end of a window fill what the long ones left. Which sequence is read when is decided by the loader.
    """
    order = np.empty(len(lengths), np.uint32)
    for at in range(0, len(lengths), window):
        some = lengths[at : at + window].astype(np.uint64)
        longest_first = np.sort(~some << _32 | np.arange(at, at + len(some), dtype=np.uint64))
        order[at : at + window] = longest_first & _LOW
    return order


def _sequences(samples: Samples, pieces: Pieces, keys: NDArray[np.uint64]) -> Iterator[pa.RecordBatch]:
    fields = PLAN.field("pieces").type
    count = int(keys[-1] >> _32) + 1
    for first in range(0, count, _SEQUENCES_PER_BATCH):
        numbers = np.arange(first, min(first + _SEQUENCES_PER_BATCH, count) + 1, dtype=np.uint64)
        begin, end = np.searchsorted(keys, numbers[[0, -1]] << _32)
        rows, offsets = keys[begin:end] & _LOW, np.searchsorted(keys[begin:end], numbers << _32)
        sample, length = pieces.sample[rows], pieces.length[rows]
        columns = (samples.shard[sample], samples.row[sample], pieces.start[rows], length)
        piece = pa.StructArray.from_arrays([pa.array(c) for c in columns], fields=list(fields.value_type))
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(numbers[:-1]),
                pa.array(np.add.reduceat(length, offsets[:-1]).astype(np.uint32)),
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


def _keyed_order(ids: NDArray[np.uint8], rows: NDArray[np.uint32], seed: int, purpose: str) -> NDArray[np.uint32]:
    """These rows sorted by (keyed hash, id): by the hash's upper bits with the place below, then what ties in full."""
    low = np.uint64((1 << len(rows).bit_length()) - 1)
    keys = np.empty(len(rows), np.uint64)
    for at in range(0, len(rows), _BLOCK):
        hashes = keyed_u64_batch(seed, purpose, ids[rows[at : at + _BLOCK]])
        keys[at : at + _BLOCK] = hashes & ~low | np.arange(at, at + len(hashes), dtype=np.uint64)
    keys.sort()
    is_tied = np.zeros(len(rows) + 1, bool)
    is_tied[1:-1] = keys[1:] ^ keys[:-1] <= low
    tied = np.flatnonzero(is_tied[1:] | is_tied[:-1])
    keys &= low
    order = rows[keys.view(np.int64)]
    del keys
    words = ids[order[tied]].view(">u8")
    order[tied] = order[tied][np.lexsort((words[:, 1], words[:, 0], keyed_u64_batch(seed, purpose, ids[order[tied]])))]
    return order
