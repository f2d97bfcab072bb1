"""A corpus of tables alone, with sizes and duplicates as real ones have them, for ``benchmarks.scale``.

A document is a number; all that is known of it is a keyed hash of that number, so any shard is made by itself and is
the same on every run. Text is empty. Shares were fitted to 100,601 files of code and documentation: 22 % of the
documents are copies, 10 % of the different texts resemble a better one at 70 %, one in four shares a band key with
another; groups of copies and of relatives follow a power law. Not measured but assumed: a thousandth of all texts
begins alike (a boilerplate: they share the first band key), and one document in two hundred was found twice.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

import languages
from filters import minhash
from filters.keyed import keyed_u64_batch
from filters.minhash import MinHashParameters
from pipeline import annotate
from pipeline.judge import Shard
from pipeline.manifest import Manifest
from pipeline.records import Record, commit
from pipeline.schemas import CONTAMINATION, DOCUMENTS, LANGUAGE, TOKENS
from pipeline.stages import Stages
from pipeline.store import Store, fixed_rows
from pipeline.token_shards import token_writer

LINE_ENDS = np.array([True])
"""Every token of the corpus is 0 and ends a line."""

_REPEATED, _COPIED, _RELATED, _ALIKE = 0.005, 0.32, 0.36, 0.001
_GROUPS = {"copied": 0.32, "related": 0.25}
"""Groups per member."""
_TOP = ("JavaScript", "Python", "Java", "C", "C++", "other:Markdown", "TypeScript", "HTML", "Go", "PHP", "C#", "JSON")
_OUTSIDE = {"other:Markdown": "prose", "other:Web page": "page"}
_ROW_GROUP, _TOKENS_ROW_GROUP, _HOLE = 25_000, 10_000, 1 << 16
_COMPONENTS = {"code": "code", "page": "web", "prose": "language"}
_GOLDEN, _M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(2**32 - 1)

Numbers = NDArray[np.uint64]
Columns = dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """So many documents in shards of ``shard_rows``: three shards of code files, then one of web pages."""

    documents: int
    shard_rows: int
    parameters: MinHashParameters

    @cached_property
    def manifest(self) -> Manifest:
        """A build of it."""
        manifest = {
            "name": "scale",
            "sources": [{"name": name, "kind": "archives", "paths": ["none"]} for name in ("code", "pages")],
            "components": [{"name": name, "kinds": [kind]} for kind, name in _COMPONENTS.items()],
            "languages": {"keep_other": {"Markdown": "prose"}},
            "deduplicate": self.parameters.model_dump(),
            "tokenizer": {"train": {}},
            "mixture": {"max_tokens_per_origin": 5_000_000},
        }
        return Manifest.model_validate_json(json.dumps(manifest))

    @cached_property
    def stages(self) -> Stages:
        """The stages of that build."""
        return Stages(self.manifest, "", "")

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.documents // self.shard_rows)

    def write_shard(self, store: Store, shard: int) -> Shard:
        """Write the documents of a shard, and what the annotate pass would write of them."""
        source, name = "pages" if shard % 4 == 3 else "code", f"part-{shard:06d}"
        end = min((shard + 1) * self.shard_rows, self.documents)
        offered = np.arange(shard * self.shard_rows, end, dtype=np.uint64)
        again = _hash("of", offered) % np.uint64(self.documents)
        number = np.where(_uniform("repeated", offered) < _REPEATED, again, offered)
        ids = np.stack([_hash("id", number), _hash("id: lower half", number)], axis=1).astype(">u8")
        by_id = np.lexsort((ids[:, 1], ids[:, 0]))
        stages = self.stages.tables[source] | {"documents": self.stages.documents[source]}
        with ExitStack() as stack:
            writers: dict[str, Any] = {}
            for at in range(0, len(by_id), _ROW_GROUP):
                rows = by_id[at : at + _ROW_GROUP]
                for table, batch in self._tables(number[rows], ids[rows], source, name).items():
                    if table not in writers:
                        options = {"compression": "none", "use_dictionary": False} if table == "signatures" else {}
                        path = stages[table].file(name)
                        writers[table] = stack.enter_context(store.table_writer(path, batch.schema, **options))
                    writers[table].write(batch)
        written = {table: writer.written for table, writer in writers.items()}
        inputs = {"documents": written["documents"].digest}
        records = {t: commit(store, Record(stages[t], name, inputs, (written[t],), {})) for t in annotate.TABLES}
        return Shard(name, source, written["documents"].path, inputs["documents"], len(number), 0, records)

    def _tables(self, number: Numbers, ids: NDArray[Any], source: str, name: str) -> dict[str, pa.RecordBatch]:
        text = self._grouped("copied", number, _COPIED, self.documents)
        family = self._grouped("related", text, _RELATED, 2 * self.documents)
        normal = np.sqrt(-2 * np.log(_uniform("size", family))) * np.cos(2 * np.pi * _uniform("angle", family))
        n_chars = (1650 * np.exp(1.2 * normal) * (0.9 + 0.2 * _uniform("length", text))).astype(np.uint32) + 1
        language = _language(family, source)
        return {
            "documents": self._documents(number, ids, source, name),
            "language": language,
            "measures": _measures(text, n_chars, language),
            "signatures": self._signatures(text, family, n_chars),
            "contamination": _contamination(text),
        }

    def _grouped(self, what: str, number: Numbers, share: float, first: int) -> Numbers:
        """Give a share of them the number of a group, from ``first`` on, that they have in common."""
        count = _GROUPS[what] * share * self.documents
        group = (_uniform(f"group: {what}", number) ** 2.5 * count).astype(np.uint64)
        return np.where(_uniform(what, number) < share, np.uint64(first) + group, number)

    def _documents(self, number: Numbers, ids: NDArray[Any], source: str, name: str) -> pa.RecordBatch:
        per_origin, tail = (200, 2.0) if source == "code" else (8, 1.5)
        origin = (_uniform("origin", number) ** tail * self.documents / per_origin).astype(np.uint64)
        revisions = pa.array([f"20{year}-{month:02d}-01" for year in range(16, 24) for month in range(1, 13)])
        place = pc.binary_join_element_wise(f"{name}.tar!src/", pa.array(number).cast(pa.string()), "")
        columns: Columns = {"form": "file" if source == "code" else "page", "source": source, "encoding": "utf-8"}
        columns |= {"declared_language": "", "raw_bytes": 0, "raw_sha256": bytes(32), "text_bytes": 0, "text": ""}
        columns |= {"id": _fixed(ids), "path": place.cast(pa.binary()), "path_display": place, "locator": place}
        columns["origin"] = pc.binary_join_element_wise("o", pa.array(origin).cast(pa.string()), "")
        columns["revision"] = revisions.take(pa.array(_hash("revision", number) % np.uint64(len(revisions))))
        return _batch(DOCUMENTS, columns, len(number))

    def _signatures(self, text: Numbers, family: Numbers, n_chars: NDArray[np.uint32]) -> pa.RecordBatch:
        parameters = self.parameters
        likeness = np.where(text == family, 0, 0.6 + 0.4 * _uniform("likeness", text))
        is_alike = _uniform("alike", text) < _ALIKE
        likeness[is_alike] = 0.5
        base = _hash("minima", np.where(is_alike, np.uint64(3 * self.documents), family))
        forced = np.where(is_alike, parameters.rows, 0)
        signature = np.empty((len(text), parameters.permutations), np.uint32)
        _minima(_hash("minima", text), base, (likeness * 2**32).astype(np.uint64), forced, signature)
        columns = {
            "n_words": pa.array(n_chars // 8 + 1),
            "text_hash": _fixed(np.stack([_hash("text", text), _hash("text: lower half", text)], axis=1)),
            "keys": _fixed(minhash.band_keys(signature, parameters)),
            "sidecar": _fixed(minhash.sidecar(signature)),
        }
        return _batch(annotate.signature_schema(parameters), columns, len(text))

    def write_tokens(self, store: Store, shard: Shard, verdict: Record, duplicate: Record) -> tuple[str, str, Record]:
        """Write the token shard of what is kept. Its tokens are zeros that take no disk: holes of the file."""
        reasons = [
            store.read_table(record.files[0].path, ["reason"]).column("reason") for record in (verdict, duplicate)
        ]
        documents = store.read_table(shard.path, ["id", "origin"])
        for table, name in (("language", "language"), ("language", "kind"), ("measures", "n_chars")):
            column = store.read_table(shard.tables[table].files[0].path, [name]).column(name)
            documents = documents.append_column(name, column)
        kept = documents.filter(pc.and_(*(pc.equal(column, "") for column in reasons))).combine_chunks()
        stage = self.stages.tokens[shard.source]
        with token_writer(_Sparse(store.url), stage.file(shard.name)) as writer:
            for batch in kept.to_batches(_TOKENS_ROW_GROUP):
                writer.write(_tokens(batch, shard.source))
        return shard.source, shard.name, commit(store, Record(stage, shard.name, {}, (writer.written,), {}))


def _language(family: Numbers, source: str) -> pa.RecordBatch:
    """By Zipf's law."""
    names = ["other:Web page"] if source == "pages" else _names()
    kinds = [_OUTSIDE.get(name, "code") for name in names]
    rank = pa.array(np.exp(_uniform("language", family) * np.log(len(names) + 1)).astype(np.int64) - 1)
    columns: Columns = {"language": pa.array(names).take(rank), "kind": pa.array(kinds).take(rank)}
    return _batch(LANGUAGE, columns | {"evidence": "extension", "confidence": 1000}, len(family))


