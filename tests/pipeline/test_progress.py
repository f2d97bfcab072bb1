"""Progress: what was committed, looked at no more than it may cost."""

import time
from typing import Any

from pipeline.progress import Progress

UNITS: list[dict[str, Any]] = [{"unit": str(i), "size": 10} for i in range(4)]


def test_the_last_line_counts_what_was_committed(capsys: Any) -> None:
    with Progress("crawl", UNITS, lambda unit: unit["unit"] != "3"):
        pass
    assert capsys.readouterr().err.startswith("crawl: 3 of 4 units in 0 s, ")


def test_a_committed_unit_is_asked_for_once(capsys: Any) -> None:
    asked: list[str] = []

    def committed(unit: dict[str, Any]) -> bool:
        asked.append(unit["unit"])
        return bool(unit["unit"] != "3")

    progress = Progress("crawl", UNITS, committed)
    progress._interval = 0.01
    with progress:
        time.sleep(0.5)
    assert [asked.count(unit["unit"]) for unit in UNITS[:3]] == [1, 1, 1]
    assert asked.count("3") > 2
    assert "crawl: 3 of 4 units, 30 B of 40 B" in capsys.readouterr().err


def test_looking_takes_at_most_a_tenth_of_the_time() -> None:
    looked: list[float] = []

    def committed(unit: dict[str, Any]) -> bool:
        started = time.monotonic()
        time.sleep(0.005)
        looked.append(time.monotonic() - started)
        return False

    progress = Progress("crawl", UNITS, committed)
    progress._interval = 0.001
    with progress:
        time.sleep(2)
    assert len(looked) >= 8
    assert sum(looked[: -len(UNITS)]) <= 2 / 10


def test_the_end_does_not_wait_for_a_look_at_every_unit() -> None:
    units = [{"unit": str(i), "size": 1} for i in range(100)]
    looks: list[str] = []

    def committed(unit: dict[str, Any]) -> bool:
        looks.append(unit["unit"])
        time.sleep(0.01)
        return True

    progress = Progress("crawl", units, committed)
    progress._interval = 0.001
    with progress:
        time.sleep(0.1)
    assert len(looks) == len(set(looks)) == 100


def test_nothing_is_said_of_what_ends_soon(capsys: Any) -> None:
    with Progress("read inputs", UNITS, lambda unit: True, noun="files", after=5):
        pass
    assert capsys.readouterr().err == ""
