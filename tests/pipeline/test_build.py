"""The build, in this process: each step finds what is there and makes what is missing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.build import STEPS, Build
from pipeline.engine import Engine
from pipeline.manifest import ManifestError, load
from pipeline.store import Store
from pipeline.verify import check, conservation, root_digest
from tests.pipeline.test_crawl import zip_of

MANIFEST: dict[str, Any] = {
    "name": "tiny",
    "sources": [
        {"name": "code", "kind": "archives", "paths": ["in"]},
        {"name": "prose", "kind": "tables", "paths": ["rows.jsonl"], "columns": {"text": "text", "url": "url"}},
    ],
    "components": [{"name": "code", "kinds": ["code"]}, {"name": "text", "kinds": ["prose"]}],
    "tokenizer": {"train": {"vocabulary": 400, "sample_bytes": 100_000}},
    "fim": {"components": ["code"], "max_tokens": 256},
    "plan": {"sequence_length": 256},
    "shards": {"text_bytes": 3000, "row_group_bytes": 1000},
}
PROSE = "The house at the end of the road is old, and the people that live there have little to do with it. " * 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a manifest and its input: archives of small programs, a table of prose."""
    (tmp_path / "in").mkdir()
    for n in range(3):
        files = {
            f"f{n}_{i}.py": f"def f{i}_{n}(value):\n    return value + {i * n}\n".encode() * (i + 1) for i in range(12)
        }
        zip_of(
            tmp_path / "in" / f"p{n}-1.0.zip", files | {"same.py": b"print('the same everywhere')\n", "a.bin": b"\0"}
        )
    rows = [{"url": f"https://example.org/{i}", "text": f"{i} {PROSE}{i}"} for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def make(place: Any) -> Callable[..., Build]:
    def made(sample: float = 1.0, out: str = "out", **changes: Any) -> Build:
        (place / "m.yaml").write_text(yaml.safe_dump(MANIFEST | changes))
        store = Store(str(place / out))
        return Build(load(str(place / "m.yaml")), store, Engine(quiet=True), sample, say=lambda line: None)

    return made


def roles(build: Build) -> list[str]:
    return sorted({record.stage.role for record in build.records})


def test_a_build_goes_from_archives_to_a_plan_and_loses_no_row(make: Any) -> None:
    build = make()
    records = build.run()
    assert roles(build) == [
        "benchmarks", "contamination", "documents", "duplicates", "language", "measures", "plan", "selection",
        "signatures", "tokenizer", "tokens", "verdicts",
    ]  # fmt: skip
    assert len(conservation(records)) == 10
    assert [d for record in records for d in check(build.store, record)] == []
    again = make()
    assert root_digest(again.run()) == root_digest(records)
    other = make(out="other")
    assert root_digest(other.run()) == root_digest(records)


@pytest.mark.parametrize("until", STEPS[:3])
def test_a_build_stops_after_the_step_that_was_asked_for(make: Any, until: Any) -> None:
    build = make()
    build.run(until)
    last = {"crawl": "documents", "annotate": "signatures", "judge": "verdicts"}
    assert last[until] in roles(build)
    assert not {last[step] for step in STEPS[STEPS.index(until) + 1 : 3]} & set(roles(build))
    assert "tokens" not in roles(build)


def test_steps_of_the_build_are_its_methods_in_order(make: Any) -> None:
    build = make()
    assert all(callable(getattr(build, step)) for step in STEPS)


def test_a_build_of_rejects_only_ends_without_tokens(make: Any, place: Any) -> None:
    shutil.rmtree(place / "in")
    (place / "in").mkdir()
    zip_of(place / "in" / "p-1.0.zip", {"a.bin": b"\0"})
    (place / "rows.jsonl").write_text("not json\n")
    build = make()
    records = build.run()
    assert conservation(records)[0] == "rows offered 2 = documents + rejects"
    assert [d for record in records for d in check(build.store, record)] == []


def test_a_sample_is_a_keyed_share_of_the_units_and_at_least_one_of_each_source(make: Any, place: Any) -> None:
    for n in range(3, 60):
        zip_of(place / "in" / f"p{n}-1.0.zip", {f"{n}.py": str(n).encode()})
    names = {s: {u.name for u in make(s).units["code"]} for s in (1e-9, 0.2, 0.5, 1.0)}
    assert len(names[1.0]) == 60
    assert len(names[1e-9]) == 1
    assert names[0.2] < names[0.5] < names[1.0]
    assert 4 <= len(names[0.2]) <= 24
    assert all(len(make(s).units["prose"]) == 1 for s in (1e-9, 1.0))


class Stopped(Engine):
    """An engine that does not start."""

    def pipeline(self) -> Any:
        raise KeyError


def test_inputs_are_pinned_before_work_starts(make: Any, place: Any) -> None:
    build = make()
    build.engine = Stopped(quiet=True)
    with pytest.raises(KeyError):
        build.run("crawl")
    pins = build.store.read_json("lock.json")["files"]
    assert set(pins) == {str(path) for path in [*(place / "in").iterdir(), place / "rows.jsonl"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quarantine": "none.txt"}, "quarantine: no file .*none.txt"),
        ({"tokenizer": {"path": "none.json"}}, r"tokenizer.path: no file .*none.json"),
        ({"tokenizer": {"path": "rows.jsonl"}}, "rows.jsonl is not a tokenizer.json"),
        ({"tokenizer": {"path": "m.yaml"}}, "m.yaml is not a tokenizer.json"),
        ({"decontaminate": {"benchmarks": [{"name": "b", "path": "none"}]}}, "no file .*none"),
        ({"sources": [{"name": "code", "kind": "archives", "paths": ["none"]}]}, "nothing matches .*none"),
    ],
)
def test_what_the_manifest_names_and_is_not_there_stops_before_any_work(make: Any, changes: Any, message: Any) -> None:
    build = make(**changes)
    with pytest.raises(ManifestError, match=message):
        build.check()
    assert not [path for path in build.store.files() if path != "lock.json"]


def test_a_tokenizer_that_lacks_the_controls_is_a_message(make: Any, place: Any) -> None:
    (place / "t.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": []}))
    build = make(tokenizer={"path": "t.json"})
    with pytest.raises(ManifestError, match="tokenizer: the tokenizer has no added token"):
        build.run("tokenize")


