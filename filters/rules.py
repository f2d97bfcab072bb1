"""The published rules 1 to 5 for source files (DeepSeek-Coder-V2, arXiv 2406.11931, section 2; V1, 2401.14196, 2.1).

Measuring and judging are apart: :func:`measure` reads text once and gives counts, :func:`judge_code` compares counts
with thresholds in integers, so that a changed threshold reads no text. Where the papers are silent:

- a character is a Unicode code point; an alphabetic one has general category L (``str.isalpha``);
- a line ends with LF, CR LF or a lone CR; its terminator counts neither for the longest nor for the average line; a
  last line without a terminator is a line; an empty file has none;
- the share of alphabetic characters is taken of all code points, line ends included; an empty file has a share of 0;
- ``<?xml version=`` stands in the first 100 characters if its last character does;
- visible text is what a browser would draw, judged by element names alone, with runs of white space as one space.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from filters.html import flatten_tables
from filters.text import ALPHABETIC, code_point_classes, decode

XML_PROLOG = b"<?xml version="
XML_PROLOG_WITHIN = 1000
"""The prolog is searched in this many first code points, so a threshold up to this needs no text."""

_PROLOG = np.frombuffer(XML_PROLOG, dtype=np.uint8)
_COUNTS = ("n_chars", "n_lines", "max_line_chars", "line_chars", "alpha_chars", "xml_prolog")


class CodeRules(BaseModel):
    """Thresholds of the published rules. Each rule is a drop rule; equality keeps a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_average_line: int = Field(
        100, ge=0, description="rule 1: mean characters of a line above which a file is dropped (V2 section 2)"
    )
    max_line: int = Field(
        1000, ge=0, description="rule 1: characters of the longest line above which a file is dropped (V2 section 2)"
    )
    min_alpha_percent: int = Field(
        25, ge=0, le=100, description="rule 2: alphabetic share of all characters kept at least (V2 section 2)"
    )
    xml_prolog_chars: int = Field(
        100,
        ge=0,
        le=XML_PROLOG_WITHIN,
        description="rule 3: first characters that must not hold `<?xml version=`, XSLT excepted (V2 section 2)",
    )
    html_min_visible_percent: int = Field(
        20, ge=0, le=100, description="rule 4: visible text of an HTML file, share of its characters (V2 section 2)"
    )
    html_min_visible_chars: int = Field(
        100, ge=0, description="rule 4: visible text of an HTML file, characters (V2 section 2)"
    )
    data_min_chars: int = Field(50, ge=0, description="rule 5: JSON and YAML, fewest characters kept (V2 section 2)")
    data_max_chars: int = Field(5000, ge=0, description="rule 5: JSON and YAML, most characters kept (V2 section 2)")


def measure(text: pa.LargeStringArray) -> pa.RecordBatch:
    """Count what the rules need, for n texts (one ``large_string`` array without nulls, slices allowed).

    Returns n rows of uint32 columns, all in code points:

    - ``n_chars``: all of the text; ``n_lines``: lines;
    - ``max_line_chars`` and ``line_chars``: the longest line and the sum of all, terminators excluded;
    - ``alpha_chars``: alphabetic ones;
    - ``xml_prolog``: where the first ``<?xml version=`` ends (14 if the text starts with it), 0 if none ends within the
      first 1,000.
    """
    offsets, data = buffers(text)
    counts = np.zeros((len(_COUNTS), len(text)), dtype=np.uint32)
    _count(data, offsets, code_point_classes(), counts)
    return pa.RecordBatch.from_arrays([pa.array(row) for row in counts], names=list(_COUNTS))


def visible_text(html: bytes | str) -> str:
    """What a browser would draw of an HTML source file, white space collapsed (rule 4).

    Not drawn: ``head`` (the title too), ``script``, ``style``, ``template``, ``noscript``, comments. CSS and
    attributes are not looked at. Bytes go through :func:`filters.text.decode`; what is not text has no visible text.
    """
    import turbohtml

    markup = html if isinstance(html, str) else decode(html).text or ""
    document = turbohtml.parse(markup, positions=False)
    document.remove("head, title, script, style, template, noscript, iframe, object")
    flatten_tables(document, " ")
    return " ".join(document.to_text(turbohtml.PlainText(layout="strict", bullet="")).split())


def visible_chars(html: bytes | str) -> int:
    """Code points of :func:`visible_text`."""
    return len(visible_text(html))


