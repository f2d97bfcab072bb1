"""Benchmark overlap from counts that are made up."""

from typing import Any

import pyarrow as pa

from pipeline import overlap
from pipeline.figures import COUNTS

ITEMS = [("a", "a/0"), ("a", "a/1"), ("b", "x"), ("b", "y")]


def counts(*rows: tuple[int, str, int, int]) -> pa.Table:
    names = ("item", "outcome", "documents", "text_bytes")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], COUNTS)


TABLE = counts(
    (-1, "", 900, 9000),
    (1, "contamination", 3, 300),
    (1, "rule_1_lines", 2, 20),
    (2, "contamination", 7, 70),
    (3, "language", 5, 50),
)


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def test_items_stand_most_hit_first_and_ties_by_name() -> None:
    assert rows(overlap.by_item(TABLE, ITEMS)) == [("b", "x", 7, 7, 70), ("a", "a/1", 5, 3, 300), ("b", "y", 5, 0, 0)]


def test_a_benchmark_is_the_sum_of_its_items() -> None:
    assert rows(overlap.by_benchmark(TABLE, ITEMS)) == [("a", 2, 1, 5, 3, 300), ("b", 2, 2, 12, 7, 70)]


def test_nothing_hit_and_no_benchmark_are_tables_without_hits() -> None:
    assert rows(overlap.by_item(counts((-1, "", 1, 1)), ITEMS)) == []
    assert rows(overlap.by_benchmark(counts((-1, "", 1, 1)), ITEMS)) == [("a", 2, 0, 0, 0, 0), ("b", 2, 0, 0, 0, 0)]
    assert rows(overlap.by_benchmark(counts(), [])) == []
