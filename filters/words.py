"""What a word is: the one definition that MinHash and decontamination share, as a kernel over Arrow buffers.

A word is a maximal run of ASCII letters, digits and underscores and of characters beyond ASCII, ASCII letters in lower
case, with these exceptions (docs/conformance.md):

* a character from U+3000 up (CJK, Hangul, emoji, ...) is a word of its own: these scripts set no spaces;
* punctuation and symbols separate words: U+0080-00BF without the nine that are letters or digits, U+00D7, U+00F7,
  U+2000-206F, U+2190-2BFF, U+3000-303F, U+FE10-FE6F, U+FEFF, U+FF00-FF0F, U+FF1A-FF20, U+FF3B-FF40, U+FF5B-FF65,
  U+FFF0-FFFF. Other characters beyond ASCII are taken for letters, without tables of Unicode that change by version;
* a run longer than ``LONGEST`` bytes is cut into words of at most that many, on characters, so that an embedded blob
  is many words instead of one.

A word's hash is 64 bits over its bytes and its length; words of up to 8 bytes and equal length never collide.
The kernels assume a little-endian machine, as Arrow's own buffers do.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

LONGEST = 128
BUFFER = 8192
"""Words that a scratch buffer holds; any document passes through it in pieces, so memory does not grow with it."""
_ONE_STEP = 512
"""More words than one step of :func:`tokenise` can add: 64 bytes, and the rest of a run of at most 320 bytes."""

_PART, _SEPARATOR, _ALONE = 0, 1, 2
_LATIN1_WORD = np.uint64(sum(1 << (c - 0x80) for c in (0xAA, 0xB2, 0xB3, 0xB5, 0xB9, 0xBA, 0xBC, 0xBD, 0xBE)))
_ONES, _ZERO, _ONE, _TWO, _EIGHT = (np.uint64(x) for x in (2**64 - 1, 0, 1, 2, 8))
_HIGH = np.uint64(0x8080808080808080)
_CASE = np.uint64(0x2020202020202020)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY = np.uint64(0xBF58476D1CE4E5B9)
_FINISH = np.uint64(0x94D049BB133111EB)
_HALF, _END_SHIFT = np.uint64(32), np.uint64(29)


def buffers(text: pa.LargeStringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes and the n + 1 offsets of n strings, without copying; honours the array's own offset.

    Raises TypeError for another type than ``large_string``.
    """
    if text.type != pa.large_string():
        raise TypeError(f"text is {text.type}, expected large_string")
    _, offsets, data = text.buffers()
    if len(text) == 0 or offsets is None:
        offsets, bounds = None, np.zeros(1, np.int64)
    else:
        bounds = np.frombuffer(offsets, dtype=np.int64, count=len(text) + 1, offset=8 * text.offset)
    content = np.frombuffer(data if offsets is not None and data is not None else b"", dtype=np.uint8)
    return _readonly(content), _readonly(bounds)


def of(text: str) -> list[str]:
    """The words of one text, for explanations and small texts."""
    raw = text.encode()
    data = np.frombuffer(raw, dtype=np.uint8)
    hashes, starts, stops = scratch()
    words: list[str] = []
    position = 0
    while position < len(raw):
        count, position = tokenise(data, position, len(raw), hashes, starts, stops, 0)
        words += [raw[starts[i] : stops[i]].lower().decode() for i in range(count)]
    return words


