"""WARC files as sources: the HTML pages of one file, streamed by FastWARC, with the damage of the world counted.

FastWARC panics on streams that can't seek, ends in silence at a cut tail, and can't go on after a damaged record. So it
sees a forward-only stream, each length is checked, and reading starts anew at the next record that begins a member.
"""

import ipaddress
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any, BinaryIO, cast

from pipeline.found import Found, Limits
from pipeline.inflate import ContainerError, Inflated, Meter, Source, inflate, members

HTML_TYPES = ("text/html", "application/xhtml+xml")
_STARTS = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/1.")
_CHUNK = 1 << 16
_MAX_FALSE_STARTS = 10_000
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


def read_warc(stream: BinaryIO, name: str, limits: Limits) -> Iterator[Found]:
    """Offer every response record of a WARC (gzip or zstandard members, or plain) in the order of the file.

    A page (HTTP 200, HTML) has the URL as path, the registered domain as origin, the capture date as revision, and its
    payload with transfer and content codings undone; other responses are rejects (``status``, ``content_type``; a page
    that the crawler cut is ``truncated``). Other records are no rows. A damaged stretch is one ``broken_record``, and
    reading goes on at the next record. Locators are ``name@offset+length``, without the length before damage.
    ``stream`` is at its start and can seek (``unsupported`` otherwise). Its own faults (``OSError``) pass through.
    """
    head = Source(stream).peek(7)
    magic = next((start for start in _STARTS if head.startswith(start)), None)
    if magic and stream.seekable():
        yield from _Reader(stream, name, limits, magic).rows()
    elif head:
        yield Found("", b"", name, 0, None, "unsupported")


def registered_domain(url: bytes) -> str:
    """The registered domain of a URL by the public suffix list; IP addresses and lone labels as they are; "" if none.

    >>> registered_domain(b"https://docs.python.org:443/3/")
    'python.org'
    """
    match = re.match(rb"[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(\[[0-9a-f:.]+\]|[^/?#:\[\]]*)", url, re.IGNORECASE)
    host = match[1].decode("utf-8", "replace").lower().strip("[].") if match else ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return _suffixes().privatesuffix(host) or host


@cache
def _suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()


class _Forward(Source):
    """What FastWARC sees: ``read`` and ``tell``, no ``seek``. A fault of the stream is kept, to be raised as it was."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._seekable = stream
        self._at = 0
        self.fault: Exception | None = None

    def restart(self, start: int) -> None:
        """Go on reading at byte ``start``."""
        self._at = self._seekable.seek(start)

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""
        try:
            piece = super().read(size)
        except Exception as error:
            self.fault = error
            raise
        self._at += len(piece)
        return piece

    def tell(self) -> int:
        """The position in the file."""
        return self._at


class _DamageError(Exception):
    """FastWARC can't go on from here."""


