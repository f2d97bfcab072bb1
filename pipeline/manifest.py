"""The manifest: one YAML file that says what a build reads, keeps and mixes (``docs/manifest.md``).

Parsed into frozen models. An unknown key, a wrong type or a name that does not exist stops before any work, in one
message that names file, line, key, what was expected and the nearest valid name.
"""

import difflib
import json
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import fsspec
import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

import languages
from filters.fim import FimParameters
from filters.minhash import MinHashParameters
from filters.prose import ProseRules
from filters.rules import CodeRules
from pipeline.mistakes import Key, disagreement, explain, explain_yaml, line_of, near
from pipeline.sources import (
    ArchiveSource,
    GitRepository,
    GitSource,
    Kind,
    Model,
    Name,
    Source,
    TableSource,
    WarcSource,
)

__all__ = ["ArchiveSource", "GitRepository", "GitSource", "Source", "TableSource", "WarcSource"]

Share = Annotated[float, Field(ge=0, le=1)]


class ManifestError(Exception):
    """The user's manifest is wrong; the message says where and what to write instead.

    ``key`` is where, below what the raiser was given; who knows the manifest puts file and line before the message.
    """

    def __init__(self, message: str, *key: str | int):
        super().__init__(message)
        self.key = key


class Languages(Model):
    """Which languages are kept. The 338 are, unless dropped here; of all others only those listed."""

    drop: tuple[str, ...] = Field((), description="of the 338, those to drop")
    keep_other: dict[str, Kind] = Field(default={}, description="languages outside the 338, and as what kind")


class Rules(Model):
    """Thresholds by kind."""

    code: CodeRules = Field(CodeRules(), description="of code and data: the published rules 1 to 5")
    prose: ProseRules = Field(ProseRules(), description="of prose: documentation, books, rows of text")
    page: ProseRules = Field(ProseRules(), description="of web pages")


class Benchmark(Model):
    """Texts that must not be in the corpus."""

    name: str = Field(description="name of the benchmark, for the report")
    path: str = Field(description="JSON lines (also gzip), or any text file: one item")
    fields: tuple[str, ...] = Field((), description="the fields of a JSON line that are joined to the item's text")
    id: str | None = Field(None, description="the field that names an item")


class Decontamination(Model):
    """n-gram overlap with benchmark texts (DeepSeek-Coder section 2.1, DeepSeekMath section 2.1)."""

    benchmarks: tuple[Benchmark, ...] = Field((), description="files of texts that must not be in the corpus")
    ngram: int = Field(10, ge=3, le=50, description="words in common that drop a document")
    shortest: int = Field(3, ge=1, description="shorter benchmark texts are ignored; up to ngram - 1: exact match")


class Component(Model):
    """A part of the mixture: the documents that match every condition given; the first component that fits wins."""

    name: Name = Field(description="name of the component")
    kinds: tuple[Kind, ...] | None = Field(None, description="only documents of these kinds")
    sources: tuple[Name, ...] | None = Field(None, description="only documents of these sources")
    languages: tuple[str, ...] | None = Field(None, description="only documents of these languages")


class TrainTokenizer(Model):
    """A byte-level BPE trained on a hashed sample of what is kept."""

    vocabulary: int = Field(32_000, ge=300, le=1_000_000, description="entries, special tokens included")
    sample_bytes: int = Field(16_000_000, gt=0, description="text to train on")


class Tokenizer(Model):
    """A Hugging Face ``tokenizer.json``, or one trained here."""

    path: str | None = Field(None, description="a tokenizer.json (fsspec URL)")
    train: TrainTokenizer | None = Field(None, description="train one, instead of a path")
    add: tuple[str, ...] = Field((), description="control tokens to append, in this order, where the file lacks them")
    eos: str = Field("<｜end▁of▁sentence｜>", description="content of the end-of-text token")
    bos: str | None = Field(None, description="content of a token to put before every sample")

    @model_validator(mode="after")
    def _one_of_two(self) -> "Tokenizer":
        if (self.path is None) == (self.train is None):
            raise ValueError("give either path (a tokenizer.json) or train, and not both")
        return self


class Redaction(Model):
    """Personal data and secrets that are replaced by a placeholder in the text that is tokenised."""

    enabled: bool = Field(True, description="whether anything is replaced")


class Fim(Model):
    """Fill-in-the-middle, per document before packing."""

    components: tuple[Name, ...] = Field((), description="components whose samples are rearranged")
    max_tokens: int = Field(4096, gt=8, description="longer samples are left whole; a plan with a smaller L is refused")
    parameters: FimParameters = Field(FimParameters(), description="how many samples, and the control tokens")


class Split(Model):
    """Shares of origins kept apart from training."""

    validation: Share = Field(0.0, description="share of the origins (packages, repositories, domains, works)")
    held_out: Share = Field(0.0, description="share of the origins, for a last test")


