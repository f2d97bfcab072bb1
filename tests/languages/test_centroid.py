from collections import Counter
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from languages import centroid, names

TEXT = b"""def f(x):\n    return x != 12 and x_1 ->> "caf\xc3\xa9" # 0xFF abc1\n"""


def scores_in_plain_python(text: bytes) -> tuple[list[int], int, int]:
    table = centroid.centroids()
    place = {int(key): row for row, key in enumerate(table.keys)}
    scores = [0] * len(table.languages)
    counts: Counter[int] = Counter()
    unknown = 0
    for token in centroid.tokens(text):
        row = place.get(centroid.token_hash(token))
        if row is not None:
            counts[row] += 1
        elif token[:1].isalpha() or token[:1] == b"_":
            unknown += 1
    square = unknown * (16 * int(table.rarities.max())) ** 2
    for row, count in counts.items():
        weight = isqrt(256 * min(count, 4096)) * int(table.rarities[row])
        square += weight * weight
        for entry in range(table.starts[row], table.starts[row + 1]):
            scores[table.columns[entry]] += weight * int(table.weights[entry])
    return scores, square, sum(counts.values())


def test_tokens_are_identifiers_marks_and_pairs_of_marks() -> None:
    assert centroid.tokens(b"a_1+=b2 12 0xF (\xc3\xa9)") == [b"a_1", b"+", b"=", b"+=", b"b2", b"(", b")"]
    assert centroid.tokens(b"x" * 32) == [b"x" * 32]
    assert centroid.tokens(b"x" * 33) == []


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=400), st.text("abdefx_01 =+-{}()\n;", max_size=300).map(str.encode), st.just(TEXT)))
def test_the_kernel_scores_as_plain_python_does(text: bytes) -> None:
    scores, square, known = centroid._scores(text)
    assert (scores.tolist(), square, known) == scores_in_plain_python(text)


def test_keys_are_sorted_and_distinct_and_buckets_find_each() -> None:
    table = centroid.centroids()
    assert np.all(np.diff(table.keys) > 0)
    tops = (table.keys >> 48) + 32768
    assert np.all(table.buckets[tops] <= np.arange(len(table.keys)))
    assert np.all(np.arange(len(table.keys)) < table.buckets[tops + 1])


@pytest.mark.parametrize(
    ("text", "candidates", "expected"),
    [
        (b'#include <stdio.h>\nint main(void) { printf("x"); return 0; }\n', ("C", "Objective-C", "Perl"), "C"),
        (
            b"use strict;\nmy $x = shift;\nforeach my $y (@z) { print $y; }\n",
            ("other:Prolog", "Perl", "Perl 6"),
            "Perl",
        ),
        (b"import os\ndef f(self):\n    return None\n", ("Ruby", "Python"), "Python"),
    ],
)
def test_the_nearest_candidate_is_named(text: bytes, candidates: tuple[str, ...], expected: str) -> None:
    language, share = centroid.rank(text, candidates)
    assert language == expected
    assert 500 <= share <= 1000


def test_a_text_without_known_tokens_has_no_nearest_candidate() -> None:
    assert centroid.rank(b"", ("C", "Perl")) == ("", 0)
    assert centroid.rank(b"\xff\xfe 12", ("C", "Perl")) == ("", 0)
    assert centroid.rank(b"int", ("no such language",)) == ("", 0)


PYTHON = b"import os\nclass A:\n    def f(self):\n        return None if self else len(os.path.join('a', 'b'))\n" * 20


def test_a_candidate_that_is_far_next_to_the_best_of_all_languages_is_not_named() -> None:
    assert centroid.rank(PYTHON, ("Python", "COBOL"))[0] == "Python"
    assert centroid.rank(PYTHON, ("COBOL", "Brainfuck")) == ("", 0)


def test_a_lone_candidate_with_a_vector_must_be_the_nearest_of_all_languages() -> None:
    perl = b"use strict;\nmy $x = shift;\nforeach my $y (@z) { print $y if defined $_[0]; }\n" * 10
    assert centroid.rank(perl, ("Perl", "no such language")) == ("Perl", 1000)
    assert centroid.rank(perl, ("Perl 6", "no such language")) == ("", 0)
    assert centroid.rank(perl, ("Perl 6", "Brainfuck"))[0] == "Perl 6"


def test_a_short_text_need_not_be_as_near() -> None:
    text = b"$x = f(1);\n"
    nearest = max(centroid._scores(text)[0])
    score = centroid._scores(text)[0][centroid.centroids().index["ReasonML"]]
    assert 0 < score * 1000 < nearest * centroid.NEAR_PER_MILLE
    assert centroid.rank(text, ("ReasonML", "Brainfuck"))[0] == "ReasonML"


def test_ties_go_to_the_earlier_candidate() -> None:
    assert centroid.rank(b"int x;", ("C", "C"))[0] == "C"


def test_short_texts_and_noise_are_given_no_language() -> None:
    assert centroid.guess(b"int x;") == ("", 0)
    assert centroid.guess(bytes(range(256)) * 100) == ("", 0)


def test_every_language_with_a_vector_is_known() -> None:
    known = {language.name for language in names.table() + names.outside()}
    assert set(centroid.centroids().languages) <= known
