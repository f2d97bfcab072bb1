"""A build's files on a real S3 server (MinIO), behind a proxy that refuses, loses answers and counts requests."""

import http.client
import io
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import remote
from pipeline.inputs import LOCK, Lock, crawl_units
from pipeline.lease import LEASE, Lease, LeaseError
from pipeline.manifest import ArchiveSource, GitRepository, GitSource, ManifestError
from pipeline.remote import Remote
from pipeline.store import StorageError, Store, open_url, sha256_of, source_files
from tests.clusters.fetch import MINIO, are_demanded, lacking

s3fs = pytest.importorskip("s3fs")

USER, SECRET = "FINDMEUSER", "findme-secret/key"
BUCKET = "corpus"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
BINARY = MINIO.home / "minio"

pytestmark = pytest.mark.skipif(bool(lacking(MINIO)) and not are_demanded(), reason=lacking(MINIO))


class Server:
    """MinIO on loopback, over one data folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        command = [str(BINARY), "server", "--quiet", "--address", f"127.0.0.1:{self.port}", str(self._folder)]
        environment = os.environ | {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off"}
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=environment, stdout=null, stderr=null)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/minio/health/live", timeout=2).close()
                return
            except OSError:
                assert self._process.poll() is None, "the S3 server ended"
                time.sleep(0.1)
        raise AssertionError("the S3 server does not answer")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, as ``rule`` says: pass, busy, denied, drop (the request), lose (the answer)."""

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), _Forward)
        self.port = port
        self.seen: list[str] = []
        self.rule: Callable[[str, str], str] | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fail(self, method: str, action: str, times: int = 1, part: str = "") -> None:
        """Answer the next requests of a method in another way."""
        left = [times]

        def rule(seen: str, path: str) -> str:
            if seen == method and part in path and left[0]:
                left[0] -= 1
                return action
            return "pass"

        self.rule = rule

    def watch(self, act: Callable[[], Any]) -> list[str]:
        """The requests that something makes: method, and the range where one is asked for."""
        self.seen.clear()
        act()
        return list(self.seen)


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        action = self.server.rule(self.command, self.path) if self.server.rule else "pass"
        self.server.seen.append(f"{self.command} {self.headers.get('Range', '')}".strip())
        if action == "busy":
            self._answer(503, {}, BUSY)
        elif action == "denied":
            self._answer(403, {}, DENIED)
        elif action != "drop":
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if action == "pass":
                self._answer(answer.status, dict(answer.headers), data)
        self.close_connection = action in ("drop", "lose")

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(headers.get("Content-Length", len(data))))
        self.end_headers()
        self.wfile.write(data if self.command != "HEAD" else b"")

    def log_message(self, *_: Any) -> None:
        pass

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def through(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture(autouse=True)
def environment(through: Proxy, tmp_path: Path, monkeypatch: Any) -> Iterator[None]:
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.5)
    through.rule = None
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{through.server_port}")
    s3fs.S3FileSystem.clear_instance_cache()
    fs, _ = remote.file_system(f"s3://{BUCKET}")
    if not fs.exists(BUCKET):
        fs.mkdir(BUCKET)
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def store() -> Store:
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}/out")


def other_client() -> Any:
    return s3fs.S3FileSystem(skip_instance_cache=True)


# Requests ---------------------------------------------------------------------------------------------------------


def test_every_operation_is_one_request(store: Store, through: Proxy) -> None:
    assert through.watch(lambda: store.write("a/b.json", b"0123456789")) == ["PUT"]
    assert through.watch(lambda: store.read("a/b.json")) == ["GET"]
    assert through.watch(lambda: store.read_range("a/b.json", 2, 5)) == ["GET bytes=2-4"]
    assert through.watch(lambda: store.size("a/b.json")) == ["HEAD"]
    assert through.watch(lambda: store.size("a/none")) == ["HEAD"]
    assert through.watch(lambda: store.exists("a")) == ["HEAD"]
    assert through.watch(lambda: store.files("a").__next__()) == ["GET"]
    assert through.watch(lambda: store.remove("a/b.json")) == ["DELETE"]