class Mixture(Model):
    """Weights of the components. The loader applies them: a changed weight rebuilds nothing."""

    weights: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default={}, description="by component, on any scale"
    )
    budget_tokens: int | None = Field(None, gt=0, description="tokens of a training run, for the report")
    max_tokens_per_origin: int | None = Field(None, gt=0, description="cap of one origin, in one component")


class Plan(Model):
    """Sequences for one length."""

    sequence_length: int = Field(4096, ge=16, le=1 << 24, description="tokens of a sequence, L")


class Shards(Model):
    """Where shards are cut. Part of what makes the documents: a change crawls again."""

    text_bytes: int = Field(64_000_000, gt=0, description="a shard of documents is cut at this size of text")
    rows: int = Field(100_000, gt=0, description="or at this number of documents, whichever comes first")
    row_group_bytes: int = Field(8_000_000, gt=0, description="text of one row group, what a worker holds at once")


class Manifest(Model):
    """A build."""

    name: Name = Field(description="name of the build")
    seed: int = Field(0, ge=0, lt=1 << 63, description="every random choice is a keyed hash of it")
    sources: tuple[Source, ...] = Field(min_length=1, description="what is read")
    shards: Shards = Field(Shards(), description="where shards are cut; a change crawls again")
    languages: Languages = Field(Languages(), description="which languages are kept")
    rules: Rules = Field(Rules(), description="thresholds by kind of document")
    deduplicate: MinHashParameters = Field(MinHashParameters(), description="what near-duplicates are")
    decontaminate: Decontamination = Field(Decontamination(), description="overlap with benchmarks")
    redact: Redaction = Field(Redaction(), description="personal data and secrets")
    components: tuple[Component, ...] = Field(
        min_length=1, description="parts of the mixture; the first that fits wins"
    )
    tokenizer: Tokenizer = Field(description="given or trained")
    fim: Fim = Field(Fim(), description="fill-in-the-middle, per document before packing")
    split: Split = Field(Split(), description="shares kept apart from training, by origin")
    mixture: Mixture = Field(Mixture(), description="weights of the components")
    plan: Plan = Field(Plan(), description="sequences of one length")
    quarantine: str | None = Field(None, description="a file with one SHA-256 of raw bytes a line, to be left out")
    _text: str = PrivateAttr("")
    _path: str = PrivateAttr("")
    _node: Any = PrivateAttr(None)

    @property
    def text(self) -> str:
        """The YAML that this was parsed from."""
        return self._text

    @contextmanager
    def at(self, *key: str | int) -> Iterator[None]:
        """Put file, line and key before the message of a ManifestError of the block."""
        try:
            yield
        except ManifestError as error:
            raise ManifestError(self.place(error, *key)) from None

    def place(self, error: ManifestError, *key: str | int) -> str:
        """The message of an error behind file, line and key."""
        full = [*key, *error.key]
        line = line_of(self._node, full) if self._node is not None else 0
        return f"{self._path}:{line}: {'.'.join(map(str, full))}: {error}"

    def paths(self) -> Iterator[tuple[Key, str]]:
        """Every path, glob and URL of the manifest, with its key."""
        for n, source in enumerate(self.sources):
            if isinstance(source, GitSource):
                yield from ((("sources", n, "repositories", m), r.url) for m, r in enumerate(source.repositories))
            else:
                yield from ((("sources", n, "paths", m), path) for m, path in enumerate(source.paths))
        for n, benchmark in enumerate(self.decontaminate.benchmarks):
            yield ("decontaminate", "benchmarks", n, "path"), benchmark.path
        for key, path in ((("tokenizer", "path"), self.tokenizer.path), (("quarantine",), self.quarantine)):
            if path is not None:
                yield key, path

    @model_validator(mode="after")
    def _parts_agree(self) -> "Manifest":
        found = [*self._names(), *self._languages_named()]
        if self.fim.components and self.fim.max_tokens > self.plan.sequence_length:
            message = f"{self.fim.max_tokens} is above plan.sequence_length {self.plan.sequence_length}: a sample with "
            message += "FIM is never cut, so lower fim.max_tokens or plan longer sequences"
            found.append((("fim", "max_tokens"), message))
        if self.split.validation + self.split.held_out > 0.9:
            found.append((("split",), "validation and held_out leave under 10 % to train on"))
        if found:
            raise disagreement(found)
        return self

    def _names(self) -> Iterator[tuple[Key, str]]:
        """What names of sources and components are wrong, with their keys."""
        sources, components = [s.name for s in self.sources], [c.name for c in self.components]
        for what, names in (("source", sources), ("component", components)):
            for n, name in enumerate(names):
                if name in names[:n]:
                    yield (f"{what}s", n, "name"), f"two {what}s are named {name!r}; a name stands once"
        used: list[tuple[Key, str]] = [(("mixture", "weights", name), name) for name in self.mixture.weights]
        used += [(("fim", "components", n), name) for n, name in enumerate(self.fim.components)]
        for key, name in used:
            if name not in components:
                yield key, f"there is no component {name!r}{near(name, components)}"
        for n, component in enumerate(self.components):
            for m, name in enumerate(component.sources or ()):
                if name not in sources:
                    yield ("components", n, "sources", m), f"there is no source {name!r}{near(name, sources)}"

    def _languages_named(self) -> Iterator[tuple[Key, str]]:
        """What names of languages are wrong, with their keys."""
        known = [language.name for language in languages.table()]
        others = [language.name.removeprefix("other:") for language in languages.outside()] + ["unknown"]
        for n, name in enumerate(self.languages.drop):
            if name in others:
                yield ("languages", "drop", n), f"{name!r} is not one of the 338, and dropped unless keep_other has it"
            elif name not in known:
                yield ("languages", "drop", n), _no_language(name, known)
        for name in self.languages.keep_other:
            if name in known:
                yield ("languages", "keep_other", name), f"{name!r} is one of the 338, which are kept; leave it out"
            elif name not in others:
                yield ("languages", "keep_other", name), _no_language(name, others)
        every = [*known, *(f"other:{name}" for name in others)]
        for n, component in enumerate(self.components):
            for m, name in enumerate(component.languages or ()):
                if name not in every:
                    yield ("components", n, "languages", m), _no_language(name, every)


