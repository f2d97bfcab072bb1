import gzip
import io
import random
import zlib
from collections import Counter

import pytest
import zstandard
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.demo_inputs import warc_record
from pipeline.common_crawl import read_warc, registered_domain
from pipeline.found import Found, Limits
from tests.inputs import small_inputs

NAME = "x.warc"
LIMITS = Limits(max_file_bytes=100_000)
PACK = {
    "raw": bytes,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def record(
    url: bytes = b"https://docs.python.org/3/",
    body: bytes = b"<p>page</p>",
    status: str = "200 OK",
    http: str = "Content-Type: text/html; charset=ISO-8859-2\r\n",
    kind: str = "response",
    length: int | None = None,
    warc: str = "",
) -> bytes:
    content = f"HTTP/1.1 {status}\r\n{http}\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2023-10-31T01:02:03Z\r\nWARC-Record-ID: <urn:uuid:1>\r\n{warc}"
    head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {length or len(content)}\r\n"
    return head.encode() + b"WARC-Target-URI: " + url + b"\r\n\r\n" + content + b"\r\n\r\n"


def read(data: bytes, limits: Limits = LIMITS) -> list[Found]:
    return list(read_warc(io.BytesIO(data), NAME, limits))


def one(limits: Limits = LIMITS, **what: object) -> Found:
    (found,) = read(gzip.compress(record(**what)), limits)  # type: ignore[arg-type]
    return found


def pages(count: int) -> list[bytes]:
    bodies = [b"<p>" + random.Random(i).randbytes(2000).hex().encode() for i in range(count)]
    return [record(b"https://example.org/%d" % i, body) for i, body in enumerate(bodies)]


@pytest.mark.parametrize("kind", PACK)
def test_a_page_has_its_url_domain_date_charset_and_place(kind):
    packed = [PACK[kind](r) for r in (record(), record(kind="request"), record(b"http://[::1]:8/x", b"two"))]
    first, second = read(b"".join(packed))
    assert (first.path, first.origin) == (b"https://docs.python.org/3/", "python.org")
    assert (first.revision, first.charset, first.reason) == ("2023-10-31T01:02:03Z", "iso-8859-2", None)
    assert (first.raw, first.size) == (b"<p>page</p>", 11)
    assert first.locator == f"{NAME}@0+{len(packed[0])}"
    start = len(packed[0]) + len(packed[1])
    assert (second.origin, second.locator) == ("::1", f"{NAME}@{start}+{len(packed[2])}")


def test_real_pages_are_what_fastwarc_reads_and_each_locator_is_a_record_of_its_own():
    path = small_inputs() / "pages" / "pages.warc.gz"
    data = path.read_bytes()
    found = read(data)
    expected = [(r.headers.get_bytes(b"WARC-Target-URI"), r.reader.read()) for r in ArchiveIterator(io.BytesIO(data))]
    assert [(f.path, f.raw) for f in found] == expected
    assert len(found) == 60
    for page in found:
        offset, length = map(int, page.locator.rsplit("@", 1)[1].split("+"))
        (again,) = read(data[offset : offset + length])
        assert (again.path, again.raw) == (page.path, page.raw)


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        (b"https://docs.python.org/3/", "python.org"),
        (b"HTTP://WWW.BBC.CO.UK:80/news?x@y", "bbc.co.uk"),
        (b"https://someone.github.io/x", "someone.github.io"),
        (b"https://github.io/", "github.io"),
        (b"http://user:pw@a.b.example.com", "example.com"),
        (b"http://127.0.0.1:8080/x", "127.0.0.1"),
        (b"http://[2001:DB8::1]/x", "2001:db8::1"),
        (b"http://localhost/x", "localhost"),
        (b"http://example.com./x", "example.com"),
        ("http://bücher.example/x".encode(), "bücher.example"),
        (b"not a url", ""),
        (b"http:///x", ""),
        (b"http://[broken/x", ""),
    ],
)
def test_the_origin_of_a_page_is_its_registered_domain(url, domain):
    assert registered_domain(url) == domain


@given(st.binary(max_size=60))
def test_any_bytes_as_a_url_have_some_origin(url):
    assert isinstance(registered_domain(b"http://" + url), str)
    registered_domain(url)


