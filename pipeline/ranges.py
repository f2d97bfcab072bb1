"""A file that is read by ranges of a store that answers one request at a time."""

import io
from collections.abc import Callable
from typing import Any

_SMALL, _LEAST_AHEAD, _MOST_AHEAD = 1 << 20, 1 << 18, 8 << 20


class RangeFile(io.RawIOBase):
    """A file that is read by ranges: a small one at once, one read in order with growing read-ahead, else as asked."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]):
        self._size, self._read = size, read
        self._at = self._start = self._ahead = 0
        self._block = memoryview(b"")

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def tell(self) -> int:  # noqa: D102
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readall(self) -> bytes:  # noqa: D102
        return self.read(max(0, self._size - self._at)) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the file goes."""
        out, done = memoryview(buffer).cast("B"), 0
        wanted = max(0, min(len(out), self._size - self._at))
        while done < wanted:
            if not self._start <= self._at < self._start + len(self._block):
                self._fetch(wanted - done)
            inside = self._at - self._start
            piece = self._block[inside : inside + wanted - done]
            out[done : done + len(piece)] = piece
            done, self._at = done + len(piece), self._at + len(piece)
        return done

    def _fetch(self, wanted: int) -> None:
        is_next = self._at == self._start + len(self._block)
        self._ahead = min(max(2 * self._ahead, _LEAST_AHEAD), _MOST_AHEAD) if is_next else 0
        if self._size <= _SMALL:
            start, end = 0, self._size
        else:
            start, end = self._at, min(self._size, self._at + max(wanted, self._ahead))
        self._start, self._block = start, memoryview(self._read(start, end))
        if len(self._block) != end - start:
            raise OSError(f"{len(self._block)} bytes where {end - start} were expected: the file has changed")
