"""Clusters that last for the session, and the matrix of what was built on them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import fetch
from tests.clusters.bucket import ON_DISK, Bucket, filled
from tests.clusters.engines import Cluster, flink, prism, spark
from tests.clusters.minio import minio
from tests.sites import Site

PARTS = {
    "prism": (fetch.PRISM,),
    "flink": (fetch.FLINK, fetch.FLINK_JOB_SERVER),
    "spark": (fetch.SPARK, fetch.SPARK_JOB_SERVER),
    "s3": (fetch.MINIO,),
}
MATRIX: list[tuple[str, str, str, float]] = []


def demand(name: str) -> None:
    """Leave a test out where what it runs on is not there; fail it where CI demands it."""
    if why := fetch.lacking(*PARTS[name]):
        (pytest.fail if fetch.are_demanded() else pytest.skip)(why)


@pytest.fixture(scope="session")
def site(tmp_path_factory: Any) -> Site:
    """Real input of every kind but git, built on disk by two local workers: the digest that every engine must give."""
    site = Site.make(tmp_path_factory.mktemp("engines"), manifest=ON_DISK)
    site.digest = site.build("--workers", "2")  # type: ignore[attr-defined]
    return site


@pytest.fixture(scope="session")
def bucket(site: Site, tmp_path_factory: Any) -> Iterator[Bucket]:
    demand("s3")
    with minio(tmp_path_factory.mktemp("s3") / "minio") as server:
        yield filled(server, site, tmp_path_factory.mktemp("driver"))


@contextmanager
def kept_apart(start: Any, folder: Path, bucket: Bucket) -> Iterator[Cluster]:
    """A cluster whose workers see neither the driver's folder nor each other's temporary files."""
    hide = [bucket.folder] if os.geteuid() == 0 else []
    with start(folder / "cluster", environment=bucket.server.environment, hide=hide) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def flink_cluster(bucket: Bucket, tmp_path_factory: Any) -> Iterator[Cluster]:
    demand("flink")
    with kept_apart(flink, tmp_path_factory.mktemp("flink"), bucket) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spark_cluster(bucket: Bucket, tmp_path_factory: Any) -> Iterator[Cluster]:
    demand("spark")
    with kept_apart(spark, tmp_path_factory.mktemp("spark"), bucket) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def prism_cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    demand("prism")
    with prism(tmp_path_factory.mktemp("prism") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def on_disk(site: Site, tmp_path_factory: Any) -> Iterator[Site]:
    out = tmp_path_factory.mktemp("out")
    yield replace(site, out=out / "build")
    shutil.rmtree(out)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The matrix: engine, storage, digest, seconds."""
    if MATRIX:
        terminalreporter.section("engines")
        for engine, storage, digest, seconds in MATRIX:
            terminalreporter.line(f"{engine:<24} {storage:<6} {digest[:16]}  {seconds:6.1f} s")
        digests = {digest for _, _, digest, _ in MATRIX}
        terminalreporter.line(f"{len(MATRIX)} builds, {len(digests)} digest{'s' if len(digests) > 1 else ''}")
