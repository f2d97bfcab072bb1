"""A vote among grammars: which of the candidate languages does a text parse in?

A tree-sitter scanner may hang or crash the process on ordinary files (COBOL's hangs on `void foo()\\n{\\n}\\n`), so
the parsing runs in a child process, one for each worker process, spoken to over pipes: `python -m languages.vote`.
Work is bounded by counts alone: at most 8 KB of text (`SIZE_CAP`) and `BUDGET` calls of the parser's progress callback
for each grammar (the number of calls is the same in every run). The wall-clock watchdog only catches what the counts
don't; when it fires, or the child dies, `VoteFault` is raised: a fault of the unit, never an answer.
"""

import contextlib
import faulthandler
import functools
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

SIZE_CAP = 8 * 1024
"""Texts over this many bytes are not voted on: scanners are quadratic on some texts (JavaScript on `/*` in every line:
0.7 s for 8 KB, over 40 s for 64 KB) and call back too rarely for the budget to end them."""

BUDGET = 3000
"""Progress callbacks that one parse may use. Real files of 64 KB used up to 2,000, in 0.2 s."""

WATCHDOG_SECONDS = 120.0
"""Some hundred times what the size cap and the budget allow."""

CLEAN_PER_MILLE = 20
MARGIN_PER_MILLE = 50
"""A language wins if under 2 % of the bytes lie in errors and the next language has at least 5 points more."""

DENIED = frozenset(
    {
        "bash",
        "cobol",
        "dm",
        "erlang",
        "hack",
        "haskell",
        "julia",
        "perl",
        "pony",
        "purescript",
        "scala",
        "typst",
        "yaml",
    }
)
"""Grammars seen to hang past their callbacks, to crash (typst: on 64 K of `[`), or to need seconds on 64 KB."""

_IDLE_SECONDS = 2.0


class VoteFault(RuntimeError):  # noqa: N818 - a fault in the words of the design, not an error of a caller
    """The parsing child hung or died; says nothing about the text's language."""


def votable(grammars: Sequence[str]) -> bool:
    """Tell whether every candidate has a grammar that may run, and at least two differ."""
    return len(set(grammars)) > 1 and all(grammar and grammar not in DENIED for grammar in grammars)


def vote(text: bytes, grammars: Sequence[str], watchdog: float = WATCHDOG_SECONDS) -> int | None:
    """Return the index of the grammar that wins the strict vote, or None where none does.

    None as well for a text over `SIZE_CAP` and where a parse exhausts its budget. Raises `VoteFault` if the child
    hangs or dies.
    """
    if not text or len(text) > SIZE_CAP:
        return None
    errors = _child().ask(text, list(grammars), watchdog)
    if any(error < 0 for error in errors):
        return None
    shares = sorted((error * 1000 // len(text), index) for index, error in enumerate(errors))
    (best, winner), (second, _) = shares[:2]
    return winner if best < CLEAN_PER_MILLE and second - best >= MARGIN_PER_MILLE else None


def error_bytes(text: bytes, grammar: str, budget: int = BUDGET) -> int:
    """Parse a text and return how many of its bytes lie in error nodes, or -1 where the budget is spent. Runs in the
    child only."""
    from tree_sitter import Parser, Point
    from tree_sitter_language_pack import get_language

    parser = Parser(get_language(grammar))  # type: ignore[arg-type]
    calls = 0

    def read(offset: int, _: Point) -> bytes:
        return text[offset : offset + 4096]

    def spent(_: int, __: bool) -> bool:
        nonlocal calls
        calls += 1
        return calls > budget

    try:
        tree = parser.parse(read, progress_callback=spent)
    except ValueError:
        return -1
    total = 0
    stack = [tree.root_node]
    while stack:
        node = stack.pop()
        if node.is_error:
            total += max(node.end_byte - node.start_byte, 1)
        elif node.is_missing:
            total += 1
        elif node.has_error:
            stack.extend(node.children)
    return total


class _Child:
    """The parsing child of this process: started when first asked, replaced after a fault."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, text: bytes, grammars: list[str], watchdog: float) -> list[int]:
        with self._lock:
            process = self._process or self._start()
            try:
                return self._exchange(process, text, grammars, watchdog)
            except (OSError, ValueError) as error:
                self._process = None
                process.kill()
                with contextlib.suppress(OSError):
                    process.communicate()
                tried = ", ".join(grammars)
                raise VoteFault(f"the parsing child failed on {len(text)} bytes with {tried}: {error}") from error

    def _start(self) -> subprocess.Popen[bytes]:
        path = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "languages.vote"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        return self._process

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], text: bytes, grammars: list[str], watchdog: float) -> list[int]:
        assert process.stdin is not None
        assert process.stdout is not None
        header = json.dumps({"grammars": grammars, "bytes": len(text), "watchdog": watchdog}).encode()
        unsent = memoryview(header + b"\n" + text)
        while unsent:
            unsent = unsent[os.write(process.stdin.fileno(), unsent) :]
        deadline = time.monotonic() + watchdog
        reply = b""
        while not reply.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError(f"no answer in {watchdog:g} s")
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                raise BrokenPipeError(f"it ended with status {process.wait()}")
            reply += part
        errors: list[int] = json.loads(reply)
        return errors


@functools.cache
def _child() -> _Child:
    return _Child()


os.register_at_fork(after_in_child=_child.cache_clear)


def _serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer requests until the parent closes its end or is gone. A hang in C ends the process by faulthandler's
    thread, without the GIL."""
    parent = os.getppid()
    while True:
        while not select.select([source], [], [], _IDLE_SECONDS)[0]:
            if os.getppid() != parent:
                return
        header = source.readline()
        if not header:
            return
        request = json.loads(header)
        text = source.read(request["bytes"])
        faulthandler.dump_traceback_later(request["watchdog"], exit=True)
        errors = [error_bytes(text, grammar) for grammar in request["grammars"]]
        faulthandler.cancel_dump_traceback_later()
        sink.write(json.dumps(errors).encode() + b"\n")
        sink.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
