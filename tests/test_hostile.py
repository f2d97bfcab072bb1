"""What is hostile is counted and stops no build (docs/trust.md), shown on one site with all of it."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests import hostile
from tests.sites import CHECKOUT, Site

pytestmark = pytest.mark.slow

MANIFEST: dict[str, Any] = {
    "name": "hostile",
    "seed": 7,
    "sources": [
        {"name": "code", "kind": "archives", "paths": ["in/archives", "in/long"]},
        {"name": "long", "kind": "archives", "paths": ["in/long"], "limits": {"max_file_bytes": 150_000_000}},
        {"name": "git", "kind": "git", "repositories": [{"url": "in/repository"}, {"url": "in/broken"}]},
        {"name": "pages", "kind": "warc", "paths": ["in/pages"], "limits": {"max_file_bytes": 8_000_000}},
        {"name": "rows", "kind": "tables", "paths": ["in/rows"], "columns": {"text": "text", "url": "url"}},
    ],
    "shards": {"text_bytes": 3_000_000, "row_group_bytes": 1_000_000},
    "languages": {"keep_other": {"YAML": "data", "Markdown": "prose", "Text": "prose", "unknown": "code"}},
    "rules": {
        "code": {"max_average_line": 10**9, "max_line": 10**9, "min_alpha_percent": 0, "data_max_chars": 10**9},
        "prose": {"min_words": 0, "max_words": 10**9, "max_mean_word_chars": 10**9},
        "page": {"min_words": 0, "max_words": 10**9, "max_mean_word_chars": 10**9},
    },
    "components": [
        {"name": "code", "kinds": ["code", "data"]},
        {"name": "web", "sources": ["pages"]},
        {"name": "language", "kinds": ["prose"]},
    ],
    "tokenizer": {"train": {"vocabulary": 1000, "sample_bytes": 60_000_000}, "bos": hostile.BOS},
    "fim": {"components": ["code"], "max_tokens": 1024},
    "mixture": {"weights": {"code": 6, "web": 1, "language": 3}},
    "plan": {"sequence_length": 1024},
}
"""The rules are open wide, so that what is hostile reaches the tokenizer and the plan as well."""

HANGS_AFTER = 300
"""Seconds: a guard against hangs, many times what a build of the site takes."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The hostile site, built with two workers."""
    folder = tmp_path_factory.mktemp("hostile")
    site = Site(folder, folder / "out")
    site.write(MANIFEST)
    site.expected = hostile.make(folder)
    site.built = build(site, "2")
    return site


def build(site, workers):
    command = site.command("--workers", workers)
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER, cwd=CHECKOUT)


def test_nothing_hostile_stops_a_build(site):
    assert site.built.returncode == 0, site.built.stderr[-3000:]
    assert "Traceback" not in site.built.stderr
    assert site.built.stdout.strip().splitlines()[-1].startswith("root digest ")


def test_every_hostile_item_is_a_document_or_a_reject_with_its_reason(site):
    found = Counter(rows_of(site.out, site.records("documents")))
    expected = Counter(site.expected)
    assert sorted((found - expected).elements()) == []
    assert sorted((expected - found).elements()) == []


def test_no_hostile_row_is_lost_in_any_stage(site):
    done = site.headrace("verify", str(site.out))
    assert done.returncode == 0, done.stderr
    assert f"rows offered {len(site.expected):,} = documents + rejects" in done.stdout
    assert "= samples + dropped by a first reason" in done.stdout
    assert "= planned + left out by selection" in done.stdout


def test_the_digest_of_hostile_input_is_the_same_with_one_worker(site, tmp_path):
    again = build(Site(site.folder, tmp_path / "out"), "1")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.splitlines()[-1] == site.built.stdout.splitlines()[-1]


def test_text_can_not_forge_a_control_token(site):
    (path,) = (site.out / "tokenizer").glob("*/tokenizer/tokenizer.json")
    ids = {token["content"]: token["id"] for token in json.loads(path.read_bytes())["added_tokens"]}
    eos, bos = ids[hostile.EOS], ids[hostile.BOS]
    sentinels = [ids[sentinel] for sentinel in hostile.SENTINELS]
    n_fim = 0
    for sample in samples(site):
        tokens = np.asarray(sample["tokens"])
        placed = tokens[np.isin(tokens, list(ids.values()))].tolist()
        assert placed == [bos, *(sentinels if sample["fim"] else ()), eos]
        assert (tokens[0], tokens[-1]) == (bos, eos)
        n_fim += sample["fim"]
    assert n_fim > 20


def test_every_sample_decodes_to_the_text_of_its_document(site):
    (path,) = (site.out / "tokenizer").glob("*/tokenizer/tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    ids = [tokenizer.token_to_id(sentinel) for sentinel in hostile.SENTINELS]
    text_of = {row["id"]: row["text"] for row in documents(site)}
    spelled = set()
    for sample in samples(site):
        if sample["redactions"] or sample["n_tokens"] > 1_000_000:
            continue
        tokens = sample["tokens"][1:-1]
        if sample["fim"]:
            hole, end = tokens.index(ids[1]), tokens.index(ids[2])
            parts = [tokens[1:hole], tokens[end + 1 :], tokens[hole + 1 : end]]
        else:
            parts = [tokens]
        text = "".join(tokenizer.decode(part, skip_special_tokens=False) for part in parts)
        assert text == text_of[sample["sample_id"]]
        spelled |= {token for token in hostile.SPECIALS[:5] if token in text}
    assert spelled == {hostile.EOS, hostile.BOS, *hostile.SENTINELS}


def samples(site):
    for path in (site.out / "tokens").glob("*/*.parquet"):
        yield from pq.read_table(path, columns=["sample_id", "tokens", "n_tokens", "fim", "redactions"]).to_pylist()


def documents(site):
    for path in (site.out / "documents").glob("*/*.parquet"):
        if not path.name.endswith((".rejects.parquet", ".origins.parquet")):
            yield from pq.read_table(path, columns=["id", "text"]).to_pylist()


def rows_of(folder: Path, records: Sequence[Path]) -> Iterator[hostile.Row]:
    """Every row that crawl units (by their records) have written, as what is expected."""
    for record in records:
        for file in json.loads(record.read_bytes())["files"]:
            if file["path"].endswith(".origins.parquet"):
                continue
            table = pq.read_table(folder / file["path"])
            outcomes = (
                table["reason"].to_pylist() if "reason" in table.column_names else [hostile.DOCUMENT] * len(table)
            )
            columns = (table["source"].to_pylist(), table["locator"].to_pylist(), table["path"].to_pylist())
            for source, locator, path, outcome in zip(*columns, outcomes, strict=True):
                yield hostile.Row(source, locator.partition("!")[0].partition("@")[0], path, outcome)
