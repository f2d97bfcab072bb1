"""Crawl: what a unit offers becomes documents in the order of ids, or rejects with a reason; nothing is lost."""

import gzip
import hashlib
import io
import json
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import notebooks
from pipeline import schemas
from pipeline.archives import read_archive
from pipeline.crawl import FORMS, Crawl, document_id, read_body
from pipeline.found import Found, Limits
from pipeline.inputs import Lock, crawl_units
from pipeline.manifest import ArchiveSource, Shards, Source, TableSource, WarcSource
from pipeline.records import Record, Stage, read_record
from pipeline.store import Store
from pipeline.tables import TableColumns
from pipeline.verify import check
from tests.inputs import package, small_inputs

STAGE = Stage("documents", "f" * 16, "code")
PARTS = st.tuples(st.text(max_size=4), st.text(max_size=4), st.binary(max_size=4), st.binary(min_size=32, max_size=32))
NOTEBOOK = {
    "nbformat": 4,
    "metadata": {"kernelspec": {"language": "python"}},
    "cells": [
        {"cell_type": "markdown", "source": "# Title"},
        {"cell_type": "code", "source": "x = 1", "outputs": [{"text": "secret output"}]},
    ],
}
PAGE = b"<html><head><title>t</title></head><body><h1>Head</h1><pre>  code\n    deep</pre><script>no()</script></html>"


def archives(*paths: Path, **more: Any) -> ArchiveSource:
    return ArchiveSource(name="code", kind="archives", paths=tuple(map(str, paths)), **more)


def crawled(
    store: Store, source: Source, shards: Shards | None = None, quarantine: frozenset[str] = frozenset()
) -> list[Record]:
    """Crawl every unit of a source into ``store``; gives the records."""
    work = Crawl(source, shards or Shards(), quarantine, STAGE, store)
    work.setup()
    units = crawl_units(source, Lock(store))
    for unit in units:
        work.run(unit.as_json() | {"unit": unit.name, "size": unit.size, "source": source.name})
    records = [read_record(store, STAGE, unit.name) for unit in units]
    return [record for record in records if record is not None]


def documents_of(store: Store, record: Record) -> list[pa.Table]:
    """The shards of documents of a crawl unit."""
    return [store.read_table(file.path) for file in record.files[: len(record.counts["text_bytes"])]]


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


@pytest.fixture
def store(tmp_path: Any) -> Any:
    return Store(str(tmp_path / "out"))


# Ids --------------------------------------------------------------------------------------------------------------


def test_the_parts_of_an_id_do_not_run_into_each_other() -> None:
    sha = bytes(32)
    assert document_id("ab", "c", b"p", sha) != document_id("a", "bc", b"p", sha)
    assert document_id("a", "bc", b"d", sha) != document_id("a", "b", b"cd", sha)


@given(PARTS, PARTS)
def test_ids_are_equal_exactly_when_source_origin_path_and_content_are(a: Any, b: Any) -> None:
    assert (document_id(*a) == document_id(*b)) == (a == b)


@given(PARTS)
def test_an_id_is_blake2b_over_length_prefixed_parts(parts: Any) -> None:
    source, origin, path, sha = parts
    framed = b"".join(len(p).to_bytes(8, "little") + p for p in (source.encode(), origin.encode(), path, sha))
    assert document_id(*parts) == hashlib.blake2b(framed, digest_size=16).digest()


def test_an_origin_that_is_not_utf8_has_an_id_of_its_own() -> None:
    odd = b"caf\xe9-1.0".decode("utf-8", "surrogateescape")
    assert document_id("s", odd, b"p", bytes(32)) != document_id("s", "caf\ufffd-1.0", b"p", bytes(32))


# Bodies -----------------------------------------------------------------------------------------------------------


def found(path: bytes, raw: bytes) -> Found:
    return Found("origin", path, "locator", len(raw), raw)


def test_a_notebook_becomes_a_script_without_outputs() -> None:
    raw = json.dumps(NOTEBOOK).encode()
    body = read_body("file", found(b"a.ipynb", raw))
    assert (body.text, body.encoding, body.reason) == ("# %% [markdown]\n# # Title\n\n# %%\nx = 1\n", "notebook", None)
    assert body.text == notebooks.to_script(raw).text


def test_a_broken_notebook_is_a_reject_with_a_reason() -> None:
    assert read_body("file", found(b"a.ipynb", b"{")) == (None, "notebook", "notebook")


