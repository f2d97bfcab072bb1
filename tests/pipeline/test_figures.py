"""The figures of a small real build against a plain count over its tables, row by row."""

import json
import tempfile
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import figures
from pipeline.build import Build
from pipeline.engine import Engine
from pipeline.manifest import Manifest, load
from pipeline.records import Record
from pipeline.store import Store
from tests.inputs import small_inputs

ROLES = ("documents", "language", "verdicts", "duplicates", "tokens", "selection", "plan")
MANIFEST = """
name: figures
seed: 3
sources:
  - {name: packages, kind: archives, paths: [code/click-*, code/pythondata*, code/pybind11*]}
  - {name: pages, kind: warc, paths: [pages]}
  - {name: prose, kind: tables, paths: [prose], columns: {text: text, url: url}}
  - {name: nothing, kind: tables, paths: [nothing.jsonl], columns: {text: text}}
languages:
  drop: [Shell]
  keep_other: {YAML: data, Markdown: prose, reStructuredText: prose}
decontaminate:
  benchmarks:
    - {name: license, path: benchmark.jsonl, fields: [text]}
    - {name: <b>unheard</b>, path: unheard.txt}
components:
  - {name: code, kinds: [code, data]}
  - {name: web, kinds: [page]}
  - {name: prose-of-rows, sources: [prose]}
tokenizer:
  train: {vocabulary: 600, sample_bytes: 100000}
fim: {components: [code], max_tokens: 512}
split: {validation: 0.2, held_out: 0.2}
mixture:
  weights: {code: 3, web: 1}
  budget_tokens: 5000000
  max_tokens_per_origin: 60000
plan: {sequence_length: 1024}
"""


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="headrace-figures-")


def write_manifest(text: str = MANIFEST, name: str = "manifest.yaml") -> Path:
    """A manifest beside links to the small inputs."""
    folder = Path(_folder().name)
    for part in ("code", "pages", "prose"):
        if not (folder / part).exists():
            (folder / part).symlink_to(small_inputs() / part)
    (folder / "nothing.jsonl").write_text("")
    line = "Redistribution and use in source and binary forms, with or without modification, are permitted provided"
    (folder / "benchmark.jsonl").write_text(json.dumps({"text": line}) + "\n")
    (folder / "unheard.txt").write_text(
        "zebra quark lantern mongoose violet aardvark pumpkin tractor igloo banjo kettle"
    )
    (folder / name).write_text(text)
    return folder / name


def open_build(out: Path, manifest: Path) -> Build:
    return Build(load(str(manifest)), Store(str(out)), Engine(1, quiet=True), say=lambda line: None)


@cache
def built() -> tuple[Store, Manifest, tuple[Record, ...]]:
    """One build for all tests of this folder's reports; nobody may change it."""
    build = open_build(Path(_folder().name) / "out", write_manifest())
    return build.store, build.manifest, tuple(build.run())


@cache
def tables() -> dict[str, pa.Table]:
    return figures.figures(*built())


@cache
def plain_rows() -> tuple[dict[str, Any], ...]:
    """Every document as a dictionary of all that its tables say of it, read without any of the code under test."""
    store, manifest, records = built()
    by = {(r.stage.role, r.stage.source, r.unit): r.files[0].path for r in records}
    rows = []
    for record in records:
        if record.stage.role != "documents":
            continue
        for file in record.files[:-2]:
            key = (record.stage.source, file.path.split("/")[-1].removesuffix(".parquet"))
            columns = ["source", "form", "raw_bytes", "text_bytes"]
            documents = store.read_table(file.path, columns).to_pylist()
            told = {r: store.read_table(by[r, *key]).to_pylist() for r in ("language", "verdicts", "duplicates")}
            items = store.read_table(by["contamination", *key]).column("item").to_pylist()
            samples = iter(store.read_table(by["tokens", *key]).to_pylist())
            selection = iter(store.read_table(by["selection", *key]).column("reason").to_pylist())
            for i, row in enumerate(documents):
                row |= told["language"][i] | {"item": items[i]}
                other = str(row["language"]).removeprefix("other:")
                if row["form"] == "file" and other != row["language"] and other in manifest.languages.keep_other:
                    row["kind"] = manifest.languages.keep_other[other]
                row["outcome"] = told["verdicts"][i]["reason"] or told["duplicates"][i]["reason"]
                if not row["outcome"]:
                    row |= {"sample": next(samples), "left_out": next(selection)}
                rows.append(row)
            assert next(samples, None) is None
            assert next(selection, None) is None
    return tuple(rows)


