"""Figures: what a build holds, counted from its records and small tables. No text is read.

:func:`count` goes over the shards one at a time and groups each in Arrow; all figures of documents and samples are sums
over its one table. A stage that a build did not reach is missing from the records, and from the figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.prose import PROSE_REASONS
from pipeline import judge, overlap
from pipeline.deduplicate import EXACT, NEAR
from pipeline.gaps import gaps
from pipeline.manifest import Languages, Manifest
from pipeline.records import Record
from pipeline.store import Store, Written
from pipeline.timings import stages

KEYS = {name: pa.string() for name in ("source", "form", "language", "kind", "evidence", "outcome")}
KEYS |= {"item": pa.int32()} | {name: pa.string() for name in ("component", "split", "left_out")}
VALUES = ("documents", "raw_bytes", "text_bytes", "samples", "sample_bytes", "tokens", "fim_samples", "fim_tokens")
COUNTS = pa.schema([pa.field(n, t) for n, t in KEYS.items()] + [pa.field(n, pa.int64()) for n in VALUES])
"""Sums by key. A row counts documents (``component``, ``split`` and ``left_out`` are null) or samples (``evidence``,
``outcome`` and ``item`` are). ``outcome`` is the first reason, empty: kept; null: not judged yet. ``item`` is the row
of the first benchmark item hit, -1: none."""

SPLITS = ("train", "validation", "held_out")
DROPS = (
    judge.REPEATED,
    judge.LANGUAGE,
    *judge.CODE_REASONS[1:],
    *(f"{kind}_{reason}" for kind in ("prose", "page") for reason in PROSE_REASONS[1:]),
    judge.CONTAMINATION,
    judge.SELECTION,
    EXACT,
    NEAR,
)
"""Every reason that drops a document, in the order in which they are asked."""

_FROM = {
    "verdicts": ("kept_documents", "kept_bytes"),
    "duplicates": ("exact_duplicates", "near_duplicates"),
    "tokens": ("tokens",),
}

Row = dict[str, Any]


def figures(store: Store, manifest: Manifest, records: Sequence[Record]) -> dict[str, pa.Table]:
    """Every table of figures by name, from the records of a build's units (documents to plan, or fewer)."""
    counts, rejects = count(store, manifest.languages, records), count_rejects(store, records)
    items = overlap.items_of(store, records)
    by_group = {"languages": languages(counts), "kinds": kinds(counts), "sources": sources(manifest, records, counts)}
    return {
        "funnel": funnel(records, counts, rejects),
        **{name: _only_reached(table, records) for name, table in by_group.items()},
        "evidence": evidence(counts),
        "mixture": mixture(manifest, records, counts),
        "stages": stages(store, records),
        "redactions": redactions(records),
        "contamination": overlap.by_benchmark(counts, items),
        "hits": overlap.by_item(counts, items),
        "gaps": gaps(store, manifest, records, counts),
    }


def count(store: Store, configuration: Languages, records: Sequence[Record]) -> pa.Table:
    """Documents and samples of all shards (``COUNTS``, sorted by key); ``kind`` is as the manifest wants it.

    Raises AssertionError where a table has other rows than its shard. Holds one shard's small columns at a time.
    """
    tables = _by_shard(records)
    total = COUNTS.empty_table()
    for source, name, file in shards(records):
        parts = _count_shard(store, source, file, tables.get((source, name), {}))
        total = _sum(pa.concat_tables([total, *parts], promote_options="default"), list(KEYS), VALUES)
    forms = total.column("form").to_numpy(zero_copy_only=False)
    effective, _ = judge.effective_kind(total, forms, configuration)
    kind = pa.array(effective, pa.string())
    total = total.set_column(total.schema.get_field_index("kind"), "kind", kind)
    return _sum(total, list(KEYS), VALUES).cast(COUNTS)


def shards(records: Sequence[Record]) -> Iterator[tuple[str, str, Written]]:
    """Every shard of documents: source, name, file; in the order of the records."""
    for record in records:
        if record.stage.role == "documents":
            for file in record.files[: len(record.counts["text_bytes"])]:
                yield record.stage.source, file.path.rsplit("/", 1)[1].removesuffix(".parquet"), file


def _by_shard(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, Record]]:
    tables: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        if record.stage.role != "documents":
            tables.setdefault((record.stage.source, record.unit), {})[record.stage.role] = record
    return tables


