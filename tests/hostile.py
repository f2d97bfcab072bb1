"""Hostile input of every kind of source, made from nothing, and what a build has to say of each item.

``make`` lays a site out and gives the manifest and the expectations: of every offered row its source, container, path
and outcome, a reason or :data:`DOCUMENT`. Nothing here is random: noise is SHAKE-256 of a constant.
"""

import gzip
import hashlib
import io
import json
import os
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

DOCUMENT = "document"
EOS, BOS = "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"
SENTINELS = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")
OTHERS = ("<|endoftext|>", "<|EOT|>", "<fim_prefix>", "<s>", "</s>", "<pad>", "<unk>", "[CLS]", "\ufeff", "Ċ", "Ġ")
SPECIALS = (EOS, BOS, *SENTINELS, *OTHERS)
LONG_LINE = 100_000_000


class Row(NamedTuple):
    """One offered row and its outcome; ``container`` is the file or repository it comes from."""

    source: str
    container: str
    path: bytes
    outcome: str


Expected = dict[str, list[tuple[bytes, str]]]
"""By container, the path and outcome of each row."""


def make(folder: Path) -> list[Row]:
    """Lay the site out below ``folder`` and give what a build has to answer, in no order."""
    for name in ("archives", "long", "pages", "rows"):
        (folder / "in" / name).mkdir(parents=True)
    archives, pages, rows = folder / "in" / "archives", folder / "in" / "pages", folder / "in" / "rows"
    expected = {"code": tars(archives) | zips(archives) | files(archives)}
    expected["code"] |= long_line(folder / "in" / "long", "too_large")
    expected["long"] = long_line(folder / "in" / "long", DOCUMENT)
    expected["git"] = repositories(folder / "in")
    expected["pages"] = warcs(pages)
    expected["rows"] = tables(rows)
    return [
        Row(source, container, path, outcome)
        for source, containers in expected.items()
        for container, outcomes in containers.items()
        for path, outcome in outcomes
    ]


def noise(size: int, low: int = 0, count: int = 256, key: bytes = b"") -> bytes:
    """Bytes from ``low`` on, ``count`` different ones, equal in every run."""
    table = bytes(low + byte % count for byte in range(256))
    return hashlib.shake_256(key).digest(size).translate(table)


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


OK = b"def fine():\n    return 'a document among hostile ones'\n"


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
    return _write(folder, made)


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
    return {name.replace("\udce9", "\ufffd"): rows for name, rows in _write(folder, made).items()}


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


def _write(folder: Path, made: Mapping[str, tuple[bytes, list[tuple[bytes, str]]]]) -> Expected:
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    return {name: rows for name, (_, rows) in made.items()}


