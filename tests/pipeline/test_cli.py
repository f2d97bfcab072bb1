"""The command line: what it prints, how it exits, and that a mistake is one message."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import languages
from pipeline import cli
from pipeline.build import Build
from pipeline.lease import LEASE, Lease
from pipeline.store import Store

ROOT = Path(cli.__file__).resolve().parent.parent


def headrace(*arguments: str | bytes, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    command: list[str | bytes] = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | more.pop("environment", {})
    return subprocess.run(command, capture_output=True, env=environment, **more)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src" / ".git").mkdir(parents=True)
    (tmp_path / "src" / "sub").mkdir()
    (tmp_path / "src" / ".git" / "config.py").write_text("x = 1")
    (tmp_path / "src" / "a.py").write_text("import os\n")
    (tmp_path / "src" / "sub" / "b.rs").write_text("fn main() {}\n")
    return tmp_path / "src"


def classified(capsys: Any, *arguments: str) -> dict[str, str]:
    assert cli.main(["languages", *arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(row.keys() == {"path", "language", "evidence", "confidence"} for row in rows)
    assert all(0 <= row["confidence"] <= 1 for row in rows)
    return {row["path"]: row["language"] for row in rows}


# languages --------------------------------------------------------------------------------------------------------


def test_the_languages_are_the_338_as_text_and_as_json(capsys: Any) -> None:
    assert cli.main(["languages"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 338
    assert cli.main(["languages", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["language"] for row in rows] == [language.name for language in languages.table()]
    assert rows[0].keys() == {"language", "kind", "extensions"}


def test_files_of_a_folder_are_classified_in_order_without_those_of_git(capsys: Any, tree: Any) -> None:
    assert classified(capsys, str(tree)) == {f"{tree}/a.py": "Python", f"{tree}/sub/b.rs": "Rust"}
    assert list(classified(capsys, str(tree / "sub"), str(tree / "a.py"))) == [f"{tree}/sub/b.rs", f"{tree}/a.py"]


def test_a_file_is_classified_as_plain_text(capsys: Any, tree: Any) -> None:
    assert cli.main(["languages", str(tree / "a.py")]) == 0
    assert capsys.readouterr().out.split() == ["Python", "extension", "0.98", f"{tree}/a.py"]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_that_are_not_utf8_are_shown_and_classified(tree: Any, locale: Any) -> None:
    odd = os.fsencode(tree) + b"/caf\xe9.py"
    with open(odd, "wb") as file:
        file.write(b"x = 1\n")
    done = headrace("languages", os.fsencode(tree), odd, "--json", environment={"LC_ALL": locale})
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["path"].rsplit("/", 1)[1] for row in rows] == ["a.py", "caf\ufffd.py", "b.rs", "caf\ufffd.py"]
    assert rows[1]["language"] == rows[3]["language"] == "Python"


def test_output_is_the_same_where_the_terminal_is_not_utf8(tree: Any) -> None:
    (tree / "naïve.py").write_text("x = 1\n")
    plain = headrace("languages", str(tree), "--json")
    other = headrace("languages", str(tree), "--json", environment={"PYTHONIOENCODING": "ascii"})
    assert (other.returncode, [json.loads(line) for line in other.stdout.splitlines()]) == (
        0, [json.loads(line) for line in plain.stdout.splitlines()],
    )  # fmt: skip


def test_a_dangling_link_in_a_folder_stops_nothing(capsys: Any, tree: Any) -> None:
    (tree / "link.py").symlink_to("nowhere")
    assert f"{tree}/sub/b.rs" in classified(capsys, str(tree))


def test_a_long_file_is_judged_by_its_first_mebibyte_wherever_that_ends(capsys: Any, tmp_path: Any) -> None:
    """A character of several bytes may stand across the end."""
    found = set()
    for shift in range(3):
        path = tmp_path / f"script{shift}"
        path.write_text("#!/usr/bin/env python3\n" + "#" * shift + "あ" * 400_000 + "\n")
        found |= set(classified(capsys, str(path)).values())
    assert found == {"Python"}


def test_an_empty_and_a_binary_file_have_a_verdict(capsys: Any, tmp_path: Any) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "b.bin").write_bytes(bytes(range(256)))
    assert set(classified(capsys, str(tmp_path))) == {f"{tmp_path}/b.bin", f"{tmp_path}/empty"}


def test_a_path_that_is_missing_is_one_message(capsys: Any, tmp_path: Any) -> None:
    assert cli.main(["languages", str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"headrace: no file or folder {tmp_path}/none\n")


def test_a_reader_that_goes_away_is_no_error(tree: Any) -> None:
    """``headrace languages | head``"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "languages", "--json"], stdout=write, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode in (0, 1, 141)


