"""The steps that see all documents at once, at size: judge, deduplicate, select and plan over tables alone.

    python -m benchmarks.scale [--documents N] [--runner local|flink] [--out DIR] [--keep] [--quick] [--json FILE]

Two processes write the tables of a synthetic corpus (``benchmarks.synthetic``: sizes and duplicates as real ones have
them, empty texts), then a driver of its own runs the real steps on them, deduplicating with two workers. Of every step:
wall and CPU seconds, the peak memory of the driver and of the largest process of each other kind (resident, which
counts mapped files, and anonymous, read every 20 ms), the bytes that all processes read and wrote by system calls (maps
do not count), and the most that lay in the folder of work files, all by document. From 30 million documents on the
signatures have FineWeb's profile (14 bands of 8 rows, 128 permutations), for the disk's sake: some 400 bytes a document
instead of 900.
"""

import logging
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import children, cpu_seconds, one_thread, parser, print_table, write_json

one_thread()

from benchmarks.synthetic import LINE_ENDS, Corpus  # noqa: E402
from filters.minhash import MinHashParameters  # noqa: E402
from pipeline import deduplicate, judge, mixture  # noqa: E402
from pipeline.engine import Engine  # noqa: E402
from pipeline.judge import Shard  # noqa: E402
from pipeline.records import Record  # noqa: E402
from pipeline.store import Store  # noqa: E402

FINEWEB, FINEWEB_FROM = MinHashParameters(permutations=128, bands=14), 30_000_000
WORKERS, SHARD_ROWS, SHARDS = 2, 250_000, 8
_INTERVAL = 0.02
_ROLES = {
    "pipeline.worker": "worker",
    "pipeline.boot": "worker",
    "TaskManagerRunner": "taskmanager",
    "StandaloneSessionClusterEntrypoint": "jobmanager",
    "FlinkJobServerDriver": "jobserver",
}
_TICKS = os.sysconf("SC_CLK_TCK")

Tokens = list[tuple[str, str, Record]]


class Usage(NamedTuple):
    """Of a process: peak resident and present anonymous memory, bytes read and written by calls, CPU seconds."""

    resident: int
    anonymous: int
    read: int
    written: int
    cpu: float


def usage(process: int) -> Usage | None:
    """What a running process uses; None where it has ended."""
    try:
        folder = Path(f"/proc/{process}")
        status = _numbers((folder / "status").read_text())
        calls = _numbers((folder / "io").read_text())
        ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return None
    resident, anonymous = (status.get(name, 0) << 10 for name in ("VmHWM", "RssAnon"))
    return Usage(resident, anonymous, calls["rchar"], calls["wchar"], sum(map(int, ticks)) / _TICKS)


def _numbers(text: str) -> dict[str, int]:
    pairs = (line.split()[:2] for line in text.splitlines())
    return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


@dataclass
class Watch:
    """Samples a driver, what it starts and other processes during a step; and the size of a folder."""

    driver: int
    others: Callable[[], list[int]]
    folder: Path
    before: dict[int, Usage] = field(default_factory=dict)
    last: dict[int, Usage] = field(default_factory=dict)
    peaks: dict[int, tuple[int, int]] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    folder_bytes: int = 0
    _next: float = 0

    def __post_init__(self) -> None:
        for process in self._processes():
            Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak of resident memory starts anew
            found = usage(process)
            if found:
                self.before[process] = found

    def _processes(self) -> list[int]:
        roots = [self.driver, *self.others()]
        return list(dict.fromkeys([*roots, *(child for root in roots for child in children(root))]))

    def sample(self) -> None:
        """Look once."""
        for process in self._processes():
            found = usage(process)
            if found:
                self.last[process] = found
                resident, anonymous = self.peaks.get(process, (0, 0))
                self.peaks[process] = max(resident, found.resident), max(anonymous, found.anonymous)
                if self.roles.get(process, "other") == "other":
                    self.roles[process] = "driver" if process == self.driver else _role(process)
        if time.monotonic() > self._next:
            started = time.monotonic()
            self.folder_bytes = max(self.folder_bytes, _size(self.folder))
            self._next = started + 20 * (time.monotonic() - started) + 0.2

    def summary(self, wall: float, documents: int) -> dict[str, Any]:
        """The figures of the step; bytes and microseconds by document."""
        nothing = Usage(0, 0, 0, 0, 0.0)
        cost = {
            pid: [b - a for a, b in zip(self.before.get(pid, nothing), now, strict=True)]
            for pid, now in self.last.items()
        }
        kinds = {}
        for role in sorted(set(self.roles.values())):
            mine = [process for process, other in self.roles.items() if other == role]
            kinds[role] = {
                "processes": len(mine),
                "resident_mb": max(self.peaks[process][0] for process in mine) / 1e6,
                "anonymous_mb": max(self.peaks[process][1] for process in mine) / 1e6,
                "cpu_seconds": sum(cost[process][4] for process in mine),
            }
        cpu = sum(kind["cpu_seconds"] for kind in kinds.values())
        by_document = {
            name: sum(each[at] for each in cost.values()) / documents for name, at in (("read", 2), ("written", 3))
        }
        figures = {"wall_seconds": wall, "cpu_seconds": cpu, "cpu_microseconds": cpu * 1e6 / documents}
        return figures | by_document | {"work_files": self.folder_bytes / documents, "processes": kinds}


