"""The build: section 2 of DeepSeek-Coder-V2, one line a sentence.

crawl          public repositories, web pages and existing corpora are collected
annotate       338 programming languages are told apart; every rule's values are measured once
judge          low-quality files are dropped by the published rules, and what a benchmark shares words with
deduplicate    near-duplicates are dropped
tokenize       text becomes tokens, with fill-in-the-middle
select, plan   the mixture is taken to sequences
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from filters.keyed import below, keyed_u64
from pipeline import annotate, crawl, decontaminate, deduplicate, judge, mixture, tokenize
from pipeline.engine import Engine, cancel_left_over
from pipeline.inputs import CrawlUnit, Lock, check_columns, crawl_units, nearest
from pipeline.judge import Shard
from pipeline.manifest import Manifest, ManifestError, TableSource
from pipeline.passes import PerSource, Step, Work, run_pass
from pipeline.records import Record, commit, find
from pipeline.schemas import ID
from pipeline.stages import LIBRARIES, Stages
from pipeline.store import Store, Written, fixed_rows, open_url

STEPS = ("crawl", "annotate", "judge", "deduplicate", "tokenize", "select", "plan")
DRIVER_STEPS = ("judge", "deduplicate", "tokenizer", "select", "plan")

Unit = dict[str, Any]


@dataclass
class Build:
    """A manifest being built in a directory. Each step finds what is there and makes what is missing."""

    manifest: Manifest
    store: Store
    engine: Engine
    sample: float = 1.0
    run_pass: Callable[[str, Sequence[Step], Engine, Sequence[str]], bool] = run_pass
    say: Callable[[str], None] = field(default=lambda line: print(line, file=sys.stderr, flush=True))

    def run(self, until: str = "plan") -> list[Record]:
        """Run the steps up to ``until``; gives the records of all units, from documents to plan.

        For who holds the lease and has called :meth:`check`.
        """
        steps: list[Callable[[], None]] = [
            self.crawl,
            self.annotate,
            self.judge,
            self.deduplicate,
            self.tokenize,
            self.select,
            self.plan,
        ]
        if left_over := cancel_left_over(self.store):
            self.say(left_over)
        _ = self.units
        self.lock.save()
        self.records: list[Record] = []
        for step in steps[: STEPS.index(until) + 1]:
            with self._timed(step.__name__):
                step()
        return self.records

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        """Note how long the driver worked on a step that made something; passes note the times of their units."""
        before, started, cpu = len(self.records), time.monotonic(), time.process_time()
        yield
        if step in DRIVER_STEPS and any(record.is_new for record in self.records[before:]):
            size = sum(shard.size for shard in self.shards)
            figures = {"pass": step, "unit": "driver", "text_bytes": size, "worker": os.getpid()}
            figures |= {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
            self.store.write_json(f"timings/driver/{step}.json", figures)

    def check(self) -> None:
        """Find every mistake in what the manifest names before any work: inputs, benchmarks, quarantine, tokenizer."""
        self.engine.check(self.store)
        with self.manifest.at():
            _ = self.quarantine, self.benchmarks_digest
            if self.manifest.tokenizer.path is not None:
                self._given_tokenizer(self.manifest.tokenizer.path)
        units = self.units
        for number, source in enumerate(self.manifest.sources):
            if isinstance(source, TableSource):
                with self.manifest.at("sources", number):
                    check_columns(source, units[source.name])

    @cached_property
    def lock(self) -> Lock:
        """What moves, pinned."""
        return Lock(self.store)

    @cached_property
    def quarantine(self) -> frozenset[str]:
        """SHA-256 (hexadecimal) of raw bytes that a person gave up on."""
        if self.manifest.quarantine is None:
            return frozenset()
        try:
            with open_url(self.manifest.quarantine) as file:
                lines = file.read().decode().split()
        except FileNotFoundError:
            raise ManifestError(f"no file {self.manifest.quarantine}", "quarantine") from None
        return frozenset(line.lower() for line in lines)

    @cached_property
    def stages(self) -> Stages:
        """The stages of the manifest."""
        return Stages(self.manifest, ",".join(sorted(self.quarantine)), self.benchmarks_digest)

    @cached_property
    def benchmarks_digest(self) -> str:
        """A hash of the benchmark texts."""
        return decontaminate.digest(self.manifest.decontaminate)

    @cached_property
    def units(self) -> dict[str, list[CrawlUnit]]:
        """The crawl units of each source; with ``sample`` below 1, a keyed share of them."""
        units = {}
        for number, source in enumerate(self.manifest.sources):
            with self.manifest.at("sources", number):
                every = crawl_units(source, self.lock)
            ranked = sorted(every, key=lambda u: (keyed_u64(self.manifest.seed, "sample", u.name.encode()), u.name))
            share = [u for u in every if keyed_u64(self.manifest.seed, "sample", u.name.encode()) < below(self.sample)]
            units[source.name] = every if self.sample >= 1 else share or ranked[:1]
        return units

    def crawled(self, source: str, unit: CrawlUnit) -> Record | None:
        """The record of a crawl unit that is done."""
        return find(self.store, self.stages.documents[source], unit.name, unit.digests)

    def crawl(self) -> None:
        """Public repositories, web pages and existing corpora are collected."""
        works: dict[str, Work] = {}
        units: dict[tuple[str, str], CrawlUnit] = {}
        for source in self.manifest.sources:
            stage = self.stages.documents[source.name]
            works[source.name] = crawl.Crawl(source, self.manifest.shards, self.quarantine, stage, self.store)
            units |= {(source.name, u.name): u for u in self.units[source.name]}

        def done(u: Unit) -> bool:
            return self.crawled(u["source"], units[u["source"], u["unit"]]) is not None

        specifications = [
            u.as_json() | {"unit": u.name, "size": u.size, "source": source} for (source, _), u in units.items()
        ]
        self._pass("crawl", works, specifications, done)
        self.records += [self._known(self.crawled(source, u)) for (source, _), u in sorted(units.items())]

    def documents(self) -> list[tuple[str, str, Written, int]]:
        """Every shard of documents: source, name, file, bytes of text; in a fixed order."""
        shards = []
        for source in sorted(self.units):
            for unit in sorted(self.units[source], key=lambda u: u.name):
                record = self._known(self.crawled(source, unit))
                sizes = record.counts["text_bytes"]
                for file, size in zip(record.files[: len(sizes)], sizes, strict=True):
                    name = file.path.rsplit("/", 1)[1].removesuffix(".parquet")
                    shards.append((source, name, file, size))
        return shards

    def annotate(self) -> None:
        """338 programming languages are told apart; every rule's values are measured once."""
        index = decontaminate.write_index(
            self.store, self.stages.benchmarks, self.manifest.decontaminate, self.benchmarks_digest
        )
        works: dict[str, Work] = {}
        for source in self.manifest.sources:
            stages, rows_are = self.stages.tables[source.name], getattr(source, "rows_are", "prose")
            parameters = self.manifest.deduplicate
            works[source.name] = annotate.Annotate(stages, parameters, index.files[0].path, rows_are, self.store)

        def done(u: Unit) -> bool:
            stages = self.stages.tables[u["source"]]
            return all(find(self.store, stages[t], u["unit"], u["inputs"][t]) for t in annotate.TABLES)

        shards = self.documents()
        specifications = [
            {"unit": name, "source": source, "path": file.path, "size": size, "inputs": self._table_inputs(file, index)}
            for source, name, file, size in shards
        ]
        self._pass("annotate", works, specifications, done)
        self.records.append(index)
        self.shards = [self._shard(*shard, index) for shard in shards]
        self.records += [record for shard in self.shards for record in shard.tables.values()]

    @staticmethod
    def _table_inputs(file: Written, index: Record) -> dict[str, dict[str, str]]:
        inputs = {table: {"documents": file.digest} for table in annotate.TABLES}
        inputs["contamination"]["benchmarks"] = index.digest
        return inputs

    def _shard(self, source: str, name: str, file: Written, size: int, index: Record) -> Shard:
        inputs = self._table_inputs(file, index)
        stages = self.stages.tables[source]
        tables = {t: self._known(find(self.store, stages[t], name, inputs[t])) for t in annotate.TABLES}
        for table, record in tables.items():
            if record.files[0].rows != file.rows:
                raise AssertionError(f"{name}: {file.rows} documents, {record.files[0].rows} rows of {table}")
        return Shard(name, source, file.path, file.digest, file.rows, size, tables)

    def judge(self) -> None:
        """Low-quality files are dropped by the published rules, and what a benchmark shares words with."""
        self.verdicts = judge.judge_shards(self.shards, self.stages.verdicts, self.manifest, self.store)
        self._say_new("judge", self.verdicts)
        self.records += self.verdicts

    def deduplicate(self) -> None:
        """Near-duplicates are dropped."""
        self.duplicates = deduplicate.deduplicate(
            self.store, self.stages.duplicates, self.shards, self.verdicts, self.manifest.deduplicate, self.engine
        )
        self.records += self.duplicates

    def tokenize(self) -> None:
        """Text becomes tokens, with fill-in-the-middle."""
        with self._timed("tokenizer"):
            self.tokenizer = self.make_tokenizer()
            self.records.append(self.tokenizer)
        parameters = self.manifest.fim.parameters if self.manifest.fim.components else None
        description = self.store.read_json(self.tokenizer.files[0].path)
        try:
            named = self.manifest.tokenizer
            controls = tokenize.controls_of(description, named.eos, named.bos, parameters)
        except tokenize.TokenizerError as error:
            raise ManifestError(f"tokenizer: {error}") from None
        self.line_ends = tokenize.line_end_tokens(description)
        m = self.manifest
        works: dict[str, Work] = {
            name: tokenize.Tokenize(
                stage, self.store, self.tokenizer.files[0].path, controls, m.redact.enabled, m.fim, m.split,
                m.components, m.languages, m.seed,
            )
            for name, stage in self.stages.tokens.items()
        }  # fmt: skip

        def known(u: Unit) -> Record | None:
            return find(self.store, self.stages.tokens[u["source"]], u["unit"], u["inputs"])

        specifications = [
            self._token_unit(*each) for each in zip(self.shards, self.verdicts, self.duplicates, strict=True)
        ]
        self._pass("tokenize", works, specifications, lambda u: known(u) is not None)
        self.tokens = [(u["source"], u["unit"], self._known(known(u))) for u in specifications]
        self.records += [record for _, _, record in self.tokens]

    def _token_unit(self, shard: Shard, verdict: Record, duplicate: Record) -> Unit:
        records = {"verdicts": verdict, "duplicates": duplicate, "language": shard.tables["language"]}
        inputs = {name: record.digest for name, record in records.items()}
        inputs |= {"documents": shard.digest, "tokenizer": self.tokenizer.digest}
        tables = {name: record.files[0].path for name, record in records.items()}
        unit = {"unit": shard.name, "source": shard.source, "path": shard.path, "size": shard.size}
        return unit | {"inputs": inputs, "tables": tables}

    def make_tokenizer(self) -> Record:
        """The tokenizer: the given one, or one trained on a sample of what is kept."""
        configuration, stage = self.manifest.tokenizer, self.stages.tokenizer
        if configuration.path is not None:
            content = self._given_tokenizer(configuration.path)
            inputs = {"file": hashlib.sha256(content).hexdigest()}
        else:
            inputs = {"kept": judge.digest_of([*self.verdicts, *self.duplicates])}
        known = find(self.store, stage, "tokenizer", inputs)
        if known is not None:
            return known
        if configuration.train is not None:
            texts = self.tokenizer_sample()
            self.say(f"tokenizer: training on {sum(map(len, texts)) / 1e6:.1f} M characters")
            parameters = self.manifest.fim.parameters
            specials = [configuration.eos, *([configuration.bos] if configuration.bos else [])]
            specials += [parameters.begin, parameters.hole, parameters.end, *configuration.add]
            content = tokenize.train(texts, configuration.train, specials).encode()
        path = stage.file("tokenizer", "/tokenizer.json")
        self.store.write(path, content)
        sha256 = hashlib.sha256(content).hexdigest()
        written = Written(path, 0, sha256, len(content), sha256)
        return commit(self.store, Record(stage, "tokenizer", inputs, (written,), {}))

    def _given_tokenizer(self, path: str) -> bytes:
        try:
            with open_url(path) as file:
                content = orjson.loads(file.read())
            return orjson.dumps(tokenize.with_controls(content, self.manifest.tokenizer.add))
        except FileNotFoundError:
            raise ManifestError(f"no file {path}{nearest(path)}", "tokenizer", "path") from None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise ManifestError(f"{path} is not a tokenizer.json", "tokenizer", "path") from None

    def tokenizer_sample(self) -> list[str]:
        """The texts that the tokenizer is trained on, in the order of their documents' ids."""
        configuration = self.manifest.tokenizer.train
        assert configuration is not None
        kept = list(zip(self.shards, self.verdicts, self.duplicates, strict=True))
        threshold = tokenize.sample_threshold(sum(shard.size for shard in self.shards), configuration)
        texts: dict[bytes, str] = {}
        for shard, verdict, duplicate in kept:
            reasons = judge.outcomes(self.store, verdict.files[0].path, duplicate.files[0].path)
            row = 0
            for batch in self.store.batches(shard.path, ["id"]):
                ids = fixed_rows(batch.column("id").cast(ID))
                rows = slice(row, row + batch.num_rows)
                taken = np.flatnonzero(tokenize.sampled(ids, self.manifest.seed, threshold) & (reasons[rows] == ""))
                if len(taken):
                    texts |= self._texts(shard.path, row, taken)
                row += batch.num_rows
        return [texts[id_] for id_ in sorted(texts)]

    def _texts(self, path: str, first_row: int, rows: np.ndarray) -> dict[bytes, str]:
        row = 0
        for batch in self.store.batches(path, ["id", "text"]):
            if row == first_row:
                taken = batch.take(pa.array(rows))
                return dict(zip(taken.column("id").to_pylist(), taken.column("text").to_pylist(), strict=True))
            row += batch.num_rows
        raise AssertionError(f"{path}: no row group starts at {first_row}")

    def select(self) -> None:
        """The mixture is taken: caps and splits."""
        self.selected, self.selection = mixture.select(self.store, self.stages.selection, self.tokens, self.manifest)
        self.records += self.selection

    def plan(self) -> None:
        """Sequences of L tokens are packed."""
        self.plans = mixture.plan(
            self.store, self.stages.plan, self.selected, self.tokens, self.line_ends, self.manifest
        )
        self._say_new("plan", self.plans)
        self.records += self.plans

    def _say_new(self, step: str, records: Sequence[Record]) -> None:
        """Tell of a step in the driver, if it made something."""
        if new := sum(record.is_new for record in records):
            self.say(f"{step}: {new:,} of {len(records):,} units")

    def _pass(
        self,
        name: str,
        works: dict[str, Work],
        units: Sequence[Unit],
        done: Callable[[Unit], bool],
    ) -> None:
        step = Step(name, PerSource(works, self.store), units, done)
        if not self.run_pass(name, [step], self.engine, LIBRARIES):
            self.say(f"{name}: {len(units)} units are up to date")

    @staticmethod
    def _known(record: Record | None) -> Record:
        if record is None:
            raise AssertionError("a unit has no record")
        return record
