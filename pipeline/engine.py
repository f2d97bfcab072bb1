"""Which Beam engine runs the passes, and what Beam's local runner lacks: a watchdog and an end to orphans.

The runner is always named: the embedded one is ``FnApiRunner``, in memory for one worker and in several processes
otherwise; whatever stands behind ``--`` on the command line is Beam's own and goes through unchanged.
"""

import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipeline.store import StorageError

_EXIT_WORKER_DIED = 75
_EXIT_INTERRUPTED = 130


class EngineError(Exception):
    """The workers can't work: the message says why."""


@dataclass(frozen=True)
class Engine:
    """How passes are run. ``on_death`` is called before the process ends because a worker died."""

    workers: int = 1
    beam_options: tuple[str, ...] = ()
    quiet: bool = False
    on_death: Callable[[], None] | None = None

    def pipeline(self) -> beam.Pipeline:
        """An empty pipeline on this engine."""
        if any(option.startswith("--runner") for option in self.beam_options):
            return beam.Pipeline(options=PipelineOptions(list(self.beam_options)))
        options = PipelineOptions([f"--direct_num_workers={self.workers}", *self.beam_options])
        environment = None
        if self.workers > 1:
            command = f"{shlex.quote(sys.executable)} -m pipeline.worker"
            environment = SubprocessSDKEnvironment.from_command_string(command_string=command)
        return beam.Pipeline(FnApiRunner(default_environment=environment), options)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """End the build with a clear message when a local worker dies: Beam's runner would wait for it for ever."""
        previous = threading.excepthook

        def on_thread_error(args: Any) -> None:
            if args.thread is None or args.thread.name != "run_worker":
                previous(args)
                return
            code = re.search(r"-?\d+$", str(args.exc_value))
            why = _describe(int(code.group())) if code else str(args.exc_value)
            print(
                f"\nheadrace: a worker process died ({why}). What was committed is kept; run the same command again, "
                "with fewer --workers if memory ran out.",
                file=sys.stderr,
                flush=True,
            )
            self._end(_EXIT_WORKER_DIED)

        def on_interrupt(*_: Any) -> None:
            print(
                "\nheadrace: stopped; what was committed is kept, the same command goes on", file=sys.stderr, flush=True
            )
            self._end(_EXIT_INTERRUPTED)

        threading.excepthook = on_thread_error
        is_main = threading.current_thread() is threading.main_thread()
        interrupt = signal.signal(signal.SIGINT, on_interrupt) if is_main else None
        try:
            yield
        finally:
            threading.excepthook = previous
            if interrupt is not None:
                signal.signal(signal.SIGINT, interrupt)

    def _end(self, status: int) -> None:
        """End this process and its workers at once: Beam's threads would wait for each other."""
        if self.on_death:
            self.on_death()
        _kill_children()
        os._exit(status)

    def explain(self, error: Exception) -> Exception:
        """Beam's error as the one sentence that a worker meant."""
        text = str(error)
        match = re.search(r"headrace fault: (.*?)(?: \[while running|\n|$)", text)
        if match is None:
            return error
        message = match.group(1)
        return StorageError(message) if message.startswith("can't write") else EngineError(message)


def _describe(code: int) -> str:
    number = code - 128 if code > 128 else -code
    if number > 0:
        name = signal.Signals(number).name if number in {s.value for s in signal.Signals} else str(number)
        return f"{name}: out of memory or killed" if name == "SIGKILL" else name
    return f"exit status {code}"


def _kill_children() -> None:
    for task in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ():
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                children = [int(pid) for pid in file.read().split()]
        except OSError:
            continue
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
