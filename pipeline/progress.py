"""Progress of a pass, from what was committed: a line that is redrawn on a terminal, plain lines in a log."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any


def human_bytes(size: float) -> str:
    """A size that a person can read: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def human_time(seconds: float) -> str:
    """A duration that a person can read: 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Watches the records of a pass from a thread and tells units and bytes done, rate and time left."""

    def __init__(
        self,
        name: str,
        units: Sequence[dict[str, Any]],
        committed: Callable[[dict[str, Any]], bool],
        quiet: bool = False,
    ):
        self._name, self._units, self._committed = name, list(units), committed
        self._total = sum(int(u["size"]) for u in units)
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        self._interval = 0.5 if self._terminal else 15.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._started = time.monotonic()
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._quiet:
            return
        self._thread.join()
        seconds = time.monotonic() - self._started
        rate = f", {human_bytes(self._total / seconds)}/s" if self._total else ""
        done = sum(map(self._committed, self._units))
        units = f"{done:,} units" if done == len(self._units) else f"{done:,} of {len(self._units):,} units"
        self._say(f"{self._name}: {units} in {human_time(seconds)}{rate if done else ''}", last=True)

    def _watch(self) -> None:
        waiting, done, size = self._units, 0, 0
        while not self._done.wait(self._interval):
            still = []
            for unit in waiting:
                if self._committed(unit):
                    done, size = done + 1, size + int(unit["size"])
                else:
                    still.append(unit)
            waiting = still
            self._say(self._line(done, size))

    def _line(self, done: int, size: int) -> str:
        seconds = time.monotonic() - self._started
        line = f"{self._name}: {done} of {len(self._units)} units, {human_bytes(size)} of {human_bytes(self._total)}"
        if size:
            left = seconds * (self._total - size) / size
            line += f", {human_bytes(size / seconds)}/s, about {human_time(left)} left"
        return line

    def _say(self, line: str, last: bool = False) -> None:
        if self._terminal:
            print(f"\r\033[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
