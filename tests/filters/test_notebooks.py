import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.notebooks import Script, to_script

CACHE = Path(os.environ.get("HEADRACE_CACHE", Path.home() / ".cache" / "headrace"))
SDISTS = ("jupytext==1.19.6", "nbformat==5.11.1")
FORMATS = {"C#": ".cs", "F#": ".fsx", "C++": ".cpp", "Python": ".py", "R": ".R", "Octave": ".m", "Shell": ".sh"}


def notebook(*cells, language="python", **metadata):
    kernel = {"kernelspec": {"language": language, "name": language}} if language else {}
    cells = [
        {"cell_type": kind, "metadata": {}, "source": source, "outputs": [{"data": "x" * 99}]} for kind, source in cells
    ]
    return orjson.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel | metadata, "cells": cells})


def code(source, language="python"):
    """The script of a notebook of one code cell, without its marker."""
    return to_script(notebook(("code", source), language=language)).text.split("\n", 1)[1].removesuffix("\n")


def test_code_and_markdown_become_cells_and_outputs_vanish():
    raw = notebook(("markdown", "# Title\n\ntext"), ("code", ["x = 1\n", "x"]), ("raw", "r"), ("code", " \n"))
    text = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nx = 1\nx\n\n# %% [raw]\n# r\n"
    assert to_script(raw) == Script(text, "Python")


@pytest.mark.parametrize(
    ("language", "name", "marker", "markdown"),
    [
        ("python", "Python", "# %%", "# m"),
        ("R", "R", "# %%", "# m"),
        ("julia", "Julia", "# %%", "# m"),
        ("C++17", "C++", "// %%", "// m"),
        ("c#", "C#", "// %%", "// m"),
        ("F#", "F#", "// %%", "// m"),
        ("bash", "Shell", "# %%", "# m"),
        ("octave", "Octave", "% %%", "% m"),
        ("haskell", "Haskell", "-- %%", "-- m"),
        ("ocaml", "OCaml", "(* %% *)", "(* m *)"),
        ("perl6", "Perl 6", "# %%", "# m"),
        ("go", "Go", "// %%", "// m"),
        ("brainwaves", "", "# %%", "# m"),
    ],
)
def test_the_kernel_gives_the_language_and_its_comments(language, name, marker, markdown):
    script = to_script(notebook(("code", "x"), ("markdown", "m"), language=language))
    assert script.language == name
    assert script.text.splitlines()[:2] == [marker, "x"]
    assert script.text.splitlines()[-1] == markdown


def test_the_language_is_also_found_in_language_info_and_in_the_name_of_the_kernel():
    assert to_script(notebook(("code", "x"), language="", language_info={"name": "scala"})).language == "Scala"
    for name, language in [
        ("python3", "Python"),
        ("ir", "R"),
        ("julia-1.6", "Julia"),
        (".net-fsharp", "F#"),
        ("xcpp17", "C++"),
    ]:
        assert to_script(notebook(("code", "x"), language="", kernelspec={"name": name})).language == language


def test_a_notebook_that_names_no_language_is_python():
    assert to_script(notebook(("code", "x"), language="")).language == "Python"


@pytest.mark.parametrize(
    "line",
    [
        "%matplotlib inline",
        "  %time f()",
        "%%time",
        "!pip install x",
        "?print",
        "print?",
        "x = !ls",
        "x = %env A",
        "ls",
        "cd /tmp",
        "# %time",
    ],
)
def test_magics_shell_escapes_and_help_requests_are_commented_out(line):
    indent = line[: len(line) - len(line.lstrip())]
    assert code(line + "\ny = 1") == f"{indent}# {line.lstrip()}\ny = 1"


@pytest.mark.parametrize(
    "line",
    ["x % y", "ls = 1", "cat, dog = 1, 2", "cd(1)", "a != b", "x = '!ls'", "lsx", "# comment", "x if y else '?'"],
)
def test_ordinary_code_is_not_taken_for_a_magic(line):
    assert code(line) == line


def test_a_continued_magic_is_commented_out_whole():
    assert code("!a \\\n  b\nc") == "# !a \\\n#   b\nc"


def test_text_inside_a_string_of_several_lines_is_not_a_magic():
    source = 'x = """\n%time\n!ls\n"""\n%time y'
    assert code(source) == source.replace("%time y", "# %time y")
    assert code("# it's\n%time") == "# it's\n# %time"


def test_a_cell_in_another_language_is_commented_out_whole():
    script = to_script(notebook(("code", "%%bash --out x\nls\n\ncd"))).text
    assert script == '# %% magic_args="--out x" language="bash"\n# ls\n#\n# cd\n'


def test_magics_of_other_kernels_have_other_signs():
    assert code("#!time\nx", "c#") == "// #!time\nx"
    assert code(":dep x", "rust") == "// :dep x"
    assert code("!ls\n%go", "go") == "// !ls\n// %go"
    assert code("%time", "octave") == "%time"


