"""What ``headrace plan`` says against what a build then does."""

import shutil
from pathlib import Path

import pytest

from pipeline import estimate
from pipeline.build import Build
from tests.pipeline.test_figures import MANIFEST, built, open_build, write_manifest

STAGES = ["documents", "language", "measures", "signatures", "contamination", "verdicts", "duplicates", "tokenizer"]
STAGES += ["tokens", "selection", "plan"]
Snapshot = dict[str, tuple[int, int]]


def copy_of_the_build(tmp_path: Path, text: str = MANIFEST) -> Build:
    """The build of these tests, copied, and opened with a manifest that may differ."""
    store, _, _ = built()
    shutil.copytree(store.full(""), tmp_path / "out")
    build = open_build(tmp_path / "out", write_manifest(text, f"{tmp_path.name}.yaml"))
    build.check()
    return build


def snapshot(folder: Path) -> Snapshot:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def reasons(build: Build) -> dict[str, dict[str, int]]:
    return {line.stage: dict(line.reasons) for line in estimate.survey(build) if line.reasons}


def made_by_building(build: Build, folder: Path) -> dict[str, int]:
    """Records written by a build, by stage."""
    before = snapshot(folder)
    build.run()
    after = snapshot(folder)
    made = [path for path in after if path.endswith(".json") and after[path] != before.get(path)]
    counts = {stage: sum(path.split("/")[0] == stage and path.count("/") == 2 for path in made) for stage in STAGES}
    return {stage: n for stage, n in counts.items() if n}


def units(role: str) -> int:
    return sum(record.stage.role == role for record in built()[2])


def test_after_a_build_everything_is_up_to_date(tmp_path: Path) -> None:
    build = copy_of_the_build(tmp_path)
    lines = list(estimate.describe(build))
    assert reasons(build) == {}
    assert {line.stage: line.valid for line in estimate.survey(build)} == {stage: units(stage) for stage in STAGES}
    assert lines[-1].startswith("Everything is up to date")
    assert made_by_building(build, tmp_path / "out") == {}


def test_nothing_is_written_and_nothing_is_run(tmp_path: Path) -> None:
    build = copy_of_the_build(tmp_path, MANIFEST.replace("seed: 3", "seed: 4"))
    before = snapshot(tmp_path)
    list(estimate.describe(build))
    assert snapshot(tmp_path) == before


def test_an_empty_directory_lacks_every_stage_for_want_of_output(tmp_path: Path) -> None:
    build = open_build(tmp_path / "new", write_manifest())
    build.check()
    before = snapshot(tmp_path)
    lines = estimate.survey(build)
    assert [line.stage for line in lines] == STAGES
    assert all(set(line.reasons) == {"no output yet"} and not line.valid for line in lines)
    assert sum(lines[0].reasons.values()) == units("documents")
    assert lines[0].input_bytes == sum(unit.size for units_of in build.units.values() for unit in units_of)
    assert all(line.seconds > 0 and line.disk_bytes > 0 for line in lines)
    text = list(estimate.describe(build))
    assert any("~" in line for line in text)
    assert any("with" in line and "workers" in line for line in text)
    assert snapshot(tmp_path) == before


def test_the_estimate_of_an_empty_directory_is_of_the_right_size(tmp_path: Path) -> None:
    build = open_build(tmp_path / "new", write_manifest())
    build.check()
    disk = {line.stage: line.disk_bytes for line in estimate.survey(build)}
    for stage in ("documents", "signatures", "tokens"):
        real = sum(file.size for record in built()[2] if record.stage.role == stage for file in record.files)
        assert real / 4 < disk[stage] < real * 4, stage


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("sequence_length: 1024", "sequence_length: 2048", {"plan"}),
        ("max_tokens_per_origin: 60000", "max_tokens_per_origin: 50000", {"selection", "plan"}),
        ("weights: {code: 3, web: 1}", "weights: {code: 1, web: 9}", set()),
        ("split: {validation: 0.2", "split: {validation: 0.3", {"tokens", "selection", "plan"}),
        (
            "  benchmarks:\n",
            "  ngram: 12\n  benchmarks:\n",
            {"contamination", "verdicts", "duplicates", "tokens", "selection", "plan"},
        ),
        ("drop: [Shell]", "drop: [C]", {"verdicts", "duplicates", "tokenizer", "tokens", "selection", "plan"}),
    ],
)
def test_a_changed_setting_makes_the_stages_that_it_names_and_no_other(
    tmp_path: Path, old: str, new: str, expected: set[str]
) -> None:
    text = MANIFEST.replace(old, new)
    assert text != MANIFEST
    build = copy_of_the_build(tmp_path, text)
    found = reasons(build)
    assert set(found) - {"tokenizer"} == expected - {"tokenizer"}
    assert all(set(why) <= {"another fingerprint"} for stage, why in found.items() if stage != "tokenizer")
    made = made_by_building(build, tmp_path / "out")
    for stage, n in made.items():
        assert stage in found
        if stage != "plan":
            assert sum(found[stage].values()) == n, stage
    assert reasons(build) == {}


def test_a_removed_file_is_missing_and_what_is_made_from_it_waits(tmp_path: Path) -> None:
    build = copy_of_the_build(tmp_path)
    (tmp_path / "out" / next(r for r in built()[2] if r.stage.role == "signatures").files[0].path).unlink()
    found = reasons(build)
    assert found["signatures"] == {"file missing": 1}
    assert found["duplicates"] == {"made from what is made before": units("duplicates")}
    assert not {"documents", "language", "measures", "contamination", "verdicts"} & set(found)
    assert made_by_building(build, tmp_path / "out") == {"signatures": 1}


def test_one_more_input_costs_that_input_and_the_stages_over_the_whole_build(tmp_path: Path) -> None:
    build = copy_of_the_build(tmp_path, MANIFEST.replace("code/pybind11*]", "code/pybind11*, code/google*]"))
    found = reasons(build)
    for stage in ("documents", "language", "measures", "signatures", "contamination"):
        assert found[stage] == {"no output yet": 1}, stage
    assert found["duplicates"] == {"no output yet": 1, "made from what is made before": units("duplicates")}
    made = made_by_building(build, tmp_path / "out")
    assert made["documents"] == made["language"] == 1
    assert set(made) <= set(found)
    assert reasons(build) == {}


def test_earlier_timings_in_the_directory_set_the_speed(tmp_path: Path) -> None:
    text = MANIFEST.replace("split: {validation: 0.2", "split: {validation: 0.3")
    build = copy_of_the_build(tmp_path, text)

    def seconds() -> float:
        return next(line.seconds for line in estimate.survey(build) if line.stage == "tokens")

    for path in build.store.files("timings/tokenize"):
        note = build.store.read_json(path)
        build.store.write_json(path, note | {"cpu_seconds": note["text_bytes"] / 2e6})
    slow = seconds()
    for path in build.store.files("timings/tokenize"):
        note = build.store.read_json(path)
        build.store.write_json(path, note | {"cpu_seconds": note["text_bytes"] / 200e6})
    assert slow == pytest.approx(100 * seconds())
    one = next(iter(build.store.files("timings/tokenize")))
    build.store.write_json(one, build.store.read_json(one) | {"cpu_seconds": 1e6, "text_bytes": 1})
    assert slow == pytest.approx(100 * seconds())
