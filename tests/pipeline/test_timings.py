"""What the passes of a small real build cost, by the notes of its units."""

import pytest

from pipeline import timings
from tests.pipeline.test_figures import built


def test_stages_sum_the_timings_of_the_units() -> None:
    store, _, records = built()
    found = {row["pass"]: row for row in timings.stages(store, records).to_pylist()}
    assert list(found) == ["crawl", "annotate", "judge", "deduplicate", "tokenizer", "tokenize", "select", "plan"]
    paths = [path for path in store.files("timings/annotate") if path.endswith(".json")]
    notes = [store.read_json(path) for path in paths]
    assert found["annotate"]["units"] == len(notes) == sum(r.stage.role == "language" for r in records)
    assert found["annotate"]["text_bytes"] == sum(note["text_bytes"] for note in notes)
    assert found["annotate"]["cpu_seconds"] == pytest.approx(sum(note["cpu_seconds"] for note in notes))
    rate = found["annotate"]["text_bytes"] / 1e6 / found["annotate"]["cpu_seconds"]
    assert found["annotate"]["mb_per_core_second"] == pytest.approx(rate)


def test_what_a_command_made_is_told_by_the_notes_of_its_passes() -> None:
    passes = [{"pass": "crawl", "units": 3, "seconds": 1.5}, {"pass": "judge", "units": 1, "seconds": 0.25}]
    first = timings.made({}, passes, 1.0, 36.0)
    assert (first["seconds"], first["is_new"]) == (36.0, True)
    second = timings.made(first, passes, 1.0, 5.0)
    assert (second["seconds"], second["is_new"]) == (36.0, False)
    assert timings.made(second, passes[:1], 1.0, 4.0) == second
    again = timings.made(second, [passes[0], passes[1] | {"seconds": 0.5}], 1.0, 6.0)
    assert (again["seconds"], again["is_new"]) == (6.0, True)


def test_a_command_without_any_note_made_nothing() -> None:
    assert timings.made({}, [], 1.0, 2.0) == {"seconds": 2.0, "is_new": False, "notes": {}}
