"""Blame: the document that makes a batch fail is named."""

from typing import Any

import pyarrow as pa
import pytest

from pipeline.blame import blaming

BATCH = pa.RecordBatch.from_pylist(
    [{"id": bytes([i]) * 16, "path": f"{i}.py".encode(), "text": t} for i, t in enumerate(["a", "b", "bad", "bad"])]
)


def test_the_first_document_that_fails_by_itself_is_named() -> None:
    def work(batch: pa.RecordBatch, row: int) -> Any:
        if "bad" in batch.column("text").to_pylist():
            raise ValueError(f"no good at {row}")
        return len(batch)

    with pytest.raises(ValueError, match="no good at 5") as caught:
        blaming(work, BATCH, 5)
    assert caught.value.__notes__ == [f"document {'02' * 16} (2.py)"]
    assert blaming(work, BATCH.slice(0, 2), 0) == 2


def test_what_fails_only_together_names_nobody() -> None:
    def work(batch: pa.RecordBatch, row: int) -> Any:
        assert batch.num_rows == 1

    with pytest.raises(AssertionError) as caught:
        blaming(work, BATCH, 0)
    assert not hasattr(caught.value, "__notes__")
