"""Rules for prose and for pages, where the published line-length rules would delete nearly all.

From Gopher (Rae et al., arXiv 2112.11446, appendix A1.1): its quality rules and the two repetition rules on lines.
Each can be judged in integers from the counts of :func:`measure_prose`. Departures, because READMEs and documentation
are not news text:

- what stands in a fenced code block (CommonMark 0.31, 4.5) or on its fences is not measured: code repeats its lines
  and holds few words;
- a run of ``#`` at the start of a line is a heading, not a symbol;
- a word is a maximal run without white space; in scripts that put no space between words (Han, kana, Thai, ...) each
  letter is one. Mean word length and stop words are judged only where more than half of the letters are ASCII;
- what holds ``://`` is an address and not a word: badges and link lists would make words long;
- a repeated line is one equal to an earlier line of the text, white space around it aside; the first is not counted;
- fewer words need a letter (60 % instead of 80 %): tables, option lists and version lists hold many that do not;
- more lines may repeat (60 % and 50 % of the characters instead of 30 % and 20 %): reference documentation repeats the
  lines of its layout, and Gopher's values drop 28 of the 64 API pages of Node.js.
"""

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from filters.rules import buffers
from filters.text import ALPHABETIC, SPACE, UNSPACED, code_point_classes

PROSE_REASONS = (
    "",
    "few_words",
    "many_words",
    "word_length",
    "symbols",
    "bullets",
    "ellipsis_lines",
    "words_without_letter",
    "stop_words",
    "repeated_lines",
    "repeated_line_chars",
)
"""What the numbers of :func:`judge_prose` mean; 0 is a pass."""

_COUNTS = (
    "n_words",
    "word_chars",
    "alpha_words",
    "alpha_chars",
    "ascii_alpha_chars",
    "hashes",
    "ellipses",
    "stop_words",
    "n_lines",
    "line_chars",
    "bullet_lines",
    "ellipsis_lines",
    "repeated_lines",
    "repeated_line_chars",
)

(
    _WORDS,
    _WORD_CHARS,
    _ALPHA_WORDS,
    _ALPHA_CHARS,
    _ASCII_ALPHA_CHARS,
    _HASHES,
    _ELLIPSES,
    _STOP_WORDS_SEEN,
    _LINES,
    _LINE_CHARS,
    _BULLET_LINES,
    _ELLIPSIS_LINES,
    _REPEATED_LINES,
    _REPEATED_LINE_CHARS,
) = range(len(_COUNTS))

_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_PACKED_STOP_WORDS = np.array([int.from_bytes(word.encode(), "big") for word in _STOP_WORDS], dtype=np.int64)
_BULLET_POINTS = np.array([ord(bullet) for bullet in "-*+•‣◦●▪·–"], dtype=np.int64)


