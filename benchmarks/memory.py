"""Peak memory of builds of growing size: it does not grow with the corpus beyond ids and hashes.

``python -m benchmarks.memory [--quick] [--json FILE]`` runs ``headrace build`` on 100 MB, 400 MB and 1.6 GB of code
(``benchmarks.corpus``), with one worker (in the driver's process) and with two (processes of their own), and prints the
peak memory of the driver and of the largest worker: resident (the kernel's VmHWM, which counts mapped pages of files
that the kernel takes back at will) and anonymous (RssAnon, read every 20 ms: what must stay in memory), and by how many
anonymous bytes a document the driver's grows from the smallest build to each. A worker holds one shard's text at a
time, so its peak depends on the size of a shard (64 MB of text) and not on their number. About 6 GB of disk, removed
at the end; half an hour on two cores.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import children, corpus, print_table, write_json

FULL, QUICK = (100, 400, 1600), (5, 10, 20)
_MEMORY = re.compile(r"(?:VmHWM|RssAnon):\s+(\d+) kB")
_INTERVAL = 0.02

Peak = tuple[int, int]


def memory(process: int) -> Peak:
    """Bytes of a running process: peak resident, and anonymous now; zeros where it has ended."""
    try:
        found = [int(kilobytes) << 10 for kilobytes in _MEMORY.findall(Path(f"/proc/{process}/status").read_text())]
    except OSError:
        return 0, 0
    return (found[0], found[1]) if len(found) == 2 else (0, 0)


def watch(command: list[str]) -> tuple[Peak, Peak]:
    """Run a command; gives the peaks of its process, and the largest of those that it starts."""
    driver = worker = 0, 0
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            driver = _larger(driver, memory(process.pid))
            for child in children(process.pid):
                worker = _larger(worker, memory(child))
            time.sleep(_INTERVAL)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{log.read()[-4000:]}")
    return driver, worker


def _larger(a: Peak, b: Peak) -> Peak:
    return max(a[0], b[0]), max(a[1], b[1])


def measure(folder: Path, out: Path, workers: int, tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Build the archives of a folder; gives documents and peak memory in MB, and removes the build."""
    manifest = out.with_suffix(".yaml")
    manifest.write_text(corpus.manifest(folder, tokenizer).model_dump_json(exclude_none=True))
    command = [sys.executable, "-m", "pipeline.cli", "build", str(manifest), "--out", str(out)]
    driver, worker = watch([*command, "--workers", str(workers)])
    records = [json.loads(path.read_text()) for path in (out / "documents").glob("*/*.json")]
    shutil.rmtree(out)
    return {
        "text_mb": sum(sum(record["counts"]["text_bytes"]) for record in records) / 1e6,
        "workers": workers,
        "documents": sum(record["counts"]["documents"] for record in records),
        "driver_resident_mb": driver[0] / 1e6,
        "driver_anonymous_mb": driver[1] / 1e6,
        "worker_resident_mb": worker[0] / 1e6 if workers > 1 else None,
        "worker_anonymous_mb": worker[1] / 1e6 if workers > 1 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5, 10 and 20 MB")
    parser.add_argument("--mb", type=float, nargs="+", help="other sizes (default: 100 400 1600)")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    tokenizer = {"train": {"vocabulary": 32_000, "sample_bytes": 16_000_000}}
    if options.quick:
        tokenizer = {"train": {"vocabulary": 4_000, "sample_bytes": 1_000_000}}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as scratch:
        code, out = Path(scratch, "code"), Path(scratch, "out")
        corpus.write_corpus(code, 2)
        measure(code, out, 1, tokenizer)  # compiles the kernels, which takes memory of its own
        for size in options.mb or (QUICK if options.quick else FULL):
            shutil.rmtree(code)
            corpus.write_corpus(code, size)
            rows += [measure(code, out, workers, tokenizer) for workers in (1, 2)]
    for row in rows:
        first = next(r for r in rows if r["workers"] == row["workers"])
        more, bigger = (row[k] - first[k] for k in ("documents", "driver_anonymous_mb"))
        row["driver_bytes_per_more_document"] = round(bigger * 1e6 / more) if more else None
    head = [
        "MB of text",
        "workers",
        "documents",
        "driver: resident",
        "anonymous MB",
        "worker: resident",
        "anonymous MB",
    ]
    print_table([*head, "driver: B/more document"], [list(row.values()) for row in rows])
    write_json(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
