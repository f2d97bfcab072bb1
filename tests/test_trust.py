"""What Headrace promises, shown on real processes and files (docs/trust.md names each promise)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.lease import Lease
from pipeline.store import Store
from tests.sites import CHECKOUT, MANIFEST, Site, children_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site that was built with one worker; tests must not change it."""
    site = Site.make(tmp_path_factory.mktemp("trust"))
    site.digest = site.build("--workers", "1")
    return site


@pytest.fixture
def copy(site, tmp_path):
    """A copy of the built site that a test may harm."""
    shutil.copytree(site.folder, tmp_path / "copy", symlinks=True)
    return Site(tmp_path / "copy", tmp_path / "copy" / "out")


@pytest.fixture
def fresh(site, tmp_path):
    """The same input and manifest with nothing built."""
    return Site(site.folder, tmp_path / "fresh-out")


@pytest.mark.parametrize("workers", ["2", "4"])
def test_the_digest_is_the_same_for_any_number_of_workers(site, fresh, workers):
    assert fresh.build("--workers", workers) == site.digest


def test_the_digest_is_the_same_for_another_checkout_path_hash_seed_locale_and_input_order(site, tmp_path):
    checkout = tmp_path / "another checkout"
    for package in ("pipeline", "filters", "languages", "manifests"):
        shutil.copytree(CHECKOUT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = MANIFEST | {"sources": [dict(source) for source in MANIFEST["sources"]]}
    names = sorted(os.listdir(site.folder / "in" / "code"), reverse=True)
    manifest["sources"][0]["paths"] = [f"in/code/{name}" for name in names]
    other = Site.make(tmp_path / "moved", tmp_path / "elsewhere" / "out", manifest)
    environment = os.environ | {"PYTHONHASHSEED": "4711", "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}
    environment |= {"PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(checkout), "TZ": "Asia/Kathmandu"}
    done = subprocess.run(
        other.command("--workers", "2"), env=environment, cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == f"root digest {site.digest}"


def test_the_digest_is_the_same_when_every_bundle_runs_twice(site, fresh):
    assert fresh.build("--workers", "2", "--", "--direct_runner_bundle_repeat=1") == site.digest


def test_a_build_grown_source_by_source_is_the_build_in_one_go(site, tmp_path):
    grown = Site.make(tmp_path / "grown")
    for n in (1, 2, 3):
        part = MANIFEST | {"sources": MANIFEST["sources"][:n], "components": MANIFEST["components"][::2]}
        part |= {"mixture": {"weights": {"code": 6}}}
        grown.write(part)
        grown.build("--workers", "1", "--until", "deduplicate")
    grown.write(MANIFEST)
    assert grown.build("--workers", "1") == site.digest


KILLED_WHEN = {
    "crawl": "documents",
    "annotate": "signatures",
    "judge": "verdicts",
    "deduplicate": "work/cluster",
    "tokenize": "tokens",
    "select": "selection",
    "plan": "plan",
}


@pytest.mark.parametrize("step", KILLED_WHEN)
def test_a_build_killed_in_any_pass_goes_on_where_it_was(site, fresh, step):
    role = KILLED_WHEN[step]

    def reached() -> bool:
        if role.startswith("work"):
            return any((fresh.out / "work").glob("cluster-*/*/*.json"))
        return bool(fresh.records(role))

    fresh.kill_when(fresh.start("--workers", "2"), reached)
    kept = {path: path.stat().st_mtime_ns for path in fresh.records("documents")}
    assert fresh.build("--workers", "2") == site.digest
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items())
    assert not list(fresh.out.rglob("*.tmp.*"))


def test_a_killed_worker_ends_the_build_with_a_clear_error(site, fresh):
    build = fresh.start("--workers", "2")
    while not fresh.records("documents"):
        assert build.poll() is None
        time.sleep(0.002)
    workers = [pid for pid in children_of(build.pid) if b"pipeline.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, said = build.communicate(timeout=60)
    assert build.returncode == 75
    assert "a worker process died (SIGKILL" in said
    assert "Traceback" not in said
    assert fresh.build("--workers", "2") == site.digest


def test_ctrl_c_stops_a_build_with_one_sentence_and_the_same_command_goes_on(site, fresh):
    build = fresh.start("--workers", "2", start_new_session=True)
    while not fresh.records("documents"):
        assert build.poll() is None
        time.sleep(0.002)
    os.killpg(build.pid, signal.SIGINT)
    _, said = build.communicate(timeout=60)
    assert build.returncode == 130, said
    assert said.count("headrace: stopped; what was committed is kept") == 1
    assert "Traceback" not in said
    assert fresh.build("--workers", "2") == site.digest


def test_workers_end_with_a_killed_driver(fresh):
    build = fresh.start("--workers", "2")
    while not fresh.records("documents"):
        time.sleep(0.002)
    workers = children_of(build.pid)
    fresh.kill_when(build, lambda: True)
    deadline = time.monotonic() + 30
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlived their driver"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_build_of_the_same_has_nothing_to_do(copy, site):
    files = {path: path.stat().st_mtime_ns for path in copy.out.rglob("*.parquet") if "report" not in path.parts}
    assert copy.build("--workers", "2") == site.digest
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_one_more_input_file_costs_that_file_and_the_global_steps_only(site, tmp_path):
    manifest = MANIFEST | {"tokenizer": {"path": _tokenizer_of(site)}}
    grown = Site.make(tmp_path / "more", manifest=manifest)
    extra = grown.folder / "in" / "code" / "robotframework-7.5-py3-none-any.whl"
    aside = extra.rename(tmp_path / extra.name)
    grown.build("--workers", "1")
    before = {role: set(grown.records(role)) for role in ("documents", "language", "measures", "signatures", "tokens")}
    times = {path: path.stat().st_mtime_ns for paths in before.values() for path in paths}
    aside.rename(extra)
    digest = grown.build("--workers", "1")
    for role in ("documents", "language", "measures", "signatures"):
        new = set(grown.records(role)) - before[role]
        assert new
        assert all("robotframework" in path.name for path in new)
    touched = [path for path, time_ in times.items() if path.stat().st_mtime_ns != time_]
    assert all(path.parent.parent.name == "tokens" for path in touched)
    again = Site.make(tmp_path / "at once", manifest=manifest)
    assert again.build("--workers", "1") == digest


def _tokenizer_of(site) -> str:
    (path,) = (site.out / "tokenizer").glob("*/tokenizer/tokenizer.json")
    return str(path)


@pytest.mark.parametrize("role", ["documents", "signatures", "duplicates", "tokens", "plan"])
def test_a_corrupt_shard_is_found_by_verify_and_rebuilt(site, copy, role):
    victim = max((copy.out / role).glob("*/*.parquet"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(data)
    found = copy.headrace("verify", str(copy.out))
    assert found.returncode == 2
    assert victim.name in found.stderr
    assert copy.build("--workers", "1") == site.digest
    healed = copy.headrace("verify", str(copy.out))
    assert healed.returncode == 0, healed.stderr
    assert healed.stdout.strip().splitlines()[-1] == f"root digest {site.digest}"


def test_a_missing_shard_is_found_by_verify_and_rebuilt(site, copy):
    victim = sorted((copy.out / "tokens").glob("*/*.parquet"))[0]
    victim.unlink()
    found = copy.headrace("verify", str(copy.out))
    assert (found.returncode, "missing" in found.stderr) == (2, True)
    assert copy.build("--workers", "1") == site.digest


def test_verify_prints_that_no_row_was_lost_and_the_root_digest_last(site):
    done = site.headrace("verify", str(site.out))
    assert done.returncode == 0, done.stderr
    assert "= documents + rejects" in done.stdout
    assert "= samples + dropped by a first reason" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == f"root digest {site.digest}"


def test_of_two_builds_in_one_directory_one_goes_on_and_the_other_says_so(site, fresh):
    first = fresh.start("--workers", "2")
    while not (fresh.out / "lease.json").exists():
        time.sleep(0.002)
    second = fresh.try_build("--workers", "1")
    assert second.returncode == 2
    assert "another build works in" in second.stderr
    assert f"process {first.pid}" in second.stderr
    said, errors = first.communicate()
    assert first.returncode == 0, errors
    assert said.strip().splitlines()[-1] == f"root digest {site.digest}"


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted by root only")
@pytest.mark.parametrize("first", ["size=2m", "ro"])
def test_a_full_or_read_only_disk_is_one_message_and_the_next_run_goes_on(site, tmp_path, first):
    disk = tmp_path / "disk"
    disk.mkdir()
    build = " ".join(f"'{word}'" for word in Site(site.folder, disk).command("--workers", "2"))
    script = f"mount -t tmpfs -o {first} tmpfs '{disk}'; {build}; echo status $?"
    script += f"; mount -o remount,rw,size=400m '{disk}' && {build}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=CHECKOUT, capture_output=True, text=True)
    assert "status 2" in done.stdout, done.stderr[-3000:]
    assert done.stderr.count("headrace: can't write") == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"root digest {site.digest}"


def test_a_changed_threshold_judges_anew_without_reading_text(site, copy):
    copy.write(MANIFEST | {"rules": {"code": {"max_line": 200}}})
    for path in copy.out.glob("documents/*/*-?????.parquet"):
        _make_text_unreadable(path)
    copy.build("--workers", "1", "--until", "judge")
    for role in ("documents", "language", "measures", "signatures", "contamination"):
        assert copy.records(role) == [copy.out / path.relative_to(site.out) for path in site.records(role)]
    assert len(copy.records("verdicts")) == 2 * len(site.records("verdicts"))


def _make_text_unreadable(path: Path) -> None:
    """Damage every chunk of text in place; whoever reads one fails."""
    metadata = pq.read_metadata(path)
    data = bytearray(path.read_bytes())
    for group in range(metadata.num_row_groups):
        text = metadata.row_group(group).column(metadata.num_columns - 1)
        assert text.path_in_schema == "text"
        start, end = text.data_page_offset, text.data_page_offset + text.total_compressed_size
        data[start:end] = bytes(len(data[start:end]))
    path.write_bytes(data)
    with pytest.raises(OSError, match=r".*"):
        pq.read_table(path, columns=["text"])


def test_gc_removes_what_no_build_uses_after_showing_it(site, copy):
    copy.write(MANIFEST | {"rules": {"code": {"max_line": 200}}})
    copy.build("--workers", "1")
    shown = copy.headrace("gc", str(copy.out))
    assert "nothing removed" in shown.stdout
    assert "/verdicts/" in shown.stdout.replace("  verdicts/", " /verdicts/")
    removed = copy.headrace("gc", str(copy.out), "--yes")
    assert removed.returncode == 0
    assert len(copy.records("verdicts")) == len(site.records("verdicts"))
    assert copy.headrace("verify", str(copy.out)).returncode == 0


def test_a_users_mistake_is_one_message_without_a_traceback(site, tmp_path):
    wrong = Site.make(tmp_path / "wrong", manifest=MANIFEST | {"seeds": 3})
    done = wrong.try_build()
    assert done.returncode == 2
    assert "did you mean 'seed'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not wrong.out.exists()


def test_a_path_that_is_missing_stops_before_any_work(tmp_path):
    wrong = Site.make(tmp_path / "wrong")
    (wrong.folder / "in" / "prose").rename(wrong.folder / "in" / "proses")
    done = wrong.try_build()
    assert done.returncode == 2
    assert "manifest.yaml:" in done.stderr
    assert "sources.3.paths.0: nothing matches" in done.stderr
    assert "did you mean" in done.stderr
    assert not (wrong.out / "documents").exists()


def test_help_teaches_by_example():
    for command in ("build", "plan", "verify", "gc", "languages"):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", command, "--help"], capture_output=True, text=True, cwd=CHECKOUT
        )
        assert f"headrace {command}" in done.stdout.split("examples:")[1]


def test_a_part_of_a_build_stands_beside_the_whole_and_gc_keeps_both(site, copy):
    copy.build("--workers", "1", "--until", "judge")
    copy.build("--workers", "1", "--sample", "0.3", "--until", "annotate")
    names = sorted(path.name for path in (copy.out / "builds").iterdir())
    assert names == ["small.0.3-annotate.json", "small.1-judge.json", "small.json"]
    copy.headrace("gc", str(copy.out), "--yes")
    assert copy.build("--workers", "1") == site.digest
    assert [path.name for path in (copy.out / "builds").iterdir()] == ["small.json"]


def test_gc_leaves_alone_what_a_killed_build_has_made(site, copy):
    copy.write(MANIFEST | {"shards": {"text_bytes": 500_000, "row_group_bytes": 100_000}})
    whole = set(copy.records("signatures"))
    copy.kill_when(copy.start("--workers", "1"), lambda: len(copy.records("signatures")) > len(whole))
    made = {role: copy.records(role) for role in ("documents", "signatures")}
    assert copy.headrace("gc", str(copy.out), "--yes").returncode == 0
    assert {role: copy.records(role) for role in made} == made


def test_verify_takes_nothing_away_from_a_running_build(copy):
    victim = sorted((copy.out / "tokens").glob("*/*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    records = copy.records("tokens")
    with Lease(Store(str(copy.out))):
        done = copy.headrace("verify", str(copy.out))
    assert (done.returncode, "another build works" in done.stderr) == (2, True)
    assert copy.records("tokens") == records


def test_a_build_killed_in_deduplicate_does_not_go_on_with_edges_of_another_threshold(site, fresh, tmp_path):
    fresh.kill_when(fresh.start("--workers", "1"), lambda: any((fresh.out / "work").glob("cluster-*/*/*.json")))
    strict = MANIFEST | {"deduplicate": {"threshold_percent": 95}}
    fresh.write(strict)
    try:
        digest = fresh.build("--workers", "1")
        again = Site(site.folder, tmp_path / "at-once")
        assert again.build("--workers", "1") == digest != site.digest
    finally:
        fresh.write(MANIFEST)
