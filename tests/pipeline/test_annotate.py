"""Annotate: each table has the rows of its shard, equal to plain calls document by document."""

import hashlib
import os
from typing import Any

import pyarrow as pa
import pytest

import languages
from filters import contamination, minhash, prose, rules
from filters.contamination import Benchmark
from filters.minhash import MinHashParameters
from pipeline import annotate
from pipeline.annotate import TABLES, Annotate, classify, find_contamination, measure, sign, signature_schema
from pipeline.crawl import document_id
from pipeline.manifest import Shards
from pipeline.records import Record, Stage, read_record
from pipeline.schemas import CONTAMINATION, DOCUMENTS, LANGUAGE
from pipeline.store import Store
from tests.inputs import package
from tests.pipeline.test_crawl import archives, crawled

PARAMETERS = MinHashParameters(permutations=64, bands=8)
BENCHMARK = "Print a message and newline to stdout or a file. This should be used instead"
INDEX = contamination.build_index([Benchmark("mine", "a", BENCHMARK)])
HTML = "<html><head><title>unseen</title></head><body><p>Some visible text &amp; more</p></body></html>"
STAGES = {name: Stage(name, "f" * 16, "code") for name in TABLES}


def documents(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Rows of documents, sorted by id; ``text`` is needed, the rest has defaults."""
    full = []
    for number, row in enumerate(rows):
        raw = row["text"].encode()
        row = {"form": "file", "source": "code", "origin": "a-1.0", "path": f"{number:06d}.py".encode()} | row
        row = {"revision": "", "locator": row["path"].decode("utf-8", "replace"), "declared_language": ""} | row
        sha = hashlib.sha256(raw).digest()
        row = {"id": document_id(row["source"], row["origin"], row["path"], sha)} | row
        row |= {"path_display": row["path"].decode("utf-8", "replace"), "raw_bytes": len(raw), "raw_sha256": sha}
        full.append(row | {"encoding": "utf-8", "text_bytes": len(raw)})
    return pa.RecordBatch.from_pylist(sorted(full, key=lambda row: row["id"]), DOCUMENTS)


@pytest.fixture(scope="module")
def real(tmp_path_factory: Any) -> Any:
    """A shard of real documents in several row groups, with its tables."""
    store = Store(str(tmp_path_factory.mktemp("annotate")))
    (record,) = crawled(store, archives(package("click", "8.1.7")), Shards(row_group_bytes=50_000))
    unit, path = record.files[0].path.rsplit("/", 1)[1].removesuffix(".parquet"), record.files[0].path
    store.write("index.bin", contamination.to_bytes(INDEX))
    specification = {
        "unit": unit,
        "path": path,
        "inputs": {name: {"documents": record.files[0].digest} for name in TABLES},
    }
    annotated(store, specification)
    table = store.read_table(path)
    return store, specification, table.combine_chunks().to_batches()[0]


def annotated(store: Store, specification: dict[str, Any]) -> int:
    work = Annotate(STAGES, PARAMETERS, "index.bin", "prose", store)
    work.setup()
    return work.run(specification)


def record_of(store: Store, specification: dict[str, Any], name: str) -> Record:
    record = read_record(store, STAGES[name], specification["unit"])
    assert record is not None
    return record


def table_of(store: Store, specification: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return list(store.read_table(record_of(store, specification, name).files[0].path).to_pylist())


def one(text: str) -> pa.LargeStringArray:
    return pa.array([text], pa.large_string())


def test_the_language_of_every_real_file_is_that_of_a_single_call(real: Any) -> None:
    store, specification, rows = real
    expected = []
    for path, text in zip(rows.column("path").to_pylist(), rows.column("text").to_pylist(), strict=True):
        v = languages.classify(path, text.encode())
        expected.append({"language": v.language, "kind": v.kind, "evidence": v.evidence, "confidence": v.confidence})
    assert table_of(store, specification, "language") == expected
    assert "Python" in {row["language"] for row in expected}


def test_the_measures_of_every_real_file_are_those_of_single_calls(real: Any) -> None:
    store, specification, rows = real
    expected = []
    verdicts = table_of(store, specification, "language")
    for text, verdict in zip(rows.column("text").to_pylist(), verdicts, strict=True):
        row = rules.measure(one(text)).to_pylist()[0] | {"visible_chars": 0}
        may_be_prose = verdict["kind"] == "prose" or verdict["language"].startswith("other:")
        words = prose.measure_prose(one(text)).to_pylist()[0]
        expected.append(row | {f"prose_{k}": v if may_be_prose else 0 for k, v in words.items()})
    assert table_of(store, specification, "measures") == expected


def test_the_signatures_of_every_real_file_are_those_of_single_calls(real: Any) -> None:
    store, specification, rows = real
    expected = []
    for text in rows.column("text").to_pylist():
        signed = minhash.sign(one(text), PARAMETERS)
        keys = minhash.band_keys(signed.signature, PARAMETERS)
        expected.append(
            {
                "n_words": int(signed.words[0]),
                "text_hash": hashlib.sha256(text.encode()).digest()[:16],
                "keys": b"".join(int(key).to_bytes(8, "little") for key in keys[0]),
                "sidecar": minhash.sidecar(signed.signature)[0].tobytes(),
            }
        )
    assert table_of(store, specification, "signatures") == expected


def test_the_contamination_of_every_real_file_is_that_of_single_calls(real: Any) -> None:
    store, specification, rows = real
    expected = []
    for text in rows.column("text").to_pylist():
        hits = contamination.hits(one(text), INDEX)
        expected.append({"n_hits": int(hits.hits[0]), "item": int(hits.item[0]), "word": int(hits.word[0])})
    assert table_of(store, specification, "contamination") == expected
    assert {row["item"] for row in expected} == {-1, 0}


def test_every_table_has_a_row_for_every_document(real: Any) -> None:
    store, specification, rows = real
    for name in TABLES:
        record = record_of(store, specification, name)
        assert record.files[0].rows == record.counts["rows"] == rows.num_rows


def test_annotating_gives_the_bytes_of_text_and_does_nothing_twice(real: Any) -> None:
    store, specification, rows = real
    before = {
        n: (record_of(store, specification, n), _changed_at(store, STAGES[n].file(specification["unit"])))
        for n in TABLES
    }
    assert annotated(store, specification) >= sum(rows.column("text_bytes").to_pylist())
    for name, (record, time) in before.items():
        assert record_of(store, specification, name) == record
        assert _changed_at(store, record.files[0].path) == time


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_table_is_made_alone_and_is_the_same(real: Any, name: Any) -> None:
    store, specification, _ = real
    before = {n: record_of(store, specification, n) for n in TABLES}
    store.remove(STAGES[name].record_path(specification["unit"]))
    store.remove(before[name].files[0].path)
    times = {n: _changed_at(store, r.files[0].path) for n, r in before.items() if n != name}
    annotated(store, specification)
    assert {n: record_of(store, specification, n) for n in TABLES} == before
    assert times == {n: _changed_at(store, r.files[0].path) for n, r in before.items() if n != name}


def _changed_at(store: Store, path: str) -> int:
    return os.stat(store.full(path)).st_mtime_ns


def test_language_and_measures_are_made_together_as_each_alone(real: Any) -> None:
    store, specification, _ = real
    before = {n: record_of(store, specification, n) for n in TABLES}
    for name in ("language", "measures"):
        store.remove(STAGES[name].record_path(specification["unit"]))
    annotated(store, specification)
    assert {n: record_of(store, specification, n) for n in TABLES} == before


def test_tables_do_not_depend_on_row_groups(real: Any, tmp_path: Any) -> None:
    store, specification, rows = real
    other = Store(str(tmp_path))
    written = other.write_table("d.parquet", DOCUMENTS, [rows])
    other.write("index.bin", contamination.to_bytes(INDEX))
    again = specification | {"path": written.path}
    annotated(other, again)
    for name in TABLES:
        assert record_of(other, again, name).digest == record_of(store, specification, name).digest


def test_a_damaged_shard_of_documents_is_a_fault_of_its_unit_and_not_of_the_disk(real: Any, tmp_path: Any) -> None:
    store, specification, _ = real
    other = Store(str(tmp_path))
    other.write("index.bin", store.read("index.bin"))
    data = bytearray(store.read(specification["path"]))
    data[len(data) // 3 : len(data) // 3 + 5000] = bytes(5000)
    other.write("d.parquet", bytes(data))
    with pytest.raises(OSError):  # noqa: PT011 - a StorageError, which blames the disk and stops the build, is none
        annotated(other, specification | {"path": "d.parquet"})


# Pure functions ---------------------------------------------------------------------------------------------------


def test_files_are_detected_pages_are_pages_and_rows_are_what_they_declare() -> None:
    batch = documents(
        [
            {"text": "import os\n", "path": b"a.py"},
            {"text": "page", "form": "page", "path": b"https://example.org/a.py"},
            {"text": "prose", "form": "record", "path": b"row/1"},
            {"text": "puts 1", "form": "record", "path": b"row/2", "declared_language": "Ruby"},
            {"text": "bonjour", "form": "record", "path": b"row/3", "declared_language": "fr"},
        ]
    )
    found = {
        path: (row["language"], row["kind"], row["evidence"])
        for path, row in zip(batch.column("path").to_pylist(), classify(batch, "data").to_pylist(), strict=True)
    }
    assert found == {
        b"a.py": ("Python", "code", "extension"),
        b"https://example.org/a.py": ("other:Web page", "page", "form"),
        b"row/1": ("other:Text", "data", "form"),
        b"row/2": ("Ruby", "code", "declared"),
        b"row/3": ("other:fr", "data", "declared"),
    }


def test_visible_text_is_counted_for_html_source_only() -> None:
    batch = documents(
        [
            {"text": HTML, "path": b"a.html"},
            {"text": HTML, "path": b"https://example.org/a.html", "form": "page"},
            {"text": "x = 1", "path": b"a.py"},
            {"text": HTML, "path": b"row/1", "form": "record", "declared_language": "HTML"},
        ]
    )
    visible = measure(batch, classify(batch, "prose")).column("visible_chars").to_pylist()
    assert dict(zip(batch.column("path").to_pylist(), visible, strict=True)) == {
        b"a.html": rules.visible_chars(HTML), b"https://example.org/a.html": 0, b"a.py": 0,
        b"row/1": rules.visible_chars(HTML),
    }  # fmt: skip
    assert rules.visible_chars(HTML) == len("Some visible text & more")


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_every_table_of_a_slice_is_the_slice_of_the_table(cut: Any) -> None:
    texts = ["def f():\n    return 1\n", "é\U0001f600 " * 30, HTML, "one two three four five six"]
    batch = documents([{"text": text, "path": f"{n}.html".encode()} for n, text in enumerate(texts)])
    language = classify(batch, "prose")
    part = batch.slice(cut)
    assert classify(part, "prose").equals(language.slice(cut))
    assert measure(part, language.slice(cut)).equals(measure(batch, language).slice(cut))
    assert sign(part, PARAMETERS).equals(sign(batch, PARAMETERS).slice(cut))
    assert find_contamination(part, INDEX).equals(find_contamination(batch, INDEX).slice(cut))


def test_tables_have_their_schemas_and_no_nulls() -> None:
    batch = documents([{"text": "x = 1\n"}])
    language = classify(batch, "prose")
    assert language.schema == LANGUAGE
    assert find_contamination(batch, INDEX).schema == CONTAMINATION
    assert sign(batch, PARAMETERS).schema == signature_schema(PARAMETERS)
    assert all(not f.nullable and f.type == pa.uint32() for f in measure(batch, language).schema)


def test_texts_that_differ_in_case_only_are_no_exact_duplicates_but_have_equal_keys() -> None:
    a, b = sign(
        documents([{"text": "one two three four five six"}, {"text": "One two three four five six"}]), PARAMETERS
    ).to_pylist()
    assert a["text_hash"] != b["text_hash"]
    assert a["keys"] == b["keys"]


def test_a_benchmark_line_is_found_with_its_place() -> None:
    batch = documents([{"text": f"before it {BENCHMARK}"}, {"text": "x"}])
    rows = find_contamination(batch, INDEX).to_pylist()
    assert sorted((row["item"], row["word"], row["n_hits"] > 0) for row in rows) == [(-1, 0, False), (0, 2, True)]


def test_every_table_names_what_decides_its_content() -> None:
    assert annotate.MODULES.keys() == annotate.LIBRARIES.keys() == set(TABLES)
    assert all(annotate.MODULES.values())
