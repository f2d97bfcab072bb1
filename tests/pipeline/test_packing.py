"""Packing: no item cut that fits, little padding; cuts at line ends."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.packing import best_fit, cut, most_pieces

LINE_ENDS = np.array([False, True])


def tokens_of(n: int, line_ends: Any) -> np.ndarray:
    """n tokens: 1 where a line ends, which ``line_ends`` counts from 1 on; elsewhere 0."""
    return np.isin(np.arange(1, n + 1), sorted(line_ends)).astype(np.uint32)


def starts_of(tokens: np.ndarray, capacity: int) -> np.ndarray:
    starts = np.empty(int(most_pieces(np.array(len(tokens)), capacity)), np.uint32)
    return starts[: cut(tokens, LINE_ENDS, capacity, starts)].astype(np.int64)


def oracle(lengths: list[int], capacity: int) -> list[int]:
    rooms: list[int] = []
    filled_at: list[int] = []
    bins = []
    for time, length in enumerate(lengths):
        fitting = [(room, -filled_at[i], i) for i, room in enumerate(rooms) if room >= length]
        chosen = min(fitting)[2] if fitting else len(rooms)
        if not fitting:
            rooms.append(capacity)
            filled_at.append(0)
        rooms[chosen] -= length
        filled_at[chosen] = time
        bins.append(chosen)
    return bins


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 63, 64, 65, 100, 4095, 4096, 5000, 270_000]))
def test_bins_are_those_of_plain_python(data: st.DataObject, capacity: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=60))
    assert best_fit(np.array(lengths, np.int64), capacity).tolist() == oracle(lengths, capacity)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_bin_overflows_and_bins_are_numbered_as_they_open(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 129, 500, dtype=np.int32)
    bins = best_fit(lengths, 128)
    assert np.bincount(bins, weights=lengths).max() <= 128
    first = np.unique(bins, return_index=True)[1]
    assert (np.diff(first) > 0).all()
    assert len(first) == bins.max() + 1


def test_padding_of_100000_lognormal_documents_at_4096_is_at_most_a_fifth_of_a_percent() -> None:
    lengths = np.exp(np.random.default_rng(0).normal(np.log(500), 1.2, 100_000)).astype(np.int64).clip(1, 4096)
    bins = best_fit(lengths, 4096)
    padding = 1 - lengths.sum() / (4096 * (bins.max() + 1))
    assert padding <= 0.002


def test_an_item_of_exactly_the_capacity_fills_a_bin_of_its_own() -> None:
    assert best_fit(np.array([4096, 1, 4096, 4095]), 4096).tolist() == [0, 1, 2, 1]


def test_nothing_needs_no_bin() -> None:
    assert best_fit(np.array([], np.int64), 10).tolist() == []


@pytest.mark.parametrize("length", [0, -1, 11])
def test_a_length_that_fits_no_bin_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="item 1 has length"):
        best_fit(np.array([1, length]), 10)


@settings(deadline=None)
@given(st.integers(0, 300), st.sets(st.integers(1, 300)), st.integers(1, 50))
def test_every_token_is_in_one_piece_of_at_most_the_capacity(n: int, ends: set[int], capacity: int) -> None:
    starts = starts_of(tokens_of(n, ends), capacity)
    sizes = np.diff(np.append(starts, n))
    assert starts[0] == 0
    assert sizes.sum() == n
    assert (sizes <= capacity).all()
    assert (sizes > 0).all() or n == 0
    for start, size in zip(starts[:-1].tolist(), sizes[:-1].tolist(), strict=True):
        fitting = [end for end in ends if start + capacity / 2 < end <= start + capacity]
        assert start + size == max(fitting, default=start + capacity)


@pytest.mark.parametrize(
    ("n", "line_ends", "expected"),
    [
        (10, [3, 6], [0]),
        (11, [3, 6, 9], [0, 9]),
        (11, [10], [0, 10]),
        (11, [5], [0, 10]),
        (11, [6], [0, 6]),
        (25, [], [0, 10, 20]),
        (20, [5, 8, 11, 14, 17, 20], [0, 8, 17]),
    ],
)
def test_a_piece_ends_with_the_last_line_of_its_second_half(n: int, line_ends: list[int], expected: list[int]) -> None:
    assert starts_of(tokens_of(n, line_ends), 10).tolist() == expected


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity is 0"):
        cut(tokens_of(5, []), LINE_ENDS, 0, np.empty(9, np.uint32))


def test_a_token_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the vocabulary"):
        cut(np.full(5, 2, np.uint32), LINE_ENDS, 2, np.empty(9, np.uint32))
