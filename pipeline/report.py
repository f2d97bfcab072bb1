"""The report of a build: one self-contained page, its figures as JSON, and each table of figures as Parquet.

``write`` puts ``report/NAME/index.html``, ``figures.json`` and ``*.parquet`` into the build's directory. The page opens
offline, asks for nothing from outside, and escapes every word that comes from the world. It stands outside the root
digest: it holds times.
"""

import platform
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import yaml

from pipeline import annotate, crawl, page, tokenize
from pipeline.figures import SPLITS
from pipeline.fingerprint import library_version
from pipeline.manifest import Manifest
from pipeline.progress import human_bytes
from pipeline.records import Record
from pipeline.store import Store
from pipeline.timings import made

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
_MOST_ROWS, _MOST_ITEMS = 1000, 20

Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Told:
    """What a command says of a report: where its page lies, what is empty in the build, whether anything was made."""

    page: str
    gaps: tuple[str, ...]
    is_new: bool


def write(
    build: "Build", records: Sequence[Record], tables: Mapping[str, pa.Table], digest: str, seconds: float
) -> Told:
    """Write the report of a build from its tables of figures; the last command took ``seconds``."""
    store, manifest = build.store, build.manifest
    folder = f"report/{manifest.name}"
    for name, table in tables.items():
        store.write_table(f"{folder}/{name}.parquet", table.schema, [table.combine_chunks()])
    facts: Row = {"name": manifest.name, "root_digest": digest, "until": last_step(records), "sample": build.sample}
    facts |= {"seconds": seconds, "versions": versions(), "tables": {n: t.to_pylist() for n, t in tables.items()}}
    facts["made"] = made(_made_before(store, folder), facts["tables"]["stages"], build.sample, seconds)
    store.write_json(f"{folder}/figures.json", facts)
    path = f"{folder}/index.html"
    store.write(path, render(facts, manifest, _text_of(manifest), records).encode())
    where = store.full(path) if store.is_local else f"{store.url.rstrip('/')}/{path}"
    return Told(where, tuple(map(_gap, facts["tables"]["gaps"])), facts["made"]["is_new"])


