"""Benchmark overlap: which benchmarks and which of their items the documents of a build share words with.

From the counts of :func:`pipeline.figures.count`: a document counts for the first item that it hits.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import judge
from pipeline.records import Record
from pipeline.store import Store

_DOCUMENTS = ("documents_hit", "documents_dropped", "bytes_dropped")

Row = dict[str, Any]
Item = tuple[str, str]
"""Name of a benchmark, and what it calls one of its items."""


def items_of(store: Store, records: Sequence[Record]) -> list[Item]:
    """The items of the index, in its order."""
    from filters.contamination import from_bytes

    index = next((r for r in records if r.stage.role == "benchmarks" and r.counts["items"]), None)
    return [] if index is None else [(i.name, i.item) for i in from_bytes(store.read(index.files[0].path)).items]


def by_benchmark(counts: pa.Table, items: Sequence[Item]) -> pa.Table:
    """By benchmark: items, items hit, documents that share words with one, and those dropped for that first reason."""
    names = ("items", "items_hit", *_DOCUMENTS)
    rows: dict[str, Row] = {name: {"benchmark": name} | dict.fromkeys(names, 0) for name, _ in sorted(items)}
    for name, _ in items:
        rows[name]["items"] += 1
    for hit in _hits(counts, items):
        row = rows[hit["benchmark"]]
        row["items_hit"] += 1
        for name in _DOCUMENTS:
            row[name] += hit[name]
    return _table(list(rows.values()), ("benchmark",), names)


def by_item(counts: pa.Table, items: Sequence[Item]) -> pa.Table:
    """By item hit, most documents first: documents that share words with it, and those dropped for it."""
    rows = sorted(_hits(counts, items), key=lambda row: (-row["documents_hit"], row["benchmark"], row["item"]))
    return _table(rows, ("benchmark", "item"), _DOCUMENTS)


def _hits(counts: pa.Table, items: Sequence[Item]) -> list[Row]:
    hit = counts.filter(pc.greater_equal(pc.fill_null(counts.column("item"), -1), 0))
    grouped = hit.group_by(["item", "outcome"], use_threads=False)
    rows: dict[int, Row] = {}
    for entry in grouped.aggregate([("documents", "sum"), ("text_bytes", "sum")]).to_pylist():
        benchmark, item = items[entry["item"]]
        row = rows.setdefault(entry["item"], {"benchmark": benchmark, "item": item} | dict.fromkeys(_DOCUMENTS, 0))
        row["documents_hit"] += entry["documents_sum"]
        if entry["outcome"] == judge.CONTAMINATION:
            row["documents_dropped"] += entry["documents_sum"]
            row["bytes_dropped"] += entry["text_bytes_sum"]
    return list(rows.values())


def _table(rows: Sequence[Row], keys: Sequence[str], numbers: Sequence[str]) -> pa.Table:
    schema = pa.schema([*((key, pa.string()) for key in keys), *((name, pa.int64()) for name in numbers)])
    return pa.Table.from_pylist(list(rows), schema)
