"""Measured comparisons that anyone can rerun: ``python -m benchmarks.NAME [--quick] [--json FILE]``.

Machines are shared, so costs are CPU seconds of the whole process tree, and a peer runs in between.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def one_thread() -> None:
    """One thread in each library, as the ``headrace`` command sets it. Before anything else is imported."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def children(process: int | None = None) -> list[int]:
    """Processes that this one (or another) started and that still run, and theirs."""
    found, parents = [], [process or os.getpid()]
    while parents:
        for path in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            try:
                started = [int(number) for number in path.read_text().split()]
            except OSError:
                continue
            found += started
            parents += started
    return found


@contextmanager
def measured(costs: dict[str, float], name: str) -> Any:
    """Add the CPU seconds of a block to ``costs[name]``, with those of the workers that it started."""
    before, start = set(children()), cpu_seconds()
    yield
    deadline = time.monotonic() + 2
    while set(children()) - before and time.monotonic() < deadline:
        time.sleep(0.02)
    costs[name] = costs.get(name, 0.0) + cpu_seconds() - start


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns as wide as their content: the first to the left, the others to the right."""
    lines = [[*head], *([cell if isinstance(cell, str) else _shown(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells]).rstrip(), flush=True)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that every benchmark has: ``--quick``, with what it means, and ``--json FILE``."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help=quick)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    return options


def write_json(path: Path | None, value: Any) -> None:
    """Write the results, if a file is asked for."""
    if path is not None:
        path.write_text(json.dumps(value, indent=1) + "\n")
