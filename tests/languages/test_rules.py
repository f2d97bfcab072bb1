import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from languages import names, rules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"#!/bin/sh\n", b"sh"),
        (b"#! /usr/bin/perl -w\n", b"perl"),
        (b"#!/usr/bin/env python3.11\n", b"python3"),
        (b"#!/usr/bin/env -S node --flag\n", b"node"),
        (b"#!/usr/bin/env FOO=bar ruby\n", b"ruby"),
        (b'#!/bin/sh\nexec scala "$0" "$@"\n', b"scala"),
        (b"#!/usr/bin/osascript -l JavaScript\n", b""),
        (b"#!/usr/bin/env\n", b""),
        (b"#!", b""),
        (b" #!/bin/sh\n", b""),
        (b"", b""),
    ],
)
def test_the_interpreter_is_read_as_linguist_reads_it(text: bytes, expected: bytes) -> None:
    assert rules.interpreter(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"/* -*- C++ -*- */\n", b"c++"),
        (b"; -*- mode: Lisp; tab-width: 2 -*-\n", b"lisp"),
        (b"# -*- coding: utf-8; mode: ruby -*-\n", b"ruby"),
        (b"# -*- coding: utf-8 -*-\n", b""),
        (b"# vim: set ft=perl :\n", b"perl"),
        (b"# vim: ts=4 sw=4 ft=sh\n", b"sh"),
        (b"# vi: filetype=tcl\n", b"tcl"),
        (b"x\n" * 100 + b"// vim: syntax=d:\n", b"d"),
        (b"x\n" * 6 + b"# vim: ft=sh\n" + b"x\n" * 6, b""),
        (b'" Vimball Archiver\nUseVimball\n" vim: ft=x\n', b""),
        (b"the vim: editor is nice\n", b""),
    ],
)
def test_a_modeline_is_found_in_the_first_and_last_five_lines_only(text: bytes, expected: bytes) -> None:
    assert rules.modeline(text) == expected


def test_an_xml_prolog_counts_after_a_mark_and_blanks_only_at_the_start() -> None:
    assert rules.has_xml_prolog(b"\xef\xbb\xbf \n<?xml version='1.0'?>")
    assert not rules.has_xml_prolog(b"x <?xml version='1.0'?>")


def test_a_rule_sees_the_first_50_kb_only() -> None:
    late = b"x\n" * (rules.LOOKED_AT // 2) + b"pragma solidity ^0.8.0;\n"
    assert rules.heuristic(b".sol", late[2:]) == ("", False)
    assert rules.heuristic(b".sol", late[200:]) == ("Solidity", True)


def test_every_rule_compiles_and_names_a_known_language() -> None:
    known = {language.name for language in names.table() + names.outside()} | {names.UNKNOWN}
    for extension in sorted(rules.ruled_extensions()):
        assert extension in names.lookups().extensions
        assert {language for language, _ in rules.rules_of(extension)} <= known
    assert {cell for cells in names.rows("conventions.tsv") for cell in cells[:2]} <= known


def test_all_rules_together_stay_fast_on_blanks_and_repeats() -> None:
    started = time.process_time()
    for text in (
        b" " * rules.LOOKED_AT,
        b"(" * rules.LOOKED_AT,
        b"a" * rules.LOOKED_AT,
        b"\n\t" * (rules.LOOKED_AT // 2),
    ):
        for extension in sorted(rules.ruled_extensions()):
            rules.heuristic(extension, text)
    assert time.process_time() - started < 10


def test_licence_texts_read_like_english_and_programs_do_not() -> None:
    assert rules.reads_like_english(
        b"Permission to use the work is given by the owner, as long as that notice is not cut. " * 3
    )
    assert not rules.reads_like_english(b"for (int i = 0; i < n; i++) { total += values[i] * 2; }\n" * 20)
    assert not rules.reads_like_english(b"")


@pytest.mark.parametrize("mark", [b"# ", b"// ", b"  #"])
def test_english_in_comments_is_no_prose(mark: bytes) -> None:
    comments = mark + b"Permission to use the work is given by the owner, as long as that notice is not cut.\n"
    assert not rules.reads_like_english(comments * 5 + b"set -e\nbuild all\n")


@pytest.mark.parametrize(("text", "expected"), [(b"", True), (b"\xef\xbb\xbf \n<x/>", True), (b"x<y", False)])
def test_a_tag_is_looked_for_after_a_mark_and_blanks(text: bytes, expected: bool) -> None:
    assert rules.begins_with_tag(text) == expected


@given(st.binary(max_size=300))
def test_no_bytes_make_a_reader_of_evidence_raise(text: bytes) -> None:
    rules.interpreter(b"#!" + text)
    rules.modeline(b"vim:" + text)
    rules.modeline(b"-*-" + text + b"-*-")
    rules.has_xml_prolog(text)
    rules.reads_like_english(text)
    rules.convention("MATLAB", text)
