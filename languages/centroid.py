"""Token statistics: how near is a text to what is typical of a language?

`centroids.parquet` holds one tf-idf vector for each language, trained by `languages.train_centroids`. A text is cut
into tokens, each known token weighs by the square root of its count times its rarity, and a language's score is the
inner product with its vector. Weights and scores are integers, so that the ranking is the same on every machine. Used
to choose among the candidates of an ambiguous extension, and, with a threshold, for texts without any name.

Measured on texts that training has not seen: the right candidate for 63 of 75 example files of Pygments (trained on
Linguist's counts alone) and for 135 of 148 pairs of a demo text of Rouge 3.30 and a shared extension of its language.
That is the ranking alone: with `NEAR_PER_MILLE` 106 of 129 right choices on such texts stay, and of 2,342 texts (of at
least 60 known tokens) in a language that is no candidate 6 % are given to one.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from math import isqrt

import numpy as np

LONGEST_TOKEN = 32
"""Longer identifiers are passed over."""

SCALE = 1000
"""Length of a language's vector."""

RARITY_SCALE = 64
"""A token's rarity is this times the natural logarithm of (languages / languages that use it), rounded."""

NEAR_PER_MILLE = 500
NEAR_PER_TOKEN = 3
"""A candidate must score this share (per mille) of the best of all languages; a text of few known tokens, which is near
to many languages by chance, only the second number for each of them."""

GUESS_COSINE = 400
GUESS_MARGIN = 1150
GUESS_TOKENS = 30
"""A text without a name is only given a language at this cosine (per mille), this lead over the next (per mille),
this many known tokens. Trained on Linguist's counts alone and asked about Pygments' example files, 29 of 465 pass and
26 of these are right."""

_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3
_ROOT = np.array([isqrt(256 * count) for count in range(4097)], np.int64)


@dataclass(frozen=True, slots=True)
class Centroids:
    """The table in memory.

    `keys` (int64, sorted) are token hashes, `rarities` their rarities; token i has the entries `starts[i]` to
    `starts[i + 1]` of `columns` (index of a language) and `weights`. `buckets[h]` is the first key whose top 16 bits
    are at least h.
    """

    languages: tuple[str, ...]
    keys: np.ndarray
    rarities: np.ndarray
    buckets: np.ndarray
    starts: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    index: dict[str, int]


def rank(text: bytes, candidates: tuple[str, ...]) -> tuple[str, int]:
    """Return the nearest candidate and its score's share, per mille, of its own and the runner-up's together.

    An empty name where no candidate is near: see `NEAR_PER_MILLE`; where only one candidate has a vector, it must be
    the nearest of all languages. Ties go to the earlier candidate.
    """
    scores, _, known = _scores(text)
    index = centroids().index
    found = sorted((-int(scores[index[name]]), place) for place, name in enumerate(candidates) if name in index)
    if not found or found[0][0] == 0:
        return "", 0
    best = -found[0][0]
    second = -found[1][0] if len(found) > 1 else 0
    needed = min(NEAR_PER_MILLE, NEAR_PER_TOKEN * known) if len(found) > 1 else 1000
    if best * 1000 < int(scores.max()) * needed:
        return "", 0
    return candidates[found[0][1]], best * 1000 // (best + second)


def guess(text: bytes) -> tuple[str, int]:
    """Return the language that a text without a name is clearly near to and the cosine per mille, or an empty name."""
    scores, square, known = _scores(text)
    if known < GUESS_TOKENS:
        return "", 0
    order = np.lexsort((np.arange(len(scores)), -scores))[:2]
    best, second = int(scores[order[0]]), int(scores[order[1]])
    cosine = best * 1000 // (SCALE * max(isqrt(square), 1))
    if cosine < GUESS_COSINE or best * 1000 < second * GUESS_MARGIN:
        return "", 0
    return centroids().languages[order[0]], min(cosine, 1000)


def tokens(text: bytes) -> list[bytes]:
    """Cut a text into its tokens: identifiers, single marks, and pairs of adjacent marks. Plain form of the kernel,
    for training and tests."""
    found: list[bytes] = []
    place, size = 0, len(text)
    while place < size:
        byte = text[place : place + 1]
        if byte.isalnum() or byte == b"_":
            end = place + 1
            while end < size and (text[end : end + 1].isalnum() or text[end : end + 1] == b"_"):
                end += 1
            if not byte.isdigit() and end - place <= LONGEST_TOKEN:
                found.append(text[place:end])
            place = end
            continue
        if b"!" <= byte <= b"~":
            found.append(byte)
            if place and _is_mark(text[place - 1]):
                found.append(text[place - 1 : place + 1])
        place += 1
    return found


def token_hash(token: bytes) -> int:
    """Return the FNV-1a hash of a token as a signed 64-bit number."""
    value = _FNV_OFFSET
    for byte in token:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def _is_mark(byte: int) -> bool:
    return 0x21 <= byte <= 0x7E and not (chr(byte).isalnum() or byte == 0x5F)


@functools.cache
def centroids() -> Centroids:
    """Read the table of this package (about 0.1 s)."""
    import pyarrow.parquet as pq

    with resources.as_file(resources.files("languages").joinpath("centroids.parquet")) as path:
        table = pq.read_table(path)
    names = tuple(table.schema.metadata[b"languages"].decode().split("\n"))
    keys = np.array([token_hash(token) for token in table["token"].to_pylist()], np.int64)
    counts = table["languages"].combine_chunks().value_lengths().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    order = np.argsort(keys, kind="stable")
    entries = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in order])
    keys = keys[order]
    tops = (keys >> 48) + 32768
    return Centroids(
        names,
        keys,
        table["rarity"].to_numpy()[order].astype(np.int64),
        np.searchsorted(tops, np.arange(65537)).astype(np.int64),
        np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64),
        table["languages"].combine_chunks().flatten().to_numpy()[entries].astype(np.int64),
        table["weights"].combine_chunks().flatten().to_numpy()[entries].astype(np.int64),
        {name: place for place, name in enumerate(names)},
    )


def _scores(text: bytes) -> tuple[np.ndarray, int, int]:
    table = centroids()
    scores = np.zeros(len(table.languages), np.int64)
    square, known = _kernel()(
        np.frombuffer(text, np.uint8),
        table.keys,
        table.rarities,
        table.buckets,
        table.starts,
        table.columns,
        table.weights,
        _ROOT,
        scores,
    )
    return scores, square, known


@functools.cache
def _kernel() -> Callable[..., tuple[int, int]]:
    from languages.centroid_kernel import score

    kernel: Callable[..., tuple[int, int]] = score
    return kernel
