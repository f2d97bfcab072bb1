"""One manifest, one digest: on every engine, on disk and on an object store, whatever is killed on the way."""

import os
import shutil
import signal
import subprocess
import time
from typing import Any

import pytest
from pyarrow import fs

from tests.clusters.bucket import S3Site
from tests.clusters.minio import BUCKET
from tests.engines.conftest import MATRIX
from tests.sites import CHECKOUT, Site

pytestmark = [pytest.mark.engines, pytest.mark.slow]
WAIT_SECONDS = 300


def built(site: Any, engine: str, storage: str, *arguments: str) -> str:
    """Build; notes engine, storage, digest and time."""
    started = time.monotonic()
    digest = site.build(*arguments)
    MATRIX.append((engine, storage, digest, time.monotonic() - started))
    return str(digest)


# The matrix -------------------------------------------------------------------------------------------------------


def test_local_workers_on_an_object_store(site: Any, bucket: Any) -> None:
    assert built(bucket.site("local"), "local, 2 workers", "s3", "--workers", "2") == site.digest


def test_in_memory_on_disk(site: Any, on_disk: Any) -> None:
    assert built(on_disk, "local, in memory", "disk", "--workers", "1") == site.digest


def test_prism_on_disk(site: Any, on_disk: Any, prism_cluster: Any) -> None:
    assert built(on_disk, "Prism", "disk", "--", *prism_cluster.options) == site.digest


def test_prism_on_an_object_store(site: Any, bucket: Any, prism_cluster: Any) -> None:
    assert built(bucket.site("prism"), "Prism", "s3", "--", *prism_cluster.options) == site.digest


def test_flink_on_disk(site: Any, on_disk: Any, flink_cluster: Any) -> None:
    assert built(on_disk, "Flink, 2 TaskManagers", "disk", "--", *flink_cluster.options) == site.digest


def test_flink_on_an_object_store_with_workers_kept_apart(site: Any, bucket: Any, flink_cluster: Any) -> None:
    digest = built(bucket.site("flink"), "Flink, 2 TaskManagers", "s3", "--", *flink_cluster.options)
    assert digest == site.digest


def test_spark_on_disk(site: Any, on_disk: Any, spark_cluster: Any) -> None:
    assert built(on_disk, "Spark, 2 workers", "disk", "--", *spark_cluster.options) == site.digest


def test_spark_on_an_object_store_with_workers_kept_apart(site: Any, bucket: Any, spark_cluster: Any) -> None:
    assert built(bucket.site("spark"), "Spark, 2 workers", "s3", "--", *spark_cluster.options) == site.digest


# Faults -----------------------------------------------------------------------------------------------------------


def start_at(site: S3Site, before: str | None, step: str, *options: str) -> Any:
    """Build up to a step with local workers, then start that step alone on a cluster."""
    if before is not None:
        site.build("--workers", "2", "--until", before)
    return site.start("--until", step, "--", *options)


def wait_for(build: Any, reached: Any) -> None:
    """Wait until a running build has come so far."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not reached():
        assert build.poll() is None, f"the build ended first: {build.communicate()[1][-3000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def finished(site: Site, build: Any) -> str:
    """Wait for the end of a step, then build the rest with local workers."""
    _, said = build.communicate(timeout=WAIT_SECONDS)
    assert build.returncode == 0, said[-3000:]
    return site.build("--workers", "2")


def test_a_killed_python_worker_of_flink(site: Any, bucket: Any, flink_cluster: Any) -> None:
    crawled = bucket.site("fault-python")
    build = start_at(crawled, None, "crawl", *flink_cluster.options)
    wait_for(build, lambda: crawled.committed("documents"))
    os.kill(flink_cluster.pids("python")[0], signal.SIGKILL)
    assert finished(crawled, build) == site.digest


def test_a_killed_task_manager_of_flink(site: Any, bucket: Any, flink_cluster: Any) -> None:
    tokenized = bucket.site("fault-taskmanager")
    build = start_at(tokenized, "deduplicate", "tokenize", *flink_cluster.options)
    wait_for(build, lambda: tokenized.committed("tokens"))
    os.kill(flink_cluster.pids("taskmanager")[0], signal.SIGKILL)
    flink_cluster.start_worker()
    assert finished(tokenized, build) == site.digest


def test_a_killed_executor_of_spark(site: Any, bucket: Any, spark_cluster: Any) -> None:
    annotated = bucket.site("fault-executor")
    build = start_at(annotated, "crawl", "annotate", *spark_cluster.options)
    wait_for(build, lambda: annotated.committed("signatures"))
    os.kill(spark_cluster.pids("executor")[0], signal.SIGKILL)
    assert finished(annotated, build) == site.digest


def test_a_killed_driver_whose_job_lives_on(site: Any, bucket: Any, flink_cluster: Any) -> None:
    """The next run of the same command cancels the job, and goes on."""
    deduplicated = bucket.site("fault-driver")
    build = start_at(deduplicated, "judge", "deduplicate", *flink_cluster.options)
    wait_for(build, lambda: deduplicated.committed("work", "/cluster-"))
    build.send_signal(signal.SIGKILL)
    build.communicate()
    again = deduplicated.start("--until", "deduplicate", "--", *flink_cluster.options)
    _, said = again.communicate(timeout=WAIT_SECONDS)
    assert again.returncode == 0, said[-3000:]
    assert "the job of an earlier build" in said
    assert deduplicated.build("--workers", "2") == site.digest


def test_an_object_store_that_is_away_for_ten_seconds(site: Any, bucket: Any) -> None:
    annotated = bucket.site("fault-store")
    annotated.build("--workers", "2", "--until", "crawl")
    build = annotated.start("--workers", "2")
    wait_for(build, lambda: annotated.committed("signatures"))
    bucket.server.stop()
    time.sleep(10)
    bucket.server.start()
    out, said = build.communicate(timeout=WAIT_SECONDS)
    assert build.returncode == 0, said[-3000:]
    assert out.strip().splitlines()[-1] == f"root digest {site.digest}"


# Messages ---------------------------------------------------------------------------------------------------------


def test_a_worker_with_other_code_stops_the_build_with_what_differs(
    bucket: Any, flink_cluster: Any, tmp_path: Any
) -> None:
    for package in ("pipeline", "filters", "languages", "manifests"):
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "pipeline" / "crawl.py").open("a") as module:
        module.write("# another version\n")
    command = bucket.site("other-code").command("--until", "crawl", "--", *flink_cluster.options)
    environment = os.environ | bucket.server.environment | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "this worker's code or libraries differ from the driver's" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_secret_is_written_or_said(bucket: Any) -> None:
    secret = bucket.server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    site = bucket.site("secrets")
    done = site.try_build("--workers", "2")
    assert done.returncode == 0
    assert secret.decode() not in done.stdout + done.stderr
    for info in bucket.client.get_file_info(fs.FileSelector(f"{BUCKET}/{site.out}", recursive=True)):
        if info.is_file:
            assert secret not in bucket.client.open_input_stream(info.path).read(), info.path
