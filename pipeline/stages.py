"""The stages of a build and what names them: configuration, code, libraries and the stages before."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from pipeline import annotate, crawl, decontaminate, deduplicate, judge, mixture, tokenize
from pipeline.fingerprint import fingerprint
from pipeline.manifest import Manifest, Source
from pipeline.records import Stage

LIBRARIES = tuple(
    sorted({*crawl.LIBRARIES, *tokenize.LIBRARIES, *(name for names in annotate.LIBRARIES.values() for name in names)})
)
"""Every library that decides content: a worker must have the driver's versions."""


class Stages:
    """Every stage of a manifest, by role and source. ``quarantine`` and ``benchmarks`` are digests of those files."""

    def __init__(self, manifest: Manifest, quarantine: str, benchmarks: str):
        self._manifest, self._quarantine, self._benchmarks = manifest, quarantine, benchmarks

    @cached_property
    def benchmarks(self) -> Stage:
        """The index of benchmark texts."""
        m = self._manifest.decontaminate
        configuration = {"content": self._benchmarks, "ngram": m.ngram, "shortest": m.shortest}
        return Stage("benchmarks", fingerprint("benchmarks", configuration, decontaminate.MODULES))

    @cached_property
    def documents(self) -> dict[str, Stage]:
        """Documents, rejects and origins of each source."""
        return {source.name: self._documents(source) for source in self._manifest.sources}

    def _documents(self, source: Source) -> Stage:
        own = source.model_dump(mode="json", exclude={"paths", "repositories", "rows_are"})
        own |= {"shards": self._manifest.shards.model_dump(), "quarantine": self._quarantine}
        print_ = fingerprint("documents", own, crawl.MODULES, crawl.LIBRARIES)
        return Stage("documents", print_, source.name)

    @cached_property
    def tables(self) -> dict[str, dict[str, Stage]]:
        """For each source, the tables of the annotate pass."""
        return {source.name: self._tables(source) for source in self._manifest.sources}

    def _tables(self, source: Source) -> dict[str, Stage]:
        documents = self.documents[source.name]
        stages: dict[str, Stage] = {}

        def add(name: str, configuration: dict[str, Any], upstream: Iterable[Stage]) -> None:
            prints = [documents.fingerprint, *(stage.fingerprint for stage in upstream)]
            modules, libraries = annotate.MODULES[name], annotate.LIBRARIES[name]
            stages[name] = Stage(name, fingerprint(name, configuration, modules, libraries, prints), source.name)

        add("language", {"rows_are": getattr(source, "rows_are", None)}, ())
        add("measures", {}, (stages["language"],))
        signature = self._manifest.deduplicate.model_dump(mode="json", exclude={"threshold_percent"})
        add("signatures", signature, ())
        add("contamination", {}, (self.benchmarks,))
        return stages

    @cached_property
    def verdicts(self) -> dict[str, Stage]:
        """Verdicts of each source."""
        m = self._manifest
        configuration = {
            "languages": m.languages.model_dump(mode="json"),
            "rules": m.rules.model_dump(mode="json"),
            "components": [c.model_dump(mode="json") for c in m.components],
        }
        return self._each("verdicts", configuration, judge.MODULES, (), ("language", "measures", "contamination"))

    @cached_property
    def duplicates(self) -> dict[str, Stage]:
        """Duplicates of each source."""
        configuration = self._manifest.deduplicate.model_dump(mode="json")
        return self._each("duplicates", configuration, deduplicate.MODULES, (self.verdicts,), ("signatures",))

    @cached_property
    def tokenizer(self) -> Stage:
        """The tokenizer, trained or copied."""
        m = self._manifest
        train = m.tokenizer.train and m.tokenizer.train.model_dump()
        configuration: dict[str, Any] = {"train": train, "seed": m.seed, "add": m.tokenizer.add}
        configuration |= {
            "eos": m.tokenizer.eos,
            "bos": m.tokenizer.bos,
            "fim": m.fim.parameters.model_dump(mode="json"),
        }
        return Stage("tokenizer", fingerprint("tokenizer", configuration, tokenize.MODULES, ("tokenizers",)))

    @cached_property
    def tokens(self) -> dict[str, Stage]:
        """Token shards of each source."""
        m = self._manifest
        configuration = {
            "redact": m.redact.model_dump(),
            "fim": m.fim.model_dump(mode="json"),
            "split": m.split.model_dump(),
            "seed": m.seed,
            "tokenizer": {"eos": m.tokenizer.eos, "bos": m.tokenizer.bos},
        }
        upstream = (self.verdicts, self.duplicates)
        return self._each("tokens", configuration, tokenize.MODULES, upstream, ("language",), tokenize.LIBRARIES)

    @cached_property
    def selection(self) -> dict[str, Stage]:
        """Why samples are left out, by source."""
        configuration = {"cap": self._manifest.mixture.max_tokens_per_origin, "seed": self._manifest.seed}
        return self._each("selection", configuration, mixture.SELECT_MODULES, (self.tokens,), ())

    @cached_property
    def plan(self) -> Stage:
        """The plan for one sequence length."""
        configuration = {"plan": self._manifest.plan.model_dump(), "seed": self._manifest.seed}
        upstream = [stage.fingerprint for stage in self.selection.values()]
        return Stage("plan", fingerprint("plan", configuration, mixture.PLAN_MODULES, (), upstream))

    @property
    def directories(self) -> list[str]:
        """The directories of all stages."""
        single = [self.benchmarks, self.tokenizer, self.plan]
        by_source = [self.documents, self.verdicts, self.duplicates, self.tokens, self.selection, *self.tables.values()]
        return [stage.directory for stage in [*single, *(s for stages in by_source for s in stages.values())]]

    def _each(
        self,
        role: str,
        configuration: dict[str, Any],
        modules: Iterable[str],
        upstream: Iterable[dict[str, Stage]],
        tables: Iterable[str],
        libraries: Iterable[str] = (),
    ) -> dict[str, Stage]:
        modules, libraries, tables, upstream = tuple(modules), tuple(libraries), tuple(tables), tuple(upstream)
        stages = {}
        for name in self.documents:
            prints = [self.documents[name].fingerprint]
            prints += [self.tables[name][table].fingerprint for table in tables]
            prints += [stages_before[name].fingerprint for stages_before in upstream]
            stages[name] = Stage(role, fingerprint(role, configuration, modules, libraries, prints), name)
        return stages
