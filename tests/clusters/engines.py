"""Flink, Spark and Prism on loopback, and the Beam options that run a pipeline there."""

import json
import shlex
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clusters import fetch
from tests.clusters.processes import CHECKOUT, ClusterError, Processes, free_ports, listens, processes

_OPENED = ("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "util", "util.concurrent")
_OPENS = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENED]
_OPENS += [f"--add-opens=java.base/sun.{name}=ALL-UNNAMED" for name in ("nio.ch", "nio.cs", "security.action")]

_FLINK = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: 127.0.0.1
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest}
io.tmp.dirs: {scratch}
blob.storage.directory: {scratch}
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.jvm-metaspace.size: 512m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.managed.size: 128m
cluster.registration.error-delay: 500
heartbeat.interval: 2000
heartbeat.timeout: 10000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 100
restart-strategy.fixed-delay.delay: 1 s
"""
_LAUNCHER = """\
import java.io.File;
import java.net.*;
import java.util.*;

class Launcher {
    public static void main(String[] given) throws Exception {
        List<URL> jars = new ArrayList<>();
        for (String jar : given[0].split(":")) jars.add(new File(jar).toURI().toURL());
        ClassLoader loader = new URLClassLoader(jars.toArray(new URL[0]), ClassLoader.getPlatformClassLoader()) {
            @Override public URL[] getURLs() { return new URL[0]; }
        };
        Thread.currentThread().setContextClassLoader(loader);
        Object rest = Arrays.copyOfRange(given, 2, given.length);
        loader.loadClass(given[1]).getMethod("main", String[].class).invoke(null, rest);
    }
}
"""
"""Starts a job server whose jars Beam does not find, and so does not send with every job: 160 MB, 15 s a pass."""
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1} %m%n
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs. ``options`` stand behind ``--`` of ``headrace build``."""

    options: tuple[str, ...]
    processes: Processes
    start_worker: Callable[[], None]

    def pids(self, role: str) -> list[int]:
        """What runs: jobmanager, taskmanager, master, worker, executor, jobserver, prism, or python (SDK workers)."""
        started_by_the_cluster = {"python": "-m pipeline.boot", "executor": "CoarseGrainedExecutorBackend"}
        if role in started_by_the_cluster:
            return self.processes.below(started_by_the_cluster[role])
        return self.processes.pids(role)

    @property
    def logs(self) -> Path:
        """The folder of the logs, ``ROLE-NUMBER.log``."""
        return self.processes.folder / "logs"


@contextmanager
def flink(
    folder: Path, workers: int = 2, environment: Mapping[str, str] | None = None, hide: Sequence[Path] = ()
) -> Iterator[Cluster]:
    """A JobManager, TaskManagers of one slot each and Beam's job server. Raises :class:`ClusterError`.

    The TaskManagers, and so the Python workers, have ``environment`` and see empty folders of their own for ``hide``.
    """
    home, server = home_of(fetch.FLINK), home_of(fetch.FLINK_JOB_SERVER)
    with processes(folder) as group:
        rest, rpc = free_ports(2)
        conf = folder / "conf"
        conf.mkdir()
        (conf / "config.yaml").write_text(_FLINK.format(rpc=rpc, rest=rest, scratch=group.scratch))
        (conf / "log4j.properties").write_text(_LOG4J)
        class_path = f"{home / 'lib'}/*:{_jars(server, but=('flink-', 'slf4j-', 'log4j-'))}"
        java = ["java", *_OPENS, f"-Dlog4j.configurationFile={conf / 'log4j.properties'}", "-cp", class_path]
        entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        group.start("jobmanager", [*java, "-Xmx512m", entry, "--configDir", str(conf)])

        def start_worker() -> None:
            runner = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
            command = [*java, "-Xmx512m", "-XX:MaxMetaspaceSize=512m", runner, "--configDir", str(conf)]
            group.start("taskmanager", command, environment, hide)

        for _ in range(workers):
            start_worker()
        job_server = ["org.apache.beam.runners.flink.FlinkJobServerDriver", f"--flink-master=127.0.0.1:{rest}"]
        options = _start_job_server(group, server, job_server)
        group.wait("jobmanager", lambda: _json(rest, "overview").get("slots-available") == workers)
        yield Cluster((*options, *_portable(group, workers)), group, start_worker)


