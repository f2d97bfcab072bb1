"""What a small real build says of splits and components that got nothing."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline import figures
from pipeline.build import Build
from tests.pipeline.test_figures import open_build

MANIFEST = {
    "name": "gaps",
    "sources": [
        {"name": "prose", "kind": "tables", "paths": ["prose.jsonl"], "columns": {"text": "text", "origin": "work"}},
        {
            "name": "short",
            "kind": "tables",
            "paths": ["short.jsonl"],
            "columns": {"text": "text"},
            "rows_are": "page",
        },
    ],
    "components": [
        {"name": "language", "kinds": ["prose"]},
        {"name": "again", "kinds": ["prose"], "sources": ["prose"]},
        {"name": "web", "kinds": ["page"]},
        {"name": "code", "languages": ["Python", "C"]},
    ],
    "tokenizer": {"train": {"vocabulary": 300, "sample_bytes": 10_000}},
    "split": {"validation": 0.0001, "held_out": 0.5},
    "plan": {"sequence_length": 256},
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("gaps")
    texts = [" ".join(f"the w{i}x{j} and" for j in range(40)) for i in range(21)]
    rows = [{"text": text, "work": f"work {i % 7}"} for i, text in enumerate(texts)]
    (folder / "prose.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "short.jsonl").write_text('{"text": "few words"}\n{"text": "fewer"}\n')
    (folder / "m.yaml").write_text(yaml.safe_dump(MANIFEST))
    build = open_build(folder / "out", folder / "m.yaml")
    build.run()
    return build


def found(build: Build, *without: str) -> dict[tuple[str, str], str]:
    records = [record for record in build.records if record.stage.role not in without]
    table = figures.figures(build.store, build.manifest, records)["gaps"]
    return {(row["what"], row["name"]): row["reason"] for row in table.to_pylist()}


def test_an_empty_split_or_component_is_named_with_the_reason(build: Build) -> None:
    assert found(build) == {
        ("component", "again"): "all kept documents that fit it (21) belong to a component above it",
        ("component", "web"): "all documents that fit it (2) were dropped, most of them for page_few_words",
        ("component", "code"): "no document fits it",
        ("split", "validation"): (
            "splits go by origin (package, repository, domain, work), and none of all origins (7) fell into a share of "
            "0.0001; a larger share or more origins would fill it"
        ),
    }


def test_nothing_is_said_before_there_are_samples(build: Build) -> None:
    assert found(build, "tokens", "selection", "plan") == {}


def test_the_page_and_its_writer_say_what_is_empty(build: Build, tmp_path: Path) -> None:
    from pipeline import report

    tables = figures.figures(build.store, build.manifest, build.records)
    told = report.write(build, build.records, tables, "d" * 64, 1.0)
    assert "component code is empty: no document fits it" in told.gaps
    assert "The component code is empty: no document fits it." in Path(told.page).read_text(encoding="utf-8")
