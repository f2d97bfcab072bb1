import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import corpus


def results_of(module: str, folder: Path, *options: str) -> dict[str, Any]:
    target = folder / "results.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", "--json", str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(target.read_text()))


def test_a_corpus_has_the_wanted_size_and_is_the_same_on_every_run(tmp_path: Path) -> None:
    size = corpus.write_corpus(tmp_path / "a", 2)
    assert corpus.write_corpus(tmp_path / "b", 2) == size
    assert 1_500_000 < size <= 2_000_000
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@pytest.mark.slow
def test_the_build_benchmark_times_every_stage_and_both_ways_of_running_a_pass(tmp_path: Path) -> None:
    results = results_of("build", tmp_path, "--mb", "3", "--slice-mb", "0", "--beam-mb", "2")
    mb, costs = results["headrace"]["sizes"], results["headrace"]["cpu_seconds"]
    assert mb["documents"] > mb["kept"] > 0
    assert {"crawl", "annotate", "judge", "deduplicate", "train tokenizer", "tokenize"} < set(costs)
    assert all(set(ways) == {"beam", "plain"} for ways in results["beam"].values())


@pytest.mark.slow
def test_the_memory_benchmark_counts_the_documents_of_each_size(tmp_path: Path) -> None:
    rows = results_of("memory", tmp_path, "--mb", "2", "4", "6")["rows"]
    assert [row["workers"] for row in rows] == [1, 2, 1, 2, 1, 2]
    assert rows[0]["documents"] == rows[1]["documents"] < rows[2]["documents"] < rows[4]["documents"]
    assert all(row["driver_anonymous_mb"] <= row["driver_resident_mb"] for row in rows)
    assert [row["worker_anonymous_mb"] is None for row in rows] == [True, False] * 3


@pytest.mark.slow
def test_the_scale_benchmark_runs_the_steps_over_tables_and_loses_no_document(tmp_path: Path) -> None:
    results = results_of("scale", tmp_path, "--out", str(tmp_path))
    assert list(results["steps"]) == ["judge", "deduplicate", "select", "plan"]
    counts = results["counts"]
    assert counts["documents"] == 20_000 > counts["kept_by_judging"] > 0 < counts["repeated"]
    assert counts["samples"] == counts["kept_by_judging"] - counts["exact_duplicate"] - counts["near_duplicate"]
    assert 0.15 < counts["exact_duplicate"] / counts["kept_by_judging"] < 0.3
    assert 0.05 < counts["near_duplicate"] / counts["samples"] < 0.2
    assert counts["tokens"] + counts["padding"] == 4096 * counts["sequences"]
    assert results["steps"]["deduplicate"]["processes"]["worker"]["anonymous_mb"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