@contextmanager
def spark(
    folder: Path, workers: int = 2, environment: Mapping[str, str] | None = None, hide: Sequence[Path] = ()
) -> Iterator[Cluster]:
    """A standalone master, workers of one core each and Beam's job server. Raises :class:`ClusterError`.

    The workers, and so the Python workers, have ``environment`` and see empty folders of their own for ``hide``.
    """
    home, server = home_of(fetch.SPARK), home_of(fetch.SPARK_JOB_SERVER)
    with processes(folder) as group:
        port, web = free_ports(2)
        here = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.12"}
        java = ["java", *_OPENS, "-Xmx512m", "-cp", f"{home / 'jars'}/*"]
        master = ["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1"]
        group.start("master", [*java, *master, "--port", str(port), "--webui-port", str(web)], here)
        group.wait("master", lambda: listens(port))

        def start_worker() -> None:
            number = len(list((folder / "logs").glob("worker-*")))
            command = [*java, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--webui-port", "0"]
            command += ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / "logs" / f"executors-{number}")]
            group.start("worker", [*command, f"spark://127.0.0.1:{port}"], here | dict(environment or {}), hide)

        for _ in range(workers):
            start_worker()
        driver = ["org.apache.beam.runners.spark.SparkJobServerDriver", f"--spark-master-url=spark://127.0.0.1:{port}"]
        properties = [
            "-Dspark.driver.host=127.0.0.1",
            "-Dspark.driver.bindAddress=127.0.0.1",
            "-Dspark.ui.enabled=false",
        ]
        properties += [f"-Dspark.executor.extraClassPath={_jars(server, but=('slf4j-', 'log4j-'))}"]
        options = _start_job_server(group, server, driver, properties)
        group.wait("master", lambda: _json(web, "json/").get("aliveworkers") == workers)
        yield Cluster((*options, *_portable(group, workers)), group, start_worker)


@contextmanager
def prism(folder: Path) -> Iterator[Cluster]:
    """Beam's portable local runner; the Python side runs in the process of the build. Raises :class:`ClusterError`."""
    binary = home_of(fetch.PRISM) / "prism"
    with processes(folder) as group:
        (port,) = free_ports(1)
        command = [str(binary), f"--job_port={port}", "--serve_http=false"]

        def start() -> None:
            group.start("prism", command)

        start()
        group.wait("prism", lambda: listens(port))
        options = ("--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", "--environment_type=LOOPBACK")
        yield Cluster(options, group, start)


def home_of(part: fetch.Part) -> Path:
    if not part.home.exists():
        raise ClusterError(f"{part.name} is not there: run `make engines`")
    return part.home


def _jars(server: Path, but: tuple[str, ...] = ()) -> str:
    """A job server's jars as a class path."""
    return ":".join(sorted(str(jar) for jar in (server / "lib").iterdir() if not jar.name.startswith(but)))


def _start_job_server(group: Processes, server: Path, driver: list[str], properties: Sequence[str] = ()) -> list[str]:
    """Start Beam's job server; gives the options that name it."""
    job, artifacts, expansion = free_ports(3)
    launcher = group.folder / "Launcher.java"
    launcher.write_text(_LAUNCHER)
    command = [
        "java",
        *_OPENS,
        "-Xmx1g",
        "-cp",
        str(group.scratch / "nothing.jar"),
        str(launcher),
        _jars(server),
        *driver,
        "--job-host=127.0.0.1",
    ]
    command += [f"--job-port={job}", f"--artifact-port={artifacts}", f"--expansion-port={expansion}"]
    command[1:1] = properties
    group.start("jobserver", [*command, f"--artifacts-dir={group.scratch / 'artifacts'}"])
    group.wait("jobserver", lambda: listens(job) and listens(artifacts))
    ends = [f"--job_endpoint=127.0.0.1:{job}", f"--artifact_endpoint=127.0.0.1:{artifacts}"]
    return ["--runner=PortableRunner", *ends]


def _portable(group: Processes, workers: int) -> list[str]:
    """The options that make the cluster start this checkout's Python workers."""
    boot = group.folder / "boot"
    boot.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(CHECKOUT))} exec {shlex.quote(sys.executable)} -m pipeline.boot "$@"\n'
    )
    boot.chmod(0o755)
    command = json.dumps({"command": str(boot)})
    return [f"--parallelism={workers}", "--environment_type=PROCESS", f"--environment_config={command}"]


def _json(port: int, path: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError):
        return {}
