"""Verify, root digest and cleaning: what a build holds, whether it is whole, what no build uses."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline.digest import LogicalDigest
from pipeline.lease import LEASE
from pipeline.records import Record, Stage, read_record
from pipeline.store import Store, Written, sha256_of

BUILDS = "builds"


class DamageError(Exception):
    """Files are missing or corrupt; the message names them."""


def root_digest(records: Iterable[Record]) -> str:
    """SHA-256 over role, source, unit, rows and logical digest of every file, sorted: no path, time or machine."""
    lines = []
    for record in records:
        stage = record.stage
        for file in record.files:
            name = file.path.removeprefix(stage.directory + "/")
            lines.append(f"{stage.role}\t{stage.source}\t{record.unit}\t{name}\t{file.rows}\t{file.digest}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def write_index(store: Store, name: str, part: str, manifest: str, records: Sequence[Record]) -> str:
    """Write the list of a build's units, and give its root digest.

    ``part`` marks a build of a sample or of some steps only (``.0.1-judge``): it stands beside the whole build of that
    name, and goes when the whole is built.
    """
    units = [[r.stage.role, r.stage.source, r.stage.fingerprint, r.unit] for r in records]
    digest = root_digest(records)
    store.write_json(f"{BUILDS}/{name}{part}.json", {"digest": digest, "manifest": manifest, "units": sorted(units)})
    store.remove(f"{BUILDS}/{name}.started")
    if not part:
        for other in builds(store):
            if other.startswith(f"{name}."):
                store.remove(f"{BUILDS}/{other}.json")
    return digest


def write_started(store: Store, name: str, directories: Sequence[str]) -> None:
    """Note the directories of a build that begins, so that ``gc`` leaves alone what it made if it is killed."""
    store.write_json(f"{BUILDS}/{name}.started", sorted(directories))


def read_index(store: Store, name: str) -> dict[str, Any]:
    """The list of a build's units."""
    index: dict[str, Any] = store.read_json(f"{BUILDS}/{name}.json")
    return index


def builds(store: Store) -> list[str]:
    """Names of the builds in a directory."""
    names = [path.rsplit("/", 1)[1] for path in store.files(BUILDS)]
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


@dataclass(frozen=True)
class Damage:
    """A file that is not what its record says."""

    path: str
    what: str
    record: str


def records_of(store: Store, index: dict[str, Any]) -> Iterator[Record | Damage]:
    """Every record of a build, or that it is missing."""
    for role, source, fingerprint, unit in index["units"]:
        stage = Stage(role, fingerprint, source)
        record = read_record(store, stage, unit)
        path = stage.record_path(unit)
        yield record if record is not None else Damage(path, "the record is missing or unreadable", path)


def check(store: Store, record: Record) -> Iterator[Damage]:
    """Compare each file of a unit with its record: size, SHA-256, and the digest of its logical rows."""
    path = record.stage.record_path(record.unit)
    for file in record.files:
        size = store.size(file.path)
        if size is None:
            yield Damage(file.path, "missing", path)
        elif size != file.size:
            yield Damage(file.path, f"{size} bytes, {file.size} expected", path)
        elif sha256_of(lambda file=file: store.open(file.path)) != file.sha256:  # type: ignore[misc]
            yield Damage(file.path, "its SHA-256 differs", path)
        elif file.path.endswith(".parquet") and _logical(store, file) != file.digest:
            yield Damage(file.path, "the digest of its rows differs", path)


def _logical(store: Store, file: Written) -> str:
    with store.open(file.path) as stream:
        parquet = pq.ParquetFile(stream)
        digest = LogicalDigest(parquet.schema_arrow)
        for group in range(parquet.num_row_groups):
            digest.update(parquet.read_row_group(group, use_threads=False))
    return digest.hexdigest()


def conservation(records: Sequence[Record]) -> list[str]:
    """Check that rows in are rows out in every stage; gives the sentences that hold. Raises DamageError otherwise."""
    by_role: dict[str, list[Record]] = {}
    for record in records:
        by_role.setdefault(record.stage.role, []).append(record)
    counts = [record.counts for record in by_role.get("documents", [])]
    offered, documents = sum(c["offered"] for c in counts), sum(c["documents"] for c in counts)
    rejected = sum(sum(c["rejects"].values()) for c in counts)
    said = [_equal("rows offered", offered, "documents + rejects", documents + rejected)]
    for role in ("language", "measures", "signatures", "contamination", "verdicts", "duplicates"):
        if role in by_role:
            rows = sum(file.rows for record in by_role[role] for file in record.files)
            said.append(_equal("documents", documents, f"rows of {role}", rows))
    if "plan" in by_role:
        dropped = sum(n for r in by_role.get("verdicts", []) for reason, n in r.counts["outcomes"].items() if reason)
        dropped += sum(sum(r.counts["duplicates"].values()) for r in by_role.get("duplicates", []))
        samples = sum(file.rows for record in by_role.get("tokens", []) for file in record.files)
        said.append(_equal("documents", documents, "samples + dropped by a first reason", samples + dropped))
        tokens = sum(record.counts["tokens"] for record in by_role.get("tokens", []))
        left_out = sum(record.counts["dropped_tokens"] for record in by_role.get("selection", []))
        selected = sum(file.rows for record in by_role.get("selection", []) for file in record.files)
        said.append(_equal("samples", samples, "rows of selection", selected))
        planned = sum(record.counts.get("tokens", 0) for record in by_role["plan"])
        said.append(_equal("tokens", tokens, "planned + left out by selection", planned + left_out))
    return said


def _equal(left: str, a: int, right: str, b: int) -> str:
    if a != b:
        raise DamageError(f"conservation is broken: {left} {a:,} is not {right} {b:,}")
    return f"{left} {a:,} = {right}"


def set_aside(store: Store, damages: Iterable[Damage]) -> None:
    """Remove the records of damaged units, so that the next build makes them again."""
    for damage in damages:
        store.remove(damage.record)


def unused(store: Store) -> list[tuple[str, int]]:
    """Files (path, size) below the stage directories that no build in the directory uses."""
    used = set()
    for name in builds(store):
        index = read_index(store, name)
        used |= {Stage(role, fingerprint, source).directory for role, source, fingerprint, _ in index["units"]}
        for entry in records_of(store, index):
            if isinstance(entry, Record):
                used.add(entry.stage.record_path(entry.unit))
                used.update(file.path for file in entry.files)
    kept_folders = [f"{BUILDS}/", "report/", "timings/"]
    for path in store.files(BUILDS):
        if path.endswith(".started"):
            kept_folders += ["work/", *(f"{directory}/" for directory in store.read_json(path))]
    return [
        (path, store.size(path) or 0)
        for path in store.files()
        if path not in used and path not in (LEASE, "lock.json") and not path.startswith(tuple(kept_folders))
    ]
