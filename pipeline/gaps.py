"""Gaps: splits and components of a build that got no document though the manifest asks for them, and why."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import Component, Manifest
from pipeline.records import Record
from pipeline.store import Store

SCHEMA = pa.schema([("what", pa.string()), ("name", pa.string()), ("reason", pa.string())])


def gaps(store: Store, manifest: Manifest, records: Sequence[Record], counts: pa.Table) -> pa.Table:
    """What is empty: ``what`` (split or component), ``name`` and ``reason``, from :func:`pipeline.figures.count`.

    Nothing is said before samples exist.
    """
    if all(record.stage.role != "tokens" for record in records):
        return SCHEMA.empty_table()
    is_sample = pc.is_valid(counts.column("component"))
    documents, samples = counts.filter(pc.invert(is_sample)), counts.filter(is_sample)
    found = [*_components(manifest, documents, samples), *_splits(store, manifest, records, samples)]
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in found], SCHEMA)


def _components(manifest: Manifest, documents: pa.Table, samples: pa.Table) -> Iterator[tuple[str, str, str]]:
    filled = set(samples.column("component").to_pylist())
    for component in manifest.components:
        if component.name in filled:
            continue
        fitting = _fitting(documents, component)
        kept = fitting.filter(pc.equal(fitting.column("outcome"), ""))
        n, n_kept = _sum(fitting, "documents"), _sum(kept, "documents")
        if n_kept:
            reason = f"all kept documents that fit it ({n_kept:,}) belong to a component above it"
        elif n:
            dropped = fitting.group_by("outcome").aggregate([("documents", "sum")])
            most = max(dropped.to_pylist(), key=lambda row: (row["documents_sum"], row["outcome"]))["outcome"]
            reason = f"all documents that fit it ({n:,}) were dropped, most of them for {most}"
        else:
            reason = "no document fits it"
        yield "component", component.name, reason


def _fitting(documents: pa.Table, component: Component) -> pa.Table:
    """The documents that match every condition of a component, whether kept or not."""
    for column, wanted in (
        ("kind", component.kinds),
        ("source", component.sources),
        ("language", component.languages),
    ):
        if wanted is not None:
            documents = documents.filter(pc.is_in(documents.column(column), pa.array(wanted, pa.string())))
    return documents


def _splits(
    store: Store, manifest: Manifest, records: Sequence[Record], samples: pa.Table
) -> Iterator[tuple[str, str, str]]:
    filled = set(samples.column("split").to_pylist())
    shares = manifest.split.model_dump()
    empty = [name for name, share in shares.items() if share > 0 and name not in filled]
    n = _origins(store, records) if empty else 0
    for name in empty if n else ():
        reason = (
            f"splits go by origin (package, repository, domain, work), and none of all origins ({n:,}) fell into a "
        )
        yield "split", name, f"{reason}share of {shares[name]:g}; a larger share or more origins would fill it"


def _origins(store: Store, records: Sequence[Record]) -> int:
    """How many origins the samples of a build have."""
    found: set[tuple[str, Any]] = set()
    for record in records:
        if record.stage.role == "tokens":
            origins = store.read_table(record.files[0].path, ["origin"]).column("origin").unique().to_pylist()
            found |= {(record.stage.source, origin) for origin in origins}
    return len(found)


def _sum(table: pa.Table, column: str) -> int:
    return pc.sum(table.column(column)).as_py() or 0
