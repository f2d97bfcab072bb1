"""The 338 languages and what lies outside them, as tables: names, kinds, file names, extensions, interpreters.

`languages.tsv` holds the 338 names of DeepSeek-Coder-V2 (arXiv 2406.11931, appendix A), `outside.tsv` the other
languages that Linguist knows: the classifier is open-set, and says `other:NAME` for one of these and `other:unknown`
for none.

Kinds (`design/data.md`, "What a rule applies to"):

- `code`: every one of the 338, JSON, XML, POD and Groff included, because the published rules 1 to 5 are stated for
  source files in these languages and no other rules are published for them; and the programming languages outside.
- `prose`: Markdown, reStructuredText, AsciiDoc, Org, Text, Texinfo and the like. POD, Groff and Rd are among the 338
  and so are `code`.
- `data`: formats outside the 338 that hold data (YAML, TOML, INI, CSV, SVG, ...); rule 5 names YAML and goes by the
  language, not the kind.
- `page` is never said here: a page is known by where it comes from.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

OUTSIDE = "other:"
UNKNOWN = "other:unknown"
KINDS = ("code", "prose", "data")


@dataclass(frozen=True, slots=True)
class Language:
    """One language: what it is called and where it is met.

    `canonical` is the other name where two of the 338 name one language but for a convention (nine pairs).
    `extensions` are lower-case with their dot; `filenames` are base names or fnmatch patterns; `grammar` is the name
    of an exact grammar in tree-sitter-language-pack, or empty. `linguist` and `pygments` are the names that these
    tools give to the same language.
    """

    name: str
    canonical: str
    kind: str
    extensions: tuple[str, ...]
    filenames: tuple[str, ...]
    interpreters: tuple[str, ...]
    aliases: tuple[str, ...]
    grammar: str
    linguist: tuple[str, ...]
    pygments: tuple[str, ...]


@functools.cache
def table() -> tuple[Language, ...]:
    """Return the 338 languages in the order of the table."""
    return tuple(_language(row, "") for row in rows("languages.tsv"))


@functools.cache
def outside() -> tuple[Language, ...]:
    """Return the known languages outside the 338; their names begin with `other:`."""
    return tuple(_language(row, OUTSIDE) for row in rows("outside.tsv"))


def kind_of(language: str) -> str:
    """Return the kind of a language by its name; `data` for a name that stands in no table (`other:unknown`)."""
    return _kinds().get(language, "data")


def rows(name: str) -> Iterator[list[str]]:
    """Yield the cells of each line of a table of this package, without comments."""
    text = resources.files("languages").joinpath(name).read_text(encoding="utf-8")
    for line in text.split("\n"):
        if line and not line.startswith("#"):
            yield line.split("\t")


@dataclass(frozen=True, slots=True)
class Lookups:
    """The look-up tables that the cascade uses; all keys are bytes as they stand in a path or a text."""

    filenames: dict[bytes, str]
    globs: tuple[tuple[str, str], ...]
    extensions: dict[bytes, tuple[str, ...]]
    longest: int
    interpreters: dict[bytes, tuple[str, ...]]
    modes: dict[bytes, str]


@functools.cache
def lookups() -> Lookups:
    """Build the look-up tables; the 338 come before what is outside, each in the order of its table."""
    filenames: dict[bytes, str] = {}
    globs: list[tuple[str, str]] = []
    extensions: dict[bytes, list[str]] = {}
    interpreters: dict[bytes, list[str]] = {}
    modes: dict[bytes, str] = {}
    languages = table() + outside()
    for language in languages:
        modes.setdefault(language.name.removeprefix(OUTSIDE).lower().encode(), language.name)
    for language in languages:
        for pattern in language.filenames:
            if "*" in pattern or "[" in pattern:
                globs.append((pattern, language.name))
            else:
                filenames.setdefault(pattern.encode(), language.name)
        for extension in language.extensions:
            extensions.setdefault(extension.encode(), []).append(language.name)
        for interpreter in language.interpreters:
            interpreters.setdefault(interpreter.encode(), []).append(language.name)
        for alias in language.aliases:
            modes.setdefault(alias.encode(), language.name)
    return Lookups(
        filenames,
        tuple(globs),
        {extension: tuple(found) for extension, found in extensions.items()},
        max(map(len, extensions)),
        {interpreter: tuple(found) for interpreter, found in interpreters.items()},
        modes,
    )


@functools.cache
def grammars() -> dict[str, str]:
    """Map each language that has an exact grammar to the grammar's name."""
    return {language.name: language.grammar for language in table() + outside() if language.grammar}


@functools.cache
def _kinds() -> dict[str, str]:
    return {language.name: language.kind for language in table() + outside()}


def _language(cells: list[str], prefix: str) -> Language:
    if prefix:
        name, kind, extensions, filenames, interpreters, aliases, grammar = cells
        canonical, linguist, pygments = name, name, ""
    else:
        name, canonical, kind, extensions, filenames, interpreters, aliases, grammar, linguist, pygments = cells
    return Language(
        prefix + name,
        prefix + canonical,
        kind,
        tuple(extensions.split()),
        _split(filenames, "|"),
        tuple(interpreters.split()),
        _split(aliases, "|"),
        grammar,
        _split(linguist, ";"),
        _split(pygments, ";"),
    )


def _split(cell: str, separator: str) -> tuple[str, ...]:
    return tuple(cell.split(separator)) if cell else ()
