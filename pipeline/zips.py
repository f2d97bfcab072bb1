"""The members of a zip file by its central directory, one at a time, with what makes a hostile one harmless."""

import bz2
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO, NamedTuple

from pipeline.inflate import CHUNK, ContainerError, Inflated, Meter, Source, members

_MAX_DIRECTORY = 1 << 28
_END = Struct("<4s4H2IH")
_END64 = Struct("<4sQ2H2I4Q")
_ENTRY = Struct("<4s6H3I5H2I")
_LOCAL = Struct("<4s5H3I2H")


class Entry(NamedTuple):
    """One line of the central directory; ``start`` is where its local header stands, ``mode`` the Unix mode or 0."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    start: int


def unzip(stream: BinaryIO, entry: Entry, source: Source, meter: Meter) -> tuple[bytes | None, str | None]:
    """Read one entry (stored, deflated or bzip2): its bytes, or None with ``truncated`` or ``broken_record``.

    ``source`` counts what is read of ``stream``. Raises :class:`ContainerError` where a limit of the unit is passed.
    """
    from isal import igzip_lib, isal_zlib

    if entry.start >= stream.seek(0, 2):
        return None, "broken_record"
    stream.seek(entry.start)
    local = source.read(_LOCAL.size)
    if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
        return None, "broken_record"
    fields = _LOCAL.unpack(local)
    stream.seek(fields[-2] + fields[-1], 1)
    packed = Source(source, entry.packed)
    if entry.method == 0:
        pieces = iter(lambda: packed.read(CHUNK), b"")
    elif entry.method == 8:
        pieces = members(packed, b"", lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE))
    else:
        pieces = members(packed, b"", bz2.BZ2Decompressor)
    try:
        raw = Inflated(pieces, meter).read(entry.size + 1)
    except ContainerError as refused:
        if refused.reason in ("ratio", "unit_bytes"):
            raise
        return None, "truncated" if refused.reason == "truncated" else "broken_record"
    if len(raw) < entry.size:
        return None, "truncated"
    if len(raw) > entry.size or isal_zlib.crc32(raw) != entry.crc:
        return None, "broken_record"
    return raw, None


def directory(stream: BinaryIO) -> list[Entry]:
    """Parse the central directory (APPNOTE 4.3.12 to 4.3.16, with zip64) in its order.

    Raises :class:`ContainerError`: ``truncated`` (no end record), ``broken_container``, ``unit_files`` (over 256 MiB).
    """
    length = stream.seek(0, 2)
    tail_at = max(0, length - 65535 - _END.size - 20)
    stream.seek(tail_at)
    tail = stream.read(length - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise ContainerError("truncated")
    *_, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        at64 = int.from_bytes(tail[at - 12 : at - 4], "little")
        if at64 >= length:
            raise ContainerError("broken_container")
        stream.seek(at64)
        end64 = stream.read(_END64.size)
        if len(end64) < _END64.size or not end64.startswith(b"PK\x06\x06"):
            raise ContainerError("broken_container")
        *_, size, offset = _END64.unpack(end64)
        end -= 20 + _END64.size
    if size > _MAX_DIRECTORY:
        raise ContainerError("unit_files")
    before = end - size - offset
    if before < 0:
        raise ContainerError("broken_container")
    stream.seek(before + offset)
    return list(_entries(stream.read(size), before))


def _entries(table: bytes, before: int) -> Iterator[Entry]:
    at = 0
    while at < len(table):
        if len(table) - at < _ENTRY.size or table[at : at + 4] != b"PK\x01\x02":
            raise ContainerError("broken_container")
        _, _, _, flags, method, _, _, crc, packed, size, n, extra, comment, _, _, attributes, start = (
            _ENTRY.unpack_from(table, at)
        )
        name_at = at + _ENTRY.size
        sizes = _zip64(table[name_at + n : name_at + n + extra], [size, packed, start])
        name = table[name_at : name_at + n]
        yield Entry(name, flags, method, crc, sizes[1], sizes[0], attributes >> 16, sizes[2] + before)
        at = name_at + n + extra + comment


def _zip64(extra: bytes, values: list[int]) -> list[int]:
    """Replace the values that are all ones by those of extra field 1 (APPNOTE 4.5.3), in its order."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == 1:
            body = extra[at + 4 : at + 4 + size]
            for i, value in enumerate(values):
                if value == 0xFFFFFFFF and len(body) >= 8:
                    values[i], body = int.from_bytes(body[:8], "little"), body[8:]
            break
        at += 4 + size
    return values


def overlaps(entries: list[Entry]) -> frozenset[int]:
    """The numbers of entries whose bytes overlap another's: real archives have none, overlapping bombs live on them."""
    order = sorted(range(len(entries)), key=lambda i: (entries[i].start, entries[i].packed, i))
    shared: set[int] = set()
    last, end = -1, -1
    for i in order:
        if entries[i].start < end:
            shared |= {last, i}
        here = entries[i].start + _LOCAL.size + len(entries[i].name) + entries[i].packed
        if here > end:
            last, end = i, here
    return frozenset(shared)
