"""Judge: the first reason in one fixed order, by tables alone; equal ids settled over the whole build."""

import itertools
import json
import random
import tracemalloc
import uuid
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import contamination
from filters.contamination import Benchmark
from filters.minhash import MinHashParameters
from pipeline.annotate import TABLES, Annotate
from pipeline.judge import Shard, component_of, digest_of, effective_kind, judge, judge_shards, outcomes, repeated_rows
from pipeline.manifest import Component, Languages, Manifest
from pipeline.records import Record, Stage, read_record
from pipeline.schemas import CONTAMINATION, DOCUMENTS, DUPLICATES, LANGUAGE, VERDICTS
from pipeline.store import Store
from tests.pipeline.test_annotate import documents

PARAMETERS = MinHashParameters(permutations=64, bands=8)
BENCHMARK = "the answer to every question of life is fortytwo or something near it"
WORDS = "The history of the house that stands at the end of the road is told here and there with care. "
PARAGRAPH = "<p>\n" + "a" * 49 + "b\n" + "c" * 49 + "\n</p>\n"
DEFAULT: dict[str, Any] = {
    "name": "tiny",
    "sources": [{"name": "code", "kind": "archives", "paths": ["in"]}],
    "components": [{"name": "all"}],
    "tokenizer": {"train": {}},
    "languages": {"keep_other": {"YAML": "data", "Markdown": "prose"}},
}


def manifest_of(**changes: Any) -> Manifest:
    return Manifest.model_validate_json(json.dumps(DEFAULT | changes))


def shard_of(
    store: Store,
    rows: list[dict[str, Any]] | pa.RecordBatch,
    name: str = "a",
    source: str = "code",
    row_group: int = 1000,
) -> Shard:
    """A shard of documents with real tables, written into ``store``."""
    batch = rows if isinstance(rows, pa.RecordBatch) else documents([{"source": source} | row for row in rows])
    groups = [batch.slice(at, row_group) for at in range(0, batch.num_rows, row_group)]
    written = store.write_table(f"documents/{source}/{name}.parquet", DOCUMENTS, groups)
    if not store.exists("index.bin"):
        store.write("index.bin", contamination.to_bytes(contamination.build_index([Benchmark("b", "0", BENCHMARK)])))
    stages = {table: Stage(table, "f" * 16, source) for table in TABLES}
    inputs = {table: {"documents": written.digest} for table in TABLES}
    work = Annotate(stages, PARAMETERS, "index.bin", "prose", store)
    work.setup()
    work.run({"unit": name, "path": written.path, "inputs": inputs})
    records = {table: read_record(store, stage, name) for table, stage in stages.items()}
    tables = {table: record for table, record in records.items() if record is not None}
    size = sum(batch.column("text_bytes").to_pylist())
    return Shard(name, source, written.path, written.digest, batch.num_rows, size, tables)


def judged(store: Store, shards: list[Shard], manifest: Manifest | None = None) -> list[Record]:
    stages = {shard.source: Stage("verdicts", "f" * 16, shard.source) for shard in shards}
    return judge_shards(shards, stages, manifest or manifest_of(), store)


def reasons_of(store: Store, shard: Shard, record: Record) -> dict[str, str]:
    """Path to reason."""
    paths = store.read_table(shard.path, ["path"]).column("path").to_pylist()
    reasons = store.read_table(record.files[0].path).column("reason").to_pylist()
    return {path.decode(): reason for path, reason in zip(paths, reasons, strict=True)}


def reason(tmp_path_factory: Any, path: str, text: str, manifest: Manifest | None = None, **row: Any) -> str:
    """The verdict on one document, by the whole path from text to table."""
    store = Store(str(tmp_path_factory.mktemp("one")))
    shard = shard_of(store, [{"path": path.encode(), "text": text} | row])
    (record,) = judged(store, [shard], manifest)
    return reasons_of(store, shard, record)[path]


@pytest.fixture
def verdict(tmp_path_factory: Any) -> Any:
    return lambda *arguments, **more: reason(tmp_path_factory, *arguments, **more)