def test_a_page_becomes_text_with_its_code_as_drawn() -> None:
    body = read_body("page", found(b"https://example.org/", PAGE))
    assert body.encoding == "html"
    assert body.text is not None
    assert "  code\n    deep" in body.text
    assert "no()" not in body.text


def test_a_record_that_is_named_like_a_notebook_stays_as_it_is() -> None:
    assert read_body("record", found(b"a.ipynb", b"{}")).text == "{}"


@pytest.mark.parametrize(
    ("raw", "text", "encoding", "reason"),
    [
        (b"a\xc3\xa9", "aé", "utf-8", None),
        (b"\xef\xbb\xbfa", "a", "utf-8", None),
        (b"a\0b", None, "", "binary"),
    ],
)
def test_a_file_is_decoded_or_rejected(raw: Any, text: Any, encoding: Any, reason: Any) -> None:
    body = read_body("file", found(b"a.py", raw))
    assert (body.text, body.reason) == (text, reason)
    assert body.encoding == encoding or encoding == "utf-8"


# Units ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: Any) -> Any:
    """Two real wheels, cut into small shards."""
    store = Store(str(tmp_path_factory.mktemp("real")))
    wheels = package("click", "8.1.7"), package("robotframework", "7.5")
    return store, wheels, crawled(store, archives(*wheels), Shards(text_bytes=200_000, row_group_bytes=50_000))


def test_rows_offered_by_real_wheels_are_documents_and_rejects(real: Any) -> None:
    store, wheels, records = real
    for wheel, record in zip(wheels, records, strict=True):
        with wheel.open("rb") as stream:
            offered = list(read_archive(stream, wheel.name, Limits()))
        shards = documents_of(store, record)
        rejects = store.read_table(record.files[-2].path)
        counts = record.counts
        assert counts["offered"] == len(offered) == sum(s.num_rows for s in shards) + rejects.num_rows
        assert counts["documents"] == sum(s.num_rows for s in shards)
        assert counts["rejects"] == dict(sorted(Counter(rejects.column("reason").to_pylist()).items()))
        paths = [path for s in shards for path in s.column("path").to_pylist()] + rejects.column("path").to_pylist()
        assert sorted(paths) == sorted(f.path for f in offered)
        assert list(check(store, record)) == []


def test_every_document_leads_back_to_its_bytes(real: Any) -> None:
    store, wheels, records = real
    for wheel, record in zip(wheels, records, strict=True):
        with zipfile.ZipFile(wheel) as archive:
            for row in (row for shard in documents_of(store, record) for row in shard.to_pylist()):
                raw = archive.read(row["path"].decode())
                assert (row["raw_bytes"], row["raw_sha256"]) == (len(raw), hashlib.sha256(raw).digest())
                assert row["id"] == document_id("code", row["origin"], row["path"], row["raw_sha256"])
                assert (row["form"], row["source"], row["path_display"]) == ("file", "code", row["path"].decode())
                assert row["text_bytes"] == len(row["text"].encode())


def test_the_rows_of_a_shard_stand_in_the_order_of_ids(real: Any) -> None:
    store, _, records = real
    for shard in (shard for record in records for shard in documents_of(store, record)):
        ids = shard.column("id").to_pylist()
        assert ids == sorted(ids)


def test_a_shard_is_cut_when_it_reaches_its_size_of_text(real: Any) -> None:
    store, _, records = real
    assert any(len(record.counts["text_bytes"]) > 1 for record in records)
    for record in records:
        sizes = [int(sum(shard.column("text_bytes").to_pylist())) for shard in documents_of(store, record)]
        largest = [max(shard.column("text_bytes").to_pylist()) for shard in documents_of(store, record)]
        assert sizes == record.counts["text_bytes"]
        assert all(size >= 200_000 for size in sizes[:-1])
        assert all(size - last < 200_000 for size, last in zip(sizes, largest, strict=True))


def test_a_row_group_holds_its_size_of_text_or_one_document(real: Any) -> None:
    store, _, records = real
    for record in records:
        for file in record.files[: len(record.counts["text_bytes"])]:
            groups = [b.column("text_bytes").to_pylist() for b in store.batches(file.path, ["text_bytes"])]
            assert all(sum(group) <= 50_000 or len(group) == 1 for group in groups)
            assert all(sum(a) + b[0] > 50_000 for a, b in pairwise(groups))


def test_origins_hold_what_a_unit_found_of_each(real: Any) -> None:
    store, _, records = real
    for record in records:
        (row,) = store.read_table(record.files[-1].path).to_pylist()
        assert row["source"] == "code"
        assert (row["documents"], row["text_bytes"]) == (record.counts["documents"], sum(record.counts["text_bytes"]))