def test_a_file_is_what_was_written(store: Store) -> None:
    assert not store.is_local
    assert not store.exists("a/b")
    assert (store.size("a/b"), list(store.files()), list(store.files("a"))) == (None, [], [])
    with pytest.raises(FileNotFoundError):
        store.read("a/b")
    with pytest.raises(FileNotFoundError):
        store.open("a/b")
    store.write("a/b", b"0123456789")
    store.write("a/c/d", b"")
    assert (store.exists("a/b"), store.exists("a"), store.size("a/b")) == (True, False, 10)
    assert (store.read("a/b"), store.read("a/c/d"), store.read_range("a/b", 8, 20)) == (b"0123456789", b"", b"89")
    assert (store.read_range("a/b", 3, 3), store.read_range("a/b", 20, 30)) == (b"", b"")
    with store.open("a/b") as file:
        assert (file.read(3), file.seek(-2, io.SEEK_END), file.read(), file.tell()) == (b"012", 8, b"89", 10)
    assert list(store.files()) == ["a/b", "a/c/d"]
    store.remove("a/none")
    store.remove_folder("a/c")
    store.remove_folder("none")
    assert list(store.files()) == ["a/b"]


def test_what_another_client_does_is_seen_at_once(store: Store) -> None:
    other = other_client()
    assert list(store.files("a")) == []
    assert store.size("a/b") is None
    other.pipe_file(store.full("a/b"), b"one")
    assert (list(store.files("a")), store.size("a/b")) == (["a/b"], 3)
    other.pipe_file(store.full("a/b"), b"three")
    assert (store.size("a/b"), store.read("a/b")) == (5, b"three")
    other.rm_file(store.full("a/b"))
    assert (list(store.files("a")), store.exists("a/b")) == ([], False)


def test_a_small_table_is_read_at_once_and_a_large_one_by_its_columns(store: Store, through: Proxy) -> None:
    schema = pa.schema([pa.field("small", pa.int64()), pa.field("large", pa.binary())])
    rows = pa.record_batch([pa.array(range(1000)), pa.array([os.urandom(3000) for _ in range(1000)])], schema)
    small = store.write_table("small.parquet", schema, [rows.slice(0, 10)])
    large = store.write_table("large.parquet", schema, [rows] * 4)
    assert through.watch(lambda: store.read_table("small.parquet")) == ["HEAD", f"GET bytes=0-{small.size - 1}"]
    seen = through.watch(lambda: store.read_table("large.parquet", ["small"]))
    assert [line.split()[0] for line in seen] == ["HEAD", "GET", *["GET"] * 4]
    assert store.read_table("large.parquet").num_rows == 4000
    assert sum(batch.num_rows for batch in store.batches("large.parquet", ["small", "large"])) == 4000
    seen = through.watch(lambda: sha256_of(lambda: store.open("large.parquet")))
    assert len(seen) < 9
    assert sha256_of(lambda: store.open("large.parquet")) == large.sha256
    assert store.read_range("large.parquet", 0, 4) == b"PAR1"


# Failures ---------------------------------------------------------------------------------------------------------


A = b"x" * 10
OPERATIONS: dict[str, tuple[str, Callable[[Store], Any], Any, dict[str, bytes]]] = {
    "read": ("GET", lambda s: s.read("a"), A, {"a": A}),
    "range": ("GET", lambda s: s.read_range("a", 0, 2), b"xx", {"a": A}),
    "open": ("HEAD", lambda s: s.open("a").read(), A, {"a": A}),
    "size": ("HEAD", lambda s: s.size("a"), 10, {"a": A}),
    "list": ("GET", lambda s: list(s.files()), ["a"], {"a": A}),
    "write": ("PUT", lambda s: s.write("b", b"y"), None, {"a": A, "b": b"y"}),
    "remove": ("DELETE", lambda s: s.remove("a"), None, {}),
    "remove folder": ("POST", lambda s: s.remove_folder(""), None, {}),
    "new": ("PUT", lambda s: s.write_new("b", b"y"), True, {"a": A, "b": b"y"}),
    "exchange": ("PUT", lambda s: s.exchange("a", A, b"z"), True, {"a": b"z"}),
}


