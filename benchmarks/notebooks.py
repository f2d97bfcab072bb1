"""Notebooks to scripts, beside jupytext.

``python -m benchmarks.notebooks [--quick] [--json FILE]`` reads the notebooks in jupytext's source distribution
(fetched once with pip), and prints MB of notebook a second of CPU time of one thread, how many become scripts, and how
many of the two tools' scripts hold the same cells. ``pip install jupytext==1.19.6`` for the comparison.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filters.notebooks import to_script

SDIST = "jupytext==1.19.6"
CACHE = Path(os.environ.get("HEADRACE_CACHE", Path.home() / ".cache" / "headrace")) / "sdists"


def fetch_notebooks() -> list[bytes]:
    """The notebooks of the source distribution, in the order of their names."""
    archive = CACHE / (SDIST.replace("==", "-") + ".tar.gz")
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "jupytext"]
        subprocess.run([*command, "-d", str(CACHE), SDIST], check=True)
    with tarfile.open(archive) as members:
        files = sorted(
            (member.name, members.extractfile(member)) for member in members if member.name.endswith(".ipynb")
        )
        return [file.read() for _, file in files if file]


def with_jupytext() -> Callable[[bytes], str | None] | None:
    """The same conversion by nbformat and jupytext; None if they are not installed."""
    try:
        jupytext: Any = importlib.import_module("jupytext")
        nbformat: Any = importlib.import_module("nbformat")
    except ImportError:
        return None

    def convert(raw: bytes) -> str | None:
        try:
            return str(jupytext.writes(nbformat.reads(raw.decode(), as_version=4), fmt="auto:percent"))
        except Exception:  # whatever it refuses is counted as not converted
            return None

    return convert


def cells(script: str) -> list[str]:
    """The cells of a Python script in percent format; jupytext's header is none."""
    jupytext: Any = importlib.import_module("jupytext")
    return [cell.source for cell in jupytext.reads(script, fmt="py:percent").cells if cell.source.strip()]


def measure(convert: Callable[[bytes], str | None], notebooks: list[bytes], runs: int) -> dict[str, Any]:
    """Speed (best run) and the scripts of a converter."""
    seconds = []
    scripts: list[str | None] = []
    for _ in range(runs):
        start = time.process_time()
        scripts = [convert(raw) for raw in notebooks]
        seconds.append(time.process_time() - start)
    return {"mb_per_s": sum(map(len, notebooks)) / min(seconds) / 1e6, "scripts": scripts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run instead of the best of five")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    arguments = parser.parse_args()
    notebooks = fetch_notebooks()
    runs = 1 if arguments.quick else 5
    to_script(notebooks[0])
    ours = measure(lambda raw: to_script(raw).text, notebooks, runs)
    results = {"headrace to_script": ours}
    if (peer := with_jupytext()) is not None:
        results["jupytext"] = measure(peer, notebooks, runs)
        python = [
            (mine, theirs)
            for raw, mine, theirs in zip(notebooks, ours["scripts"], results["jupytext"]["scripts"], strict=True)
            if mine and theirs and to_script(raw).language == "Python"
        ]
        same = sum(cells(mine) == cells(theirs) for mine, theirs in python)
        print(f"cells equal in {same} of {len(python)} Python notebooks")
    else:
        print("jupytext                  not installed", file=sys.stderr)
    print(f"{len(notebooks)} notebooks, {sum(map(len, notebooks)) / 1e6:.1f} MB")
    print(f"{'converter':26}{'MB/s':>8}{'scripts':>9}")
    rows = {}
    for name, result in results.items():
        rows[name] = {"mb_per_s": result["mb_per_s"], "scripts": sum(map(bool, result["scripts"]))}
        print(f"{name:26}{rows[name]['mb_per_s']:8.1f}{rows[name]['scripts']:9}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"notebooks": len(notebooks), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
