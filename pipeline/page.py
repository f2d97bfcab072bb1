"""Pieces of the report's page: tables with bars, and numbers as a person reads them. Words of the world are escaped."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipeline.progress import human_bytes, human_time

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table: heading, what a cell shows (HTML), and by what number it sorts."""

    title: str
    show: Callable[[Row], str]
    number: Callable[[Row], float] | None = None
    is_bar: bool = False


def count(title: str, key: str) -> Column:
    """A column of whole numbers."""
    return Column(title, lambda row: number(row[key]), lambda row: row[key] or 0)


def size(title: str, key: str) -> Column:
    """A column of bytes."""
    return Column(title, lambda row: "" if row[key] is None else human_bytes(row[key]), lambda row: row[key] or 0)


def share(title: str, key: str) -> Column:
    """A column of shares, as percent."""
    return Column(title, lambda row: "" if row[key] is None else percent(row[key]), lambda row: row[key] or 0)


def text(title: str, key: str) -> Column:
    """A column of words."""
    return Column(title, lambda row: f"<bdi>{escape(str(row[key]))}</bdi>")


def bar(title: str, parts: Callable[[Row], Iterable[tuple[str, float, float, int]]]) -> Column:
    """A column of bars; see :func:`_svg` for the parts."""
    return Column(title, lambda row: _svg(parts(row)), is_bar=True)


def _svg(parts: Iterable[tuple[str, float, float, int]]) -> str:
    """Bars (class, start and width as shares of the whole, line 0 or 1; line 2: both); the numbers stand beside."""
    rects = []
    for name, start, width, line in parts:
        if width > 0:
            x, w = min(1000 * start, 997.0), max(1000 * width, 3.0)
            y, height = (3, 12) if line == 2 else (2 + 7 * line, 6)
            rects.append(f"<rect class='{name}' x='{x:.1f}' y='{y}' width='{w:.1f}' height='{height}'/>")
    return f"<svg viewBox='0 0 1000 18' preserveAspectRatio='none' aria-hidden='true'>{''.join(rects)}</svg>"


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    row_class: Callable[[Row], str] = lambda row: "",
    sortable: bool = False,
) -> str:
    """A table; its first column heads the rows."""
    kinds = ["bar" if c.is_bar else "n" if c.number else "" for c in columns]
    heads = "".join(f"<th scope='col' class='{k}'>{c.title}</th>" for c, k in zip(columns, kinds, strict=True))
    lines = []
    for row in rows:
        cells = [f"<th scope='row'>{columns[0].show(row)}</th>"]
        for column, kind in zip(columns[1:], kinds[1:], strict=True):
            value = f" data-v='{column.number(row)}'" if sortable and column.number else ""
            cells.append(f"<td class='{kind}'{value}>{column.show(row)}</td>")
        lines.append(f"<tr class='{row_class(row)}'>{''.join(cells)}</tr>")
    return (
        f"<div class='wide' tabindex='0' role='region' aria-label='{caption}'>"
        f"<table class='{'sortable' if sortable else ''}'><caption>{caption}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def key(*entries: tuple[str, str]) -> str:
    """What the colours (classes) of a table's bars mean."""
    return "<p>" + "".join(f"<span class='key {name}'></span>{text}" for name, text in entries) + "</p>"


def number(value: int | None) -> str:
    """A whole number; nothing where it is not known."""
    return "" if value is None else f"{value:,}"


def short(value: float) -> str:
    """A count that a person can read: 99,999 or 2.52 M."""
    if value < 100_000:
        return f"{value:,.0f}"
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.3g} {unit}".strip()
        value /= 1000
    raise AssertionError


def percent(share: float) -> str:
    """A share as percent."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """A time that a person can read, with a tenth below ten seconds."""
    return f"{seconds:.1f} s" if seconds < 10 else human_time(seconds)
