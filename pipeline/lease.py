"""One build at a time in a directory.

On a local disk the lease is a lock on a file, which the kernel takes back however its holder ends. Elsewhere, and for
holders on another host, it is a file with a sign of life, which expires.
"""

import fcntl
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from pipeline.store import StorageError, Store, storage_errors

LEASE = "lease.json"
_HEARTBEAT_SECONDS = 10.0
_EXPIRES_SECONDS = 60.0


class LeaseError(Exception):
    """Another build works in this directory."""


class Lease:
    """Hold the directory for the length of a ``with`` block. Raises LeaseError where another build holds it."""

    def __init__(self, store: Store):
        self._store, self._token, self._stop = store, uuid.uuid4().hex, threading.Event()
        self._descriptor: int | None = None
        self._heart = threading.Thread(target=self._keep_alive, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        if self._store.is_local:
            self._lock()
        else:
            self._claim()
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lease back. Safe to call twice."""
        self._stop.set()
        if self._heart.ident is not None:
            self._heart.join()
        if self._descriptor is not None:
            if _is_file(self._descriptor, self._store.full(LEASE)):
                os.unlink(self._store.full(LEASE))
            os.close(self._descriptor)
            self._descriptor = None
        elif not self._store.is_local and self._holder().get("token") == self._token:
            self._store.remove(LEASE)

    def _lock(self) -> None:
        path = self._store.full(LEASE)
        while True:
            with storage_errors(LEASE):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise self._taken(self._holder()) from None
            if not _is_file(descriptor, path):
                os.close(descriptor)
                continue
            holder = _parse(os.pread(descriptor, 4096, 0))
            if holder.get("host", _host()) != _host() and _is_fresh(holder):
                os.close(descriptor)
                raise self._taken(holder)
            self._descriptor = descriptor
            with storage_errors(LEASE):
                self._write()
            return

    def _claim(self) -> None:
        holder = self._holder()
        if holder and _is_fresh(holder) and not _is_dead(holder):
            raise self._taken(holder)
        if self._store.exists(LEASE):
            self._store.remove(LEASE)
        if not self._store.write_new(LEASE, self._content()):
            raise self._taken(self._holder())

    def _taken(self, holder: dict[str, Any]) -> LeaseError:
        who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'unknown')}"
        return LeaseError(
            f"another build works in {self._store.url} ({who}). Wait for it or stop it; the lease of a build elsewhere "
            f"expires {_EXPIRES_SECONDS:.0f} s after its last sign of life."
        )

    def _write(self) -> None:
        if self._descriptor is not None:
            os.pwrite(self._descriptor, self._content().ljust(512), 0)
        else:
            self._store.write(LEASE, self._content())

    def _content(self) -> bytes:
        return orjson.dumps({"token": self._token, "host": _host(), "pid": os.getpid(), "alive": time.time()})

    def _holder(self) -> dict[str, Any]:
        try:
            return _parse(self._store.read(LEASE))
        except FileNotFoundError:
            return {}

    def _keep_alive(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            if self._descriptor is None and self._holder().get("token") != self._token:
                return
            try:
                self._write()
            except (OSError, StorageError):
                continue


def _parse(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_file(descriptor: int, path: str) -> bool:
    """Whether the locked file is still the one of that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _is_fresh(holder: dict[str, Any]) -> bool:
    try:
        return time.time() - float(holder["alive"]) < _EXPIRES_SECONDS
    except (KeyError, TypeError, ValueError):
        return False


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended (a zombie has)."""
    if holder.get("host") != _host():
        return False
    try:
        return Path(f"/proc/{holder['pid']}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, KeyError, IndexError):
        return False


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8]}" if boot.exists() else socket.gethostname()
