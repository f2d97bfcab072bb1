"""The compiled inner loop of `languages.centroid`: tokens of a text, their counts, and the scores of all languages."""

import numba
import numpy as np

from languages.centroid import LONGEST_TOKEN

_CLASS = np.zeros(256, np.uint8)
_CLASS[0x21:0x7F] = 1
_CLASS[[*range(0x30, 0x3A)]] = 2
_CLASS[[*range(0x41, 0x5B), *range(0x61, 0x7B), 0x5F]] = 3
_OFFSET = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)


@numba.njit(cache=True, nogil=True)
def _find(key: np.int64, keys: np.ndarray, buckets: np.ndarray) -> np.int64:
    top = (key >> np.int64(48)) + np.int64(32768)
    for place in range(buckets[top], buckets[top + 1]):
        if keys[place] == key:
            return np.int64(place)
    return np.int64(-1)


@numba.njit(cache=True, nogil=True)
def score(text, keys, rarities, buckets, starts, columns, weights, root, scores):  # type: ignore[no-untyped-def]
    """Add to `scores` (int64, a language each) the inner products of a text (uint8) with the vectors of `Centroids`.

    Returns the square of the text's own length, unknown tokens counted as the rarest and as if each stood once, and
    the number of known tokens.
    """
    counts = np.zeros(len(keys), np.int32)
    touched = np.empty(len(keys), np.int32)
    distinct = 0
    size = len(text)
    known = np.int64(0)
    unknown = np.int64(0)
    place = 0
    before = np.uint8(0)
    while place < size:
        kind = _CLASS[text[place]]
        if kind == 0:
            place += 1
            before = kind
            continue
        single = _OFFSET
        pair = _OFFSET
        wanted = 0
        if kind == 1:
            single = (_OFFSET ^ np.uint64(text[place])) * _PRIME
            wanted = 1
            if before == 1:
                pair = (((_OFFSET ^ np.uint64(text[place - 1])) * _PRIME) ^ np.uint64(text[place])) * _PRIME
                wanted = 2
            place += 1
        else:
            end = place
            while end < size and _CLASS[text[end]] >= 2:
                single = (single ^ np.uint64(text[end])) * _PRIME
                end += 1
            wanted = 1 if kind == 3 and end - place <= LONGEST_TOKEN else 0
            place = end
        before = kind
        for turn in range(wanted):
            found = _find(np.int64(single if turn == 0 else pair), keys, buckets)
            if found >= 0:
                if counts[found] == 0:
                    touched[distinct] = found
                    distinct += 1
                counts[found] += 1
                known += 1
            elif kind == 3:
                unknown += 1
    rarest = root[1] * (rarities.max() if len(rarities) else 0)
    square = unknown * rarest * rarest
    most = len(root) - 1
    for turn in range(distinct):
        token = touched[turn]
        weight = root[min(np.int64(counts[token]), most)] * rarities[token]
        square += weight * weight
        for entry in range(starts[token], starts[token + 1]):
            scores[columns[entry]] += weight * weights[entry]
    return square, known
