"""The compiled first look of ``filters.redact``: which kinds may a text hold?"""

import numpy as np
from numba import njit

from filters.words import in_range, load64, trailing_zeros

EMAIL, IPV4_LIKE, IPV6_LIKE, TOKEN_LIKE, ASSIGNED_LIKE, ALL = 1, 2, 4, 8, 16, 31
"""A bit for each kind of candidate."""

_REACH = 64 + 8
_ZERO, _ONE, _S8, _S16, _BYTE = (np.uint64(x) for x in (0, 1, 8, 16, 255))
_SPELLED = (
    b"AKIA ASIA AIza ghp_ gho_ ghu_ ghs_ ghr_ hub_pat_ glpat- xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs- "
    b"sk_live_ sk_test_ rk_live_ rk_test_ npm_ eyJ --BEGIN t_access T_ACCESS"
).split()
_MARKS = tuple((np.uint64(int.from_bytes(mark, "little")), np.uint64(2 ** (8 * len(mark)) - 1)) for mark in _SPELLED)


@njit(cache=True, nogil=True)
def gate(data, offsets, flags):  # type: ignore[no-untyped-def]
    """Set the bits of the kinds of which a text may have one; never too few, seldom too many.

    Marks stand at the first byte of what they announce. The last bytes of the last text are out of the vectors' reach:
    that text goes to RE2 in any case.
    """
    for text in range(flags.size):
        base, end = offsets[text], offsets[text + 1]
        flag = 0
        while base < end and flag != ALL:
            if base + _REACH > data.size:
                flag = ALL
                break
            inside = ~_ZERO if end - base >= 64 else (_ONE << np.uint64(end - base)) - _ONE
            ats = in_range(data, base + 1, 0x40, 1) & _alphanumeric(data, base + 2) & inside
            # an underscore and %+-. too
            ats &= _alphanumeric(data, base) | in_range(data, base, 0x5F, 1) | in_range(data, base, 0x25, 10)
            while ats != _ZERO and not flag & EMAIL:
                flag |= _may_be_email(data, base + trailing_zeros(ats) + 2, end)
                ats &= ats - _ONE
            dots = (
                in_range(data, base, 0x30, 10) & in_range(data, base + 1, 0x2E, 1) & in_range(data, base + 2, 0x30, 10)
            )
            dots &= inside
            while dots != _ZERO and not flag & IPV4_LIKE:
                flag |= _may_be_ipv4(data, base + trailing_zeros(dots) + 2, end)
                dots &= dots - _ONE
            colons = in_range(data, base, 0x32, 2) & in_range(data, base + 4, 0x3A, 1) & inside
            while colons != _ZERO and not flag & IPV6_LIKE:
                flag |= _may_be_ipv6(data, base + trailing_zeros(colons) + 1, end)
                colons &= colons - _ONE
            marks = _may_be_marks(data, base) & inside
            while marks != _ZERO and not flag & TOKEN_LIKE:
                flag |= _may_be_token(data, base + trailing_zeros(marks))
                marks &= marks - _ONE
            quotes = (in_range(data, base + 1, 0x22, 1) | in_range(data, base + 1, 0x27, 1)) & inside
            quotes &= in_range(data, base, 0x3A, 5) | in_range(data, base, 0x09, 24)  # : to >, or blank and newline
            while quotes != _ZERO and not flag & ASSIGNED_LIKE:
                flag |= _may_be_secret(data, base + trailing_zeros(quotes) + 2, end)
                quotes &= quotes - _ONE
            base += 64
        flags[text] = flag


@njit(cache=True, nogil=True, forceinline=True)
def _alphanumeric(data, base):  # type: ignore[no-untyped-def]
    return in_range(data, base, 0x30, 10) | in_range(data, base, 0x41, 26) | in_range(data, base, 0x61, 26)


@njit(cache=True, nogil=True, forceinline=True)
def _may_be_marks(data, base):  # type: ignore[no-untyped-def]
    """Where the first three bytes of a mark stand."""
    found = _ZERO
    for mark, _ in _MARKS:
        spelled = in_range(data, base, np.int64(mark & _BYTE), 1)
        spelled &= in_range(data, base + 1, np.int64((mark >> _S8) & _BYTE), 1)
        found |= spelled & in_range(data, base + 2, np.int64((mark >> _S16) & _BYTE), 1)
    return found


@njit(cache=True, nogil=True)
def _may_be_token(data, at):  # type: ignore[no-untyped-def]
    """Whether a mark stands here whole: a known token, a key block or the name of an AWS secret."""
    word = load64(data, at)
    for mark, used in _MARKS:
        if word & used == mark:
            return TOKEN_LIKE
    return 0


@njit(cache=True, nogil=True)
def _may_be_email(data, at, end):  # type: ignore[no-untyped-def]
    """Whether a dot and two letters follow in the run of a domain."""
    while at < end and (data[at] == 45 or 48 <= data[at] <= 57 or _is_letter(data[at])):
        at += 1
    return EMAIL if at + 2 < end and data[at] == 46 else 0


@njit(cache=True, nogil=True)
def _may_be_ipv4(data, at, end):  # type: ignore[no-untyped-def]
    """Whether two more groups follow, after the first digit of the second."""
    dots = 1
    while at < end and (data[at] == 46 or 48 <= data[at] <= 57):
        dots += data[at] == 46
        if dots == 3:
            return IPV4_LIKE
        at += 1
    return 0


@njit(cache=True, nogil=True)
def _may_be_ipv6(data, at, end):  # type: ignore[no-untyped-def]
    """Whether ``hhh:``, at most four digits and another colon follow."""
    colons = digits = 0
    while at < end and colons < 2 and digits <= 4:
        if data[at] == 58:
            colons += 1
            digits = 0
        elif 48 <= data[at] <= 57 or 97 <= data[at] | 32 <= 102:
            digits += 1
        else:
            break
        at += 1
    return IPV6_LIKE if colons == 2 else 0


@njit(cache=True, nogil=True)
def _may_be_secret(data, at, end):  # type: ignore[no-untyped-def]
    """Whether a quoted run of at least 20 characters follows with a few changes between letters and digits."""
    start, changes, previous = at, 0, 0
    while at < end:
        byte = data[at]
        kind = 1 if 48 <= byte <= 57 else 2 if _is_letter(byte) else 0
        if kind == 0 and not (byte == 43 or 45 <= byte <= 47 or byte == 61 or byte == 95):
            break
        if kind:
            changes += previous != 0 and kind != previous
            previous = kind
        at += 1
    return ASSIGNED_LIKE if at - start >= 20 and changes >= 4 else 0


@njit(cache=True, nogil=True, forceinline=True)
def _is_letter(byte):  # type: ignore[no-untyped-def]
    return 97 <= byte | 32 <= 122
