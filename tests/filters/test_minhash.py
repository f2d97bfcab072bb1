"""MinHash: datasketch and exact Jaccard similarity as oracles."""

import random

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import minhash
from filters.minhash import MinHashParameters
from tests.filters.test_words import oracle, oracle_hash

MASK = 2**64 - 1
PARAMETERS = MinHashParameters()
WORDS = st.lists(st.sampled_from(["return", "x", "for", "i", "中", "Ünit", "0", "y" * 140]), max_size=60)


def array(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def shingle_hashes(text: str, size: int = 5) -> list[int]:
    hashes = [oracle_hash(word) for word in oracle(text)]
    size = min(size, len(hashes))
    found = []
    for i in range(len(hashes) - size + 1 if hashes else 0):
        value = 0
        for h in hashes[i : i + size]:
            value = (value * 0x9E3779B97F4A7C15 + h) & MASK
        found.append(value >> 32)
    return found


def datasketch_signature(text: str, parameters: MinHashParameters) -> np.ndarray:
    a, b = minhash.permutations(parameters)
    oracle_minhash = MinHash(
        num_perm=parameters.permutations, hashfunc=int, permutations=np.array([a, b]), scheme="affine32"
    )
    oracle_minhash.update_batch(shingle_hashes(text, parameters.shingle))
    return np.asarray(oracle_minhash.hashvalues)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=4))
def test_signatures_are_those_of_datasketch_for_equal_hashes_and_permutations(texts: list[str]) -> None:
    signed = minhash.sign(array(*texts), PARAMETERS)
    for i, text in enumerate(texts):
        assert signed.words[i] == len(oracle(text))
        np.testing.assert_array_equal(signed.signature[i], datasketch_signature(text, PARAMETERS))


@pytest.mark.parametrize("shingle", [1, 2, 9])
def test_other_parameters_give_datasketch_signatures_too(shingle: int) -> None:
    parameters = MinHashParameters(permutations=128, bands=14, rows=8, shingle=shingle, seed=7)
    text = "the quick brown fox jumps over the lazy dog and runs away"
    signed = minhash.sign(array(text), parameters)
    np.testing.assert_array_equal(signed.signature[0], datasketch_signature(text, parameters))


def test_a_document_larger_than_the_buffer_has_the_signature_of_its_shingles() -> None:
    text = " ".join(f"w{i * i % 7919}" for i in range(30_000))
    signed = minhash.sign(array(text), PARAMETERS)
    assert signed.words[0] == 30_000
    np.testing.assert_array_equal(signed.signature[0], datasketch_signature(text, PARAMETERS))


@pytest.mark.parametrize("n", [1, 4, 5])
def test_a_document_of_at_most_five_words_is_one_shingle(n: int) -> None:
    signed = minhash.sign(array(" ".join("abcde"[:n]), "a b c d e f"), PARAMETERS)
    assert signed.words.tolist() == [n, 6]
    assert (signed.signature[0] < 2**32 - 1).all()
    if n < 5:
        assert (signed.signature[0] != signed.signature[1]).all()


def test_a_document_without_words_says_so() -> None:
    signed = minhash.sign(array("", " \n.;", "a"), PARAMETERS)
    assert signed.words.tolist() == [0, 0, 1]
    assert (signed.signature[:2] == 2**32 - 1).all()


def test_a_slice_is_signed_as_its_own_rows() -> None:
    texts = ["a b c", "d e f g h i", "", "j k"]
    whole = minhash.sign(array(*texts), PARAMETERS)
    part = minhash.sign(array(*texts)[1:3], PARAMETERS)
    np.testing.assert_array_equal(whole.words[1:3], part.words)
    np.testing.assert_array_equal(whole.signature[1:3], part.signature)
    assert len(minhash.sign(array(), PARAMETERS).signature) == 0


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_the_estimate_is_within_theory_of_the_exact_similarity(kept: float) -> None:
    rng = random.Random(5)
    errors = []
    for _ in range(40):
        left = [f"w{rng.randrange(10**6)}" for _ in range(400)]
        cut = int(kept * len(left))
        right = left[:cut] + [f"v{rng.randrange(10**6)}" for _ in range(len(left) - cut)]
        texts = " ".join(left), " ".join(right)
        a, b = (set(shingle_hashes(text)) for text in texts)
        low = minhash.sidecar(minhash.sign(array(*texts), PARAMETERS).signature)
        errors.append(float(minhash.estimate(int((low[0] == low[1]).sum()), 256)) - len(a & b) / len(a | b))
    assert abs(np.mean(errors)) < 4 * 0.0313 / len(errors) ** 0.5
    assert np.sqrt(np.mean(np.square(errors))) < 1.5 * 0.0313


def test_the_estimate_is_one_for_equal_and_zero_for_chance() -> None:
    assert minhash.estimate(256, 256) == 1
    assert minhash.estimate(1, 256) == 0
    np.testing.assert_allclose(minhash.estimate(np.array([256, 1], np.uint16), 256), [1, 0])


@given(st.integers(1, 100), st.sampled_from([64, 128, 256, 1024]))
def test_the_least_matches_are_the_first_that_reach_the_threshold(percent: int, k: int) -> None:
    parameters = MinHashParameters(permutations=k, bands=1, threshold_percent=percent)
    least = parameters.least_matches
    assert minhash.estimate(least, k) >= percent / 100 - 1e-12
    assert minhash.estimate(least - 1, k) < percent / 100 - 1e-12


def test_at_the_default_parameters_180_equal_bytes_of_256_are_needed() -> None:
    assert PARAMETERS.least_matches == 180


def test_band_keys_depend_on_the_band_and_on_its_rows_only() -> None:
    signature = minhash.sign(array("a b c d e f g", "h i j k l m n"), PARAMETERS).signature
    keys = minhash.band_keys(signature, PARAMETERS)
    changed = signature.copy()
    changed[:, 8] += np.uint32(1)
    assert keys.shape == (2, 32)
    assert len(np.unique(keys)) == 64
    assert np.flatnonzero((minhash.band_keys(changed, PARAMETERS) != keys)[0]).tolist() == [1]
    same_rows = minhash.band_keys(np.zeros((1, 256), np.uint32), PARAMETERS)
    assert len(np.unique(same_rows)) == 32


def test_permutations_are_bijections_and_depend_on_the_seed() -> None:
    a, b = minhash.permutations(PARAMETERS)
    assert (a % 2 == 1).all()
    assert len(np.unique(b)) > 250
    assert (minhash.permutations(MinHashParameters(seed=2))[0] != a).any()


@pytest.mark.parametrize("change", [{"bands": 33}, {"permutations": 100}, {"rows": 9}, {"threshold": 70}, {"bands": 0}])
def test_parameters_that_do_not_fit_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        MinHashParameters(**change)  # type: ignore[arg-type]
