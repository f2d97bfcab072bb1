"""The clusters of the tests come up, do a pipeline's work and leave nothing behind, however a test ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from google.protobuf import json_format
from pyarrow import fs

from pipeline import boot
from tests.clusters import fetch
from tests.clusters.engines import flink, prism, spark
from tests.clusters.minio import BUCKET, minio
from tests.clusters.processes import CHECKOUT, ClusterError, command_of, processes

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace can be made by root only")


def needs(*parts):
    """Marks for a test that runs on real clusters."""
    why = fetch.lacking(*parts)
    skip = pytest.mark.skipif(bool(why) and not fetch.are_demanded(), reason=why)
    return lambda test: pytest.mark.engines(pytest.mark.slow(skip(test)))


def gone(pids, seconds=20.0):
    """Whether processes end in time."""
    deadline = time.monotonic() + seconds
    while any(command_of(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Look(beam.DoFn):
    """Note in a file what this worker sees of a folder, and leave a file there."""

    def __init__(self, folder, notes):
        self._folder, self._notes = folder, notes

    def process(self, element):
        key, _ = element
        Path(self._notes, f"{key}").write_text(f"{os.getpid()} {sorted(os.listdir(self._folder))}")
        Path(self._folder, f"from-{os.getpid()}").touch()
        time.sleep(0.2)
        yield key


def look(cluster, folder, notes, keys=8):
    """Run a small pipeline; gives for each key who worked and what it saw."""
    notes.mkdir()
    with beam.Pipeline(options=PipelineOptions(list(cluster.options))) as pipeline:
        numbers = pipeline | beam.Create(range(keys), reshuffle=False)
        keyed = numbers | beam.Map(lambda key: (key, 0)).with_output_types(tuple[int, int])
        keyed | beam.GroupByKey() | beam.ParDo(Look(str(folder), str(notes)))
    return [path.read_text().split(" ", 1) for path in sorted(notes.iterdir())]


@needs(fetch.PRISM)
def test_prism_runs_a_pipeline_and_ends_with_its_block(tmp_path):
    (tmp_path / "seen").mkdir()
    with prism(tmp_path / "prism") as cluster:
        pids = cluster.pids("prism")
        assert len(look(cluster, tmp_path / "seen", tmp_path / "notes")) == 8
    assert len(pids) == 1
    assert gone(pids)


@root_only
@needs(fetch.FLINK, fetch.FLINK_JOB_SERVER)
def test_flink_workers_kept_apart_share_no_local_path(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "of the driver").touch()
    with flink(tmp_path / "flink", hide=[hidden]) as cluster:
        assert [len(cluster.pids(role)) for role in ("jobmanager", "taskmanager", "jobserver")] == [1, 2, 1]
        seen = look(cluster, hidden, tmp_path / "notes")
        pids = [pid for role in ("jobmanager", "taskmanager", "jobserver", "python") for pid in cluster.pids(role)]
    assert len(seen) == 8
    workers = {pid for pid, _ in seen}
    assert len(workers) == 2
    for pid, names in seen:
        assert names in ("[]", f"['from-{pid}']")
    assert [path.name for path in hidden.iterdir()] == ["of the driver"]
    assert gone(pids)


@needs(fetch.SPARK, fetch.SPARK_JOB_SERVER)
def test_spark_runs_a_pipeline_and_ends_with_its_block(tmp_path):
    (tmp_path / "seen").mkdir()
    with spark(tmp_path / "spark") as cluster:
        assert [len(cluster.pids(role)) for role in ("master", "worker", "jobserver")] == [1, 2, 1]
        assert len(look(cluster, tmp_path / "seen", tmp_path / "notes")) == 8
        roles = ("master", "worker", "jobserver", "executor", "python")
        pids = [pid for role in roles for pid in cluster.pids(role)]
    assert gone(pids)


@needs(fetch.MINIO)
def test_minio_keeps_data_and_port_over_a_stop(tmp_path):
    with minio(tmp_path / "minio") as server:
        keys = server.environment
        client = fs.S3FileSystem(
            access_key=keys["AWS_ACCESS_KEY_ID"],
            secret_key=keys["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=keys["AWS_ENDPOINT_URL"],
            region=keys["AWS_DEFAULT_REGION"],
            connect_timeout=1,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )
        with client.open_output_stream(f"{BUCKET}/a") as file:
            file.write(b"kept")
        server.stop()
        with pytest.raises(OSError, match="onnect"):
            client.get_file_info(f"{BUCKET}/a")
        server.start()
        assert client.open_input_stream(f"{BUCKET}/a").read() == b"kept"
        pids = server.processes.pids("minio")
    assert gone(pids)


DIES = """
import sys, time
from pathlib import Path
from tests.clusters.processes import Processes
group = Processes(Path(sys.argv[1]))
print(group.start("sleeps", ["sh", "-c", "sleep 600 & echo $! >&2; wait"]).pid, flush=True)
time.sleep(600)
"""


def test_processes_end_with_a_killed_test(tmp_path):
    command = [sys.executable, "-c", DIES, str(tmp_path / "cluster")]
    test = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert test.stdout is not None
    shell = int(test.stdout.readline())
    log = tmp_path / "cluster" / "logs" / "sleeps-0.log"
    while not log.read_text().strip():
        time.sleep(0.01)
    test.send_signal(signal.SIGKILL)
    test.communicate()
    assert gone([shell, int(log.read_text())])
    while (tmp_path / "cluster" / "scratch").exists():
        time.sleep(0.01)


def test_a_part_that_does_not_come_up_names_its_log(tmp_path):
    with processes(tmp_path / "cluster") as group:
        group.start("broken", ["sh", "-c", "echo no such thing; exit 3"])
        with pytest.raises(ClusterError, match=r"(?s)broken ended with 3, see .*broken-0\.log:.*no such thing"):
            group.wait("broken", lambda: False)
    with processes(tmp_path / "slow") as group:
        group.start("slow", ["sleep", "600"])
        with pytest.raises(ClusterError, match=r"slow is not up after 0 s, see .*slow-0\.log"):
            group.wait("slow", lambda: False, seconds=0.2)


@root_only
def test_hidden_folders_are_empty_and_what_must_stay_is_there(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").touch()
    with processes(tmp_path / "cluster") as group:
        shell = group.start("shell", ["sh", "-c", f"ls {tmp_path}; pwd; ls ../.."], hide=[tmp_path])
        shell.wait()
        said = (tmp_path / "cluster" / "logs" / "shell-0.log").read_text().split()
    assert said == ["cluster", str(tmp_path / "cluster" / "scratch" / "shell-0"), "logs", "scratch"]


def test_what_needs_a_missing_tool_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    part = fetch.Part("mill", ("no-such-tool", "sh"), lambda home, scratch: None)
    assert fetch.fetch(part) == "mill: left out, there is no no-such-tool on this machine"


def test_a_part_that_fails_leaves_nothing_and_one_that_is_there_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    fetch.cache().mkdir()

    def fails(home, scratch):
        (home / "half").touch()
        raise fetch.FetchError("no network")

    with pytest.raises(fetch.FetchError, match=r"mill: failed. no network"):
        fetch.fetch(fetch.Part("mill", (), fails))
    assert list(fetch.cache().iterdir()) == []
    made = fetch.Part("mill", (), lambda home, scratch: (home / "wheel").touch())
    assert fetch.fetch(made).startswith("mill: 0 MB in ")
    assert fetch.fetch(fetch.Part("mill", (), fails)) == "mill: there"
    assert [path.name for path in made.home.iterdir()] == ["wheel"]


class Provision(beam_provision_api_pb2_grpc.ProvisionServiceServicer):
    def GetProvisionInfo(self, request, context):  # noqa: N802 - Beam's name
        info = beam_provision_api_pb2.ProvisionInfo(runner_capabilities=["a:1", "b:1"])
        json_format.ParseDict({"beam:option:parallelism:v1": 2}, info.pipeline_options)
        info.control_endpoint.url = f"control of {dict(context.invocation_metadata())['worker_id']}"
        info.logging_endpoint.url = "logs"
        return beam_provision_api_pb2.GetProvisionInfoResponse(info=info)


def test_a_worker_learns_from_the_provision_service_what_beam_needs():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(Provision(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        given = boot.provisioned("1-7", f"127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert given["WORKER_ID"] == "1-7"
    assert given["CONTROL_API_SERVICE_DESCRIPTOR"] == 'url: "control of 1-7"\n'
    assert given["LOGGING_API_SERVICE_DESCRIPTOR"] == 'url: "logs"\n'
    assert given["RUNNER_CAPABILITIES"] == "a:1 b:1"
    assert '"beam:option:parallelism:v1": 2' in given["PIPELINE_OPTIONS"]


def test_a_worker_ends_with_its_parent():
    script = "import os, threading, time; from pipeline import boot; boot._PARENT_SECONDS = 0.05; "
    script += "threading.Thread(target=boot._end_with, args=(os.getppid(),)).start(); print(os.getpid(), flush=True)"
    shell = subprocess.Popen(
        ["sh", "-c", '"$@" & wait', "sh", sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    worker = int(shell.stdout.readline())
    shell.kill()
    shell.wait()
    assert gone([worker])
