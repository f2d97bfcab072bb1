"""What a package says of its licence is read from its own metadata files, and nothing is guessed."""

import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.licences import licence_of
from tests.inputs import package

WHEEL = b"x-1.0.dist-info/METADATA"
CLASSIFIER = b"Classifier: License :: OSI Approved :: "


def told(*lines: bytes, path: bytes = WHEEL) -> str | None:
    return licence_of(path, b"Metadata-Version: 2.1\nName: x\n" + b"\n".join(lines) + b"\n\nLicense: of the body\n")


@pytest.mark.parametrize(
    ("name", "version", "licence"),
    [
        ("click", "8.1.7", "BSD-3-Clause"),
        ("click", "8.1.8", "BSD License"),
        ("googleapis-common-protos", "1.76.0", "Apache-2.0"),
        ("robotframework", "7.5", "Apache License 2.0"),
    ],
)
def test_a_real_wheel_tells_its_licence(name, version, licence):
    with zipfile.ZipFile(package(name, version)) as wheel:
        found = [licence_of(path.encode(), wheel.read(path)) for path in wheel.namelist()]
    assert [one for one in found if one is not None] == [licence]


def test_an_expression_goes_before_the_licence_and_the_licence_before_classifiers():
    expression, licence, classifier = b"License-Expression: MIT OR Apache-2.0", b"License: MIT", CLASSIFIER + b"ISC"
    assert told(classifier, licence, expression) == "MIT OR Apache-2.0"
    assert told(classifier, licence) == "MIT"
    assert told(classifier) == "ISC"
    assert told(b"Classifier: Topic :: Software", b"License-File: LICENSE") is None


def test_several_classifiers_are_named_in_their_order_once_each():
    assert told(CLASSIFIER + b"B", CLASSIFIER + b"A", CLASSIFIER + b"B") == "B, A"


@pytest.mark.parametrize("value", [b"", b"UNKNOWN", b"x" * 201, b"MIT\n        whole text", b"a\tb", b"a\0b"])
def test_a_licence_field_that_is_no_short_line_gives_way_to_the_classifiers(value):
    assert told(b"License: " + value, CLASSIFIER + b"ISC") == "ISC"


def test_a_line_of_exactly_200_characters_is_taken():
    assert told(b"License: " + b"x" * 200) == "x" * 200


def test_names_of_fields_have_no_case_and_lines_may_end_in_cr_lf():
    assert licence_of(b"PKG-INFO", b"\xef\xbb\xbfname: x\r\nLICENSE: MIT\r\n\r\nLicense: no\r\n") == "MIT"


@pytest.mark.parametrize("path", [WHEEL, b"PKG-INFO", b"EGG-INFO/PKG-INFO"])
def test_files_of_core_metadata_are_read(path):
    assert told(b"License: MIT", path=path) == "MIT"


@pytest.mark.parametrize(
    "path", [b"x/_vendor/y-1.0.dist-info/METADATA", b"METADATA", b"a/PKG-INFO", b"PKG-INFO.txt", b"LICENSE", b""]
)
def test_other_files_and_those_of_a_package_within_are_not(path):
    assert told(b"License: MIT", path=path) is None


@pytest.mark.parametrize(
    ("value", "licence"),
    [
        ({"license": "MIT"}, "MIT"),
        ({"license": {"type": "BSD-3-Clause", "url": "u"}}, "BSD-3-Clause"),
        ({"license": "SEE LICENSE IN LICENSE.md"}, "SEE LICENSE IN LICENSE.md"),
        ({"license": ["MIT"]}, None),
        ({"license": {"type": 1}}, None),
        ({"license": ""}, None),
        ({}, None),
        ([], None),
    ],
)
def test_a_package_of_npm_tells_its_licence_as_a_string_or_by_its_type(value, licence):
    raw = json.dumps(value).encode()
    assert licence_of(b"package.json", raw) == licence_of(b"package.json", b"\xef\xbb\xbf" + raw) == licence
    assert licence_of(b"node_modules/y/package.json", raw) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"license": "\\ud800"}'])
def test_a_damaged_package_json_tells_nothing(raw):
    assert licence_of(b"package.json", raw) is None


@given(st.sampled_from([WHEEL, b"PKG-INFO", b"package.json"]), st.binary(max_size=200))
def test_any_bytes_give_a_short_line_of_valid_text_or_nothing(path, raw):
    for data in (raw, b"License: " + raw, b'{"license": "' + raw + b'"}'):
        licence = licence_of(path, data)
        assert licence is None or (0 < len(licence) <= 200 and licence.isprintable() and licence.encode())