def scratch() -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Buffers for :func:`tokenise`: the hash, the start and the stop of ``BUFFER`` words."""
    return np.empty(BUFFER, np.uint64), np.empty(BUFFER, np.int64), np.empty(BUFFER, np.int64)


def _readonly(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _in_range(typingctx, data, position, low, count):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = _load(context, builder, signature.args[0], arguments[0], arguments[1], _BLOCK)
        distance = builder.sub(block, _splat(builder, arguments[2]))
        return builder.bitcast(builder.icmp_unsigned("<", distance, _splat(builder, arguments[3])), _U64)

    return types.uint64(data, types.int64, types.int64, types.int64), generate


def _equal_bytes(typingctx, left, i, right, j):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a = _load(context, builder, signature.args[0], arguments[0], arguments[1], _BLOCK)
        b = _load(context, builder, signature.args[2], arguments[2], arguments[3], _BLOCK)
        return builder.ctpop(builder.bitcast(builder.icmp_unsigned("==", a, b), _U64))

    return types.int64(left, types.int64, right, types.int64), generate


def _load64(typingctx, data, position):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(context, builder, signature.args[0], arguments[0], arguments[1], _U64)

    return types.uint64(data, types.int64), generate


def _trailing_zeros(typingctx, bits):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


def _load(context: Any, builder: Any, array_type: Any, array: Any, position: Any, value_type: Any) -> Any:
    pointer = builder.gep(context.make_array(array_type)(context, builder, array).data, [position])
    load = builder.load(builder.bitcast(pointer, value_type.as_pointer()), typ=value_type)
    load.align = 1
    return load


def _splat(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(_BLOCK, ir.Undefined)
    first = builder.insert_element(nothing, builder.trunc(value, ir.IntType(8)), ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64))


_U64 = ir.IntType(64)
_BLOCK = ir.VectorType(ir.IntType(8), 64)

in_range: Any = intrinsic(_in_range)
"""For kernels: bit j of the u64 says whether ``low <= data[position + j] < low + count``; 64 bytes must be in reach."""
equal_bytes: Any = intrinsic(_equal_bytes)
"""For kernels: how many of the 64 bytes at ``left[i:]`` equal those at ``right[j:]``, as int64."""
load64: Any = intrinsic(_load64)
"""For kernels: the 8 bytes at ``data[position:]`` as a u64."""
trailing_zeros: Any = intrinsic(_trailing_zeros)
"""For kernels: the position of the lowest set bit of a u64 that is not zero, as int64."""


@njit(cache=True, nogil=True)
def tokenise(data, position, end, hashes, starts, stops, filled):  # type: ignore[no-untyped-def]
    """Hash words of ``data[position:end]`` into the scratch buffers from index ``filled`` on.

    Returns (number of words in the buffers, where to go on); the second is ``end`` once the text is through, and
    otherwise the start of a word. ``data`` is u8 and readonly, a text begins and ends between characters.
    """
    room = hashes.size - _ONE_STEP
    start = -1
    base = position
    while base < end:
        if filled > room:
            return filled, base if start < 0 else start
        bits = _word_bits(data, base)
        if end - base < 64:
            bits &= (_ONE << np.uint64(end - base)) - _ONE
        edges = bits ^ ((bits << _ONE) | (_ZERO if start < 0 else _ONE))
        while edges != _ZERO:
            edge = base + trailing_zeros(edges)
            edges &= edges - _ONE
            if start < 0:
                start = edge
                continue
            value, beyond = _hash(data, start, edge)
            if beyond != _ZERO or edge - start > LONGEST:
                filled, _ = _add_split(data, start, edge, True, hashes, starts, stops, filled)
            elif edge > start:
                hashes[filled], starts[filled], stops[filled] = value, start, edge
                filled += 1
            start = -1
        base += 64
        if start >= 0 and base < end and base - start >= 2 * LONGEST:
            filled, start = _add_split(data, start, base, False, hashes, starts, stops, filled)
    if start >= 0:
        filled, _ = _add_split(data, start, end, True, hashes, starts, stops, filled)
    return filled, end


@njit(cache=True, nogil=True, forceinline=True)
def _word_bits(data, base):  # type: ignore[no-untyped-def]
    if base + 64 <= data.size:
        return (
            in_range(data, base, 0x61, 26)
            | in_range(data, base, 0x41, 26)
            | in_range(data, base, 0x30, 10)
            | in_range(data, base, 0x5F, 1)
            | in_range(data, base, 0x80, 128)
        )
    bits = _ZERO
    for j in range(data.size - base):
        byte = data[base + j]
        letter = byte | 0x20
        if 0x61 <= letter <= 0x7A or 0x30 <= byte <= 0x39 or byte == 0x5F or byte >= 0x80:
            bits |= _ONE << np.uint64(j)
    return bits


@njit(cache=True, nogil=True)
def _add_split(data, start, stop, whole, hashes, starts, stops, filled):  # type: ignore[no-untyped-def]
    """Cut a run of word bytes by characters; if it is not ``whole``, return where its last, open word starts."""
    i = start
    while i < stop:
        lead = data[i]
        size = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        if i + size > stop:
            if not whole:
                break
            size = stop - i
        kind = _kind(data, i, size) if size > 1 else _PART
        if kind != _PART or i + size - start > LONGEST:
            filled = _add_word(data, start, i, hashes, starts, stops, filled)
            start = i
        i += size
        if kind != _PART:
            if kind == _ALONE:
                filled = _add_word(data, start, i, hashes, starts, stops, filled)
            start = i
    if whole:
        filled = _add_word(data, start, stop, hashes, starts, stops, filled)
        start = stop
    return filled, start


@njit(cache=True, nogil=True)
def _add_word(data, start, stop, hashes, starts, stops, filled):  # type: ignore[no-untyped-def]
    if stop > start:
        hashes[filled], _ = _hash(data, start, stop)
        starts[filled], stops[filled] = start, stop
        filled += 1
    return filled


@njit(cache=True, nogil=True)
def _kind(data, i, size):  # type: ignore[no-untyped-def]
    if size == 2:
        lead, trail = data[i], data[i + 1]
        if lead == 0xC2:
            return _PART if (_LATIN1_WORD >> np.uint64(trail & 0x3F)) & _ONE else _SEPARATOR
        return _SEPARATOR if lead == 0xC3 and (trail == 0x97 or trail == 0xB7) else _PART
    if size == 4:
        return _ALONE
    c = (np.int64(data[i] & 0x0F) << 12) | (np.int64(data[i + 1] & 0x3F) << 6) | np.int64(data[i + 2] & 0x3F)
    if c < 0x3000:
        return _SEPARATOR if 0x2000 <= c <= 0x206F or 0x2190 <= c <= 0x2BFF else _PART
    if c <= 0x303F or 0xFE10 <= c <= 0xFE6F or c == 0xFEFF or c >= 0xFFF0:
        return _SEPARATOR
    if 0xFF00 <= c <= 0xFF0F or 0xFF1A <= c <= 0xFF20 or 0xFF3B <= c <= 0xFF40 or 0xFF5B <= c <= 0xFF65:
        return _SEPARATOR
    return _ALONE


@njit(cache=True, nogil=True, forceinline=True)
def _hash(data, start, stop):  # type: ignore[no-untyped-def]
    """The hash of the bytes, ASCII letters folded, and a value that is zero if all of them are ASCII."""
    value = _SEED ^ np.uint64(stop - start)
    high = _ZERO
    while start < stop:
        chunk = _ZERO
        if start + 8 <= data.size:
            chunk = load64(data, start)
        else:
            for j in range(data.size - start):
                chunk |= np.uint64(data[start + j]) << (_EIGHT * np.uint64(j))
        beyond = chunk & _HIGH
        # In a word bit 5 tells upper from lower case and nothing else; bytes beyond ASCII keep it.
        chunk |= _CASE & ~(beyond >> _TWO)
        if stop - start < 8:
            keep = _ONES >> (_EIGHT * np.uint64(8 - (stop - start)))
            chunk &= keep
            beyond &= keep
        high |= beyond
        value = (value ^ chunk) * _MULTIPLY
        value ^= value >> _HALF
        start += 8
    value *= _FINISH
    return value ^ (value >> _END_SHIFT), high
