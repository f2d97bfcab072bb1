"""Times: what each pass of a build cost, from the notes that its units leave beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.records import Record
from pipeline.store import Store

STEPS = {
    "crawl": "documents",
    "annotate": "language",
    "judge": "verdicts",
    "deduplicate": "duplicates",
    "tokenizer": "tokenizer",
    "tokenize": "tokens",
    "select": "selection",
    "plan": "plan",
}
PASSES = ("crawl", "annotate", "tokenize")
"""Steps whose units note their times in the workers; of the others the driver notes its own."""

Row = dict[str, Any]


def stages(store: Store, records: Sequence[Record]) -> pa.Table:
    """By pass: units, their seconds and CPU seconds, text in bytes, and MB of text per second of one core.

    From the notes of the run that made each unit, which lie beside the build and enter no digest; units without are
    left out.
    """
    rows = []
    for name, role in STEPS.items():
        if name in PASSES:
            paths = [f"{name}/{r.stage.source}/{r.unit}" for r in records if r.stage.role == role]
        else:
            paths = [f"driver/{name}"] if any(record.stage.role == role for record in records) else []
        notes = [_timing(store, path) for path in paths]
        found = [note for note in notes if note is not None]
        if not found:
            continue
        row: Row = {"pass": name, "units": len(found), "workers": len({note["worker"] for note in found})}
        row |= {key: sum(note[key] for note in found) for key in ("seconds", "cpu_seconds", "text_bytes")}
        row["mb_per_core_second"] = row["text_bytes"] / 1e6 / row["cpu_seconds"] if row["cpu_seconds"] else None
        rows.append(row)
    fields = [("pass", pa.string()), *((name, pa.int64()) for name in ("units", "workers", "text_bytes"))]
    fields += [(name, pa.float64()) for name in ("seconds", "cpu_seconds", "mb_per_core_second")]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def made(before: Mapping[str, Any], passes: Sequence[Row], sample: float, seconds: float) -> Row:
    """What is known of the last command that made something, after one that took ``seconds``.

    ``before`` is what this gave after the command before (empty: nothing is known), ``passes`` the rows of
    :func:`stages`. Gives ``seconds`` of that command, ``is_new`` where it is this one, and the notes that tell: a unit
    that is made anew has another time.
    """
    notes = {f"{row['pass']} {sample:g}": [row["units"], row["seconds"]] for row in passes}
    known = before.get("notes", {})
    is_new = any(known.get(name) != note for name, note in notes.items())
    return {"seconds": seconds if is_new else before.get("seconds", seconds), "is_new": is_new, "notes": known | notes}


def _timing(store: Store, path: str) -> Row | None:
    try:
        note: Row = store.read_json(f"timings/{path}.json")
    except (FileNotFoundError, ValueError):
        return None
    return note