class _Reader:
    def __init__(self, stream: BinaryIO, name: str, limits: Limits, magic: bytes) -> None:
        self.stream, self.name, self.limits, self.magic = stream, name, limits, magic
        self.forward = _Forward(stream)
        self.meter = Meter(limits, self.forward)
        self.files = 0
        self.last = 0

    def rows(self) -> Iterator[Found]:
        """Read from one start to the next damage, find the start after it, and so on."""
        start: int | None = 0
        damaged, false_starts = False, 0
        try:
            while start is not None:
                before, self.last = self.files, start
                self.forward.restart(start)
                end = yield from self._run()
                if end == "end":
                    return
                if end == "lost" and (self.files > before or not damaged):
                    yield self._lost("broken_record")
                damaged = True
                false_starts = 0 if self.files > before else false_starts + 1
                if false_starts > _MAX_FALSE_STARTS:
                    raise ContainerError("broken_container")
                start = _next_start(self.stream, self.last + 1, self.magic)
        except ContainerError as limit:
            yield self._lost(limit.reason)

    def _lost(self, reason: str) -> Found:
        return Found("", b"", f"{self.name}@{self.last}", 0, None, reason)

    def _run(self) -> Generator[Found, None, str]:
        """Yield each response's row, one late: the next record's start gives its length.

        Returns how it came to an end: ``end`` of the file, ``lost`` something to damage, or ``cut``, after the row of a
        record that claims more than the file holds: the records that follow may lie inside what it claims.
        """
        from fastwarc.warc import ArchiveIterator, WarcRecordType

        records = iter(ArchiveIterator(cast(BinaryIO, self.forward), parse_http=True))
        pending: Found | None = None
        while True:
            try:
                record = self._guarded(lambda: next(records, None))
            except _DamageError:
                if pending:
                    yield pending
                return "lost"
            end = record.stream_pos if record else self.forward.tell()
            if pending:
                yield replace(pending, locator=f"{pending.locator}+{end - self.last}")
            if record is None:
                return "lost" if self._left_behind() else "end"
            self.last = end
            self.files += 1
            if self.files > self.limits.max_unit_files:
                raise ContainerError("unit_files")
            self.meter.add(record.content_length)
            is_response = record.record_type == WarcRecordType.response
            try:
                body, whole = self._content(record, is_response)
            except _DamageError:
                if is_response:
                    yield replace(self._found(record), reason="broken_record")
                return "cut" if is_response else "lost"
            pending = self._response(record, body, whole) if is_response else None
            if not whole:
                yield pending or self._lost("truncated")
                return "cut"

    def _left_behind(self) -> bool:
        """Whether members follow the last record: FastWARC takes some damaged member heads for the end of the file."""
        return self.last > 0 and self.magic != b"WARC/1." and bool(_next_start(self.stream, self.last + 1, self.magic))

    def _content(self, record: Any, wanted: bool) -> tuple[bytes, bool]:
        """The payload, empty where it is not wanted or too large, and whether the file holds all of it."""
        size = record.content_length
        if wanted and size <= self.limits.max_file_bytes:
            body = self._guarded(record.reader.read)
            return body, len(body) == size
        return b"", self._guarded(record.reader.consume) == size

    def _guarded(self, step: Callable[[], Any]) -> Any:
        """Call into FastWARC: faults of the stream as they were, any other (panics too) as damage."""
        try:
            return step()
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
            raise
        except BaseException as error:
            if self.forward.fault:
                raise self.forward.fault from None
            raise _DamageError from error

    def _found(self, record: Any) -> Found:
        url = (record.headers.get_bytes(b"WARC-Target-URI") or b"").strip(b" <>")
        return Found(
            origin=registered_domain(url),
            path=url,
            locator=f"{self.name}@{record.stream_pos}",
            size=record.content_length,
            raw=None,
            revision=record.headers.get("WARC-Date") or "",
            charset=record.http_charset or "",
        )

    def _response(self, record: Any, body: bytes, whole: bool) -> Found:
        found, http = self._found(record), record.http_headers
        reason = None if whole else "truncated"
        if not reason and (http is None or not found.path):
            reason = "broken_record"
        elif not reason:
            reason = self._refusal(found, record)
        if reason:
            return replace(found, reason=reason)
        raw, reason = _decoded(body, http, self.limits)
        return replace(found, raw=raw, reason=reason, size=found.size if raw is None else len(raw))

    def _refusal(self, found: Found, record: Any) -> str | None:
        if record.http_headers.status_code != 200:
            return "status"
        if (record.http_content_type or "").strip().lower() not in HTML_TYPES:
            return "content_type"
        if len(found.path) > self.limits.max_path_bytes:
            return "path_length"
        if found.size > self.limits.max_file_bytes:
            return "too_large"
        return "truncated" if "WARC-Truncated" in record.headers else None


def _next_start(stream: BinaryIO, position: int, magic: bytes) -> int | None:
    """The next place from ``position`` on where a record may begin: a member's magic, or a WARC version line."""
    marker = re.compile(re.escape(magic) + (rb"[01]\r?\n" if magic == b"WARC/1." else b""))
    stream.seek(position)
    tail = b""
    while piece := stream.read(_CHUNK):
        window = tail + piece
        if match := marker.search(window):
            return position - len(tail) + match.start()
        position += len(piece)
        tail = window[-9:]
    return None


def _decoded(body: bytes, http: Any, limits: Limits) -> tuple[bytes | None, str | None]:
    """Undo Transfer-Encoding and Content-Encoding, as far as the bytes agree that they are there."""
    if "chunked" in (http.get("Transfer-Encoding") or "").lower():
        body = _unchunked(body)
    codings = [coding.strip().lower() for coding in (http.get("Content-Encoding") or "").split(",")]
    for coding in reversed(codings):
        if coding in ("", "identity"):
            continue
        if coding not in ("gzip", "x-gzip", "zstd", "deflate"):
            return None, "unsupported"
        source = Source(BytesIO(body))
        try:
            body = _opened(source, coding, Meter(limits, source)).read(limits.max_file_bytes + 1)
        except ContainerError as error:
            return None, "broken_record" if error.reason == "broken_container" else error.reason
        if len(body) > limits.max_file_bytes:
            return None, "too_large"
    return body, None


def _opened(source: Source, coding: str, meter: Meter) -> Inflated:
    if coding != "deflate":
        return inflate(source, meter)
    from isal import igzip_lib

    head = source.peek(2)
    zlib = len(head) == 2 and head[0] & 15 == 8 and int.from_bytes(head, "big") % 31 == 0
    flag = igzip_lib.DECOMP_ZLIB if zlib else igzip_lib.DECOMP_DEFLATE
    return Inflated(members(source, b"", lambda: igzip_lib.IgzipDecompressor(flag=flag)), meter)


def _unchunked(body: bytes) -> bytes:
    """Join the chunks (RFC 9112, 7.1); a body that is not chunked stays, one that is cut gives what there is."""
    parts, at = [], 0
    while match := _CHUNK_SIZE.match(body, at):
        size = int(match[1], 16)
        parts.append(body[match.end() : match.end() + size])
        at = match.end() + size + 2
        if not size:
            break
    return b"".join(parts) if parts else body
