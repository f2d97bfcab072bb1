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
