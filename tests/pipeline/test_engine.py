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
from pipeline.store import StorageError, Store


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


@pytest.mark.parametrize(
    ("name", "short"),
    [("PrismRunner", "PrismRunner"), ("portablerunner", "PortableRunner"), ("apache_beam.x.DaskRunner", "DaskRunner")],
)
def test_a_runner_is_known_by_its_short_name(name: Any, short: Any) -> None:
    assert Engine(4, (f"--runner={name}",)).runner == short


@pytest.mark.parametrize("name", ["DaskRunner", "DirectRunner", "InteractiveRunner", "SamzaRunner", "my.own.Runner"])
def test_a_runner_on_which_a_build_can_be_wrong_is_refused_with_the_reason(name: Any, tmp_path: Any) -> None:
    with pytest.raises(EngineError, match=rf"^--runner={name.rsplit('.')[-1]} is refused: .*known: PrismRunner"):
        Engine(1, ("--runner", name)).check(Store(str(tmp_path)))


def test_dataflow_needs_a_bucket(tmp_path: Any) -> None:
    engine = Engine(1, ("--runner=DataflowRunner",))
    with pytest.raises(EngineError, match=r"is a folder of this machine, which the workers of Dataflow can't see"):
        engine.check(Store(str(tmp_path)))
    engine.check(Store("memory://bucket"))


def test_what_ended_a_job_on_a_cluster_is_one_sentence_that_names_the_log() -> None:
    error = Engine(1, ("--runner=PortableRunner",)).explain(RuntimeError("java.lang.Exception:\n\n  no slots left\n"))
    assert str(error) == (
        "PortableRunner ended the job: no slots left. The rest is in the log of the job server, and of the cluster's "
        "workers. What was committed is kept; the same command goes on."
    )


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


def test_a_worker_whose_shell_took_ctrl_c_first_is_ctrl_c() -> None:
    script = SCRIPT.replace("return code -9", "return code -2")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "headrace: stopped; what was committed is kept, the same command goes on"


def test_a_dead_worker_ends_the_build_at_once_with_its_children_and_its_lease() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=25)
    pid, released = done.stdout.split()
    assert (done.returncode, released) == (75, "released")
    assert "a worker process died (SIGKILL: out of memory or killed). What was committed is kept" in done.stderr
    assert "Traceback" not in done.stderr
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout.strip()
    assert state in ("", "Z", "Z+")
