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
    """Watches the records of a pass from a thread and tells units and bytes done, rate and time left.

    Looking takes at most a tenth of the time: records may lie far away. Nothing is said before ``after`` seconds.
    """

    def __init__(
        self,
        name: str,
        units: Sequence[dict[str, Any]],
        committed: Callable[[dict[str, Any]], bool],
        quiet: bool = False,
        noun: str = "units",
        after: float = 0.0,
    ):
        self._name, self._units, self._committed = name, list(units), committed
        self._noun, self._after = noun, after
        self._waiting, self._size = list(units), 0
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
        if kind is not None:
            return
        self._done.clear()
        seconds = time.monotonic() - self._started
        rate = f", {human_bytes(self._total / seconds)}/s" if self._total else ""
        done, n = self._look(), len(self._units)
        told = f"{done:,} {self._noun}" if done == n else f"{done:,} of {n:,} {self._noun}"
        self._say(f"{self._name}: {told} in {human_time(seconds)}{rate if done else ''}", last=True)

    def _watch(self) -> None:
        took = 0.0
        while not self._done.wait(max(self._interval, 10 * took)):
            started = time.monotonic()
            done = self._look()
            took = time.monotonic() - started
            self._say(self._line(done))

    def _look(self) -> int:
        """Ask for the units that were not committed before, until the end; gives the number of those that are."""
        waiting = []
        for unit in self._waiting:
            if self._done.is_set() or not self._committed(unit):
                waiting.append(unit)
            else:
                self._size += int(unit["size"])
        self._waiting = waiting
        return len(self._units) - len(waiting)

    def _line(self, done: int) -> str:
        seconds, size, n = time.monotonic() - self._started, self._size, len(self._units)
        line = f"{self._name}: {done} of {n} {self._noun}, {human_bytes(size)} of {human_bytes(self._total)}"
        if size:
            left = seconds * (self._total - size) / size
            line += f", {human_bytes(size / seconds)}/s, about {human_time(left)} left"
        return line

    def _say(self, line: str, last: bool = False) -> None:
        if time.monotonic() - self._started < self._after:
            return
        if self._terminal:
            print(f"\r\033[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
