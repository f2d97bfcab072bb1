"""A place with real input, a manifest and an output folder, where tests run the real command in real processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.inputs import small_inputs

CHECKOUT = Path(__file__).resolve().parent.parent
CODE = (
    "click-8.1.3-py3-none-any.whl",
    "click-8.1.7-py3-none-any.whl",
    "click-8.1.8-py3-none-any.whl",
    "googleapis_common_protos-1.76.0-py3-none-any.whl",
    "pythondata_cpu_picorv32-1.0.post218-py3-none-any.whl",
    "robotframework-7.5-py3-none-any.whl",
)

MANIFEST: dict[str, Any] = {
    "name": "small",
    "seed": 11,
    "sources": [
        {"name": "code", "kind": "archives", "paths": ["in/code"]},
        {"name": "repositories", "kind": "git", "repositories": [{"url": "in/repository"}]},
        {"name": "pages", "kind": "warc", "paths": ["in/pages"]},
        {
            "name": "prose",
            "kind": "tables",
            "paths": ["in/prose"],
            "columns": {"text": "text", "url": "url", "origin": "work"},
        },
    ],
    "shards": {"text_bytes": 700_000, "row_group_bytes": 200_000},
    "languages": {"keep_other": {"YAML": "data", "Markdown": "prose", "reStructuredText": "prose", "Text": "prose"}},
    "decontaminate": {"benchmarks": [{"name": "mine", "path": "in/benchmark.jsonl", "fields": ["text"], "id": "id"}]},
    "components": [
        {"name": "code", "kinds": ["code", "data"]},
        {"name": "web", "sources": ["pages"]},
        {"name": "language", "kinds": ["prose"]},
    ],
    "tokenizer": {"train": {"vocabulary": 2000, "sample_bytes": 300_000}, "eos": "<｜end▁of▁sentence｜>"},
    "fim": {"components": ["code"], "max_tokens": 1024},
    "split": {"validation": 0.1},
    "mixture": {"weights": {"code": 6, "web": 1, "language": 3}, "max_tokens_per_origin": 200_000},
    "plan": {"sequence_length": 1024},
}
BENCHMARK = """{"id": "a", "text": "def echo(message=None, file=None, nl=True, err=False, color=None):"}\n"""


@dataclass
class Site:
    """A folder with ``in/``, ``manifest.yaml`` and ``out/``."""

    folder: Path
    out: Path

    @staticmethod
    def make(folder: Path, out: Path | None = None, manifest: dict[str, Any] | None = None) -> "Site":
        """Lay real input out and write the manifest."""
        small = small_inputs()
        (folder / "in" / "code").mkdir(parents=True)
        for name in CODE:
            shutil.copyfile(small / "code" / name, folder / "in" / "code" / name)
        shutil.copytree(small / "pages", folder / "in" / "pages")
        shutil.copytree(small / "prose", folder / "in" / "prose")
        make_repository(folder / "in" / "repository", small / "code" / "pybind11-2.13.6-py3-none-any.whl")
        (folder / "in" / "benchmark.jsonl").write_text(BENCHMARK)
        site = Site(folder, out or folder / "out")
        site.write(manifest or MANIFEST)
        return site

    def write(self, manifest: dict[str, Any]) -> None:
        """Write the manifest."""
        (self.folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True), "utf-8")

    def command(self, *arguments: str) -> list[str]:
        """The command line of a build."""
        path = str(self.folder / "manifest.yaml")
        return [sys.executable, "-m", "pipeline.cli", "build", path, "--out", str(self.out), *arguments]

    def build(self, *arguments: str, **environment: str) -> str:
        """Build and give the root digest."""
        done = self.try_build(*arguments, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip().splitlines()[-1].removeprefix("root digest ")

    def try_build(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a build to its end."""
        command = self.command(*arguments)
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, cwd=CHECKOUT)

    def start(self, *arguments: str, start_new_session: bool = False, **environment: str) -> subprocess.Popen[str]:
        """Start a build."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env=os.environ | environment,
            start_new_session=start_new_session,
        )

    def headrace(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command."""
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, stdin=subprocess.DEVNULL)

    def records(self, role: str) -> list[Path]:
        """Records of units that a stage has committed."""
        return sorted((self.out / role).glob("*/*.json")) if (self.out / role).exists() else []

    def kill_when(self, build: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
        """kill -9 a build as soon as a state is reached."""
        while not reached():
            assert build.poll() is None, f"the build ended first: {build.communicate()[1][-2000:]}"
            time.sleep(0.002)
        build.send_signal(signal.SIGKILL)
        build.communicate()


def make_repository(path: Path, wheel: Path) -> None:
    """A git repository with the files of a wheel; the same commit everywhere."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(path)
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    who |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"}
    dates = {"GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z"}
    environment = os.environ | who | dates | {"GIT_CONFIG_GLOBAL": "/dev/null"}
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A", "-f"], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=path, env=environment, check=True)


def children_of(pid: int) -> list[int]:
    """Worker processes of a build, without threads that end meanwhile."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                found += [int(child), *children_of(int(child))]
    return found