def _made_before(store: Store, folder: str) -> Row:
    try:
        return dict(store.read_json(f"{folder}/figures.json")["made"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _gap(row: Row) -> str:
    return f"{row['what']} {row['name']} is empty: {row['reason']}"


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


def _text_of(manifest: Manifest) -> str:
    """The manifest as it was written, else (it was made in a program) as YAML."""
    value = orjson.loads(manifest.model_dump_json(exclude_defaults=True))
    return manifest.text or str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


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
        ("contamination", "Benchmark overlap", _contamination(tables["contamination"], tables["hits"])),
        ("redactions", "Redactions", _redactions(tables["redactions"])),
        ("stages", "Time and throughput", _stages(tables["stages"], _times(facts))),
        ("versions", "Versions", _versions(facts["versions"], records)),
        ("manifest", "Manifest", f"<pre tabindex='0'>{escape(manifest_text)}</pre>"),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f"<a href='#{key}'>{title}</a>" for key, title, _ in shown)
    name = escape(facts["name"])
    body = f"<header><h1>{name}</h1><p class='digest'>root digest <code>{escape(facts['root_digest'])}</code></p>"
    body += f"{_notes(facts)}{_tiles(tables, manifest, facts)}<nav>{links}</nav></header><main>"
    body += "".join(f"<section id='{key}'><h2>{title}</h2>{content}</section>" for key, title, content in shown)
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return template.substitute(title=f"{name} – Headrace", body=f"{body}</main>")


def _notes(facts: Row) -> str:
    notes = []
    if facts["until"] != "plan":
        notes.append(f"This build stopped after the step <b>{facts['until']}</b>; what comes later isn't there yet.")
    if facts["sample"] < 1:
        notes.append(f"Only some {page.percent(facts['sample'])} of the input units were taken (<b>--sample</b>).")
    notes += [f"The {escape(_gap(row))}." for row in facts["tables"]["gaps"]]
    return "".join(f"<p class='note'>{note}</p>" for note in notes)


def _times(facts: Row) -> str:
    """What the last command took, and the last one that made something."""
    if facts["made"]["is_new"]:
        return f"The last command took {page.duration(facts['seconds'])}."
    took = f"The last command found everything up to date in {page.duration(facts['seconds'])}"
    return f"{took}; the last one that made something took {page.duration(facts['made']['seconds'])}."


def _tiles(tables: Tables, manifest: Manifest, facts: Row) -> str:
    at = {row["stage"]: row for row in tables["funnel"] if not row["outcome"]}
    offered, documents = at["offered"]["documents"], at["documents"]["documents"]
    tiles = [(page.short(offered), "rows offered"), (page.short(documents), "documents")]
    tiles.append((human_bytes(at["documents"]["text_bytes"]), "of text"))
    if "kept" in at:
        kept = at["kept"]
        share = page.percent(kept["documents"] / documents) if documents else "none"
        tiles.append((page.short(kept["documents"]), f"documents kept ({share})"))
        tiles.append((human_bytes(kept["text_bytes"]), "of text kept"))
        names = {row["language"] for row in tables["languages"] if row["kept_documents"]}
        tiles.append((page.short(len(names)), "languages kept"))
    if "samples" in at:
        tokens, size = at["samples"]["tokens"], at["samples"]["text_bytes"]
        tiles.append((page.short(tokens), f"tokens ({size / tokens:.2f} bytes each)" if tokens else "tokens"))
    if "planned" in at:
        sequences = sum(row["sequences"] or 0 for row in tables["mixture"])
        tiles.append((page.short(sequences), f"sequences of {manifest.plan.sequence_length:,} tokens to train on"))
    seconds = page.duration(facts["seconds"])
    what = (
        "time of the last run"
        if facts["made"]["is_new"]
        else f"last run that made something; found up to date in {seconds}"
    )
    tiles.append((page.duration(facts["made"]["seconds"]), what))
    return "<dl class='tiles'>" + "".join(f"<div><dt>{what}</dt><dd>{n}</dd></div>" for n, what in tiles) + "</dl>"


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
        page.text("Step and outcome", "label"),
        page.bar("", lambda row: row["bars"]),
        page.count("Rows", "documents"),
        page.share("of offered", "share"),
        page.size("Raw", "raw_bytes"),
        page.size("Text", "text_bytes"),
        page.count("Tokens", "tokens"),
    ]
    key = page.key(("kept", "rows"), ("kept-2", "text"), ("drop", "rows that go"), ("drop-2", "their text"))
    intro = (
        "<p>Every row that the sources offered has one outcome: the first reason that applied. Nothing vanishes.</p>"
    )
    return intro + key + page.table("Outcomes", columns, drawn, lambda row: row["class"])


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
    return more + _groups(shown, "language", "Language", [page.text("Kind", "kind")], [page.text("Told by", "by")])


def _groups(
    rows: Sequence[Row], key: str, title: str, before: Sequence[page.Column] = (), after: Sequence[page.Column] = ()
) -> str:
    if not rows:
        return ""
    most, is_judged = max(row["text_bytes"] for row in rows) or 1, rows[0]["kept_bytes"] is not None

    def parts(row: Row) -> list[tuple[str, float, float, int]]:
        kept, whole = (row["kept_bytes"] or 0) / most, row["text_bytes"] / most
        return [("rest" if is_judged else "kept-2", kept, whole - kept, 2), ("kept", 0, kept, 2)]

    columns = [
        page.text(title, key),
        page.bar("", parts),
        *before,
        page.count("Documents", "documents"),
        page.count("kept", "kept_documents"),
        page.size("Text", "text_bytes"),
        page.size("kept", "kept_bytes"),
        page.count("Tokens", "tokens"),
        page.count("Exact duplicates", "exact_duplicates"),
        page.count("Near-duplicates", "near_duplicates"),
        *after,
    ]
    entries = [("kept", "text kept"), ("rest", "text dropped")] if is_judged else [("kept-2", "text")]
    return page.key(*entries) + page.table(f"{title}s", columns, rows, sortable=True)


def _sources(rows: Sequence[Row]) -> str:
    columns = [page.text("Reads", "reads"), page.count("Units", "units"), page.count("Offered", "offered")]
    return _groups(rows, "source", "Source", [*columns, page.count("Rejected", "rejected")])


