"""Peak memory of builds of growing size: it does not grow with the corpus beyond ids and hashes.

``python -m benchmarks.memory [--quick] [--json FILE]`` runs ``headrace build`` on 100 MB, 400 MB and 1.6 GB of code
(``benchmarks.corpus``), with one worker (in the driver's process) and with two (processes of their own), and prints the
peak resident memory (the kernel's VmHWM) of the driver and of the largest worker, and by how many bytes a document the
driver's grows from the smallest build to each. A worker holds one shard's text at a time, so its peak depends on the
size of a shard (64 MB of text) and not on their number. About 6 GB of disk, removed at the end.
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
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_INTERVAL = 0.05


def peak_memory(process: int) -> int:
    """The peak resident memory of a running process in bytes; 0 where it has ended."""
    try:
        match = _PEAK.search(Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(match[1]) << 10 if match else 0


def watch(command: list[str]) -> tuple[int, int]:
    """Run a command; gives the peak memory in bytes of its process, and of the largest of those that it starts."""
    driver = worker = 0
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            driver = max(driver, peak_memory(process.pid))
            worker = max([worker, *map(peak_memory, children(process.pid))])
            time.sleep(_INTERVAL)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{log.read()[-4000:]}")
    return driver, worker


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
        "driver_mb": driver / 1e6,
        "worker_mb": worker / 1e6 if worker and workers > 1 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5, 10 and 20 MB")
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
        for size in QUICK if options.quick else FULL:
            shutil.rmtree(code)
            corpus.write_corpus(code, size)
            rows += [measure(code, out, workers, tokenizer) for workers in (1, 2)]
    for row in rows:
        first = next(r for r in rows if r["workers"] == row["workers"])
        more = row["documents"] - first["documents"]
        row["driver_bytes_per_more_document"] = (row["driver_mb"] - first["driver_mb"]) * 1e6 / more if more else None
    head = ["MB of text", "workers", "documents", "driver, peak MB", "worker, peak MB", "driver, B/more document"]
    print_table(head, [list(row.values()) for row in rows])
    write_json(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