class ProseRules(BaseModel):
    """Thresholds; equality keeps a text. Defaults are Gopher's but for the departures that the module names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: int = Field(50, ge=0, description="fewest words (Gopher A1.1)")
    max_words: int = Field(100_000, ge=0, description="most words (Gopher A1.1)")
    min_mean_word_chars: int = Field(3, ge=0, description="mean word length, characters (Gopher A1.1)")
    max_mean_word_chars: int = Field(10, ge=0, description="mean word length, characters (Gopher A1.1)")
    max_symbols_percent: int = Field(
        10, ge=0, description="hash signs, and ellipses, each per 100 words (Gopher A1.1: symbol-to-word ratio 0.1)"
    )
    max_bullet_lines_percent: int = Field(90, ge=0, le=100, description="lines that start with a bullet (Gopher A1.1)")
    max_ellipsis_lines_percent: int = Field(
        30, ge=0, le=100, description="lines that end with an ellipsis (Gopher A1.1)"
    )
    min_alpha_words_percent: int = Field(
        60, ge=0, le=100, description="words with a letter (Gopher A1.1 says 80; see the module)"
    )
    min_stop_words: int = Field(
        2, ge=0, le=len(_STOP_WORDS), description="different ones of 8 English stop words (Gopher A1.1)"
    )
    max_repeated_lines_percent: int = Field(
        60, ge=0, le=100, description="lines that repeat an earlier one (Gopher table A1 says 30; see the module)"
    )
    max_repeated_line_chars_percent: int = Field(
        50, ge=0, le=100, description="characters in such lines (Gopher table A1 says 20; see the module)"
    )


def measure_prose(text: pa.LargeStringArray) -> pa.RecordBatch:
    """Count what the rules need, for n texts (one ``large_string`` array without nulls, slices allowed).

    Returns n rows of uint32 columns, fenced code left out; characters are code points, lines are those that are not
    blank, without surrounding white space:

    - ``n_words``, ``word_chars`` (their characters), ``alpha_words`` (those with a letter), addresses left out;
    - ``alpha_chars`` (letters), ``ascii_alpha_chars`` (of which A-Z and a-z);
    - ``hashes`` (``#`` not in a run that starts a line), ``ellipses`` (three or more dots in a row, or U+2026);
    - ``stop_words``: how many different ones of the, be, to, of, and, that, have, with;
    - ``n_lines``, ``line_chars``, ``bullet_lines``, ``ellipsis_lines``;
    - ``repeated_lines``, ``repeated_line_chars``: lines equal to an earlier line of the same text.
    """
    offsets, data = buffers(text)
    counts = np.zeros((len(text), len(_COUNTS)), dtype=np.uint32)
    _count(data, offsets, code_point_classes(), counts)
    return pa.RecordBatch.from_arrays([pa.array(column) for column in counts.T.copy()], names=list(_COUNTS))


def judge_prose(measures: pa.RecordBatch, rules: ProseRules) -> NDArray[np.uint8]:
    """The first rule that drops each of n texts, as an index into :data:`PROSE_REASONS` (0 passes)."""
    of = {name: np.asarray(measures.column(name)).astype(np.int64) for name in _COUNTS}
    words, lines = of["n_words"], of["n_lines"]
    english = 2 * of["ascii_alpha_chars"] > of["alpha_chars"]
    length = of["word_chars"]
    drops = (
        words < rules.min_words,
        words > rules.max_words,
        english & ((length < rules.min_mean_word_chars * words) | (length > rules.max_mean_word_chars * words)),
        100 * np.maximum(of["hashes"], of["ellipses"]) > rules.max_symbols_percent * words,
        100 * of["bullet_lines"] > rules.max_bullet_lines_percent * lines,
        100 * of["ellipsis_lines"] > rules.max_ellipsis_lines_percent * lines,
        100 * of["alpha_words"] < rules.min_alpha_words_percent * words,
        english & (of["stop_words"] < rules.min_stop_words),
        100 * of["repeated_lines"] > rules.max_repeated_lines_percent * lines,
        100 * of["repeated_line_chars"] > rules.max_repeated_line_chars_percent * of["line_chars"],
    )
    verdict = np.zeros(len(words), dtype=np.uint8)
    for number in range(len(drops), 0, -1):
        verdict[drops[number - 1]] = number
    return verdict


@njit(cache=True, nogil=True)
def _decode(data: NDArray[np.uint8], at: int) -> tuple[np.int64, int]:
    """The code point whose UTF-8 starts at ``at``, and where the next one starts."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | (np.int64(data[at + 1]) & 0x3F), at + 2
    if byte < 0xF0:
        middle = (np.int64(data[at + 1]) & 0x3F) << 6
        return (byte & 0x0F) << 12 | middle | (np.int64(data[at + 2]) & 0x3F), at + 3
    middle = (np.int64(data[at + 1]) & 0x3F) << 12 | (np.int64(data[at + 2]) & 0x3F) << 6
    return (byte & 0x07) << 18 | middle | (np.int64(data[at + 3]) & 0x3F), at + 4


@njit(cache=True, nogil=True)
def _fence(data: NDArray[np.uint8], at: int, end: int) -> tuple[np.int64, int, bool]:
    """The mark (` or ~) and run of the fence that the line at ``at`` is, and whether it may close; else zeros."""
    start = at
    while at < end and at - start < 4 and data[at] == 32:
        at += 1
    if at == end or at - start > 3 or (data[at] != 96 and data[at] != 126):
        return np.int64(0), 0, False
    mark, run = np.int64(data[at]), 0
    while at < end and data[at] == mark:
        at += 1
        run += 1
    bare = True
    for i in range(at, end):
        if data[i] == 96 and mark == 96:
            return np.int64(0), 0, False
        bare = bare and (data[i] == 32 or data[i] == 9)
    return (mark, run, bare) if run >= 3 else (np.int64(0), 0, False)


@njit(cache=True, nogil=True)
def _add_word(out: NDArray[np.uint32], chars: int, has_letter: bool) -> None:
    out[_WORDS] += 1
    out[_WORD_CHARS] += chars
    out[_ALPHA_WORDS] += has_letter


@njit(cache=True, nogil=True)
def _measure_line(
    data: NDArray[np.uint8], at: int, end: int, classes: NDArray[np.uint8], out: NDArray[np.uint32]
) -> tuple[int, int, int, int]:
    """Add the line's counts to ``out``; return the first byte, the last byte + 1 and the characters of its text."""
    first = last = end
    chars = text_chars = dots = word_chars = 0
    letters = stop_bits = 0
    packed = np.int64(0)
    has_letter = in_word = is_address = ends_with_ellipsis = False
    heading, is_bullet, previous_bullet = True, False, False
    while at < end:
        start = at
        point, at = _decode(data, at)
        kind = classes[point]
        chars += 1
        if kind & SPACE:
            dots = 0
            is_bullet = is_bullet or previous_bullet
            previous_bullet = False
            if in_word and not is_address:
                _add_word(out, word_chars, has_letter)
            in_word, has_letter, is_address, word_chars = False, False, False, 0
        else:
            if first == end:
                first = start
                chars = 1
                for bullet in _BULLET_POINTS:
                    if point == bullet:
                        previous_bullet = True
                        is_bullet = bool(point > 127)
            else:
                previous_bullet = False
            last, text_chars = at, chars
            if kind & UNSPACED:
                if in_word and not is_address:
                    _add_word(out, word_chars, has_letter)
                _add_word(out, 1, True)
                in_word, has_letter, is_address, word_chars = False, False, False, 0
            else:
                in_word = True
                if point == 58 and at + 1 < end and data[at] == 47 and data[at + 1] == 47:
                    is_address = True
                word_chars += 1
                has_letter = has_letter or bool(kind & ALPHABETIC)
            if point == 35:
                if not heading:
                    out[_HASHES] += 1
            else:
                heading = False
            dots = dots + 1 if point == 46 else 0
            ends_with_ellipsis = point == 0x2026 or dots >= 3
            out[_ELLIPSES] += point == 0x2026 or dots == 3
        out[_ALPHA_CHARS] += kind & ALPHABETIC
        lower = point | 32
        if point < 128 and 97 <= lower <= 122:
            out[_ASCII_ALPHA_CHARS] += 1
            letters += 1
            packed = (packed << 8 | lower) & 0xFFFFFFFF
        elif letters:
            if letters <= 4:
                for i in range(len(_PACKED_STOP_WORDS)):
                    if packed == _PACKED_STOP_WORDS[i]:
                        stop_bits |= 1 << i
            letters, packed = 0, np.int64(0)
    if letters and letters <= 4:
        for i in range(len(_PACKED_STOP_WORDS)):
            if packed == _PACKED_STOP_WORDS[i]:
                stop_bits |= 1 << i
    if in_word and not is_address:
        _add_word(out, word_chars, has_letter)
    if first < last:
        out[_LINES] += 1
        out[_LINE_CHARS] += text_chars
        out[_BULLET_LINES] += is_bullet
        out[_ELLIPSIS_LINES] += ends_with_ellipsis
    return first, last, text_chars, stop_bits


@njit(cache=True, nogil=True)
def _count(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], classes: NDArray[np.uint8], counts: NDArray[np.uint32]
) -> None:
    """Fill ``counts`` (a row for each text, a column for each name of ``_COUNTS``) from UTF-8 bytes."""
    seen_row = np.full(1024, -1, dtype=np.int64)
    seen_start = np.zeros(1024, dtype=np.int64)
    seen_bytes = np.zeros(1024, dtype=np.int64)
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        most = 1
        for i in range(at, end):
            most += data[i] == 10 or data[i] == 13
        if 2 * most > len(seen_row):
            size = len(seen_row)
            while size < 2 * most:
                size *= 2
            seen_row = np.full(size, -1, dtype=np.int64)
            seen_start = np.zeros(size, dtype=np.int64)
            seen_bytes = np.zeros(size, dtype=np.int64)
        mask = np.int64(len(seen_row) - 1)
        out = counts[row]
        stop_bits = fence_run = 0
        fence_mark = np.int64(0)
        while at < end:
            stop = at
            digest = np.int64(0)
            while stop < end and data[stop] != 10 and data[stop] != 13:
                stop += 1
            mark, run, bare = _fence(data, at, stop)
            if fence_run:
                if bare and mark == fence_mark and run >= fence_run:
                    fence_run = 0
            elif run:
                fence_mark, fence_run = mark, run
            else:
                first, last, chars, bits = _measure_line(data, at, stop, classes, out)
                stop_bits |= bits
                if first < last:
                    for i in range(first, last):
                        digest = ((digest ^ np.int64(data[i])) * 0x9E3779B1) & 0xFFFFFFFF
                    slot = (digest ^ digest >> 15) & mask
                    while seen_row[slot] == row:
                        same = seen_bytes[slot] == last - first
                        compared = 0
                        while same and compared < last - first:
                            same = data[seen_start[slot] + compared] == data[first + compared]
                            compared += 1
                        if same:
                            out[_REPEATED_LINES] += 1
                            out[_REPEATED_LINE_CHARS] += chars
                            break
                        slot = (slot + 1) & mask
                    else:
                        seen_row[slot] = row
                        seen_start[slot] = first
                        seen_bytes[slot] = last - first
            at = stop + 1
        while stop_bits:
            out[_STOP_WORDS_SEEN] += stop_bits & 1
            stop_bits >>= 1