@pytest.mark.parametrize("version", [2, 3])
def test_older_formats_are_read(version):
    joint = [""] if version == 2 else ["\n"]
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Title"]},
        {"cell_type": "code", "language": "python", "input": ["a = 1" + joint[0], "b"], "outputs": []},
        {"cell_type": "html", "source": "<b>"},
    ]
    raw = orjson.dumps({"nbformat": version, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]})
    assert to_script(raw).text == "# %% [markdown]\n# ## Title\n\n# %%\na = 1\nb\n\n# %% [markdown]\n# <b>\n"


def test_a_byte_order_mark_crlf_and_nan_are_read():
    raw = notebook(("code", "a\r\nb"), ("code", "c")).replace(b'"data":', b'"n":NaN,"data":')
    assert to_script(b"\xef\xbb\xbf" + raw).text == "# %%\na\nb\n\n# %%\nc\n"


def test_lone_surrogates_become_replacement_characters_and_pairs_are_joined():
    raw = notebook(("code", "x = 'MARK'")).replace(b"MARK", rb"\ud800 \ud83d\ude00")
    assert to_script(raw).text == "# %%\nx = '\ufffd 😀'\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"\0" * 9,
        b'{"nbformat":4}',
        b'{"nbformat":4,"cells":[1]}',
        b'{"nbformat":4,"cells":[{"cell_type":"code","source":[1]}]}',
        b'{"nbformat":4,"cells":[{"cell_type":"code","source":1}]}',
        b'{"nbformat":4,"cells":{},"metadata":3}',
        b'{"nbformat":1,"cells":[]}',
        b'{"nbformat":[],"cells":[]}',
        b'{"nbformat":3,"worksheets":[{}]}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
    ],
)
def test_what_is_no_notebook_names_its_reason(raw):
    assert to_script(raw) == Script(None, "", "notebook")


def test_a_notebook_without_sources_is_empty():
    assert to_script(notebook()) == to_script(notebook(("code", " \n"))) == Script(None, "Python", "empty")


def test_hostile_lines_cost_no_more_than_their_length():
    for line in [
        "-" * 200_000,
        "# " * 100_000,
        "#" * 200_000,
        " " * 200_000 + "x",
        '"""' * 60_000,
        "'" * 200_000,
        "!" + " " * 200_000,
        "?" * 200_000,
    ]:
        assert len(code("%x\n" + line + "\n0")) <= len(line) + 12
        assert to_script(notebook(("code", "x"), language=line)).text


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["cell_type", "source", "input", "level", "cells"]), inner, max_size=4)
        ),
        max_leaves=20,
    ),
    st.sampled_from([2, 3, 4]),
)
def test_any_json_gives_a_script_or_a_reason(value, version):
    for key in ("cells", "worksheets", "metadata"):
        script = to_script(
            json.dumps({"nbformat": version, "cells": [], "worksheets": [{"cells": value}], key: value}).encode()
        )
        assert (script.text is None) == (script.reason in ("notebook", "empty"))


@pytest.fixture(scope="module")
def real_notebooks():
    """The notebooks in the source distributions of jupytext and nbformat, fetched once and only by name."""
    folder = CACHE / "sdists"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for requirement in SDISTS:
        name = requirement.split("==")[0]
        archive = folder / (requirement.replace("==", "-") + ".tar.gz")
        if not archive.exists():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name]
            subprocess.run([*command, "-d", str(folder), requirement], check=True)
        with tarfile.open(archive) as members:
            found += [
                (member.name, members.extractfile(member).read())
                for member in members
                if member.name.endswith(".ipynb")
            ]
    return found


def cells_of(text, extension, jupytext):
    return [
        (cell.cell_type, cell.source)
        for cell in jupytext.reads(text, fmt=extension + ":percent").cells
        if cell.source.strip()
    ]


@pytest.mark.filterwarnings("ignore")
def test_real_notebooks_give_the_same_cells_as_jupytext(real_notebooks):
    jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")
    from jupytext.languages import _SCRIPT_EXTENSIONS

    extensions = {spec["language"].lower(): extension for extension, spec in _SCRIPT_EXTENSIONS.items()}
    compared = 0
    for name, raw in real_notebooks:
        script = to_script(raw)
        try:
            original = nbformat.reads(raw.decode(), as_version=4)
            extension = FORMATS.get(script.language) or extensions[script.language.replace(" ", "").lower()]
            expected = jupytext.writes(original, fmt=extension + ":percent")
        except Exception:  # what jupytext refuses, or has no script format for, is no oracle
            continue
        assert cells_of(script.text or "", extension, jupytext) == cells_of(expected, extension, jupytext), name
        compared += 1
    assert compared >= 85


LEVELS = ["1e400", "Infinity", "9" * 30, "1e12", "300000000", "-1", "0", "null", '"2"', "true"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_heading_of_an_impossible_level_is_one_of_the_first(level):
    raw = '{"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "heading", "level": LEVEL, "source": "x"}]}]}'
    assert to_script(raw.replace("LEVEL", level).encode()).text == "# %% [markdown]\n# # x\n"
