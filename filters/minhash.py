"""MinHash signatures of documents over word 5-grams, straight from Arrow buffers (docs/benchmarks.md).

The permutations are datasketch 2.0's ``affine32``: the 32-bit hash of a shingle goes through MurmurHash3's finaliser,
then ``a * h + b`` modulo 2**32 with odd a; a signature holds the minima. Equal shingle hashes and equal (a, b) give
datasketch's signature bit for bit.
"""

from functools import cache
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from filters.keyed import keyed_u64
from filters.words import BUFFER, buffers, tokenise

SIDECAR_BITS = 8
_LARGEST = np.uint32(2**32 - 1)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S29, _S32 = np.uint64(29), np.uint64(32)
_FMIX_1, _FMIX_2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_S13, _S16 = np.uint32(13), np.uint32(16)


class MinHashParameters(BaseModel):
    """What near-duplicates are. Sources of the defaults: docs/benchmarks.md.

    Profiles for comparison: strict (threshold 80 or 85, 28 x 9), BigCode (25 x 10), FineWeb (14 x 8).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    permutations: int = Field(256, ge=64, le=1024, multiple_of=64, description="minima in a signature, K")
    bands: int = Field(32, ge=1, le=256, description="32 x 8 finds 95 % of pairs at J >= 0.7, all at J >= 0.8")
    rows: int = Field(8, ge=1, le=64, description="minima in a band")
    shingle: int = Field(5, ge=1, le=16, description="words in a shingle (BigCode and FineWeb use 5)")
    threshold_percent: int = Field(
        70, ge=1, le=100, description="least estimated Jaccard similarity of near-duplicates (BigCode, text-dedup: 0.7)"
    )
    seed: int = Field(1, ge=0, description="key of the permutations")

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        if self.bands * self.rows > self.permutations:
            raise ValueError(
                f"bands * rows is {self.bands} * {self.rows} = {self.bands * self.rows}, "
                f"expected at most permutations = {self.permutations}"
            )
        return self

    @property
    def least_matches(self) -> int:
        """The least number of equal sidecar bytes whose :func:`estimate` reaches the threshold, in whole numbers."""
        # (m / K - 1/256) / (1 - 1/256) >= t / 100, multiplied out
        return -(-self.permutations * (100 + 255 * self.threshold_percent) // 25600)


class Signatures(NamedTuple):
    """Of n documents: number of words, and the signature.

    ``words`` u32[n]; ``signature`` u32[n, K], to be reduced by :func:`sidecar` and :func:`band_keys` and let go. A
    document without words has the largest value everywhere: mask it by ``words == 0``, as it resembles nothing.
    """

    words: NDArray[np.uint32]
    signature: NDArray[np.uint32]


def sign(text: pa.LargeStringArray, parameters: MinHashParameters) -> Signatures:
    """Sign n documents. One with fewer words than a shingle holds, but at least one, is a single shingle.

    Raises TypeError for another type than ``large_string``.
    """
    data, offsets = buffers(text)
    a, b = permutations(parameters)
    words = np.zeros(len(text), np.uint32)
    signature = np.full((len(text), parameters.permutations), _LARGEST, np.uint32)
    _sign(data, offsets, a, b, parameters.shingle, words, signature)
    return Signatures(words, signature)


def sidecar(signature: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The lowest 8 bits of each minimum, u8[n, K]: as good for verification as all 32 (docs/benchmarks.md)."""
    return signature.astype(np.uint8)


def band_keys(signature: NDArray[np.uint32], parameters: MinHashParameters) -> NDArray[np.uint64]:
    """One key for each band, u64[n, bands], with the band's number mixed in: keys of all bands share one space."""
    keys = np.empty((len(signature), parameters.bands), np.uint64)
    _band_keys(np.ascontiguousarray(signature), parameters.rows, keys)
    return keys


def estimate(matches: NDArray[np.uint16] | int, permutations: int) -> NDArray[np.float64] | float:
    """Jaccard similarity from equal sidecar bytes, corrected for chance: ``(m / K - 2**-8) / (1 - 2**-8)``.

    Without bias, so it may fall a little below 0.
    """
    chance = 2.0**-SIDECAR_BITS
    return (matches / permutations - chance) / (1 - chance)