@pytest.mark.parametrize("action", ["busy", "drop", "lose"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_request_that_fails_for_a_while_is_asked_again(store: Store, through: Proxy, name: str, action: str) -> None:
    """Also a write that was done, and whose answer was lost, is one write, and ours."""
    method, act, gives, leaves = OPERATIONS[name]
    store.write("a", A)
    through.fail(method, action, times=3)
    assert act(store) == gives
    assert {path: store.read(path) for path in store.files()} == leaves


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refusal_is_one_sentence_at_once(store: Store, through: Proxy, name: str) -> None:
    method, act, _, _ = OPERATIONS[name]
    store.write("a", A)
    through.fail(method, "denied", times=99)
    with pytest.raises(
        StorageError, match=r"^can't use s3://corpus/.*(AccessDenied|403).*Check the credentials"
    ) as caught:
        through.watch(lambda: act(store))
    assert sum(line.startswith(method) for line in through.seen) == 1
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_not_asked_for_again(store: Store, through: Proxy) -> None:
    def act() -> None:
        with pytest.raises(FileNotFoundError):
            store.read("none")

    assert through.watch(act) == ["GET"]


def test_a_condition_that_fails_is_not_asked_again(store: Store, through: Proxy) -> None:
    store.write("a", b"theirs")
    assert not store.write_new("a", b"mine")
    assert not store.exchange("a", b"older", b"mine")
    assert not store.exchange("none", b"older", b"mine")
    assert through.watch(lambda: store.write_new("a", b"mine")) == ["PUT", "GET"]
    assert store.read("a") == b"theirs"


def test_a_write_on_a_condition_fails_when_another_came_between(store: Store, through: Proxy) -> None:
    store.write("a", b"old")
    other = other_client()

    def rule(method: str, path: str) -> str:
        if method == "PUT":
            through.rule = None
            other.pipe_file(store.full("a"), b"theirs")
        return "pass"

    through.rule = rule
    assert not store.exchange("a", b"old", b"mine")
    assert store.read("a") == b"theirs"


def test_a_store_that_stays_away_is_one_sentence(store: Store, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(remote, "_PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(remote, "_TELL_SECONDS", 0.5)
    monkeypatch.setattr(remote, "_last_told", [float("-inf")])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError) as caught:
        Store(store.url).read("a.json")
    said = str(caught.value)
    assert said.startswith(f"{store.url}/a.json has not answered for 0 min (")
    assert said.endswith("run the same command again: it goes on where it was.")
    told = capsys.readouterr().err
    assert told.count("does not answer") == 1
    assert SECRET not in said + told


def test_no_bucket_and_no_credentials_are_sentences(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/out/a: there is no such bucket"):
        Store("s3://no-such-bucket/out").write("a", b"x")
    with pytest.raises(StorageError, match="there is no such bucket"):
        Store("s3://no-such-bucket/out").read("a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"^no credentials for s3://corpus/out/a: set AWS_ACCESS_KEY_ID"):
        Store(f"s3://{BUCKET}/out").write("a", b"x")


def test_an_endpoint_without_scheme_or_with_a_password_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(StorageError, match="begins with http"):
        Store(f"s3://{BUCKET}/out").read("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hidden@localhost:9000")
    with pytest.raises(StorageError, match="may hold no password") as caught:
        Store(f"s3://{BUCKET}/out").read("a")
    assert "hidden" not in str(caught.value)


def test_writers_wait_while_the_server_is_stopped_and_lose_nothing(
    store: Store, server: Server, through: Proxy, monkeypatch: Any
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    s3fs.S3FileSystem.clear_instance_cache()
    store, stopped = Store(store.url), threading.Event()
    wrong: list[Any] = []

    def write(number: int) -> None:
        try:
            for i in range(10_000):
                if stopped.is_set() and i >= 20:
                    break
                store.write(f"{number}/{i:05d}", b"x" * i)
                if store.read(f"{number}/{i:05d}") != b"x" * i:
                    wrong.append(i)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    server.stop()
    time.sleep(5)
    server.start()
    stopped.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    for number in range(4):
        files = list(store.files(str(number)))
        assert files == [f"{number}/{i:05d}" for i in range(len(files))]
        assert len(files) >= 20


# Large files ------------------------------------------------------------------------------------------------------


LARGE = 40 << 20


def put_large(store: Store) -> None:
    with store.create("large") as file:
        file.write(bytes(LARGE))


def unfinished(store: Store) -> list[Any]:
    key = store.full("large").partition("/")[2]
    answer = remote.file_system(store.url)[0].call_s3("list_multipart_uploads", Bucket=BUCKET, Prefix=key)
    return list(answer.get("Uploads", []))


def test_a_large_file_comes_in_parts_and_appears_whole(store: Store, through: Proxy) -> None:
    assert through.watch(lambda: put_large(store)) == ["POST", "PUT", "PUT", "PUT", "POST"]
    assert store.size("large") == LARGE
    assert store.read_range("large", LARGE - 3, LARGE + 3) == b"\0\0\0"
    assert unfinished(store) == []


@pytest.mark.parametrize(("method", "part"), [("POST", "?uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId")])
@pytest.mark.parametrize("action", ["busy", "drop", "lose"])
def test_a_large_file_is_whole_when_a_part_had_to_be_sent_again(
    store: Store, through: Proxy, method: str, part: str, action: str
) -> None:
    through.fail(method, action, times=2, part=part)
    put_large(store)
    assert store.size("large") == LARGE


@pytest.mark.parametrize(("method", "part"), [("PUT", "partNumber=2"), ("POST", "uploadId")])
def test_an_upload_that_fails_leaves_neither_a_file_nor_parts(
    store: Store, through: Proxy, method: str, part: str
) -> None:
    through.fail(method, "denied", times=99, part=part)
    with pytest.raises(StorageError, match="AccessDenied"):
        put_large(store)
    through.rule = None
    assert not store.exists("large")
    assert unfinished(store) == []


# Credentials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{USER}:{SECRET}@{BUCKET}/out",
        "https://me:hidden@example.org/a.zip",
        "https://hidden@example.org/a.zip",
        "simplecache::s3://me:hidden@bucket/a",
        "https://example.org/a.zip?X-Amz-Credential=me&X-Amz-Signature=hidden",
        "https://account.blob.example.org/a.zip?sv=2024&sig=hidden",
    ],
)
def test_a_url_with_credentials_is_refused_without_showing_them(url: str, tmp_path: Path) -> None:
    lock, said = Lock(Store(str(tmp_path))), []
    for act in (
        lambda: Store(url),
        lambda: open_url(url),
        lambda: source_files(url),
        lambda: crawl_units(ArchiveSource(name="code", kind="archives", paths=(url,)), lock),
        lambda: crawl_units(GitSource(name="git", kind="git", repositories=(GitRepository(url=url),)), lock),
    ):
        with pytest.raises((StorageError, ManifestError), match="may hold no password, token or signature") as caught:
            act()
        said.append(str(caught.value))
    assert not any(secret in line for secret in (SECRET, SECRET.split("/")[1], "hidden") for line in said)


@pytest.mark.parametrize(
    "url",
    [
        "s3://b/a:b@c",
        "http://host:8080/@scope/a.tgz",
        "abfs://box@account.dfs.core/x",
        "ssh://git@host/a.git",
        "/a:b@c",
    ],
)
def test_a_url_without_credentials_is_not_refused(url: str) -> None:
    remote.refuse_secrets(url)


def test_credentials_stand_in_nothing_that_is_written_or_said(
    store: Store, through: Proxy, tmp_path: Path, monkeypatch: Any, capfd: Any, caplog: Any
) -> None:
    """Searched: every byte in the bucket's folder of this build, every message, the terminal and the log."""
    caplog.set_level("INFO")
    said = [pickle.dumps(store), repr(store).encode(), store.url.encode()]
    with Lease(store, lambda sentence: said.append(sentence.encode())):
        (inputs := Store(f"{store.url}/in")).write("a-1.0.zip", b"x")
        source = ArchiveSource(name="code", kind="archives", paths=(f"{inputs.url}/*.zip",))
        lock = Lock(store)
        store.write_json("work/units.json", [unit.as_json() for unit in crawl_units(source, lock)])
        lock.save()
        with pytest.raises(LeaseError) as caught, Lease(store):
            raise AssertionError
        said.append(str(caught.value).encode())
        said += [store.read(path) for path in store.files()]
    through.fail("GET", "denied", times=99)
    with pytest.raises(StorageError) as refused:
        store.read(LOCK)
    through.rule = None
    for name, value in (("AWS_SECRET_ACCESS_KEY", "findme-wrong"), ("AWS_ACCESS_KEY_ID", "FINDMEWRONG")):
        monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        for act in (Store.size, Store.read, lambda s, path: s.write(path, b"")):
            with pytest.raises(StorageError, match="Check the credentials") as wrong:
                act(Store(store.url), LOCK)
            said.append(str(wrong.value).encode())
    said += [str(refused.value).encode(), caplog.text.encode(), *(text.encode() for text in capfd.readouterr())]
    assert len(said) > 10
    assert not any(b"findme" in bytes(piece).lower() for piece in said)


def test_credentials_and_endpoint_may_stand_in_a_profile(store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    store.write("a", b"x")
    (tmp_path / "config").write_text(
        f"[profile corpora]\naws_access_key_id = {USER}\naws_secret_access_key = {SECRET}\n"
        f"endpoint_url = {os.environ['AWS_ENDPOINT_URL']}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "corpora")
    s3fs.S3FileSystem.clear_instance_cache()
    assert Store(store.url).read("a") == b"x"


# The lease --------------------------------------------------------------------------------------------------------


HOLDER = """\
import sys, time
from pipeline import lease
from pipeline.store import Store
if "short" in sys.argv:
    lease._HEARTBEAT_SECONDS, lease._EXPIRES_SECONDS = 0.3, 3.0
def lost(sentence):
    print("lost", sentence, flush=True)
for line in sys.stdin:
    url, start = line.split()
    store = Store(url)
    store.exists(lease.LEASE)
    print("ready", flush=True)
    time.sleep(max(0.0, float(start) - time.time()))
    try:
        with lease.Lease(store, *(() if "default" in sys.argv else (lost,))):
            print("held", flush=True)
            sys.stdin.readline()
        print("released", flush=True)
    except lease.LeaseError:
        print("refused", flush=True)
"""


class Holder:
    """Another process that takes leases."""

    def __init__(self, *options: str):
        pipe, folder = subprocess.PIPE, Path(__file__).parents[2]
        command = [sys.executable, "-c", HOLDER, *options]
        self.process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def hear(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "it says nothing"
        return self.process.stdout.readline().decode().strip()

    def take(self, store: Store, start: float = 0.0) -> None:
        self.say(f"{store.url} {start}")
        assert self.hear() == "ready"

    def end(self) -> str:
        """Close its input; gives what it said on stderr."""
        return self.process.communicate(timeout=60)[1].decode()


@pytest.fixture
def holders() -> Iterator[Callable[..., Holder]]:
    made: list[Holder] = []

    def make(*options: str) -> Holder:
        made.append(Holder(*options))
        return made[-1]

    yield make
    for holder in made:
        if holder.process.poll() is None:
            holder.process.kill()
        holder.process.communicate()


def stale(store: Store) -> None:
    store.write(LEASE, json.dumps({"token": "old", "host": "elsewhere", "pid": 1, "alive": time.time() - 90}).encode())


def test_of_processes_that_start_at_once_one_goes_on(store: Store, holders: Callable[..., Holder]) -> None:
    """In an empty folder, and after a build that died."""
    processes = [holders() for _ in range(5)]
    for round_ in range(8):
        place = Store(f"{store.url}/{round_}")
        if round_ % 2:
            stale(place)
        start = time.time() + (10 if round_ == 0 else 1)
        for process in processes:
            process.say(f"{place.url} {start}")
        assert [process.hear() for process in processes] == ["ready"] * 5
        said = [process.hear() for process in processes]
        assert sorted(said) == ["held", *["refused"] * 4]
        winner = processes[said.index("held")]
        winner.say("")
        assert winner.hear() == "released"
        assert not place.exists(LEASE)


@pytest.mark.parametrize("n", range(3))
def test_of_threads_that_replace_a_stale_lease_one_goes_on(store: Store, n: int) -> None:
    stale(store)
    barrier, done = threading.Barrier(8), threading.Barrier(8)
    said: list[str] = []

    def start() -> None:
        held = Lease(Store(store.url), said.append)
        barrier.wait()
        try:
            held.__enter__()
            said.append("held")
        except LeaseError:
            said.append("refused")
        done.wait()
        held.release()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["held", *["refused"] * 7]


@pytest.mark.parametrize("on_lost", ["callback", "default"])
def test_a_build_that_slept_and_lost_its_lease_stops_with_a_sentence(
    store: Store, holders: Callable[..., Holder], on_lost: str
) -> None:
    sleeper, follower = holders("short", on_lost), holders("short")
    sleeper.take(store)
    assert sleeper.hear() == "held"
    sleeper.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(3.5)
        follower.take(store)
        assert follower.hear() == "held"
    finally:
        sleeper.process.send_signal(signal.SIGCONT)
    if on_lost == "callback":
        said = sleeper.hear()
    else:
        sleeper.process.wait(timeout=30)
        said = sleeper.end()
        assert sleeper.process.returncode != 0
    assert f"this build lost its lease on {store.url}: process {follower.process.pid} on " in said
    follower.say("")
    assert follower.hear() == "released"
    assert not store.exists(LEASE)


def test_a_holder_keeps_its_lease_over_a_short_absence_of_the_store(
    store: Store, through: Proxy, monkeypatch: Any
) -> None:
    monkeypatch.setattr("pipeline.lease._HEARTBEAT_SECONDS", 0.1)
    lost: list[str] = []
    with Lease(store, lost.append):
        before = store.read_json(LEASE)["alive"]
        for action in ("lose", "drop", "busy"):
            through.fail("PUT", action, times=2)
            time.sleep(1.5)
        assert store.read_json(LEASE)["alive"] > before
    assert lost == []
    assert not store.exists(LEASE)


# Inputs -----------------------------------------------------------------------------------------------------------


def test_the_same_bytes_on_disk_and_in_a_bucket_are_the_same_units(store: Store, tmp_path: Path) -> None:
    for name in ("b-1.0.zip", "a-2.0.tar.gz", "d/c d-3.0.zip"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
        store.write(f"in/{name}", name.encode())
    lock = Lock(Store(str(tmp_path / "out")))
    local, there = (
        crawl_units(ArchiveSource(name="code", kind="archives", paths=(path,)), lock)
        for path in (str(tmp_path / "in"), f"{store.url}/in")
    )
    assert [(u.name, u.digests, u.size) for u in there] == [(u.name, u.digests, u.size) for u in local]
    assert [u.size for u in there] == [12, 9, 13]
    assert all(i.url.startswith("s3://") for u in there for i in u.inputs)


@pytest.mark.parametrize("pattern", ["in", "in/", "in/*.zip"])
def test_sizes_and_tags_come_from_one_listing_and_an_unchanged_tag_is_never_read_again(
    store: Store, through: Proxy, tmp_path: Path, pattern: str
) -> None:
    for i in range(30):
        store.write(f"in/p-{i}.0.zip", str(i).encode())
    source = ArchiveSource(name="code", kind="archives", paths=(f"{store.url}/{pattern}",))
    out = Store(str(tmp_path))
    lock = Lock(out)
    seen = through.watch(lambda: crawl_units(source, lock))
    lock.save()
    assert sum(line.startswith("GET bytes") for line in seen) == 30
    pins = out.read_json(LOCK)["files"]
    assert pins[f"{store.url}/in/p-0.0.zip"]["change"].strip('"') == "cfcd208495d565ef66e7dff9f98764da"
    assert len(through.watch(lambda: crawl_units(source, Lock(out)))) < 5
    store.write("in/p-3.0.zip", b"other")
    seen = through.watch(lambda: crawl_units(source, Lock(out)))
    assert sum(line.startswith("GET bytes") for line in seen) == 1


def test_what_is_missing_or_refused_is_said_at_once(store: Store, tmp_path: Path) -> None:
    paths = (f"{store.url}/none/*", f"{store.url}/in", "s3://no-such-bucket/in", str(tmp_path / "none"))
    store.write("in/a-1.0.zip", b"x")
    with pytest.raises(ManifestError) as caught:
        crawl_units(ArchiveSource(name="code", kind="archives", paths=paths), Lock(Store(str(tmp_path))))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"nothing matches {store.url}/none/*"
    assert "no such bucket" in lines[1] or lines[1].startswith("nothing matches s3://no-such-bucket/in")
    assert lines[2].startswith(f"nothing matches {tmp_path}/none")
    assert len(lines) == 3
    assert caught.value.key == ("paths", 0)


def test_a_large_input_is_read_by_a_few_ranges(store: Store, through: Proxy) -> None:
    data = os.urandom(1 << 20) * 30
    store.write("a", data)
    with open_url(f"{store.url}/a") as file:
        seen = through.watch(lambda: file.read(1000))
        assert seen == ["GET bytes=0-262143"]
        seen = through.watch(lambda: [file.read(1 << 16) for _ in range(480)])
    assert len(seen) < 12
    with open_url(f"{store.url}/a") as file:
        assert file.read() == data


def test_the_options_of_s3_are_known_to_the_library() -> None:
    """Conditions and retries are passed on, not dropped as unknown."""
    fs, _ = remote.file_system(f"s3://{BUCKET}")
    fs.connect()
    conditions = {"IfMatch": "tag", "IfNoneMatch": "*"}
    assert fs._filter_kwargs(fs.s3.put_object, conditions) == conditions
    assert (fs.retries, fs.s3.meta.config.retries["total_max_attempts"], Remote(fs).is_s3) == (1, 1, True)
