"""Processes of a cluster: each in a group of its own, all ended with the test, however the test ends."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

_REAPER = """
import os, shutil, signal, sys
for group in [int(line) for line in sys.stdin]:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class ClusterError(Exception):
    """A part did not come up, or ended; the message names its log and shows the end of it."""


class Processes:
    """What a cluster consists of, by role. ``folder`` holds ``logs/``, and ``scratch/`` that goes with them."""

    def __init__(self, folder: Path):
        self.folder, self.scratch = folder, folder / "scratch"
        (folder / "logs").mkdir(parents=True)
        self.scratch.mkdir()
        self._started: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        command = [sys.executable, "-S", "-c", _REAPER, str(self.scratch)]
        self._reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def start(
        self,
        role: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        hide: Sequence[Path] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a process. In place of the folders in ``hide`` it sees empty ones of its own (root only)."""
        number = len(list(self.folder.glob(f"logs/{role}-*.log")))
        temporary, log = self.scratch / f"{role}-{number}", self.folder / "logs" / f"{role}-{number}.log"
        temporary.mkdir()
        own = {"TMPDIR": str(temporary), "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={shlex.quote(str(temporary))}"}
        if hide:
            command = apart(command, hide, keep=(self.folder, CHECKOUT))
        with log.open("wb") as said:
            process = subprocess.Popen(
                command,
                cwd=temporary,
                env={**os.environ, **own, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(b"%d\n" % process.pid)
        self._reaper.stdin.flush()
        self._started.append((role, process, log))
        return process

    def pids(self, role: str) -> list[int]:
        """The processes of a role that run."""
        return [process.pid for other, process, _ in self._started if other == role and process.poll() is None]

    def below(self, word: str) -> list[int]:
        """All that the processes have started themselves whose command line holds a word."""
        every = [pid for _, process, _ in self._started for pid in children_of(process.pid)]
        return [pid for pid in every if word in command_of(pid)]

    def wait(self, role: str, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until a part works. Raises :class:`ClusterError` where a process has ended, or time does."""
        deadline = time.monotonic() + seconds
        while not ready():
            for other, process, log in self._started:
                if process.poll() is not None:
                    raise ClusterError(f"{other} ended with {process.returncode}, see {log}:\n{_end_of(log)}")
            if time.monotonic() > deadline:
                log = [log for other, _, log in self._started if other == role][-1]
                raise ClusterError(f"{role} is not up after {seconds:.0f} s, see {log}:\n{_end_of(log)}")
            time.sleep(0.1)

    def stop(self, role: str) -> None:
        """Kill the processes of a role with all that they started."""
        stopped = [each for each in self._started if each[0] == role]
        for _, process, _ in stopped:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._started = [each for each in self._started if each not in stopped]

    def close(self) -> None:
        """Kill all processes and remove what is temporary."""
        for role in {role for role, _, _ in self._started}:
            self.stop(role)
        self._reaper.communicate()
        shutil.rmtree(self.scratch, ignore_errors=True)


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Processes that end with the block."""
    group = Processes(folder)
    try:
        yield group
    finally:
        group.close()


def apart(command: Sequence[str], hide: Sequence[Path], keep: Sequence[Path]) -> list[str]:
    """The command in a mount namespace of its own: empty folders over ``hide``, but what is in ``keep`` stays."""
    kept = [path for path in keep if any(path.is_relative_to(folder) for folder in hide)]
    lines = [f"exec {n}<{shlex.quote(str(path))}" for n, path in enumerate(kept, 3)]
    lines += [f"mount -t tmpfs tmpfs {shlex.quote(str(folder))}" for folder in hide]
    for n, path in enumerate(kept, 3):
        quoted = shlex.quote(str(path))
        lines += [f"mkdir -p {quoted}", f"mount --no-canonicalize --bind /proc/self/fd/{n} {quoted}", f"exec {n}<&-"]
    script = "\n".join(["set -e", *lines, 'cd "$PWD"', 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def listens(port: int) -> bool:
    """Whether something answers on a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def children_of(pid: int) -> list[int]:
    """Every process that a process has started, and theirs."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children_of(int(child))]
    return found


def command_of(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-3000:]
