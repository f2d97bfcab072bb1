"""A pass: one Beam pipeline over the units that still lack a valid output (architecture, rules 1 to 5).

One shape of graph for every pass: Create, a GroupByKey that spreads the units, a ParDo that does the work of a unit;
where a step follows, a GroupByKey that waits for all of them; one leaf. The elements are numbers; the specifications of
the units lie in a file. The work writes its own files and commits a record last, so running a bundle twice, or a pass
again, changes nothing.
"""

import hashlib
import json
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import apache_beam as beam

from pipeline.engine import Engine
from pipeline.fingerprint import environment_digest
from pipeline.progress import Progress, human_time
from pipeline.store import StorageError, Store

FAULT = "headrace fault: "
_MODULES = ("pipeline.build",)
_WATCHDOG_SECONDS = 600.0
_WATCHDOG_BYTES_PER_SECOND = 100_000.0
"""A unit may take ten minutes and ten seconds more for each MB: some hundred times what it takes. All work is bounded
by counted budgets; this is for what hangs in spite of them, and a fault, never an outcome."""
_EXIT_HANGS = 76
_REQUESTS = 16


class Work(Protocol):
    """What a pass does to a unit. Picklable, from an importable module, its configuration in its fields."""

    @property
    def store(self) -> Store:
        """Where the build lies."""

    def setup(self) -> None:
        """Load what is heavy, once per process."""

    def run(self, specification: dict[str, Any]) -> int:
        """Do one unit and commit its record; gives the bytes of text that passed."""


@dataclass
class PerSource:
    """The work of a pass over several sources: each unit goes to the work of its source."""

    works: dict[str, Work]
    store: Store

    def setup(self) -> None:
        """Set every work up."""
        for work in self.works.values():
            work.setup()

    def run(self, specification: dict[str, Any]) -> int:
        """Do one unit."""
        return self.works[specification["source"]].run(specification)


class BuildFaultError(Exception):
    """Units stayed incomplete; the message names each with its cause."""


@dataclass(frozen=True)
class Step:
    """Units of work that may run side by side.

    A unit's specification is a JSON value with at least ``unit`` (its name) and ``size`` (bytes, for the order and the
    progress); ``committed`` tells whether it is done.
    """

    name: str
    work: Work
    units: Sequence[dict[str, Any]]
    committed: Callable[[dict[str, Any]], bool]


def run_pass(name: str, steps: Sequence[Step], engine: Engine, libraries: Iterable[str] = ()) -> bool:
    """Run every unit that is not committed (largest first, step after step) and see that each was. False: none was.

    Raises BuildFaultError where units stayed incomplete, StorageError where the output can't be written.
    """
    waiting = [_Waiting.of(step) for step in steps]
    waiting = [step for step in waiting if step.units]
    if not waiting:
        return False
    units = [unit | {"step": number} for number, step in enumerate(waiting) for unit in step.units]

    def committed(unit: dict[str, Any]) -> bool:
        return bool(waiting[unit["step"]].committed(unit))

    for step in waiting:
        step.work.store.write_json(step.path, step.units)
    with Progress(name, units, committed, engine.quiet):
        stop = f"work/{name}-{uuid.uuid4().hex}.stop"
        engine.run(lambda pipeline: _graph(pipeline, waiting, libraries, stop), waiting[0].work.store, stop)
    for step in waiting:
        step.work.store.remove(step.path)
    for step in waiting:
        step.see_that_all_are_done()
    return True


@dataclass(frozen=True)
class _Waiting(Step):
    """What is left to do of a step. Its units lie in a file that is named by what it holds: a job that outlived its
    driver reads its own, never those of the next."""

    path: str = ""

    @staticmethod
    def of(step: Step) -> "_Waiting":
        units = _lacking(step)
        units.sort(key=lambda u: (-int(u["size"]), str(u["unit"])))
        content = hashlib.sha256(json.dumps(units, sort_keys=True).encode()).hexdigest()[:16]
        return _Waiting(step.name, step.work, units, step.committed, f"work/{step.name}-{content}.json")

    def see_that_all_are_done(self) -> None:
        faults = [_fault_of(self.work.store, self.name, u) for u in _lacking(self)]
        if faults:
            shown = "\n".join(f"  {fault}" for fault in faults[:10])
            more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise BuildFaultError(
                f"{self.name}: {len(faults)} of {len(self.units)} units stayed incomplete:\n{shown}{more}\n"
                "The rest is done and kept; the same command tries these again."
            )
        for unit in self.units:
            self.work.store.remove(_fault_path(self.name, unit))


def _lacking(step: Step) -> list[dict[str, Any]]:
    """The units that are not committed; an object store is asked for many at a time."""
    if step.work.store.is_local:
        return [unit for unit in step.units if not step.committed(unit)]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return [unit for unit, done in zip(step.units, pool.map(step.committed, step.units), strict=True) if not done]


