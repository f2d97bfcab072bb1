"""A web page to text: code lines exact, tables and lists readable, boilerplate out.

turbohtml parses and lays out; it moves the lines of a ``<pre>`` (web reference, section 2), so each outermost one is
swapped for a placeholder before the layout and put back after it. A placeholder is a number between two NULs: no
parsed page can hold a NUL (HTML standard, 13.2.5: the tokenizer drops or replaces it, ``&#0;`` becomes U+FFFD), so
text from the page is never taken for one, as could happen with private-use characters.

The boilerplate rule goes by names alone, see :data:`BOILERPLATE`. Formulas are kept as far as TeX stands in the page:
``script[type^="math/tex"]`` and ``annotation[encoding="application/x-tex"]`` take the place of what is drawn from them.
"""

import re
from dataclasses import dataclass
from typing import Any

from filters.text import decode

BOILERPLATE = (
    "nav, aside, script, style, template, noscript, iframe, object, svg, button, select, dialog, "
    "header:not(article header):not(main header), footer, form:not(:has(p, pre, h1, h2)), "
    "[role=navigation], [role=search], [role=banner], [role=contentinfo], [aria-hidden=true], a.headerlink"
)
"""What is cut, as a CSS selector: elements that carry no content, and ARIA roles that say so.

A ``header`` inside ``article`` or ``main`` holds its title and stays; so does a ``form`` around a whole page (ASP.NET).
``a.headerlink`` is the permalink sign after Sphinx headings."""

_LINE_NUMBERS = ".linenos, .lineno, .linenodiv, .gutter, .line-numbers-rows"
_TEX = '.katex, math, script[type^="math/tex"]'
_TEX_NEEDLES = ("math/tex", "application/x-tex")
_LINE_NUMBER_NEEDLES = ("lineno", "gutter", "line-numbers")
_PLACEHOLDER = re.compile("\0([0-9]+)\0")
_META_CHARSET = re.compile(rb"""<meta[^>]{1,200}?charset\s*=\s*["']?\s*([-\w.:]{1,40})""", re.ASCII | re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")


@dataclass(frozen=True, slots=True)
class Extracted:
    """A page as text. ``text`` is None exactly when ``reason`` is set.

    Reasons: ``binary`` and ``undecodable`` (:func:`filters.text.decode`), ``html`` (the parser refused it), ``empty``.
    """

    text: str | None
    title: str
    reason: str | None = None


def extract(raw: bytes, charset: str = "") -> Extracted:
    """Extract a page's text and title (white space collapsed); ``charset`` is what the transport declared.

    In the text blocks stand apart by a blank line, list items start with ``* `` or a number, the cells of a table row
    are parted by `` | ``, the lines of a ``<pre>`` are as drawn, line ends are LF. Never raises. The work is linear in
    the page (turbohtml nests 512 elements at most); callers bound its size.
    """
    markup, reason = _markup(raw, charset)
    if markup is None:
        return Extracted(None, "", reason)
    import turbohtml

    try:
        document = turbohtml.parse(markup, positions=False)
        title_element = document.select_one("head > title")
        title = " ".join(title_element.text.split()) if title_element is not None else ""
        code = _set_code_aside(document, markup)
        flatten_tables(document)
        body = document.to_text()
    except (turbohtml.HTMLParseError, ValueError):
        return Extracted(None, "", "html")
    text = _put_code_back(body, code)
    return Extracted(text, title) if text.strip() else Extracted(None, title, "empty")


def flatten_tables(document: Any, separator: str = " | ") -> None:
    """Turn each table row of a parsed page into one line of its cells, in place.

    turbohtml pads cells to the width of their column, so the text of a table can grow with the square of its markup
    (52 kB became 32 MB): neither readable nor bounded.
    """
    if document.select_one("td, th") is None:
        return
    import turbohtml

    document.strip_tags(":is(td, th) > p:only-child")
    for cell in document.select(":is(td, th) + :is(td, th)"):
        cell.insert_before(turbohtml.Text(separator))
    for cell in document.select("td, th"):
        cell.tag = "span"
    for row in document.select("tr"):
        row.append(turbohtml.Element("br"))
        row.tag = "span"
    for part in document.select("table, caption"):
        part.tag = "div"


def _markup(raw: bytes, charset: str) -> tuple[str | None, str | None]:
    """The page as a string, or why not. A page whose non-ASCII characters are mostly UTF-8 gets U+FFFD for the rest."""
    declared = charset
    if not declared and (found := _META_CHARSET.search(raw[:1024])):
        declared = found[1].decode("ascii")
    decoded = decode(raw, declared)
    if decoded.reason == "binary" or (decoded.text is not None and decoded.encoding.startswith("utf-")):
        return decoded.text, decoded.reason
    lenient = raw.decode("utf-8-sig", errors="replace")
    if 2 * lenient.count("\ufffd") < len(lenient) - len(lenient.encode("ascii", "ignore")):
        return lenient, None
    return decoded.text, decoded.reason


def _set_code_aside(document: Any, markup: str) -> list[str]:
    """Cut boilerplate and swap each outermost ``<pre>`` for a placeholder; returns the code that they stand for."""
    if any(needle in markup for needle in _TEX_NEEDLES):
        _write_formulas(document)
    document.remove(BOILERPLATE)
    if "blob-code" in markup:
        for table in document.select("table:has(td.blob-code)"):
            listing = "\n".join(cell.text.strip("\r\n") for cell in table.select("td.blob-code"))
            table.clear()
            table.tag = "pre"
            table.set_text(listing)
    if any(needle in markup for needle in _LINE_NUMBER_NEEDLES):
        document.remove(_LINE_NUMBERS)
    kept: list[str] = []
    for pre in document.select("pre:not(pre pre)"):
        for line_break in pre.select("br"):
            line_break.replace_with(_text("\n"))
        for item in pre.select("li"):
            item.append(_text("\n"))
        lines = pre.text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
        if lines:
            pre.set_text(f"\0{len(kept)}\0")
            kept.append(lines)
    return kept


def _write_formulas(document: Any) -> None:
    """Put the TeX source, between dollar signs, in the place of what is drawn from it."""
    for node in document.select(_TEX):
        tex = node if node.tag == "script" else node.select_one('annotation[encoding="application/x-tex"]')
        if tex is None or node.parent is None or node.matches(".katex .katex, .katex math"):
            continue
        source = tex.text.strip()
        display = "mode=display" in (node.attr("type") or "") or node.closest('.katex-display, [display="block"]')
        node.replace_with(_text(f"$${source}$$" if display else f"${source}$"))


def _put_code_back(body: str, kept: list[str]) -> str:
    """Replace placeholders by what they stand for, each on lines of its own."""
    pieces: list[str] = []
    parts = _PLACEHOLDER.split(body)  # text, number, text, number, ..., text
    for number, part in enumerate(parts):
        if number % 2:
            pieces.append(kept[int(part)])
            continue
        between = part.lstrip(" \t") if number else part
        if number and between and between[0] != "\n":
            between = "\n" + between
        if number < len(parts) - 1:
            between = between.rstrip(" \t")
            if between and between[-1] != "\n":
                between += "\n"
        pieces.append(_BLANK_LINES.sub("\n\n", between))
    return "".join(pieces).strip("\n")


def _text(data: str) -> Any:
    from turbohtml import Text

    return Text(data)