@cache
def _names() -> list[str]:
    return [*_TOP, *sorted({language.name for language in languages.table()} - set(_TOP))]


@cache
def _measures_schema() -> pa.Schema:
    none = [pa.RecordBatch.from_pylist([], schema) for schema in (DOCUMENTS, LANGUAGE)]
    return annotate.measure(*none).schema


def _measures(text: Numbers, n_chars: NDArray[np.uint32], language: pa.RecordBatch) -> pa.RecordBatch:
    """Values of which the rules drop about a quarter."""
    a, b, c = (_uniform(f"measures {n}", text) for n in range(3))
    is_html = np.asarray(pc.equal(language.column("language"), "HTML"))
    is_words = np.asarray(pc.not_equal(language.column("kind"), "code"))
    n_lines, n_words = n_chars // 35 + 1, n_chars // 6 + 1
    line_chars = n_chars - np.minimum(n_chars, n_lines)
    code = {"n_chars": n_chars, "n_lines": n_lines, "max_line_chars": np.minimum(100 / a, n_chars)}
    code |= {"line_chars": line_chars, "alpha_chars": n_chars * (0.2 + 0.6 * b), "visible_chars": n_chars * c * is_html}
    words = {"n_words": n_words, "word_chars": 5 * n_words, "alpha_words": n_words * (0.55 + 0.45 * a)}
    words |= {"alpha_chars": 0.8 * n_chars, "ascii_alpha_chars": 0.8 * n_chars, "stop_words": 8 * b**0.25}
    words |= {"n_lines": n_lines, "line_chars": line_chars, "bullet_lines": n_lines * b**2}
    words |= {"repeated_lines": n_lines * c**4, "repeated_line_chars": line_chars * c**4}
    values = code | {f"{annotate.PROSE}{name}": value * is_words for name, value in words.items()}
    columns = {name: pa.array(np.asarray(value).astype(np.uint32)) for name, value in values.items()}
    zeros = dict.fromkeys(_measures_schema().names, 0)
    return _batch(_measures_schema(), zeros | columns, len(text))


