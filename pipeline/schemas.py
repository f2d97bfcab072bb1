"""Every Arrow schema of a build, each with its invariants (the contracts stand in ``docs/data.md``).

A *table* has the same rows in the same order as the shard of documents that it describes.
"""

import pyarrow as pa

ID = pa.binary(16)
SHA256 = pa.binary(32)

DOCUMENTS = pa.schema(
    [
        pa.field("id", ID, nullable=False),
        pa.field("form", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("path_display", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("raw_bytes", pa.int64(), nullable=False),
        pa.field("raw_sha256", SHA256, nullable=False),
        pa.field("encoding", pa.string(), nullable=False),
        pa.field("declared_language", pa.string(), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)
"""Rows in the order of ids; ``id`` is :func:`pipeline.crawl.document_id`; ``form`` is file, page, thread or record;
``text_bytes`` is the length of ``text`` in UTF-8; ``declared_language`` is what a table row said of itself."""

REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("path_display", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw_sha256", SHA256),
    ]
)
"""What was offered and could not become a document, in the order of the container. ``raw_sha256`` is null where the
bytes were not read. Rows offered by a unit = its documents + its rejects."""

ORIGINS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("documents", pa.int64(), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
    ]
)
"""One row for each origin of a unit, sorted by origin. An origin may stand in several units (a domain in many WARCs).
``licence`` is null where nothing is known."""

LANGUAGE = pa.schema(
    [
        pa.field("language", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("evidence", pa.string(), nullable=False),
        pa.field("confidence", pa.uint16(), nullable=False),
    ]
)
"""A table. ``language`` is one of the 338 or ``other:NAME``; ``kind`` is code, prose, page or data; ``confidence`` is
in thousandths."""

CONTAMINATION = pa.schema(
    [
        pa.field("n_hits", pa.uint32(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("word", pa.uint32(), nullable=False),
    ]
)
"""A table. ``n_hits`` counts matching n-grams, ``item`` is the first benchmark item hit (row of the index, -1: none),
``word`` the position of the first matching word."""

VERDICTS = pa.schema([pa.field("reason", pa.string(), nullable=False)])
"""A table. The first reason that drops the document, or the empty string: kept by judging."""

DUPLICATES = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("kept", ID),
        pa.field("matches", pa.uint16(), nullable=False),
    ]
)
"""A table. ``reason`` is empty, ``exact_duplicate`` or ``near_duplicate``; ``kept`` is the id of the document kept in
its place; ``matches`` is how many of the permutations agree."""

PIECE = pa.struct([pa.field("document", ID, nullable=False), pa.field("first_token", pa.uint32(), nullable=False)])

TOKENS = pa.schema(
    [
        pa.field("sample_id", ID, nullable=False),
        pa.field("pieces", pa.list_(pa.field("element", PIECE, nullable=False)), nullable=False),
        pa.field("tokens", pa.list_(pa.field("element", pa.uint32(), nullable=False)), nullable=False),
        pa.field("n_tokens", pa.uint32(), nullable=False),
        pa.field("n_bytes", pa.uint32(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("fim", pa.bool_(), nullable=False),
        pa.field("redactions", pa.uint32(), nullable=False),
    ]
)
"""One row a sample, in the order of the documents. ``tokens`` ends with EOS; its values lie uncompressed at the end of
their column chunk (see :mod:`pipeline.token_shards`). ``n_bytes`` is the length of the text that was encoded."""

SELECTION = pa.schema([pa.field("reason", pa.string(), nullable=False)])
"""Row for row beside a token shard: empty (selected), or why the sample is left out."""

PLAN_PIECE = pa.struct(
    [
        pa.field("shard", pa.uint32(), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("start", pa.uint32(), nullable=False),
        pa.field("length", pa.uint32(), nullable=False),
    ]
)

PLAN = pa.schema(
    [
        pa.field("sequence", pa.uint64(), nullable=False),
        pa.field("n_tokens", pa.uint32(), nullable=False),
        pa.field("pieces", pa.list_(pa.field("element", PLAN_PIECE, nullable=False)), nullable=False),
    ]
)
"""Sequences of one split and component: every piece is a run of tokens of one sample, ``shard`` a row of the plan's
list of token shards. A sequence holds at most L tokens; the rest is padding."""
