"""One build at a time in a directory: a lease that is created exclusively, kept alive, and expires."""

import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from pipeline.store import Store, storage_errors

LEASE = "lease.json"
_HEARTBEAT_SECONDS = 10.0
_EXPIRES_SECONDS = 60.0


class LeaseError(Exception):
    """Another build works in this directory."""


class Lease:
    """Hold the directory for the length of a ``with`` block. Raises LeaseError where another build holds it."""

    def __init__(self, store: Store):
        self._store, self._token, self._stop = store, uuid.uuid4().hex, threading.Event()

    def __enter__(self) -> "Lease":
        deadline = 3
        while not self._create():
            holder = self._holder()
            if holder is not None and _is_alive(holder):
                raise LeaseError(
                    f"another build works in {self._store.url} (process {holder['pid']} on {holder['host']}). Wait for "
                    f"it, or stop it; its lease expires {_EXPIRES_SECONDS:.0f} s after its last sign of life."
                )
            self._retire()
            deadline -= 1
            if not deadline:
                raise LeaseError(f"can't take the lease of {self._store.url}: other builds keep taking it")
        threading.Thread(target=self._keep_alive, name="lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lease back. Safe to call twice."""
        self._stop.set()
        holder = self._holder()
        if holder is not None and holder["token"] == self._token:
            self._store.remove(LEASE)

    def _content(self) -> bytes:
        value = {"token": self._token, "host": _host(), "pid": os.getpid(), "alive": time.time()}
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

    def _create(self) -> bool:
        path = self._store.full(LEASE)
        try:
            with storage_errors(LEASE):
                if self._store.is_local:
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    try:
                        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                    except FileExistsError:
                        return False
                    with os.fdopen(descriptor, "wb") as file:
                        file.write(self._content())
                    return True
                if self._store.exists(LEASE):
                    return False
                self._store.write(LEASE, self._content())
                return True
        except FileExistsError:
            return False

    def _holder(self) -> dict[str, Any] | None:
        for _ in range(3):
            try:
                value: dict[str, Any] = self._store.read_json(LEASE)
                return value
            except FileNotFoundError:
                return None
            except ValueError:
                time.sleep(0.1)
        return {"token": "", "host": "", "pid": 0, "alive": 0.0}

    def _retire(self) -> None:
        """Take a dead lease away; of several builds that see it dead, the rename lets one through."""
        if self._store.is_local:
            path = self._store.full(LEASE)
            try:
                os.rename(path, f"{path}.{self._token}")
                os.unlink(f"{path}.{self._token}")
            except FileNotFoundError:
                return
        else:
            self._store.remove(LEASE)

    def _keep_alive(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            try:
                self._store.write(LEASE, self._content())
            except Exception:
                continue


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8]}" if boot.exists() else socket.gethostname()


def _is_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == _host():
        try:
            os.kill(int(holder["pid"]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return not _is_zombie(int(holder["pid"]))
    return time.time() - float(holder["alive"]) < _EXPIRES_SECONDS


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return False