def files(folder: Path) -> Expected:
    """Files of one archive that make parsers hang or crash, or look like what only the pipeline may write."""
    notebooks = {
        b"broken.ipynb": (b'{"nbformat": 4, "cells": [', "notebook"),
        b"deep.ipynb": (b'{"nbformat": 4, "cells": ' + b"[" * 100_000, "notebook"),
        b"list.ipynb": (b'{"nbformat": 4, "cells": {"a": 1}}', "notebook"),
        b"empty.ipynb": (_notebook([]), "empty"),
        b"outputs.ipynb": (_notebook(["x = 1\n"], "A" * 900_000), DOCUMENT),
        b"surrogate.ipynb": (_notebook(["y = '\ud800'\n"]), DOCUMENT),
        b"magics.ipynb": (_notebook(["# " * 200_000 + "\n", "?" * 200_000, '"""' * 60_000, "%%!" * 9000]), DOCUMENT),
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


def parsers() -> dict[bytes, bytes]:
    """What hangs or crashes grammars (languages reference, section 4, and what was found since)."""
    size = 64_000
    function = b"void foo()\n{\n}\n"
    mumps = b"".join(b'L%d(A,B) ;c\n S X=$G(^A(%d)) I X D F^B Q:X=""\n' % (i, i) for i in range(70))
    nested = b"".join(b" " * i + b"a:\n" for i in range(900))
    made = {b"hang%d.%s" % (i, end): function for i, end in enumerate((b"cob", b"cbl", b"cpy", b"ccp", b"d", b"v"))}
    made |= {b"hang": function, b"mumps.m": mumps, b"levels.dm": _indented(700), b"deep.yaml": nested}
    made |= {b"flow.yaml": b"[" * 5000, b"heredoc.sh": b"cat <<A\n" * 8000, b"tags.jl": b"<a>" * 20_000}
    made |= {b"backslash.bzl": b"x\\\n" * (size // 3), b"regexp.frag": b"/[" * (size // 2)}
    made |= {b"comment.frag": b"\n/*" * (size // 3), b"comment.h": b"\n/*" * (size // 3)}
    for end in (b"pl", b"pm", b"t", b"scala", b"jl", b"typ", b"hs", b"pony", b"purs", b"jinja", b"f", b"m", b"cls"):
        made[b"brackets." + end] = b"[" * size + end
        made[b"parentheses." + end] = b"(" * size + end
    for end in (b"sh", b"h", b"ts", b"pp", b"scm", b"inc", b"fs", b"sql", b"cl", b"bzl", b"frag", b"workflow"):
        made[b"noise." + end] = noise(size, 32, 95, end) + b"\n"
        made[b"blanks." + end] = b" \t" * (size // 2) + end + b"\n"
    return made


def _indented(levels: int) -> bytes:
    return b"".join(b"\t" * level + b"if(a)\n" for level in range(levels))


def texts() -> dict[bytes, bytes]:
    """Texts at the edges of Unicode and of what a file may hold, and the tokenizer's own tokens spelled out."""
    spelled = [f"def f{i}():\n    return '{token}' + \"{token * 3}\"\n" for i, token in enumerate(SPECIALS)]
    made = {b"special%02d.py" % i: text.encode() for i, text in enumerate(spelled)}
    made[b"specials.md"] = ("A text with " + " and ".join(SPECIALS) + "\n").encode()
    made[b"specials_only.py"] = "".join((*SENTINELS, EOS, BOS)).encode() * 50
    made |= {
        b"empty.py": b"",
        b"newlines.py": b"\n" * 100_000,
        b"returns.py": b"\r" * 50_000,
        b"bom.py": b"\xef\xbb\xbf",
    }
    made |= {b"late_nul.py": OK * 200 + b"\0" * 5000, b"controls.py": bytes(range(1, 32)) * 100 + b"\x7f"}
    made |= {
        b"one.py": b"1",
        b"blank.py": b" " * 5000,
        b"boms.py": b"\xef\xbb\xbf" * 500,
        b"max.py": b"# " + b"m" * (1 << 20),
    }
    made[b"max.py"] = made[b"max.py"][: 1 << 20]
    made |= {
        b"right.py": "\u202e\u2066x = 'ש' # \u2069\u202c\n".encode() * 500,
        b"joined.md": ("\U0001f468\u200d\U0001f469\u200d" * 5000 + "\n").encode(),
        b"combining.md": ("e" + "\u0301" * 60_000 + "\n").encode(),
        b"noncharacters.md": ("\uffff\ufffe\U0010ffff\ufdd0\U000e0001" * 2000 + "\n").encode(),
        b"crlf.py": b"x = 1\r\n" * 3000 + b"\r\r\n",
    }
    return made


def redactions() -> dict[bytes, bytes]:
    """Texts made for the regular expressions that find addresses and keys."""
    parts = [b"@", b"a@", b"a@b.", b"a@b.co", b".", b"1.", b"1.2.3.4", b"255.255.255.", b"-", b"-----BEGIN ", b"eyJ"]
    parts += [b"-----BEGIN PRIVATE KEY-----\n", b"eyJaaaaaaaaaaaaaa.", b":", b"2001:", b"2001:db8::", b"AKIA", b"ghp_"]
    parts += [b"secret=", b"token='", b'password = "', b"secret_", b'key"]=>"a1b2', b"aws_secret_access_key=", b"%.+-_"]
    made = {b"redact%02d.py" % i: part * (300_000 // len(part)) + b"\n" for i, part in enumerate(parts)}
    mails = b"".join(b"m%d@mail%d.org 8.8.%d.%d\n" % (i, i, i % 200 + 1, i % 250 + 1) for i in range(5000))
    return made | {b"mails.md": mails}


def _notebook(sources: Sequence[str], output: str = "") -> bytes:
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    cells = [{"cell_type": "code", "source": source, "outputs": outputs, "metadata": {}} for source in sources]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}).encode()


def repositories(folder: Path) -> Expected:
    """A repository with every kind of entry, and one whose tree is damaged."""
    good, broken = folder / "repository", folder / "broken"
    for place in (good, broken):
        _git(folder, "init", "-q", "-b", "main", str(place))
    absent = "1" * 40

    def blob(place: Path, data: bytes) -> str:
        return _git(place, "hash-object", "-w", "--stdin", data=data)

    def tree(place: Path, entries: Sequence[tuple[str, str, str, bytes]]) -> str:
        lines = [f"{mode} {kind} {name}\t".encode() + path + b"\0" for mode, kind, name, path in entries]
        return _git(place, "mktree", "--missing", "-z", data=b"".join(lines))

    fine = blob(good, OK + b"git = 1\n")
    damaged = blob(good, OK + b"damaged = 1\n")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    deep = tree(good, [("100644", "blob", blob(good, OK + b"deep = 1\n"), b"x.py")])
    for _ in range(300):
        deep = tree(good, [("040000", "tree", deep, b"deep")])
    root = tree(
        good,
        [
            ("100644", "blob", absent, b"absent.py"),
            ("100644", "blob", fine, b"caf\xe9.py"),
            ("100644", "blob", damaged, b"damaged.py"),
            ("040000", "tree", deep, b"deep"),
            ("100644", "blob", fine, b"fine.py"),
            ("100644", "blob", blob(good, pointer), b"lfs.py"),
            ("120000", "blob", blob(good, b"/etc/passwd"), b"link.py"),
            ("160000", "commit", absent, b"module"),
            ("100644", "blob", blob(good, noise(5000)), b"noise.py"),
            ("100644", "blob", blob(good, bytes(2 << 20)), b"zeros.py"),
        ],
    )
    _commit(good, root)
    loose = good / ".git" / "objects" / damaged[:2] / damaged[2:]
    loose.chmod(0o644)
    loose.write_bytes(loose.read_bytes()[:-6] + b"broken")
    inner = ("100644", "blob", blob(broken, OK + b"broken = 1\n"), b"a.py")
    _commit(broken, tree(broken, [inner, ("040000", "tree", absent, b"gone")]))
    return {
        "repository": [
            (b"absent.py", "missing_object"),
            (b"caf\xe9.py", DOCUMENT),
            (b"damaged.py", "broken_record"),
            (b"deep/" * 301 + b"x.py", DOCUMENT),
            (b"fine.py", DOCUMENT),
            (b"lfs.py", "lfs_pointer"),
            (b"link.py", "link"),
            (b"module", "submodule"),
            (b"noise.py", "binary"),
            (b"zeros.py", "too_large"),
        ],
        "broken": [(b"a.py", DOCUMENT), (b"", "missing_object")],
    }


def _git(place: Path, *arguments: str, data: bytes = b"") -> str:
    who = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {f"GIT_{role}_DATE": "2024-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")}
    environment = os.environ | who | dates | {"GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", *arguments], cwd=place, env=environment, input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


def _commit(place: Path, tree: str) -> None:
    commit = _git(place, "commit-tree", tree, "-m", "hostile")
    _git(place, "update-ref", "refs/heads/main", commit)


def page(
    url: bytes, body: bytes, http: bytes = b"Content-Type: text/html", length: bytes = b"", more: bytes = b""
) -> bytes:
    """A response record; ``length`` forges its Content-Length, ``more`` are further WARC headers."""
    content = b"HTTP/1.1 200 OK\r\n" + http + b"\r\n\r\n" + body
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: " + url + b"\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    head += b"Content-Type: application/http; msgtype=response\r\n" + more
    return head + b"Content-Length: " + (length or b"%d" % len(content)) + b"\r\n\r\n" + content + b"\r\n\r\n"


def warcs(folder: Path) -> Expected:
    """WARC files: pages made for parsers, and files that are damaged."""
    bodies = pages()
    urls = {name: b"http://hostile.example.org/" + name for name in bodies}
    records = [page(urls[name], *what[:-1]) for name, what in bodies.items()]
    rows = [(urls[name], what[-1]) for name, what in bodies.items()]
    odd = {
        b"http://caf\xe9.org/\xff": DOCUMENT,
        b"not a url": DOCUMENT,
        b"http://[::1/": DOCUMENT,
        b"": "broken_record",
    }
    records += [page(url, _html(b"odd " + url)) for url in odd]
    records.append(page(b"http://a.org/date", _html(b"date"), more=b"WARC-Date: \xff\xfe\xed\xa0\x80\r\n"))
    rows += [*odd.items(), (b"http://a.org/date", DOCUMENT)]
    for header in (b"X: y\r\n" * 20_000, b"Content-Type: " + b"t" * 100_000):
        between = b"http://hostile.example.org/%d" % len(header)
        records += [page(b"http://a.org/head", _html(b"head"), header.strip()), page(between, _html(between))]
        rows += [(b"", "broken_record"), (between, DOCUMENT)]
    (folder / "pages.warc.gz").write_bytes(b"".join(gzip.compress(record, mtime=0) for record in records))
    first, second, third = (page(b"http://%s.org/" % name, _html(name * 9)) for name in (b"one", b"two", b"three"))
    lengths = [(b"-5", "negative"), (b"9" * 30, "giant"), (b"many", "word")]
    damaged = gzip.compress(second, mtime=0)
    middle = gzip.compress(first, mtime=0) + damaged[:40] + b"corrupt" + damaged[47:] + gzip.compress(third, mtime=0)
    tail = b"".join(gzip.compress(record, mtime=0) for record in (first, second))
    one, three = (b"http://one.org/", DOCUMENT), (b"http://three.org/", DOCUMENT)
    (folder / "middle.warc.gz").write_bytes(middle)
    (folder / "tail.warc.gz").write_bytes(tail[:-20])
    (folder / "plain.warc").write_bytes(first + b"garbage\0\xff" * 500 + third)
    (folder / "zeros.warc.gz").write_bytes(gzip.compress(first + page(b"http://zeros.org/", bytes(64 << 20)), mtime=0))
    (folder / "empty.warc.gz").write_bytes(b"")
    (folder / "noise.warc.gz").write_bytes(noise(5000))
    expected: Expected = {
        "pages.warc.gz": rows,
        "middle.warc.gz": [one, (b"", "broken_record"), three],
        "tail.warc.gz": [one, (b"http://two.org/", "truncated")],
        "plain.warc": [one, (b"", "broken_record"), three],
        "zeros.warc.gz": [one, (b"", "ratio")],
        "empty.warc.gz": [],
        "noise.warc.gz": [(b"", "unsupported")],
    }
    for length, name in lengths:
        forged = page(b"http://forged.org/", _html(b"forged"), length=length)
        (folder / f"{name}.warc").write_bytes(first + forged + third)
        expected[f"{name}.warc"] = [one, (b"http://forged.org/", "status"), (b"", "broken_record"), three]
    return expected


def _html(text: bytes) -> bytes:
    return b"<html><body><p>A page of " + text + b" with the words to be kept</p></body></html>"


def pages() -> dict[bytes, tuple[Any, ...]]:
    """By name: body, HTTP headers, and outcome."""
    html, count = b"Content-Type: text/html", 100_000
    zipped = html + b"\r\nContent-Encoding: gzip"
    attributes = b" ".join(b"a%d=%d" % (i, i) for i in range(50_000))
    formatting = b"".join(b"<b id=%d>" % i for i in range(20_000)) + b"<p>text" * 20_000
    bodies = {
        b"nested": b"<div>" * count + b"the text in the depth",
        b"attributes": b"<p " + attributes + b">the text behind attributes",
        b"formatting": formatting,
        b"surrogates": b"<p>lone &#xD800; and &#55296; and \xed\xa0\x80 and &#0; and &#x110000; surrogates</p>" * 20,
        b"late_nul": _html(b"nul") * 200 + b"<pre>\0007\0 a\0</pre>",
        b"line": b"<p>" + b"".join(b"word%d of one line " % i for i in range(300_000)),
        b"pre": b"<pre>" + b"".join(b"code%d of one line " % i for i in range(100_000)) + b"</pre>",
        b"pres": b"<pre><code>x = 1" * 20_000,
        b"tables": b"<table><tr><td>cell" * 20_000,
        b"spans": b"<table>" + b"<tr><td colspan=1000 rowspan=65534>x" * 20_000,
        b"lists": b"<ul><li>item" * 20_000,
        b"forms": b"<form><p>text" * 20_000,
        b"entities": b"&" * 500_000 + b"&amp" * count,
        b"angles": b"<" * 1_000_000,
        b"comment": b"<!--" * count + b"--><p>the text behind a comment",
        b"formulas": b"<span class=katex><math>" * 5000 + b"application/x-tex math/tex",
        b"tokens": ("<p>" + " the ".join(SPECIALS) + "</p>").replace("<｜", "&lt;｜").encode() * 20,
    }
    made: dict[bytes, tuple[Any, ...]] = {name: (body, html, DOCUMENT) for name, body in bodies.items()}
    made[b"nul"] = (b"<p>\0</p>", html, "binary")
    made[b"empty"] = (b"", html, "empty")
    made[b"script"] = (b"<script>" * count, html, "empty")
    made[b"bomb"] = (gzip.compress(bytes(32 << 20), mtime=0), zipped, "too_large")
    made[b"gzip"] = (gzip.compress(_html(b"gzip"), mtime=0)[:-20], zipped, "truncated")
    made[b"plain"] = (_html(b"no gzip"), zipped, DOCUMENT)
    made[b"large"] = (b"a" * 8_100_000, html, "too_large")
    made[b"type"] = (_html(b"type"), b"Content-Type: text/" + b"t" * 5000, "content_type")
    made[b"charset"] = (_html(b"charset"), html + b'; charset="\xff\0' + b"x" * 5000 + b'"', DOCUMENT)
    made[b"chunks"] = (b"fffffff\r\n" + _html(b"chunks"), html + b"\r\nTransfer-Encoding: chunked", DOCUMENT)
    made[b"headers"] = (_html(b"headers"), html + b"\r\nX: y" * 500, DOCUMENT)
    return made


def tables(folder: Path) -> Expected:
    """Tables: lines that are no rows, rows that are no text, and files cut short."""
    lines = [
        (b'{"text": "fine", "url": "http://a.org/"}', (b"http://a.org/", DOCUMENT)),
        (b'{"text": "bad', (b"", "broken_record")),
        (b'{"text": "\\ud800"}', (b"", "undecodable")),
        (b'{"text": "a", "url": "http://\\udfff/"}', (b"", "undecodable")),
        (b'{"url": "http://b.org/"}', (b"http://b.org/", "broken_record")),
        (b'{"text": 5}', (b"", "broken_record")),
        (b'{"text": ["a"], "url": {"a": [1]}}', (b'{"a": [1]}', "broken_record")),
        (b'{"text": null, "url": null}', (b"", "broken_record")),
        (b"[1, 2]", (b"", "broken_record")),
        (b'"text"', (b"", "broken_record")),
        (b"\xff\xfe", (b"", "broken_record")),
        (b'{"text": "\xff"}', (b"", "undecodable")),
        (b"[" * 100_000, (b"", "broken_record")),
        (b'{"text": ' + b"9" * 5000 + b"}", (b"", "broken_record")),
        (b'{"text": "n", "url": NaN}', (b"NaN", DOCUMENT)),
        (b'{"text": "", "url": "http://c.org/"}', (b"http://c.org/", DOCUMENT)),
        (b'{"text": "\\u0000 nul", "url": "http://d.org/"}', (b"http://d.org/", "binary")),
        (b'{"text": "u", "url": "' + b"u" * 5000 + b'"}', (b"", "path_length")),
        (b'{"text": "' + b"t" * 1_500_000 + b'", "url": "http://e.org/"}', (b"http://e.org/", "too_large")),
        (b'{"text": "' + b"t" * LONG_LINE + b'"}', (b"", "too_large")),
        (json.dumps({"text": " ".join(SPECIALS), "url": "http://f.org/"}).encode(), (b"http://f.org/", DOCUMENT)),
    ]
    (folder / "lines.jsonl").write_bytes(b"\n".join(line for line, _ in lines) + b"\n")
    rows = [(path or b"row/%09d" % number, outcome) for number, (_, (path, outcome)) in enumerate(lines)]
    table = pa.table({"text": ["fine too", None, "\0"], "url": ["http://g.org/", "http://h.org/", "http://i.org/"]})
    out = io.BytesIO()
    pq.write_table(table, out)
    whole = out.getvalue()
    cut = zstandard.compress(b'{"text": "cut ' + noise(300_000, 97, 26) + b'"}\n{"text": "b"}\n')
    made: dict[str, tuple[bytes, list[tuple[bytes, str]]]] = {
        "whole.parquet": (
            whole,
            [(b"http://g.org/", DOCUMENT), (b"http://h.org/", "broken_record"), (b"http://i.org/", "binary")],
        ),
        "cut.parquet": (whole[:-20], [(b"row/000000000", "broken_container")]),
        "footer.parquet": (whole[:-8] + b"\xff\xff\xff\x7fPAR1", [(b"row/000000000", "broken_container")]),
        "zeros.jsonl.gz": (gzip.compress(bytes(64 << 20), mtime=0), [(b"row/000000000", "ratio")]),
        "cut.jsonl.zst": (cut[: len(cut) // 2], [(b"row/000000000", "truncated")]),
        "empty.jsonl": (b"", []),
        "newlines.jsonl": (b"\n" * 100_000, []),
        "noise.jsonl": (b"\x1f\x8b" + noise(5000), [(b"row/000000000", "broken_container")]),
    }
    return {"lines.jsonl": rows} | _write(folder, made)
