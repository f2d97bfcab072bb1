"""Judge: from measured values to one verdict a document, reading tables only.

The first reason in one fixed order drops a document: repeated, language, rules 1 to 5 (or the rules for prose and
pages), contamination, selection (no component of the mixture wants it). DeepSeek-Coder-V2, section 2.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from filters import prose, rules
from pipeline.manifest import Component, Languages, Manifest, Rules
from pipeline.records import Record, Stage, commit, find
from pipeline.schemas import VERDICTS
from pipeline.store import Store, fixed_rows

MODULES = ("pipeline.judge", "filters.rules", "filters.prose")
CODE_REASONS = ("", "rule_1_lines", "rule_2_alphabetic", "rule_3_xml", "rule_4_html", "rule_5_data")
REPEATED, LANGUAGE, CONTAMINATION, SELECTION = "repeated", "language", "contamination", "selection"

Table: TypeAlias = pa.RecordBatch | pa.Table


@dataclass(frozen=True)
class Shard:
    """A shard of documents with the records of its tables."""

    name: str
    source: str
    path: str
    digest: str
    rows: int
    size: int
    tables: Mapping[str, Record]

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the documents and of each table."""
        return {"documents": self.digest} | {name: record.digest for name, record in self.tables.items()}


def effective_kind(language: Table, forms: np.ndarray, configuration: Languages) -> tuple[np.ndarray, np.ndarray]:
    """Kind of each row as the manifest wants it, and whether its language is kept (object and bool arrays)."""
    names = language.column("language").to_numpy(zero_copy_only=False).astype(object)
    kinds = language.column("kind").to_numpy(zero_copy_only=False).astype(object)
    is_file = forms == "file"
    is_kept = np.ones(len(names), bool)
    for name in np.unique(names.astype(str)) if len(names) else ():
        rows = is_file & (names == name)
        if name in configuration.drop:
            is_kept[names == name] = False
        elif name.startswith("other:"):
            kind = configuration.keep_other.get(name.removeprefix("other:"))
            is_kept[rows] = kind is not None
            if kind is not None:
                kinds[rows] = kind
    return kinds, is_kept


def component_of(kinds: np.ndarray, source: str, languages: np.ndarray, components: Sequence[Component]) -> np.ndarray:
    """The component of each row: the first whose conditions all hold, or the empty string (object array)."""
    result = np.full(len(kinds), "", object)
    for component in reversed(components):
        rows = np.ones(len(kinds), bool)
        if component.kinds is not None:
            rows &= np.isin(kinds.astype(str), component.kinds)
        if component.sources is not None:
            rows &= source in component.sources
        if component.languages is not None:
            rows &= np.isin(languages.astype(str), component.languages)
        result[rows] = component.name
    return result


def judge(
    language: Table, measures: Table, contamination: Table, forms: np.ndarray, source: str, manifest: Manifest
) -> np.ndarray:
    """The first reason that drops each document, or the empty string (object array, n rows)."""
    kinds, is_kept = effective_kind(language, forms, manifest.languages)
    names = language.column("language").to_numpy(zero_copy_only=False).astype(object)
    reasons = np.full(len(kinds), "", object)
    reasons[~is_kept] = LANGUAGE
    _by_kind(reasons, kinds, language, measures, manifest.rules)
    hit = contamination.column("n_hits").to_numpy(zero_copy_only=False) > 0
    reasons[(reasons == "") & hit] = CONTAMINATION
    unwanted = component_of(kinds, source, names, manifest.components) == ""
    reasons[(reasons == "") & unwanted] = SELECTION
    return reasons


def _by_kind(reasons: np.ndarray, kinds: np.ndarray, language: Table, measures: Table, configuration: Rules) -> None:
    is_open = reasons == ""
    code = np.flatnonzero(is_open & np.isin(kinds.astype(str), ("code", "data")))
    if len(code):
        values, names = _take(measures, code), language.column("language").take(pa.array(code))
        visible = values.column("visible_chars").to_numpy(zero_copy_only=False)
        names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
        numbers = rules.judge_code(values, names, visible, configuration.code, kinds[code] == "code")
        reasons[code] = np.array(CODE_REASONS, object)[numbers]
    for kind, thresholds in (("prose", configuration.prose), ("page", configuration.page)):
        rows = np.flatnonzero(is_open & (kinds == kind))
        if len(rows):
            numbers = prose.judge_prose(_prose_measures(_take(measures, rows)), thresholds)
            labels = [f"{kind}_{reason}" if reason else "" for reason in prose.PROSE_REASONS]
            reasons[rows] = np.array(labels, object)[numbers]