def judge_code(
    measures: pa.RecordBatch,
    language: pa.Array,
    visible_chars: NDArray[np.uint32],
    rules: CodeRules,
    code: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """The first published rule that drops each of n files: 1 to 5, or 0 if the file passes.

    ``measures`` is from :func:`measure`; ``language`` holds n names (string or dictionary array, no nulls);
    ``visible_chars`` n counts, of which only those of HTML rows are read. Rules 1 to 3 apply to the rows whose kind is
    code, which the caller tells (``code``, n booleans; without it every row is), and 3 spares ``XSLT``; rule 4 applies
    to ``HTML``, rule 5 to ``JSON`` and ``other:YAML``.
    """
    n_chars, n_lines, max_line, line_chars, alpha, prolog = (
        np.asarray(measures.column(name)).astype(np.int64) for name in _COUNTS
    )
    visible = visible_chars.astype(np.int64)
    is_code = np.ones(len(n_chars), dtype=np.bool_) if code is None else code
    drops = (
        ((line_chars > rules.max_average_line * n_lines) | (max_line > rules.max_line)) & is_code,
        (alpha * 100 < rules.min_alpha_percent * np.maximum(n_chars, 1)) & is_code,
        (prolog > 0) & (prolog <= rules.xml_prolog_chars) & ~_is(language, "XSLT") & is_code,
        ((visible * 100 < rules.html_min_visible_percent * n_chars) | (visible < rules.html_min_visible_chars))
        & _is(language, "HTML"),
        ((n_chars < rules.data_min_chars) | (n_chars > rules.data_max_chars)) & _is(language, "JSON", "other:YAML"),
    )
    verdict = np.zeros(len(n_chars), dtype=np.uint8)
    for number in range(len(drops), 0, -1):
        verdict[drops[number - 1]] = number
    return verdict


def buffers(text: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The n + 1 offsets (bytes) of n texts, and the bytes that they point into; nothing is copied."""
    if not pa.types.is_large_string(text.type) or text.null_count:
        raise TypeError(f"expected a large_string array without nulls, found {text.type} with {text.null_count} nulls")
    _, offsets, data = text.buffers()
    found = np.zeros(1, dtype=np.int64)
    if offsets is not None and len(text):
        found = np.frombuffer(offsets, dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    content = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(0, dtype=np.uint8)
    for array in (found, content):
        array.flags.writeable = False  # Arrow's buffers differ in this, and kernels are compiled for each kind
    return found, content


def _is(language: pa.Array, *names: str) -> NDArray[np.bool_]:
    found = pc.is_in(language, value_set=pa.array(names))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)


@njit(cache=True, nogil=True)
def _count(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], classes: NDArray[np.uint8], counts: NDArray[np.uint32]
) -> None:
    """Fill ``counts`` (a row for each name of ``_COUNTS``) from the UTF-8 bytes of n texts, in one pass."""
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        chars = lines = longest = total = line_start = alpha = found = 0
        while at < end:
            byte = np.int64(data[at])
            at += 1
            if byte < 0x80:
                if byte == 10 or byte == 13:
                    length = chars - line_start
                    lines += 1
                    total += length
                    longest = max(longest, length)
                    chars += 1
                    if byte == 13 and at < end and data[at] == 10:
                        at += 1
                        chars += 1
                    line_start = chars
                    continue
                alpha += classes[byte] & ALPHABETIC
                chars += 1
                if byte == 60 and found == 0 and chars + 13 <= XML_PROLOG_WITHIN and at + 13 <= end:
                    same = True
                    for i in range(13):
                        same = same and data[at + i] == _PROLOG[i + 1]
                    if same:
                        found = chars + 13
                continue
            if byte < 0xE0:
                point = (byte & 0x1F) << 6 | (np.int64(data[at]) & 0x3F)
                at += 1
            elif byte < 0xF0:
                point = (byte & 0x0F) << 12 | (np.int64(data[at]) & 0x3F) << 6 | (np.int64(data[at + 1]) & 0x3F)
                at += 2
            else:
                point = (
                    (byte & 0x07) << 18
                    | (np.int64(data[at]) & 0x3F) << 12
                    | (np.int64(data[at + 1]) & 0x3F) << 6
                    | (np.int64(data[at + 2]) & 0x3F)
                )
                at += 3
            alpha += classes[point] & ALPHABETIC
            chars += 1
        if chars > line_start:
            length = chars - line_start
            lines += 1
            total += length
            longest = max(longest, length)
        counts[0, row] = chars
        counts[1, row] = lines
        counts[2, row] = longest
        counts[3, row] = total
        counts[4, row] = alpha
        counts[5, row] = found
