"""What docs/conformance.md, docs/data.md and the published manifest say is so: names, numbers and columns agree."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
CONFORMANCE = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))
PUBLISHED = ROOT / "manifests" / "deepseek_coder_v2.yaml"
CODE = re.compile(r"`((?:pipeline|filters|languages)(?:\.\w+)+):([\w.]+)`")
TEST = re.compile(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`")
MISSING = "does not exist yet (later)"


def names_of(path: Path) -> set[str]:
    """Functions, classes and variables of a module, and those of its classes as ``Class.name``."""
    found: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(path.read_bytes()).body, "")
    return found


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = text.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^\|.*\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")][1:]


def examples() -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", DATA, re.DOTALL))


# docs/conformance.md ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [CONFORMANCE, DATA], ids=["conformance", "data"])
def test_every_module_and_name_that_the_documents_give_exists(text):
    for module, name in sorted(set(CODE.findall(text))):
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        assert path.is_file(), module
        assert name in names_of(path), f"{module}:{name}"


def test_every_test_that_conformance_names_exists():
    named = set(TEST.findall(CONFORMANCE))
    assert len(named) > 100
    assert {(file, name) for file, name in named if name not in names_of(ROOT / "tests" / file)} == set()


@pytest.mark.parametrize("heading", ["Corpus", "Training"])
def test_a_sentence_has_code_and_a_test_or_is_said_not_to_exist(heading):
    for who, sentence, where, test in rows(CONFORMANCE, heading):
        assert who
        assert sentence
        assert bool(CODE.search(where)) == bool(TEST.search(test)), sentence
        assert CODE.search(where) or where.startswith(MISSING), sentence


def test_every_choice_has_a_reason_and_a_test():
    for place, choice, why, test in rows(CONFORMANCE, "Choices"):
        assert place
        assert why
        assert TEST.search(test), choice


def test_every_departure_has_three_cells():
    assert {len(row) for row in rows(CONFORMANCE, "Departures")} == {3}


# manifests/ -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_parses(path):
    from pipeline.manifest import parse

    assert parse(path.read_text(encoding="utf-8"), str(path)).name == path.stem


def stated(value: dict[str, Any], model: type[BaseModel], at: str) -> Iterator[tuple[str, Any, Any]]:
    """Each number or string of a mapping that the model has a default for: key, what is said, the default."""
    for key, said in value.items():
        field = model.model_fields[key]
        default = field.get_default(call_default_factory=True)
        if isinstance(said, dict) and isinstance(default, BaseModel):
            yield from stated(said, type(default), f"{at}{key}.")
        elif isinstance(said, int | float | str) and isinstance(default, int | float | str):
            yield f"{at}{key}", said, default


def test_numbers_of_the_published_manifest_are_the_defaults_of_the_code():
    from pipeline.manifest import Manifest, Tokenizer

    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    pairs = [*stated(content, Manifest, ""), *stated(content["tokenizer"], Tokenizer, "tokenizer.")]
    assert {key: said for key, said, _ in pairs} == {key: default for key, _, default in pairs}
    numbers = {key for key, said, _ in pairs if isinstance(said, int | float)}
    assert {f"rules.code.{name}" for name in type(Manifest.model_fields["rules"].default.code).model_fields} <= numbers
    assert numbers >= {"decontaminate.ngram", "decontaminate.shortest", "deduplicate.threshold_percent"}
    assert numbers >= {"fim.parameters.rate", "fim.max_tokens", "plan.sequence_length"}


def test_the_published_manifest_has_the_published_numbers():
    """Against the papers, in case that code and manifest are wrong together."""
    from pipeline.manifest import load

    manifest = load(str(PUBLISHED))
    assert manifest.rules.code.model_dump() == {
        "max_average_line": 100,
        "max_line": 1000,
        "min_alpha_percent": 25,
        "xml_prolog_chars": 100,
        "html_min_visible_percent": 20,
        "html_min_visible_chars": 100,
        "data_min_chars": 50,
        "data_max_chars": 5000,
    }
    assert manifest.mixture.weights == {"code": 0.6, "math": 0.1, "language": 0.3}
    assert manifest.mixture.budget_tokens == 6 * 10**12
    assert (manifest.decontaminate.ngram, manifest.decontaminate.shortest) == (10, 3)
    assert (manifest.fim.parameters.rate, manifest.fim.parameters.mode, manifest.fim.components) == (
        0.5,
        "psm",
        ("code",),
    )
    assert manifest.plan.sequence_length == 4096
    assert manifest.languages.keep_other == {"YAML": "data", "Markdown": "prose"}


def test_every_path_of_the_published_manifest_is_a_placeholder_that_its_head_explains():
    from pipeline.manifest import GitSource, load

    manifest = load(str(PUBLISHED))
    paths = [str(manifest.tokenizer.path), *(benchmark.path for benchmark in manifest.decontaminate.benchmarks)]
    for source in manifest.sources:
        paths += [r.url for r in source.repositories] if isinstance(source, GitSource) else source.paths
    inputs = PUBLISHED.parent / "inputs"
    folders = {Path(path).relative_to(inputs).parts[0] for path in paths}
    explained = re.findall(r"^#   inputs/([\w-]+)/ ", PUBLISHED.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(folders) == sorted(explained)


# docs/data.md -----------------------------------------------------------------------------------------------------


def type_name(kind: Any) -> str:
    """An Arrow type as docs/data.md writes it."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_struct(kind):
        fields = [(field.name, type_name(field.type)) for field in kind]
        kinds = {name for _, name in fields}
        if len(kinds) == 1 and len(fields) > 2:
            return f"({', '.join(f'`{name}`' for name, _ in fields)}), each {kinds.pop()}"
        return f"({', '.join(f'`{name}` {kind_name}' for name, kind_name in fields)})"
    if pa.types.is_fixed_size_binary(kind):
        return f"binary({kind.byte_width})"
    return str(kind)


