"""The ``headrace`` command."""

import argparse
import glob
import io
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.build import Build
    from pipeline.manifest import Manifest
    from pipeline.store import Store

_DESCRIPTION = """\
Headrace builds code and math corpora for language models: repositories, archives, web pages and tables in, token
shards and a report out. A build is named by its content: the same manifest and inputs give the same digest on any
machine, with any number of workers, after any crash."""

_EXAMPLES = {
    "build": """\
examples:
  headrace build manifests/demo.yaml
  headrace build corpus.yaml --out /data/corpus --workers 16
  headrace build corpus.yaml --sample 0.01             about a hundredth of the input units, to try a manifest
  headrace build corpus.yaml --until judge             stop after the verdicts
  headrace build corpus.yaml -- --runner=FlinkRunner   everything behind -- is Beam's own

The same command goes on where an interrupted build was. Steps: crawl, annotate, judge, deduplicate, tokenize, select,
plan. docs/manifest.md names every key of a manifest.""",
    "plan": """\
examples:
  headrace plan manifests/demo.yaml                    what a build would do, before anything starts""",
    "verify": """\
examples:
  headrace verify out/demo                             checks every file, every digest and that no row was lost;
                                                       the last line is the root digest
Units with damaged files are set aside, so that the next `headrace build` makes them again.""",
    "gc": """\
examples:
  headrace gc out/demo                                 shows what no build uses, and asks
  headrace gc out/demo --yes                           removes it without asking""",
    "languages": """\
examples:
  headrace languages                                   the 338 languages
  headrace languages src/ --json                       path, language, evidence and confidence of each file""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a user's mistake is one message and exit status 2, never a traceback."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    beam_options: list[str] = []
    if "--" in given:
        cut = given.index("--")
        given, beam_options = given[:cut], given[cut + 1 :]
    options = _parser().parse_args(given)
    if beam_options and options.command != "build":
        _parser().error(f"{options.command} takes no Beam options behind --")
    commands = {"build": _build, "plan": _plan, "verify": _verify, "gc": _gc, "languages": _languages}
    from pipeline.store import StorageError

    try:
        if options.command == "build":
            return _build(options, beam_options)
        return commands[options.command](options)  # type: ignore[operator, no-any-return]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not isinstance(error, (StorageError, *_user_errors(options.command))):
            raise
        print(f"headrace: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nheadrace: stopped; what was committed is kept, the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("headrace", description=_DESCRIPTION, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary, epilog=_EXAMPLES[name], formatter_class=raw)

    build = add("build", "Build the corpus that a manifest describes.")
    build.add_argument("manifest", help="YAML file")
    out = "where the build lies (an fsspec URL); default: out/NAME below the working directory, NAME as in the manifest"
    build.add_argument("--out", metavar="DIR", help=out)
    build.add_argument("--workers", type=int, metavar="N", help="worker processes; default: the cores of this machine")
    sample = (
        "take about this share of the input units of each source (files, repositories, buckets), at least one; the "
    )
    sample += "units differ in size, so the share of text may be another"
    build.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help=sample)
    build.add_argument("--until", default="plan", metavar="STAGE", help="the last step to run; default: plan")
    plan = add("plan", "Show which tables exist and which would be made, why, and what that takes.")
    plan.add_argument("manifest", help="YAML file")
    plan.add_argument("--out", metavar="DIR", help=out)
    verify = add("verify", "Check the files of a build and print its root digest.")
    verify.add_argument("directory", metavar="DIR")
    gc = add("gc", "Remove what no build in a directory uses, after showing it.")
    gc.add_argument("directory", metavar="DIR")
    gc.add_argument("--yes", action="store_true", help="do not ask")
    languages = add("languages", "List the languages, or classify files.")
    languages.add_argument("paths", nargs="*", metavar="PATH", help="files or folders to classify")
    languages.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _user_errors(command: str) -> tuple[type[Exception], ...]:
    if command == "languages":
        return (FileNotFoundError,)
    from pipeline.engine import EngineError
    from pipeline.lease import LeaseError
    from pipeline.manifest import ManifestError
    from pipeline.passes import BuildFaultError
    from pipeline.tables import TableError
    from pipeline.verify import DamageError

    return (EngineError, LeaseError, ManifestError, BuildFaultError, DamageError, TableError)


def _open(options: argparse.Namespace, workers: int = 1, beam_options: Sequence[str] = ()) -> "Build":
    from pipeline.build import Build
    from pipeline.engine import Engine
    from pipeline.manifest import load
    from pipeline.store import Store

    manifest = load(options.manifest)
    _see_that_paths_exist(manifest)
    store = Store(options.out or f"out/{manifest.name}")
    return Build(manifest, store, Engine(workers, tuple(beam_options)), getattr(options, "sample", 1.0))


def _see_that_paths_exist(manifest: "Manifest") -> None:
    """Raise ManifestError with every local path of the manifest that isn't there. What is remote is seen when read."""
    from pipeline.github import local_path
    from pipeline.inputs import nearest
    from pipeline.manifest import ManifestError

    missing = []
    for key, url in manifest.paths():
        path = str(local_path(url) or "")
        if path and not os.path.exists(path) and not any(glob.iglob(path, recursive=True, include_hidden=True)):
            what = "nothing matches" if "paths" in key else "no file or folder"
            missing.append(ManifestError(f"{what} {path}{nearest(path)}", *key))
    if missing:
        raise ManifestError("\n".join(manifest.place(error) for error in missing))


def _build(options: argparse.Namespace, beam_options: Sequence[str]) -> int:
    from dataclasses import replace

    from pipeline import report, verify
    from pipeline.build import STEPS
    from pipeline.figures import figures
    from pipeline.lease import Lease
    from pipeline.progress import human_time

    if options.until not in STEPS:
        _parser().error(f"--until takes one of {', '.join(STEPS)}, not {options.until!r}")
    if not 0 < options.sample <= 1:
        _parser().error(f"--sample takes a share above 0 and up to 1, not {options.sample}")
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    if workers < 1:
        _parser().error(f"--workers takes 1 or more, not {workers}")
    started = time.monotonic()
    build = _open(options, workers, beam_options)
    _see_that_nobody_builds(build.store)
    build.check()
    lease = Lease(build.store)
    build.engine = replace(build.engine, on_death=lease.release)
    with lease:
        build.store.sweep()
        verify.write_started(build.store, build.manifest.name, build.stages.directories)
        records = build.run(options.until)
        part = "" if options.sample == 1 and options.until == STEPS[-1] else f".{options.sample:g}-{options.until}"
        verify.conservation(records)
        digest = verify.write_index(build.store, build.manifest.name, part, build.manifest.text, records)
        tables = figures(build.store, build.manifest, records)
        told = report.write(build, records, tables, digest, time.monotonic() - started)
    took, units = human_time(time.monotonic() - started), f"{len(records):,} units"
    print(f"done in {took}: {units}" if told.is_new else f"everything was up to date: {units}, seen in {took}")
    print(f"report: {told.page}")
    for stage in build.stages.tokens.values() if told.is_new and options.until in STEPS[4:] else ():
        print(f"tokens: {build.store.url}/{stage.directory}")
    sys.stdout.flush()
    for gap in told.gaps:
        print(f"warning: {gap}", file=sys.stderr, flush=True)
    print(f"root digest {digest}")
    return 0


def _see_that_nobody_builds(store: "Store") -> None:
    """Raise LeaseError where another build holds the directory, before inputs are hashed, which may take long."""
    from pipeline.lease import LEASE, Lease

    if store.exists(LEASE):
        with Lease(store):
            pass


def _plan(options: argparse.Namespace) -> int:
    from pipeline import estimate

    build = _open(options)
    build.check()
    for line in estimate.describe(build):
        print(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from pipeline import verify
    from pipeline.lease import Lease
    from pipeline.records import Record
    from pipeline.store import Store

    store = Store(options.directory)
    names = verify.builds(store)
    if not names:
        raise verify.DamageError(f"{options.directory}: no finished build lies here (no {verify.BUILDS}/*.json)")
    damages: list[verify.Damage] = []
    digests = []
    for name in names:
        entries = list(verify.records_of(store, verify.read_index(store, name)))
        records = [entry for entry in entries if isinstance(entry, Record)]
        found = [entry for entry in entries if isinstance(entry, verify.Damage)]
        found += [damage for record in records for damage in verify.check(store, record)]
        files = sum(len(record.files) for record in records)
        print(f"{name}: {len(records):,} units, {files:,} files checked, {len(found)} damaged")
        damages += found
        if not found:
            for sentence in verify.conservation(records):
                print(f"{name}: {sentence}")
        digest = verify.root_digest(records)
        recorded = verify.read_index(store, name)["digest"]
        if not found and digest != recorded:
            raise verify.DamageError(f"{name}: the root digest is {digest}, {recorded} was recorded")
        digests.append(digest)
    if damages:
        with Lease(store):
            verify.set_aside(store, damages)
        shown = "\n".join(f"  {d.path}: {d.what}" for d in damages[:20])
        raise verify.DamageError(
            f"{len(damages)} damaged files:\n{shown}\nTheir units are set aside; `headrace build` makes them again."
        )
    print(
        f"root digest {digests[0]}" if len(names) == 1 else "\n".join(map("root digest {} {}".format, digests, names))
    )
    return 0


def _gc(options: argparse.Namespace) -> int:
    from pipeline import verify
    from pipeline.lease import Lease
    from pipeline.progress import human_bytes
    from pipeline.store import Store

    store = Store(options.directory)
    if not verify.builds(store):
        raise verify.DamageError(f"{options.directory}: no finished build lies here, so nothing is known to be unused")
    with Lease(store):
        unused = verify.unused(store)
        if not unused:
            print("nothing to remove: every file belongs to a build")
            return 0
        for path, size in unused:
            print(f"{human_bytes(size):>10}  {path}")
        total = human_bytes(sum(size for _, size in unused))
        if not options.yes:
            print(f"remove these {len(unused):,} files, {total}? [y/N] ", end="", flush=True)
            answer = sys.stdin.readline()
            if answer.strip().lower() not in ("y", "yes"):
                print("nothing removed (answer y, or give --yes)")
                return 0
        for path, _ in unused:
            store.remove(path)
        print(f"removed {len(unused):,} files, {total}")
    return 0


def _languages(options: argparse.Namespace) -> int:
    import languages

    if not options.paths:
        for language in languages.table():
            known = {"language": language.name, "kind": language.kind, "extensions": list(language.extensions)}
            line = f"{language.name:<40} {language.kind:<6} {' '.join(language.extensions)}"
            print(json.dumps(known, ensure_ascii=False) if options.json else line)
        return 0
    for path in _files(options.paths):
        verdict = languages.classify(os.fsencode(path), _text_of(path))
        shown = os.fsencode(path).decode("utf-8", "replace")
        row: dict[str, Any] = {"path": shown, "language": verdict.language, "evidence": verdict.evidence}
        row |= {"confidence": verdict.confidence / 1000}
        line = f"{verdict.language:<24} {verdict.evidence:<10} {verdict.confidence / 1000:.2f}  {shown}"
        print(json.dumps(row, ensure_ascii=False) if options.json else line)
    return 0


def _files(paths: Sequence[str]) -> Any:
    for path in paths:
        if os.path.isdir(path):
            for folder, folders, names in os.walk(path):
                folders[:] = sorted(name for name in folders if name != ".git")
                yield from (p for p in (os.path.join(folder, name) for name in sorted(names)) if os.path.isfile(p))
        elif os.path.exists(path):
            yield path
        else:
            raise FileNotFoundError(f"no file or folder {path}")


def _text_of(path: str) -> bytes:
    from filters.text import decode

    with open(path, "rb") as file:
        raw = file.read(1 << 20)
    for cut in range(4):
        text = decode(raw[: len(raw) - cut]).text
        if text is not None:
            return text.encode()
    return b""


if __name__ == "__main__":
    sys.exit(main())
