import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from languages import Verdict, cascade, centroid, classify, classify_batch, names

CASES = [
    ("src/Makefile", b"", "Makefile", "filename"),
    ("Makefile.PL", b"", "Perl", "filename"),
    ("Dockerfile.dev", b"FROM x\n", "Dockerfile", "glob"),
    ("a.docker", b"FROM x\n", "Docker", "extension"),
    ("a.bro", b"", "Bro", "extension"),
    ("a.zeek", b"", "Zeek", "extension"),
    ("a.jade", b"", "Jade", "extension"),
    ("a.rhtml", b"", "RHTML", "extension"),
    ("a.html.erb", b"", "HTML ERB", "extension"),
    ("a.blade.php", b"<?php", "other:Blade", "extension"),
    ("A.PY", b"", "Python", "extension"),
    (".bashrc", b"", "Shell", "filename"),
    ("a.py", b"<?xml version='1.0'?>\n<x/>", "XML", "xml"),
    ("a.xslt", b"<?xml version='1.0'?>\n<x/>", "XSLT", "extension"),
    ("a.svg", b"<?xml version='1.0'?>\n<svg/>", "other:SVG", "extension"),
    ("run", b"#!/usr/bin/env python3\n", "Python", "shebang"),
    ("a.cgi", b"#!/usr/bin/perl\n", "Perl", "shebang"),
    ("a.h", b"/* -*- C++ -*- */\n", "C++", "modeline"),
    ("x", b"# vim: ft=ruby\n", "Ruby", "modeline"),
    ("x.conf", b"<?xml version='1.0'?>\n<x/>", "XML", "xml"),
    ("a.h", b"int f(void);\n", "C", "heuristic"),
    ("a.h", b"namespace x {\nclass A {};\n}\n", "C++", "heuristic"),
    ("a.h", b"@interface A : NSObject\n@end\n", "Objective-C", "heuristic"),
    ("a.m", b"function f\n% comment\nend\n", "MATLAB", "heuristic"),
    ("a.m", b":- module x.\n:- interface.\n", "other:Mercury", "heuristic"),
    ("a.m", b"(* Wolfram *)\nf[x_] := x\n(* end *)\n", "other:Wolfram Language", "heuristic"),
    ("a.m", b"#ifndef X\n#include <y.h>\n#endif\n", "Objective-C", "heuristic"),
    ("a.pl", b"use strict;\nmy $x = 1;\n", "Perl", "heuristic"),
    ("a.pl", b"use v6;\nsay 1;\n", "Perl 6", "heuristic"),
    ("a.pl", b"parent(X, Y) :- father(X, Y).\n", "other:Prolog", "heuristic"),
    ("a.v", b"module m(input a);\nendmodule\n", "Verilog", "heuristic"),
    ("a.v", b"Require Import List.\nProof.\nQed.\n", "other:Rocq Prover", "heuristic"),
    ("a.v", b"fn main() {\n  println('x')\n}\n", "other:V", "heuristic"),
    ("a.ts", b"export const x: number = 1;\n", "TypeScript", "heuristic"),
    ("a.ts", b"<TS version='2'></TS>\n", "XML", "heuristic"),
    ("a.fs", b"module A\nlet x = 1\n", "F#", "heuristic"),
    ("a.fs", b": square dup * ;\n", "other:Forth", "heuristic"),
    ("a.fs", b"#version 330\nvoid main() {}\n", "GLSL", "heuristic"),
    ("a.t", b"use strict;\nuse Test::More;\n", "Perl", "heuristic"),
    ("a.t", b"terra f(x : int)\n  return x\nend\n", "other:Terra", "heuristic"),
    ("a.sql", b"SELECT 1;\n", "SQL", "heuristic"),
    ("a.sql", b"DECLARE @x INT\nGO\n", "Transact-SQL", "heuristic"),
    ("a.cl", b"__kernel void f() {}\n", "OpenCL", "heuristic"),
    ("a.cl", b"(defun f (x) x)\n", "Common Lisp", "heuristic"),
    ("a.cl", b"class Main { };\n", "other:Cool", "heuristic"),
    ("a.d", b"module a.b;\nimport std.stdio;\n", "other:D", "heuristic"),
    ("a.d", b"a.o: a.c \\\n b.h\n", "Makefile", "heuristic"),
    ("a.prg", b'#include "hbclass.ch"\nFUNCTION Main()\nRETURN NIL\n', "XBase", "extension"),
    ("a.asm", b"  mov eax, ebx\n", "Assembly", "heuristic"),
    ("a.cob", b"       IDENTIFICATION DIVISION.\n", "COBOL", "extension"),
    ("a.s", b"f <- function(x) x\n", "S", "heuristic"),
    ("a.ssc", b"", "S", "extension"),
    ("a.f", b"      subroutine x\n      end\n", "Fortran Fixed Form", "heuristic"),
    ("a.f", b"program x\n  implicit none\nend program x\n", "Fortran", "heuristic"),
    ("a.html", b"<p>{% block x %}{% endblock %}", "HTML Django", "heuristic"),
    ("a.html", b"<p>hello", "HTML", "heuristic"),
    ("a.3", b".TH X 3\n", "Groff", "heuristic"),
    ("lib.so.3", b"junk", "other:unknown", "heuristic"),
    ("a.def", b"LIBRARY X\nEXPORTS\n", "other:unknown", "heuristic"),
    ("a.s", b"f:\n\t.global f\n", "GAS", "heuristic"),
    ("a.s", b"TEXT f(SB), $0\n\tMOVQ $1, AX\n", "Assembly", "heuristic"),
    ("a.i", b"#if defined(SWIG_WCHAR)\n#endif\n", "SWIG", "heuristic"),
    ("a.inc", b"ifeq ($(X),)\n  $(error no X)\nendif\n", "Makefile", "heuristic"),
    ("a.v", b"function f;\n  f = 1;\nendfunction\n", "Verilog", "heuristic"),
    ("a.ml", b"let sum x y = x + y\n", "OCaml", "heuristic"),
    ("a.ml", b"let val x = 1 in x end\nfun f x = case x of 1 => 2\n", "Standard ML", "heuristic"),
    ("a.sc", b"object Main {\n  val x = 1\n}\n", "Scala", "heuristic"),
    ("a.pro", b"for i = 1, 2 do begin\n  print, i\nendfor\n", "other:IDL", "heuristic"),
    ("a.pro", b"equal(X, X).\n", "other:Prolog", "heuristic"),
    ("a.bzl", b'load("@x//:y.bzl", "z")\nz()\n', "other:Starlark", "heuristic"),
    ("a.sv.tpl", b"% if wide:\n  logic ${name};\n% endif\n", "Mako", "heuristic"),
    ("a.html", b"{# a theme #}\n{%- if prev %}<p>{{ prev }}</p>{% endif %}", "HTML Django", "heuristic"),
    ("a.do", b"use data.dta, clear\nregress y x\n", "Stata", "heuristic"),
    ("a.do", b"vlib work\nvsim top\n", "Tcl", "heuristic"),
    ("a.do", b"// dofile\nread design -golden -f list\n", "other:unknown", "heuristic"),
    ("a.el", b";; a comment\n(setq x 1)\n", "Emacs Lisp", "heuristic"),
    ("a.el", b"// exclusions\nCHECKSUM: 1\n", "other:unknown", "heuristic"),
    ("a.al", b"package X;\nuse strict;\n", "Perl", "heuristic"),
    ("a.al", b"sub f {\n}\n", "Perl", "heuristic"),
    ("a.al", b"VARIABLES X,Y\nEQN[1] = A*X^3+B*Y^2-R\n", "other:unknown", "heuristic"),
    ("a.mac", b"/PREP7\nET,1,SOLID185\n", "ANSYS Parametric Design Language", "heuristic"),
    ("a.mac", b"* a macro\nMACRO FILENAME PREFIX\n&FILENAME.\n", "other:unknown", "heuristic"),
    ("a.props", b"\xef\xbb\xbf\n<Project/>\n", "XML", "extension"),
    ("a.props", b"DEF01=this\nDEF02=is\n", "other:unknown", "none"),
    ("a.mod", b"[description]\nAdds a module\n\n[tags]\nxml\n", "other:unknown", "none"),
    ("a.inc", b"", "other:unknown", "none"),
    ("Config.in.host", b"config X\n", "Kconfig", "glob"),
    ("INSTALL.unix", b"x\n", "other:Text", "glob"),
    ("README.md", b"# x\n", "other:Markdown", "heuristic"),
    ("a.yaml", b"a: 1\n", "other:YAML", "extension"),
    ("a.toml", b"a = 1\n", "other:TOML", "extension"),
    ("a.ini", b"[a]\n", "other:INI", "extension"),
    ("a.csv", b"a,b\n", "other:CSV", "extension"),
    ("a.rst", b"x\n", "other:reStructuredText", "extension"),
    ("LICENSE", b"x\n", "other:Text", "filename"),
    ("LICENSE.MIT", b"x\n", "other:Text", "glob"),
    ("nothing", b"", "other:unknown", "none"),
    ("nothing.zzz", b"\x01\x02", "other:unknown", "none"),
    ("", b"", "other:unknown", "none"),
    ("dir/", b"", "other:unknown", "none"),
]


