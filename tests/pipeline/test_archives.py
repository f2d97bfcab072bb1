import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.archives import origin_of, read_archive, version_of
from pipeline.found import Found, Limits
from tests.inputs import package

NAME = "thing-1.0.tar.gz"
LIMITS = Limits()


def read(data: bytes, name: str = NAME, limits: Limits = LIMITS) -> list[Found]:
    return list(read_archive(io.BytesIO(data), name, limits))


def reasons(data: bytes, name: str = NAME, limits: Limits = LIMITS) -> dict[bytes, str | None]:
    return {found.path: found.reason for found in read(data, name, limits)}


def tar(members: Iterable[tuple[str, bytes]] = (), extra: Iterable[tarfile.TarInfo] = (), form: int = 2) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return out.getvalue()


def zipped(members: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data, compress_type=method)
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


TWO = [("thing-1.0/a.py", b"a = 1\n"), ("thing-1.0/d/b.py", b"b = 2\n" * 500)]


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["tar", "gz", "bz2", "xz", "zst"],
)
def test_a_tar_is_read_whatever_it_is_packed_with_and_whatever_it_is_called(pack):
    found = read(pack(tar(TWO)), "thing-1.0.bin")
    assert [(f.path, f.raw) for f in found] == [(b"thing-1.0/a.py", TWO[0][1]), (b"thing-1.0/d/b.py", TWO[1][1])]
    assert all(f.size == len(f.raw) and f.reason is None for f in found)


@pytest.mark.parametrize("pinned", [("sympy", "1.14.0"), ("click", "8.1.7"), ("swig", "4.5.1")])
def test_a_real_wheel_gives_what_zipfile_gives(pinned):
    path = package(*pinned)
    found = list(read_archive(path.open("rb"), path.name, LIMITS))
    with zipfile.ZipFile(path) as archive:
        expected = [(i.filename.encode(), archive.read(i)) for i in archive.infolist() if not i.is_dir()]
    assert [f.path for f in found] == [name for name, _ in expected]
    assert [f.size for f in found] == [len(data) for _, data in expected]
    assert all(f.raw == data for f, (_, data) in zip(found, expected, strict=True) if f.size <= LIMITS.max_file_bytes)
    assert all(f.reason == "too_large" for f in found if f.raw is None)


def test_a_real_sdist_gives_what_tarfile_gives_without_the_directory_of_the_release():
    path = package("jupytext", "1.19.6")
    found = list(read_archive(path.open("rb"), path.name, LIMITS))
    with tarfile.open(path) as archive:
        files = [m for m in archive if m.isfile()]
        expected = [(m.name.removeprefix("jupytext-1.19.6/").encode(), archive.extractfile(m).read()) for m in files]
    assert [(f.path, f.raw) for f in found if f.raw is not None] == [
        (name, data) for name, data in expected if len(data) <= LIMITS.max_file_bytes
    ]
    assert Counter(f.reason for f in found)["too_large"] == sum(len(d) > LIMITS.max_file_bytes for _, d in expected)


def test_a_locator_leads_back_to_the_bytes_of_a_tar_member():
    plain = tar(TWO)
    for found, (member, data) in zip(read(gzip.compress(plain)), TWO, strict=True):
        place = found.locator.removeprefix(f"{NAME}!{member}@")
        offset, size = map(int, place.split("+"))
        assert plain[offset : offset + size] == data