@cache
def permutations(parameters: MinHashParameters) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The multipliers (odd) and the addends, u32[K] each, from keyed hashes of the seed."""
    values = [keyed_u64(parameters.seed, "minhash", k.to_bytes(4, "little")) for k in range(parameters.permutations)]
    drawn = np.array(values, dtype=np.uint64)
    return (drawn >> _S32).astype(np.uint32) | np.uint32(1), drawn.astype(np.uint32)


@njit(cache=True, nogil=True)
def _sign(data, offsets, a, b, shingle, words, signature):  # type: ignore[no-untyped-def]
    hashes = np.empty(BUFFER, np.uint64)
    starts = np.empty(BUFFER, np.int64)
    stops = np.empty(BUFFER, np.int64)
    polynomial = np.empty(BUFFER, np.uint64)
    shingles = np.empty(BUFFER, np.uint32)
    for document in range(words.size):
        position, end = offsets[document], offsets[document + 1]
        total = carried = 0
        while position < end:
            filled, position = tokenise(data, position, end, hashes, starts, stops, carried)
            total += filled - carried
            count = filled - shingle + 1
            if count > 0:
                _shingle(hashes, count, shingle, polynomial, shingles)
                _permute(shingles, count, a, b, signature[document])
            carried = min(filled, shingle - 1)
            for j in range(carried):
                hashes[j] = hashes[filled - carried + j]
        if 0 < total < shingle:
            _shingle(hashes, 1, total, polynomial, shingles)
            _permute(shingles, 1, a, b, signature[document])
        words[document] = total


@njit(cache=True, nogil=True)
def _shingle(hashes, count, shingle, polynomial, shingles):  # type: ignore[no-untyped-def]
    """The upper half of a polynomial over the words' hashes, finalised as MurmurHash3 does."""
    for i in range(count):
        polynomial[i] = hashes[i]
    for j in range(1, shingle):
        for i in range(count):
            polynomial[i] = polynomial[i] * _BASE + hashes[i + j]
    for i in range(count):
        h = np.uint32(polynomial[i] >> _S32)
        h = np.uint32((h ^ (h >> _S16)) * _FMIX_1)
        h = np.uint32((h ^ (h >> _S13)) * _FMIX_2)
        shingles[i] = h ^ (h >> _S16)


@njit(cache=True, nogil=True)
def _permute(shingles, count, a, b, minima):  # type: ignore[no-untyped-def]
    """Lower the minima by all shingles; eight at a time, so that a minimum is loaded and stored once for eight."""
    whole = count - count % 8
    for i in range(0, whole, 8):
        h0, h1, h2, h3 = shingles[i], shingles[i + 1], shingles[i + 2], shingles[i + 3]
        h4, h5, h6, h7 = shingles[i + 4], shingles[i + 5], shingles[i + 6], shingles[i + 7]
        for k in range(a.size):
            low = min(np.uint32(a[k] * h0 + b[k]), np.uint32(a[k] * h1 + b[k]))
            low = min(low, min(np.uint32(a[k] * h2 + b[k]), np.uint32(a[k] * h3 + b[k])))
            low = min(low, min(np.uint32(a[k] * h4 + b[k]), np.uint32(a[k] * h5 + b[k])))
            low = min(low, min(np.uint32(a[k] * h6 + b[k]), np.uint32(a[k] * h7 + b[k])))
            minima[k] = min(minima[k], low)
    for i in range(whole, count):
        h = shingles[i]
        for k in range(a.size):
            minima[k] = min(minima[k], np.uint32(a[k] * h + b[k]))


@njit(cache=True, nogil=True)
def _band_keys(signature, rows, keys):  # type: ignore[no-untyped-def]
    for document in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            key = np.uint64(band + 1) * _BASE
            for row in range(rows):
                key = (key ^ np.uint64(signature[document, band * rows + row])) * _MIX_1
                key ^= key >> _S29
            key *= _MIX_2
            keys[document, band] = key ^ (key >> _S32)
