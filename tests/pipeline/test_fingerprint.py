"""A stage's name changes with everything that decides its content, and with nothing else."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline import annotate, crawl, decontaminate, deduplicate, fingerprint, judge, mixture, tokenize
from pipeline.manifest import Manifest, parse
from pipeline.stages import Stages

ROOT = Path(pipeline.__file__).resolve().parent.parent
MODULES = {
    "documents": crawl.MODULES,
    "verdicts": judge.MODULES,
    "duplicates": deduplicate.MODULES,
    "benchmarks": decontaminate.MODULES,
    "tokens": tokenize.MODULES,
    "selection": mixture.SELECT_MODULES,
    "plan": mixture.PLAN_MODULES,
    **annotate.MODULES,
}
MANIFEST = """\
name: tiny
sources:
  - {name: code, kind: archives, paths: [in]}
  - {name: prose, kind: tables, paths: [rows], columns: {text: text}}
components: [{name: code, kinds: [code]}]
tokenizer: {train: {vocabulary: 1000}}
"""


@pytest.fixture
def checkout(tmp_path: Any) -> Any:
    """A copy of the packages that a test may edit."""
    for package in ("pipeline", "filters", "languages", "manifests"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def digests_in(checkout: Path) -> dict[str, str]:
    """The fingerprint of the code of every stage, computed by a process that runs from another checkout."""
    script = (
        "import json, pipeline.fingerprint as f; "
        f"print(json.dumps({{k: f.fingerprint('x', {{}}, m) for k, m in {MODULES!r}.items()}}))"
    )
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONHASHSEED": "99"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=checkout, capture_output=True, check=True
    )
    return dict(json.loads(done.stdout))


def here() -> dict[str, str]:
    return {name: fingerprint.fingerprint("x", {}, modules) for name, modules in MODULES.items()}


def changed(checkout: Path) -> set[str]:
    before, after = here(), digests_in(checkout)
    return {name for name in before if before[name] != after[name]}


def test_another_place_of_the_checkout_changes_nothing(checkout: Any) -> None:
    assert changed(checkout) == set()


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n# edited\n")


def test_an_edit_of_the_notebook_reader_renames_documents_only(checkout: Any) -> None:
    edit(checkout / "filters" / "notebooks.py")
    assert changed(checkout) == {"documents"}


def test_an_edit_of_the_table_of_languages_renames_the_stages_that_classify(checkout: Any) -> None:
    table = sorted((checkout / "languages").glob("*.tsv"))[0]
    edit(table)
    found = changed(checkout)
    assert "language" in found
    assert not found & {"documents", "plan", "benchmarks"}


def test_an_edit_of_a_module_that_is_imported_only_indirectly_counts(checkout: Any) -> None:
    edit(checkout / "filters" / "words.py")
    assert {"signatures", "contamination", "duplicates", "benchmarks"} <= changed(checkout)


def test_an_edit_of_the_command_line_or_the_report_renames_nothing(checkout: Any) -> None:
    edit(checkout / "pipeline" / "cli.py")
    edit(checkout / "pipeline" / "report.py")
    assert changed(checkout) == set()


def _imports_of(modules: Any) -> set[str]:
    return {path.name for module in modules for path in fingerprint._closure(module)}


def test_the_import_closure_of_a_stage_holds_the_filters_that_decide_its_content() -> None:
    expected = {
        "documents": {"html.py", "notebooks.py", "text.py", "archives.py", "github.py", "tables.py", "common_crawl.py"},
        "language": {"cascade.py", "vote.py", "centroid.py", "rules.py", "names.py"},
        "measures": {"rules.py", "prose.py", "text.py", "html.py"},
        "signatures": {"minhash.py", "words.py", "keyed.py"},
        "contamination": {"contamination.py", "words.py"},
        "verdicts": {"judge.py", "rules.py", "prose.py"},
        "duplicates": {"clusters.py", "minhash.py", "words.py", "deduplicate.py"},
        "tokens": {"fim.py", "redact.py", "keyed.py", "token_shards.py", "judge.py"},
        "selection": {"mixture.py", "keyed.py"},
        "plan": {"mixture.py", "packing.py"},
    }
    for stage, names in expected.items():
        assert names <= _imports_of(MODULES[stage]), stage


def test_every_import_inside_our_packages_is_absolute() -> None:
    """The closure does not follow relative ones."""
    for package in fingerprint.OURS:
        for path in (ROOT / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                assert not (isinstance(node, ast.ImportFrom) and node.level), path


def _loaded_by(module: str) -> set[Path]:
    script = "import sys, json, importlib; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script, module], cwd=ROOT, capture_output=True, check=True)
    ours = (name for name in json.loads(done.stdout) if name.split(".")[0] in fingerprint.OURS)
    return {path for path in map(fingerprint._source_of, ours) if path}


def test_every_module_of_ours_that_a_stage_loads_is_in_its_closure_or_enters_by_value() -> None:
    """Against the interpreter itself: what importing a stage's module loads is what the closure lists.

    The manifest's models, and what only they load, enter by what they hold.
    """
    by_value = _loaded_by("pipeline.manifest") | {ROOT / p / "__init__.py" for p in fingerprint.OURS}
    for module in ("pipeline.crawl", "pipeline.tokenize", "languages", "filters.rules"):
        assert _loaded_by(module) - fingerprint._closure(module) <= by_value, module


def test_an_edit_of_minhash_does_not_crawl_again(checkout: Any) -> None:
    edit(checkout / "filters" / "minhash.py")
    assert "documents" not in changed(checkout)


@pytest.mark.parametrize(
    "other",
    [
        {"role": "other"},
        {"configuration": {"a": 2}},
        {"configuration": {"a": 1, "b": None}},
        {"modules": ("filters.fim", "filters.keyed")},
        {"libraries": ("numpy",)},
        {"upstream": ("u", "v")},
        {"upstream": ()},
    ],
)
def test_another_role_configuration_code_library_or_upstream_is_another_fingerprint(other: Any) -> None:
    made_of: dict[str, Any] = {
        "role": "r",
        "configuration": {"a": 1},
        "modules": ("filters.fim",),
        "libraries": (),
        "upstream": ("u",),
    }
    assert fingerprint.fingerprint(**made_of) != fingerprint.fingerprint(**(made_of | other))


def test_orders_that_mean_nothing_change_nothing() -> None:
    assert fingerprint.fingerprint(
        "r", {"a": 1, "b": 2}, ("filters.fim", "filters.keyed"), ("numpy", "pyarrow"), ("u", "v")
    ) == fingerprint.fingerprint(
        "r", {"b": 2, "a": 1}, ("filters.keyed", "filters.fim"), ("pyarrow", "numpy"), ("v", "u")
    )


def test_another_version_of_a_library_is_another_fingerprint(monkeypatch: Any) -> None:
    before = fingerprint.fingerprint("r", {}, (), ("numpy",)), fingerprint.environment_digest((), ("numpy",))
    monkeypatch.setattr(fingerprint, "library_version", lambda name: "0.0.1")
    after = fingerprint.fingerprint("r", {}, (), ("numpy",)), fingerprint.environment_digest((), ("numpy",))
    assert all(a != b for a, b in zip(after, before, strict=True))


def test_a_library_that_is_not_there_has_a_version_too() -> None:
    assert fingerprint.library_version("headrace-no-such-library") == "absent"


def test_every_library_that_decides_content_is_installed() -> None:
    names = {
        *crawl.LIBRARIES,
        *tokenize.LIBRARIES,
        *(n for ns in annotate.LIBRARIES.values() for n in ns),
        "tokenizers",
    }
    assert [name for name in names if fingerprint.library_version(name) == "absent"] == []


# The stages of a manifest -----------------------------------------------------------------------------------------


def directories(
    text: str = MANIFEST, quarantine: str = "", benchmarks: str = "", path: str = "/m/a.yaml"
) -> dict[str, str]:
    """Directory of every stage of a manifest, by role and source."""
    stages = Stages(parse(text, path), quarantine, benchmarks)
    return {f"{role}/{source}": stage.directory for role, source, stage in _all(stages)}


def _all(stages: Stages) -> Any:
    for role in ("documents", "verdicts", "duplicates", "tokens", "selection"):
        yield from ((role, source, stage) for source, stage in getattr(stages, role).items())
    for source, tables in stages.tables.items():
        yield from ((role, source, stage) for role, stage in tables.items())
    yield from ((role, "", getattr(stages, role)) for role in ("benchmarks", "tokenizer", "plan"))


def renamed(**other: str) -> set[str]:
    before, after = directories(), directories(**other)
    assert before.keys() == after.keys()
    return {key.split("/")[0] for key in before if before[key] != after[key]}


def test_inputs_and_the_place_of_the_manifest_rename_nothing() -> None:
    assert renamed(text=MANIFEST.replace("[in]", "[in, more]"), path="/elsewhere/b.yaml") == set()


def test_a_changed_threshold_judges_anew_and_renames_what_comes_after() -> None:
    assert renamed(text=MANIFEST + "rules: {code: {max_line: 999}}\n") == {
        "verdicts", "duplicates", "tokens", "selection", "plan",
    }  # fmt: skip


def test_a_changed_weight_renames_nothing() -> None:
    assert renamed(text=MANIFEST + "mixture: {weights: {code: 3}, budget_tokens: 7}\n") == set()


def test_another_sequence_length_renames_the_plan_only() -> None:
    assert renamed(text=MANIFEST + "plan: {sequence_length: 2048}\n") == {"plan"}


def test_a_cap_renames_selection_and_plan() -> None:
    assert renamed(text=MANIFEST + "mixture: {max_tokens_per_origin: 9}\n") == {"selection", "plan"}


def test_another_quarantine_renames_documents_and_all_that_follows() -> None:
    assert renamed(quarantine="ab" * 32) >= {"documents", "language", "measures", "signatures", "verdicts", "tokens"}


def test_other_benchmarks_rename_the_index_contamination_and_what_judges_by_it() -> None:
    found = renamed(benchmarks="other")
    assert found >= {"benchmarks", "contamination", "verdicts", "duplicates", "tokens", "plan"}
    assert not found & {"documents", "language", "measures", "signatures", "tokenizer"}


def test_another_seed_renames_no_table_that_reads_text() -> None:
    found = renamed(text=MANIFEST + "seed: 5\n")
    assert found == {"tokenizer", "tokens", "selection", "plan"}


def test_what_one_source_declares_renames_nothing_of_another() -> None:
    before, after = (
        directories(),
        directories(MANIFEST.replace("columns: {text: text}", "rows_are: code, columns: {text: text}")),
    )
    different = {key for key in before if before[key] != after[key]}
    assert "language/prose" in different
    assert not {key for key in different if key.endswith("/code")}
    assert before["documents/prose"] == after["documents/prose"]


def test_no_part_of_the_manifest_is_without_a_stage() -> None:
    """A new key of the manifest must enter a fingerprint, or be named here with the reason why it needs not."""
    enters = {"sources", "shards", "languages", "rules", "deduplicate", "decontaminate", "redact", "components"}
    enters |= {"tokenizer", "fim", "split", "mixture", "plan", "quarantine", "seed"}
    names_only_the_index = {"name"}
    assert set(Manifest.model_fields) == enters | names_only_the_index
