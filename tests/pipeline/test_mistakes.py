"""What a manifest's author is told of typical mistakes: one line each, with file, line, key and what to write."""

import json
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest import ManifestError, parse

MANIFEST = """\
name: tiny
seed: 1
sources:
  - name: packages
    kind: archives
    paths: [in]
  - {name: prose, kind: tables, paths: [rows.jsonl], columns: {text: body}}
languages:
  keep_other: {YAML: data}
rules:
  code: {max_line: 1000}
decontaminate:
  benchmarks: [{name: mine, path: tests.jsonl, fields: [prompt]}]
components:
  - {name: code, kinds: [code, data]}
  - {name: language, kinds: [prose, page]}
tokenizer:
  train: {vocabulary: 1000}
fim: {components: [code], max_tokens: 4096}
split: {validation: 0.01}
mixture:
  weights:
    code: 0.7
    language: 0.3
plan: {sequence_length: 4096}
"""


def said(old: str, new: str) -> list[str]:
    """What is said, line by line, of the manifest with a part that is written otherwise."""
    assert MANIFEST.count(old) == 1
    with pytest.raises(ManifestError) as caught:
        parse(MANIFEST.replace(old, new), "m.yaml")
    return str(caught.value).splitlines()


def test_the_manifest_of_these_tests_is_right() -> None:
    assert parse(MANIFEST, "m.yaml").name == "tiny"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("components:\n", "component:\n", "m.yaml:14: component: unknown key; did you mean 'components'?"),
        ("seed: 1", "seed: 1\nseeds: 3", "m.yaml:3: seeds: unknown key; did you mean 'seed'?"),
        ("max_line", "max_lines", "m.yaml:11: rules.code.max_lines: unknown key; did you mean 'max_line'?"),
        ("    paths: [in]", "    path: [in]", "m.yaml:6: sources.0.path: unknown key; did you mean 'paths'?"),
        ("{text: body}", "{txt: body}", "m.yaml:7: sources.1.columns.txt: unknown key; did you mean 'text'?"),
        (
            "    paths: [in]",
            "    paths: [in]\n    columns: {text: a}",
            "m.yaml:7: sources.0.columns: unknown key; sources of kind tables have it, one of kind archives has name, "
            "limits, kind, paths, buckets",
        ),
        ("kind: tables", "kind: table", "m.yaml:7: sources.1.kind: unknown kind 'table'; did you mean 'tables'?"),
        (
            "    kind: archives\n",
            "",
            "m.yaml:4: sources.0.kind: the source's kind is missing (archives, git, warc, tables)",
        ),
        (", columns: {text: body}", "", "m.yaml:7: sources.1.columns: this key is missing"),
        ("paths: [in]", "paths: in", "m.yaml:6: sources.0.paths: a list was expected, got 'in'; write [in]"),
        ("paths: [in]", "paths: []", "m.yaml:6: sources.0.paths: the list is empty; at least 1 is needed"),
        (
            "kind: archives\n    paths: [in]",
            "kind: git\n    repositories: [../x]",
            "m.yaml:6: sources.0.repositories.0: keys with values were expected, got '../x'; its keys: url, ref",
        ),
        (
            "kind: archives\n    paths: [in]",
            "kind: git\n    repositories: [{url: 'git@example.org:team/tool.git'}]",
            "m.yaml:6: sources.0.repositories.0.url: a local path or an https URL was expected, got "
            "'git@example.org:team/tool.git'",
        ),
        (
            "name: tiny",
            "name: My Corpus",
            "m.yaml:1: name: at most 64 of a-z, 0-9, - and _ were expected, a letter or digit first, got 'My Corpus'; "
            "write my-corpus",
        ),
        ("name: tiny", "name: 42", "m.yaml:1: name: a text was expected, got 42; put it in quotes"),
        (
            "name: language,",
            "name: no,",
            "m.yaml:16: components.1.name: a text was expected, got false; YAML reads yes, no, on and off so: put it "
            "in quotes",
        ),
        ("seed: 1", "seed: many", "m.yaml:2: seed: a whole number was expected, got 'many'"),
        ("seed: 1", "seed: -1", "m.yaml:2: seed: at least 0 was expected, got -1"),
        ("validation: 0.01", "validation: 20", "m.yaml:20: split.validation: at most 1 was expected, got 20"),
        ("validation: 0.01", "validation: 1%", "m.yaml:20: split.validation: a number was expected, got '1%'"),
        (
            "validation: 0.01",
            "validation: 0.5, held_out: 0.45",
            "m.yaml:20: split: validation and held_out leave under 10 % to train on",
        ),
        (
            "language: 0.3",
            "language: 0",
            "m.yaml:24: mixture.weights.language: a number above 0 was expected, got 0",
        ),
        (
            "language: 0.3",
            "language: .inf",
            "m.yaml:24: mixture.weights.language: a number was expected, got Infinity",
        ),
        (
            "language: 0.3",
            "language:",
            "m.yaml:24: mixture.weights.language: a number was expected, got nothing",
        ),
        (
            "    language: 0.3",
            "    langauge: 0.3",
            "m.yaml:24: mixture.weights.langauge: there is no component 'langauge'; did you mean 'language'?",
        ),
        (
            "fim: {components: [code]",
            "fim: {components: [code, web]",
            "m.yaml:19: fim.components.1: there is no component 'web'; valid: code, language",
        ),
        (
            "sequence_length: 4096",
            "sequence_length: 2048",
            "m.yaml:19: fim.max_tokens: 4096 is above plan.sequence_length 2048: a sample with FIM is never cut, so "
            "lower fim.max_tokens or plan longer sequences",
        ),
        (
            "kinds: [prose, page]",
            "sources: [packages, proze]",
            "m.yaml:16: components.1.sources.1: there is no source 'proze'; did you mean 'prose'?",
        ),
        (
            "kinds: [prose, page]",
            "kinds: [prose, pages]",
            "m.yaml:16: components.1.kinds.1: 'code', 'prose', 'page' or 'data' was expected, got 'pages'; did you "
            "mean 'page'?",
        ),
        (
            "kinds: [prose, page]",
            "languages: [Pyton]",
            "m.yaml:16: components.1.languages.0: there is no language 'Pyton'; did you mean 'Python'?",
        ),
        (
            "kinds: [prose, page]",
            "languages: [YAML]",
            "m.yaml:16: components.1.languages.0: there is no language 'YAML'; did you mean 'other:YAML'?",
        ),
        (
            "keep_other: {YAML: data}",
            "keep_other: {yaml: data}",
            "m.yaml:9: languages.keep_other.yaml: there is no language 'yaml'; did you mean 'YAML'?",
        ),
        (
            "keep_other: {YAML: data}",
            "keep_other: {Python: code}",
            "m.yaml:9: languages.keep_other.Python: 'Python' is one of the 338, which are kept; leave it out",
        ),
        (
            "keep_other: {YAML: data}",
            "drop: [C, YAML]",
            "m.yaml:9: languages.drop.1: 'YAML' is not one of the 338, and dropped unless keep_other has it",
        ),
        (
            "keep_other: {YAML: data}",
            "drop: [Pyhton]",
            "m.yaml:9: languages.drop.0: there is no language 'Pyhton'; did you mean 'Python'?",
        ),
        (
            "name: prose,",
            "name: packages,",
            "m.yaml:7: sources.1.name: two sources are named 'packages'; a name stands once",
        ),
        (
            "tokenizer:\n  train: {vocabulary: 1000}",
            "tokenizer: tokenizer.json",
            "m.yaml:17: tokenizer: keys with values were expected, got 'tokenizer.json'; its keys: path, train, add, "
            "eos, bos",
        ),
        (
            "train: {vocabulary: 1000}",
            "eos: x",
            "m.yaml:17: tokenizer: give either path (a tokenizer.json) or train, and not both",
        ),
        ("seed: 1", "redact: false", "m.yaml:2: redact: keys with values were expected, got false; its keys: enabled"),
        ("seed: 1", "seed: 1\nseed: 2", "m.yaml:3: the key 'seed' stands twice"),
        ("language: 0.3", "2024-01-01: 0.3", "m.yaml:24: the key 2024-01-01 is a date; put it in quotes"),
        ("  keep_other", "\tkeep_other", "m.yaml:9: not valid YAML: the line begins with a tab; indent with spaces"),
        ("seed: 1", "seed:1", "m.yaml:2: not valid YAML: a key, a colon and a space were expected"),
        ("[in]", "[*.whl]", "m.yaml:6: not valid YAML: what begins with * must stand in quotes"),
        (
            "[in]",
            "[in",
            "m.yaml:7: not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence that begins on "
            "line 6)",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_where_it_is_and_what_to_write(old: str, new: str, expected: str) -> None:
    assert said(old, new) == [expected]


def test_every_mistake_is_told_in_one_message_in_the_order_of_the_file() -> None:
    text = MANIFEST.replace("seed: 1", "seed: many").replace("    paths: [in]", "    paths: in")
    text = text.replace("vocabulary: 1000", "vocabulary: 32") + "planet: {}\n"
    with pytest.raises(ManifestError) as caught:
        parse(text, "m.yaml")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["2", "6", "18", "26"]


def test_every_name_that_is_wrong_is_told() -> None:
    text = MANIFEST.replace("    code: 0.7", "    coed: 0.7").replace("[code], max", "[cod], max")
    with pytest.raises(ManifestError) as caught:
        parse(text.replace("drop: []", ""), "m.yaml")
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "fim.components.0",
        "mixture.weights.coed",
    ]