@pytest.mark.parametrize(("path", "text", "language", "evidence"), CASES)
def test_the_cascade_names_language_and_evidence(path: str, text: bytes, language: str, evidence: str) -> None:
    verdict = classify(path.encode(), text)
    assert (verdict.language, verdict.evidence) == (language, evidence)
    assert verdict.kind == names.kind_of(language)


def test_a_vote_settles_a_shader_that_no_rule_knows() -> None:
    puppet = b"$x = { 'a' => 1 }\n$y = $x['a'] ? { 1 => 'one', default => 'many' }\n"
    assert classify(b"a.pp", puppet) == Verdict("Puppet", "code", "grammar", 967)


def test_a_candidate_is_chosen_by_statistics_where_no_rule_answers() -> None:
    verdict = classify(b"a.inc", b"$x = array(1, 2); echo $x; foreach ($x as $y) { echo $y; }\n")
    assert (verdict.language, verdict.evidence) == ("PHP", "centroid")
    assert 500 <= verdict.confidence <= 1000


TABLE = b"/* generated */\n" + b"".join(b"{ 0x%04X, %d, TOLO, 32 },\n" % (i, i % 7) for i in range(200))
FILES = b"// Licensed under the terms of the licence, see there\n+incdir+${ROOT}/src\n" + b"${ROOT}/src/a_pkg.sv\n" * 40


