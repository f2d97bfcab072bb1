"""Every fault amid every pass on every cluster: does the build end with the digest of an undisturbed one?

``python -m benchmarks.faults [--quick] [--json FILE]`` needs ``make engines``. On a Flink and on a Spark cluster (two
workers each, output on an S3 server), amid crawl, annotate, deduplicate and tokenize: ``kill -9`` of a Python worker,
of a TaskManager or an executor, of the driver, and the object store away for ten seconds. Of each: whether the digest
is the same, how often the command was run, and the seconds of the whole. Some forty minutes on two cores.
"""

import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import parser, print_table, write_json
from tests.clusters import faults
from tests.clusters.bucket import ON_DISK, filled
from tests.clusters.engines import flink, spark
from tests.clusters.minio import minio
from tests.sites import Site

STRIKES = {
    "Flink": (faults.kill_python_worker, faults.kill_task_manager, faults.kill_driver, faults.stop_store),
    "Spark": (faults.kill_python_worker, faults.kill_executor, faults.kill_driver, faults.stop_store),
}


def grid(scratch: Path, quick: bool) -> list[dict[str, Any]]:
    """A row for each cluster, pass and fault; with ``quick``, each fault once."""
    site = Site.make(scratch / "site", manifest=ON_DISK)
    expected, rows = site.build("--workers", "2"), []
    with ExitStack() as stack:
        server = stack.enter_context(minio(scratch / "s3"))
        (scratch / "driver").mkdir()
        bucket = filled(server, site, scratch / "driver")
        os.environ |= server.environment
        for engine, start in (("Flink", flink), ("Spark", spark)):
            with start(scratch / engine.lower(), environment=server.environment) as cluster:
                for number, strike in enumerate(STRIKES[engine]):
                    for step in [list(faults.PASSES)[number]] if quick else faults.PASSES:
                        place, started = bucket.site(f"{engine}-{step}-{strike.__name__}"), time.monotonic()
                        try:
                            digest, runs, _ = faults.struck(place, step, cluster, strike)
                            what = "same digest" if digest == expected else f"ANOTHER DIGEST {digest}"
                        except AssertionError as error:
                            what, runs = f"FAILED: {str(error)[:80]}", 0
                        row = {"cluster": engine, "pass": step, "fault": strike.__name__.replace("_", " ")}
                        rows.append(row | {"end": what, "runs": runs, "seconds": time.monotonic() - started})
                        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    options = parser(__doc__, "each fault once on each cluster").parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as folder:
        rows = grid(Path(folder), options.quick)
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    write_json(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
