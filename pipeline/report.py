"""The report of a build: one self-contained page, its figures as JSON, and each table of figures as Parquet.

``write`` puts ``report/NAME/index.html``, ``figures.json`` and ``*.parquet`` into the build's directory. The page opens
offline, asks for nothing from outside, and escapes every word that comes from the world. It stands outside the root
digest: it holds times.
"""

import platform
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import orjson
import yaml

from pipeline import annotate, crawl, tokenize
from pipeline.figures import SPLITS, figures
from pipeline.fingerprint import library_version
from pipeline.manifest import Manifest
from pipeline.progress import human_bytes, human_time
from pipeline.records import Record
from pipeline.verify import read_index

if TYPE_CHECKING:
    from pipeline.build import Build

STEP_ROLES = {
    "crawl": "documents",
    "annotate": "language",
    "judge": "verdicts",
    "deduplicate": "duplicates",
    "tokenize": "tokens",
    "select": "selection",
    "plan": "plan",
}
_ENGINE = ("apache-beam", "pyarrow", "numpy", "numba")
_MOST_ROWS = 1000

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def write(build: "Build", records: Sequence[Record], digest: str, seconds: float) -> str:
    """Write the report of a build that ran ``seconds``; gives the path (or URL) of the page."""
    store, manifest = build.store, build.manifest
    folder = f"report/{manifest.name}"
    tables = figures(store, manifest, records)
    for name, table in tables.items():
        store.write_table(f"{folder}/{name}.parquet", table.schema, [table.combine_chunks()])
    facts: Row = {"name": manifest.name, "root_digest": digest, "until": last_step(records), "sample": build.sample}
    facts |= {"seconds": seconds, "versions": versions(), "tables": {n: t.to_pylist() for n, t in tables.items()}}
    store.write_json(f"{folder}/figures.json", facts)
    path = f"{folder}/index.html"
    store.write(path, render(facts, manifest, _manifest_text(build), records).encode())
    return store.full(path) if store.is_local else f"{store.url.rstrip('/')}/{path}"


def last_step(records: Sequence[Record]) -> str:
    """The last step that these records come from."""
    roles = {record.stage.role for record in records}
    return [step for step, role in STEP_ROLES.items() if role in roles or step == "crawl"][-1]


def versions() -> dict[str, str]:
    """What made the build: headrace, Python, Unicode tables, the engine, and the libraries that decide content."""
    decisive = {*crawl.LIBRARIES, *tokenize.LIBRARIES, "tokenizers"}.union(*annotate.LIBRARIES.values())
    found = {"headrace": version("headrace"), "Python": platform.python_version()}
    found["Unicode"] = unicodedata.unidata_version
    return found | {name: library_version(name) for name in (*_ENGINE, *sorted(decisive - {*_ENGINE}))}


def _manifest_text(build: "Build") -> str:
    try:
        text = str(read_index(build.store, build.manifest.name)["manifest"])
    except FileNotFoundError:
        text = ""
    if text:
        return text
    value = orjson.loads(build.manifest.model_dump_json(exclude_defaults=True))
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def render(facts: Row, manifest: Manifest, manifest_text: str, records: Sequence[Record]) -> str:
    """The page, from the facts that ``figures.json`` holds."""
    tables: Tables = facts["tables"]
    is_tokenized = any(row["stage"] == "samples" for row in tables["funnel"])
    sections = [
        ("funnel", "From offered to planned", _funnel(tables["funnel"])),
        ("languages", "Languages", _languages(tables["languages"], tables["evidence"])),
        ("kinds", "Kinds", _groups(tables["kinds"], "kind", "Kind")),
        ("sources", "Sources", _sources(tables["sources"])),
        ("mixture", "Mixture", _mixture(tables["mixture"], manifest) if is_tokenized else ""),
        ("contamination", "Benchmark overlap", _contamination(tables["contamination"])),
        ("redactions", "Redactions", _redactions(tables["redactions"])),
        ("stages", "Time and throughput", _stages(tables["stages"], facts["seconds"])),
        ("versions", "Versions", _versions(facts["versions"], records)),
        ("manifest", "Manifest", f"<pre tabindex='0'>{escape(manifest_text)}</pre>"),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f"<a href='#{key}'>{title}</a>" for key, title, _ in shown)
    name = escape(facts["name"])
    body = f"<header><h1>{name}</h1><p class='digest'>root digest <code>{escape(facts['root_digest'])}</code></p>"
    body += f"{_notes(facts)}{_tiles(tables, manifest, facts['seconds'])}<nav>{links}</nav></header><main>"
    body += "".join(f"<section id='{key}'><h2>{title}</h2>{content}</section>" for key, title, content in shown)
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return template.substitute(title=f"{name} – Headrace", body=f"{body}</main>")