@pytest.fixture
def store(tmp_path: Any) -> Any:
    return Store(str(tmp_path))


# The published rules through the whole path -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("a.py", "x" * 1000 + "\n" + "y\n" * 100, ""),
        ("a.py", "x" * 1001 + "\n" + "y\n" * 100, "rule_1_lines"),
        ("a.py", ("x" * 100 + "\n") * 3, ""),
        ("a.py", ("x" * 100 + "\n") * 2 + "x" * 101, "rule_1_lines"),
        ("a.py", "ab\n1 2 \n", ""),
        ("a.py", "ab\n1 2 3\n", "rule_2_alphabetic"),
        ("a.py", "ä" * 3 + "1" * 9, ""),
        ("a.py", "ä" * 3 + "1" * 10, "rule_2_alphabetic"),
        ("a.py", "x" * 60 + "\n" + "x" * 25 + '<?xml version="1.0"?>\n', "rule_3_xml"),
        ("a.py", "x" * 60 + "\n" + "x" * 26 + '<?xml version="1.0"?>\n', ""),
        ("a.xsl", '<?xml version="1.0"?>\n<xsl:stylesheet version="1.0">\n</xsl:stylesheet>\n', ""),
        ("a.html", PARAGRAPH, ""),
        ("a.html", PARAGRAPH.replace("ab", "b"), "rule_4_html"),
        ("a.html", PARAGRAPH + "<!-- bcde -->\n" * 27 + " " * 12, ""),
        ("a.html", PARAGRAPH + "<!-- bcde -->\n" * 27 + " " * 13, "rule_4_html"),
        ("a.json", '"' + "a" * 48 + '"', ""),
        ("a.json", '"' + "a" * 47 + '"', "rule_5_data"),
        ("a.json", ("a" * 49 + "\n") * 100, ""),
        ("a.json", ("a" * 49 + "\n") * 100 + "a", "rule_5_data"),
        ("a.yaml", "a: " + "b" * 46 + "\n", ""),
        ("a.yaml", "a: " + "b" * 45 + "\n", "rule_5_data"),
        ("a.md", WORDS * 5, ""),
        ("a.md", WORDS, "prose_few_words"),
        ("a.md", "word " * 49 + "x" * 5000, "prose_word_length"),
    ],
)
def test_a_published_rule_drops_a_file_just_beyond_its_threshold(
    verdict: Any, path: Any, text: Any, expected: Any
) -> None:
    assert verdict(path, text) == expected


def test_line_rules_do_not_apply_to_prose_or_pages(verdict: Any) -> None:
    assert verdict("a.md", WORDS * 40) == ""
    assert verdict("https://example.org/", WORDS * 40, form="page") == ""
    assert verdict("https://example.org/", WORDS, form="page") == "page_few_words"


def test_an_other_language_goes_unless_the_manifest_keeps_it(verdict: Any) -> None:
    assert verdict("a.toml", 'a = "b"\n' * 9) == "language"
    keep = manifest_of(languages={"keep_other": {"TOML": "data"}})
    assert verdict("a.toml", 'a = "b"\n' * 9, keep) == ""


def test_a_language_that_the_manifest_drops_goes(verdict: Any) -> None:
    assert verdict("a.py", "x = one\n", manifest_of(languages={"drop": ["Python"]})) == "language"
    assert verdict("a.rb", "x = one\n", manifest_of(languages={"drop": ["Python"]})) == ""


def test_a_declared_language_that_the_manifest_drops_goes_too(verdict: Any) -> None:
    row = {"form": "record", "declared_language": "Python"}
    assert verdict("row/1", "x = one\n", manifest_of(languages={"drop": ["Python"]}), **row) == "language"


def test_a_document_with_a_benchmark_text_goes(verdict: Any) -> None:
    assert verdict("a.py", f"# {BENCHMARK}\n") == "contamination"