def test_columns_and_types_in_the_documents_are_those_of_the_schemas():
    from pipeline import schemas

    def columns(schema: Any) -> list[list[str]]:
        return [[f"`{field.name}`", type_name(field.type)] for field in schema]

    for heading, schema in (
        ("documents", schemas.DOCUMENTS),
        ("tokens", schemas.TOKENS),
        ("plan", schemas.PLAN),
    ):
        assert [row[:2] for row in rows(DATA, heading)] == columns(schema)
    tables = rows(DATA, "Tables")
    for name in ("language", "contamination", "verdicts", "duplicates"):
        assert [row[1:3] for row in tables if row[0] == name] == columns(getattr(schemas, name.upper()))
    for schema in (schemas.REJECTS, schemas.ORIGINS, schemas.SELECTION):
        assert all(f"`{field.name}`" in DATA for field in schema)


def test_every_reason_of_the_code_stands_in_the_documents():
    from filters.prose import PROSE_REASONS
    from pipeline.deduplicate import EXACT, NEAR
    from pipeline.judge import CODE_REASONS, CONTAMINATION, LANGUAGE, REPEATED, SELECTION
    from pipeline.mixture import CAP

    reasons = [*PROSE_REASONS[1:], *CODE_REASONS[1:], CONTAMINATION, LANGUAGE, REPEATED, SELECTION, CAP, EXACT, NEAR]
    assert [reason for reason in reasons if f"`{reason}`" not in DATA] == []
    order = [REPEATED, LANGUAGE, *CODE_REASONS[1:], CONTAMINATION, SELECTION, EXACT, NEAR]
    places = [DATA.split("### Outcomes")[1].index(f"`{reason}`") for reason in order]
    assert places == sorted(places)


def test_every_reason_that_ends_a_container_stands_in_the_documents():
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "pipeline").glob("*.py"))]
    reasons = {reason for text in sources for reason in re.findall(r'ContainerError\("(\w+)"', text)}
    assert {"truncated", "unsupported", "unit_bytes"} <= reasons
    assert {reason for reason in reasons if f"`{reason}`" not in DATA} == set()


def test_the_examples_of_the_documents_read_what_was_written(tmp_path):
    from pipeline.records import Record
    from pipeline.store import Store
    from pipeline.token_shards import TokenShard
    from pipeline.verify import write_index
    from tests.pipeline import test_mixture as mixture

    store = Store(str(tmp_path))
    tokens = mixture.corpus(store)
    _, selection, plans = mixture.planned(store, tokens)
    records: list[Record] = [*(record for _, _, record in tokens), *selection, *plans]
    write_index(store, "mine", "", "", records)
    known: dict[str, Any] = {}
    exec(compile(examples(), "docs/data.md", "exec"), known)

    shards = [TokenShard(store, record.files[0].path) for _, _, record in tokens]
    for shard, (_, _, record) in zip(shards, tokens, strict=True):
        read = list(known["samples"](store.full(record.files[0].path)))
        assert [run.tolist() for run in read] == [shard.tokens(row).tolist() for row in range(len(shard.n_tokens))]
        assert all(not run.flags.owndata for run in read)
    for record in plans[1:]:
        read = list(known["sequences"](str(tmp_path), "mine", record.unit))
        expected = [
            [shards[p["shard"]].tokens(p["row"], p["start"], p["length"]).tolist() for p in sequence["pieces"]]
            for sequence in mixture.sequences(store, record)
        ]
        assert [[piece.tolist() for piece in pieces] for pieces in read] == expected