def test_the_revision_and_the_licence_of_a_real_release_are_those_that_it_tells(real: Any) -> None:
    store, _, records = real
    rows = [row for record in records for row in store.read_table(record.files[-1].path).to_pylist()]
    assert [(row["origin"], row["revision"], row["licence"]) for row in rows] == [
        ("click-8.1.7", "8.1.7", "BSD-3-Clause"),
        ("robotframework-7.5", "7.5", "Apache License 2.0"),
    ]
    for record, row in zip(records, rows, strict=True):
        for shard in documents_of(store, record):
            assert set(shard.column("revision").to_pylist()) == {row["revision"]}


def test_of_several_licences_of_a_release_that_of_the_shortest_path_counts_in_any_order(tmp_path: Any) -> None:
    told = {"PKG-INFO": b"License: MIT\n", "x-1.0.dist-info/METADATA": b"License: BSD\n"}
    other = {"a.py": b"x", "package.json": b'{"license": "ISC"}'}
    for number, names in enumerate((("x-1.0.zip", "x-1.0-py3-none-any.whl"), ("x-1.0-py3-none-any.whl", "x-1.0.zip"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = [zip_of(folder / name, files) for name, files in zip(names, (told, other), strict=True)]
        store = Store(str(folder / "out"))
        (record,) = crawled(store, archives(*paths, buckets=1))
        (row,) = store.read_table(record.files[-1].path).to_pylist()
        assert (row["origin"], row["revision"], row["licence"]) == ("x-1.0", "1.0", "MIT")


def test_a_release_that_tells_nothing_and_a_source_that_is_no_archive_have_no_licence(
    store: Any, tmp_path: Any
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "License: MIT", "id": "PKG-INFO"}\n')
    columns = TableColumns(text="text", id="id")
    rows = TableSource(name="rows", kind="tables", paths=(str(tmp_path / "rows.jsonl"),), columns=columns)
    silent = archives(zip_of(tmp_path / "a-1.0.zip", {"a.py": b"x", "vendor/package.json": b'{"license": "MIT"}'}))
    for source in (rows, silent):
        (record,) = crawled(store, source)
        assert store.read_table(record.files[-1].path).column("licence").to_pylist() == [None]


def test_equal_rows_that_nothing_names_have_one_id_wherever_they_stand(store: Any, tmp_path: Any) -> None:
    texts = ["same", "other", "same"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = TableSource(
        name="rows", kind="tables", paths=(str(tmp_path / "rows.jsonl"),), columns=TableColumns(text="text")
    )
    (record,) = crawled(store, source)
    (table,) = documents_of(store, record)
    assert set(table.column("path").to_pylist()) == {b""}
    assert set(table.column("path_display").to_pylist()) == {""}
    ids = {(row["text"], row["id"]) for row in table.to_pylist()}
    assert len(ids) == 2
    assert len(set(table.column("locator").to_pylist())) == 3


def test_a_version_that_is_not_utf8_is_valid_text_in_its_column(store: Any, tmp_path: Any) -> None:
    path = zip_of(tmp_path / b"a-1.0\xe9.zip".decode("utf-8", "surrogateescape"), {"a.py": b"x"})
    (record,) = crawled(store, archives(path))
    assert documents_of(store, record)[0].column("revision").to_pylist() == ["1.0\ufffd"]


def test_a_unit_crawled_again_is_the_same_record(real: Any, tmp_path: Any) -> None:
    _, wheels, records = real
    again = crawled(Store(str(tmp_path)), archives(*wheels), Shards(text_bytes=200_000, row_group_bytes=50_000))
    assert again == records


def test_where_shards_are_cut_changes_no_document(real: Any, tmp_path: Any) -> None:
    store, wheels, records = real
    whole = Store(str(tmp_path))
    single = crawled(whole, archives(*wheels))
    for one, many in zip(single, records, strict=True):
        (table,) = documents_of(whole, one)
        parts = pa.concat_tables(documents_of(store, many)).sort_by("id")
        assert table.to_pylist() == parts.to_pylist()


def test_a_unit_that_offers_only_rejects_has_no_shard_and_is_whole(store: Any, tmp_path: Any) -> None:
    (record,) = crawled(store, archives(zip_of(tmp_path / "a-1.0.zip", {"a.bin": b"\0\1", "../b": b"x"})))
    assert record.counts == {
        "offered": 2,
        "documents": 0,
        "text_bytes": [],
        "rejects": {"binary": 1, "path_traversal": 1},
    }
    assert [file.rows for file in record.files] == [2, 0]
    assert list(check(store, record)) == []


def test_a_reject_has_the_hash_of_its_bytes_where_they_were_read(store: Any, tmp_path: Any) -> None:
    files = {"a.bin": b"\0\1", "big.txt": b"x" * 2_000_000}
    (record,) = crawled(store, archives(zip_of(tmp_path / "a-1.0.zip", files)))
    rows = {row["path"]: row for row in store.read_table(record.files[-2].path).to_pylist()}
    assert rows[b"a.bin"]["raw_sha256"] == hashlib.sha256(b"\0\1").digest()
    assert (rows[b"big.txt"]["reason"], rows[b"big.txt"]["raw_sha256"]) == ("too_large", None)


def test_what_a_person_gave_up_on_is_left_out_by_its_hash(store: Any, tmp_path: Any) -> None:
    path = zip_of(tmp_path / "a-1.0.zip", {"a.py": b"hopeless", "b.py": b"fine"})
    quarantine = frozenset([hashlib.sha256(b"hopeless").hexdigest()])
    (record,) = crawled(store, archives(path), quarantine=quarantine)
    assert (record.counts["documents"], record.counts["rejects"]) == (1, {"quarantined": 1})
    assert documents_of(store, record)[0].column("text").to_pylist() == ["fine"]


def test_names_that_are_not_utf8_stay_bytes_with_a_display_beside(store: Any, tmp_path: Any) -> None:
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("a-1.0/caf\xe9.py")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"x = 1"))
    (tmp_path / "a-1.0.tar").write_bytes(data.getvalue())
    (record,) = crawled(store, archives(tmp_path / "a-1.0.tar"))
    (row,) = documents_of(store, record)[0].to_pylist()
    assert row["path"].endswith(b"caf\xe9.py")
    assert row["path_display"].endswith("caf\ufffd.py")


def test_a_bucket_of_several_files_is_one_unit(store: Any, tmp_path: Any) -> None:
    paths = [zip_of(tmp_path / f"{n}-1.0.zip", {f"{n}.py": n.encode()}) for n in "abc"]
    (record,) = crawled(store, archives(*paths, buckets=1))
    assert record.counts["documents"] == 3
    assert [row["origin"] for row in store.read_table(record.files[-1].path).to_pylist()] == ["a-1.0", "b-1.0", "c-1.0"]
    assert len(record.inputs) == 3


def test_real_pages_become_text_of_the_form_page(store: Any) -> None:
    source = WarcSource(name="pages", kind="warc", paths=(str(small_inputs() / "pages"),))
    (record,) = crawled(store, source)
    (table,) = documents_of(store, record)
    assert record.counts["documents"] == 60
    assert set(table.column("form").to_pylist()) == {"page"}
    assert set(table.column("encoding").to_pylist()) == {"html"}
    assert not any("<div" in text for text in table.column("text").to_pylist())
    assert all(path.startswith(b"https://") for path in table.column("path").to_pylist())


def test_real_rows_of_a_table_become_records_as_they_are(store: Any) -> None:
    path = small_inputs() / "prose" / "prose.jsonl.gz"
    columns = TableColumns(text="text", url="url", origin="work", language="language")
    (record,) = crawled(store, TableSource(name="prose", kind="tables", paths=(str(path),), columns=columns))
    (table,) = documents_of(store, record)
    expected = {row["url"]: row["text"] for row in map(json.loads, gzip.decompress(path.read_bytes()).splitlines())}
    assert {row["path"].decode(): row["text"] for row in table.to_pylist()} == expected
    assert set(table.column("form").to_pylist()) == {"record"}
    assert set(table.column("declared_language").to_pylist()) == {"en"}


def test_a_form_is_known_for_every_kind_of_source() -> None:
    assert FORMS.keys() == {"archives", "git", "warc", "tables"}
    assert set(FORMS.values()) <= {"file", "page", "thread", "record"}


def test_a_unit_that_fails_leaves_no_record(store: Any, tmp_path: Any, monkeypatch: Any) -> None:
    path = zip_of(tmp_path / "a-1.0.zip", {"a.py": b"x"})
    monkeypatch.setattr("pipeline.crawl.read_body", lambda form, found: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crawled(store, archives(path))
    assert list(store.files()) == []


def test_shards_have_the_schema_of_documents(real: Any) -> None:
    store, _, records = real
    assert documents_of(store, records[0])[0].schema == schemas.DOCUMENTS