def test_a_document_that_no_component_wants_goes_as_unselected(verdict: Any) -> None:
    only_prose = manifest_of(components=[{"name": "text", "kinds": ["prose"]}])
    assert verdict("a.py", "x = one\n", only_prose) == "selection"
    assert verdict("a.md", WORDS * 5, only_prose) == ""


def test_the_first_reason_in_the_fixed_order_is_the_one_given(verdict: Any) -> None:
    """language, rules 1 to 5, contamination, selection; repeated is above all."""
    nothing = {"components": [{"name": "none", "sources": ["code"], "languages": ["Ruby"]}]}
    everything = f'<?xml version="1.0"?> {BENCHMARK} ' + "1" * 2000
    order = [
        (everything, {"languages": {"drop": ["Python", "XML"]}}, "language"),
        (everything, {}, "rule_1_lines"),
        (everything.replace("1" * 2000, "1\n" * 400), {}, "rule_2_alphabetic"),
        (f'<?xml version="1.0"?> {BENCHMARK}', {}, "rule_3_xml"),
        (BENCHMARK, {}, "contamination"),
        ("x = one", {}, "selection"),
    ]
    for text, changes, expected in order:
        assert verdict("a.py", text, manifest_of(**(nothing | changes))) == expected


def test_a_changed_threshold_judges_by_the_values_that_are_stored(store: Any) -> None:
    shard = shard_of(store, [{"path": b"a.py", "text": "x" * 300 + "\n" + "y\n" * 9}])
    store.remove(shard.path)
    store.write_table(shard.path, pa.schema([DOCUMENTS.field("id"), DOCUMENTS.field("form")]), [
        documents([{"path": b"a.py", "text": "x" * 300 + "\n" + "y\n" * 9}]).select(["id", "form"])
    ])  # fmt: skip
    strict = manifest_of(rules={"code": {"max_line": 299}})
    (record,) = judged(store, [shard], strict)
    assert store.read_table(record.files[0].path).column("reason").to_pylist() == ["rule_1_lines"]


def test_a_document_among_others_has_the_verdict_that_it_has_alone(store: Any) -> None:
    texts = ["x = one\n", "1 2 3\n", f"# {BENCHMARK}\n", "x" * 1001 + "\n", WORDS, WORDS * 5, '"' + "a" * 48 + '"']
    names = ["a.py", "a.rb", "a.md", "a.yaml", "a.toml", "a.json", "a.html", "a"]
    forms = [("file", ""), ("page", ""), ("record", "Python"), ("record", "")]
    cases = enumerate(itertools.product(texts, names, forms))
    rows = [
        {"path": f"{n}/{name}".encode(), "text": text, "form": form, "declared_language": declared}
        for n, (text, name, (form, declared)) in cases
    ]
    components = [{"name": "code", "kinds": ["code"]}, {"name": "text", "kinds": ["prose"]}]
    keep = {"drop": ["Ruby"], "keep_other": {"YAML": "data", "Markdown": "prose"}}
    manifest = manifest_of(languages=keep, components=components)
    shard = shard_of(store, rows)
    tables = {n: store.read_table(shard.tables[n].files[0].path) for n in ("language", "measures", "contamination")}
    column = store.read_table(shard.path, ["form"]).column("form")
    together = judge(**tables, forms=column, source="code", manifest=manifest).tolist()
    assert len(set(together)) >= 9
    for i, expected in enumerate(together):
        one = {name: table.slice(i, 1) for name, table in tables.items()} | {"forms": column.slice(i, 1)}
        assert judge(**one, source="code", manifest=manifest).tolist() == [expected]


def test_a_shard_without_documents_has_no_verdicts() -> None:
    language, measures, contamination = (s.empty_table() for s in (LANGUAGE, pa.schema([]), CONTAMINATION))
    assert not len(judge(language, measures, contamination, pa.chunked_array([], pa.string()), "code", manifest_of()))


# Kinds and components ---------------------------------------------------------------------------------------------


def language_table(names: list[str], kinds: list[str]) -> pa.RecordBatch:
    n = len(names)
    columns = [names, kinds, ["x"] * n, [0] * n]
    return pa.RecordBatch.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, LANGUAGE, strict=True)], schema=LANGUAGE
    )