def _count_shard(store: Store, source: str, file: Written, tables: Mapping[str, Record]) -> list[pa.Table]:
    documents = store.read_table(file.path, ["form", "raw_bytes", "text_bytes"])
    columns = _columns(documents) | {"source": _same(source, file.rows), "documents": _same(1, file.rows)}
    for role, names in (("language", ("language", "kind", "evidence")), ("contamination", ("item",))):
        if role in tables:
            columns |= _columns(_read(store, tables[role], names, file.rows))
    if "verdicts" in tables:
        columns["outcome"] = _read(store, tables["verdicts"], ("reason",), file.rows).column("reason")
    if "duplicates" in tables:
        is_judged_kept = pc.equal(columns["outcome"], "")
        repeats = _read(store, tables["duplicates"], ("reason",), file.rows).column("reason")
        columns["outcome"] = pc.if_else(is_judged_kept, repeats, columns["outcome"])
    parts = [pa.table(columns)]
    if "tokens" in tables:
        kept = parts[0].filter(pc.equal(parts[0].column("outcome"), "")).select(["source", "form", "kind"])
        parts.append(_samples(store, kept, tables))
    return [
        _sum(p, [k for k in KEYS if k in p.column_names], [v for v in VALUES if v in p.column_names]) for p in parts
    ]


def _samples(store: Store, kept: pa.Table, tables: Mapping[str, Record]) -> pa.Table:
    """The samples of the kept documents of a shard: one each, in their order."""
    names = ("component", "language", "split", "n_tokens", "n_bytes", "fim")
    tokens = _read(store, tables["tokens"], names, kept.num_rows)
    columns = _columns(kept) | _columns(tokens.select(["component", "language", "split"]))
    columns |= {"samples": _same(1, kept.num_rows), "sample_bytes": tokens.column("n_bytes").cast(pa.int64())}
    columns |= {"tokens": tokens.column("n_tokens").cast(pa.int64()), "fim_samples": tokens.column("fim").cast("int64")}
    columns["fim_tokens"] = pc.multiply(columns["tokens"], columns["fim_samples"])
    if "selection" in tables:
        columns["left_out"] = _read(store, tables["selection"], ("reason",), kept.num_rows).column("reason")
    return pa.table(columns)


def _read(store: Store, record: Record, columns: Sequence[str], rows: int) -> pa.Table:
    path = record.files[0].path
    table = store.read_table(path, columns)
    if table.num_rows != rows:
        raise AssertionError(f"{path}: {rows} rows expected, {table.num_rows} found")
    return table


def count_rejects(store: Store, records: Sequence[Record]) -> pa.Table:
    """Rows rejected by source and reason: ``source``, ``reason``, ``rows``, ``raw_bytes``; most rows first."""
    schema = pa.schema([("source", pa.string()), ("reason", pa.string()), ("rows", pa.int64()), ("size", pa.int64())])
    total = schema.empty_table()
    for record in records:
        if record.stage.role == "documents" and record.counts["rejects"]:
            file = record.files[len(record.counts["text_bytes"])]
            table = store.read_table(file.path, ["source", "reason", "size"])
            table = table.append_column("rows", _same(1, table.num_rows)).select(schema.names).cast(schema)
            total = _sum(pa.concat_tables([total, table]), ["source", "reason"], ["rows", "size"])
    order = [("rows", "descending"), ("reason", "ascending"), ("source", "ascending")]
    return total.rename_columns(["source", "reason", "rows", "raw_bytes"]).sort_by(order)