def _contamination(text: Numbers) -> pa.RecordBatch:
    is_hit = _uniform("hit", text) < 0.001
    columns = {"n_hits": pa.array(is_hit.astype(np.uint32)), "item": pa.array(is_hit.astype(np.int32) - 1), "word": 0}
    return _batch(CONTAMINATION, columns, len(text))


def _tokens(batch: pa.RecordBatch, source: str) -> pa.RecordBatch:
    n = batch.num_rows
    kind = batch.column("kind").dictionary_encode()
    component = pa.array([_COMPONENTS[name] for name in kind.dictionary.to_pylist()], pa.string()).take(kind.indices)
    origin = pc.utf8_slice_codeunits(batch.column("origin"), 1).cast(pa.uint64()).to_numpy()
    is_held = _uniform("split", origin) < 0.005
    n_tokens = batch.column("n_chars").to_numpy() // 3 + 2
    offsets = pa.array(np.append(0, np.cumsum(n_tokens)), pa.int32())
    half = fixed_rows(batch.column("id")).view(np.uint64)[:, 0] >> np.uint64(63) == 1
    piece = pa.StructArray.from_arrays(
        [batch.column("id"), pa.array(np.zeros(n, np.uint32))], fields=list(TOKENS.field("pieces").type.value_type)
    )
    each, zeros = pa.array(np.arange(n + 1, dtype=np.int32)), pa.array(np.zeros(offsets[-1].as_py(), np.uint32))
    columns: Columns = {"sample_id": batch.column("id"), "n_tokens": pa.array(n_tokens), "source": source}
    columns |= {"pieces": pa.ListArray.from_arrays(each, piece, type=TOKENS.field("pieces").type)}
    columns |= {"tokens": pa.ListArray.from_arrays(offsets, zeros, type=TOKENS.field("tokens").type)}
    columns |= {"n_bytes": batch.column("n_chars"), "component": component, "language": batch.column("language")}
    columns |= {"origin": batch.column("origin"), "redactions": 0}
    columns["split"] = pa.array(["train", "validation"]).take(pa.array(is_held.astype(np.uint8)))
    columns["fim"] = pa.array(half & (n_tokens <= 4096) & np.asarray(pc.equal(component, "code")))
    return _batch(TOKENS, columns, n)


