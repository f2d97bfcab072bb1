"""Peak memory does not grow with the corpus beyond ids and hashes (``benchmarks.memory`` shows it at full size)."""

import io
import random
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from benchmarks.memory import watch

WORDS = [f"name_{i}" for i in range(5000)]
FILES_OF_AN_ARCHIVE = 250
SMALL, LARGE = 3, 24
MANIFEST = {
    "name": "growing",
    "sources": [{"name": "code", "kind": "archives", "paths": ["in/*.tar"]}],
    "components": [{"name": "code"}],
    "tokenizer": {"train": {"vocabulary": 2000, "sample_bytes": 300_000}},
    "shards": {"text_bytes": 2_000_000},
}


def archive(path: Path, seed: int) -> None:
    """Some 2 MB of files of Python, no two alike."""
    words = random.Random(seed)
    with tarfile.open(path, "w") as members:
        for i in range(FILES_OF_AN_ARCHIVE):
            lines = (f"{a} = {b}({c})\n" for a, b, c in zip(*[iter(words.choices(WORDS, k=900))] * 3, strict=True))
            data = "".join(lines).encode()
            info = tarfile.TarInfo(f"package_{seed}/module_{i}.py")
            info.size = len(data)
            members.addfile(info, io.BytesIO(data))


def peaks(folder: Path, archives: int) -> tuple[int, int]:
    """Anonymous memory in bytes at its peak: of the driver, and of the largest worker."""
    (folder / "in").mkdir(parents=True)
    for seed in range(archives):
        archive(folder / "in" / f"package_{seed}-1.0.tar", seed)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(MANIFEST))
    command = [sys.executable, "-m", "pipeline.cli", "build", str(folder / "manifest.yaml")]
    driver, worker = watch([*command, "--out", str(folder / "out"), "--workers", "2"])
    return driver[1], worker[1]


@pytest.mark.slow
def test_eight_times_the_text_takes_no_more_memory(tmp_path):
    """42 MB more text: 5,250 documents of some 2 kB each in driver memory would be 11 MB, a third of the text 14 MB."""
    peaks(tmp_path / "warm", 1)
    small = peaks(tmp_path / "small", SMALL)
    large = peaks(tmp_path / "large", LARGE)
    more = [(b - a) / 1e6 for a, b in zip(small, large, strict=True)]
    assert max(more) < 12, f"{more} MB more in driver and worker for 42 MB more text"
