"""Which Beam engine runs the passes, and all in which engines differ.

The runner is always named: the embedded one is ``FnApiRunner``, in memory for one worker and in several processes
otherwise; whatever stands behind ``--`` on the command line is Beam's own and goes through unchanged. A runner on which
a build can't be right is refused. Beam's local runner lacks a watchdog and an end to orphans; a job on a cluster
outlives its driver: both are mended here (docs/cluster.md).
"""

import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipeline.store import StorageError, Store

LOCAL = "FnApiRunner"
RUNNERS = (LOCAL, "PrismRunner", "PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner")
REFUSED = {
    "DaskRunner": "it drops data silently: of several leaves it runs the last only, and every tagged output goes to "
    "every consumer (Beam 2.77)",
    "DirectRunner": "it is another engine on every machine, by what the network offers; leave --runner out",
    "SwitchingDirectRunner": "it is another engine on every machine, by what the network offers; leave --runner out",
    "BundleBasedDirectRunner": "it is six times slower than the local runner; leave --runner out",
    "InteractiveRunner": "it keeps what passes in memory; leave --runner out",
}
_STOP_SECONDS = 3.0
_JOB = "work/job.json"
_ANSWER_SECONDS = 10
_CANCEL_SECONDS = 60
_ENDED = {beam_job_api_pb2.JobState.Enum.Value(name) for name in ("STOPPED", "FAILED", "DONE", "CANCELLED", "DRAINED")}
_EXIT_WORKER_DIED = 75
_EXIT_INTERRUPTED = 130


class EngineError(Exception):
    """The engine or its workers can't work: the message says why."""


@dataclass(frozen=True)
class Engine:
    """How passes are run. ``on_death`` is called before the process ends because a worker died."""

    workers: int = 1
    beam_options: tuple[str, ...] = ()
    quiet: bool = False
    on_death: Callable[[], None] | None = None

    @property
    def runner(self) -> str:
        """The short name of the runner, as Beam spells it where it is one that is known."""
        named: str = PipelineOptions(list(self.beam_options)).view_as(StandardOptions).runner or LOCAL
        short = named.rsplit(".", 1)[-1]
        return next((name for name in (*RUNNERS, *REFUSED) if name.lower() == short.lower()), short)

    def check(self, store: Store) -> None:
        """Raises EngineError where a build on this runner, in this store, can't be right."""
        if self.runner not in RUNNERS:
            why = REFUSED.get(self.runner, "nobody has shown that a build on it is right")
            known = ", ".join(name for name in RUNNERS if name != LOCAL)
            raise EngineError(f"--runner={self.runner} is refused: {why}. Runners that are known: {known}")
        if self.runner == "DataflowRunner" and store.is_local:
            raise EngineError(
                f"--out {store.url} is a folder of this machine, which the workers of Dataflow can't see; "
                "give a bucket, such as gs://bucket/corpus"
            )

    def pipeline(self) -> beam.Pipeline:
        """An empty pipeline on this engine."""
        if self.runner != LOCAL:
            return beam.Pipeline(options=PipelineOptions(list(self.beam_options)))
        given = [option for option in self.beam_options if not option.startswith("--runner")]
        options = PipelineOptions([f"--direct_num_workers={self.workers}", *given])
        environment = None
        if self.workers > 1:
            command = f"{shlex.quote(sys.executable)} -m pipeline.worker"
            environment = SubprocessSDKEnvironment.from_command_string(command_string=command)
        return beam.Pipeline(FnApiRunner(default_environment=environment), options)

    def run(self, graph: Callable[[beam.Pipeline], None], store: Store, stop: str) -> None:
        """Run a graph to its end. What a worker raised comes as StorageError or EngineError, in its own words.

        ``stop``: where in the store a worker of this run notes what no retry can mend (other code than the driver's, a
        disk that is full).
        """
        with self.watch():
            try:
                pipeline = self.pipeline()
                graph(pipeline)
                result = pipeline.run()
                with self._noted(result, store):
                    self._wait(result, store, stop)
            except (StorageError, EngineError):
                raise
            except Exception as error:
                raise self.explain(error) from error
            finally:
                with suppress(StorageError):
                    store.remove(stop)

    def _wait(self, result: Any, store: Store, stop: str) -> None:
        """Wait for the end of a job. What no retry can mend ends it at once: a cluster would try a hundred times."""
        if self.runner == LOCAL:
            result.wait_until_finish()
            return
        is_over, why = threading.Event(), list[str]()

        def watch_for_stop() -> None:
            while not is_over.wait(_STOP_SECONDS):
                with suppress(Exception):
                    why[:] = [store.read_json(stop)["message"]]
                    result.cancel()

        watcher = threading.Thread(target=watch_for_stop, name="stop", daemon=True)
        watcher.start()
        try:
            result.wait_until_finish()
        except Exception:
            if not why:
                raise
        finally:
            is_over.set()
        if why:
            raise RuntimeError(why[0])

    @contextmanager
    def _noted(self, result: Any, store: Store) -> Iterator[None]:
        """Note the job of a cluster beside the build as long as it runs; it is cancelled if this process is stopped."""
        job = getattr(result, "_job_id", None)
        endpoint = PipelineOptions(list(self.beam_options)).view_as(PortableOptions).job_endpoint
        if job is None or endpoint is None:
            yield
            return
        store.write_json(_JOB, {"endpoint": endpoint, "job": job})
        try:
            yield
        except KeyboardInterrupt:
            result.cancel()
            raise
        finally:
            with suppress(Exception):
                if store.read_json(_JOB)["job"] == job:  # a build that took over has a note of its own
                    store.remove(_JOB)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """End the build with a clear message when a local worker dies: Beam's runner would wait for it for ever."""
        if self.runner != LOCAL:
            yield
            return
        previous = threading.excepthook

        def on_thread_error(args: Any) -> None:
            if args.thread is None or args.thread.name != "run_worker":
                previous(args)
                return
            code = re.search(r"-?\d+$", str(args.exc_value))
            if code and _signal_of(int(code.group())) == signal.SIGINT:  # Ctrl-C that reached the worker's shell first
                on_interrupt()
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
        """Beam's error as the one sentence that a worker meant, or with the runner's own words and where to look."""
        text = str(error)
        match = re.search(r"headrace fault: (.*?)(?: \[while running|\\n|\n|$)", text)
        if match is not None:
            message = match.group(1)
            return StorageError(message) if message.startswith("can't write") else EngineError(message)
        if self.runner == LOCAL:
            return error
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = lines[-1][:500] if lines else type(error).__name__
        return EngineError(
            f"{self.runner} ended the job: {said}. {_LOGS.get(self.runner, '')}What was committed is kept; the same "
            "command goes on."
        )


