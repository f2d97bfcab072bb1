"""Verify: damage is found, rows are conserved, the root digest sees content alone, and gc takes what no build uses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs import LOCK
from pipeline.lease import LEASE
from pipeline.records import Record, Stage, commit
from pipeline.schemas import VERDICTS
from pipeline.store import Store, Written
from pipeline.verify import (
    Damage,
    DamageError,
    builds,
    check,
    conservation,
    read_index,
    records_of,
    root_digest,
    set_aside,
    unused,
    write_index,
)
from tests.pipeline.test_store import batch_of


def record_of(role: str, rows: list[int], counts: dict[str, Any], unit: str = "u", source: str = "code") -> Record:
    stage = Stage(role, "f" * 16, source)
    files = tuple(Written(stage.file(f"{unit}-{i}"), n, f"digest{i}", 10, "sha") for i, n in enumerate(rows))
    return Record(stage, unit, {"documents": "d"}, files, counts)


def sound() -> dict[str, Record]:
    """Records of a build in which every row is accounted for."""
    documents = {"offered": 12, "documents": 10, "text_bytes": [7], "rejects": {"binary": 2}}
    return {
        "documents": record_of("documents", [10, 2, 1], documents),
        **{r: record_of(r, [10], {"rows": 10}) for r in ("language", "measures", "signatures", "contamination")},
        "verdicts": record_of("verdicts", [10], {"outcomes": {"": 7, "language": 2, "repeated": 1}}),
        "duplicates": record_of("duplicates", [10], {"duplicates": {"exact_duplicate": 1, "near_duplicate": 1}}),
        "tokens": record_of("tokens", [5], {"tokens": 500}),
        "selection": record_of("selection", [5], {"dropped": 1, "dropped_tokens": 50}),
        "plan": record_of("plan", [3], {"tokens": 450, "sequences": 3}, "train-code"),
        "shards": record_of("plan", [1], {"shards": 1}, "shards"),
    }


# Conservation -----------------------------------------------------------------------------------------------------


def test_a_build_that_lost_nothing_says_so_stage_by_stage() -> None:
    said = conservation(list(sound().values()))
    assert said[0] == "rows offered 12 = documents + rejects"
    assert "documents 10 = samples + dropped by a first reason" in said
    assert said[-1] == "tokens 500 = planned + left out by selection"
    assert len(said) == 10


DOCTORED: list[tuple[str, Callable[[Record], Record], str]] = [
    (
        "documents",
        lambda r: replace(r, counts={**r.counts, "offered": 13}),
        "rows offered 13 is not documents . rejects 12",
    ),
    ("documents", lambda r: replace(r, counts={**r.counts, "rejects": {"binary": 1}}), "rows offered 12 is not"),
    *(
        (role, lambda r: replace(r, files=(replace(r.files[0], rows=9),)), f"documents 10 is not rows of {role} 9")
        for role in ("language", "measures", "signatures", "contamination", "verdicts", "duplicates")
    ),
    ("verdicts", lambda r: replace(r, counts={"outcomes": {"": 7, "language": 2}}), "documents 10 is not samples"),
    ("duplicates", lambda r: replace(r, counts={"duplicates": {}}), "documents 10 is not samples . dropped.* 8"),
    (
        "tokens",
        lambda r: replace(r, files=(replace(r.files[0], rows=6),)),
        "documents 10 is not samples . dropped.* 11",
    ),
    ("tokens", lambda r: replace(r, counts={"tokens": 501}), "tokens 501 is not planned . left out by selection 500"),
    ("selection", lambda r: replace(r, counts={"dropped_tokens": 49}), "tokens 500 is not planned"),
    ("plan", lambda r: replace(r, counts={"tokens": 451}), "tokens 500 is not planned"),
]


@pytest.mark.parametrize(("role", "doctor", "message"), DOCTORED)
def test_a_row_or_token_that_is_lost_or_too_many_is_found(role: Any, doctor: Any, message: Any) -> None:
    records = sound()
    records[role] = doctor(records[role])
    with pytest.raises(DamageError, match=f"conservation is broken: {message}"):
        conservation(list(records.values()))


@pytest.mark.parametrize("stages", range(1, 11))
def test_a_build_that_went_only_part_of_the_way_is_checked_that_far(stages: Any) -> None:
    assert conservation(list(sound().values())[:stages])


# The root digest --------------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False))
def test_the_root_digest_does_not_depend_on_the_order_of_records(shuffler: Any) -> None:
    records = list(sound().values())
    assert root_digest(shuffler.sample(records, len(records))) == root_digest(records)


def test_the_root_digest_sees_role_source_unit_file_rows_and_content_only() -> None:
    records = sound()
    base, tokens = root_digest(records.values()), records["tokens"]
    file = tokens.files[0]

    def with_tokens(record: Record) -> str:
        return root_digest((records | {"tokens": record}).values())

    different = [
        replace(tokens, unit="v"),
        replace(tokens, files=(replace(file, rows=6),)),
        replace(tokens, files=(replace(file, digest="other"),)),
        replace(tokens, files=()),
        record_of("tokens", [5], {}, source="web"),
    ]
    assert base not in {with_tokens(record) for record in different}
    other = Stage("tokens", "0" * 16, "code")
    moved = replace(tokens, stage=other, files=(replace(file, path=other.file("u-0"), size=99, sha256="other"),))
    equal = [replace(tokens, counts={}), replace(tokens, inputs={}), moved]
    assert {with_tokens(record) for record in equal} == {base}


# Damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Any) -> Any:
    return Store(str(tmp_path))


def unit(store: Store, name: str = "u", role: str = "verdicts") -> Record:
    stage = Stage(role, "f" * 16, "code")
    rows = [{"reason": f"{name}{i}"} for i in range(50)]
    written = store.write_table(stage.file(name), VERDICTS, [batch_of(rows, VERDICTS)], compression="none")
    return commit(store, Record(stage, name, {}, (written,), {}))


def test_a_whole_unit_has_no_damage(store: Any) -> None:
    assert list(check(store, unit(store))) == []


def test_a_missing_a_short_and_a_changed_file_are_told_apart(store: Any) -> None:
    record = unit(store)
    path, where = record.files[0].path, record.stage.record_path("u")
    data = store.read(path)
    store.write(path, data[:-1])
    assert list(check(store, record)) == [Damage(path, f"{len(data) - 1} bytes, {len(data)} expected", where)]
    store.write(path, data.replace(b"u7", b"x7", 1))
    assert list(check(store, record)) == [Damage(path, "its SHA-256 differs", where)]
    store.remove(path)
    assert list(check(store, record)) == [Damage(path, "missing", where)]


def test_a_file_that_was_swapped_together_with_its_checksum_is_found_by_its_rows(store: Any) -> None:
    record, other = unit(store), unit(store, "v")
    doctored = replace(record, files=(replace(other.files[0], digest=record.files[0].digest),))
    (damage,) = check(store, doctored)
    assert damage.what == "the digest of its rows differs"


def test_an_empty_table_is_whole(store: Any) -> None:
    stage = Stage("tokens", "f" * 16, "code")
    written = store.write_table(stage.file("u"), VERDICTS, [batch_of([], VERDICTS)])
    assert list(check(store, Record(stage, "u", {}, (written,), {}))) == []


def test_a_missing_record_is_a_damage_of_the_build(store: Any) -> None:
    records = [unit(store, "a"), unit(store, "b")]
    write_index(store, "mine", "", "name: mine\n", records)
    path = records[0].stage.record_path("a")
    store.remove(path)
    assert list(records_of(store, read_index(store, "mine"))) == [
        Damage(path, "the record is missing or unreadable", path), records[1],
    ]  # fmt: skip


def test_damaged_units_are_set_aside_by_their_records_alone(store: Any) -> None:
    record = unit(store)
    set_aside(store, [Damage(record.files[0].path, "missing", record.stage.record_path("u"))])
    assert list(store.files()) == [record.files[0].path]


def test_the_list_of_a_build_holds_its_digest_manifest_and_units(store: Any) -> None:
    records = [unit(store, "b"), unit(store, "a")]
    digest = write_index(store, "mine", "", "name: mine\n", records)
    assert digest == root_digest(records)
    assert builds(store) == ["mine"]
    assert read_index(store, "mine") == {
        "digest": digest, "manifest": "name: mine\n",
        "units": [["verdicts", "code", "f" * 16, "a"], ["verdicts", "code", "f" * 16, "b"]],
    }  # fmt: skip
    assert list(records_of(store, read_index(store, "mine"))) == records[::-1]


def test_a_part_of_a_build_stands_beside_the_whole_and_goes_when_the_whole_is_built_again(store: Any) -> None:
    whole, part = [unit(store, "a"), unit(store, "b")], [unit(store, "a")]
    write_index(store, "mine", "", "", whole)
    write_index(store, "minestrone", ".0.5", "", part)
    write_index(store, "mine", ".0.1-judge", "", part)
    assert sorted(builds(store)) == ["mine", "mine.0.1-judge", "minestrone.0.5"]
    assert len(read_index(store, "mine")["units"]) == 2
    write_index(store, "mine", "", "", whole)
    assert sorted(builds(store)) == ["mine", "minestrone.0.5"]


# Cleaning ---------------------------------------------------------------------------------------------------------


def test_what_no_build_uses_is_listed_with_its_size_and_nothing_else_is(store: Any) -> None:
    used = [unit(store, "a"), unit(store, "b", "duplicates")]
    write_index(store, "mine", "", "", used[:1])
    write_index(store, "yours", ".0.1-judge", "", used[1:])
    old = unit(store, "old")
    for path in (LEASE, LOCK, "report/index.html", "timings/crawl/a.json"):
        store.write(path, b"x")
    for path in ("work/edges-0/00000.json", "faults/crawl/code/u.json", "verdicts/code-0000/a.parquet"):
        store.write(path, b"xyz")
    expected = {"work/edges-0/00000.json": 3, "faults/crawl/code/u.json": 3, "verdicts/code-0000/a.parquet": 3}
    expected |= {
        old.files[0].path: old.files[0].size,
        old.stage.record_path("old"): len(store.read(old.stage.record_path("old"))),
    }
    assert dict(unused(store)) == expected


def test_after_cleaning_every_build_is_whole(store: Any) -> None:
    used, _ = unit(store, "a"), unit(store, "old")
    write_index(store, "mine", "", "", [used])
    for path, _size in unused(store):
        store.remove(path)
    assert unused(store) == []
    (entry,) = records_of(store, read_index(store, "mine"))
    assert entry == used
    assert list(check(store, used)) == []
