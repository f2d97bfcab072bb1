"""Which documents share words with a benchmark, after DeepSeek-Coder (arXiv 2401.14196, section 2.4) and DeepSeekMath.

A document is contaminated if ten consecutive words of it (see :mod:`filters.words`) stand in a benchmark text; a
benchmark text of 3 to 9 words must stand in the document whole. A rolling hash finds candidates and the words
themselves decide, so no collision of hashes drops a document.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from filters import words
from filters.words import BUFFER, buffers, tokenise

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_ZERO, _ONE, _S6, _S12, _S32, _LOW6 = (np.uint64(x) for x in (0, 1, 6, 12, 32, 63))


class Benchmark(NamedTuple):
    """One text of a benchmark: a question, a solution, a test."""

    name: str
    item: str
    text: str


@dataclass(frozen=True)
class Index:
    """The grams of n benchmark texts, made by :func:`build_index`.

    ``items``: the texts, as words joined by spaces, ascending; ``ignored``: how many texts were too short to count;
    ``word_data`` u8 and ``word_offsets`` i64: all words of all items, one after another; ``item_words`` i64[n + 1]:
    where the words of an item begin; ``keys`` u64[m] ascending, with ``gram_words`` i64[m] (where the gram starts among
    all words), ``gram_items`` i32[m] and ``gram_sizes`` i32[m]; ``sizes``: the number of words in a gram, ascending;
    ``bloom`` u64: three bits a key in one of its words, some 32 bits a key.
    """

    ngram: int
    shortest: int
    items: tuple[Benchmark, ...]
    ignored: int
    word_data: NDArray[np.uint8]
    word_offsets: NDArray[np.int64]
    item_words: NDArray[np.int64]
    keys: NDArray[np.uint64]
    gram_words: NDArray[np.int64]
    gram_items: NDArray[np.int32]
    gram_sizes: NDArray[np.int32]
    sizes: NDArray[np.int64]
    bloom: NDArray[np.uint64]


class Hits(NamedTuple):
    """Of n documents: ``hits`` u32[n], the number of positions where a gram of a benchmark starts (0: clean);
    ``item`` i32[n], the lowest item that has the first of these grams (-1: clean); ``word`` u32[n], its position.
    """

    hits: NDArray[np.uint32]
    item: NDArray[np.int32]
    word: NDArray[np.uint32]


def build_index(texts: Iterable[Benchmark], ngram: int = 10, shortest: int = 3) -> Index:
    """Index benchmark texts; their order does not matter. Texts of fewer than ``shortest`` words are only counted.

    Raises ValueError unless ``1 <= shortest <= ngram <= 64``.
    """
    if not 1 <= shortest <= ngram <= 64:
        raise ValueError(f"shortest is {shortest} and ngram {ngram}, expected 1 <= shortest <= ngram <= 64")
    split = sorted((text.name, text.item, words.of(text.text)) for text in texts)
    used = [(name, item, found) for name, item, found in split if len(found) >= shortest]
    items = tuple(Benchmark(name, item, " ".join(found)) for name, item, found in used)
    encoded = [word.encode() for _, _, found in used for word in found]
    word_data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    word_offsets = _running([len(word) for word in encoded])
    item_words = _running([len(found) for _, _, found in used])

    hashes = np.concatenate([_hashes(item.text) for item in items] or [np.empty(0, np.uint64)])
    lengths = np.diff(item_words)
    sizes = np.minimum(lengths, ngram)
    gram_items = np.repeat(np.arange(len(items)), lengths - sizes + 1).astype(np.int32)
    gram_words = _ranges(item_words[:-1], lengths - sizes + 1)
    gram_sizes = sizes[gram_items].astype(np.int32)
    keys = _gram_keys(hashes, gram_words, gram_sizes)
    order = np.lexsort((gram_words, keys))
    keys = keys[order]
    bloom = np.zeros(1 << max(6, int(len(keys) // 2).bit_length()), np.uint64)
    _fill(bloom, keys)
    return Index(
        ngram,
        shortest,
        items,
        len(split) - len(used),
        word_data,
        word_offsets,
        item_words,
        keys,
        gram_words[order],
        gram_items[order],
        gram_sizes[order],
        np.unique(sizes).astype(np.int64),
        bloom,
    )


def to_bytes(index: Index) -> bytes:
    """An Arrow IPC stream of the items, from which :func:`from_bytes` builds the index anew: equal for equal items."""
    metadata = {"ngram": str(index.ngram), "shortest": str(index.shortest), "ignored": str(index.ignored)}
    schema = pa.schema([(name, pa.large_string()) for name in Benchmark._fields], metadata=metadata)
    columns = [[text[i] for text in index.items] for i in range(len(Benchmark._fields))]
    batch = pa.record_batch([pa.array(column, pa.large_string()) for column in columns], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> Index:
    """The index that :func:`to_bytes` wrote. Raises pyarrow.ArrowInvalid for other bytes."""
    table = pa.ipc.open_stream(data).read_all()
    number = {key: int(value) for key, value in (table.schema.metadata or {}).items()}
    texts = [Benchmark(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    index = build_index(texts, number[b"ngram"], number[b"shortest"])
    return Index(**{**index.__dict__, "ignored": number[b"ignored"]})


def hits(text: pa.LargeStringArray, index: Index) -> Hits:
    """Look n documents up. Raises TypeError for another type than ``large_string``."""
    data, offsets = buffers(text)
    result = Hits(np.zeros(len(text), np.uint32), np.full(len(text), -1, np.int32), np.zeros(len(text), np.uint32))
    _hits(
        data,
        offsets,
        index.sizes,
        index.bloom,
        index.keys,
        index.gram_words,
        index.gram_items,
        index.gram_sizes,
        index.word_data,
        index.word_offsets,
        *result,
    )
    return result


def common_words(text: str, index: Index, item: int) -> str:
    """The words, joined by spaces, that a document and an item share from their first common gram on.

    Empty if they have no gram in common. ``item`` counts in ``index.items``.
    """
    document = words.of(text)
    benchmark = index.items[item].text.split(" ")
    size = min(len(benchmark), index.ngram)
    places: dict[tuple[str, ...], int] = {}
    for start in range(len(benchmark) - size, -1, -1):
        places[tuple(benchmark[start : start + size])] = start
    for at in range(len(document) - size + 1):
        start = places.get(tuple(document[at : at + size]), -1)
        if start >= 0:
            run = size
            while (
                at + run < len(document)
                and document[at + run : at + run + 1] == benchmark[start + run : start + run + 1]
            ):
                run += 1
            return " ".join(document[at : at + run])
    return ""


def _running(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(np.array(lengths, dtype=np.int64))))


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """``starts[i], starts[i] + 1, ...`` of ``counts[i]`` numbers each, all in one array."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def _hashes(text: str) -> NDArray[np.uint64]:
    raw = text.encode()
    data = np.frombuffer(raw, dtype=np.uint8)
    hashes, starts, stops = words.scratch()
    parts = []
    position = 0
    while position < len(raw):
        count, position = tokenise(data, position, len(raw), hashes, starts, stops, 0)
        parts.append(hashes[:count].copy())
    return np.concatenate(parts)


