"""Judge: from measured values to one verdict a document, reading tables only.

The first reason in one fixed order drops a document: repeated, language, rules 1 to 5 (or the rules for prose and
pages), contamination, selection (no component of the mixture wants it). DeepSeek-Coder-V2, section 2.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import prose, rules
from pipeline.manifest import Component, Languages, Manifest, Rules
from pipeline.records import Record, Stage, commit, find
from pipeline.schemas import VERDICTS
from pipeline.store import Store, fixed_rows

MODULES = ("pipeline.judge", "filters.rules", "filters.prose")
CODE_REASONS = ("", "rule_1_lines", "rule_2_alphabetic", "rule_3_xml", "rule_4_html", "rule_5_data")
PROSE_REASONS = {k: ("", *(f"{k}_{reason}" for reason in prose.PROSE_REASONS[1:])) for k in ("prose", "page")}
REPEATED, LANGUAGE, CONTAMINATION, SELECTION = "repeated", "language", "contamination", "selection"
REASONS = (
    "",
    REPEATED,
    LANGUAGE,
    *CODE_REASONS[1:],
    *(reason for reasons in PROSE_REASONS.values() for reason in reasons[1:]),
    CONTAMINATION,
    SELECTION,
)
_NUMBER = {reason: number for number, reason in enumerate(REASONS)}
_SETTLED_AT_ONCE = 1 << 22
"""Repeated documents of which revision and locator are held at once."""

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
    language: pa.Table,
    measures: pa.Table,
    contamination: pa.Table,
    forms: pa.ChunkedArray,
    source: str,
    manifest: Manifest,
) -> NDArray[np.uint8]:
    """The number in ``REASONS`` of the first reason that drops each document, 0: none."""
    cases, case = _cases(language, forms)
    kinds, is_kept = effective_kind(cases, cases.column("form").to_numpy(), manifest.languages)
    is_wanted = component_of(kinds, source, cases.column("language").to_numpy(), manifest.components) != ""
    reasons = np.where(is_kept, 0, _NUMBER[LANGUAGE]).astype(np.uint8)[case]
    _by_kind(reasons, kinds.astype(str), case, language, measures, manifest.rules)
    is_hit = contamination.column("n_hits").to_numpy() > 0
    reasons[(reasons == 0) & is_hit] = _NUMBER[CONTAMINATION]
    reasons[(reasons == 0) & ~is_wanted[case]] = _NUMBER[SELECTION]
    return reasons


def _cases(language: pa.Table, forms: pa.ChunkedArray) -> tuple[pa.Table, NDArray[np.int64]]:
    """The different (language, kind, form) of the rows, some hundred, and which of them each row has."""
    columns = {"language": language.column("language"), "kind": language.column("kind"), "form": forms}
    encoded = [column.combine_chunks().dictionary_encode() for column in columns.values()]
    sizes = [max(1, len(column.dictionary)) for column in encoded]
    number = np.ravel_multi_index([column.indices.to_numpy() for column in encoded], sizes)
    is_there = np.bincount(number, minlength=math.prod(sizes)) > 0
    places = np.unravel_index(np.flatnonzero(is_there), sizes)
    cases = [column.dictionary.take(pa.array(place)) for column, place in zip(encoded, places, strict=True)]
    return pa.table(cases, names=list(columns)), (np.cumsum(is_there) - 1)[number]


def _by_kind(
    reasons: NDArray[np.uint8],
    kinds: np.ndarray,
    case: NDArray[np.int64],
    language: pa.Table,
    measures: pa.Table,
    configuration: Rules,
) -> None:
    """``kinds`` are those of the cases."""
    is_open = reasons == 0
    code = np.flatnonzero(is_open & np.isin(kinds, ("code", "data"))[case])
    if len(code):
        values, names = _take(measures, code), _take(language.select(["language"]), code).column(0)
        is_code = (kinds == "code")[case[code]]
        numbers = rules.judge_code(
            values, names, values.column("visible_chars").to_numpy(), configuration.code, is_code
        )
        reasons[code] = _numbers(CODE_REASONS)[numbers]
    for kind, thresholds in (("prose", configuration.prose), ("page", configuration.page)):
        rows = np.flatnonzero(is_open & (kinds == kind)[case])
        if len(rows):
            numbers = prose.judge_prose(_prose_measures(_take(measures, rows)), thresholds)
            reasons[rows] = _numbers(PROSE_REASONS[kind])[numbers]


def _numbers(reasons: Sequence[str]) -> NDArray[np.uint8]:
    return np.array([_NUMBER[reason] for reason in reasons], np.uint8)


def _take(table: pa.Table, rows: NDArray[np.int64]) -> pa.RecordBatch:
    return table.take(pa.array(rows)).combine_chunks().to_batches()[0]


def _prose_measures(measures: pa.RecordBatch) -> pa.RecordBatch:
    names = [name for name in measures.schema.names if name.startswith("prose_")]
    return pa.RecordBatch.from_arrays(
        [measures.column(name) for name in names], names=[name.removeprefix("prose_") for name in names]
    )


def repeated_rows(shards: Sequence[Shard], store: Store) -> dict[str, NDArray[np.int64]]:
    """Rows whose id stands in the build already: of equal ids the one with the least (revision, locator, shard, row)
    is kept. Holds 8 bytes a document; reads revisions and locators of ids that may be repeated only."""
    words = np.empty(sum(shard.rows for shard in shards), np.uint64)
    end = 0
    for shard in shards:
        start, end = end, end + shard.rows
        words[start:end] = _first_words(store, shard)
    words.sort()
    again = words[1:][words[1:] == words[:-1]]
    del words
    suspects = np.unique(again)
    names = sorted(f"{shard.source}/{shard.name}" for shard in shards)
    place = {name: number for number, name in enumerate(names)}
    repeated: dict[str, list[NDArray[np.int64]]] = {}
    for some in np.split(suspects, np.searchsorted(suspects, again[_SETTLED_AT_ONCE::_SETTLED_AT_ONCE])):
        if len(some):
            for number, rows in _settle(shards, place, store, some):
                repeated.setdefault(names[number], []).append(rows)
    return {name: np.sort(np.concatenate(repeated[name])) for name in sorted(repeated)}


def _settle(
    shards: Sequence[Shard], place: Mapping[str, int], store: Store, suspects: NDArray[np.uint64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Places of shards with their repeated rows; ids that begin with other words than ``suspects`` are left aside."""
    tables = []
    for shard in shards:
        words = _first_words(store, shard)
        at = np.minimum(np.searchsorted(suspects, words), len(suspects) - 1)
        rows = np.flatnonzero(suspects[at] == words)
        if len(rows):
            table = store.read_table(shard.path, ["id", "revision", "locator"]).take(pa.array(rows))
            table = table.append_column("shard", pa.array(np.full(len(rows), place[f"{shard.source}/{shard.name}"])))
            tables.append(table.append_column("row", pa.array(rows)))
    found = pa.concat_tables(tables)
    order = pc.sort_indices(found, [(name, "ascending") for name in ("id", "revision", "locator", "shard", "row")])
    found = found.select(["id", "shard", "row"]).take(order)
    ids = fixed_rows(found.column("id"))
    is_again = np.append(False, (ids[1:] == ids[:-1]).all(axis=1))
    number, row = (found.column(name).to_numpy()[is_again] for name in ("shard", "row"))
    by_shard = np.argsort(number, kind="stable")
    different, starts = np.unique(number[by_shard], return_index=True)
    bounds = pairwise([*starts.tolist(), len(row)])
    yield from zip(different.tolist(), (row[by_shard[a:b]] for a, b in bounds), strict=True)