def funnel(records: Sequence[Record], counts: pa.Table, rejects: pa.Table) -> pa.Table:
    """Offered, rejects by reason, documents, dropped by first reason, kept, samples, left out, selected, planned.

    Columns ``stage``, ``outcome``, ``documents`` (rows, samples from there on), ``raw_bytes``, ``text_bytes`` (of
    samples: what was encoded) and ``tokens``; null where a stage has no such figure.
    """
    roles = {record.stage.role for record in records}
    documents = counts.filter(pc.is_null(counts.column("component")))
    samples = counts.filter(pc.is_valid(counts.column("component")))
    offered, read = _totals(rejects, "rows", "raw_bytes"), _totals(documents, "documents", "raw_bytes", "text_bytes")
    rows: list[Row] = [{"stage": "offered", "documents": offered[0] + read[0], "raw_bytes": offered[1] + read[1]}]
    by_reason = _sum(rejects, ["reason"], ["rows", "raw_bytes"])
    order = [("rows", "descending"), ("reason", "ascending")]
    rows += [
        {"stage": "rejected", "outcome": r["reason"], "documents": r["rows"], "raw_bytes": r["raw_bytes"]}
        for r in by_reason.sort_by(order).to_pylist()
    ]
    rows.append({"stage": "documents", "documents": read[0], "raw_bytes": read[1], "text_bytes": read[2]})
    if "verdicts" in roles:
        by_outcome = _sum(documents, ["outcome"], ["documents", "raw_bytes", "text_bytes"]).to_pylist()
        kept = [r for r in by_outcome if r["outcome"] == ""]
        dropped = sorted((r for r in by_outcome if r["outcome"]), key=lambda r: _place(r["outcome"]))
        rows += [{"stage": "dropped", **row} for row in dropped]
        rows += [{"stage": "kept", **row} for row in kept or [{"documents": 0, "raw_bytes": 0, "text_bytes": 0}]]
    if "tokens" in roles:
        rows.append(_sample_row("samples", "", samples))
    if "selection" in roles:
        for reason in sorted(set(samples.column("left_out").to_pylist()) - {""}):
            rows.append(_sample_row("left_out", reason, _where(samples, "left_out", reason)))
        rows.append(_sample_row("selected", "", _where(samples, "left_out", "")))
    if "plan" in roles:
        plans = [counted for _, _, counted in _plans(records)]
        planned = {key: sum(counted[key] for counted in plans) for key in ("samples", "tokens")}
        rows.append({"stage": "planned", "documents": planned["samples"], "tokens": planned["tokens"]})
    numbers = [(name, pa.int64()) for name in ("documents", "raw_bytes", "text_bytes", "tokens")]
    schema = pa.schema([("stage", pa.string()), ("outcome", pa.string()), *numbers])
    return pa.Table.from_pylist([{"outcome": ""} | row for row in rows], schema)


def _place(reason: str) -> tuple[int, str]:
    return (DROPS.index(reason) if reason in DROPS else len(DROPS), reason)


def _sample_row(stage: str, outcome: str, samples: pa.Table) -> Row:
    documents, text_bytes, tokens = _totals(samples, "samples", "sample_bytes", "tokens")
    return {"stage": stage, "outcome": outcome, "documents": documents, "text_bytes": text_bytes, "tokens": tokens}


def languages(counts: pa.Table) -> pa.Table:
    """By language and kind, most kept text first, then most text, then name."""
    table = _by(counts.filter(pc.is_valid(counts.column("language"))), ["language", "kind"])
    order = [("kept_bytes", "descending"), ("text_bytes", "descending"), ("language", "ascending")]
    return table.sort_by([*order, ("kind", "ascending")])


def evidence(counts: pa.Table) -> pa.Table:
    """How many documents of each language and kind were told by which evidence."""
    known = counts.filter(pc.is_valid(counts.column("evidence")))
    return _sum(known, ["language", "kind", "evidence"], ["documents"])


def kinds(counts: pa.Table) -> pa.Table:
    """By kind (code, prose, page, data), most text first."""
    table = _by(counts.filter(pc.is_valid(counts.column("kind"))), ["kind"])
    return table.sort_by([("text_bytes", "descending"), ("kind", "ascending")])


def _by(counts: pa.Table, keys: list[str]) -> pa.Table:
    """Documents and bytes, kept ones, duplicates and tokens of each group."""
    outcome = counts.column("outcome")
    columns = {key: counts.column(key) for key in keys}
    columns |= {name: counts.column(name) for name in ("documents", "text_bytes")}
    for name, value, wanted in (
        ("kept_documents", "documents", ""),
        ("kept_bytes", "text_bytes", ""),
        ("exact_duplicates", "documents", EXACT),
        ("near_duplicates", "documents", NEAR),
    ):
        columns[name] = pc.if_else(pc.fill_null(pc.equal(outcome, wanted), False), counts.column(value), 0)
    columns["tokens"] = counts.column("tokens")
    return _sum(pa.table(columns), keys, [name for name in columns if name not in keys])


def _only_reached(table: pa.Table, records: Sequence[Record]) -> pa.Table:
    """Null instead of 0 in columns that come from a stage which the build did not reach."""
    unknown = [name for role, names in _FROM.items() if all(r.stage.role != role for r in records) for name in names]
    for name in unknown:
        table = table.set_column(table.column_names.index(name), name, pa.nulls(table.num_rows, pa.int64()))
    return table


def sources(manifest: Manifest, records: Sequence[Record], counts: pa.Table) -> pa.Table:
    """By source, in the order of the manifest: units, rows offered and rejected, then as :func:`languages`."""
    counted = {row["source"]: row for row in _by(counts, ["source"]).to_pylist()}
    names = _by(COUNTS.empty_table(), ["source"]).column_names[1:]
    rows: list[Row] = []
    for source in manifest.sources:
        units = [r.counts for r in records if r.stage.role == "documents" and r.stage.source == source.name]
        row: Row = {"source": source.name, "reads": source.kind, "units": len(units)}
        row["offered"] = sum(c["offered"] for c in units)
        row["rejected"] = sum(sum(c["rejects"].values()) for c in units)
        rows.append(dict.fromkeys(names, 0) | counted.get(source.name, {}) | row)
    numbers = [(name, pa.int64()) for name in ("units", "offered", "rejected", *names)]
    return pa.Table.from_pylist(rows, pa.schema([("source", pa.string()), ("reads", pa.string()), *numbers]))


