"""Archives as sources: tar, zip, wheel, sdist, npm tarball and deb, streamed member by member, never unpacked to disk.

The kind is told from the bytes, never from the name. Bad bytes never raise: they become a :class:`Found` with a reason;
only faults of the machine (an ``OSError`` from the stream itself) pass through. One member is in memory at a time.

A path keeps what a reader of the project expects: a leading ``./`` goes, and so does one leading directory that only
repeats the release (``numpy-2.1.0/`` in numpy's sdist) or is npm's constant ``package/``.
"""

import re
import stat
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO
from urllib.parse import unquote

from pipeline.found import Found, Limits
from pipeline.inflate import CHUNK, ContainerError, Inflated, Meter, Source, inflate
from pipeline.zips import Entry, directory, overlaps, unzip

_BLOCK = 512
_MAX_METADATA = 1 << 20
_LFS = b"version https://git-lfs.github.com/spec/v1"
_SUFFIX = re.compile(
    r"\.(whl|zip|egg|jar|deb|tgz|tbz2?|txz|(tar(\.(gz|bz2|xz|zst|zstd))?)|gz|crate|nupkg)$", re.IGNORECASE
)
_RELEASE = re.compile(r"^(?P<name>.+?)-(?P<version>v?\d+(?:\.\d.*|[a-z]+\d*.*)|\d+)$")


def path_reason(path: bytes, limits: Limits) -> str | None:
    """Why a path inside a container is refused: ``path_length``, ``path_traversal``, or None."""
    if len(path) > limits.max_path_bytes:
        return "path_length"
    parts = path.replace(b"\\", b"/").split(b"/")
    if b".." in parts or not parts[0] or re.match(rb"[A-Za-z]:[/\\]", path):
        return "path_traversal"
    return None


def content_reason(raw: bytes) -> str | None:
    """``lfs_pointer`` for a Git LFS pointer (under 1,024 bytes, as its specification says), else None."""
    return "lfs_pointer" if len(raw) < 1024 and raw.startswith(_LFS) else None


def origin_of(name: str) -> str:
    """The package release that an archive's file name stands for, equal for the sdist and every wheel of a release.

    Python names are normalised (lower case, runs of ``-_.`` to ``-``); npm's (``.tgz``) stay, as ``a.b`` and ``a-b``
    are two packages there. Architecture, build and Python tags go. A name without a version is its own release.
    """
    return _release(name)[0]


def version_of(name: str) -> str:
    """The version in the name of an archive or of an origin that :func:`origin_of` gave; empty where there is none."""
    return _release(name)[1]


@lru_cache(maxsize=1024)
def _release(name: str) -> tuple[str, str]:
    base = unquote(name.rsplit("/", 1)[-1])
    stem = _SUFFIX.sub("", base)
    if base.lower().endswith(".whl") and stem.count("-") >= 4:
        package, version = stem.split("-")[:2]
    elif base.lower().endswith(".deb") and stem.count("_") == 2:
        package, version = stem.split("_")[:2]
        return f"{package}-{version}", version
    elif match := _RELEASE.match(stem):
        package, version = match["name"], match["version"]
    else:
        return stem, ""
    if base.lower().endswith(".tgz"):
        return stem, version
    return re.sub(r"[-_.]+", "-", package).lower() + "-" + version, version