@pytest.mark.parametrize(("path", "text"), [(b"a.t", TABLE), (b"a.f", FILES), (b"a.tpl", FILES), (b"a.q", TABLE)])
def test_a_text_far_from_every_candidate_of_its_extension_is_unknown(path: bytes, text: bytes) -> None:
    assert classify(path, text) == Verdict("other:unknown", "data", "none", 0)


ENGLISH = b"Permission to use the work is given by the owner, as long as that notice is not cut. " * 5


def typical_text(language: str) -> bytes:
    """The identifiers that weigh most in the vector of a language."""
    table = pq.read_table(Path(names.__file__).with_name("centroids.parquet")).to_pydict()
    column = centroid.centroids().index[language]
    rows = zip(table["token"], table["languages"], table["weights"], strict=True)
    weights = {token: dict(zip(columns, found, strict=True)).get(column, 0) for token, columns, found in rows}
    words = sorted((word for word in weights if word.isalnum()), key=lambda word: (-weights[word], word))
    return b"\n".join(words[:100])


def test_a_text_is_guessed_at_only_where_no_suffix_says_that_it_is_something_else() -> None:
    for name in (b"notes", b"notes-1.25", b".notes"):
        assert classify(name, ENGLISH).language == "other:Text"
    assert classify(b"notes", typical_text("COBOL")).language == "COBOL"
    for text in (ENGLISH, typical_text("COBOL")):
        assert classify(b"notes.output", text) == Verdict("other:unknown", "data", "none", 0)
    assert classify(b"notes.output", b"#!/bin/sh\n").language == "Shell"


def test_a_text_without_a_name_that_reads_like_english_is_text() -> None:
    assert classify(b"unknown-file", ENGLISH).language == "other:Text"


def test_the_longest_extension_wins_and_a_leading_dot_is_one() -> None:
    assert classify(b"a.js.in", b"").language == "JavaScript MozPreproc"
    assert classify(b"a.min.js", b"").language == "JavaScript"
    assert classify(b".vimrc", b"").language == "VimL"


@given(st.binary(max_size=80), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_path_and_no_text_raise_and_every_answer_is_whole(path: bytes, text: bytes) -> None:
    known = {language.name for language in names.table() + names.outside()} | {names.UNKNOWN}
    verdict = classify(path, text)
    assert verdict.language in known
    assert verdict.kind in names.KINDS
    assert 0 <= verdict.confidence <= 1000


@given(st.sampled_from(sorted(names.lookups().extensions)), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_text_under_a_known_extension_raises(extension: bytes, text: bytes) -> None:
    assert classify(b"\xff\xfe/a" + extension, text).language


@pytest.mark.parametrize(
    "name", [b"a.cbl", b"a.sh", b"a.m", b"a.yaml", b"a.dm", b"a.h", b"a.pl", b"a.frag", b"a.inc", b"a"]
)
def test_hostile_texts_under_hostile_names_are_answered(name: bytes) -> None:
    million = random.Random(7).randbytes(1 << 20)
    shapes = [b"void foo()\n{\n}\n", b"(" * 100_000, b"<a>" * 100_000, b"- " * 300 + b"x", million, b" " * (1 << 20)]
    assert all(classify(name, text).language for text in shapes)


def test_a_batch_answers_as_single_calls_do_in_order() -> None:
    paths = [path.encode() for path, *_ in CASES]
    texts = [text for _, text, *_ in CASES]
    assert classify_batch(paths, texts) == [classify(path, text) for path, text in zip(paths, texts, strict=True)]
    assert classify_batch([], []) == []


def test_answers_are_the_same_under_another_hash_seed_and_locale() -> None:
    code = "from tests.languages.test_cascade import CASES; from languages import classify;"
    code += "print([classify(p.encode(), t * 3) for p, t, *_ in CASES])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale},
            capture_output=True,
            check=True,
        ).stdout
        for seed, locale in (("0", "C"), ("1", "C.UTF-8"))
    }
    assert len(outputs) == 1


def test_every_kind_of_evidence_has_a_confidence_or_brings_its_own() -> None:
    assert set(cascade.CONFIDENCE) | {"centroid", "content"} == {
        "filename",
        "glob",
        "extension",
        "shebang",
        "modeline",
        "xml",
        "heuristic",
        "grammar",
        "centroid",
        "content",
        "none",
    }
