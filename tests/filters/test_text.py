import codecs

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.text import ALPHABETIC, SPACE, UNSPACED, code_point_classes, decode


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not text.startswith("\0")))
def test_a_byte_order_mark_decides_and_is_removed(mark, encoding, text):
    decoded = decode(mark + text.encode(encoding), "windows-1252")
    assert (decoded.text, decoded.encoding, decoded.reason) == (text, encoding, None)


def test_only_the_first_byte_order_mark_is_removed():
    assert decode(codecs.BOM_UTF8 + "\ufeffx".encode()).text == "\ufeffx"


def test_a_byte_order_mark_before_broken_bytes_is_undecodable_and_no_other_encoding_is_tried():
    assert decode(codecs.BOM_UTF8 + b"caf\xe9", "latin1").reason == "undecodable"
    assert decode(codecs.BOM_UTF16_LE + b"\x00\xd8", "latin1").reason == "undecodable"


def test_a_nul_in_the_first_8192_bytes_is_binary_and_one_after_them_is_not():
    assert decode(b"a" * 8191 + b"\0").reason == "binary"
    assert decode(b"a" * 8192 + b"\0").text == "a" * 8192 + "\0"


def test_line_ends_are_kept():
    assert decode(b"a\r\nb\rc\n").text == "a\r\nb\rc\n"


def test_an_empty_file_is_empty_text():
    assert decode(b"").text == ""


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_utf_8_is_found_whatever_is_declared(text):
    decoded = decode(text.encode(), "shift_jis")
    assert (decoded.text, decoded.encoding) == (text, "utf-8")


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("iso-8859-1", "cp1252", "naïve “quotes”"),
        ("Shift_JIS", "cp932", "①コメント"),
        ("gb2312", "gb18030", "读取配置文件㐀"),
        ("koi8-r", "koi8-r", "Привет"),
    ],
)
def test_a_declared_charset_means_what_the_web_means_by_it(label, codec, text):
    decoded = decode(text.encode(codec), label)
    assert (decoded.text, decoded.encoding) == (text, codec)


@pytest.mark.parametrize(
    "label", ["utf-7", "unicode_escape", "hex", "rot13", "idna", "cp037", "no such", "a\0b", "é", "x" * 99]
)
def test_a_declared_charset_that_the_web_does_not_know_is_ignored(label):
    assert decode("größe und maß für übung".encode("cp1252"), label).text == "größe und maß für übung"


def test_the_declaration_of_pep_263_decides_where_nothing_is_declared_outside():
    source = "#!/usr/bin/python\n# -*- coding: iso-8859-15 -*-\nprice = '5 €'\n"
    assert decode(source.encode("iso-8859-15")).text == source


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Größe ändern: prüfen, ob gültig\n", "cp1252"),
        ("комментарий: инициализация переменной\n", "cp1251"),
        ("コメント初期化。これはテストです。\n", "cp932"),
        ("读取配置文件，检测编码。\n", "gb18030"),
        ("한국어 시험입니다. 문자 인코딩\n", "cp949"),
    ],
)
def test_an_undeclared_legacy_encoding_is_detected(text, codec):
    assert decode((text * 5000).encode(codec)).text == text * 5000


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["", "utf-7", "gbk", "big5", "windows-1252", "euc-jp"]))
def test_what_comes_out_encodes_to_utf_8_or_names_a_reason(raw, declared):
    decoded = decode(raw, declared)
    assert (decoded.text is None) == (decoded.reason in ("binary", "undecodable"))
    if decoded.text is not None:
        decoded.text.encode("utf-8")


def test_encoded_surrogates_never_come_out():
    text = decode(b"x = '\xed\xa0\x80'").text
    assert text is None or text.encode("utf-8")
    assert decode(codecs.BOM_UTF8 + b"\xed\xa0\x80").reason == "undecodable"
    assert decode(codecs.BOM_UTF32_LE + b"\x00\xd8\x00\x00").reason == "undecodable"


def test_the_classes_of_all_code_points_agree_with_python():
    classes = code_point_classes()
    characters = [chr(point) for point in range(0x110000)]
    assert np.array_equal(classes & ALPHABETIC > 0, [character.isalpha() for character in characters])
    assert np.array_equal(classes & SPACE > 0, [character.isspace() for character in characters])
    unspaced = {character for character in "漢かカทມ𠀀" if classes[ord(character)] & UNSPACED}
    assert unspaced == set("漢かカทມ𠀀")
    assert not any(classes[ord(character)] & UNSPACED for character in "aж한א。")
