"""Words: the kernel against a definition in plain Python."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filters import words

MASK = 2**64 - 1
LATIN1_WORD = "ªµº²³¹¼½¾"
SEPARATORS = (
    (0x80, 0xBF),
    (0xD7, 0xD7),
    (0xF7, 0xF7),
    (0x2000, 0x206F),
    (0x2190, 0x2BFF),
    (0x3000, 0x303F),
    (0xFE10, 0xFE6F),
    (0xFEFF, 0xFEFF),
    (0xFF00, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF65),
    (0xFFF0, 0xFFFF),
)
ALPHABET = "aZ_9 .\n-éЖß×µ«—≤中文。あ한𝒳🎉Ａ！\ufeff\u00a0\u0300"
TEXTS = st.text(st.one_of(st.sampled_from(ALPHABET), st.characters(exclude_categories=["Cs"])), max_size=400)


def oracle(text: str) -> list[bytes]:
    """The definition in the module's docstring, character by character."""
    found: list[bytes] = []
    current = b""
    for character in text:
        c = ord(character)
        raw = character.lower().encode() if c < 0x80 else character.encode()
        if c < 0x80:
            separates = not (character.isalnum() or character == "_")
        else:
            separates = any(low <= c <= high for low, high in SEPARATORS) and character not in LATIN1_WORD
        alone = not separates and c >= 0x3000
        if separates or alone or len(current) + len(raw) > words.LONGEST:
            found += [current] if current else []
            current = b""
        if alone:
            found.append(raw)
        elif not separates:
            current += raw
    return found + ([current] if current else [])


def oracle_hash(word: bytes) -> int:
    value = 0x9E3779B97F4A7C15 ^ len(word)
    folded = bytes(byte | 0x20 if byte < 0x80 else byte for byte in word)
    for i in range(0, len(folded), 8):
        value = (value ^ int.from_bytes(folded[i : i + 8], "little")) * 0xBF58476D1CE4E5B9 & MASK
        value ^= value >> 32
    value = value * 0x94D049BB133111EB & MASK
    return value ^ (value >> 29)


def kernel(text: str, room: int = words.BUFFER) -> tuple[list[bytes], list[int]]:
    raw = text.encode()
    data = np.frombuffer(raw, dtype=np.uint8)
    hashes, starts, stops = words.scratch()
    found: list[bytes] = []
    values: list[int] = []
    position = 0
    while position < len(raw):
        count, position = words.tokenise(data, position, len(raw), hashes[:room], starts[:room], stops[:room], 0)
        assert count > 0 or position == len(raw)
        found += [raw[starts[i] : stops[i]].lower() for i in range(count)]
        values += hashes[:count].tolist()
    return found, values


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("x" * 1000 + "é" * 500)
@example("é" + "y" * 63 + "中" * 300 + " a" * 700)
def test_the_kernel_finds_the_words_and_hashes_of_the_definition(text: str) -> None:
    expected = oracle(text)
    found, values = kernel(text)
    assert found == expected
    assert values == [oracle_hash(word) for word in expected]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "中", " ", "é", "x" * 129, "é" * 70, "_b", "。"]), max_size=3000).map("".join))
def test_a_full_buffer_changes_no_word(text: str) -> None:
    assert kernel(text, room=600) == kernel(text)
    assert kernel(text)[0] == oracle(text)


@pytest.mark.parametrize(("length", "expected"), [(127, [127]), (128, [128]), (129, [128, 1]), (400, [128] * 3 + [16])])
def test_a_run_longer_than_128_bytes_is_cut(length: int, expected: list[int]) -> None:
    assert [len(word) for word in words.of("q" * length)] == expected


def test_a_long_run_is_cut_on_characters() -> None:
    assert words.of("a" + "é" * 64) == ["a" + "é" * 63, "é"]


def test_case_counts_in_ascii_only_and_underscore_is_no_delete() -> None:
    assert words.of("Foo_BAR ÄB") == ["foo_bar", "Äb"]
    assert kernel("FOO")[1] == kernel("foo")[1] != kernel("fo_")[1]


def test_cjk_characters_are_words_and_their_punctuation_is_not() -> None:
    assert words.of("你好，world。ok") == ["你", "好", "world", "ok"]


def test_a_slice_of_an_array_is_read_from_its_own_offset() -> None:
    text = pa.array(["first", "segundo", "third"], pa.large_string())[1:]
    data, offsets = words.buffers(text)
    assert bytes(data[offsets[0] : offsets[1]]) == b"segundo"
    assert len(offsets) == 3


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_empty_arrays_and_texts_have_buffers(texts: list[str]) -> None:
    data, offsets = words.buffers(pa.array(texts, pa.large_string()))
    assert offsets.tolist() == [0] * (len(texts) + 1)
    assert not data.flags.writeable
    assert not offsets.flags.writeable


def test_another_type_than_large_string_is_refused() -> None:
    with pytest.raises(TypeError, match="expected large_string"):
        words.buffers(pa.array(["a"], pa.string()))