def _batch(schema: pa.Schema, columns: Columns, n: int) -> pa.RecordBatch:
    """Arrays as they are, and values that all rows have."""
    arrays = [columns[f.name] for f in schema]
    return pa.RecordBatch.from_arrays(
        [
            a if isinstance(a, pa.Array) else pa.repeat(pa.scalar(a, f.type), n)
            for f, a in zip(schema, arrays, strict=True)
        ],
        schema=schema,
    )


def _fixed(rows: NDArray[Any]) -> pa.Array:
    """Rows of integers as a fixed-size binary column."""
    data = np.ascontiguousarray(rows).view(np.uint8)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(data.shape[1]), len(data), [None, pa.py_buffer(data)])


def _hash(purpose: str, numbers: Numbers) -> Numbers:
    words = np.zeros((len(numbers), 2), "<u8")
    words[:, 0] = numbers
    return keyed_u64_batch(0, f"scale: {purpose}", words.view(np.uint8))


def _uniform(purpose: str, numbers: Numbers) -> NDArray[np.float64]:
    """Above 0 and below 1."""
    return ((_hash(purpose, numbers) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


@njit(cache=True, nogil=True)
def _minima(text, base, likeness, forced, signature):  # type: ignore[no-untyped-def]
    """Each minimum is that of the base with the probability ``likeness / 2**32``, and for the first ``forced`` ones."""
    for i in range(text.size):
        for k in range(signature.shape[1]):
            step = np.uint64(k) * _GOLDEN
            own = _mix(text[i] + step)
            if k < forced[i] or own & _LOW < likeness[i]:
                own = _mix(base[i] + step)
            signature[i, k] = own >> np.uint64(32)


@njit(cache=True, nogil=True)
def _mix(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


class _Sparse(Store):
    """A folder whose files have holes where zeros are written."""

    @contextmanager
    def create(self, path: str) -> Iterator[Any]:
        final = Path(self.full(path))
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f"{final.name}.tmp")
        with temporary.open("wb") as file:
            yield _Holes(file)
        temporary.rename(final)


class _Holes:
    def __init__(self, file: Any):
        self._file = file

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _HOLE):
            some = view[at : at + _HOLE]
            if np.frombuffer(some, np.uint8).any():
                self._file.write(some)
            else:
                self._file.seek(len(some), 1)
