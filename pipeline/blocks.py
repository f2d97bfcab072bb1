"""A shuffle through files: rows of fixed size, sorted by destination, of which a reader fetches its own range.

What a Beam shuffle would hold in memory or send in one message lies in one file a unit instead; only the units' numbers
travel (architecture, scale). A file is read in ranges, so it works alike on a disk and on an object store.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Record, Stage, commit, read_record
from pipeline.store import Store, Written

_SUFFIX = ".blocks"


def write_blocks(
    store: Store,
    stage: Stage,
    unit: str,
    inputs: Mapping[str, str],
    rows: NDArray[Any],
    destinations: NDArray[Any],
    n_destinations: int,
) -> Record:
    """Write rows (n, structured) so that each destination's lie together in their given order, and commit the unit."""
    by_destination = np.argsort(destinations, kind="stable")
    bounds = np.searchsorted(destinations[by_destination], np.arange(n_destinations + 1))
    data = rows[by_destination].tobytes()
    path = stage.file(unit, _SUFFIX)
    store.write(path, data)
    sha256 = hashlib.sha256(data).hexdigest()
    written = Written(path, len(rows), sha256, rows.nbytes, sha256)
    return commit(store, Record(stage, unit, inputs, (written,), {"bounds": bounds.tolist()}))


def read_blocks(
    store: Store, stage: Stage, units: Sequence[str], destination: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The rows of one destination from these units, in the order of the units. Raises FileNotFoundError."""
    return np.concatenate([np.empty(0, dtype), *_parts(store, stage, units, destination, dtype)])


def _parts(
    store: Store, stage: Stage, units: Sequence[str], destination: int, dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    for unit in units:
        bounds = _bounds(store, stage, unit)
        first, last = bounds[destination] * dtype.itemsize, bounds[destination + 1] * dtype.itemsize
        if first < last:
            yield np.frombuffer(store.read_range(stage.file(unit, _SUFFIX), first, last), dtype)


@lru_cache(maxsize=1 << 16)
def _bounds(store: Store, stage: Stage, unit: str) -> NDArray[np.int64]:
    record = read_record(store, stage, unit)
    if record is None:
        raise FileNotFoundError(stage.record_path(unit))
    return np.array(record.counts["bounds"], np.int64)
