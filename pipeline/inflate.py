"""Compressed streams read in bounded steps: a bomb costs a counted reject, never memory; bad bytes raise one error."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from pipeline.found import Limits

CHUNK = 1 << 18
RATIO_FLOOR = 16 << 20
_STEP = 1 << 16


class ContainerError(Exception):
    """Why a container, or what is left of it, can't be read; the reason becomes a reject."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Readable(Protocol):
    """The one method of a stream that reading needs."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


class Source:
    """A stream with a look ahead, counting what was consumed; ``left`` bounds it to a slice."""

    def __init__(self, stream: Readable, left: int = 1 << 63) -> None:
        self._stream = stream
        self._head = b""
        self._left = left
        self.consumed = 0

    def peek(self, size: int) -> bytes:
        """Return up to ``size`` bytes without consuming them."""
        while len(self._head) < size and self._left > 0 and (piece := self._take(size - len(self._head))):
            self._head += piece
        return self._head[:size]

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
        else:
            piece = self._take(size)
        self.consumed += len(piece)
        return piece

    def _take(self, size: int) -> bytes:
        piece = self._stream.read(min(size, self._left))
        self._left -= len(piece)
        return piece


class Meter:
    """Counts what comes out of a container against ``max_unit_bytes`` and the ratio to what went in."""

    def __init__(self, limits: Limits, source: Source) -> None:
        self._limits = limits
        self._source = source
        self.bytes = 0

    def add(self, size: int) -> None:
        """Count ``size`` bytes; raises :class:`ContainerError` (``unit_bytes``, ``ratio``) once a limit is passed."""
        self.bytes += size
        if self.bytes > self._limits.max_unit_bytes:
            raise ContainerError("unit_bytes")
        if self.bytes > RATIO_FLOOR and self.bytes > self._limits.max_ratio * self._source.consumed:
            raise ContainerError("ratio")


class Inflated:
    """A decompressed (or plain) stream: ``read`` returns exactly ``size`` bytes unless the end is near."""

    def __init__(self, pieces: Iterator[bytes], meter: Meter) -> None:
        self._pieces = pieces
        self._meter = meter
        self._buffer = b""
        self._at = 0
        self.position = 0

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end; raises :class:`ContainerError`."""
        if self._at + size > len(self._buffer):
            parts = [self._buffer[self._at :]]
            have = len(parts[0])
            try:
                while have < size and (piece := next(self._pieces, b"")):
                    parts.append(piece)
                    have += len(piece)
                    self._meter.add(len(piece))
            finally:
                self._buffer, self._at = b"".join(parts), 0
        piece = self._buffer[self._at : self._at + size]
        self._at += len(piece)
        self.position += len(piece)
        return piece

    def rest(self) -> bytes:
        """What was decompressed but not read when ``read`` raised."""
        return self._buffer[self._at :]

    def skip(self, size: int) -> int:
        """Pass over ``size`` bytes in small steps; returns how many there were."""
        left = size
        while left and (piece := self.read(min(left, CHUNK))):
            left -= len(piece)
        return size - left


class _Zstd:
    """zstandard's decoder with the face of ``bz2.BZ2Decompressor``.

    Its output has no bound of its own, so it is fed 256 bytes at a time: at most 64 blocks of 128 KiB (RFC 8878).
    """

    def __init__(self) -> None:
        import zstandard

        self._decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        self._data = b""
        self._at = 0

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def needs_input(self) -> bool:
        return self._at >= len(self._data)

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        import zstandard

        self._data, self._at = self._data[self._at :] + data, 0
        out, size = [], 0
        try:
            while size < max_length and not self.needs_input and not self.eof:
                out.append(self._decoder.decompress(self._data[self._at : self._at + 256]))
                self._at += 256
                size += len(out[-1])
        except zstandard.ZstdError as error:
            raise zlib.error(str(error)) from error
        return b"".join(out)


def inflate(source: Source, meter: Meter) -> Inflated:
    """Open what the first bytes say: gzip, bzip2, xz or zstandard, each possibly of many members, or plain bytes."""
    from isal import igzip_lib

    head = source.peek(6)
    if head.startswith(b"\x1f\x8b"):
        pieces = members(source, head[:2], lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
    elif head.startswith(b"BZh"):
        pieces = members(source, head[:3], bz2.BZ2Decompressor)
    elif head == b"\xfd7zXZ\0":
        pieces = members(source, head, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28))
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        pieces = members(source, head[:4], _Zstd)
    else:
        pieces = iter(lambda: source.read(CHUNK), b"")
    return Inflated(pieces, meter)


def members(source: Readable, magic: bytes, new: Callable) -> Iterator[bytes]:
    """Decompress member after member into pieces of at most 256 KiB (zstandard: 8 MiB).

    What follows the last member and doesn't begin with ``magic`` is ignored, as gzip(1) does; with an empty ``magic``
    there is one member. Raises :class:`ContainerError`: ``truncated``, ``broken_container``.
    """
    from isal import igzip_lib

    bad = (cast(type[Exception], igzip_lib.error), zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)
    decoder, data = new(), source.read(_STEP)
    while True:
        try:
            out = decoder.decompress(data, CHUNK)
        except bad as error:
            raise ContainerError("broken_container") from error
        if out:
            yield out
        if decoder.eof:
            data = decoder.unused_data
            while len(data) < len(magic) and (more := source.read(_STEP)):
                data += more
            if not magic or not data.startswith(magic):
                return
            decoder = new()
        elif decoder.needs_input:
            data = source.read(_STEP)
            if not data:
                raise ContainerError("truncated")
        else:
            data = b""
