"""The engine: its runner is always named, and what workers say arrives as one sentence."""

import subprocess
import sys
import threading
import types
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipeline.engine import Engine, EngineError, _describe
from pipeline.store import StorageError


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_embedded_runner_is_named_and_never_chosen_by_what_the_network_offers(workers: Any) -> None:
    made = Engine(workers).pipeline()
    assert type(made.runner) is FnApiRunner
    assert made._options.view_as(DirectOptions).direct_num_workers == workers
    environment = type(made.runner._default_environment).__name__
    assert environment == ("SubprocessSDKEnvironment" if workers > 1 else "EmbeddedPythonEnvironment")


def test_beam_options_go_through_unchanged() -> None:
    made = Engine(1, ("--direct_runner_bundle_repeat=1",)).pipeline()
    assert made._options.view_as(DirectOptions).direct_runner_bundle_repeat == 1


def test_another_runner_is_taken_by_its_name() -> None:
    made = Engine(4, ("--runner=apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner",)).pipeline()
    assert type(made.runner).__name__ == "BundleBasedDirectRunner"


def test_an_error_of_a_worker_becomes_what_the_worker_meant() -> None:
    engine = Engine()
    beams = RuntimeError(
        "Traceback ...\nRuntimeError: headrace fault: can't write a: disk full. Free [while running 'Crawl']\n"
    )
    assert str(engine.explain(beams)) == "can't write a: disk full. Free"
    assert type(engine.explain(beams)) is StorageError
    other = engine.explain(RuntimeError("headrace fault: this worker's code differs\nmore"))
    assert (type(other), str(other)) == (EngineError, "this worker's code differs")
    unknown = ValueError("something else")
    assert engine.explain(unknown) is unknown


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "SIGKILL: out of memory or killed"),
        (137, "SIGKILL: out of memory or killed"),
        (-11, "SIGSEGV"),
        (3, "exit status 3"),
    ],
)
def test_how_a_worker_died_is_said_in_words(code: Any, said: Any) -> None:
    assert _describe(code) == said


def test_errors_of_other_threads_go_where_they_went_before(monkeypatch: Any) -> None:
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: seen.append(arguments.exc_value))
    before = threading.excepthook
    with Engine().watch():
        error = ValueError("mine")
        thread = types.SimpleNamespace(name="progress")
        hook: Any = threading.excepthook
        hook(types.SimpleNamespace(thread=thread, exc_value=error, exc_type=ValueError, exc_traceback=None))
    assert seen == [error]
    assert threading.excepthook is before


SCRIPT = """
import subprocess, threading
from pipeline.engine import Engine
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
def die():
    raise RuntimeError("Worker subprocess exited with return code -9")
with Engine(on_death=lambda: print("released", flush=True)).watch():
    thread = threading.Thread(target=die, name="run_worker")
    thread.start()
    thread.join()
    threading.Event().wait(30)
"""


def test_a_dead_worker_ends_the_build_at_once_with_its_children_and_its_lease() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=25)
    pid, released = done.stdout.split()
    assert (done.returncode, released) == (75, "released")
    assert "a worker process died (SIGKILL: out of memory or killed). What was committed is kept" in done.stderr
    assert "Traceback" not in done.stderr
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout.strip()
    assert state in ("", "Z", "Z+")
