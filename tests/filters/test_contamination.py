"""Contamination: ten common words, or a short benchmark text whole, and never a collision."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import contamination, words
from filters.contamination import Benchmark, Index, build_index, hits

TEN = "one two three four five six seven eight nine ten"
LETTERS = st.lists(st.sampled_from("ab"), max_size=40).map(" ".join)


def array(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def index_of(*texts: str) -> Index:
    return build_index([Benchmark("set", f"{i:03}", text) for i, text in enumerate(texts)])


def oracle(text: str, index: Index) -> tuple[int, int, int]:
    document = words.of(text)
    grams: dict[tuple[str, ...], int] = {}
    for number, item in reversed(list(enumerate(index.items))):
        found = item.text.split(" ")
        size = min(len(found), index.ngram)
        for i in range(len(found) - size + 1):
            grams[tuple(found[i : i + size])] = number
    count, first, word = 0, -1, 0
    for at in range(len(document)):
        matching = [
            grams[gram] for n in range(1, 11) if (gram := tuple(document[at : at + n])) in grams if len(gram) == n
        ]
        if matching:
            first, word = (min(matching), at) if count == 0 else (first, word)
            count += 1
    return count, first, word


@settings(max_examples=150, deadline=None)
@given(st.lists(LETTERS, max_size=5), st.lists(LETTERS, max_size=4))
def test_hits_are_those_of_plain_python(benchmark: list[str], documents: list[str]) -> None:
    index = index_of(*benchmark)
    found = hits(array(*documents), index)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [oracle(text, index) for text in documents]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (TEN, True),
        (f"x {TEN} y", True),
        (TEN.upper().replace(" ", "\n\t. "), True),
        (TEN.removesuffix(" ten"), False),
        (TEN.replace("five", "5"), False),
    ],
)
def test_ten_words_of_a_longer_text_are_contamination_and_nine_are_not(document: str, expected: bool) -> None:
    found = hits(array(document), index_of(f"zero {TEN} eleven"))
    assert bool(found.hits[0]) == expected
    assert (found.item[0] >= 0) == expected


@pytest.mark.parametrize("size", [3, 9])
def test_a_text_of_three_to_nine_words_must_stand_whole(size: int) -> None:
    text = " ".join(TEN.split()[:size])
    index = index_of(text)
    found = hits(array(f"x {text} y", text.rsplit(" ", 1)[0], text.split(" ", 1)[1]), index)
    assert found.hits.tolist() == [1, 0, 0]
    assert found.word.tolist() == [1, 0, 0]


def test_texts_under_three_words_are_ignored_and_counted() -> None:
    index = index_of("return x", "", "a b c")
    assert index.ignored == 2
    assert [item.text for item in index.items] == ["a b c"]
    assert hits(array("return x"), index).hits.tolist() == [0]


def test_the_first_hit_names_the_lowest_item_that_has_it() -> None:
    index = index_of("p q r", "a b c d", "a b c", "x a b c d e f g h i j")
    found = hits(array("w a b c d p q r"), index)
    assert (found.hits[0], found.item[0], found.word[0]) == (2, 1, 1)


def test_the_order_of_benchmark_texts_does_not_matter() -> None:
    texts = [Benchmark("b", "1", TEN), Benchmark("a", "2", "x y z"), Benchmark("a", "1", "x y z")]
    one, other = build_index(texts), build_index(reversed(texts))
    assert contamination.to_bytes(one) == contamination.to_bytes(other)
    assert [item.item for item in one.items] == ["1", "2", "1"]


def test_an_index_outlives_its_bytes() -> None:
    index = index_of(TEN + " eleven", "你好，世界", "q" * 300, "a", "Straße und Haus")
    again = contamination.from_bytes(contamination.to_bytes(index))
    assert again.items == index.items
    assert again.ignored == index.ignored == 1
    for name in ("keys", "gram_words", "gram_items", "gram_sizes", "word_data", "word_offsets", "item_words", "bloom"):
        np.testing.assert_array_equal(getattr(again, name), getattr(index, name))


def test_a_collision_of_hashes_drops_no_document() -> None:
    index = index_of(TEN)
    other = index_of(TEN.replace("one", "uno"))
    forged = Index(**{**index.__dict__, "keys": other.keys, "bloom": other.bloom})
    assert hits(array(TEN.replace("one", "uno")), forged).hits.tolist() == [0]


@pytest.mark.parametrize("before", [8180, 8192, 30_000])
def test_a_gram_across_two_buffers_is_found(before: int) -> None:
    text = "filler " * before + TEN + " filler" * 9000
    found = hits(array("clean", text), index_of(TEN + " eleven twelve", "nine ten filler"))
    assert found.hits.tolist() == [0, 2]
    assert found.word.tolist() == [0, before]


def test_an_empty_index_and_an_empty_batch_are_clean() -> None:
    assert hits(array("a b c", ""), index_of()).item.tolist() == [-1, -1]
    assert len(hits(array(), index_of(TEN)).hits) == 0
    assert contamination.from_bytes(contamination.to_bytes(index_of())).items == ()


def test_a_slice_is_looked_up_as_its_own_rows() -> None:
    assert hits(array("x", TEN, "y")[1:], index_of(TEN)).hits.tolist() == [1, 0]


def test_common_words_run_on_beyond_the_gram() -> None:
    index = index_of(f"zero {TEN} eleven twelve", "a b c")
    assert contamination.common_words(f"q. {TEN}, Eleven thirteen", index, 0) == f"{TEN} eleven"
    assert contamination.common_words("a b c d", index, 1) == "a b c"
    assert contamination.common_words("nothing", index, 0) == ""


def test_a_benchmark_full_of_one_word_costs_linear_time() -> None:
    found = hits(array("na " * 50_000), index_of("na " * 2000))
    assert found.hits.tolist() == [49_991]


@pytest.mark.parametrize(("shortest", "ngram"), [(0, 10), (11, 10), (3, 65)])
def test_sizes_out_of_order_are_refused(shortest: int, ngram: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= shortest"):
        build_index([], ngram, shortest)