def _notes(facts: Row) -> str:
    notes = []
    if facts["until"] != "plan":
        notes.append(f"This build stopped after the step <b>{facts['until']}</b>; what comes later isn't there yet.")
    if facts["sample"] < 1:
        notes.append(f"Only a share of {_percent(facts['sample'])} of the input units was taken (<b>--sample</b>).")
    return "".join(f"<p class='note'>{note}</p>" for note in notes)


def _tiles(tables: Tables, manifest: Manifest, seconds: float) -> str:
    at = {row["stage"]: row for row in tables["funnel"] if not row["outcome"]}
    offered, documents = at["offered"]["documents"], at["documents"]["documents"]
    tiles = [(_short(offered), "rows offered"), (_short(documents), "documents")]
    tiles.append((human_bytes(at["documents"]["text_bytes"]), "of text"))
    if "kept" in at:
        kept = at["kept"]
        share = _percent(kept["documents"] / documents) if documents else "none"
        tiles.append((_short(kept["documents"]), f"documents kept ({share})"))
        tiles.append((human_bytes(kept["text_bytes"]), "of text kept"))
        names = {row["language"] for row in tables["languages"] if row["kept_documents"]}
        tiles.append((_short(len(names)), "languages kept"))
    if "samples" in at:
        tokens, size = at["samples"]["tokens"], at["samples"]["text_bytes"]
        tiles.append((_short(tokens), f"tokens ({size / tokens:.2f} bytes each)" if tokens else "tokens"))
    if "planned" in at:
        sequences = sum(row["sequences"] or 0 for row in tables["mixture"])
        tiles.append((_short(sequences), f"sequences of {manifest.plan.sequence_length:,} tokens to train on"))
    tiles.append((_time(seconds), "time of the last run"))
    return "<dl class='tiles'>" + "".join(f"<div><dt>{what}</dt><dd>{n}</dd></div>" for n, what in tiles) + "</dl>"


@dataclass(frozen=True)
class _Column:
    """A column of a table: heading, what a cell shows (HTML), and by what number it sorts."""

    title: str
    show: Callable[[Row], str]
    number: Callable[[Row], float] | None = None
    is_bar: bool = False


def _count(title: str, key: str) -> _Column:
    return _Column(title, lambda row: _number(row[key]), lambda row: row[key] or 0)


def _size(title: str, key: str) -> _Column:
    return _Column(title, lambda row: "" if row[key] is None else human_bytes(row[key]), lambda row: row[key] or 0)


def _share(title: str, key: str) -> _Column:
    return _Column(title, lambda row: "" if row[key] is None else _percent(row[key]), lambda row: row[key] or 0)


def _text(title: str, key: str) -> _Column:
    return _Column(title, lambda row: f"<bdi>{escape(str(row[key]))}</bdi>")


def _bar(title: str, parts: Callable[[Row], Iterable[tuple[str, float, float, int]]]) -> _Column:
    return _Column(title, lambda row: _svg(parts(row)), is_bar=True)


def _svg(parts: Iterable[tuple[str, float, float, int]]) -> str:
    """Bars (class, start and width as shares of the whole, line 0 or 1; line 2: both); the numbers stand beside."""
    rects = []
    for name, start, width, line in parts:
        if width > 0:
            x, w = min(1000 * start, 997.0), max(1000 * width, 3.0)
            y, height = (3, 12) if line == 2 else (2 + 7 * line, 6)
            rects.append(f"<rect class='{name}' x='{x:.1f}' y='{y}' width='{w:.1f}' height='{height}'/>")
    return f"<svg viewBox='0 0 1000 18' preserveAspectRatio='none' aria-hidden='true'>{''.join(rects)}</svg>"