def test_a_quarantine_is_read_in_any_case_and_leaves_the_documents_out(make: Any, place: Any) -> None:
    (place / "q.txt").write_text(hashlib.sha256(b"print('the same everywhere')\n").hexdigest().upper() + "\n\n")
    build = make(quarantine="q.txt")
    records = build.run("crawl")
    assert sum(record.counts["rejects"].get("quarantined", 0) for record in records) == 3


def test_the_tokenizer_is_trained_on_kept_documents_in_the_order_of_ids(make: Any, place: Any) -> None:
    build = make()
    build.run("deduplicate")
    texts = build.tokenizer_sample()
    assert sum(text.startswith("print('the same") for text in texts) == 1
    assert len(texts) == len(set(texts))


def test_a_given_tokenizer_is_used_as_it_is(make: Any, place: Any) -> None:
    trained = make()
    trained.run("tokenize")
    content = trained.store.read(trained.tokenizer.files[0].path)
    (place / "t.json").write_bytes(content)
    given = make(out="given", tokenizer={"path": "t.json"})
    given.run("tokenize")
    assert given.store.read(given.tokenizer.files[0].path) == content
    assert [r.digest for _, _, r in given.tokens] == [r.digest for _, _, r in trained.tokens]


def test_a_new_archive_is_crawled_alone(make: Any, place: Any) -> None:
    build = make()
    build.run("crawl")
    before = {path: (Path(build.store.url) / path).stat().st_mtime_ns for path in build.store.files("documents")}
    zip_of(place / "in" / "p9-1.0.zip", {"new.py": b"x = 1\n"})
    grown = make()
    records = grown.run("crawl")
    assert len(records) == 5
    after = {path: (Path(build.store.url) / path).stat().st_mtime_ns for path in build.store.files("documents")}
    assert {path: after[path] for path in before} == before
    assert all("p9-1.0" in path for path in after.keys() - before.keys())
