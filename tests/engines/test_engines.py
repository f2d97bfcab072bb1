"""One manifest, one digest: on every engine, on disk and on an object store, whatever is killed on the way."""

import os
import shutil
import subprocess
import time
from typing import Any

import pytest
from pyarrow import fs

from tests.clusters.faults import kill_driver, kill_executor, kill_python_worker, kill_task_manager, stop_store, struck
from tests.clusters.minio import BUCKET
from tests.engines.conftest import MATRIX
from tests.sites import CHECKOUT

pytestmark = [pytest.mark.engines, pytest.mark.slow]


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


def test_a_killed_python_worker_of_flink(site: Any, bucket: Any, flink_cluster: Any) -> None:
    digest, runs, _ = struck(bucket.site("fault-python"), "crawl", flink_cluster, kill_python_worker)
    assert (digest, runs) == (site.digest, 1)


def test_a_killed_task_manager_of_flink(site: Any, bucket: Any, flink_cluster: Any) -> None:
    digest, runs, _ = struck(bucket.site("fault-taskmanager"), "tokenize", flink_cluster, kill_task_manager)
    assert (digest, runs) == (site.digest, 1)


def test_a_killed_executor_of_spark(site: Any, bucket: Any, spark_cluster: Any) -> None:
    digest, runs, _ = struck(bucket.site("fault-executor"), "annotate", spark_cluster, kill_executor)
    assert (digest, runs) == (site.digest, 1)


def test_a_killed_driver_whose_job_lives_on(site: Any, bucket: Any, flink_cluster: Any) -> None:
    """The next run of the same command cancels the job, and goes on."""
    digest, runs, said = struck(bucket.site("fault-driver"), "deduplicate", flink_cluster, kill_driver)
    assert (digest, runs) == (site.digest, 2)
    assert "the job of an earlier build" in said


def test_an_object_store_that_is_away_for_ten_seconds(site: Any, bucket: Any, flink_cluster: Any) -> None:
    digest, runs, _ = struck(bucket.site("fault-store"), "annotate", flink_cluster, stop_store)
    assert (digest, runs) == (site.digest, 1)


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
