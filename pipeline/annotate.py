"""Annotate: one pass over the text writes every table that is missing: language, measures, signatures, contamination.

Each table has the rows of its shard of documents, in their order. Classification over 338 languages, the measures of
rules 1 to 5, MinHash signatures and benchmark overlap: DeepSeek-Coder-V2, section 2.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

import languages
from filters import contamination, minhash, prose, rules
from filters.minhash import MinHashParameters
from pipeline.blame import blaming
from pipeline.records import Record, Stage, commit, find
from pipeline.schemas import CONTAMINATION, ID, LANGUAGE
from pipeline.store import Store, Written

TABLES = ("language", "measures", "signatures", "contamination")
MODULES = {
    "language": ("pipeline.annotate", "languages"),
    "measures": ("pipeline.annotate", "filters.rules", "filters.prose"),
    "signatures": ("pipeline.annotate", "filters.minhash"),
    "contamination": ("pipeline.annotate", "filters.contamination"),
}
LIBRARIES = {
    "language": languages.CONTENT_VERSIONS,
    "measures": ("turbohtml",),
    "signatures": (),
    "contamination": (),
}
COLUMNS = ("id", "form", "path", "declared_language", "text")
HTML = "HTML"
PROSE = "prose_"


def signature_schema(parameters: MinHashParameters) -> pa.Schema:
    """A table: words, SHA-256 of the text cut to 16 bytes, the band keys (u64, little-endian), the 8-bit sidecar."""
    return pa.schema(
        [
            pa.field("n_words", pa.uint32(), nullable=False),
            pa.field("text_hash", ID, nullable=False),
            pa.field("keys", pa.binary(8 * parameters.bands), nullable=False),
            pa.field("sidecar", pa.binary(parameters.permutations), nullable=False),
        ]
    )


def classify(batch: pa.RecordBatch, rows_are: str) -> pa.RecordBatch:
    """Language and kind of every document: by detection for files, as declared for table rows, ``page`` for pages."""
    paths, texts = batch.column("path").to_pylist(), batch.column("text").cast(pa.large_binary())
    forms, declared = batch.column("form").to_pylist(), batch.column("declared_language").to_pylist()
    files = [i for i, form in enumerate(forms) if form == "file"]
    detected = dict(
        zip(files, languages.classify_batch([paths[i] for i in files], [texts[i].as_py() for i in files]), strict=True)
    )
    columns: tuple[list[Any], ...] = ([], [], [], [])
    for i, form in enumerate(forms):
        if form == "file":
            verdict = detected[i]
            row = (verdict.language, verdict.kind, verdict.evidence, verdict.confidence)
        elif form == "page":
            row = ("other:Web page", "page", "form", 1000)
        elif declared[i]:
            known = declared[i] in _known_languages()
            name = declared[i] if known else f"other:{declared[i]}"
            row = (name, languages.kind_of(name) if known else rows_are, "declared", 1000)
        else:
            row = ("other:Text", rows_are, "form", 1000)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return pa.RecordBatch.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, LANGUAGE, strict=True)],
        schema=LANGUAGE,
    )


def measure(batch: pa.RecordBatch, language: pa.RecordBatch) -> pa.RecordBatch:
    """Integers that the rules judge: of :mod:`filters.rules`, and of :mod:`filters.prose` behind ``prose_``.

    The latter are measured where a manifest may call the document prose or a page, else they are 0, as is
    ``visible_chars`` but for HTML source.
    """
    text = batch.column("text")
    is_html = np.asarray(language.column("language").to_numpy(zero_copy_only=False) == HTML)
    visible = np.zeros(len(text), np.uint32)
    for i in np.flatnonzero(is_html):
        visible[i] = rules.visible_chars(text[int(i)].as_py())
    code = rules.measure(text)
    columns = {name: code.column(name) for name in code.schema.names} | {"visible_chars": pa.array(visible)}
    kinds = language.column("kind").to_numpy(zero_copy_only=False)
    names = language.column("language").to_numpy(zero_copy_only=False).astype(str)
    rows = np.flatnonzero(np.isin(kinds, ("prose", "page")) | np.char.startswith(names, "other:"))
    words = prose.measure_prose(text.take(pa.array(rows)))
    for name in words.schema.names:
        values = np.zeros(len(text), np.uint32)
        values[rows] = words.column(name)
        columns[f"{PROSE}{name}"] = pa.array(values)
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))


def sign(batch: pa.RecordBatch, parameters: MinHashParameters) -> pa.RecordBatch:
    """MinHash band keys and sidecar, and the hash that finds exact duplicates."""
    text = batch.column("text")
    signatures = minhash.sign(text, parameters)
    schema = signature_schema(parameters)
    hashes = [hashlib.sha256(view).digest()[:16] for view in _views(text)]
    keys = minhash.band_keys(signatures.signature, parameters)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(signatures.words, pa.uint32()),
            pa.array(hashes, ID),
            _fixed(np.ascontiguousarray(keys, "<u8").view(np.uint8)),
            _fixed(minhash.sidecar(signatures.signature)),
        ],
        schema=schema,
    )


def find_contamination(batch: pa.RecordBatch, index: contamination.Index) -> pa.RecordBatch:
    """Words in common with benchmark texts."""
    hits = contamination.hits(batch.column("text"), index)
    columns = [pa.array(hits.hits), pa.array(hits.item), pa.array(hits.word)]
    return pa.RecordBatch.from_arrays(
        [c.cast(f.type) for c, f in zip(columns, CONTAMINATION, strict=True)], schema=CONTAMINATION
    )


@dataclass
class Annotate:
    """Write the missing tables of one shard of documents."""

    stages: dict[str, Stage]
    parameters: MinHashParameters
    index_path: str
    rows_are: str
    store: Store

    def setup(self) -> None:
        """Load the benchmark index once per process."""
        self._index = _load_index(self.store, self.index_path)

    def run(self, specification: dict[str, Any]) -> int:
        """Annotate the shard of this specification; gives the bytes of text read."""
        shard, path, inputs = specification["unit"], specification["path"], specification["inputs"]
        found = {name: find(self.store, stage, shard, inputs[name]) for name, stage in self.stages.items()}
        missing = [name for name in TABLES if found[name] is None]
        read, row = 0, 0
        with ExitStack() as stack:
            writers: dict[str, Any] = {}
            for batch in self.store.batches(path, COLUMNS):
                annotated = blaming(lambda b, r: self._annotate(b, missing, found["language"], r), batch, row)
                for name, rows in annotated.items():
                    if name not in writers:
                        options = {"compression": "none", "use_dictionary": False} if name == "signatures" else {}
                        file = self.stages[name].file(shard)
                        writers[name] = stack.enter_context(self.store.table_writer(file, rows.schema, **options))
                    writers[name].write(rows)
                read += batch.column("text").nbytes
                row += batch.num_rows
        for name in missing:
            self._commit(name, shard, inputs[name], writers[name].written)
        return read

    def _annotate(
        self, batch: pa.RecordBatch, missing: Sequence[str], language: Record | None, row: int
    ) -> dict[str, pa.RecordBatch]:
        tables = {}
        if language is None:
            tables["language"] = classify(batch, self.rows_are)
        if "measures" in missing:
            known = tables.get("language")
            if known is None:
                assert language is not None
                table = self.store.read_table(language.files[0].path, ["language", "kind"])
                known = table.slice(row, batch.num_rows).combine_chunks().to_batches()[0]
            tables["measures"] = measure(batch, known)
        if "signatures" in missing:
            tables["signatures"] = sign(batch, self.parameters)
        if "contamination" in missing:
            tables["contamination"] = find_contamination(batch, self._index)
        return tables

    def _commit(self, name: str, shard: str, inputs: dict[str, str], written: Written) -> None:
        commit(self.store, Record(self.stages[name], shard, inputs, (written,), {"rows": written.rows}))


@lru_cache(maxsize=2)
def _load_index(store: Store, path: str) -> contamination.Index:
    return contamination.from_bytes(store.read(path))


@lru_cache(maxsize=1)
def _known_languages() -> frozenset[str]:
    return frozenset(language.name for language in languages.table())


def _views(text: pa.Array) -> Iterator[memoryview]:
    """The UTF-8 bytes of each document, without a copy."""
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = memoryview(text.buffers()[2] or b"")
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield data[start:end]


def _fixed(rows: np.ndarray) -> pa.Array:
    """n rows of w bytes (uint8, shape (n, w)) as a fixed-size binary column."""
    rows = np.ascontiguousarray(rows)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows)])
