"""The page of a real build, and of builds that are hostile, early or empty."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import figures, report
from pipeline.build import Build
from pipeline.engine import Engine
from pipeline.page import duration
from pipeline.records import Record
from pipeline.store import Store
from pipeline.verify import root_digest
from tests.pipeline.test_figures import ROLES, built

HOSTILE = (
    "<script>alert(1)</script>",
    "\"' onmouseover='alert(1)' x=\"",
    "</title></pre></table><img src=https://example.org/x.png onerror=alert(1)>",
    "<!-- --><style>*{display:none}</style>",
    "$body ${title} {name} %s",
    "\u202egnp.exe \u0000 &lt;b&gt; &amp;",
)
VOID = {"meta", "link", "br", "img", "input"}


class _Page(HTMLParser):
    """The tags, attributes and text of a page; fails where tags are not nested."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def facts(records: tuple[Record, ...] | None = None) -> dict[str, Any]:
    store, manifest, every = built()
    records = every if records is None else records
    found: dict[str, Any] = {"name": manifest.name, "root_digest": "d" * 64, "sample": 1.0, "seconds": 75.0}
    found |= {"until": report.last_step(records), "versions": report.versions()}
    found["made"] = {"seconds": 75.0, "is_new": True, "notes": {}}
    tables = figures.figures(store, manifest, records)
    return found | {"tables": {name: table.to_pylist() for name, table in tables.items()}}


def page_of(value: dict[str, Any], manifest_text: str = "name: x\n") -> str:
    _, manifest, records = built()
    return report.render(value, manifest, manifest_text, records)


def is_harmless(page: str) -> _Page:
    parsed = _Page(page)
    assert parsed.tags.count("script") == parsed.tags.count("style") == parsed.tags.count("title") == 1
    assert "img" not in parsed.tags
    for name, value in parsed.attributes:
        assert not name.startswith("on"), (name, value)
        assert name not in ("src", "action", "background")
        assert name != "href" or value.startswith("#") or value == "data:,"
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page
    return parsed


@pytest.fixture
def copy(tmp_path: Path) -> Build:
    """The build of these tests, copied."""
    source, manifest, records = built()
    shutil.copytree(source.full(""), tmp_path / "out")
    build = Build(manifest, Store(str(tmp_path / "out")), Engine())
    build.records = list(records)
    return build


def write(build: Build, seconds: float) -> tuple[report.Told, dict[str, Any], str]:
    tables = figures.figures(build.store, build.manifest, build.records)
    told = report.write(build, build.records, tables, root_digest(build.records), seconds)
    page = Path(told.page).read_text(encoding="utf-8")
    return told, json.loads(Path(told.page).with_name("figures.json").read_text()), " ".join(is_harmless(page).text)


def test_write_puts_the_page_and_every_table_of_figures_beside_the_build(copy: Build) -> None:
    told, facts, text = write(copy, 12.5)
    assert told.page == copy.store.full("report/figures/index.html")
    folder = Path(told.page).parent
    expected = figures.figures(*built())
    assert {path.name for path in folder.iterdir()} == {
        "index.html",
        "figures.json",
        *(f"{name}.parquet" for name in expected),
    }
    assert (facts["root_digest"], facts["seconds"], facts["until"]) == (root_digest(copy.records), 12.5, "plan")
    for name, table in expected.items():
        assert pq.read_table(folder / f"{name}.parquet").to_pylist() == table.to_pylist() == facts["tables"][name]
    assert copy.manifest.text in text
    assert root_digest(copy.records) in text


def test_a_command_that_makes_nothing_keeps_the_time_and_the_rates_of_the_one_that_did(copy: Build) -> None:
    told, made, text = write(copy, 361.0)
    assert told.is_new
    assert "The last command took 6 min." in text
    told, again, text = write(copy, 5.0)
    assert not told.is_new
    assert again["made"] == made["made"] | {"is_new": False}
    assert again["tables"]["stages"] == made["tables"]["stages"]
    assert "The last command found everything up to date in 5.0 s; the last one that made something took 6 min." in text
    assert "last run that made something; found up to date in 5.0 s" in text
    in_all = duration(sum(row["seconds"] for row in made["tables"]["stages"]))
    assert f"the run that made each unit, {in_all} in all processes together" in text
    path = next(copy.store.files("timings/crawl"))
    copy.store.write_json(path, copy.store.read_json(path) | {"seconds": 99.0})
    told, later, text = write(copy, 20.0)
    assert told.is_new
    assert later["made"]["seconds"] == 20.0
    assert "The last command took 20 s." in text