def test_the_directory_that_repeats_the_release_goes_and_others_stay():
    assert [f.path for f in read(gzip.compress(tar(TWO)))] == [b"a.py", b"d/b.py"]
    npm = tar([("package/index.js", b"x"), ("other/y.js", b"y")])
    assert [f.path for f in read(gzip.compress(npm), "express-4.18.2.tgz")] == [b"index.js", b"other/y.js"]
    assert [f.path for f in read(tar([("./usr/a", b"x"), ("package/b", b"y")]), "x.tar")] == [b"usr/a", b"package/b"]


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "numpy-2.1.0"),
        ("numpy-2.1.0.tar.gz", "numpy-2.1.0"),
        ("https://example.org/some/numpy-2.1.0.tar.gz", "numpy-2.1.0"),
        ("typing_extensions-4.12.2-py3-none-any.whl", "typing-extensions-4.12.2"),
        ("typing-extensions-4.12.2.tar.gz", "typing-extensions-4.12.2"),
        ("ruamel.yaml-0.18.6.tar.gz", "ruamel-yaml-0.18.6"),
        ("foo-1.0-1build-py3-none-any.whl", "foo-1.0"),
        ("pytz-2024.1.zip", "pytz-2024.1"),
        ("h5-2d-1.0rc1.tar.gz", "h5-2d-1.0rc1"),
        ("express-4.18.2.tgz", "express-4.18.2"),
        ("react-18.0.0-rc.1.tgz", "react-18.0.0-rc.1"),
        ("socket.io-4.7.0.tgz", "socket.io-4.7.0"),
        ("bash_5.2.15-2%2bb7_amd64.deb", "bash-5.2.15-2+b7"),
        ("corpus.zip", "corpus"),
        ("serde-1.0.200.crate", "serde-1.0.200"),
    ],
)
def test_the_origin_is_the_release_whatever_the_kind_of_file(name, origin):
    assert origin_of(name) == origin


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "2.1.0"),
        ("https://example.org/some/numpy-2.1.0.tar.gz", "2.1.0"),
        ("foo-1.0-1build-py3-none-any.whl", "1.0"),
        ("react-18.0.0-rc.1.tgz", "18.0.0-rc.1"),
        ("bash_5.2.15-2%2bb7_amd64.deb", "5.2.15-2+b7"),
        ("python3-six_3-4_all.deb", "3-4"),
        ("tool-v2.0.zip", "v2.0"),
        ("corpus.zip", ""),
        ("", ""),
    ],
)
def test_the_revision_is_the_version_in_the_name_of_the_release(name, version):
    assert version_of(name) == version
    assert {found.revision for found in read(tar(TWO), name)} == {version}


@given(
    st.from_regex(r"[a-z]{1,9}(-[a-z]{1,9})?", fullmatch=True),
    st.from_regex(r"\d{1,3}(\.\d{1,3}){1,3}", fullmatch=True),
)
def test_an_origin_tells_the_version_of_its_release(package, version):
    for name in (f"{package}-{version}.tar.gz", f"{package}-{version}.tgz", f"{package}-{version}.zip"):
        assert version_of(name) == version == version_of(origin_of(name))


def test_links_and_special_files_are_rejects_and_directories_are_no_rows():
    kinds = [
        special("s", tarfile.SYMTYPE, "/etc/passwd"),
        special("h", tarfile.LNKTYPE, "s"),
        special("f", tarfile.FIFOTYPE),
        special("c", tarfile.CHRTYPE),
        special("d", tarfile.DIRTYPE),
    ]
    assert reasons(tar(extra=kinds)) == {b"s": "link", b"h": "link", b"f": "special_file", b"c": "special_file"}
    link = zipfile.ZipInfo("s")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    assert reasons(zipped([(link, b"/etc/passwd"), ("d/", b""), ("a", b"x")])) == {b"s": "link", b"a": None}


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "\\\\host\\x", "C:\\x", "C:/x", "a/.."]
)
def test_a_path_that_leaves_the_container_is_refused_in_tar_and_zip(path):
    info = zipfile.ZipInfo("x")
    info.filename = path
    for data in (tar([(path, b"x")]), zipped([(info, b"x")])):
        (found,) = read(data)
        assert (found.reason, found.raw) == ("path_traversal", None)


@pytest.mark.parametrize("path", ["..a/b", "a/b..", "...", "a/C:x", "a:b"])
def test_a_path_with_dots_that_stays_inside_is_kept(path):
    assert [f.reason for f in read(tar([(path, b"x")]))] == [None]


def test_a_path_of_exactly_the_limit_is_kept_and_one_byte_more_is_not():
    limits = Limits(max_path_bytes=300)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar([("a" * 300, b"x"), ("b" * 301, b"x")], form=form)
        assert [f.reason for f in read(data, limits=limits)] == [None, "path_length"]


def test_a_file_of_exactly_the_limit_is_kept_and_one_byte_more_is_not_and_what_follows_is_read():
    limits = Limits(max_file_bytes=1000)
    members = [("a", b"x" * 1000), ("b", b"x" * 1001), ("c", b"x")]
    for data in (tar(members), gzip.compress(tar(members)), zipped(members)):
        assert [(f.size, f.reason) for f in read(data, limits=limits)] == [(1000, None), (1001, "too_large"), (1, None)]


