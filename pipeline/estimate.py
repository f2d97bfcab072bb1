"""Estimate: what a build would do before anything starts (``headrace plan``). Reads records only, writes nothing.

Every unit is either there and made from what it would be made from now, or it would be made, for one reason. What does
not exist yet is estimated: text from the size of containers, disk and time from the ratios below.
"""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import annotate, deduplicate, judge
from pipeline.figures import shards as shards_of
from pipeline.inputs import CrawlUnit
from pipeline.judge import Shard
from pipeline.progress import human_bytes, human_time
from pipeline.records import Record, Stage, find, read_record
from pipeline.store import open_url, sha256_of

if TYPE_CHECKING:
    from pipeline.build import Build

NEW, OTHER, CHANGED = "no output yet", "another fingerprint", "inputs changed"
MISSING, AFTER = "file missing", "made from what is made before"

TEXT_PER_CONTAINER = {"archives": 3.0, "git": 3.0, "warc": 2.0, "tables": 2.5}
"""Bytes of text per byte of container. Small test inputs: wheels 2.1 to 3.7, a tarball with binary files 0.8 (1.6 over
all archives), gzipped WARC 1.9, gzipped JSON lines 2.6. Not measured: a git pack is taken as an archive."""
TEXT_PER_DOCUMENT = {"archives": 5200, "git": 5200, "warc": 2600, "tables": 7000}
"""Bytes of text in a document: means of the small test inputs."""
MB_PER_SECOND = {
    "archives": 80.0,
    "git": 80.0,
    "warc": 12.0,
    "tables": 80.0,
    "language": 290.0,
    "measures": 250.0,
    "signatures": 300.0,
    "contamination": 450.0,
    "tokenizer": 3.7,
    "tokens": 35.0,
}
"""MB of text per second of one core. Archives, tokenizer and tokens: ``benchmarks.build`` on 404 MB of code
(docs/benchmarks.md); the tables of the annotate pass together run at its 61 MB/s. WARC and tables: the units of the
demo. Not measured: git, taken as archives. Timings in the directory go first."""
DOCUMENTS_PER_SECOND = {"verdicts": 600_000.0, "duplicates": 100_000.0, "selection": 500_000.0, "plan": 500_000.0}
"""Rows per second of the steps that read tables only. Verdicts: judging 85,440 rows in memory took 0.11 to 0.13 s. The
others are assumptions: duplicates below the 250,000 documents a second of grouping and verifying."""
DISK_PER_TEXT = {"documents": 0.3}
"""Bytes on disk per byte of text (zstd)."""
DISK_PER_DOCUMENT = {"language": 7, "measures": 60, "contamination": 4, "verdicts": 3, "duplicates": 6}
"""Bytes of a row on disk in the small test inputs."""
DISK_PER_SAMPLE = {"selection": 3, "plan": 20}
"""Bytes of a sample on disk; the plan's is rough."""
KEPT, TEXT_PER_TOKEN, TOKEN_BYTES, TOKENIZER_BYTES = 0.7, 3.0, 4.05, 2_000_000
"""Share of the text that is kept, bytes of text of a token, bytes of a token on disk with its sample's row: one build
of the small test inputs with a tokenizer of 4,000 entries; a larger vocabulary makes fewer tokens."""
PASS_SECONDS = 2.0
"""Starting a pass: Beam's local runner takes about two seconds (docs/benchmarks.md)."""


@dataclass
class Line:
    """What a stage has and lacks: units that are valid, units to make by reason, input in bytes, disk, CPU seconds."""

    stage: str
    valid: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    is_estimate: bool = False
    input_bytes: int = 0
    disk_bytes: float = 0.0
    seconds: float = 0.0

    def add(self, reason: str | None, input_bytes: int, disk_bytes: float, seconds: float) -> None:
        """Count a unit: valid without a reason, else to be made."""
        if reason is None:
            self.valid += 1
            return
        self.reasons[reason] += 1
        self.input_bytes += input_bytes
        self.disk_bytes += disk_bytes
        self.seconds += seconds


@dataclass
class _Part:
    """A shard of documents, or (without ``name``) one that is estimated from a container; records by role."""

    source: str
    kind: str
    text: int
    documents: int
    name: str | None = None
    path: str = ""
    digest: str = ""
    records: dict[str, Record] = field(default_factory=dict)