def test_a_build_up_to_a_step_in_between_is_up_to_date_too(copy: Build) -> None:
    write(copy, 361.0)
    every = copy.records
    copy.records = [r for r in every if r.stage.role not in ROLES[2:]]
    assert not write(copy, 4.0)[0].is_new
    copy.records = every
    told, facts, _ = write(copy, 5.0)
    assert not told.is_new
    assert facts["made"]["seconds"] == 361.0


def test_the_page_shows_the_numbers_of_the_figures() -> None:
    value = facts()
    text = is_harmless(page_of(value)).text
    for row in value["tables"]["funnel"]:
        assert f"{row['documents']:,}" in text
    for row in value["tables"]["languages"]:
        assert row["language"] in text
        assert f"{row['tokens']:,}" in text
    assert "75.0 %" in " ".join(text).replace("\N{NO-BREAK SPACE}", " ")
    assert "1 min" in " ".join(text)


def test_the_items_of_benchmarks_that_are_hit_are_named_the_first_twenty() -> None:
    value = facts()
    (hit,) = value["tables"]["hits"]
    value["tables"]["hits"] = [hit | {"item": f"problem/{n}", "documents_hit": 1000 - n} for n in range(25)]
    text = is_harmless(page_of(value)).text
    assert [word for word in text if word.startswith("problem/")] == [f"problem/{n}" for n in range(20)]
    assert "The 20 items hit most, of 25; all stand in hits.parquet." in text


def test_what_is_empty_stands_at_the_top_of_the_page() -> None:
    value = facts()
    value["tables"]["gaps"] = [{"what": "split", "name": "validation", "reason": "there are <3> origins"}]
    assert "Empty: the split validation is empty" not in page_of(value)
    assert "The split validation is empty: there are <3> origins." in is_harmless(page_of(value)).text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_from_the_world_are_text_and_nothing_else(hostile: str) -> None:
    value = facts()
    tables = value["tables"]
    language = tables["languages"][0] | {"language": hostile, "kind": hostile}
    tables["languages"].insert(0, language)
    tables["evidence"].append({"language": hostile, "kind": hostile, "evidence": hostile, "documents": 3})
    tables["kinds"][0]["kind"] = tables["sources"][0]["source"] = tables["sources"][0]["reads"] = hostile
    tables["mixture"][0]["component"] = tables["contamination"][0]["benchmark"] = hostile
    tables["hits"][0]["item"] = tables["hits"][0]["benchmark"] = hostile
    tables["gaps"].append({"what": "component", "name": hostile, "reason": hostile})
    tables["redactions"].append({"source": hostile, "kind": hostile, "replaced": 1})
    tables["stages"][0]["pass"] = hostile
    tables["funnel"].insert(1, tables["funnel"][1] | {"outcome": hostile})
    value |= {"name": hostile, "versions": {hostile: hostile}}
    page = is_harmless(page_of(value, hostile))
    assert page.text.count(hostile) >= 10


@pytest.mark.parametrize("reached", range(len(ROLES)))
def test_a_build_that_stopped_early_has_a_page_that_says_so(reached: int) -> None:
    _, _, records = built()
    value = facts(tuple(r for r in records if r.stage.role not in ROLES[reached + 1 :]))
    page = is_harmless(page_of(value))
    step = ("crawl", "annotate", "judge", "deduplicate", "tokenize", "select", "plan")[reached]
    assert value["until"] == step
    assert any("stopped after" in text for text in page.text) == (step != "plan")
    assert ("Mixture" in page.text) == (reached >= 4)


def test_a_build_of_nothing_has_a_page() -> None:
    is_harmless(page_of(facts(())))


def test_a_sample_is_named_on_the_page() -> None:
    page = page_of(facts() | {"sample": 0.01})
    assert "1.0\N{NO-BREAK SPACE}%" in page
    assert "--sample" in page


def test_thousands_of_languages_do_not_make_a_page_that_nobody_can_open() -> None:
    value = facts()
    row = value["tables"]["languages"][0]
    value["tables"]["languages"] = [row | {"language": f"other:{i}"} for i in range(5000)]
    value["tables"]["evidence"] = [
        {"language": f"other:{i}", "kind": row["kind"], "evidence": "declared", "documents": 1} for i in range(5000)
    ]
    page = is_harmless(page_of(value))
    assert "other:999" in page.text
    assert "other:1000" not in page.text
    assert any("of 5,000" in text for text in page.text)


def test_the_bars_of_the_funnel_stay_inside_the_picture() -> None:
    page = page_of(facts())
    parsed = _Page(page)
    xs = [float(value) for name, value in parsed.attributes if name == "x"]
    widths = [float(value) for name, value in parsed.attributes if name == "width"]
    assert len(xs) == len(widths) > 20
    assert all(x >= 0 and x + w <= 1000.2 for x, w in zip(xs, widths, strict=True))