def test_names_that_are_not_utf8_stay_bytes():
    name = b"caf\xe9.py"
    (found,) = read(tar([(name.decode("utf-8", "surrogateescape"), b"x")]))
    assert found.path == name
    found.locator.encode()
    data = zipped([("caf_.py", b"x")]).replace(b"caf_.py", name)
    (found,) = read(data)
    assert (found.path, found.raw) == (name, b"x")


@given(st.text(alphabet=st.characters(exclude_characters="\0/\\", exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_any_name_goes_through_gnu_and_pax_headers(name):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        found = read(tar([("x/" + name, b"body"), ("y", b"z")], form=form))
        assert [f.path for f in found if f.reason is None][-1] == b"y"
        assert found[0].path == b"x/" + name.encode() or found[0].reason == "path_traversal"


def test_a_member_that_occurs_twice_is_offered_twice():
    twice = [("a", b"1"), ("a", b"2")]
    assert [f.raw for f in read(tar(twice))] == [b"1", b"2"]
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(twice)
    assert [f.raw for f in read(data)] == [b"1", b"2"]


def test_a_git_lfs_pointer_is_a_reject_below_1024_bytes_only():
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 1\n" % 0
    members = [("p", pointer), ("q", pointer.ljust(1023, b"\n")), ("r", pointer.ljust(1024, b"\n"))]
    for data in (tar(members), zipped(members)):
        assert [f.reason for f in read(data)] == ["lfs_pointer", "lfs_pointer", None]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_a_bomb_ends_in_one_reject_in_little_memory(pack):
    data = pack(tar([("small", b"x"), ("zeros", bytes(64 << 20))]))
    tracemalloc.start()
    found = read(data, limits=Limits(max_ratio=100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [f.reason for f in found] == [None, "too_large", "ratio"][: len(found)]
    assert found[-1].reason == "ratio"
    assert peak < 32 << 20


def test_a_bomb_of_many_small_zip_members_ends_in_one_reject():
    found = read(zipped([(f"{i}", bytes(1 << 20)) for i in range(40)]))
    assert [f.reason for f in found] == [None] * (len(found) - 1) + ["ratio"]
    assert len(found) == 17


def test_zeros_below_the_floor_of_the_ratio_are_no_bomb():
    assert [f.reason for f in read(gzip.compress(tar([("zeros", bytes(1 << 20))])))] == [None]


def test_a_unit_stops_at_its_bytes_and_at_its_files():
    members = [(f"{i}", b"x" * 1000) for i in range(9)]
    for data in (tar(members), zipped(members)):
        found = read(data, limits=Limits(max_unit_files=5))
        assert [f.reason for f in found] == [None] * 5 + ["unit_files"]
        assert found[-1].path == b"5"
    found = read(zipped(members), limits=Limits(max_unit_bytes=3000))
    assert [f.reason for f in found] == [None] * 3 + ["unit_bytes"]
    assert read(tar([("a", bytes(3 << 18))]), limits=Limits(max_unit_bytes=1 << 19))[-1].reason == "unit_bytes"


def test_what_is_no_archive_is_one_unsupported():
    for data in (b"", b"print(1)\n", b"x" * 5000, gzip.compress(b"x" * 5000), gzip.compress(b""), b"!<arch>\nnothing"):
        (found,) = read(data, "x.tar.gz")
        assert (found.reason, found.path) in {("unsupported", b""), ("truncated", b"")}
    library = b"!<arch>\n" + b"a.o/".ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + b"2".ljust(10)
    assert [f.reason for f in read(library + b"`\nxx", "liba.a")] == ["unsupported"]


def test_a_zip_that_can_not_seek_is_unsupported():
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    assert [f.reason for f in read_archive(Pipe(zipped([("a", b"x")])), "x.zip", LIMITS)] == ["unsupported"]
    assert [f.reason for f in read_archive(Pipe(tar([("a", b"x")])), "x.tar", LIMITS)] == [None]


def test_empty_archives_offer_nothing():
    assert read(tar()) == []
    assert read(zipped([])) == []


def deb(data: bytes, member: str = "data.tar.xz") -> bytes:
    def part(name: str, body: bytes) -> bytes:
        head = name.ljust(16) + "0".ljust(12) + "0".ljust(6) * 2 + "100644".ljust(8) + str(len(body)).ljust(10) + "`\n"
        return head.encode() + body + b"\n" * (len(body) % 2)

    return b"!<arch>\n" + part("debian-binary", b"2.0\n") + part("control.tar.gz", b"odd") + part(member, data)


def test_the_data_of_a_deb_is_read_and_its_control_is_not():
    inner = tar([("./usr/share/doc/x/a.txt", b"text")])
    for pack, member in ((lzma.compress, "data.tar.xz"), (zstandard.compress, "data.tar.zst"), (bytes, "data.tar")):
        (found,) = read(deb(pack(inner), member), "x_1.0-2_all.deb")
        assert (found.origin, found.path, found.raw) == ("x-1.0-2", b"usr/share/doc/x/a.txt", b"text")
    assert [f.reason for f in read(deb(lzma.compress(inner))[:-30], "x_1_all.deb")][-1] == "truncated"


def test_a_forged_size_in_a_tar_never_reads_past_the_end():
    data = bytearray(tar([("a", b"x" * 100), ("b", b"y")]))
    data[124:136] = b"%011o\0" % (900 << 10)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    assert [f.reason for f in read(bytes(data))] == ["truncated"]


def test_a_broken_header_ends_a_tar_with_a_reject_after_what_came_before():
    data = bytearray(tar([("a", b"x"), ("b", b"y"), ("c", b"z")]))
    data[1024 + 150] ^= 0xFF
    assert [f.reason for f in read(bytes(data))] == [None, "broken_container"]


@pytest.mark.parametrize(
    "record", [b"garbage", b"99999 path=x\n", b"7 a=b\n", b"0 path=x\n", b"14 size=-1234\n", b"999999999999 a=b\n"]
)
def test_a_broken_pax_record_ends_a_tar_with_a_reject(record):
    head = special("pax", tarfile.XHDTYPE)
    head.size = len(record)
    data = head.tobuf() + record.ljust(512, b"\0") + tar([("a", b"x")])
    found = read(tar([("before", b"1")])[:1024] + data)
    assert [f.reason for f in found] == [None, "broken_container"]


def test_a_pax_header_of_gigabytes_is_not_read():
    head = special("pax", tarfile.XHDTYPE)
    head.size = 4 << 30
    assert [f.reason for f in read(head.tobuf() + bytes(1 << 20))] == ["broken_container"]


def test_sparse_files_are_unsupported_and_what_follows_is_read():
    head = special("sparse", tarfile.GNUTYPE_SPARSE)
    head.size = 512
    header = bytearray(head.tobuf())
    header[482] = 1
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    data = bytes(header) + bytes(512) + b"x" * 512 + tar([("a", b"x")])
    assert reasons(data) == {b"sparse": "unsupported", b"a": None}
    info = tarfile.TarInfo("s")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "real", "GNU.sparse.realsize": "1"}
    assert reasons(tar(extra=[info], form=tarfile.PAX_FORMAT)) == {b"real": "unsupported"}


def test_damage_inside_gzip_is_found_even_behind_the_last_member():
    whole = gzip.compress(tar([("a", random.Random(1).randbytes(400_000)), ("b", b"x")]))
    broken = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    assert [f.reason for f in read(broken)] == ["broken_container"]
    assert read(broken)[0].path == b"a"


def test_gzip_members_in_a_row_are_one_stream_and_garbage_behind_is_ignored():
    plain = tar(TWO)
    data = gzip.compress(plain[:700]) + gzip.compress(plain[700:]) + b"\0\0garbage"
    assert [f.reason for f in read(data)] == [None, None]


def test_a_wrong_crc_and_a_wrong_size_are_broken_records_and_the_rest_of_the_zip_is_read():
    data = zipped([("a", b"one"), ("b", b"two")], zipfile.ZIP_STORED)
    assert reasons(data.replace(b"one", b"One")) == {b"a": "broken_record", b"b": None}
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))
    for forged, reason in ((2, "broken_record"), (9, "truncated")):
        size = data[: at + 24] + struct.pack("<I", forged) + data[at + 28 :]
        assert reasons(size) == {b"a": reason, b"b": None}


def test_encrypted_and_unknown_methods_are_rejects():
    data = zipped([("a", b"one")], zipfile.ZIP_STORED)
    at = data.rindex(b"PK\x01\x02")
    assert reasons(data[: at + 8] + b"\x01\x00" + data[at + 10 :]) == {b"a": "encrypted"}
    assert reasons(data[: at + 10] + b"\x63\x00" + data[at + 12 :]) == {b"a": "unsupported"}
    assert reasons(zipped([("a", b"one" * 50)], zipfile.ZIP_BZIP2)) == {b"a": None}
    assert reasons(zipped([("a", b"one" * 50)], zipfile.ZIP_LZMA)) == {b"a": "unsupported"}


def test_overlapping_zip_entries_are_broken_records():
    body = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = body.compress(bytes(1000)) + body.flush()
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, zlib.crc32(bytes(1000)), len(packed), 1000, 1, 0)
    lines = [
        struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, zlib.crc32(bytes(1000)), len(packed), 1000, 1, *[0] * 6
        )
        + name
        for name in (b"a", b"b")
    ]
    start = len(local) + 1 + len(packed)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, sum(map(len, lines)), start, 0)
    assert reasons(local + b"a" + packed + b"".join(lines) + end) == {b"a": "broken_record", b"b": "broken_record"}