class _Unit:
    """What every row of one container shares; ``current`` is the member that is being read."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.origin = origin_of(name)
        self.version = version_of(name)
        self.limits = limits
        self.files = 0
        self.current = b""
        self.size = 0

    def begin(self, member: bytes, size: int) -> None:
        self.current, self.size = member, size
        self.files += 1
        if self.files > self.limits.max_unit_files:
            raise ContainerError("unit_files")

    def path(self, member: bytes) -> bytes:
        while member.startswith(b"./"):
            member = member[2:].lstrip(b"/")
        first, slash, rest = member.partition(b"/")
        if slash and rest and self._repeats_release(first):
            return rest
        return member

    def _repeats_release(self, directory: bytes) -> bool:
        if self.name.lower().endswith(".tgz"):
            return directory == b"package"
        return origin_of(directory.decode("utf-8", "replace") + ".tar") == self.origin

    def found(self, raw: bytes | None, reason: str | None, place: str = "") -> Found:
        member = self.current.decode("utf-8", "backslashreplace")
        locator = f"{self.name}!{member}{place}" if member else self.name
        return Found(self.origin, self.path(self.current), locator, self.size, raw, reason, self.version)

    def guard(self) -> str | None:
        return path_reason(self.path(self.current), self.limits) or (
            "too_large" if self.size > self.limits.max_file_bytes else None
        )


def read_archive(stream: BinaryIO, name: str, limits: Limits) -> Iterator[Found]:
    """Offer every member of an archive but its directories, in the order of the archive.

    ``stream`` is at its start; a zip must be seekable (``unsupported`` otherwise). Limits of a unit count for this one
    archive; passing one ends it with one reject that names the member reached. What is no archive is ``unsupported``.
    """
    unit = _Unit(name, limits)
    source = Source(stream)
    try:
        head = source.peek(8)
        if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from _read_zip(stream, unit)
        elif head == b"!<arch>\n":
            yield from _read_deb(source, unit)
        else:
            yield from _read_tar(inflate(source, Meter(limits, source)), unit)
    except ContainerError as refused:
        yield unit.found(None, refused.reason)


def _read_deb(source: Source, unit: _Unit) -> Iterator[Found]:
    source.read(8)
    first = True
    while header := source.peek(60):
        source.read(60)
        member, size = header[:16].rstrip(b" /"), header[48:58].strip()
        if len(header) < 60 or header[58:] != b"`\n" or not size.isdigit():
            raise ContainerError("truncated" if len(header) < 60 else "broken_container")
        if first and member != b"debian-binary":
            raise ContainerError("unsupported")
        first = False
        if member.startswith(b"data.tar"):
            inner = Source(source, int(size))
            yield from _read_tar(inflate(inner, Meter(unit.limits, inner)), unit)
            return
        left = int(size) + int(size) % 2
        while left and (piece := source.read(min(left, CHUNK))):
            left -= len(piece)
    raise ContainerError("truncated")


def _read_tar(data: Inflated, unit: _Unit) -> Iterator[Found]:
    records: dict[bytes, bytes] = {}
    while True:
        unit.current, unit.size, start = b"", 0, data.position
        header = data.read(_BLOCK)
        if len(header) < _BLOCK:
            raise ContainerError("truncated" if start else "unsupported")
        if not header.strip(b"\0"):
            data.skip(1 << 62)
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ContainerError("broken_container" if start else "unsupported") from error
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, b"L", b"K"):
            records |= _metadata(info, _body(data, info.size, _MAX_METADATA))
            continue
        size = _pax_size(records, info.size)
        member = records.get(b"path", info.name.encode("utf-8", "surrogateescape"))
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse.") for key in records)
        member = records.get(b"GNU.sparse.name", member)
        records = {}
        unit.begin(member.rstrip(b"/"), size)
        if info.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_map(data, header)
        if info.isdir():
            continue
        if info.islnk() or info.issym() or info.isdev():
            yield unit.found(None, "special_file" if info.isdev() else "link")
            continue
        reason = "unsupported" if sparse or info.type in (b"D", b"M", b"N", b"V") else unit.guard()
        place = f"@{data.position}+{size}"
        if reason:
            yield unit.found(None, reason, place)
            if data.skip(size + -size % _BLOCK) < size:
                raise ContainerError("truncated")
            continue
        raw = _body(data, size, size)
        yield unit.found(raw, content_reason(raw), place)


def _body(data: Inflated, size: int, most: int) -> bytes:
    if not 0 <= size <= most:
        raise ContainerError("broken_container")
    raw = data.read(size)
    if len(raw) < size:
        raise ContainerError("truncated")
    data.read(-size % _BLOCK)
    return raw


def _metadata(info: tarfile.TarInfo, body: bytes) -> dict[bytes, bytes]:
    if info.type == b"L":
        return {b"path": body.split(b"\0", 1)[0]}
    return {} if info.type in (b"K", tarfile.XGLTYPE) else _pax_records(body)


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    """Parse ``length key=value`` records (POSIX.1-2001, pax extended header)."""
    records, at = {}, 0
    while at < len(body) and body[at]:
        match = re.compile(rb"(\d{1,7}) ([^=]+)=").match(body, at)
        end = at + int(match[1]) if match else 0
        if match is None or end > len(body) or end <= match.end() or body[end - 1 : end] != b"\n":
            raise ContainerError("broken_container")
        records[match[2]] = body[match.end() : end - 1]
        at = end
    return records


def _pax_size(records: dict[bytes, bytes], size: int) -> int:
    text = records.get(b"size", b"%d" % size)
    if not re.fullmatch(rb"\d{1,19}", text):
        raise ContainerError("broken_container")
    return int(text)


def _skip_sparse_map(data: Inflated, header: bytes) -> None:
    """Pass over the old GNU format's further blocks of its map (flag at 482 in the header, at 504 in each block)."""
    more = header[482]
    while more:
        block = data.read(_BLOCK)
        if len(block) < _BLOCK:
            raise ContainerError("truncated")
        more = block[504]


def _read_zip(stream: BinaryIO, unit: _Unit) -> Iterator[Found]:
    if not stream.seekable():
        raise ContainerError("unsupported")
    entries = directory(stream)
    shared = overlaps(entries)
    source = Source(stream)
    meter = Meter(unit.limits, source)
    for number, entry in enumerate(entries):
        unit.begin(entry.name, entry.size)
        if entry.name.endswith(b"/"):
            continue
        raw, reason = None, _entry_reason(entry) or ("broken_record" if number in shared else unit.guard())
        if not reason:
            raw, reason = unzip(stream, entry, source, meter)
            reason = reason or content_reason(raw or b"")
        yield unit.found(raw, reason, f"@{entry.start}+{entry.packed}")


def _entry_reason(entry: Entry) -> str | None:
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFLNK:
        return "link"
    if kind not in (0, stat.S_IFREG):
        return "special_file"
    if entry.flags & 0x41:
        return "encrypted"
    return None if entry.method in (0, 8, 12) else "unsupported"