def plain_rejects() -> list[dict[str, Any]]:
    store, _, records = built()
    return [
        row for r in records if r.stage.role == "documents" for row in store.read_table(r.files[-2].path).to_pylist()
    ]


def test_the_build_has_something_of_everything_that_is_counted() -> None:
    outcomes = Counter(row["outcome"] for row in plain_rows())
    assert {"", "language", "contamination", "selection", "exact_duplicate", "near_duplicate"} <= set(outcomes)
    assert plain_rejects()
    assert {row["left_out"] for row in plain_rows() if "left_out" in row} == {"", "origin_cap"}
    assert {row["sample"]["split"] for row in plain_rows() if "sample" in row} == {"train", "validation", "held_out"}


def test_the_funnel_is_a_plain_count_of_rows() -> None:
    rows, rejects = plain_rows(), plain_rejects()
    expected: dict[tuple[str, str], list[int | None]] = {}

    def add(stage: str, outcome: str, raw: int | None, text: int | None, tokens: int | None) -> None:
        entry = expected.setdefault((stage, outcome), [0, None, None, None])
        entry[0] = (entry[0] or 0) + 1
        for i, value in enumerate((raw, text, tokens), 1):
            if value is not None:
                entry[i] = (entry[i] or 0) + value

    for reject in rejects:
        add("offered", "", reject["size"], None, None)
        add("rejected", reject["reason"], reject["size"], None, None)
    for row in rows:
        add("offered", "", row["raw_bytes"], None, None)
        add("documents", "", row["raw_bytes"], row["text_bytes"], None)
        add("dropped" if row["outcome"] else "kept", row["outcome"], row["raw_bytes"], row["text_bytes"], None)
        if "sample" in row:
            n_bytes, tokens = row["sample"]["n_bytes"], len(row["sample"]["tokens"])
            add("samples", "", None, n_bytes, tokens)
            add("left_out" if row["left_out"] else "selected", row["left_out"], None, n_bytes, tokens)
            if not row["left_out"]:
                add("planned", "", None, None, tokens)
    found = {
        (row["stage"], row["outcome"]): [row[k] for k in ("documents", "raw_bytes", "text_bytes", "tokens")]
        for row in tables()["funnel"].to_pylist()
    }
    assert found == expected


def test_the_funnel_conserves_rows_bytes_and_tokens() -> None:
    total: dict[str, Counter[str]] = defaultdict(Counter)
    for row in tables()["funnel"].to_pylist():
        total[row["stage"]].update({k: row[k] or 0 for k in ("documents", "raw_bytes", "text_bytes", "tokens")})
    for whole, parts, what in (
        ("offered", ("rejected", "documents"), ("documents", "raw_bytes")),
        ("documents", ("dropped", "kept"), ("documents", "raw_bytes", "text_bytes")),
        ("kept", ("samples",), ("documents",)),
        ("samples", ("left_out", "selected"), ("documents", "text_bytes", "tokens")),
        ("selected", ("planned",), ("documents", "tokens")),
    ):
        for key in what:
            assert total[whole][key] == sum(total[part][key] for part in parts), (whole, key)


def test_the_funnel_stands_in_the_order_of_the_build() -> None:
    rows = tables()["funnel"].to_pylist()
    order = ["offered", "rejected", "documents", "dropped", "kept", "samples", "left_out", "selected", "planned"]
    assert list(dict.fromkeys(row["stage"] for row in rows)) == order
    dropped = [figures.DROPS.index(row["outcome"]) for row in rows if row["stage"] == "dropped"]
    assert dropped == sorted(dropped)


