"""Which document is to blame when the work on a batch fails."""

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

Result = TypeVar("Result")


def blaming(function: Callable[[pa.RecordBatch, int], Result], batch: pa.RecordBatch, row: int) -> Result:
    """Give ``function(batch, row)``; an error gets a note that names the first document that fails by itself.

    ``row``: the number of the batch's first row. The batch has the columns ``id`` and ``path``.
    """
    try:
        return function(batch, row)
    except Exception as error:
        for i in range(batch.num_rows):
            try:
                function(batch.slice(i, 1), row + i)
            except Exception:
                path = batch.column("path")[i].as_py().decode("utf-8", "replace")
                error.add_note(f"document {batch.column('id')[i].as_py().hex()} ({path})")
                break
        raise
