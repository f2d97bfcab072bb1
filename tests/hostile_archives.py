"""Hostile archives: tar and zip files that are bombs, damaged, forged or full of what is no file."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

from tests.hostile_texts import DOCUMENT, OK, noise, notebook, parsers, redactions, texts

LONG_LINE = 100_000_000

Expected = dict[str, list[tuple[bytes, str]]]
"""By container, the path and outcome of each row."""


def long_line(folder: Path, outcome: str) -> Expected:
    """100 MB in one line, and a file after it."""
    words = b"".join(b"word%d of a line that never ends and " % i for i in range(25_000))
    line = (words * (LONG_LINE // len(words) + 1))[:LONG_LINE]
    if not (folder / "line.tar").exists():
        (folder / "line.tar").write_bytes(tar([(b"line.py", line), (b"after.py", OK + b"after = 1\n")]))
    return {"line.tar": [(b"line.py", outcome), (b"after.py", DOCUMENT)]}


def tars(folder: Path) -> Expected:
    """Tar files, and what is packed as one."""
    zeros, fine = bytes(64 << 20), [(b"a.py", OK)]
    links = [special("l.py", tarfile.SYMTYPE, "/etc/passwd"), special("h.py", tarfile.LNKTYPE, "a.py")]
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    devices = [special(f"d{i}", kind) for i, kind in enumerate(kinds)]
    sparse = special("sparse.py", tarfile.GNUTYPE_SPARSE)
    outside = [b"../up.py", b"/etc/x.py", b"a/../../b.py", b"..\\up.py", b"C:\\x.py"]
    names = [b"caf\xe9.py", b"\xff\xfe.py", "\u202egpj.py".encode(), b"a\nb.py", b"deep/" * 800 + b"x.py"]
    cut = gzip.compress(tar([*fine, (b"noise.py", noise(400_000, 32, 95))]), mtime=0)
    made: dict[str, tuple[bytes, list[tuple[bytes, str]]]] = {
        "zeros.tar.gz": (
            gzip.compress(tar([*fine, (b"zeros.py", zeros)]), mtime=0),
            [(b"a.py", DOCUMENT), (b"zeros.py", "too_large"), (b"zeros.py", "ratio")],
        ),
        "zeros.gz": (gzip.compress(zeros, mtime=0), [(b"", "ratio")]),
        "zeros.zst": (zstandard.compress(zeros), [(b"", "ratio")]),
        "outside.tar": (
            tar([*((name, OK + name) for name in outside), *fine]),
            [*((name, "path_traversal") for name in outside), (b"a.py", DOCUMENT)],
        ),
        "links.tar": (
            tar(fine, [*links, *devices]),
            [(b"a.py", DOCUMENT), (b"l.py", "link"), (b"h.py", "link")]
            + [(f"d{i}".encode(), "special_file") for i in range(3)],
        ),
        "sparse.tar": (tar(fine, [sparse]), [(b"a.py", DOCUMENT), (b"sparse.py", "unsupported")]),
        "cut.tar.gz": (cut[: len(cut) // 2], [(b"a.py", DOCUMENT), (b"noise.py", "truncated")]),
        "names.tar": (
            tar([*((name, OK + name[:9]) for name in names), (b"p" * 5000, OK)]),
            [*((name, DOCUMENT) for name in names), (b"p" * 5000, "path_length")],
        ),
        "nested.tar": (
            tar([(b"in.zip", _zip([("a.py", OK)])), (b"in.tar", tar(fine)), (b"in.gz", gzip.compress(OK, mtime=0))]),
            [(b"in.zip", "binary"), (b"in.tar", "binary"), (b"in.gz", "binary")],
        ),
        "size70.tar": (_forged(1 << 70), [(b"", "broken_container")]),
        "size63.tar": (_forged(1 << 63), [(b"forged.py", "too_large"), (b"forged.py", "truncated")]),
        "size-1.tar": (_forged(-1), [(b"", "broken_container")]),
        "paxsize.tar": (
            _with_pax(b"28 size=9999999999999999999\n", b"forged.py"),
            [(b"forged.py", "too_large"), (b"forged.py", "truncated")],
        ),
        "pax.tar": (_with_pax(b"99 path=x\n", b"a.py"), [(b"", "broken_container")]),
        "checksum.tar": (tar(fine) + b"\x01" * 512, [(b"a.py", DOCUMENT)]),
        "empty.tar": (b"", [(b"", "unsupported")]),
        "garbage.tar.gz": (b"\x1f\x8b" + noise(5000), [(b"", "broken_container")]),
        "text.tar": (b"#!/bin/sh\n" * 200, [(b"", "unsupported")]),
        "broken_1.0_all.deb": (
            b"!<arch>\n" + b"debian-binary".ljust(48) + b"-3        `\n",
            [(b"", "broken_container")],
        ),
    }
    return write(folder, made)


def zips(folder: Path) -> Expected:
    """Zip files."""
    link = zipfile.ZipInfo("l.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    device = zipfile.ZipInfo("d.py")
    device.external_attr = (stat.S_IFCHR | 0o777) << 16
    fine = _zip([("a.py", OK)])
    body, crc = _deflated(OK), zlib.crc32(OK)
    made: dict[str, tuple[bytes, list[tuple[bytes, str]]]] = {
        "overlap.zip": (_overlapping(200), [(b"%d.txt" % i, "broken_record") for i in range(200)]),
        "zeros.zip": (
            _zip([(f"{i}.py", bytes(1 << 20)) for i in range(40)]),
            [*((b"%d.py" % i, "binary") for i in range(16)), (b"16.py", "ratio")],
        ),
        "links.zip": (
            _zip([(link, b"/etc/passwd"), (device, b""), ("../up.py", OK), ("/x.py", OK)]),
            [
                (b"l.py", "link"),
                (b"d.py", "special_file"),
                (b"../up.py", "path_traversal"),
                (b"/x.py", "path_traversal"),
            ],
        ),
        "forged.zip": (
            _zipped(
                [
                    (b"small.py", body, crc, 10, 0),
                    (b"large.py", body, crc, len(OK) + 1, 0),
                    (b"crc.py", body, crc ^ 1, len(OK), 0),
                    (b"locked.py", body, crc, len(OK), 1),
                    (b"caf\xe9.py", body, crc, len(OK), 0),
                    (b"giant.py", body, crc, (1 << 64) - 1, 0),
                    (b"lzma.py", body, crc, len(OK), 0, 14),
                    (b"cut.py", body[:-4], crc, len(OK), 0),
                ]
            ),
            [
                (b"small.py", "broken_record"),
                (b"large.py", "truncated"),
                (b"crc.py", "broken_record"),
                (b"locked.py", "encrypted"),
                (b"caf\xe9.py", DOCUMENT),
                (b"giant.py", "too_large"),
                (b"lzma.py", "unsupported"),
                (b"cut.py", "truncated"),
            ],
        ),
        "cut.zip": (fine[:-30], [(b"", "truncated")]),
        "directory.zip": (fine[:-6] + b"\xff" * 6, [(b"", "broken_container")]),
        "caf\udce9.zip": (_zip([("named.py", OK + b"named = 1\n")]), [(b"named.py", DOCUMENT)]),
    }
    return {name.replace("\udce9", "\ufffd"): rows for name, rows in write(folder, made).items()}


def files(folder: Path) -> Expected:
    """Files of one archive that make parsers hang or crash, or look like what only the pipeline may write."""
    notebooks = {
        b"broken.ipynb": (b'{"nbformat": 4, "cells": [', "notebook"),
        b"deep.ipynb": (b'{"nbformat": 4, "cells": ' + b"[" * 100_000, "notebook"),
        b"list.ipynb": (b'{"nbformat": 4, "cells": {"a": 1}}', "notebook"),
        b"empty.ipynb": (notebook([]), "empty"),
        b"outputs.ipynb": (notebook(["x = 1\n"], "A" * 900_000), DOCUMENT),
        b"surrogate.ipynb": (notebook(["y = '\ud800'\n"]), DOCUMENT),
        b"magics.ipynb": (notebook(["# " * 200_000 + "\n", "?" * 200_000, '"""' * 60_000, "%%!" * 9000]), DOCUMENT),
    }
    members = {path: (data, DOCUMENT) for path, data in {**parsers(), **texts(), **redactions()}.items()}
    members |= notebooks
    members |= {
        b"random.sh": (noise(1_000_000), "binary"),
        b"latin.sh": (b"#!/bin/bash\n" + noise(60_000, 0x80, 128), "undecodable"),
        b"lfs.py": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "lfs_pointer"),
        b"utf16.py": (b"\xff\xfe" + OK.decode().encode("utf-16-le") + b"\x00\xd8", "undecodable"),
        b"surrogate.py": (b"x = '\xed\xa0\x80'\n", DOCUMENT),  # no UTF-8, but some legacy encoding
        b"over.py": (b"#" * ((1 << 20) + 1), "too_large"),
    }
    (folder / "files.tar").write_bytes(tar([(path, data) for path, (data, _) in members.items()]))
    return {"files.tar": [(path, outcome) for path, (_, outcome) in members.items()]}