def test_other_statuses_and_types_are_rejects():
    assert one(status="404 Not Found").reason == "status"
    assert one(status="301 Moved").reason == "status"
    assert one(http="Content-Type: application/pdf\r\n").reason == "content_type"
    assert one(http="").reason == "content_type"
    assert one(http="Content-Type: TEXT/HTML\r\n").reason is None
    assert one(http="Content-Type: application/xhtml+xml\r\n").reason is None
    assert one(warc="WARC-Truncated: length\r\n").reason == "truncated"


def test_urls_stay_bytes_without_the_brackets_of_wget():
    assert one(url=b"<https://example.org/\xff>").path == b"https://example.org/\xff"
    assert one(url=b"http://e.org/" + b"x" * 5000).reason == "path_length"
    assert one(url=b"").reason == "broken_record"


def test_a_page_of_exactly_the_limit_is_kept_and_one_byte_more_is_not():
    assert one(Limits(max_file_bytes=5), body=b"12345").raw == b"12345"
    assert (one(Limits(max_file_bytes=5), body=b"123456").reason) == "too_large"


def deflate(data: bytes, bits: int) -> bytes:
    packer = zlib.compressobj(wbits=bits)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: deflate(data, -15)),
        ("zstd", zstandard.compress),
        ("identity", bytes),
        ("gzip", bytes),
        ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_content_and_transfer_codings_are_undone(coding, pack, chunked):
    page = b"<p>coded</p>" * 100
    body = pack(page)
    http = f"Content-Type: text/html\r\nContent-Encoding: {coding}\r\n"
    if chunked:
        body = b"%x;ext=1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])
        http += "Transfer-Encoding: chunked\r\n"
    found = one(body=body, http=http)
    assert (found.raw, found.size) == (page, len(page))


def test_a_crawler_that_undid_the_chunks_but_kept_the_header_is_believed_by_its_bytes():
    found = one(body=b"<p>page</p>", http="Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n")
    assert found.raw == b"<p>page</p>"


def test_codings_that_bomb_are_cut_or_unknown_are_rejects():
    http = "Content-Type: text/html\r\nContent-Encoding: gzip\r\n"
    assert one(body=gzip.compress(bytes(64 << 20)), http=http).reason == "too_large"
    assert one(body=gzip.compress(bytes(1000))[:-9], http=http).reason == "truncated"
    assert one(body=gzip.compress(b"x" * 99)[:-8] + bytes(8), http=http).reason == "broken_record"
    assert one(body=b"x", http=http.replace("gzip", "br")).reason == "unsupported"


@pytest.mark.parametrize("kind", PACK)
def test_garbage_between_records_is_one_broken_record_and_all_pages_are_read(kind):
    packed = [PACK[kind](r) for r in pages(6)]
    found = read(b"".join(packed[:3]) + b"garbage" * 9 + b"".join(packed[3:]))
    assert [f.path for f in found if not f.reason] == [b"https://example.org/%d" % i for i in range(6)]
    assert Counter(f.reason for f in found) == {None: 6, "broken_record": 1}
    offset, length = map(int, found[-1].locator.rsplit("@", 1)[1].split("+"))
    assert (offset, length) == (sum(map(len, packed[:5])) + 63, len(packed[5]))


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_damaged_member_costs_that_page_and_is_counted_once(kind):
    packed = [PACK[kind](r) for r in pages(9)]
    for damaged in (2, 3, 7):
        packed[damaged] = packed[damaged][:60] + bytes(40) + packed[damaged][100:]
    found = read(b"".join(packed))
    good = [f.path for f in found if not f.reason]
    assert good == [b"https://example.org/%d" % i for i in (0, 1, 4, 5, 6, 8)]
    assert set(Counter(f.reason for f in found)) == {None, "broken_record"}
    assert 2 <= sum(f.reason == "broken_record" for f in found) <= 3


