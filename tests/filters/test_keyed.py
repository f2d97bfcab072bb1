"""Keyed hashes: functions of seed, purpose and id alone, spread evenly."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.keyed import below, keyed_u64, keyed_u64_batch

IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=20)
MASK = 2**64 - 1


def array_of(ids: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


@given(IDS, st.integers(0, 2**63 - 1), st.text(max_size=5))
def test_a_batch_is_split_mix_of_both_words_as_in_plain_python(ids: Any, seed: Any, purpose: Any) -> None:
    inner = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=32).digest()
    key = hashlib.blake2b(inner, digest_size=16).digest()
    first, second = (int.from_bytes(part, "little") for part in (key[:8], key[8:]))
    expected = [
        mix(mix(int.from_bytes(i[:8], "little") ^ first) ^ int.from_bytes(i[8:], "little") ^ second) for i in ids
    ]
    assert keyed_u64_batch(seed, purpose, array_of(ids)).tolist() == expected


@given(IDS, st.randoms())
def test_the_hash_of_an_id_does_not_depend_on_what_stands_beside_it(ids: Any, random: Any) -> None:
    shuffled = random.sample(ids, len(ids))
    values = dict(zip(ids, keyed_u64_batch(1, "fim", array_of(ids)).tolist(), strict=True))
    assert keyed_u64_batch(1, "fim", array_of(shuffled)).tolist() == [values[i] for i in shuffled]


def test_the_values_never_change() -> None:
    """Every corpus depends on them."""
    assert keyed_u64(11, "split", b"code\0click-8.1.7") == 6279459503581673486
    assert keyed_u64_batch(11, "fim", array_of([bytes(range(16))])).tolist() == [4071107863401567035]


def test_another_seed_or_purpose_is_another_hash() -> None:
    ids = array_of([bytes([i]) * 16 for i in range(50)])
    variants = [(1, "fim"), (2, "fim"), (1, "cap"), (11, "fim")]
    assert len({keyed_u64_batch(*variant, ids).tobytes() for variant in variants}) == 4
    assert len({keyed_u64(*variant, b"x") for variant in variants}) == 4


def test_seed_and_purpose_do_not_run_into_each_other() -> None:
    assert keyed_u64(1, "1:a", b"x") != keyed_u64(11, ":a", b"x")


def test_a_slice_of_ids_that_is_not_contiguous_is_hashed_as_its_copy() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (20, 16), dtype=np.uint8)
    np.testing.assert_array_equal(keyed_u64_batch(3, "x", ids[::2]), keyed_u64_batch(3, "x", ids[::2].copy()))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9])
def test_a_share_of_ids_lies_below_its_threshold(share: Any) -> None:
    ids = np.arange(2 * 100_000, dtype="<u8").view(np.uint8).reshape(-1, 16)
    found = float((keyed_u64_batch(5, "share", ids) < np.uint64(below(share))).mean())
    assert abs(found - share) < 5 * (share * (1 - share) / 100_000) ** 0.5 + 1e-12


@given(st.floats(0, 1), st.floats(0, 1))
def test_thresholds_are_ordered_and_fit_into_64_bits(a: Any, b: Any) -> None:
    low, high = sorted((a, b))
    assert 0 <= below(low) <= below(high) <= MASK


def test_nothing_is_below_no_share_and_all_but_one_value_below_the_whole() -> None:
    assert (below(0), below(1)) == (0, MASK)