def _role(process: int) -> str:
    try:
        command = Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return "other"
    return next(
        (role for name, role in _ROLES.items() if any(f".{word}".endswith(f".{name}") for word in command)), "other"
    )


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def drive(
    connection: Connection,
    corpus: Corpus,
    store: Store,
    options: Sequence[str],
    shards: list[Shard],
    tokens: Tokens | None,
) -> None:
    """In a process of its own: judge and deduplicate; or, where there are tokens, select and plan."""
    logging.getLogger().setLevel(logging.CRITICAL)
    manifest, stages = corpus.manifest, corpus.stages
    engine = Engine(workers=WORKERS, beam_options=tuple(options), quiet=True)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        connection.send((name, None))
        connection.recv()
        started = time.monotonic()
        result = work()
        connection.send((name, time.monotonic() - started))
        return result

    if tokens is None:
        verdicts = timed("judge", lambda: judge.judge_shards(shards, stages.verdicts, manifest, store))
        given = store, stages.duplicates, shards, verdicts, manifest.deduplicate, engine
        connection.send(("", (verdicts, timed("deduplicate", lambda: deduplicate.deduplicate(*given)))))
    else:
        selected, selection = timed("select", lambda: mixture.select(store, stages.selection, tokens, manifest))
        plan = timed("plan", lambda: mixture.plan(store, stages.plan, selected, tokens, LINE_ENDS, manifest))
        connection.send(("", (selection, plan)))


