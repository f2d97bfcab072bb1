"""Hostile input of every kind of source, made from nothing, and what a build has to say of each item.

``make`` lays a site out and gives the manifest and the expectations: of every offered row its source, container, path
and outcome, a reason or :data:`DOCUMENT`. Nothing here is random: noise is SHAKE-256 of a constant.
"""

import gzip
import io
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.hostile_archives import LONG_LINE, Expected, files, long_line, tars, write, zips
from tests.hostile_texts import BOS, DOCUMENT, EOS, OK, SENTINELS, SPECIALS, html_page, noise, pages

__all__ = ["BOS", "DOCUMENT", "EOS", "SENTINELS", "SPECIALS", "Row", "make"]


class Row(NamedTuple):
    """One offered row and its outcome; ``container`` is the file or the repository's origin that it comes from."""

    source: str
    container: str
    path: bytes
    outcome: str


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
    origins = [f"root:{_git(place, 'rev-parse', 'main')[:16]}" for place in (good, broken)]
    return {
        origins[0]: [
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
        origins[1]: [(b"a.py", DOCUMENT), (b"", "missing_object")],
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
    records += [page(url, html_page(b"odd " + url)) for url in odd]
    records.append(page(b"http://a.org/date", html_page(b"date"), more=b"WARC-Date: \xff\xfe\xed\xa0\x80\r\n"))
    rows += [*odd.items(), (b"http://a.org/date", DOCUMENT)]
    for header in (b"X: y\r\n" * 20_000, b"Content-Type: " + b"t" * 100_000):
        between = b"http://hostile.example.org/%d" % len(header)
        records += [page(b"http://a.org/head", html_page(b"head"), header.strip()), page(between, html_page(between))]
        rows += [(b"", "broken_record"), (between, DOCUMENT)]
    (folder / "pages.warc.gz").write_bytes(b"".join(gzip.compress(record, mtime=0) for record in records))
    first, second, third = (page(b"http://%s.org/" % name, html_page(name * 9)) for name in (b"one", b"two", b"three"))
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
        forged = page(b"http://forged.org/", html_page(b"forged"), length=length)
        (folder / f"{name}.warc").write_bytes(first + forged + third)
        expected[f"{name}.warc"] = [one, (b"http://forged.org/", "status"), (b"", "broken_record"), three]
    return expected


def page(
    url: bytes, body: bytes, http: bytes = b"Content-Type: text/html", length: bytes = b"", more: bytes = b""
) -> bytes:
    """A response record; ``length`` forges its Content-Length, ``more`` are further WARC headers."""
    content = b"HTTP/1.1 200 OK\r\n" + http + b"\r\n\r\n" + body
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: " + url + b"\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    head += b"Content-Type: application/http; msgtype=response\r\n" + more
    return head + b"Content-Length: " + (length or b"%d" % len(content)) + b"\r\n\r\n" + content + b"\r\n\r\n"


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
    rows = [row for _, row in lines]
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
        "cut.parquet": (whole[:-20], [(b"", "broken_container")]),
        "footer.parquet": (whole[:-8] + b"\xff\xff\xff\x7fPAR1", [(b"", "broken_container")]),
        "zeros.jsonl.gz": (gzip.compress(bytes(64 << 20), mtime=0), [(b"", "ratio")]),
        "cut.jsonl.zst": (cut[: len(cut) // 2], [(b"", "truncated")]),
        "empty.jsonl": (b"", []),
        "newlines.jsonl": (b"\n" * 100_000, []),
        "noise.jsonl": (b"\x1f\x8b" + noise(5000), [(b"", "broken_container")]),
    }
    return {"lines.jsonl": rows} | write(folder, made)