@pytest.mark.parametrize(("table", "keys"), [("languages", ("language", "kind")), ("kinds", ("kind",))])
def test_languages_and_kinds_are_plain_counts_of_rows(table: str, keys: tuple[str, ...]) -> None:
    expected: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for row in plain_rows():
        entry = expected[tuple(row[key] for key in keys)]
        entry.update({"documents": 1, "text_bytes": row["text_bytes"]})
        if row["outcome"] in ("exact_duplicate", "near_duplicate"):
            entry[row["outcome"] + "s"] += 1
        if "sample" in row:
            tokens = len(row["sample"]["tokens"])
            entry.update({"kept_documents": 1, "kept_bytes": row["text_bytes"], "tokens": tokens})
    found = tables()[table].to_pylist()
    assert len(found) == len(expected)
    for row in found:
        key = tuple(row.pop(key) for key in keys)
        assert {name: n for name, n in row.items() if n} == {name: n for name, n in expected[key].items() if n}, key


def test_evidence_is_a_plain_count_of_rows() -> None:
    expected = Counter((row["language"], row["kind"], row["evidence"]) for row in plain_rows())
    found = {(r["language"], r["kind"], r["evidence"]): r["documents"] for r in tables()["evidence"].to_pylist()}
    assert found == expected


def test_sources_stand_in_the_order_of_the_manifest_and_an_empty_one_counts_nothing() -> None:
    found = {row["source"]: row for row in tables()["sources"].to_pylist()}
    assert list(found) == ["packages", "pages", "prose", "nothing"]
    assert found["nothing"]["units"] == 1
    for name, row in found.items():
        mine = [r for r in plain_rows() if r["source"] == name]
        assert row["documents"] == len(mine)
        assert row["rejected"] == sum(r["source"] == name for r in plain_rejects())
        assert row["offered"] == row["documents"] + row["rejected"]
        assert row["text_bytes"] == sum(r["text_bytes"] for r in mine)
        assert row["tokens"] == sum(len(r["sample"]["tokens"]) for r in mine if "sample" in r)


def test_the_mixture_counts_what_is_selected_and_what_a_run_of_the_budget_sees() -> None:
    store, _, records = built()
    tokens: Counter[tuple[str, str]] = Counter()
    for row in plain_rows():
        if row.get("left_out") == "":
            tokens[row["sample"]["component"], row["sample"]["split"]] += len(row["sample"]["tokens"])
    plans = {r.unit: store.read_table(r.files[0].path) for r in records if r.stage.role == "plan"}
    all_train = sum(n for (_, split), n in tokens.items() if split == "train")
    found = tables()["mixture"].to_pylist()
    assert [row["component"] for row in found] == ["code", "web", "prose-of-rows"]
    assert [row["asked_share"] for row in found] == [0.75, 0.25, 0.0]
    assert sum(row["share"] for row in found) == pytest.approx(1)
    for row in found:
        name, trained = row["component"], row["train_tokens"]
        for split in figures.SPLITS:
            assert row[f"{split}_tokens"] == tokens[name, split]
        assert row["share"] == pytest.approx(trained / all_train)
        plan = plans.get(f"train-{name}")
        assert row["sequences"] == (plan.num_rows if plan else None)
        if trained:
            assert row["padding_share"] == pytest.approx(1 - trained / (1024 * row["sequences"]))
            assert row["passes"] == pytest.approx(row["asked_share"] * 5_000_000 / trained)


def test_each_benchmark_counts_its_items_and_the_documents_dropped_for_it() -> None:
    found = {row["benchmark"]: row for row in tables()["contamination"].to_pylist()}
    assert list(found) == ["<b>unheard</b>", "license"]
    assert found["<b>unheard</b>"] | {"benchmark": "", "items": 0} == dict.fromkeys(found["license"], 0) | {
        "benchmark": ""
    }
    dropped = [row for row in plain_rows() if row["outcome"] == "contamination"]
    assert found["license"]["documents_dropped"] == len(dropped)
    assert found["license"]["bytes_dropped"] == sum(row["text_bytes"] for row in dropped)
    assert found["license"]["documents_hit"] == sum(row["item"] >= 0 for row in plain_rows())
    assert (found["license"]["items"], found["license"]["items_hit"]) == (1, 1)


