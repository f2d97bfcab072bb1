"""The manifest: one YAML file that says what a build reads, keeps and mixes (``docs/manifest.md``).

Parsed into frozen models. An unknown key, a wrong type or a missing path stops before any work, in one message that
names file, line, key, what was expected and the nearest valid name.
"""

import difflib
import os
import posixpath
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import fsspec
import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

import languages
from filters.fim import FimParameters
from filters.minhash import MinHashParameters
from filters.prose import ProseRules
from filters.rules import CodeRules
from pipeline.found import Limits
from pipeline.tables import TableColumns

Kind = Literal["code", "prose", "page", "data"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class ManifestError(Exception):
    """The user's manifest is wrong; the message says where and what to write instead.

    ``key`` is where, below what the raiser was given; who knows the manifest puts file and line before the message.
    """

    def __init__(self, message: str, *key: str | int):
        super().__init__(message)
        self.key = key


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Source(_Model):
    name: Name = Field(description="name of the source; enters every document's id")
    limits: Limits = Field(default=Limits(), description="guards while reading")


class ArchiveSource(_Source):
    """Tar, zip, wheel, sdist, npm tarball and deb files."""

    kind: Literal["archives"]
    paths: tuple[str, ...] = Field(min_length=1, description="files, folders or globs (fsspec URLs)")
    buckets: int | None = Field(
        None, gt=0, le=65536, description="crawl units: hash(origin) mod N; without it every file is a unit"
    )


class GitRepository(_Model):
    """One repository, read at a commit."""

    url: str = Field(description="local path or http(s) URL")
    ref: str = Field("HEAD", description="branch, tag or commit; pinned in the lock file")


class GitSource(_Source):
    """Git repositories, local or remote."""

    kind: Literal["git"]
    repositories: tuple[GitRepository, ...] = Field(min_length=1)
    buckets: int | None = Field(None, gt=0, le=65536, description="crawl units: hash(origin) mod N")


class WarcSource(_Source):
    """WARC files of a web crawl."""

    kind: Literal["warc"]
    paths: tuple[str, ...] = Field(min_length=1, description="files, folders or globs (fsspec URLs)")


class TableSource(_Source):
    """Parquet or JSON lines with a text column: an existing corpus."""

    kind: Literal["tables"]
    paths: tuple[str, ...] = Field(min_length=1, description="files, folders or globs (fsspec URLs)")
    columns: TableColumns
    rows_are: Kind = Field("prose", description="kind of a row that declares no language")


Source = Annotated[ArchiveSource | GitSource | WarcSource | TableSource, Field(discriminator="kind")]


class Languages(_Model):
    """Which languages are kept. The 338 are, unless dropped here; of all others only those listed."""

    drop: tuple[str, ...] = Field((), description="of the 338, those to drop")
    keep_other: dict[str, Kind] = Field(default={}, description="languages outside the 338, and as what kind")


class Rules(_Model):
    """Thresholds by kind."""

    code: CodeRules = CodeRules()
    prose: ProseRules = ProseRules()
    page: ProseRules = ProseRules()


class Benchmark(_Model):
    """Texts that must not be in the corpus."""

    name: str
    path: str = Field(description="JSON lines (also gzip), or any text file: one item")
    fields: tuple[str, ...] = Field((), description="the fields of a JSON line that are joined to the item's text")
    id: str | None = Field(None, description="the field that names an item")


class Decontamination(_Model):
    """n-gram overlap with benchmark texts (DeepSeek-Coder section 2.1, DeepSeekMath section 2.1)."""

    benchmarks: tuple[Benchmark, ...] = ()
    ngram: int = Field(10, ge=3, le=50, description="words in common that drop a document")
    shortest: int = Field(3, ge=1, description="shorter benchmark texts are ignored; up to ngram - 1: exact match")


class Component(_Model):
    """A part of the mixture: the documents that match every condition given; the first component that fits wins."""

    name: Name
    kinds: tuple[Kind, ...] | None = None
    sources: tuple[Name, ...] | None = None
    languages: tuple[str, ...] | None = None


class TrainTokenizer(_Model):
    """A byte-level BPE trained on a hashed sample of what is kept."""

    vocabulary: int = Field(32_000, ge=300, le=1_000_000, description="entries, special tokens included")
    sample_bytes: int = Field(16_000_000, gt=0, description="text to train on")


class Tokenizer(_Model):
    """A Hugging Face ``tokenizer.json``, or one trained here."""

    path: str | None = Field(None, description="a tokenizer.json (fsspec URL)")
    train: TrainTokenizer | None = None
    add: tuple[str, ...] = Field((), description="control tokens to append, in this order, where the file lacks them")
    eos: str = Field("<｜end▁of▁sentence｜>", description="content of the end-of-text token")
    bos: str | None = Field(None, description="content of a token to put before every sample")

    @model_validator(mode="after")
    def _one_of_two(self) -> "Tokenizer":
        if (self.path is None) == (self.train is None):
            raise ValueError("give either path or train")
        return self


class Redaction(_Model):
    """Personal data and secrets that are replaced by a placeholder in the text that is tokenised."""

    enabled: bool = True


class Fim(_Model):
    """Fill-in-the-middle, per document before packing."""

    components: tuple[Name, ...] = ()
    max_tokens: int = Field(4096, gt=8, description="longer samples are left whole; a plan with a smaller L is refused")
    parameters: FimParameters = FimParameters()


class Split(_Model):
    """Shares of origins kept apart from training."""

    validation: Share = 0.0
    held_out: Share = 0.0


class Mixture(_Model):
    """Weights of the components. The loader applies them: a changed weight rebuilds nothing."""

    weights: dict[Name, Annotated[float, Field(gt=0)]] = Field(default={}, description="any scale; by component")
    budget_tokens: int | None = Field(None, gt=0, description="tokens of a training run, for the report")
    max_tokens_per_origin: int | None = Field(None, gt=0, description="cap of one origin, in one component")


class Plan(_Model):
    """Sequences for one length."""

    sequence_length: int = Field(4096, ge=16, le=1 << 24)


class Shards(_Model):
    """Where shards are cut. Part of what makes the documents: a change crawls again."""

    text_bytes: int = Field(64_000_000, gt=0, description="a shard of documents is cut at this size of text")
    rows: int = Field(100_000, gt=0, description="or at this number of documents, whichever comes first")
    row_group_bytes: int = Field(8_000_000, gt=0, description="text of one row group, what a worker holds at once")


class Manifest(_Model):
    """A build."""

    name: Name
    seed: int = Field(0, ge=0, lt=1 << 63, description="every random choice is a keyed hash of it")
    sources: tuple[Source, ...] = Field(min_length=1)
    shards: Shards = Shards()
    languages: Languages = Languages()
    rules: Rules = Rules()
    deduplicate: MinHashParameters = MinHashParameters()
    decontaminate: Decontamination = Decontamination()
    redact: Redaction = Redaction()
    components: tuple[Component, ...] = Field(min_length=1)
    tokenizer: Tokenizer
    fim: Fim = Fim()
    split: Split = Split()
    mixture: Mixture = Mixture()
    plan: Plan = Plan()
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
            full = [*key, *error.key]
            line = _line(self._node, full) if self._node is not None else 0
            raise ManifestError(f"{self._path}:{line}: {'.'.join(map(str, full))}: {error}") from None

    @model_validator(mode="after")
    def _names_agree(self) -> "Manifest":
        for what, names in (
            ("source", [s.name for s in self.sources]),
            ("component", [c.name for c in self.components]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {what}s are named {name!r}; a name stands once")
        components = [c.name for c in self.components]
        for key, used in (("mixture.weights", self.mixture.weights), ("fim.components", self.fim.components)):
            for name in used:
                if name not in components:
                    raise ValueError(f"{key} names the component {name!r}{_near(name, components)}")
        sources = [s.name for s in self.sources]
        for component in self.components:
            for name in component.sources or ():
                if name not in sources:
                    raise ValueError(f"component {component.name!r} names the source {name!r}{_near(name, sources)}")
        self._languages_exist()
        if self.fim.components and self.fim.max_tokens > self.plan.sequence_length:
            raise ValueError(
                f"fim.max_tokens is {self.fim.max_tokens}, above plan.sequence_length {self.plan.sequence_length}: a "
                "sample with FIM is never cut, so lower fim.max_tokens or plan longer sequences"
            )
        if self.split.validation + self.split.held_out > 0.9:
            raise ValueError("split.validation and split.held_out leave under 10 % to train on")
        return self

    def _languages_exist(self) -> None:
        known = [language.name for language in languages.table()]
        others = [language.name.removeprefix("other:") for language in languages.outside()] + ["unknown"]
        wanted = [("languages.drop", name, known) for name in self.languages.drop]
        wanted += [("languages.keep_other", name, others) for name in self.languages.keep_other]
        for component in self.components:
            every = [*known, *(f"other:{name}" for name in others)]
            wanted += [(f"component {component.name!r}", name, every) for name in component.languages or ()]
        for where, name, valid in wanted:
            if name not in valid:
                close = [v for v in valid if v.lower() == name.lower()] or difflib.get_close_matches(
                    name, valid, 1, 0.5
                )
                hint = f"did you mean {close[0]!r}?" if close else "`headrace languages` lists them"
                raise ValueError(f"{where} names the language {name!r}, which does not exist; {hint}")


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
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise ManifestError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(value, dict):
        raise ManifestError(f"{path}: a manifest is a mapping of keys to values, such as `name: my-corpus`")
    _refuse_repeated_keys(node, path)
    try:
        manifest = Manifest.model_validate_json(_json(value))
    except ValidationError as error:
        lines = [_explain(e, node, path) for e in error.errors()]
        raise ManifestError("\n".join(dict.fromkeys(lines))) from None
    manifest = _absolute(manifest, path)
    manifest._text, manifest._path, manifest._node = text, path, node
    return manifest


def _json(value: Any) -> str:
    import json

    return json.dumps(value, default=str)


def _refuse_repeated_keys(node: Any, path: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if str(key.value) in seen:
                raise ManifestError(f"{path}:{key.start_mark.line + 1}: the key {key.value!r} stands twice")
            seen.add(str(key.value))
            _refuse_repeated_keys(child, path)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, path)


def _explain(error: Any, node: Any, path: str) -> str:
    loc = [part for part in error["loc"] if part not in ("archives", "git", "warc", "tables")]
    line = _line(node, loc)
    key = ".".join(str(part) for part in loc) or "manifest"
    given = error.get("input")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        valid = _fields_at(error["loc"][:-1])
        message = f"unknown key{_near(str(loc[-1]), valid)}"
    elif error["type"] == "missing":
        message = "this key is missing"
    elif error["type"] == "union_tag_invalid":
        message = f"kind {given.get('kind')!r}{_near(str(given.get('kind')), ['archives', 'git', 'warc', 'tables'])}"
    elif error["type"] == "union_tag_not_found":
        message = "the source's kind is missing (archives, git, warc or tables)"
    elif not isinstance(given, dict | list):
        message = f"{message}, got {given!r}"
    return f"{path}:{line}: {key}: {message}"


def _line(node: Any, loc: list[Any]) -> int:
    line: int = node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if match is None:
                break
            line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """The keys that are valid where an error stands."""
    kind: Any = Manifest
    for part in loc:
        if part in ("archives", "git", "warc", "tables") and kind is Source:
            kind = {"archives": ArchiveSource, "git": GitSource, "warc": WarcSource, "tables": TableSource}[part]
        elif isinstance(part, str) and isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = _model_in(kind.model_fields[part].annotation) if part in kind.model_fields else None
        if kind is None:
            return []
    return list(getattr(kind, "model_fields", ()))


def _model_in(annotation: Any) -> Any:
    if annotation == Source or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return annotation
    if typing.get_origin(annotation) in (tuple, typing.Union, types.UnionType):
        return next((m for m in map(_model_in, typing.get_args(annotation)) if m is not None), None)
    return None


def _near(name: str, valid: list[str]) -> str:
    if not valid:
        return ", which does not exist"
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f", which does not exist; did you mean {close[0]!r}?"
    return f", which does not exist; valid: {', '.join(sorted(valid))}"


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