# help and mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["build", "plan", "verify", "gc", "languages"])
def test_help_teaches_by_example(capsys: Any, command: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    examples = capsys.readouterr().out.split("examples:")[1]
    assert all(line.strip().startswith("headrace " + command) for line in examples.strip().splitlines()[:1])


def test_help_names_every_command_and_option(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(command in said for command in ("build", "plan", "verify", "gc", "languages"))
    with pytest.raises(SystemExit):
        cli.main(["build", "--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--out", "--workers", "--sample", "--until", "--runner"))
    assert "about this share of the input units" in " ".join(said.split())


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["bild"], ["build"], ["build", "m.yaml", "--workers", "many"], ["build", "m.yaml", "--workers", "0"],
        ["build", "m.yaml", "--until", "never"], ["build", "m.yaml", "--sample", "0"],
        ["build", "m.yaml", "--sample", "1.5"], ["verify", "out", "--", "--runner=X"], ["languages", "--jsn"],
    ],
)  # fmt: skip
def test_a_wrong_argument_is_exit_status_2_with_the_usage(capsys: Any, arguments: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: headrace" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["build", "plan"])
def test_a_manifest_that_is_missing_is_one_message(capsys: Any, tmp_path: Any, command: Any) -> None:
    assert cli.main([command, str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err == f"headrace: {tmp_path}/none.yaml: there is no such manifest\n"


def test_a_wrong_manifest_is_told_before_anything_is_written(capsys: Any, tmp_path: Any) -> None:
    (tmp_path / "m.yaml").write_text("name: a\nsuorces: []\n")
    assert cli.main(["build", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'sources'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# build ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A manifest of one small table, with an empty component."""
    texts = [" ".join(f"the w{i}x{j} and" for j in range(40)) for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "m.yaml").write_text("""\
name: rows
sources: [{name: rows, kind: tables, paths: [rows.jsonl], columns: {text: text}}]
components: [{name: language, kinds: [prose]}, {name: code, kinds: [code]}]
tokenizer: {train: {vocabulary: 300, sample_bytes: 10000}}
plan: {sequence_length: 256}
""")
    return tmp_path


def build(folder: Path, *more: str) -> int:
    return cli.main(["build", str(folder / "m.yaml"), "--out", str(folder / "out"), "--workers", "1", *more])


def test_a_build_ends_with_its_report_tokens_warnings_and_digest_and_again_with_few_lines(
    capfd: Any, rows: Path
) -> None:
    assert build(rows) == 0
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert lines[0].startswith("done in ")
    assert lines[1] == f"report: {rows}/out/report/rows/index.html"
    assert lines[2].startswith(f"tokens: {rows}/out/tokens/rows-")
    assert lines[3].startswith("root digest ")
    assert said.err.splitlines()[-1] == "warning: component code is empty: no document fits it"
    assert build(rows) == 0
    again = capfd.readouterr()
    assert again.out.startswith("everything was up to date: ")
    assert again.out.splitlines()[1:] == [lines[1], lines[3]]
    assert again.err.splitlines()[-1] == "warning: component code is empty: no document fits it"


def test_a_directory_that_is_being_built_is_told_before_its_inputs_are_looked_at(capfd: Any, rows: Path) -> None:
    manifest = (rows / "m.yaml").read_text()
    (rows / "m.yaml").write_text(manifest.replace("columns: {text: text}", "columns: {text: other}"))
    with Lease(Store(str(rows / "out"))):
        assert build(rows) == 2
        assert "another build works in" in capfd.readouterr().err
        assert (rows / "out" / LEASE).exists()
    assert build(rows) == 2
    assert "has no column 'other'" in capfd.readouterr().err
    assert [path for path in (rows / "out").rglob("*") if path.is_file()] == []


def test_a_build_looks_at_its_inputs_once(monkeypatch: Any, rows: Path) -> None:
    checked: list[bool] = []
    check = Build.check

    def noted(self: Build) -> None:
        checked.append(self.store.exists(LEASE))
        check(self)

    monkeypatch.setattr(Build, "check", noted)
    assert build(rows, "--until", "crawl") == 0
    assert checked == [False]


def test_a_lease_that_a_killed_build_left_stops_nothing(rows: Path) -> None:
    (rows / "out").mkdir()
    (rows / "out" / LEASE).write_text('{"host": "elsewhere", "pid": 1, "alive": 0}')
    assert build(rows, "--until", "crawl") == 0
    assert not (rows / "out" / LEASE).exists()


@pytest.mark.parametrize("command", ["build", "plan"])
def test_every_path_that_is_missing_is_told_at_once(capfd: Any, rows: Path, command: str) -> None:
    (rows / "m.yaml").write_text("""\
name: rows
sources:
  - {name: rows, kind: tables, paths: [rows.jsonl, "*.jsonl", "s3://bucket/x", "none*"], columns: {text: text}}
  - name: git
    kind: git
    repositories: [{url: ../none}, {url: "https://example.org/a.git"}]
decontaminate: {benchmarks: [{name: mine, path: items.txt}]}
components: [{name: language, kinds: [prose]}]
tokenizer: {path: roes.jsonl}
quarantine: bad.txt
""")
    assert cli.main([command, str(rows / "m.yaml"), "--out", str(rows / "out")]) == 2
    path, parent = rows / "m.yaml", rows.parent
    assert capfd.readouterr().err.splitlines() == [
        f"headrace: {path}:3: sources.0.paths.3: nothing matches {rows}/none*",
        f"{path}:6: sources.1.repositories.0: no file or folder {parent}/none; {parent} has no 'none'",
        f"{path}:7: decontaminate.benchmarks.0.path: no file or folder {rows}/items.txt; {rows} has no 'items.txt'",
        f"{path}:9: tokenizer.path: no file or folder {rows}/roes.jsonl; did you mean {rows}/rows.jsonl?",
        f"{path}:10: quarantine: no file or folder {rows}/bad.txt; {rows} has no 'bad.txt'",
    ]
    assert not (rows / "out").exists()


# verify and gc ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["verify", "gc"])
def test_a_folder_without_a_build_is_one_message(capsys: Any, tmp_path: Any, command: Any) -> None:
    assert cli.main([command, str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("headrace: ")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / LEASE).exists()


def test_importing_the_command_imports_nothing_heavy() -> None:
    heavy = ("apache_beam", "numba", "pyarrow", "tokenizers")
    script = f"import sys, pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_help_of_a_process_is_quick_and_clean() -> None:
    done = headrace("--help", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