def test_zip64_and_bytes_before_the_archive_are_understood():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"x" * 10)
    data = out.getvalue()
    assert reasons(data) == {b"a": None}
    at = data.rindex(b"PK\x05\x06")
    size, offset = struct.unpack_from("<II", data, at + 12)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert reasons(data[:at] + end64 + locator + last) == {b"a": None}


SMALL_TAR = gzip.compress(tar([("a", b"alpha" * 30), ("b", bytes(range(256)) * 9), ("c", b"gamma")]), mtime=0)
SMALL_ZIP = zipped([("a", b"alpha" * 30), ("b", bytes(range(256)) * 9), ("c", b"gamma")])


@pytest.mark.parametrize("cut", range(len(SMALL_TAR)))
def test_a_tar_gz_cut_anywhere_gives_what_came_before_the_cut_and_one_reject(cut):
    whole, part = read(SMALL_TAR), read(SMALL_TAR[:cut])
    assert part[:-1] == whole[: len(part) - 1]
    assert part[-1].reason in {"truncated", "unsupported"}
    assert part[-1].raw is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([SMALL_TAR, SMALL_ZIP, gzip.decompress(SMALL_TAR)]), st.data())
def test_damage_anywhere_never_raises(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    for found in read(bytes(damaged)) + read(bytes(damaged[:cut])):
        assert found.reason or found.raw is not None
        assert found.raw is None or len(found.raw) == found.size


def test_a_fault_of_the_machine_is_no_row():
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 60:
                raise OSError(5, "Input/output error")
            return super().read(min(size or 0, 20))

    for data in (SMALL_TAR, gzip.decompress(SMALL_TAR), bz2.compress(SMALL_TAR)):
        with pytest.raises(OSError, match="Input/output error"):
            list(read_archive(Failing(data), NAME, LIMITS))


WILD = (2**64 - 1, 2**63 - 1, 2**63 - 60, 1 << 40)


@pytest.mark.parametrize("start", WILD)
def test_a_zip_entry_far_behind_the_end_is_a_broken_record(start, tmp_path):
    data = b"x = 1\n"
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, zlib.crc32(data), 6, 6, 4, 0) + b"a.py" + data
    extra = struct.pack("<HHQ", 1, 8, start)
    fields = (20, 20, 0, 0, 0, 0, zlib.crc32(data), 6, 6, 4, len(extra), 0, 0, 0, 0, 2**32 - 1)
    directory = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fields) + b"a.py" + extra
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(local), 0)
    (tmp_path / "z.zip").write_bytes(local + directory + end)
    with (tmp_path / "z.zip").open("rb") as stream:
        assert [found.reason for found in read_archive(stream, "z.zip", Limits())] == ["broken_record"]


@pytest.mark.parametrize("at", WILD)
def test_a_zip64_end_far_behind_the_end_is_a_broken_container(at, tmp_path):
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    (tmp_path / "z.zip").write_bytes(b"PK\x03\x04" + bytes(40) + locator + end)
    with (tmp_path / "z.zip").open("rb") as stream:
        assert [found.reason for found in read_archive(stream, "z.zip", Limits())] == ["broken_container"]
