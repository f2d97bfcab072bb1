"""Bytes to text: which encoding, and when there is none; and what a code point is.

A text that leaves this module is valid Unicode without surrogates, so it always encodes to UTF-8. Line ends are kept.
"""

import codecs
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

BINARY_PREFIX = 8192
"""A NUL in this many first bytes makes a file binary (git looks at 8,000; the published recipe is silent)."""

DETECTOR_PREFIX = 1 << 16
"""The detector sees at most this many bytes, cut at a line end."""

ALPHABETIC, SPACE, UNSPACED = 1, 2, 4
"""Bits of :func:`code_point_classes`."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_CODECS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
} | {
    name: name
    for name in (
        *(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
        *("utf-8", "cp866", "cp874", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "gb18030", "big5hkscs", "euc_jp"),
        *(f"cp125{digit}" for digit in range(9)),
        *("cp932", "cp949"),
    )
}
"""Python's codec for each charset of the WHATWG Encoding Standard: labels mean their supersets there, as on the web.

UTF-16 needs its mark (without one it holds NULs and is binary), and ISO-2022-JP is ASCII, thus UTF-8."""

_CODING = re.compile(rb"(?:[^\n]*\n)?[^\n]{0,200}?coding[:=][ \t]*([-\w.]{1,40})", re.ASCII)
"""PEP 263, which is also how Emacs and Vim declare: in one of the first two lines."""

_UNSPACED = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai, Lao, Myanmar, Khmer
    *((0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),  # kana, CJK ideographs
    *((0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF)),  # their later blocks
)
"""Blocks of the scripts that put no space between words (Unicode 15, Blocks.txt)."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file as text. ``text`` is None exactly when ``reason`` says why (``binary`` or ``undecodable``)."""

    text: str | None
    encoding: str
    reason: str | None = None


def decode(raw: bytes, declared: str = "") -> Decoded:
    """Decode a file strictly, by the first of these that decides.

    1. A byte-order mark (UTF-8, UTF-32, UTF-16): decides alone, and is removed.
    2. A NUL in the first 8,192 bytes: ``binary``.
    3. Strict UTF-8.
    4. The charset that the transport declared, where the WHATWG Encoding Standard knows it.
    5. The charset that the text itself declares as PEP 263 says.
    6. turbohtml's detector (``<meta charset>``, then chardetng's character pairs) on a prefix.

    Each is tried on the whole file. Never raises, and no replacement character is put in.
    """
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return _strictly(raw[len(mark) :], encoding) or Decoded(None, encoding, "undecodable")
    if b"\0" in raw[:BINARY_PREFIX]:
        return Decoded(None, "", "binary")
    return (
        _strictly(raw, "utf-8")
        or _strictly(raw, _codec(declared))
        or _strictly(raw, _codec(_declared_inside(raw)))
        or _strictly(raw, _detected(raw))
        or Decoded(None, "", "undecodable")
    )


@cache
def code_point_classes() -> NDArray[np.uint8]:
    """What each code point is, as bits (shape ``(0x110000,)``): ``ALPHABETIC``, ``SPACE``, ``UNSPACED``.

    Alphabetic is general category L (``str.isalpha``), space is ``str.isspace``, both by this Python's Unicode
    version; unspaced are the scripts in which a space does not part words (Han, kana, Thai, ...).
    """
    classes = np.zeros(0x110000, dtype=np.uint8)
    for code_point in range(0x40000):  # no letter or space stands above the tertiary ideographic plane
        character = chr(code_point)
        classes[code_point] = ALPHABETIC * character.isalpha() | SPACE * character.isspace()
    for first, last in _UNSPACED:
        classes[first : last + 1] |= UNSPACED * (classes[first : last + 1] & ALPHABETIC)
    classes.setflags(write=False)
    return classes


def _strictly(raw: bytes, encoding: str) -> Decoded | None:
    if not encoding:
        return None
    try:
        text = raw.decode(encoding)
    except UnicodeError:
        return None
    return Decoded(text, encoding)


def _codec(label: str) -> str:
    try:
        return _CODECS.get(codecs.lookup(label.strip()).name, "") if label.isascii() and len(label) < 40 else ""
    except (LookupError, ValueError):
        return ""


def _declared_inside(raw: bytes) -> str:
    found = _CODING.match(raw[:1024])
    return found[1].decode("ascii") if found else ""


def _detected(raw: bytes) -> str:
    from turbohtml.detect import detect

    prefix = raw
    if len(raw) > DETECTOR_PREFIX:
        # A line feed is never part of a longer sequence in these encodings, so no character is cut in two.
        prefix = raw[: raw.rfind(b"\n", 0, DETECTOR_PREFIX) + 1] or raw[:DETECTOR_PREFIX]
    return _codec(detect(prefix).encoding or "")