_LOGS = {
    "PrismRunner": "Prism writes its log to the terminal. ",
    "PortableRunner": "The rest is in the log of the job server, and of the cluster's workers. ",
    "FlinkRunner": "The rest is in the logs of Flink's JobManager and TaskManagers. ",
    "SparkRunner": "The rest is in the logs of Spark's driver and executors. ",
    "DataflowRunner": "The rest is in Dataflow's log of the job. ",
}


def cancel_left_over(store: Store) -> str:
    """Cancel the job of a driver that was killed and wait for its end; gives what to say about it, if there was one.

    Raises EngineError where its job server doesn't answer: a job that lives on could write over what is newer.
    """
    try:
        note = store.read_json(_JOB)
    except (FileNotFoundError, ValueError):
        return ""
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2_grpc as service

    job, said = note["job"], "was cancelled"
    try:
        with grpc.insecure_channel(note["endpoint"]) as channel:
            grpc.channel_ready_future(channel).result(_ANSWER_SECONDS)
            jobs = service.JobServiceStub(channel)
            known = {
                info.job_id
                for info in jobs.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=_CANCEL_SECONDS).job_info
            }
            if job not in known:
                said = "has ended"
            else:
                jobs.Cancel(beam_job_api_pb2.CancelJobRequest(job_id=job), timeout=_CANCEL_SECONDS)
                until = time.monotonic() + _CANCEL_SECONDS
                while (
                    jobs.GetState(beam_job_api_pb2.GetJobStateRequest(job_id=job), timeout=_CANCEL_SECONDS).state
                    not in _ENDED
                ):
                    if time.monotonic() > until:
                        raise TimeoutError
                    time.sleep(1)
    except (grpc.RpcError, grpc.FutureTimeoutError, TimeoutError):
        raise EngineError(
            f"the job of an earlier build, {job}, may still run, and {note['endpoint']} doesn't end it. Start that job "
            f"server again, or see that the job has ended and remove {store.full(_JOB)}"
        ) from None
    store.remove(_JOB)
    return f"the job of an earlier build, {job}, {said}"


def _signal_of(code: int) -> int:
    return code - 128 if code > 128 else -code


def _describe(code: int) -> str:
    number = _signal_of(code)
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