def _first_words(store: Store, shard: Shard) -> NDArray[np.uint64]:
    return fixed_rows(store.read_table(shard.path, ["id"]).column("id")).view(np.uint64)[:, 0]


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
    wanted = {"language": ["language", "kind"], "measures": None, "contamination": ["n_hits"]}
    tables = {n: store.read_table(shard.tables[n].files[0].path, columns) for n, columns in wanted.items()}
    forms = store.read_table(shard.path, ["form"]).column("form")
    reasons = judge(**tables, forms=forms, source=shard.source, manifest=manifest)
    reasons[rows] = _NUMBER[REPEATED]
    column = pa.array(REASONS, pa.string()).take(pa.array(reasons))
    written = store.write_table(
        stage.file(shard.name), VERDICTS, [pa.RecordBatch.from_arrays([column], schema=VERDICTS)]
    )
    if written.rows != shard.rows:
        raise AssertionError(f"{shard.name}: {shard.rows} documents, {written.rows} verdicts")
    counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
    outcomes = {reason: count for reason, count in sorted(zip(REASONS, counts, strict=True)) if count}
    return commit(store, Record(stage, shard.name, inputs, (written,), {"outcomes": outcomes}))


def outcomes(store: Store, verdicts: str, duplicates: str) -> np.ndarray:
    """The first reason of each document of a shard, from the tables at these paths; empty: kept (object array)."""
    reasons = store.read_table(verdicts).column("reason").to_numpy(zero_copy_only=False).astype(object)
    repeats = store.read_table(duplicates, ["reason"]).column("reason").to_numpy(zero_copy_only=False)
    return np.asarray(np.where(reasons == "", repeats, reasons))


def digest_of(records: Sequence[Record]) -> str:
    """A hash of the content of several units."""
    return hashlib.sha256("".join(record.digest for record in records).encode()).hexdigest()
