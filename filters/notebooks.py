"""Jupyter notebooks to scripts: the percent format of jupytext, without outputs, images and metadata.

Notebooks are turned into scripts before any rule sees them: outputs hold base64 images and lines of any length.
Formats 2 to 4 are read (nbformat's documentation, "The Notebook file format"); magics are commented out as
jupytext 1.19.6 does, so ``jupytext --to notebook`` gives the cells back.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

_SHELL_COMMANDS = "cat|cd|cp|mv|rm|rmdir|mkdir|copy|ddir|echo|ls|ldir|ren"

_TABLE = """
python         | Python           | #        | ipython py pyspark
r              | R                | #        | ir
julia          | Julia            | #        |
bash           | Shell            | #        | sh shell zsh
powershell     | PowerShell       | #        | pwsh
ruby           | Ruby             | #        | iruby
perl           | Perl             | #        | iperl
raku           | Perl 6           | #        | perl6
gnuplot        | Gnuplot          | #        |
sage           | Sage             | #        | sagemath
tcl            | Tcl              | #        |
robotframework | Robot Framework  | #        |
elixir         | Elixir           | #        |
nim            | Nimrod           | #        |
crystal        | Crystal          | #        |
coconut        |                  | #        |
c++            | C++              | //       | cpp xcpp
c              | C                | //       |
csharp         | C#               | //       | c# cs
fsharp         | F#               | //       | f# fs
javascript     | JavaScript       | //       | js node nodejs ijavascript
typescript     | TypeScript       | //       | ts tslab deno
scala          | Scala            | //       | almond
java           | Java             | //       | ijava
kotlin         | Kotlin           | //       |
groovy         | Groovy           | //       |
go             | Go               | //       | golang gophernotes gonb
rust           | Rust             | //       | evcxr
php            | PHP              | //       |
swift          | Swift            | //       |
dart           | Dart             | //       |
stata          | Stata            | //       |
haskell        | Haskell          | --       | ihaskell
lua            | Lua              | --       |
sql            | SQL              | --       |
lean           | Lean             | --       |
ada            | Ada              | --       |
matlab         | MATLAB           | %        |
octave         | Octave           | %        |
logtalk        | Logtalk          | %        |
erlang         | Erlang           | %        |
clojure        | Clojure          | ;;       |
scheme         | Scheme           | ;;       |
racket         | Racket           | ;;       |
common-lisp    | Common Lisp      | ;;       | lisp
ocaml          | OCaml            | (* *)    |
wolfram        |                  | (* *)    | wolfram-language
maxima         | Maxima           | /* */    |
sas            | SAS              | /* */    |
jenner         |                  | /* */    |
fortran        | Fortran          | !        |
q              | Q                | /        |
idl            |                  | ;        |
"""
"""Languages of kernels: key, published name (one of the 338, or none), comment sign, what kernels also call it."""

_ROWS = [[field.strip() for field in row.split("|")] for row in _TABLE.strip().splitlines()]
_NAMES = {key: name for key, name, _, _ in _ROWS}
_COMMENTS = {key: (sign.split()[0], "".join(f" {end}" for end in sign.split()[1:])) for key, _, sign, _ in _ROWS}
_ALIASES = {alias: key for key, _, _, aliases in _ROWS for alias in aliases.split()}

_CELL_MAGICS = """
R bash c# c++ clojure coconut cs csharp cython f# fs fsharp gnuplot go groovy haskell html idl java javascript jenner
js julia latex logtalk lua markdown matlab maxima ocaml octave perl powershell pypy python python2 python3 q
robotframework ruby rust sage sas scala scheme script sh sos spark sql stata svg tcl typescript xonsh
"""
_CELL_LANGUAGES = frozenset(_CELL_MAGICS.split())
"""Cell magics that name the language of the whole cell (jupytext's list)."""

_SURROGATE = re.compile("[\ud800-\udfff]").search
_GONB_MARKER = re.compile(r"^(?=%%(?:\s*$|\s+-))", re.MULTILINE)

_WITHOUT_MAGICS = frozenset(("octave", "matlab", "sas", "jenner", "logtalk"))


@dataclass(frozen=True, slots=True)
class Script:
    """A notebook as a script. ``text`` is None exactly when ``reason`` says why.

    ``language`` is the kernel's, as one of the 338 published names, or "" if it has none there. Reasons:
    ``notebook`` (broken JSON, or not a notebook of format 2 to 4), ``empty`` (no cell has a source).
    """

    text: str | None
    language: str
    reason: str | None = None


_DEEPEST = 6
"""Levels of headings that HTML and markdown have; a notebook may claim any number."""


def to_script(raw: bytes) -> Script:
    """Convert a notebook file to a script in percent format.

    A code cell is ``# %%`` and its source, a markdown cell ``# %% [markdown]`` and its lines as comments, with the
    comment sign of the kernel's language (``#`` where it is unknown); cells are parted by a blank line. A notebook
    that names no language is Python, as in IPython. Never raises.
    """
    try:
        notebook = _load(raw)
        kernel = _kernel_language(notebook)
        cells = [_cell(kind, source, kernel) for kind, source in _cells(notebook)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Script(None, "", "notebook")
    language = _NAMES.get(kernel, "")
    if not any(cells):
        return Script(None, language, "empty")
    return Script("\n\n".join(cell for cell in cells if cell) + "\n", language)


def _load(raw: bytes) -> dict[str, Any]:
    import orjson

    data = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        notebook = orjson.loads(data)
    except orjson.JSONDecodeError:
        # Python's own writer lets NaN and lone surrogates into notebooks; the latter become U+FFFD.
        notebook = json.loads(data.decode("utf-8"))
    if not isinstance(notebook, dict) or notebook.get("nbformat") not in (2, 3, 4):
        raise ValueError("not a notebook of format 2 to 4")
    return notebook


def _cells(notebook: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and source of each cell; what formats 2 and 3 call otherwise is named as in format 4."""
    if notebook["nbformat"] == 4:
        cells = notebook["cells"]
    else:
        cells = [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
    joint = "\n" if notebook["nbformat"] == 2 else ""  # format 2 stores the lines of a source without their ends
    for cell in cells:
        kind = cell["cell_type"]
        source = cell.get("source", "") if kind != "code" or "input" not in cell else cell["input"]
        source = source if isinstance(source, str) else joint.join(source)
        source = source.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE(source) else source
        if kind == "heading":
            level = cell.get("level", 1)
            level = level if isinstance(level, int) and 1 <= level <= _DEEPEST else 1
            source = "#" * level + " " + " ".join(source.splitlines())
        yield kind, source.replace("\r\n", "\n").replace("\r", "\n")


def _kernel_language(notebook: dict[str, Any]) -> str:
    """The kernel's language as a key of ``_COMMENTS``, or what the notebook calls it; ``python`` if it names none."""
    metadata = notebook.get("metadata") or {}
    kernel, info = metadata.get("kernelspec") or {}, metadata.get("language_info") or {}
    for said in (kernel.get("language"), info.get("name"), kernel.get("name")):
        if isinstance(said, str) and said.strip():
            name = said[:60].strip().lower().removeprefix(".net-").replace(" ", "-")
            if name not in _ALIASES:
                name = re.sub(r"[-_.]*v?\d[-_.\d]*$", "", name) or name
            return _ALIASES.get(name, name)
    return "python"


def _cell(kind: str, source: str, kernel: str) -> str:
    """One cell in percent format, or "" if it has no source."""
    if not source.strip():
        return ""
    sign, end = _COMMENTS.get(kernel, ("#", ""))
    if kernel == "go":  # GoNB's own cell marker would end the cell
        source = _GONB_MARKER.sub("//gonb:", source)
    lines = source.split("\n")
    if kind != "code":
        return "\n".join([f"{sign} %% [{'raw' if kind == 'raw' else 'markdown'}]{end}", *_commented(lines, sign, end)])
    magic, _, arguments = lines[0][2:].partition(" ") if lines[0].startswith("%%") else ("", "", "")
    if magic in _CELL_LANGUAGES and _ALIASES.get(magic.lower(), magic.lower()) != kernel:
        options = f"magic_args={json.dumps(arguments, ensure_ascii=False)} " if arguments else ""
        return "\n".join([f'{sign} %% {options}language="{magic}"{end}', *_commented(lines[1:], sign, end)])
    return "\n".join([f"{sign} %%{end}", *_without_magics(lines, kernel, sign, end)])


def _commented(lines: list[str], sign: str, end: str) -> list[str]:
    return [f"{sign} {line}{end}" if line else f"{sign}{end}" for line in lines]


def _without_magics(lines: list[str], kernel: str, sign: str, end: str) -> list[str]:
    """Comment magics, shell escapes and help requests out, but not inside strings over several lines."""
    is_magic = _magic(kernel, sign)
    if is_magic is None or not any(map(is_magic, lines)):
        return lines
    quoted = _quoted_lines(lines, sign)
    out = []
    continued = False
    for number, line in enumerate(lines):
        if number in quoted or not (continued or is_magic(line)):
            out.append(line)
            continue
        body = line if continued else line.lstrip()
        out.append(f"{line[: len(line) - len(body)]}{sign} {body}{end}")
        continued = kernel == "python" and line.rstrip().endswith("\\")
    return out


@cache
def _magic(kernel: str, sign: str) -> Any:
    """What tells a magic of the kernel's language, commented ones too (so that none is lost); None if it has none."""
    if kernel in _WITHOUT_MAGICS or kernel not in _COMMENTS:
        return None
    commented = f"(?:{re.escape(sign)} ?)*"
    if kernel == "rust":
        return re.compile(rf"{commented}:[a-zA-Z]").match
    if kernel == "csharp":
        return re.compile(rf"{commented}#![a-zA-Z]").match
    if kernel == "go":
        return re.compile(rf"{commented}(?:!\*?|%{{1,3}})[a-zA-Z]").match
    pattern = rf"\s*{commented}%{{1,3}}[a-zA-Z]"
    if kernel == "python":
        pattern += (
            r"|\s*(?:(?:# ?)+\s*)?[?!]\s*[A-Za-z.~$\\/{}]"
            r"|(?:# ?)*\s*[a-zA-Z_][\w$]*\s*=\s*(?:%{1,3}|!)[a-zA-Z]"
            r"|\s*(?:# )*[^\s]*\?\s*$"
            rf"|(?:# ?)*(?:{_SHELL_COMMANDS})(?:$|\s$|\s[^=,])"
        )
    return re.compile(pattern, re.ASCII).match


def _quoted_lines(lines: list[str], sign: str) -> frozenset[int]:
    """The numbers of the lines that start inside a triple-quoted string."""
    quoted: set[int] = set()
    line = at = 0
    text = "\n".join(lines)
    for found in _strings(sign).finditer(text):
        if "\n" in found[0]:
            line += text.count("\n", at, found.start())
            last = line + found[0].count("\n")
            quoted.update(range(line + 1, last + 1))
            line, at = last, found.end()
    return frozenset(quoted)


@cache
def _strings(sign: str) -> re.Pattern[str]:
    triple = "|".join(rf"{quote * 3}(?:\\.|[^\\])*?(?:{quote * 3}|\Z)" for quote in "\"'")
    single = "|".join(rf"{quote}(?:\\[^\n]|[^{quote}\\\n])*" for quote in "\"'")
    return re.compile(rf"{re.escape(sign)}[^\n]*|{triple}|(?:{single})[\"']?", re.DOTALL)