def describe(build: "Build") -> Iterator[str]:
    """The lines of ``headrace plan``: a table of the stages with their reasons, then totals and what they rest on."""
    lines = survey(build)
    units = sum(map(len, build.units.values()))
    size = sum(unit.size for units_of in build.units.values() for unit in units_of)
    yield f"{build.manifest.name} in {build.store.url}: {units:,} units, {human_bytes(size)} of containers"
    yield f"{'stage':<14}{'valid':>8}{'to make':>9}{'input':>11}{'disk':>11}{'one core':>13}  why"
    for line in lines:
        yield _shown(line)
    making = [line for line in lines if line.reasons]
    if not making:
        yield "Everything is up to date: a build would only write the report again."
        return
    disk, seconds = sum(line.disk_bytes for line in making), sum(line.seconds for line in making)
    cores, passes = os.cpu_count() or 1, {_PASS_OF[line.stage] for line in making if line.stage in _PASS_OF}
    whole, wall = human_time(seconds), human_time(seconds / cores + PASS_SECONDS * len(passes))
    yield f"about {human_bytes(disk)} of disk; {whole} of one core, {wall} with {cores} workers"
    free = _free(build)
    if free is not None:
        yield f"free where the build lies: {human_bytes(free)}" + (", which is not enough" if free < disk else "")
    if any(not unit.size for units_of in build.units.values() for unit in units_of):
        yield "Repositories and remote files have no known size before they are read, and count as nothing here."
    if any(line.is_estimate for line in making):
        yield "~ stands where documents don't exist yet: estimated from the size of the containers."


def _shown(line: Line) -> str:
    count = sum(line.reasons.values())
    to_make = ("~" if line.is_estimate and count else "") + f"{count:,}"
    shown = f"{line.stage:<14}{line.valid:>8,}{to_make:>9}"
    if not count:
        return shown
    why = "; ".join(
        f"{n:,} {reason}" for reason, n in sorted(line.reasons.items(), key=lambda item: (-item[1], item[0]))
    )
    read = human_bytes(line.input_bytes) if line.input_bytes else "?" if line.stage == "documents" else "tables"
    shown += f"{read:>11}{human_bytes(line.disk_bytes):>11}{human_time(line.seconds):>13}"
    return f"{shown}  {why}"


def _free(build: "Build") -> int | None:
    if not build.store.is_local:
        return None
    folder = Path(build.store.full("")).absolute()
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


_PASS_OF = {"documents": "crawl"} | dict.fromkeys(annotate.TABLES, "annotate")
_PASS_OF |= {"duplicates": "deduplicate", "tokens": "tokenize"}


def survey(build: "Build") -> list[Line]:
    """One line a stage, in the order of the build."""
    return _Survey(build).lines()