def test_a_source_of_one_kind_with_the_keys_of_another_is_told_both_sides() -> None:
    assert said("    kind: archives", "    kind: git") == [
        "m.yaml:4: sources.0.repositories: this key is missing",
        "m.yaml:6: sources.0.paths: unknown key; sources of kind archives and warc and tables have it, one of kind git "
        "has name, limits, kind, repositories, buckets",
    ]


def test_a_key_that_stands_there_already_is_not_what_an_unknown_one_means() -> None:
    assert said("path: tests", "file: tests") == [
        "m.yaml:13: decontaminate.benchmarks.0.path: this key is missing",
        "m.yaml:13: decontaminate.benchmarks.0.file: unknown key; valid: fields, id, name, path",
    ]


def test_a_component_may_have_the_name_of_a_kind_of_sources() -> None:
    found = said("    language: 0.3", "    git: -1")
    assert found == ["m.yaml:24: mixture.weights.git: a number above 0 was expected, got -1"]


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(deeper for key, child in entries for deeper in _places(child, (*place, key)))]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(place=st.sampled_from(_places(yaml.safe_load(MANIFEST))[1:]), value=ANY, is_new=st.booleans())
def test_whatever_stands_anywhere_is_taken_or_told_never_a_crash(place: Any, value: Any, is_new: bool) -> None:
    whole = yaml.safe_load(MANIFEST)
    parent = whole
    for part in place[:-1]:
        parent = parent[part]
    if is_new and isinstance(parent, dict):
        parent[f"{place[-1]}x"] = value
    else:
        parent[place[-1]] = value
    with suppress(ManifestError):
        parse(json.dumps(whole), "m.yaml")
