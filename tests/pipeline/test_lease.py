"""One build at a time: a lease excludes others while its holder lives, and no longer."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

import pytest

from pipeline import lease
from pipeline.lease import LEASE, Lease, LeaseError
from pipeline.store import Store


@pytest.fixture(params=["file", "memory"])
def store(request: Any, tmp_path: Any, monkeypatch: Any) -> Any:
    monkeypatch.setattr("pipeline.remote._SETTLE_SECONDS", 0.05)
    return Store(str(tmp_path / "out") if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def leave(store: Any, **changes: Any) -> None:
    """A lease of another build."""
    holder = {"token": "other", "host": lease._host(), "pid": os.getpid(), "alive": time.time()}
    store.write(LEASE, json.dumps(holder | changes).encode())


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_build_is_refused_with_who_holds_the_lease(store: Any) -> None:
    with Lease(store):
        with pytest.raises(LeaseError) as caught, Lease(store):
            raise AssertionError
        assert f"another build works in {store.url} (process {os.getpid()} on {lease._host()})" in str(caught.value)
        assert store.exists(LEASE)


def test_a_lease_is_given_back_at_the_end_also_after_an_error(store: Any) -> None:
    with pytest.raises(KeyError), Lease(store):
        raise KeyError
    assert not store.exists(LEASE)
    with Lease(store):
        assert store.exists(LEASE)


def test_releasing_twice_is_releasing_once(store: Any) -> None:
    held = Lease(store)
    with held:
        held.release()
        assert not store.exists(LEASE)
        leave(store)
        held.release()
    assert store.read_json(LEASE)["token"] == "other"


def test_a_build_releases_only_its_own_lease(store: Any) -> None:
    with Lease(store):
        leave(store)
    assert store.read_json(LEASE)["token"] == "other"


def test_the_lease_of_a_dead_process_here_is_taken_at_once(store: Any) -> None:
    leave(store, pid=dead_pid())
    with Lease(store):
        assert store.read_json(LEASE)["token"] != "other"
    assert list(store.files()) == []


def test_the_lease_of_a_process_that_waits_to_be_reaped_is_taken(store: Any) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    time.sleep(0.05)
    leave(store, pid=process.pid)
    with Lease(store):
        assert store.read_json(LEASE)["token"] != "other"
    process.communicate()


def test_a_process_of_another_user_is_alive() -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    leave(store, pid=1)
    with pytest.raises(LeaseError), Lease(store):
        raise AssertionError


@pytest.mark.parametrize(("age", "is_held"), [(0.0, True), (55.0, True), (61.0, False)])
def test_the_lease_of_another_host_holds_for_a_minute_after_its_last_sign_of_life(
    store: Any, age: Any, is_held: Any
) -> None:
    leave(store, host="elsewhere/01234567", pid=dead_pid(), alive=time.time() - age)
    if is_held:
        with pytest.raises(LeaseError, match=r"elsewhere.*expires 60 s after"), Lease(store):
            raise AssertionError
    else:
        with Lease(store):
            assert store.read_json(LEASE)["host"] == lease._host()


def test_a_lease_that_was_cut_short_by_a_crash_is_taken(store: Any) -> None:
    store.write(LEASE, b"")
    with Lease(store):
        assert store.read_json(LEASE)["pid"] == os.getpid()


def test_the_holder_gives_signs_of_life(store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(lease, "_HEARTBEAT_SECONDS", 0.02)
    with Lease(store):
        first = store.read_json(LEASE)["alive"]
        time.sleep(0.2)
        assert store.read_json(LEASE)["alive"] > first


def test_a_build_whose_lease_another_holds_by_now_is_told_and_takes_nothing_back(store: Any, monkeypatch: Any) -> None:
    """A build that was suspended beyond the expiry must not drive the build out that took over."""
    monkeypatch.setattr(lease, "_HEARTBEAT_SECONDS", 0.02)
    lost: list[str] = []
    with Lease(store, lost.append):
        leave(store, pid=77)
        time.sleep(0.3)
        assert store.read_json(LEASE)["token"] == "other"
    (sentence,) = lost
    assert sentence.startswith(f"this build lost its lease on {store.url}: process 77 on ")
    assert store.read_json(LEASE)["token"] == "other"


def test_a_build_whose_lease_was_removed_is_told(store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(lease, "_HEARTBEAT_SECONDS", 0.02)
    lost: list[str] = []
    with Lease(store, lost.append):
        store.remove(LEASE)
        time.sleep(0.3)
    assert len(lost) == 1
    assert "lease.json was removed" in lost[0]
    assert not store.exists(LEASE)


def test_a_holder_that_is_told_may_release_from_there(store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(lease, "_HEARTBEAT_SECONDS", 0.02)
    told = threading.Event()

    def stop(_: str) -> None:
        held.release()
        told.set()

    held = Lease(store, stop)
    with held:
        leave(store)
        assert told.wait(5)
    assert store.read_json(LEASE)["token"] == "other"


def test_without_a_callback_a_build_that_lost_its_lease_ends_as_by_ctrl_c(tmp_path: Any) -> None:
    code = (
        "import sys, time\nfrom pipeline import lease\nfrom pipeline.store import Store\n"
        "lease._HEARTBEAT_SECONDS = 0.05\nwith lease.Lease(Store(sys.argv[1])):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command, pipe = [sys.executable, "-c", code, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        (tmp_path / LEASE).unlink()
        said = process.communicate(timeout=20)[1]
    assert f"headrace: this build lost its lease on {tmp_path}: lease.json was removed" in said
    assert process.returncode != 0


def test_no_lease_stays_behind_when_it_is_released_amid_a_sign_of_life(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(lease, "_HEARTBEAT_SECONDS", 0.0001)
    store = Store(str(tmp_path))
    for _ in range(100):
        with Lease(store):
            time.sleep(0.001)
    time.sleep(0.02)
    assert not store.exists(LEASE)


def test_of_many_builds_that_start_at_once_one_goes_on(store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.remote._SETTLE_SECONDS", 1.0)
    leave(store, pid=dead_pid())
    n = 12
    barrier, done, results = threading.Barrier(n), threading.Barrier(n), []

    def start() -> None:
        held = Lease(store)
        barrier.wait()
        try:
            held.__enter__()
            results.append("held")
        except LeaseError:
            results.append("refused")
        done.wait()
        held.release()

    threads = [threading.Thread(target=start) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["held", *["refused"] * (n - 1)]


def test_a_folder_that_can_not_be_written_is_one_message(tmp_path: Any) -> None:
    from pipeline.store import StorageError

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="can't write"), Lease(Store(str(tmp_path / "file" / "out"))):
        raise AssertionError