def test_each_item_hit_is_named_with_the_documents_that_share_words_with_it() -> None:
    hit = [row for row in plain_rows() if row["item"] >= 0]
    dropped = [row for row in hit if row["outcome"] == "contamination"]
    assert tables()["hits"].to_pylist() == [
        {
            "benchmark": "license",
            "item": "0",
            "documents_hit": len(hit),
            "documents_dropped": len(dropped),
            "bytes_dropped": sum(row["text_bytes"] for row in dropped),
        }
    ]


def test_a_build_without_gaps_names_none() -> None:
    assert tables()["gaps"].num_rows == 0


def test_redactions_of_all_kinds_are_those_of_all_samples() -> None:
    expected = sum(row["sample"]["redactions"] for row in plain_rows() if "sample" in row)
    found = tables()["redactions"].to_pylist()
    assert sum(row["replaced"] for row in found) == expected
    assert {row["kind"] for row in found} == {"EMAIL", "IP_ADDRESS", "KEY"}


@pytest.mark.parametrize("reached", range(len(ROLES)))
def test_a_build_that_stopped_early_has_the_figures_of_what_it_reached(reached: int) -> None:
    store, manifest, records = built()
    later = set(ROLES[reached + 1 :])
    some = [r for r in records if r.stage.role not in later]
    found = figures.figures(store, manifest, some)
    stages = {row["stage"] for row in found["funnel"].to_pylist()}
    wanted = {"offered", "rejected", "documents"}
    wanted |= {"dropped", "kept"} if reached >= 2 else set()
    wanted |= {"samples"} if reached >= 4 else set()
    wanted |= {"left_out", "selected"} if reached >= 5 else set()
    wanted |= {"planned"} if reached >= 6 else set()
    assert stages == wanted
    assert bool(found["languages"].num_rows) == (reached >= 1)
    for name, first in (("documents", 0), ("kept_bytes", 2), ("near_duplicates", 3), ("tokens", 4)):
        assert (found["sources"].column(name).null_count == 0) == (reached >= first)


def test_no_units_at_all_give_figures_of_nothing() -> None:
    store, manifest, _ = built()
    found = figures.figures(store, manifest, [])
    assert [row["documents"] for row in found["funnel"].to_pylist()] == [0, 0]
    assert {row["documents"] for row in found["sources"].to_pylist()} == {0}


def test_a_table_with_other_rows_than_its_shard_is_an_error() -> None:
    store, manifest, records = built()
    shards = [r for r in records if r.stage.role == "language"]
    big, small = max(shards, key=lambda r: r.files[0].rows), min(shards, key=lambda r: r.files[0].rows)
    swapped = [Record(r.stage, r.unit, r.inputs, small.files, r.counts) if r is big else r for r in records]
    with pytest.raises(AssertionError, match="rows expected"):
        figures.count(store, manifest.languages, swapped)


COUNTED = st.fixed_dictionaries(
    {
        "language": st.sampled_from(["C", "Go", "other:<x>", None]),
        "kind": st.sampled_from(["code", "prose"]),
        "outcome": st.sampled_from(["", "near_duplicate", "exact_duplicate", "language", None]),
        "documents": st.integers(0, 1 << 40),
        "text_bytes": st.integers(0, 1 << 40),
        "tokens": st.integers(0, 1 << 40),
    }
)


@given(st.lists(COUNTED, max_size=12))
def test_sums_by_language_are_plain_sums(rows: list[dict[str, Any]]) -> None:
    found = figures.languages(pa.Table.from_pylist(rows, figures.COUNTS)).to_pylist()
    expected: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["language"] is not None:
            entry = expected[row["language"], row["kind"]]
            entry.update({key: row[key] for key in ("documents", "text_bytes", "tokens")})
            kept = row["outcome"] == ""
            entry.update({"kept_documents": row["documents"] * kept, "kept_bytes": row["text_bytes"] * kept})
            for name in ("exact_duplicate", "near_duplicate"):
                entry[f"{name}s"] += row["documents"] * (row["outcome"] == name)
    assert {(row.pop("language"), row.pop("kind")): row for row in found} == dict(expected)
    order = [(-row["kept_bytes"], -row["text_bytes"]) for row in found]
    assert order == sorted(order)