class _Survey:
    """Goes over the stages as the build does, finding instead of making."""

    def __init__(self, build: "Build"):
        self._build, self._store, self._stages, self._manifest = build, build.store, build.stages, build.manifest
        self._directories: dict[str, set[str]] = {}
        self._parts: list[_Part] = []

    def lines(self) -> list[Line]:
        """Every stage."""
        lines = [self._documents(), *(self._table(role) for role in annotate.TABLES)]
        lines += [self._verdicts(), self._duplicates(), self._tokenizer(), self._tokens()]
        lines += [self._selection(), self._plan()]
        for line in lines:
            line.is_estimate = line.stage != "documents" and any(part.name is None for part in self._parts)
        return lines

    def _why(
        self, stage: Stage, unit: str | None, inputs: Mapping[str, str] | None
    ) -> tuple[str | None, Record | None]:
        """Why a unit would be made (None: it is valid), and its record if it is valid. No inputs: not known yet."""
        record = read_record(self._store, stage, unit) if unit is not None else None
        if record is None:
            return self._why_none(stage), None
        if inputs is None:
            return AFTER, None
        if dict(record.inputs) != dict(inputs):
            return CHANGED, None
        if find(self._store, stage, record.unit, inputs) is None:
            return MISSING, None
        return None, record

    def _why_none(self, stage: Stage) -> str:
        """Without a record: other directories of the role (and source) tell that something else made them."""
        if stage.role not in self._directories:
            files = self._store.files(stage.role)
            self._directories[stage.role] = {path.split("/")[1] for path in files if path.count("/") > 1}
        source = re.escape(f"{stage.source}-") if stage.source else ""
        same = {d for d in self._directories[stage.role] if re.fullmatch(f"{source}[0-9a-f]{{16}}", d)}
        return OTHER if same and stage.directory.split("/")[1] not in same else NEW

    def _documents(self) -> Line:
        line = Line("documents")
        for source in self._manifest.sources:
            stage, found, missing = self._stages.documents[source.name], [], []
            for unit in sorted(self._build.units[source.name], key=lambda u: u.name):
                reason, record = self._why(stage, unit.name, unit.digests)
                if record is not None:
                    found.append((unit, record))
                    line.add(None, 0, 0, 0)
                else:
                    missing.append((unit, reason))
            known = [_parts_of(record, source.kind) for _, record in found]
            ratio = _ratio([unit for unit, _ in found], known, source.kind)
            speed = self._speed("crawl", source.name) or MB_PER_SECOND[source.kind]
            self._parts += [part for parts in known for part in parts]
            for unit, reason in missing:
                parts = self._estimated(unit, source.name, source.kind, ratio)
                text = sum(part.text for part in parts)
                line.add(reason, unit.size, text * DISK_PER_TEXT["documents"], text / 1e6 / speed)
                self._parts += parts
        return line

    def _estimated(self, unit: CrawlUnit, source: str, kind: str, ratio: float) -> list[_Part]:
        text = int(unit.size * ratio)
        n = max(1, -(-text // self._manifest.shards.text_bytes))
        return [_Part(source, kind, text // n, text // n // TEXT_PER_DOCUMENT[kind]) for _ in range(n)]

    def _speed(self, name: str, source: str = "") -> float | None:
        """MB of text per core second in earlier units of a pass: the median by text, so that loading doesn't count."""
        notes = []
        for path in self._store.files(f"timings/{name}/{source}".rstrip("/")):
            note = self._store.read_json(path)
            if note["cpu_seconds"] > 0 and note["text_bytes"]:
                notes.append((note["text_bytes"] / 1e6 / note["cpu_seconds"], note["text_bytes"]))
        half, seen = sum(size for _, size in notes) / 2, 0
        for speed, size in sorted(notes):
            seen += size
            if seen >= half:
                return float(speed)
        return None

    @cached_property
    def _annotate_factor(self) -> float:
        """How much faster this directory's annotate pass was than the constants say."""
        measured = self._speed("annotate")
        together = 1 / sum(1 / MB_PER_SECOND[table] for table in annotate.TABLES)
        return measured / together if measured else 1.0

    def _table(self, role: str) -> Line:
        line, index = Line(role), {"benchmarks": self._build.benchmarks_digest}
        benchmarks = find(self._store, self._stages.benchmarks, "index", index)
        parameters = self._manifest.deduplicate
        row = DISK_PER_DOCUMENT.get(role, 20 + 8 * parameters.bands + parameters.permutations)
        for part in self._parts:
            inputs: dict[str, str] | None = {"documents": part.digest}
            if role == "contamination":
                inputs = None if benchmarks is None else {"documents": part.digest, "benchmarks": benchmarks.digest}
            seconds = part.text / 1e6 / (MB_PER_SECOND[role] * self._annotate_factor)
            stage = self._stages.tables[part.source][role]
            self._take(line, part, role, self._why(stage, part.name, inputs), part.documents * row, seconds)
        return line

    @staticmethod
    def _take(
        line: Line, part: _Part, role: str, known: tuple[str | None, Record | None], disk: float, seconds: float
    ) -> None:
        reason, record = known
        reads_text = role in annotate.TABLES or role == "tokens"
        line.add(reason, part.text if reads_text else 0, disk, seconds)
        if record is not None:
            part.records[role] = record

    def _have(self, *roles: str) -> bool:
        return all(role in part.records for part in self._parts for role in roles)

    def _small(self, role: str, part: _Part, stage: Stage, inputs: dict[str, str] | None, line: Line) -> None:
        disk, seconds = DISK_PER_DOCUMENT[role] * part.documents, part.documents / DOCUMENTS_PER_SECOND[role]
        self._take(line, part, role, self._why(stage, part.name, inputs), disk, seconds)

    def _verdicts(self) -> Line:
        line, tables = Line("verdicts"), ("language", "measures", "contamination")
        is_whole = all(part.name is not None for part in self._parts)
        shards = [Shard(p.name or "", p.source, p.path, p.digest, p.documents, p.text, p.records) for p in self._parts]
        repeated = judge.repeated_rows(shards, self._store) if is_whole else {}
        for part in self._parts:
            inputs = None
            if is_whole and all(table in part.records for table in tables):
                rows = repeated.get(f"{part.source}/{part.name}")
                content = b"" if rows is None else rows.astype("<i8").tobytes()
                inputs = {"documents": part.digest, "repeated": hashlib.sha256(content).hexdigest()}
                inputs |= {table: part.records[table].digest for table in tables}
            self._small("verdicts", part, self._stages.verdicts[part.source], inputs, line)
        return line

    def _duplicates(self) -> Line:
        line, inputs = Line("duplicates"), None
        if self._have("signatures", "verdicts"):
            tables = ("signatures", "verdicts")
            shards = [(p.source, p.name, p.digest, *(p.records[t].digest for t in tables)) for p in self._parts]
            inputs = deduplicate.inputs_of(self._stages.duplicates, shards)
        for part in self._parts:
            self._small("duplicates", part, self._stages.duplicates[part.source], inputs, line)
        return line

    def _tokenizer(self) -> Line:
        line, configuration = Line("tokenizer"), self._manifest.tokenizer
        path, text, seconds = configuration.path, 0, 0.0
        inputs: dict[str, str] | None = None
        if path is not None:
            inputs = {"file": sha256_of(lambda: open_url(path))}
        elif configuration.train is not None:
            text = min(configuration.train.sample_bytes, int(KEPT * sum(part.text for part in self._parts)))
            seconds = text / 1e6 / MB_PER_SECOND["tokenizer"]
            if self._have("verdicts", "duplicates"):
                records = [part.records[role] for role in ("verdicts", "duplicates") for part in self._parts]
                inputs = {"kept": judge.digest_of(records)}
        reason, self._tokenizer_record = self._why(self._stages.tokenizer, "tokenizer", inputs)
        line.add(reason, text, TOKENIZER_BYTES, seconds)
        return line

    def _tokens(self) -> Line:
        line, speed = Line("tokens"), self._speed("tokenize") or MB_PER_SECOND["tokens"]
        for part in self._parts:
            kept, inputs = int(part.text * _kept_share(part)), None
            roles = ("verdicts", "duplicates", "language")
            if self._tokenizer_record is not None and all(role in part.records for role in roles):
                inputs = {role: part.records[role].digest for role in roles}
                inputs |= {"documents": part.digest, "tokenizer": self._tokenizer_record.digest}
            disk, seconds = kept / TEXT_PER_TOKEN * TOKEN_BYTES, kept / 1e6 / speed
            known = self._why(self._stages.tokens[part.source], part.name, inputs)
            self._take(line, part, "tokens", known, disk, seconds)
        return line

    def _selection(self) -> Line:
        """What an origin's cap leaves out depends on all samples, so all count as valid only if all tokens are."""
        line = Line("selection")
        for part in self._parts:
            samples, stage = part.documents * _kept_share(part), self._stages.selection[part.source]
            seconds = samples / DOCUMENTS_PER_SECOND["selection"]
            record = read_record(self._store, stage, part.name) if part.name else None
            inputs = None
            if record is not None and self._have("tokens"):
                inputs = dict(record.inputs) | {"tokens": part.records["tokens"].digest}
            known = self._why(stage, part.name, inputs)
            self._take(line, part, "selection", known, samples * DISK_PER_SAMPLE["selection"], seconds)
        return line

    def _plan(self) -> Line:
        """Valid where it was packed from these token shards as they are selected now."""
        line, stage = Line("plan"), self._stages.plan
        record, inputs = read_record(self._store, stage, "shards"), None
        if record is not None and self._have("tokens", "selection"):
            rows = self._store.read_table(record.files[0].path, ["source", "shard", "digest"]).to_pylist()
            now = [{"source": p.source, "shard": p.name, "digest": p.records["tokens"].digest} for p in self._parts]
            inputs = record.inputs if rows == now else {}
        units = {
            path[len(stage.directory) + 1 : -5] for path in self._store.files(stage.directory) if path[-5:] == ".json"
        }
        samples = sum(part.documents * _kept_share(part) for part in self._parts)
        for unit in sorted(units or {"shards", *(f"train-{c.name}" for c in self._manifest.components)}):
            is_part = unit != "shards"
            share = is_part / max(1, len(units) - 1 if units else len(self._manifest.components))
            disk, seconds = DISK_PER_SAMPLE["plan"] * samples * share, samples * share / DOCUMENTS_PER_SECOND["plan"]
            reason, _ = self._why(stage, unit, inputs)
            line.add(reason, 0, disk, seconds)
        return line


def _parts_of(record: Record, kind: str) -> list[_Part]:
    sizes = record.counts["text_bytes"]
    return [
        _Part(source, kind, size, file.rows, name, file.path, file.digest)
        for (source, name, file), size in zip(shards_of([record]), sizes, strict=True)
    ]


def _ratio(units: Sequence[CrawlUnit], parts: Sequence[Sequence[_Part]], kind: str) -> float:
    """Text per byte of container: of what is crawled already in this source, else as documented."""
    size = sum(unit.size for unit in units)
    return sum(part.text for each in parts for part in each) / size if size else TEXT_PER_CONTAINER[kind]


def _kept_share(part: _Part) -> float:
    """The share of documents that is kept: as judged, or as documented."""
    if not {"verdicts", "duplicates"} <= set(part.records) or not part.documents:
        return KEPT
    kept = part.records["verdicts"].counts["outcomes"].get("", 0)
    counts: dict[str, Any] = part.records["duplicates"].counts["duplicates"]
    return float((kept - sum(counts.values())) / part.documents)
