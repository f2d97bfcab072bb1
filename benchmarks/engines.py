"""One manifest on every engine and storage: digest, time, CPU, memory, and what Beam costs over plain processes.

``python -m benchmarks.engines [--quick] [--json FILE]`` needs ``make engines``. It builds a small corpus of every kind
(``tests.sites``) in memory, with two local processes, on Prism, on a Flink cluster and on a Spark cluster (two workers
each), on disk and on an S3 server, and prints for each build its digest, wall seconds, the CPU seconds and the peak
resident memory of the driver, of the runner (JVMs, Prism) and of the Python workers, and the bytes that the steps of
deduplicate handed to each other in files; Beam's own shuffle carries the numbers of units only. Then the passes of a
build of code (``benchmarks.corpus``) on Beam beside the same functions in a pool of plain processes. On Prism the
Python side runs in threads of the driver.
"""

import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import children, corpus, one_thread, parser, print_table, write_json

one_thread()

from benchmarks.build import open_build, run_steps  # noqa: E402
from pipeline.store import Store  # noqa: E402
from tests.clusters.bucket import ON_DISK, Bucket, filled  # noqa: E402
from tests.clusters.engines import Cluster, flink, prism, spark  # noqa: E402
from tests.clusters.minio import BUCKET, minio  # noqa: E402
from tests.sites import Site  # noqa: E402

ROLES = ("driver", "runner", "workers")
RUNNERS = ("jobmanager", "taskmanager", "master", "worker", "executor", "jobserver", "prism")
_INTERVAL = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEGABYTES = 24
_QUICK_MEGABYTES = 4


@dataclass
class Usage:
    """CPU seconds and peak resident bytes by role, from a look at every process ten times a second."""

    pids: Callable[[], dict[str, list[int]]]
    first: dict[tuple[str, int], float] = field(default_factory=dict)
    last: dict[tuple[str, int], float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def look(self) -> None:
        """Note what the processes have used so far."""
        for role, pids in self.pids().items():
            resident = 0
            for pid in pids:
                cpu, memory = used(pid)
                if cpu or memory:
                    self.first.setdefault((role, pid), 0.0 if role != "runner" else cpu)
                    self.last[role, pid] = cpu
                resident += memory
            self.peak[role] = max(self.peak[role], resident)

    def cpu(self, role: str) -> float:
        """CPU seconds; a runner's from the first look on, as it ran before."""
        return sum(cpu - self.first[key] for key, cpu in self.last.items() if key[0] == role)


def used(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process; zeros where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0, 0
    return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE


@contextmanager
def watched(usage: Usage) -> Iterator[None]:
    """Look at the processes as long as the block lasts."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL):
            usage.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    done.set()
    thread.join()


def measure(site: Site, engine: str, storage: str, cluster: Cluster | None, *arguments: str) -> dict[str, Any]:
    """Build once; gives a row of the table. Raises RuntimeError where the build fails."""
    options = ["--", *cluster.options] if cluster else []
    started, build = time.monotonic(), site.start(*arguments, *options)

    def pids() -> dict[str, list[int]]:
        if cluster is None:
            return {"driver": [build.pid], "workers": children(build.pid)}
        runner = [pid for role in RUNNERS for pid in cluster.pids(role)]
        return {"driver": [build.pid], "runner": runner, "workers": cluster.pids("python")}

    usage = Usage(pids)
    with watched(usage):
        said, errors = build.communicate()
    if build.returncode:
        raise RuntimeError(f"{engine} on {storage}:\n{errors[-3000:]}")
    row: dict[str, Any] = {"engine": engine, "storage": storage, "digest": said.split()[-1][:12]}
    row["seconds"] = time.monotonic() - started
    row |= {f"{role}_cpu_seconds": usage.cpu(role) for role in ROLES}
    row |= {f"{role}_peak_mb": usage.peak[role] / 1e6 for role in ROLES}
    return row


def handed_on(store: Store) -> int:
    """Bytes that the steps of deduplicate wrote for each other."""
    notes = [store.read_json(path) for path in store.files("timings") if path.startswith("timings/deduplicate-")]
    return sum(note["text_bytes"] for note in notes)


def matrix(scratch: Path, quick: bool) -> list[dict[str, Any]]:
    """Every engine on every storage."""
    site = Site.make(scratch / "site", manifest=ON_DISK)
    rows = []
    with ExitStack() as stack:
        server = stack.enter_context(minio(scratch / "s3"))
        (scratch / "driver").mkdir()
        bucket = filled(server, site, scratch / "driver")
        os.environ |= server.environment
        rows += on_both(site, bucket, "local, in memory", None, "--workers", "1")
        rows += on_both(site, bucket, "local, 2 processes", None, "--workers", "2")
        with prism(scratch / "prism") as cluster:
            rows += on_both(site, bucket, "Prism", cluster)
        for name, start in () if quick else (("Flink", flink), ("Spark", spark)):
            with start(scratch / name.lower(), environment=server.environment) as cluster:
                rows += on_both(site, bucket, name, cluster)
    return rows


def on_both(site: Site, bucket: Bucket, engine: str, cluster: Cluster | None, *arguments: str) -> list[dict[str, Any]]:
    """A row on disk and a row on S3."""
    name = engine.replace(", ", "-").replace(" ", "-")
    disk, s3 = replace(site, out=site.folder / "builds" / name), bucket.site(name)
    rows = []
    for storage, place, url in (("disk", disk, str(disk.out)), ("S3", s3, f"s3://{BUCKET}/{name}")):
        row = measure(place, engine, storage, cluster, *arguments)
        row["handed_on_mb"] = handed_on(Store(url)) / 1e6
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def beside_plain(scratch: Path, megabytes: float) -> list[dict[str, Any]]:
    """CPU seconds by step of a build of code with two workers: on Beam, and in a pool of processes."""
    code = scratch / "code"
    corpus.write_corpus(code, megabytes)
    manifest = corpus.manifest(code, {"train": {"vocabulary": 4_000, "sample_bytes": 1_000_000}})
    costs = {}
    for name, is_plain in (("warm", True), ("plain", True), ("beam", False)):
        costs[name] = run_steps(open_build(manifest, scratch / f"out-{name}", 2, is_plain))
    steps = ("crawl", "annotate", "tokenize")
    return [{"pass": step, "plain": costs["plain"][step], "beam": costs["beam"][step]} for step in steps]


def main() -> None:
    options = parser(__doc__, "local engines and Prism only").parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as folder:
        rows = matrix(Path(folder), options.quick)
        passes = beside_plain(Path(folder), _QUICK_MEGABYTES if options.quick else _MEGABYTES)
    print_table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])
    print(f"{len(rows)} builds, {len({row['digest'] for row in rows})} digest(s)\n")
    for row in passes:
        row["more"] = f"{100 * (row['beam'] / row['plain'] - 1):+.0f} %"
    print_table(["pass", "plain CPU s", "Beam CPU s", "more"], [list(row.values()) for row in passes])
    write_json(options.json, {"matrix": rows, "passes": passes})


if __name__ == "__main__":
    main()
