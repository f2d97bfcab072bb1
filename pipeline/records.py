"""Stages, units and their records: what is there, whole, and made from what (``docs/data.md``).

A unit's record is written last, atomically: rows, counts, the logical digest, size and SHA-256 of each file, and the
digests of its inputs. No time, host or attempt stands in it. Resuming is finding valid records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.store import Store, Written


@dataclass(frozen=True)
class Stage:
    """A stage of one source (or of the whole build, where ``source`` is empty), named by what made it."""

    role: str
    fingerprint: str
    source: str = ""

    @property
    def directory(self) -> str:
        """Folder below the build's root."""
        return f"{self.role}/{self.source}-{self.fingerprint}" if self.source else f"{self.role}/{self.fingerprint}"

    def record_path(self, unit: str) -> str:
        """Where the record of a unit lies."""
        return f"{self.directory}/{unit}.json"

    def file(self, unit: str, suffix: str = ".parquet") -> str:
        """Where a file of a unit lies."""
        return f"{self.directory}/{unit}{suffix}"


@dataclass(frozen=True)
class Record:
    """What a unit holds."""

    stage: Stage
    unit: str
    inputs: Mapping[str, str]
    files: tuple[Written, ...]
    counts: Mapping[str, Any]
    is_new: bool = field(default=False, compare=False)

    @property
    def digest(self) -> str:
        """The logical digest of the unit's only file."""
        (file,) = self.files
        return file.digest


def commit(store: Store, record: Record) -> Record:
    """Write the record of a unit whose files are there."""
    store.write_json(
        record.stage.record_path(record.unit),
        {
            "unit": record.unit,
            "inputs": dict(record.inputs),
            "files": [file.as_json() for file in record.files],
            "counts": dict(record.counts),
        },
    )
    return replace(record, is_new=True)


def read_record(store: Store, stage: Stage, unit: str) -> Record | None:
    """The record of a unit, or None where there is none that can be read."""
    try:
        raw = store.read_json(stage.record_path(unit))
        files = tuple(Written(f["path"], f["rows"], f["digest"], f["bytes"], f["sha256"]) for f in raw["files"])
        return Record(stage, raw["unit"], dict(raw["inputs"]), files, dict(raw["counts"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find(store: Store, stage: Stage, unit: str, inputs: Mapping[str, str]) -> Record | None:
    """The record of a unit that was made from these inputs and whose files are there in full size."""
    record = read_record(store, stage, unit)
    if record is None or dict(record.inputs) != dict(inputs):
        return None
    return record if all(store.size(file.path) == file.size for file in record.files) else None