def test_a_kept_other_language_has_the_kind_that_the_manifest_gives_it() -> None:
    language = language_table(["Python", "other:YAML", "other:TOML", "other:YAML"], ["code", "data", "data", "data"])
    forms = np.array(["file", "file", "file", "page"], object)
    kinds, is_kept = effective_kind(language, forms, Languages(keep_other={"YAML": "prose"}))
    assert kinds.tolist() == ["code", "prose", "data", "data"]
    assert is_kept.tolist() == [True, True, False, True]


def test_kinds_of_no_rows_are_none() -> None:
    kinds, is_kept = effective_kind(language_table([], []), np.array([], object), Languages())
    assert (len(kinds), len(is_kept)) == (0, 0)


COMPONENTS = [
    Component(name="c", languages=("C",), kinds=("code",)),
    Component(name="web", sources=("pages",)),
    Component(name="code", kinds=("code", "data")),
    Component(name="text", kinds=("prose",)),
]


@given(
    st.lists(
        st.tuples(st.sampled_from(["code", "data", "prose", "page"]), st.sampled_from(["C", "C++", "other:x"])),
        max_size=8,
    ),
    st.sampled_from(["code", "pages"]),
    st.permutations(COMPONENTS),
)
def test_a_document_is_of_the_first_component_whose_conditions_all_hold(
    rows: Any, source: Any, components: Any
) -> None:
    def first(kind: str, language: str) -> str:
        for c in components:
            holds = (c.kinds is None or kind in c.kinds) and (c.languages is None or language in c.languages)
            if holds and (c.sources is None or source in c.sources):
                return str(c.name)
        return ""

    kinds, languages = (np.array([row[i] for row in rows], object) for i in (0, 1))
    assert component_of(kinds, source, languages, components).tolist() == [first(*row) for row in rows]


# Repeated rows ----------------------------------------------------------------------------------------------------


