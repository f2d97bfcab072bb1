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
from pipeline.records import Record
from pipeline.store import Store
from pipeline.verify import root_digest, write_index
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


def test_write_puts_the_page_and_every_table_of_figures_beside_the_build(tmp_path: Path) -> None:
    source, manifest, records = built()
    shutil.copytree(source.full(""), tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    digest = write_index(store, manifest.name, "", "# my <manifest>\n", records)
    where = report.write(Build(manifest, store, Engine()), records, digest, 12.5)
    assert where == str(tmp_path / "out/report/figures/index.html")
    folder = Path(where).parent
    expected = figures.figures(store, manifest, records)
    assert {path.name for path in folder.iterdir()} == {
        "index.html",
        "figures.json",
        *(f"{name}.parquet" for name in expected),
    }
    told = json.loads((folder / "figures.json").read_text())
    assert (told["root_digest"], told["seconds"], told["until"]) == (root_digest(records), 12.5, "plan")
    for name, table in expected.items():
        assert pq.read_table(folder / f"{name}.parquet").to_pylist() == table.to_pylist() == told["tables"][name]
    page = is_harmless(Path(where).read_text(encoding="utf-8"))
    assert "# my <manifest>\n" in page.text
    assert digest in page.text


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


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_from_the_world_are_text_and_nothing_else(hostile: str) -> None:
    value = facts()
    tables = value["tables"]
    language = tables["languages"][0] | {"language": hostile, "kind": hostile}
    tables["languages"].insert(0, language)
    tables["evidence"].append({"language": hostile, "kind": hostile, "evidence": hostile, "documents": 3})
    tables["kinds"][0]["kind"] = tables["sources"][0]["source"] = tables["sources"][0]["reads"] = hostile
    tables["mixture"][0]["component"] = tables["contamination"][0]["benchmark"] = hostile
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