def mixture(manifest: Manifest, records: Sequence[Record], counts: pa.Table) -> pa.Table:
    """By component, in the order of the manifest: the share asked, what there is (without what selection left out).

    ``asked_share`` is the weight over the sum of weights, null where none is given; ``share`` is of the tokens to train
    on; ``sequences`` and ``padding_share`` are of the plan to train by; ``passes`` is how often a run of
    ``mixture.budget_tokens`` sees the component, null without a budget or without tokens.
    """
    is_in = pc.and_(pc.is_valid(counts.column("component")), pc.equal(pc.fill_null(counts.column("left_out"), ""), ""))
    values = ("samples", "sample_bytes", "tokens", "fim_tokens")
    table = _sum(counts.filter(is_in), ["component", "split"], values)
    by = {(r["component"], r["split"]): r for r in table.to_pylist()}
    plans = {(split, component): c for split, component, c in _plans(records)}
    weights, budget = manifest.mixture.weights, manifest.mixture.budget_tokens
    all_weights = sum(weights[c.name] for c in manifest.components if c.name in weights)
    all_tokens = sum(row["tokens"] for (_, split), row in by.items() if split == "train")
    rows = []
    for name in (component.name for component in manifest.components):
        row: Row = {"component": name, "asked_share": weights.get(name, 0.0) / all_weights if weights else None}
        for split in SPLITS:
            row[f"{split}_tokens"] = by.get((name, split), {}).get("tokens", 0)
        for value in values:
            row[value] = sum(by.get((name, split), {}).get(value, 0) for split in SPLITS)
        trained = row["train_tokens"]
        row["share"] = trained / all_tokens if all_tokens else None
        plan = plans.get(("train", name))
        if plan:
            row["sequences"] = plan["sequences"]
            row["padding_share"] = plan["padding"] / max(1, plan["padding"] + plan["tokens"])
        if budget and weights and trained:
            row["passes"] = row["asked_share"] * budget / trained
        rows.append(row)
    integers = [*(f"{split}_tokens" for split in SPLITS), *values, "sequences"]
    fields = [("component", pa.string()), *((name, pa.int64()) for name in integers)]
    fields += [(name, pa.float64()) for name in ("asked_share", "share", "padding_share", "passes")]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def _plans(records: Sequence[Record]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Split, component and counts of each planned part."""
    for record in records:
        if record.stage.role == "plan" and record.unit != "shards":
            split, component = record.unit.split("-", 1)
            yield split, component, record.counts


def redactions(records: Sequence[Record]) -> pa.Table:
    """What was replaced in the text that was tokenised: by source and kind."""
    totals: dict[tuple[str, str], int] = {}
    for record in records:
        if record.stage.role == "tokens":
            for kind in sorted(set(record.counts) - {"tokens", "bytes", "fim"}):
                key = (record.stage.source, kind)
                totals[key] = totals.get(key, 0) + record.counts[kind]
    rows = [{"source": source, "kind": kind, "replaced": n} for (source, kind), n in sorted(totals.items())]
    return pa.Table.from_pylist(
        rows, pa.schema([("source", pa.string()), ("kind", pa.string()), ("replaced", pa.int64())])
    )


def _sum(table: pa.Table, keys: Sequence[str], values: Sequence[str]) -> pa.Table:
    """Sums of the values (int64, nothing is 0) of each group, sorted by key."""
    summed = table.group_by(list(keys), use_threads=False).aggregate([(value, "sum") for value in values])
    columns = {key: summed.column(key) for key in keys}
    columns |= {v: pc.fill_null(summed.column(f"{v}_sum").cast(pa.int64()), 0) for v in values}
    return pa.table(columns).sort_by([(key, "ascending") for key in keys])


def _totals(table: pa.Table, *values: str) -> tuple[int, ...]:
    return tuple(pc.sum(table.column(value)).as_py() or 0 for value in values)


def _where(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.equal(table.column(column), value))


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table.column(name) for name in table.column_names}


def _same(value: str | int, n: int) -> pa.Array:
    return pa.array(np.full(n, value, np.int64)) if isinstance(value, int) else pa.repeat(pa.scalar(value), n)