def tar(members: Sequence[tuple[bytes, bytes]], extra: Sequence[tarfile.TarInfo] = ()) -> bytes:
    """A tar in GNU's format, whose names are bytes of any length."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _forged(size: int) -> bytes:
    """A tar whose member claims a size in base 256 that it hasn't."""
    header = bytearray(tar([(b"forged.py", b"")])[:512])
    header[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 0 else size.to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + OK.ljust(512, b"\0")


def _with_pax(records: bytes, name: bytes) -> bytes:
    """A tar whose pax header has these records."""
    header = special("pax", tarfile.XHDTYPE)
    header.size = len(records)
    block = header.tobuf(tarfile.USTAR_FORMAT)
    return block + records.ljust(512, b"\0") + tar([(name, OK)])


def _zip(members: Sequence[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _entry(name: bytes, packed: int, crc: int, size: int, flags: int, start: int, method: int = 8) -> bytes:
    extra = struct.pack("<HHQ", 1, 8, size) if size > 0xFFFFFFFF else b""
    size = min(size, 0xFFFFFFFF)
    fields = (b"PK\x01\x02", 20, 20, flags, method, 0, 0, crc, packed, size, len(name), len(extra), 0, 0, 0, 0, start)
    return struct.pack("<4s6H3I5H2I", *fields) + name + extra


def _local(name: bytes, packed: bytes, crc: int, size: int, flags: int, method: int = 8) -> bytes:
    fields = (b"PK\x03\x04", 20, flags, method, 0, 0, crc, len(packed), min(size, 0xFFFFFFFF), len(name), 0)
    return struct.pack("<4s5H3I2H", *fields) + name + packed


def _closed(bodies: bytes, entries: bytes, count: int) -> bytes:
    return bodies + entries + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(entries), len(bodies), 0)


def _zipped(members: Sequence[tuple[Any, ...]]) -> bytes:
    """A zip whose headers say what they are told: name, packed bytes, CRC, size, flags, method."""
    bodies = entries = b""
    for name, packed, crc, size, flags, *method in members:
        entries += _entry(name, len(packed), crc, size, flags, len(bodies), *method)
        bodies += _local(name, packed, crc, size, flags, *method)
    return _closed(bodies, entries, len(members))


def _overlapping(count: int) -> bytes:
    """A zip bomb: many entries that share one body."""
    data = bytes(1 << 20)
    packed, crc = _deflated(data), zlib.crc32(data)
    body = _local(b"0.txt", packed, crc, len(data), 0)
    entries = b"".join(_entry(b"%d.txt" % i, len(packed), crc, len(data), 0, 0) for i in range(count))
    return _closed(body, entries, count)


def write(folder: Path, made: Mapping[str, tuple[bytes, list[tuple[bytes, str]]]]) -> Expected:
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    return {name: rows for name, (_, rows) in made.items()}
