import subprocess
import sys

import pytest

import languages
from languages import names

SHARED = {
    "AGS Script": ("a.asc", b"function room_Load() {\n}\n"),
    "ActionScript": ("a.as", b"package {\n  public class A { private var x:int = 1; }\n}\n"),
    "AmbientTalk": ("a.at", b"def hello() { system.println('hi') };\n"),
    "Asymptote": ("a.asy", b"draw((0,0)--(1,1));\n"),
    "BST": ("a.bst", b"ENTRY\n  { address author }\n"),
    "Brainfuck": ("a.b", b"++++++++++[>+++++++>++++++++++>+++<<<-]>++.\n"),
    "COBOLFree": ("a.cob", b"IDENTIFICATION DIVISION.\nPROGRAM-ID. HELLO.\n"),
    "Eiffel": ("a.e", b"class HELLO\nfeature\n  x: INTEGER do\n  end\nend\n"),
    "FoxPro": ("a.prg", b"LPARAMETERS cName\nTHISFORM.Caption = cName\n"),
    "GAS": ("a.s", b"\t.globl main\nmain:\n\tmovl $1, %eax\n"),
    "GDScript": ("a.gd", b"extends Node\nfunc _ready():\n\tpass\n"),
    "JSONiq": ("a.jq", b"let $x := { }\nfor $y in $x return $y\n"),
    "Jasmin": ("a.j", b".class public Hello\n.super java/lang/Object\n"),
    "K": ("a.k", b"f:{x+y}\n"),
    "Limbo": ("a.m", b"Command : module {\n  init: fn();\n};\n"),
    "MiniScript": ("a.ms", b"f = function(x)\n  return x\nend function\n"),
    "Modelica": ("a.mo", b"model M\n  Real x;\nequation\n  der(x) = 1;\nend M;\n"),
    "Modula-2": ("a.mod", b"MODULE Hello;\nBEGIN\nEND Hello.\n"),
    "MooCode": ("a.moo", b'@verb #0:x tnt\nplayer:tell("hi");\n.\n'),
    "NCL": ("a.ncl", b'load "x.ncl"\nbegin\n  a = new(3, float)\nend\n'),
    "NASM": ("a.asm", b"%define X 1\nsection .text\nglobal _start\n"),
    "Objective-C": ("a.m", b"#import <Foundation/Foundation.h>\n@interface A\n@end\n"),
    "Objective-C++": ("a.mm", b"#import <x.h>\nstd::string s;\n"),
    "Octave": ("a.m", b"% f\nfunction f()\n  if true\n  endif\nendfunction\n"),
    "Odin": ("a.odin", b"package main\nmain :: proc() {\n}\n"),
    "OpenEdge ABL": ("a.p", b"DEFINE VARIABLE x AS INTEGER NO-UNDO.\n"),
    "Q": ("a.q", b"f:{x+1}\n\\l x.q\n"),
    "Ren'Py": ("a.rpy", b'label start:\n    "Hello."\n    return\n'),
    "Smarty": ("a.tpl", b"{if $x}{$x}{/if}\n"),
    "Solidity": ("a.sol", b"pragma solidity ^0.8.0;\ncontract A {}\n"),
    "SuperCollider": ("a.scd", b"SynthDef(\\x, { });\n"),
    "UnrealScript": ("a.uc", b"class A extends Actor;\n"),
}
"""A file for each name that no file name of its own leads to."""


def test_the_table_holds_the_338_names_once_each() -> None:
    found = [language.name for language in names.table()]
    assert len(found) == len(set(found)) == 338


def test_the_nine_pairs_of_the_reference_have_one_canonical_name_each() -> None:
    assert {language.name: language.canonical for language in names.table() if language.name != language.canonical} == {
        "Docker": "Dockerfile",
        "Bro": "Zeek",
        "Jade": "Pug",
        "RHTML": "HTML ERB",
        "FoxPro": "XBase",
        "NASM": "Assembly",
        "COBOLFree": "COBOL",
        "Octave": "MATLAB",
        "S": "R",
    }


@pytest.mark.parametrize("language", names.table(), ids=lambda language: language.name)
def test_every_one_of_the_338_names_is_reached(language: languages.Language) -> None:
    if language.name in SHARED:
        path, text = SHARED[language.name]
        assert languages.classify(path.encode(), text).language == language.name
        return
    exact = [name.replace("*", "x") for name in language.filenames] + ["a" + end for end in language.extensions]
    assert any(languages.classify(path.encode(), b"").language == language.name for path in exact)


def test_what_is_outside_is_marked_as_such_and_shares_no_name_with_the_table() -> None:
    inside = {language.name for language in names.table()}
    for language in names.outside():
        assert language.name.startswith("other:")
        assert language.name.removeprefix("other:") not in inside
        assert language.kind in names.KINDS
        assert all(end == end.lower() and end.startswith(".") for end in language.extensions)


def test_every_outside_language_of_the_shared_extensions_is_a_candidate() -> None:
    shared = {".v": "V", ".pl": "Prolog", ".d": "D", ".fs": "Forth", ".as": "AngelScript", ".cls": "Apex"}
    shared |= {".sol": "Gerber Image", ".m": "Mercury", ".t": "Terra", ".php": "Hack", ".n": "Nemerle", ".k": "KCL"}
    for extension, name in shared.items():
        assert "other:" + name in names.lookups().extensions[extension.encode()]


def test_kinds_are_as_the_docstring_says() -> None:
    assert {language.kind for language in names.table()} == {"code"}
    kinds = {"YAML": "data", "TOML": "data", "INI": "data", "CSV": "data", "SVG": "data", "Markdown": "prose"}
    kinds |= {"reStructuredText": "prose", "AsciiDoc": "prose", "Org": "prose", "Text": "prose", "Texinfo": "prose"}
    kinds |= {"D": "code", "Prolog": "code", "Rocq Prover": "code", "Forth": "code", "Mercury": "code"}
    assert {name: languages.kind_of("other:" + name) for name in kinds} == kinds
    assert languages.kind_of("other:unknown") == "data"


def test_interpreters_and_modes_of_a_dialect_do_not_shadow_the_language() -> None:
    lookups = names.lookups()
    assert lookups.interpreters[b"perl"][0] == "Perl"
    assert lookups.interpreters[b"node"][0] == "JavaScript"
    assert (lookups.modes[b"c++"], lookups.modes[b"sh"], lookups.modes[b"python"]) == ("C++", "Shell", "Python")


def test_every_grammar_of_the_tables_loads() -> None:
    from tree_sitter_language_pack import get_language

    for grammar in sorted(set(names.grammars().values())):
        assert get_language(grammar)  # type: ignore[arg-type]


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'numba', 'numpy', 'pyarrow', 'tree_sitter', 'tree_sitter_language_pack'}"
    code = "import sys, languages; languages.classify(b'a.py', b'')"
    code += f"; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_content_deciding_distributions_are_installed() -> None:
    from importlib.metadata import version

    assert all(version(name) for name in languages.CONTENT_VERSIONS)