def _graph(pipeline: beam.Pipeline, steps: Sequence[_Waiting], libraries: Iterable[str], stop: str) -> None:
    numbers = pipeline | "Units" >> beam.Create(range(len(steps[0].units)), reshuffle=False)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        label = step.name.capitalize()
        done = (
            numbers
            | f"{label}: key" >> beam.ParDo(Key())
            | f"{label}: spread" >> beam.GroupByKey()
            | label >> beam.ParDo(_Do(step.name, step.work, step.path, stop, libraries))
        )
        if following is not None:
            numbers = (
                done
                | f"{label}: all" >> beam.GroupByKey()
                | f"{label}: next" >> beam.ParDo(_Next(len(following.units)))
            )


@beam.typehints.with_input_types(int)
@beam.typehints.with_output_types(tuple[int, int])
class Key(beam.DoFn):
    """A key of its own for every unit: the GroupByKey behind it spreads the work."""

    def process(self, element: int) -> Iterator[tuple[int, int]]:
        """Key a unit's number by itself."""
        yield element, element


@beam.typehints.with_input_types(tuple[int, Iterable[int]])
@beam.typehints.with_output_types(int)
class _Next(beam.DoFn):
    """When all units of a step are done, the numbers of the units that follow."""

    def __init__(self, n_units: int):
        self._n_units = n_units

    def process(self, element: tuple[int, Iterable[int]]) -> Iterator[int]:
        yield from range(self._n_units)


@beam.typehints.with_input_types(tuple[int, Iterable[int]])
@beam.typehints.with_output_types(tuple[int, int])
class _Do(beam.DoFn):
    """Do the work of each unit. A unit that fails leaves a note and stays incomplete; the others go on.

    Works only where code and content-deciding libraries are the driver's.
    """

    def __init__(self, name: str, work: Work, specifications: str, stop: str, libraries: Iterable[str]):
        self._name, self._work, self._specifications, self._note = name, work, specifications, stop
        self._libraries = tuple(libraries)
        self._environment = environment_digest(_MODULES, self._libraries)

    def setup(self) -> None:
        """Compare this environment with the driver's, and load what the work needs."""
        here = environment_digest(_MODULES, self._libraries)
        if here != self._environment:
            raise self._stop(
                f"this worker's code or libraries differ from the driver's ({here} here, {self._environment} "
                "there): install the same version of headrace and of its locked dependencies on both"
            )
        self._units = self._work.store.read_json(self._specifications)
        self._work.setup()

    def _stop(self, why: str) -> RuntimeError:
        """What to raise where no retry helps. The note ends a job whose runner would try again."""
        message = f"{FAULT}{why}"
        with suppress(Exception):
            self._work.store.write_json(self._note, {"message": message})
        return RuntimeError(message)

    def process(self, element: tuple[int, Iterable[int]]) -> Iterator[tuple[int, int]]:
        for number in element[1]:
            self._do(self._units[number])
            yield 0, number

    def _do(self, unit: dict[str, Any]) -> None:
        try:
            self._work_on(unit)
        except StorageError as error:
            raise self._stop(str(error)) from error

    def _work_on(self, unit: dict[str, Any]) -> None:
        started, cpu = time.monotonic(), time.process_time()
        limit = _WATCHDOG_SECONDS + int(unit["size"]) / _WATCHDOG_BYTES_PER_SECOND
        watchdog = threading.Timer(limit, self._give_up, (unit, limit))
        watchdog.daemon = True
        watchdog.start()
        try:
            size = self._work.run(unit)
        except (StorageError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic in an extension is no Exception
            cause = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
            note = {"unit": unit["unit"], "cause": cause, "trace": traceback.format_exc()}
            self._work.store.write_json(_fault_path(self._name, unit), note)
            return
        finally:
            watchdog.cancel()
        figures = {"pass": self._name, "unit": unit["unit"], "text_bytes": size, "worker": os.getpid()}
        figures |= {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        self._work.store.write_json(f"timings/{self._name}/{unit.get('source', 'all')}/{unit['unit']}.json", figures)

    def _give_up(self, unit: dict[str, Any], limit: float) -> None:
        """End a process that hangs in a unit; the note says which, and the driver that a worker died."""
        note = {"unit": unit["unit"], "cause": f"no end after {human_time(limit)}", "trace": ""}
        try:
            self._work.store.write_json(_fault_path(self._name, unit), note)
        finally:
            print(f"\nheadrace: {unit['unit']} hangs, {note['cause']}; the same command goes on", file=sys.__stderr__)
            os._exit(_EXIT_HANGS)


def _fault_path(name: str, unit: dict[str, Any]) -> str:
    return f"faults/{name}/{unit.get('source', 'all')}/{unit['unit']}.json"


def _fault_of(store: Store, name: str, unit: dict[str, Any]) -> str:
    where = f"{unit.get('source', '')}/{unit['unit']}".lstrip("/")
    try:
        note = store.read_json(_fault_path(name, unit))
    except FileNotFoundError:
        return f"{where}: not done"
    return f"{where}: {note['cause']} (trace in {_fault_path(name, unit)})"
