"""Keyed hashes: the only source of chance in Headrace (architecture, "no hidden randomness").

Every random choice is a function of (seed, purpose, id), so it does not depend on order, worker or run.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 14
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def keyed_u64(seed: int, purpose: str, identity: bytes) -> int:
    """Hash one id of any length to 64 bits."""
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8, key=_key(seed, purpose)).digest(), "little")


def keyed_u64_batch(seed: int, purpose: str, ids: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash n 16-byte ids (shape ``(n, 16)``, uint8) to n 64-bit values.

    Another function than :func:`keyed_u64`: two rounds of the SplitMix64 finaliser over the id's two words, keyed by
    blake2b of (seed, purpose). Ids are themselves blake2b digests, so the mixing has no structure to hide.
    """
    words = np.ascontiguousarray(ids).view("<u8").astype(np.uint64, copy=False)
    key = np.frombuffer(hashlib.blake2b(_key(seed, purpose), digest_size=16).digest(), dtype="<u8")
    result = np.empty(len(words), np.uint64)
    for at in range(0, len(words), _BLOCK):
        some = words[at : at + _BLOCK]
        result[at : at + _BLOCK] = _mix(_mix(some[:, 0] ^ key[0]) ^ some[:, 1] ^ key[1])
    return result


def below(share: float) -> int:
    """The threshold t such that a 64-bit hash is below t with probability ``share`` (0 to 1)."""
    return min(int(share * 2.0**64), 2**64 - 1)


def _key(seed: int, purpose: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=32).digest()


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLIERS[0]
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLIERS[1]
    return np.asarray(x ^ (x >> np.uint64(31)))
