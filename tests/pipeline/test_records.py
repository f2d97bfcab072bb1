"""A unit is found when its record fits the inputs and its files are there in full size; else it is made again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Record, Stage, commit, find, read_record
from pipeline.store import Store, Written

STAGE = Stage("tokens", "0123456789abcdef", "code")
INPUTS = {"documents": "d", "language": "l"}


@pytest.fixture
def store(tmp_path: Any) -> Any:
    return Store(str(tmp_path))


@pytest.fixture
def record(store: Any) -> Any:
    store.write(STAGE.file("u"), b"12345")
    written = Written(STAGE.file("u"), 3, "digest", 5, "sha")
    return commit(store, Record(STAGE, "u", INPUTS, (written,), {"outcomes": {"": 2, "language": 1}}))


def test_a_stage_lies_in_a_folder_named_by_role_source_and_fingerprint() -> None:
    assert STAGE.directory == "tokens/code-0123456789abcdef"
    assert Stage("plan", "0123").directory == "plan/0123"
    assert (STAGE.record_path("u"), STAGE.file("u")) == (f"{STAGE.directory}/u.json", f"{STAGE.directory}/u.parquet")


def test_a_committed_unit_is_found_as_it_was(store: Any, record: Any) -> None:
    assert find(store, STAGE, "u", INPUTS) == record
    assert find(store, STAGE, "u", dict(reversed(INPUTS.items()))) == record


def test_a_record_holds_no_time_host_or_attempt(store: Any, record: Any) -> None:
    before = store.read(STAGE.record_path("u"))
    commit(store, record)
    assert store.read(STAGE.record_path("u")) == before


@pytest.mark.parametrize("inputs", [{}, {"documents": "d"}, INPUTS | {"documents": "other"}, INPUTS | {"more": "m"}])
def test_a_unit_made_from_other_inputs_is_not_found(store: Any, record: Any, inputs: Any) -> None:
    assert find(store, STAGE, "u", inputs) is None
    assert read_record(store, STAGE, "u") == record


@pytest.mark.parametrize("content", [b"", b"1234", b"123456"])
def test_a_unit_whose_file_has_another_size_is_not_found(store: Any, record: Any, content: Any) -> None:
    store.write(STAGE.file("u"), content)
    assert find(store, STAGE, "u", INPUTS) is None


def test_a_unit_whose_file_is_missing_is_not_found(store: Any, record: Any) -> None:
    store.remove(STAGE.file("u"))
    assert find(store, STAGE, "u", INPUTS) is None


def test_a_unit_without_a_record_is_not_found_though_its_file_is_there(store: Any, record: Any) -> None:
    store.remove(STAGE.record_path("u"))
    assert find(store, STAGE, "u", INPUTS) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"{}", b"[]", b"null", b'{"unit": "u", "inputs": {}, "files": [{}], "counts": {}}'],
)
def test_an_unreadable_record_is_none(store: Any, record: Any, content: Any) -> None:
    store.write(STAGE.record_path("u"), content)
    assert read_record(store, STAGE, "u") is None
    assert find(store, STAGE, "u", INPUTS) is None


@given(st.integers(0, 2000), st.integers(0, 7))
def test_a_flipped_bit_in_a_record_never_raises(tmp_path_factory: Any, at: Any, bit: Any) -> None:
    store = Store(str(tmp_path_factory.getbasetemp() / "flipped"))
    written = Written(STAGE.file("u"), 3, "digest", 5, "sha")
    commit(store, Record(STAGE, "u", INPUTS, (written,), {"offered": 3}))
    data = bytearray(store.read(STAGE.record_path("u")))
    data[at % len(data)] ^= 1 << bit
    store.write(STAGE.record_path("u"), bytes(data))
    find(store, STAGE, "u", INPUTS)


def test_the_digest_of_a_unit_is_that_of_its_only_file(record: Any) -> None:
    assert record.digest == "digest"
    with pytest.raises(ValueError, match="too many"):
        _ = Record(STAGE, "u", {}, record.files * 2, {}).digest