@njit(cache=True, nogil=True, forceinline=True)
def _finish(polynomial, size):  # type: ignore[no-untyped-def]
    key = (polynomial ^ np.uint64(size)) * _MIX
    return key ^ (key >> _S32)


@njit(cache=True, nogil=True, forceinline=True)
def _bloom_bits(key):  # type: ignore[no-untyped-def]
    return (_ONE << (key & _LOW6)) | (_ONE << ((key >> _S6) & _LOW6)) | (_ONE << ((key >> _S12) & _LOW6))


@njit(cache=True, nogil=True)
def _gram_keys(hashes, gram_words, gram_sizes):  # type: ignore[no-untyped-def]
    keys = np.empty(gram_words.size, np.uint64)
    for i in range(keys.size):
        polynomial = _ZERO
        for j in range(gram_sizes[i]):
            polynomial = polynomial * _BASE + hashes[gram_words[i] + j]
        keys[i] = _finish(polynomial, gram_sizes[i])
    return keys


@njit(cache=True, nogil=True)
def _fill(bloom, keys):  # type: ignore[no-untyped-def]
    for key in keys:
        bloom[np.int64(key >> _S32) & (bloom.size - 1)] |= _bloom_bits(key)


@njit(cache=True, nogil=True)
def _hits(  # type: ignore[no-untyped-def]
    data,
    offsets,
    sizes,
    bloom,
    keys,
    gram_words,
    gram_items,
    gram_sizes,
    word_data,
    word_offsets,
    n_hits,
    first_item,
    first_word,
):
    hashes = np.empty(BUFFER, np.uint64)
    starts = np.empty(BUFFER, np.int64)
    stops = np.empty(BUFFER, np.int64)
    polynomial = np.empty(BUFFER, np.uint64)
    gram = np.empty(BUFFER, np.int64)
    longest = sizes[-1] if sizes.size else 1
    mask = bloom.size - 1
    for document in range(n_hits.size):
        position, end = offsets[document], offsets[document + 1]
        before = carried = 0
        while position < end:
            filled, position = tokenise(data, position, end, hashes, starts, stops, carried)
            # A gram may start at each word whose longest gram is in the buffer; the rest waits for the next piece.
            ready = filled if position >= end else max(0, filled - longest + 1)
            for i in range(ready):
                polynomial[i] = _ZERO
                gram[i] = -1
            done = 0
            for size in sizes:
                for j in range(done, size):
                    for i in range(min(ready, filled - j)):
                        polynomial[i] = polynomial[i] * _BASE + hashes[i + j]
                done = size
                for i in range(min(ready, filled - size + 1)):
                    key = _finish(polynomial[i], size)
                    bits = _bloom_bits(key)
                    if bloom[np.int64(key >> _S32) & mask] & bits == bits:
                        at = np.searchsorted(keys, key)
                        while at < keys.size and keys[at] == key:
                            if gram_sizes[at] == size and _same(
                                data, starts, stops, i, size, word_data, word_offsets, gram_words[at]
                            ):
                                if gram[i] < 0 or gram_items[at] < gram[i]:
                                    gram[i] = gram_items[at]
                                break
                            at += 1
            for i in range(ready):
                if gram[i] >= 0:
                    if n_hits[document] == 0:
                        first_item[document] = gram[i]
                        first_word[document] = before + i
                    n_hits[document] += 1
            before += ready
            carried = filled - ready
            for j in range(carried):
                hashes[j], starts[j], stops[j] = hashes[ready + j], starts[ready + j], stops[ready + j]


@njit(cache=True, nogil=True)
def _same(data, starts, stops, first, size, word_data, word_offsets, word):  # type: ignore[no-untyped-def]
    """Whether ``size`` words of a document, in lower case, are those of an item."""
    for j in range(size):
        start, begin = starts[first + j], word_offsets[word + j]
        length = stops[first + j] - start
        if length != word_offsets[word + j + 1] - begin:
            return False
        for k in range(length):
            byte = data[start + k]
            if (byte + 32 if 65 <= byte <= 90 else byte) != word_data[begin + k]:
                return False
    return True
