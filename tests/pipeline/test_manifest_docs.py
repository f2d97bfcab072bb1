"""The page of every key is that of the models."""

from pathlib import Path

from pipeline import manifest_docs

PAGE = Path(manifest_docs.__file__).resolve().parent.parent / "docs" / "manifest.md"


def rows() -> dict[str, list[str]]:
    lines = [line.split(" | ") for line in manifest_docs.document().splitlines() if line.startswith("| `")]
    return {cells[0].strip("|` "): [cell.strip(" |") for cell in cells[1:]] for cells in lines}


def test_the_committed_page_is_made_from_the_models() -> None:
    assert PAGE.read_text(encoding="utf-8") == manifest_docs.document(), (
        "python -m pipeline.manifest_docs > docs/manifest.md"
    )


def test_every_key_has_a_meaning() -> None:
    assert [key for key, (_, _, meaning) in rows().items() if not meaning] == []


def test_a_key_tells_its_type_bounds_default_and_the_kinds_of_sources_that_have_it() -> None:
    found = rows()
    assert found["name"][:2] == ["text", "**needed**"]
    assert found["rules.code.min_alpha_percent"][:2] == ["whole number from 0 to 100", "`25`"]
    assert found["mixture.weights"][:2] == ["names, each with: number above 0", "none"]
    assert found["sources[].rows_are"][:2] == ["`code`, `prose`, `page`, `data`", "`prose`"]
    assert found["sources[].buckets"][2].endswith("(archives, git)")
    assert found["sources[].kind"][2].startswith("`archives`: tar, zip")
    assert found["rules.page"][2] == "of web pages; keys as in `rules.prose`"
    assert "rules.page.min_words" not in found
