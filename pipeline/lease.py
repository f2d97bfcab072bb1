"""One build at a time in a directory.

On a local disk the lease is a lock on a file, which the kernel takes back however its holder ends. Elsewhere, and for
holders on another host, it is a file with a sign of life, which expires: clocks must agree to some seconds. It changes
hands only by writes that the store refuses if another came before (S3), or that are read again after a pause. A holder
that finds that another took over (it slept, or was cut off) stops.
"""

import fcntl
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from pipeline.store import StorageError, Store, storage_errors

LEASE = "lease.json"
_HEARTBEAT_SECONDS = 10.0
_EXPIRES_SECONDS = 60.0
_CLAIMS = 20
_STOP_SECONDS = 30.0
_EXIT_LOST = 75


class LeaseError(Exception):
    """Another build works in this directory."""


def stop_process(sentence: str) -> None:
    """Say why and end this process as Ctrl-C does; at once if that does not help."""
    print(f"\nheadrace: {sentence}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_STOP_SECONDS)
    os._exit(_EXIT_LOST)


class Lease:
    """Hold the directory for the length of a ``with`` block. Raises LeaseError where another build holds it.

    ``on_lost`` is called from another thread, with one sentence, when another build has taken over meanwhile.
    """

    def __init__(self, store: Store, on_lost: Callable[[str], None] = stop_process):
        self._store, self._token, self._stop = store, uuid.uuid4().hex, threading.Event()
        self._on_lost = on_lost
        self._descriptor: int | None = None
        self._held: bytes | None = None
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
        if self._heart.ident is not None and self._heart is not threading.current_thread():
            self._heart.join(_HEARTBEAT_SECONDS)
        if self._descriptor is not None:
            if _is_file(self._descriptor, self._store.full(LEASE)):
                os.unlink(self._store.full(LEASE))
            os.close(self._descriptor)
            self._descriptor = None
        elif self._held is not None:
            held, self._held = self._held, None
            if _age(_parse(held)) < _EXPIRES_SECONDS / 2:  # nobody can have taken it over since it was read
                with suppress(FileNotFoundError, StorageError):
                    if self._store.read(LEASE) == held:
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
        holder: dict[str, Any] = {}
        for _ in range(_CLAIMS):
            found = self._read()
            holder = _parse(found or b"{}")
            if _is_fresh(holder) and not _is_dead(holder):
                break
            mine = self._content()
            if self._store.exchange(LEASE, found, mine):
                self._held = mine
                return
        raise self._taken(holder)

    def _taken(self, holder: dict[str, Any]) -> LeaseError:
        return LeaseError(
            f"another build works in {self._store.url} ({_who(holder)}). Wait for it or stop it; the lease of a build "
            f"elsewhere expires {_EXPIRES_SECONDS:.0f} s after its last sign of life."
        )

    def _write(self) -> None:
        assert self._descriptor is not None
        os.pwrite(self._descriptor, self._content().ljust(512), 0)

    def _content(self) -> bytes:
        return orjson.dumps({"token": self._token, "host": _host(), "pid": os.getpid(), "alive": time.time()})

    def _read(self) -> bytes | None:
        try:
            return self._store.read(LEASE)
        except FileNotFoundError:
            return None

    def _holder(self) -> dict[str, Any]:
        return _parse(self._read() or b"{}")

    def _keep_alive(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            try:
                if self._give_sign():
                    continue
                found = self._read()
            except (OSError, StorageError):
                continue
            holder = _parse(found or b"{}")
            if holder.get("token") == self._token:  # an earlier sign whose answer was lost
                self._held = found
                continue
            if not self._stop.is_set():
                who = f"{_who(holder)} holds it now" if holder else f"{LEASE} was removed"
                self._on_lost(
                    f"this build lost its lease on {self._store.url}: {who}. It stops here, as two builds would clean "
                    "up after each other; what was committed is kept."
                )
            return

    def _give_sign(self) -> bool:
        """Give a sign of life; tells whether this build still holds the lease."""
        if self._descriptor is not None:
            if not _is_file(self._descriptor, self._store.full(LEASE)):
                return False
            self._write()
            return True
        new = self._content()
        if not self._store.exchange(LEASE, self._held, new):
            return False
        self._held = new
        return True


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


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'unknown')}"


def _age(holder: dict[str, Any]) -> float:
    """Seconds since the last sign of life; endless where there was none."""
    try:
        return time.time() - float(holder["alive"])
    except (KeyError, TypeError, ValueError):
        return float("inf")


def _is_fresh(holder: dict[str, Any]) -> bool:
    return _age(holder) < _EXPIRES_SECONDS


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
    """This machine since its start, and the namespace in which process ids count (containers share the rest)."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        known.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(known)