def _table(
    caption: str,
    columns: Sequence[_Column],
    rows: Sequence[Row],
    row_class: Callable[[Row], str] = lambda row: "",
    sortable: bool = False,
) -> str:
    kinds = ["bar" if c.is_bar else "n" if c.number else "" for c in columns]
    heads = "".join(f"<th scope='col' class='{k}'>{c.title}</th>" for c, k in zip(columns, kinds, strict=True))
    lines = []
    for row in rows:
        cells = [f"<th scope='row'>{columns[0].show(row)}</th>"]
        for column, kind in zip(columns[1:], kinds[1:], strict=True):
            value = f" data-v='{column.number(row)}'" if sortable and column.number else ""
            cells.append(f"<td class='{kind}'{value}>{column.show(row)}</td>")
        lines.append(f"<tr class='{row_class(row)}'>{''.join(cells)}</tr>")
    return (
        f"<div class='wide' tabindex='0' role='region' aria-label='{caption}'>"
        f"<table class='{'sortable' if sortable else ''}'><caption>{caption}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _key(*entries: tuple[str, str]) -> str:
    return "<p>" + "".join(f"<span class='key {name}'></span>{text}" for name, text in entries) + "</p>"


_STAGES = {"rejected": "rejected: ", "dropped": "dropped: ", "left_out": "left out: "}


def _funnel(rows: Sequence[Row]) -> str:
    at = {row["stage"]: row for row in rows if not row["outcome"]}
    offered, text = at["offered"]["documents"], at["documents"]["text_bytes"]
    left: dict[str, int] = {"documents": offered, "text_bytes": text}
    drawn = []
    for row in rows:
        is_drop, bars = row["stage"] in _STAGES, []
        for line, (key, whole) in enumerate((("documents", offered), ("text_bytes", text))):
            value = row[key] or 0
            left[key] = left[key] - value if is_drop else left[key] if row[key] is None else value
            start, name = (left[key], "drop") if is_drop else (0, "kept")
            if whole and row[key] is not None:
                bars.append((name + ("-2" if line else ""), start / whole, value / whole, line))
        share = row["documents"] / offered if offered else None
        label = _STAGES.get(row["stage"], row["stage"]) + row["outcome"].replace("_", " ")
        drawn.append(row | {"bars": bars, "share": share, "label": label, "class": "sub" if is_drop else "main"})
    columns = [
        _text("Step and outcome", "label"),
        _bar("", lambda row: row["bars"]),
        _count("Rows", "documents"),
        _share("of offered", "share"),
        _size("Raw", "raw_bytes"),
        _size("Text", "text_bytes"),
        _count("Tokens", "tokens"),
    ]
    key = _key(("kept", "rows"), ("kept-2", "text"), ("drop", "rows that go"), ("drop-2", "their text"))
    intro = (
        "<p>Every row that the sources offered has one outcome: the first reason that applied. Nothing vanishes.</p>"
    )
    return intro + key + _table("Outcomes", columns, drawn, lambda row: row["class"])


def _languages(rows: Sequence[Row], evidence: Sequence[Row]) -> str:
    if not rows:
        return ""
    told: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for entry in evidence:
        told.setdefault((entry["language"], entry["kind"]), []).append((-entry["documents"], entry["evidence"]))
    shown = [
        row | {"by": ", ".join(f"{name} {-n:,}" for n, name in sorted(told[row["language"], row["kind"]])[:2])}
        for row in rows[:_MOST_ROWS]
    ]
    more = f"<p>The first {_MOST_ROWS:,} of {len(rows):,}; all stand in languages.parquet.</p>" * (
        len(rows) > _MOST_ROWS
    )
    return more + _groups(shown, "language", "Language", [_text("Kind", "kind")], [_text("Told by", "by")])


def _groups(
    rows: Sequence[Row], key: str, title: str, before: Sequence[_Column] = (), after: Sequence[_Column] = ()
) -> str:
    if not rows:
        return ""
    most, is_judged = max(row["text_bytes"] for row in rows) or 1, rows[0]["kept_bytes"] is not None

    def parts(row: Row) -> list[tuple[str, float, float, int]]:
        kept, whole = (row["kept_bytes"] or 0) / most, row["text_bytes"] / most
        return [("rest" if is_judged else "kept-2", kept, whole - kept, 2), ("kept", 0, kept, 2)]

    columns = [
        _text(title, key),
        _bar("", parts),
        *before,
        _count("Documents", "documents"),
        _count("kept", "kept_documents"),
        _size("Text", "text_bytes"),
        _size("kept", "kept_bytes"),
        _count("Tokens", "tokens"),
        _count("Exact duplicates", "exact_duplicates"),
        _count("Near-duplicates", "near_duplicates"),
        *after,
    ]
    entries = [("kept", "text kept"), ("rest", "text dropped")] if is_judged else [("kept-2", "text")]
    return _key(*entries) + _table(f"{title}s", columns, rows, sortable=True)


def _sources(rows: Sequence[Row]) -> str:
    columns = [_text("Reads", "reads"), _count("Units", "units"), _count("Offered", "offered")]
    return _groups(rows, "source", "Source", [*columns, _count("Rejected", "rejected")])


def _mixture(rows: Sequence[Row], manifest: Manifest) -> str:
    def parts(row: Row) -> list[tuple[str, float, float, int]]:
        return [("kept", 0, row["asked_share"] or 0, 0), ("kept-2", 0, row["share"] or 0, 1)]

    def passes(row: Row) -> str:
        return "" if row["passes"] is None else f"{row['passes']:.2f}"

    columns = [
        _text("Component", "component"),
        _bar("", parts),
        _share("Asked", "asked_share"),
        _share("There is", "share"),
        *(_count(f"Tokens, {split.replace('_', '-')}", f"{split}_tokens") for split in SPLITS),
        _share("in FIM", "fim_share"),
        _count("Sequences, train", "sequences"),
        _share("Padding", "padding_share"),
        _Column("Passes", passes, lambda row: row["passes"] or 0),
    ]
    shown = [row | {"fim_share": row["fim_tokens"] / row["tokens"] if row["tokens"] else None} for row in rows]
    budget = manifest.mixture.budget_tokens
    text = "<p>The loader draws each component by the share asked; what there is only says how often it is seen. "
    if budget:
        text += f"Passes: how often a run of {budget:,} tokens sees each component."
    elif manifest.mixture.weights:
        text += "Give <code>mixture.budget_tokens</code> to see how often."
    key = _key(("kept", "share asked"), ("kept-2", "share of the tokens to train on"))
    return f"{text}</p>{key}" + _table("Mixture asked and got", columns, shown)


def _contamination(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    columns = [
        _text("Benchmark", "benchmark"),
        _count("Items", "items"),
        _count("Items hit", "items_hit"),
        _count("Documents that share words", "documents_hit"),
        _count("dropped for it", "documents_dropped"),
        _size("Text dropped", "bytes_dropped"),
    ]
    return "<p>By the first item hit.</p>" + _table("Benchmark overlap", columns, rows)


def _redactions(rows: Sequence[Row]) -> str:
    kinds = sorted({row["kind"] for row in rows})
    by_source: dict[str, Row] = {}
    for row in rows:
        by_source.setdefault(row["source"], dict.fromkeys(kinds, 0) | {"source": row["source"]})
        by_source[row["source"]][row["kind"]] = row["replaced"]
    columns = [_text("Source", "source"), *(_count(escape(f"<{kind}>"), kind) for kind in kinds)]
    return _table("Placeholders put in", columns, list(by_source.values())) if rows else ""


def _stages(rows: Sequence[Row], seconds: float) -> str:
    if not rows:
        return ""
    whole = sum(row["cpu_seconds"] for row in rows) or 1.0
    columns = [
        _text("Pass", "pass"),
        _bar("", lambda row: [("kept", 0, row["cpu_seconds"] / whole, 2)]),
        _count("Units", "units"),
        _count("Processes", "workers"),
        _size("Text", "text_bytes"),
        _Column("Time of all units", lambda row: _time(row["seconds"]), lambda row: row["seconds"]),
        _Column("CPU time", lambda row: _time(row["cpu_seconds"]), lambda row: row["cpu_seconds"]),
        _Column("MB/s per core", lambda row: f"{row['mb_per_core_second'] or 0:.1f}", lambda row: 0),
    ]
    text = "Each unit's last run, which may be of an earlier build command; a worker's first unit loads and compiles."
    text += f" The last command took {_time(seconds)}."
    return f"<p>{text}</p>{_key(('kept', 'share of the CPU time'))}" + _table("Passes", columns, rows)


def _versions(found: dict[str, str], records: Sequence[Record]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in found.items())
    stages = sorted({(r.stage.role, r.stage.source, r.stage.fingerprint) for r in records})
    prints = [{"role": role, "source": source, "print": print_} for role, source, print_ in stages]
    columns = [_text("Stage", "role"), _text("Source", "source"), _text("Fingerprint", "print")]
    table = _table("Stages", columns, prints)
    return f"<dl class='pairs'>{pairs}</dl><details><summary>Fingerprints of the stages</summary>{table}</details>"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _short(value: float) -> str:
    """A count that a person can read: 99,999 or 2.52 M."""
    if value < 100_000:
        return f"{value:,.0f}"
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.3g} {unit}".strip()
        value /= 1000
    raise AssertionError


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else human_time(seconds)