def _no_language(name: str, valid: list[str]) -> str:
    close = [v for v in valid if v.lower().removeprefix("other:") == name.lower()]
    close = close or difflib.get_close_matches(name, valid, 1, 0.5)
    hint = f"did you mean {close[0]!r}?" if close else "`headrace languages` lists the 338"
    return f"there is no language {name!r}; {hint}"


def load(path: str) -> Manifest:
    """Read a manifest (a path or an fsspec URL); relative paths in it are relative to its folder.

    Raises ManifestError with every mistake found, one a line.
    """
    fs, name = fsspec.url_to_fs(path)
    try:
        text = fs.cat_file(name).decode("utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such manifest") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ManifestError(f"{path}: not a YAML text file ({error})") from None
    return parse(text, path)


def parse(text: str, path: str) -> Manifest:
    """Parse the text of a manifest that stands at ``path``."""
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ManifestError(explain_yaml(error, text, path)) from None
    if node is None or not isinstance(value, dict):
        raise ManifestError(f"{path}: a manifest is a mapping of keys to values, such as `name: my-corpus`")
    _refuse_repeated_keys(node, path)
    try:
        manifest = Manifest.model_validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        raise ManifestError("\n".join(explain(error.errors(), node, path, Manifest))) from None
    manifest = _absolute(manifest, path)
    manifest._text, manifest._path, manifest._node = text, path, node
    return manifest


def _refuse_repeated_keys(node: Any, path: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if str(key.value) in seen:
                raise ManifestError(f"{path}:{key.start_mark.line + 1}: the key {key.value!r} stands twice")
            if key.tag.endswith(":timestamp"):
                raise ManifestError(
                    f"{path}:{key.start_mark.line + 1}: the key {key.value} is a date; put it in quotes"
                )
            seen.add(str(key.value))
            _refuse_repeated_keys(child, path)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, path)


def _absolute(manifest: Manifest, path: str) -> Manifest:
    """Resolve relative paths against the manifest's folder."""
    fs, name = fsspec.url_to_fs(path)
    folder = str(Path(name).resolve().parent) if "file" in fs.protocol else posixpath.dirname(fs.unstrip_protocol(name))

    def resolved(value: str) -> str:
        value = os.path.expanduser(value)
        return value if "://" in value or os.path.isabs(value) else os.path.normpath(posixpath.join(folder, value))

    sources: list[Any] = []
    for source in manifest.sources:
        if isinstance(source, GitSource):
            repositories = tuple(r.model_copy(update={"url": resolved(r.url)}) for r in source.repositories)
            sources.append(source.model_copy(update={"repositories": repositories}))
        else:
            sources.append(source.model_copy(update={"paths": tuple(resolved(p) for p in source.paths)}))
    benchmarks = tuple(b.model_copy(update={"path": resolved(b.path)}) for b in manifest.decontaminate.benchmarks)
    tokenizer = manifest.tokenizer
    if tokenizer.path:
        tokenizer = tokenizer.model_copy(update={"path": resolved(tokenizer.path)})
    return manifest.model_copy(
        update={
            "sources": tuple(sources),
            "decontaminate": manifest.decontaminate.model_copy(update={"benchmarks": benchmarks}),
            "tokenizer": tokenizer,
            "quarantine": resolved(manifest.quarantine) if manifest.quarantine else None,
        }
    )