def _mixture(rows: Sequence[Row], manifest: Manifest) -> str:
    def parts(row: Row) -> list[tuple[str, float, float, int]]:
        return [("kept", 0, row["asked_share"] or 0, 0), ("kept-2", 0, row["share"] or 0, 1)]

    def passes(row: Row) -> str:
        return "" if row["passes"] is None else f"{row['passes']:.2f}"

    columns = [
        page.text("Component", "component"),
        page.bar("", parts),
        page.share("Asked", "asked_share"),
        page.share("There is", "share"),
        *(page.count(f"Tokens, {split.replace('_', '-')}", f"{split}_tokens") for split in SPLITS),
        page.share("in FIM", "fim_share"),
        page.count("Sequences, train", "sequences"),
        page.share("Padding", "padding_share"),
        page.Column("Passes", passes, lambda row: row["passes"] or 0),
    ]
    shown = [row | {"fim_share": row["fim_tokens"] / row["tokens"] if row["tokens"] else None} for row in rows]
    budget = manifest.mixture.budget_tokens
    text = "<p>The loader draws each component by the share asked; what there is only says how often it is seen. "
    if budget:
        text += f"Passes: how often a run of {budget:,} tokens sees each component."
    elif manifest.mixture.weights:
        text += "Give <code>mixture.budget_tokens</code> to see how often."
    key = page.key(("kept", "share asked"), ("kept-2", "share of the tokens to train on"))
    return f"{text}</p>{key}" + page.table("Mixture asked and got", columns, shown)


def _contamination(rows: Sequence[Row], hits: Sequence[Row]) -> str:
    if not rows:
        return ""
    documents = [
        page.count("Documents that share words", "documents_hit"),
        page.count("dropped for it", "documents_dropped"),
        page.size("Text dropped", "bytes_dropped"),
    ]
    name, columns = (
        page.text("Benchmark", "benchmark"),
        [page.count("Items", "items"), page.count("Items hit", "items_hit")],
    )
    told = "<p>A document counts for the first item that it hits.</p>"
    told += page.table("Benchmark overlap", [name, *columns, *documents], rows)
    if hits:
        most = f"The {_MOST_ITEMS} items hit most, of {len(hits):,}; all stand in hits.parquet."
        told += f"<p>{most if len(hits) > _MOST_ITEMS else 'The items hit, most first.'}</p>"
        told += page.table("Items hit", [name, page.text("Item", "item"), *documents], hits[:_MOST_ITEMS])
    return told


def _redactions(rows: Sequence[Row]) -> str:
    kinds = sorted({row["kind"] for row in rows})
    by_source: dict[str, Row] = {}
    for row in rows:
        by_source.setdefault(row["source"], dict.fromkeys(kinds, 0) | {"source": row["source"]})
        by_source[row["source"]][row["kind"]] = row["replaced"]
    columns = [page.text("Source", "source"), *(page.count(escape(f"<{kind}>"), kind) for kind in kinds)]
    return page.table("Placeholders put in", columns, list(by_source.values())) if rows else ""


def _stages(rows: Sequence[Row], times: str) -> str:
    if not rows:
        return ""
    whole, seconds = sum(row["cpu_seconds"] for row in rows) or 1.0, sum(row["seconds"] for row in rows)
    columns = [
        page.text("Pass", "pass"),
        page.bar("", lambda row: [("kept", 0, row["cpu_seconds"] / whole, 2)]),
        page.count("Units", "units"),
        page.count("Processes", "workers"),
        page.size("Text", "text_bytes"),
        page.Column("Time of all units", lambda row: page.duration(row["seconds"]), lambda row: row["seconds"]),
        page.Column("CPU time", lambda row: page.duration(row["cpu_seconds"]), lambda row: row["cpu_seconds"]),
        page.Column("MB/s per core", lambda row: f"{row['mb_per_core_second'] or 0:.1f}", lambda row: 0),
    ]
    text = f"{times} Below are the times and rates of the run that made each unit, {page.duration(seconds)} in all "
    text += "processes together; a worker's first unit loads and compiles."
    return f"<p>{text}</p>{page.key(('kept', 'share of the CPU time'))}" + page.table("Passes", columns, rows)


def _versions(found: dict[str, str], records: Sequence[Record]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in found.items())
    stages = sorted({(r.stage.role, r.stage.source, r.stage.fingerprint) for r in records})
    prints = [{"role": role, "source": source, "print": print_} for role, source, print_ in stages]
    columns = [page.text("Stage", "role"), page.text("Source", "source"), page.text("Fingerprint", "print")]
    table = page.table("Stages", columns, prints)
    return f"<dl class='pairs'>{pairs}</dl><details><summary>Fingerprints of the stages</summary>{table}</details>"