def _take(table: Table, rows: np.ndarray) -> pa.RecordBatch:
    taken = table.take(pa.array(rows))
    return taken.combine_chunks().to_batches()[0] if isinstance(taken, pa.Table) else taken


def _prose_measures(measures: pa.RecordBatch) -> pa.RecordBatch:
    names = [name for name in measures.schema.names if name.startswith("prose_")]
    return pa.RecordBatch.from_arrays(
        [measures.column(name) for name in names], names=[name.removeprefix("prose_") for name in names]
    )


def repeated_rows(shards: Sequence[Shard], store: Store) -> dict[str, np.ndarray]:
    """Rows whose id stands in the build already: of equal ids the one with the least (revision, locator, shard, row)
    is kept. Holds 16 bytes a document."""
    ids = [_ids(store, shard) for shard in shards]
    counts = np.array([len(i) for i in ids], np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    words = np.concatenate([*ids, np.empty((0, 16), np.uint8)]).view(">u8")
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    if not len(same):
        return {}
    groups: dict[bytes, list[tuple[str, str, str, int]]] = {}
    members = np.unique(np.concatenate([order[same], order[same + 1]]))
    for number in np.unique(np.searchsorted(starts, members, "right") - 1):
        shard = shards[number]
        rows = members[(members >= starts[number]) & (members < starts[number + 1])] - starts[number]
        table = store.read_table(shard.path, ["id", "revision", "locator"]).take(pa.array(rows)).to_pylist()
        for row, entry in zip(rows.tolist(), table, strict=True):
            key = (entry["revision"], entry["locator"], f"{shard.source}/{shard.name}", row)
            groups.setdefault(entry["id"], []).append(key)
    result: dict[str, list[int]] = {}
    for entries in groups.values():
        for _, _, shard_name, row in sorted(entries)[1:]:
            result.setdefault(shard_name, []).append(row)
    return {name: np.array(sorted(rows), np.int64) for name, rows in sorted(result.items())}


def _ids(store: Store, shard: Shard) -> np.ndarray:
    return fixed_rows(store.read_table(shard.path, ["id"]).column("id"))


def judge_shards(
    shards: Sequence[Shard], stages: Mapping[str, Stage], manifest: Manifest, store: Store
) -> list[Record]:
    """Write the verdicts of every shard whose inputs changed."""
    repeated = repeated_rows(shards, store)
    return [
        _judge_shard(shard, stages[shard.source], repeated.get(f"{shard.source}/{shard.name}"), manifest, store)
        for shard in shards
    ]


def _judge_shard(shard: Shard, stage: Stage, repeated: np.ndarray | None, manifest: Manifest, store: Store) -> Record:
    inputs = {name: shard.digests[name] for name in ("documents", "language", "measures", "contamination")}
    rows = repeated if repeated is not None else np.empty(0, np.int64)
    inputs["repeated"] = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
    record = find(store, stage, shard.name, inputs)
    if record is not None:
        return record
    tables = {n: store.read_table(shard.tables[n].files[0].path) for n in ("language", "measures", "contamination")}
    forms = store.read_table(shard.path, ["form"]).column("form").to_numpy(zero_copy_only=False)
    reasons = judge(tables["language"], tables["measures"], tables["contamination"], forms, shard.source, manifest)
    reasons[rows] = REPEATED
    column = pa.array(reasons, pa.string())
    written = store.write_table(
        stage.file(shard.name), VERDICTS, [pa.RecordBatch.from_arrays([column], schema=VERDICTS)]
    )
    if written.rows != shard.rows:
        raise AssertionError(f"{shard.name}: {shard.rows} documents, {written.rows} verdicts")
    counts: dict[str, Any] = {"outcomes": dict(sorted(Counter(reasons.tolist()).items()))}
    return commit(store, Record(stage, shard.name, inputs, (written,), counts))


def outcomes(store: Store, verdicts: str, duplicates: str) -> np.ndarray:
    """The first reason of each document of a shard, from the tables at these paths; empty: kept (object array)."""
    reasons = store.read_table(verdicts).column("reason").to_numpy(zero_copy_only=False).astype(object)
    repeats = store.read_table(duplicates, ["reason"]).column("reason").to_numpy(zero_copy_only=False)
    return np.asarray(np.where(reasons == "", repeats, reasons))


def digest_of(records: Sequence[Record]) -> str:
    """A hash of the content of several units."""
    return hashlib.sha256("".join(record.digest for record in records).encode()).hexdigest()
