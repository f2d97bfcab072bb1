"""Fetch and build what the clusters of the tests need, pinned: ``python -m tests.clusters.fetch``.

All lies in ``$HEADRACE_CACHE/engines`` (default ``~/.cache/headrace/engines``). Packages come from the registries that
this machine's pip, Maven and Go are set to. A part is made in a temporary folder and renamed; what is there is kept.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

JOB_SERVERS = "2.62.0"
"""Beam's job servers: the last version whose jars resolve as a whole; they run pipelines of the 2.77 SDK."""

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>headrace</groupId><artifactId>job-server</artifactId><version>1</version>
  <dependencies>{}</dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class FetchError(Exception):
    """A part could not be fetched or built; the message holds the end of what the tool said."""


@dataclass(frozen=True)
class Part:
    """Something to fetch. ``make`` fills an empty folder, with a second one for what is not to be kept."""

    name: str
    needs: tuple[str, ...]
    make: Callable[[Path, Path], None]

    @property
    def home(self) -> Path:
        """Where it lies once fetched."""
        return cache() / self.name


def cache() -> Path:
    """The folder of all parts."""
    return Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace") / "engines"


def _pip(requirement: str, scratch: Path) -> Path:
    """Download one file of the Python registry."""
    into = Path(tempfile.mkdtemp(dir=scratch))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    _run([*command, "--no-cache-dir", "--dest", str(into), requirement], scratch)
    (file,) = into.iterdir()
    return file


def _flink(home: Path, scratch: Path) -> None:
    _unpack(_pip("apache-flink-libraries==1.19.3", scratch), "deps/lib/", home)


def _spark(home: Path, scratch: Path) -> None:
    _unpack(_pip("pyspark==3.5.0", scratch), "deps/jars/", home)


def _unpack(sdist: Path, folder: str, home: Path) -> None:
    """Unpack a folder of a source archive; the two leading parts of its path are dropped."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            inside = member.name.partition("/")[2]
            if inside.startswith(folder):
                member.name = inside.partition("/")[2]
                archive.extract(member, home, filter="data")


def _job_server(*artifacts: str) -> Callable[[Path, Path], None]:
    def make(home: Path, scratch: Path) -> None:
        dependencies = [_DEPENDENCY.format(*artifact.split(":")) for artifact in artifacts]
        (scratch / "pom.xml").write_text(_POM.format("".join(dependencies)))
        command = ["mvn", "--batch-mode", "--quiet", f"-Dmaven.repo.local={scratch / 'repository'}", _COPY]
        _run([*command, "-DincludeScope=runtime", f"-DoutputDirectory={home / 'lib'}"], scratch)

    return make


def _go(package: str) -> Callable[[Path, Path], None]:
    def make(home: Path, scratch: Path) -> None:
        caches = {"GOPATH": scratch / "go", "GOMODCACHE": scratch / "modules", "GOCACHE": scratch / "build"}
        folders = {name: str(path) for name, path in {**caches, "GOBIN": home}.items()}
        _run(["go", "install", "-modcacherw", "-ldflags=-s -w", package], scratch, **folders)

    return make


def _run(command: list[str], cwd: Path, **environment: str) -> None:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise FetchError(f"{' '.join(command)}:\n{(done.stdout + done.stderr).strip()[-2000:]}")


PRISM = Part("prism-2.77.0", ("go",), _go("github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"))
MINIO = Part("minio-20260212", ("go",), _go("github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"))
FLINK = Part("flink-1.19.3", ("java",), _flink)
FLINK_JOB_SERVER = Part(
    f"flink-1.19-job-server-{JOB_SERVERS}",
    ("java", "mvn"),
    _job_server(f"org.apache.beam:beam-runners-flink-1.19:{JOB_SERVERS}", "org.slf4j:slf4j-simple:1.7.36"),
)
SPARK = Part("spark-3.5.0", ("java",), _spark)
SPARK_JOB_SERVER = Part(
    f"spark-3-job-server-{JOB_SERVERS}",
    ("java", "mvn"),
    _job_server(
        f"org.apache.beam:beam-runners-spark-3:{JOB_SERVERS}",
        "org.apache.spark:spark-core_2.12:3.5.0",
        "org.apache.spark:spark-streaming_2.12:3.5.0",
    ),
)
PARTS = (PRISM, MINIO, FLINK, SPARK, FLINK_JOB_SERVER, SPARK_JOB_SERVER)


def lacking(*parts: Part) -> str:
    """Why a test on these parts can't run, or the empty string."""
    missing = ", ".join(part.name for part in parts if not part.home.exists())
    return f"`make engines` first: there is no {missing}" if missing else ""


def are_demanded() -> bool:
    """Whether a test that can't run must fail instead of being left out: CI demands that where the tools are."""
    return os.environ.get("HEADRACE_ENGINES") == "demanded"


def fetch(part: Part) -> str:
    """Make a part where it is missing; gives one line about it. Raises :class:`FetchError`."""
    if part.home.exists():
        return f"{part.name}: there"
    missing = [tool for tool in part.needs if shutil.which(tool) is None]
    if missing:
        return f"{part.name}: left out, there is no {' and no '.join(missing)} on this machine"
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{part.name}-") as folder:
        home, scratch = Path(folder, "home"), Path(folder, "scratch")
        home.mkdir()
        scratch.mkdir()
        try:
            part.make(home, scratch)
        except FetchError as error:
            raise FetchError(f"{part.name}: failed. {error}") from None
        home.rename(part.home)
    size = sum(path.stat().st_size for path in part.home.rglob("*") if path.is_file())
    return f"{part.name}: {size / 1e6:.0f} MB in {time.monotonic() - started:.0f} s"


def main() -> int:
    """Fetch every part; 1 where one failed."""
    cache().mkdir(parents=True, exist_ok=True)
    failed = False
    with (cache() / ".lock").open("w") as lock, ThreadPoolExecutor(len(PARTS)) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for done in as_completed([pool.submit(fetch, part) for part in PARTS]):
            try:
                print(done.result(), flush=True)
            except FetchError as error:
                failed = True
                print(error, file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