def stub(store: Store, name: str, rows: list[tuple[bytes, str, str]], source: str = "code") -> Shard:
    """A shard with ids, revisions and locators only."""
    schema = pa.schema([DOCUMENTS.field(n) for n in ("id", "revision", "locator")])
    path = f"{source}-{name}.parquet"
    batch = pa.RecordBatch.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    written = store.write_table(path, schema, [batch])
    return Shard(name, source, path, written.digest, len(rows), 0, {})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab"), st.sampled_from("xy")), max_size=6), max_size=4
    ),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 2, 1 << 22]),
)
def test_of_equal_ids_the_least_revision_locator_shard_and_row_is_kept_in_any_order_of_shards(
    parts: Any, shuffler: Any, at_once: Any
) -> None:
    """Ids may begin alike; repeated ones are settled some at a time."""
    store = Store(f"memory://{uuid.uuid4().hex}")
    shards = [
        stub(store, str(n), sorted((bytes([i // 2]) * 8 + bytes([i]) * 8, r, loc) for i, r, loc in rows))
        for n, rows in enumerate(parts)
    ]
    entries = [
        (row["id"], row["revision"], row["locator"], f"code/{shard.name}", number)
        for shard in shards
        for number, row in enumerate(store.read_table(shard.path).to_pylist())
    ]
    kept = {min(e for e in entries if e[0] == i) for i in {e[0] for e in entries}}
    expected: dict[str, list[int]] = {}
    for entry in sorted(set(entries) - kept):
        expected.setdefault(entry[3], []).append(entry[4])
    for order in (shards, shuffler.sample(shards, len(shards))):
        with mock.patch("pipeline.judge._SETTLED_AT_ONCE", at_once):
            found = {name: rows.tolist() for name, rows in repeated_rows(order, store).items()}
        assert found == {name: sorted(rows) for name, rows in expected.items()}


def test_finding_repeats_holds_some_ten_bytes_a_document(store: Any) -> None:
    rng = np.random.default_rng(0)
    shards = [stub(store, str(n), [(rng.bytes(16), "", "") for _ in range(1000)]) for n in range(50)]
    repeated_rows(shards, store)
    tracemalloc.start()
    repeated_rows(shards, store)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 50_000 < 14


def test_a_document_that_stands_in_three_shards_is_kept_once_and_repeated_is_the_first_of_all_reasons(
    store: Any,
) -> None:
    rows = [{"path": b"a.py", "text": "1 2 3\n"}, {"path": b"b.py", "text": "x = one\n"}]
    shards = [shard_of(store, rows, name) for name in ("s1", "s2", "s0")]
    found = [reasons_of(store, s, r) for s, r in zip(shards, judged(store, shards), strict=True)]
    assert found == [
        {"a.py": "repeated", "b.py": "repeated"},
        {"a.py": "repeated", "b.py": "repeated"},
        {"a.py": "rule_2_alphabetic", "b.py": ""},
    ]


def test_verdicts_do_not_depend_on_the_order_of_shards(store: Any) -> None:
    texts = ["x = one\n", "1 2 3\n", BENCHMARK, WORDS]
    shards = [
        shard_of(store, [{"path": f"{(i + n) % 5}.py".encode(), "text": t} for i, t in enumerate(texts)], f"s{n}")
        for n in range(4)
    ]
    first = {record.unit: record for record in judged(store, shards)}
    for path in list(store.files("verdicts")):
        store.remove(path)
    shuffled = random.Random(1).sample(shards, 4)
    assert {record.unit: record for record in judged(store, shuffled)} == first


def test_a_new_shard_renews_only_the_verdicts_that_it_changes(store: Any) -> None:
    one = shard_of(store, [{"path": b"b.py", "text": "x = one\n"}], "s1")
    two = shard_of(store, [{"path": b"c.py", "text": "x = two\n"}], "s2")
    before = judged(store, [one, two])
    third = shard_of(store, [{"path": b"b.py", "text": "x = one\n"}], "s0")
    after = judged(store, [one, two, third])
    assert after[1] == before[1]
    assert after[0].inputs != before[0].inputs
    assert [r.counts["outcomes"] for r in after] == [{"repeated": 1}, {"": 1}, {"": 1}]


def test_a_build_without_repeats_has_none(store: Any) -> None:
    assert repeated_rows([], store) == {}
    assert repeated_rows([stub(store, "a", []), stub(store, "b", [(bytes(16), "", "")])], store) == {}


# Records and outcomes ---------------------------------------------------------------------------------------------


def test_a_record_counts_every_outcome_and_is_found_again(store: Any) -> None:
    shard = shard_of(
        store,
        [{"path": b"a.py", "text": "1 2\n"}, {"path": b"b.py", "text": "xy\n"}, {"path": b"c.py", "text": "yz\n"}],
    )
    (record,) = judged(store, [shard])
    assert record.counts == {"outcomes": {"": 2, "rule_2_alphabetic": 1}}
    assert record.files[0].rows == 3
    assert judged(store, [shard]) == [record]


def test_an_outcome_is_the_verdict_or_else_the_duplicate(store: Any) -> None:
    verdicts = store.write_table(
        "v", VERDICTS, [pa.RecordBatch.from_pylist([{"reason": r} for r in ("", "language", "")], VERDICTS)]
    )
    rows = [{"reason": r, "kept": None, "matches": 0} for r in ("near_duplicate", "", "")]
    duplicates = store.write_table("d", DUPLICATES, [pa.RecordBatch.from_pylist(rows, DUPLICATES)])
    assert outcomes(store, verdicts.path, duplicates.path).tolist() == ["near_duplicate", "language", ""]


def test_the_digest_of_several_units_sees_their_order_and_content(store: Any) -> None:
    shards = [shard_of(store, [{"path": p.encode(), "text": t}], p) for p, t in (("a.py", "xy\n"), ("b.py", "1 2\n"))]
    one, two = judged(store, shards)
    assert digest_of([one, two]) != digest_of([two, one]) != digest_of([one])
