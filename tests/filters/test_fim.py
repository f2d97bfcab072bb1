"""FIM: cuts that lose nothing, tear nothing, and depend on id and seed alone."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import fim

TEXTS = st.text(st.sampled_from("ab\r\ne\u0301中👩\u200d\U0001f3fd\ufe0f"), max_size=40)


def ids(n: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (n, 16), dtype=np.uint8)


@given(TEXTS, st.binary(min_size=16, max_size=16), st.integers(0, 9))
def test_the_parts_joined_are_the_text_and_no_character_is_torn(text: str, id_: bytes, seed: int) -> None:
    prefix, middle, suffix = fim.split(text, id_, seed)
    assert prefix + middle + suffix == text
    for place in (len(prefix), len(prefix + middle)):
        if 0 < place < len(text):
            assert text[place - 1 : place + 1] != "\r\n"
            assert not unicodedata.combining(text[place])
            assert text[place] not in "\u200d\ufe0f\U0001f3fd"
            assert text[place - 1] != "\u200d"


def test_the_cuts_depend_on_id_and_seed_alone() -> None:
    text = "x" * 1000
    assert fim.split(text, b"a" * 16, 1) == fim.split(text, b"a" * 16, 1)
    assert len({fim.split(text, bytes([i]) * 16, 1) for i in range(50)}) == 50
    assert fim.split(text, b"a" * 16, 1) != fim.split(text, b"a" * 16, 2)


def test_each_part_is_a_third_of_the_text_on_average() -> None:
    parts = [fim.split("x" * 1000, bytes(row), 0) for row in ids(2000)]
    for i in range(3):
        assert np.mean([len(part[i]) for part in parts]) == pytest.approx(333, abs=25)


def test_both_ends_of_a_text_are_places_to_cut() -> None:
    found = {fim.split("ab", bytes(row), 0) for row in ids(400)}
    assert found == {(("ab"[:i]), "ab"[i:j], "ab"[j:]) for i in range(3) for j in range(i, 3)}


def test_an_empty_text_has_empty_parts() -> None:
    assert fim.split("", b"", 0) == ("", "", "")


def test_a_text_of_combining_marks_alone_is_not_cut_inside() -> None:
    text = "\u0301" * 500
    assert {len(part) for part in fim.split(text, b"q" * 16, 0)} <= {0, 500}


@pytest.mark.parametrize(("rate", "low", "high"), [(0, 0, 0), (0.5, 9_700, 10_300), (1, 20_000, 20_000)])
def test_the_share_of_chosen_samples_is_the_rate(rate: float, low: int, high: int) -> None:
    assert low <= int(fim.chosen(ids(20_000), 1, rate).sum()) <= high


def test_a_higher_rate_keeps_what_a_lower_one_chose() -> None:
    low, high = fim.chosen(ids(1000), 1, 0.3), fim.chosen(ids(1000), 1, 0.6)
    assert (high | ~low).all()


def test_the_default_sentinels_are_those_of_deepseek_by_code_point() -> None:
    parameters = fim.FimParameters()
    bar, space = chr(0xFF5C), chr(0x2581)
    assert parameters.begin == f"<{bar}fim{space}begin{bar}>"
    assert parameters.hole == f"<{bar}fim{space}hole{bar}>"
    assert parameters.end == f"<{bar}fim{space}end{bar}>"
    assert (parameters.rate, parameters.mode) == (0.5, "psm")


@pytest.mark.parametrize("change", [{"rate": 1.1}, {"mode": "spm"}, {"begin": ""}, {"middle": "x"}])
def test_parameters_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        fim.FimParameters(**change)  # type: ignore[arg-type]
