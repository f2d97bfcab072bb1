"""What can be killed amid a pass, and how a build goes on."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.clusters.bucket import S3Site
from tests.clusters.engines import Cluster

PASSES = {
    "crawl": (None, "documents", ""),
    "annotate": ("crawl", "signatures", ""),
    "deduplicate": ("judge", "work", "/cluster-"),
    "tokenize": ("deduplicate", "tokens", ""),
}
"""Of each pass: the step before it, and in which folder a record (with a word in its path) shows that it is amid."""

AWAY_SECONDS = 10
_WAIT_SECONDS = 300

Strike = Callable[[S3Site, Cluster, Any], None]


def kill_python_worker(site: S3Site, cluster: Cluster, build: Any) -> None:
    """kill -9 of one of Beam's Python workers."""
    os.kill(cluster.pids("python")[0], signal.SIGKILL)


def kill_task_manager(site: S3Site, cluster: Cluster, build: Any) -> None:
    """kill -9 of a TaskManager of Flink; another one comes."""
    os.kill(cluster.pids("taskmanager")[0], signal.SIGKILL)
    cluster.start_worker()


def kill_executor(site: S3Site, cluster: Cluster, build: Any) -> None:
    """kill -9 of an executor of Spark; its worker starts another one."""
    os.kill(cluster.pids("executor")[0], signal.SIGKILL)


def kill_driver(site: S3Site, cluster: Cluster, build: Any) -> None:
    """kill -9 of the build; its job lives on."""
    build.send_signal(signal.SIGKILL)


def stop_store(site: S3Site, cluster: Cluster, build: Any) -> None:
    """The object store is away for ten seconds."""
    site.bucket.server.stop()
    time.sleep(AWAY_SECONDS)
    site.bucket.server.start()


def struck(site: S3Site, step: str, cluster: Cluster, strike: Strike) -> tuple[str, int, str]:
    """Run one pass on a cluster and strike amid it; the same command again if that ended it, the rest locally.

    Gives the root digest, how often the command was run, and all that it said. Raises AssertionError where the build
    ends before it is amid the pass or doesn't come to an end.
    """
    before, role, word = PASSES[step]
    if before is not None:
        site.build("--workers", "2", "--until", before)
    command = ("--until", step, "--", *cluster.options)
    build = site.start(*command)
    deadline = time.monotonic() + _WAIT_SECONDS
    while not site.committed(role, word):
        assert build.poll() is None, f"the build ended first: {build.communicate()[1][-3000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    strike(site, cluster, build)
    _, said = build.communicate(timeout=_WAIT_SECONDS)
    runs = 1
    if build.returncode:
        again = site.start(*command)
        _, more = again.communicate(timeout=_WAIT_SECONDS)
        assert again.returncode == 0, more[-3000:]
        runs, said = 2, said + more
    return site.build("--workers", "2"), runs, said
