"""Best-fit packing in stream order: ours against the same rule in plain Python, lognormal lengths, L = 4096.

    python -m benchmarks.packing [--quick] [--json FILE]

Both pack the same items; equal bins are asserted. Concatenating and splitting, which pads nothing, is there for what it
costs: the share of documents that it cuts although they would fit.
"""

import bisect
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks import parser, write_json
from pipeline.packing import best_fit

CAPACITY = 4096


def plain_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """The same rule with a sorted list of rooms and a stack of bins for each."""
    rooms: list[int] = []
    stacks: dict[int, list[int]] = {}
    bins = []
    opened = 0
    for length in lengths:
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            room, chosen = capacity, opened
            opened += 1
        else:
            room = rooms[at]
            chosen = stacks[room].pop()
            if not stacks[room]:
                del rooms[at]
        bins.append(chosen)
        room -= length
        if room:
            if not stacks.setdefault(room, []):
                bisect.insort(rooms, room)
            stacks[room].append(chosen)
    return bins


def lognormal(n: int) -> NDArray[np.int64]:
    """Lengths with a median of 500 tokens and a long tail, as code files have; one seed."""
    return np.exp(np.random.default_rng(0).normal(np.log(500), 1.2, n)).astype(np.int64).clip(1, CAPACITY)


def cut_by_concatenation(lengths: NDArray[np.int64]) -> float:
    """Share of documents that cross a border when all are written one after another."""
    ends = np.cumsum(lengths)
    return float(((ends - 1) // CAPACITY != (ends - lengths) // CAPACITY).mean())


def main() -> None:
    options = parser(__doc__, "100,000 documents instead of 1,000,000").parse_args()
    lengths = lognormal(100_000 if options.quick else 1_000_000)
    best_fit(lengths[:10], CAPACITY)
    seconds = []
    for _ in range(5):
        begin = time.process_time()
        bins = best_fit(lengths, CAPACITY)
        seconds.append(time.process_time() - begin)
    begin = time.process_time()
    plain = plain_best_fit(lengths.tolist(), CAPACITY)
    plain_seconds = time.process_time() - begin
    assert bins.tolist() == plain
    report = {
        "documents": len(lengths),
        "capacity": CAPACITY,
        "ours_millions_per_s": round(len(lengths) / min(seconds) / 1e6, 2),
        "plain_python_millions_per_s": round(len(lengths) / plain_seconds / 1e6, 2),
        "padding_percent": round(100 * (1 - int(lengths.sum()) / (CAPACITY * (int(bins.max()) + 1))), 4),
        "cut_by_concatenation_percent": round(100 * cut_by_concatenation(lengths), 1),
    }
    for name, value in report.items():
        print(f"{name:32}{value:>12,}")
    write_json(options.json, report)


if __name__ == "__main__":
    main()