def watched(steps: dict[str, Any], others: Callable[[], list[int]], work: Path, corpus: Corpus, *given: Any) -> Any:
    """Run :func:`drive` and add the figures of its steps to ``steps``; gives its records."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=drive, args=(there, corpus, *given))
    process.start()
    there.close()
    watch: Watch | None = None
    while True:
        if here.poll(_INTERVAL):
            try:
                name, value = here.recv()
            except EOFError:
                process.join()
                raise RuntimeError(f"the driver ended with {process.exitcode}") from None
            if not name:
                process.join()
                return value
            if watch is None:
                assert process.pid is not None
                watch = Watch(process.pid, others, work)
                here.send(None)
            else:
                watch.sample()
                steps[name] = watch.summary(value, corpus.documents)
                watch = None
        if watch is not None:
            watch.sample()


@contextmanager
def runner(name: str, folder: Path) -> Iterator[tuple[Sequence[str], Callable[[], list[int]]]]:
    """Beam options, and the processes of a cluster."""
    if name == "local":
        yield (), list
        return
    from tests.clusters.engines import flink

    with flink(folder) as cluster:
        roles = ("jobmanager", "taskmanager", "jobserver")
        yield cluster.options, lambda: [process for role in roles for process in cluster.pids(role)]


def written(costs: dict[str, Any], name: str, work: Callable[..., Any], *given: Iterable[Any]) -> list[Any]:
    """Call ``work`` for each shard in a pool of two processes; what they cost goes to ``costs``."""
    started, cpu = time.monotonic(), cpu_seconds()
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        results, peaks = zip(*pool.map(partial(_with_peak, work), *given), strict=True)
    wall, cpu = time.monotonic() - started, cpu_seconds() - cpu
    costs[name] = {"wall_seconds": wall, "cpu_seconds": cpu, "peak_mb": max(peaks) / 1e6}
    return list(results)


def _with_peak(work: Callable[..., Any], *given: Any) -> tuple[Any, int]:
    return work(*given), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def measure(corpus: Corpus, folder: Path, engine: str) -> dict[str, Any]:
    """Write the corpus into a folder and run all steps on it."""
    store, steps, generation = Store(str(folder / "build")), {}, {}  # type: ignore[var-annotated]
    shards = written(generation, "tables", partial(corpus.write_shard, store), range(corpus.shards))
    with runner(engine, folder / "cluster") as (options, others):
        given = others, folder / "build" / "work", corpus, store, options, shards
        verdicts, duplicates = watched(steps, *given, None)
        tokens = written(generation, "tokens", partial(corpus.write_tokens, store), shards, verdicts, duplicates)
        selection, plan = watched(steps, *given, tokens)
    counts = {
        "documents": corpus.documents,
        "repeated": sum(r.counts["outcomes"].get("repeated", 0) for r in verdicts),
        "kept_by_judging": sum(r.counts["outcomes"].get("", 0) for r in verdicts),
        **{
            name: sum(r.counts["duplicates"].get(name, 0) for r in duplicates)
            for name in (deduplicate.EXACT, deduplicate.NEAR)
        },
        "samples": sum(record.files[0].rows for _, _, record in tokens),
        "over_cap": sum(r.counts["dropped"] for r in selection),
        **{name: sum(r.counts.get(name, 0) for r in plan) for name in ("tokens", "sequences", "padding")},
    }
    return {"counts": counts, "generation": generation, "steps": steps}


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    head = ["step", "wall s", "CPU s", "CPU us/document", "read B/doc.", "written B/doc.", "work files B/doc."]
    names = ("wall_seconds", "cpu_seconds", "cpu_microseconds", "read", "written", "work_files")
    print_table(head, [[step, *(each[name] for name in names)] for step, each in results["steps"].items()])
    rows = [
        [f"{step}: {role}", kind["processes"], kind["cpu_seconds"], kind["resident_mb"], kind["anonymous_mb"]]
        for step, each in results["steps"].items()
        for role, kind in each["processes"].items()
    ]
    print_table(["processes", "number", "CPU s", "peak: resident MB", "anonymous MB"], rows)
    print_table(
        ["written for this", "wall s", "CPU s", "peak MB"], [[k, *v.values()] for k, v in results["generation"].items()]
    )
    print_table(["counts", ""], [[name, count] for name, count in results["counts"].items()])


def main() -> None:
    options = parser(__doc__, "20,000 documents")
    options.add_argument("--documents", type=int, default=1_000_000, metavar="N", help="default: 1,000,000")
    options.add_argument("--runner", choices=("local", "flink"), default="local", help="flink: as the tests start it")
    options.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: a temporary folder)")
    options.add_argument("--keep", action="store_true", help="leave what was written")
    given = options.parse_args()
    documents = 20_000 if given.quick else given.documents
    parameters = FINEWEB if documents >= FINEWEB_FROM else MinHashParameters()
    corpus = Corpus(documents, min(SHARD_ROWS, -(-documents // SHARDS)), parameters)
    folder = Path(tempfile.mkdtemp(prefix="headrace-scale-", dir=given.out))
    need = documents * (8 * parameters.bands + parameters.permutations + 150 + 14 * parameters.bands)
    if need > shutil.disk_usage(folder).free:
        folder.rmdir()
        options.error(f"{documents:,} documents need some {need / 1e9:.0f} GB of disk in {folder.parent}")
    profile = f"{parameters.permutations} permutations, {parameters.bands} bands of {parameters.rows} rows"
    print(
        f"{documents:,} documents in {corpus.shards} shards, {profile}, runner {given.runner}, {os.cpu_count()} cores"
    )
    try:
        results = measure(corpus, folder, given.runner)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    show(results)
    write_json(given.json, {"profile": profile, "runner": given.runner, "shards": corpus.shards} | results)


if __name__ == "__main__":
    main()