@pytest.mark.parametrize("length", [10, 999_999, -1])
@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_forged_content_length_costs_one_page(kind, length):
    packed = [PACK[kind](r) for r in [record(length=length), *pages(3)]]
    found = read(b"".join(packed))
    assert [f.path for f in found if not f.reason] == [b"https://example.org/%d" % i for i in range(3)]
    assert 1 <= sum(f.reason is not None for f in found) <= 2


def test_a_file_of_false_starts_alone_is_given_up_after_a_counted_budget():
    found = read(gzip.compress(record()) * 2 + b"\x1f\x8b\x08" * 100_000)
    assert [f.reason for f in found] == [None, None, "broken_record", "broken_container"]


def test_a_damaged_head_that_fastwarc_takes_for_the_end_of_the_file_is_counted_and_passed():
    packed = [gzip.compress(r) for r in pages(6)]
    packed[3] = packed[3][:3] + b"\xff" + packed[3][4:]
    found = read(b"".join(packed))
    assert [f.path[-1:] for f in found if not f.reason] == [b"0", b"1", b"2", b"4", b"5"]
    assert Counter(f.reason for f in found) == {None: 5, "broken_record": 1}


def test_one_gzip_member_over_the_whole_file_is_read():
    assert [f.reason for f in read(gzip.compress(b"".join(pages(5))))] == [None] * 5


def test_a_unit_stops_at_its_records_and_at_its_bytes_and_at_its_ratio():
    data = b"".join(map(gzip.compress, pages(6)))
    assert [f.reason for f in read(data, Limits(max_unit_files=4))] == [None] * 4 + ["unit_files"]
    assert [f.reason for f in read(data, Limits(max_unit_bytes=10_000))] == [None] * 2 + ["unit_bytes"]
    bomb = b"".join(gzip.compress(record(body=bytes(1 << 20))) for _ in range(40))
    found = read(bomb, Limits())
    assert [f.reason for f in found] == [None] * (len(found) - 1) + ["ratio"]
    assert len(found) < 20


def test_what_is_no_warc_or_can_not_seek_is_unsupported_and_an_empty_file_offers_nothing():
    assert [f.reason for f in read(b"<html>")] == ["unsupported"]
    assert read(b"") == []

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    assert [f.reason for f in read_warc(Pipe(gzip.compress(record())), NAME, LIMITS)] == ["unsupported"]


SMALL = [record(b"https://example.org/%d" % i, b"<p>%d</p>" % i * 9) for i in range(3)]


@pytest.mark.parametrize("kind", PACK)
def test_a_warc_cut_anywhere_gives_what_came_before_the_cut(kind):
    packed = [PACK[kind](r) for r in SMALL]
    data = b"".join(packed)
    whole = read(data)
    for cut in range(len(data)):
        part = read(data[:cut])
        complete = sum(sum(map(len, packed[: i + 1])) <= cut for i in range(3))
        assert [(f.path, f.raw) for f in part[:complete]] == [(f.path, f.raw) for f in whole[:complete]]
        for found in part[complete:]:
            assert found.reason or (kind == "raw" and found.raw == whole[complete].raw) or kind != "raw"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(PACK)), st.data())
def test_damage_anywhere_never_raises(kind, draw):
    data = bytearray(b"".join(PACK[kind](r) for r in SMALL))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    for found in read(bytes(data)):
        assert found.reason or found.raw is not None
        assert found.raw is None or len(found.raw) == found.size


def test_a_panic_inside_fastwarc_is_a_broken_record(monkeypatch):
    import fastwarc.warc

    class PanicException(BaseException):
        pass

    def panic(*_: object, **__: object) -> object:
        yield from ()
        raise PanicException("rust")

    monkeypatch.setattr(fastwarc.warc, "ArchiveIterator", panic)
    assert {f.reason for f in read(gzip.compress(record()))} == {"broken_record"}


def test_a_fault_of_the_machine_is_no_row():
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 70_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(OSError, match="Input/output error"):
        list(read_warc(Failing(b"".join(map(gzip.compress, pages(60)))), NAME, LIMITS))


def test_a_record_of_the_demo_is_the_same_bytes_every_time():
    assert warc_record("https://e.org/", b"x") == warc_record("https://e.org/", b"x")
    assert warc_record("https://e.org/", b"x") != warc_record("https://e.org/", b"y")
