import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.build import Build
from pipeline.engine import Engine
from pipeline.manifest import ManifestError, load, parse
from pipeline.store import Store

MINIMAL = """\
name: tiny
sources:
  - name: packages
    kind: archives
    paths: [in]
components:
  - name: code
    kinds: [code]
tokenizer:
  train: {vocabulary: 1000}
"""


def error_of(text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        parse(text, "/corpus/tiny.yaml")
    return str(caught.value)


def test_a_minimal_manifest_has_the_published_thresholds():
    manifest = parse(MINIMAL, "/corpus/tiny.yaml")
    rules = manifest.rules.code
    assert (rules.max_average_line, rules.max_line, rules.min_alpha_percent) == (100, 1000, 25)
    assert manifest.decontaminate.ngram == 10


def test_relative_paths_are_relative_to_the_manifest():
    assert parse(MINIMAL, "/corpus/tiny.yaml").sources[0].paths == ("/corpus/in",)  # type: ignore[union-attr]


def test_urls_and_absolute_paths_stay_as_they_are():
    text = MINIMAL.replace("[in]", "['s3://bucket/in/*.zip', /data/x.zip]")
    assert parse(text, "/corpus/tiny.yaml").sources[0].paths == ("s3://bucket/in/*.zip", "/data/x.zip")  # type: ignore[union-attr]


def test_an_unknown_key_names_file_line_key_and_the_nearest_valid_name():
    message = error_of(MINIMAL + "deduplcate: {bands: 3}\n")
    assert message == "/corpus/tiny.yaml:11: deduplcate: unknown key, which does not exist; did you mean 'deduplicate'?"


def test_an_unknown_key_inside_a_source_is_named_with_its_line():
    message = error_of(MINIMAL.replace("    paths: [in]", "    paths: [in]\n    bukets: 3"))
    assert "/corpus/tiny.yaml:6: sources.0.bukets" in message
    assert "did you mean 'buckets'?" in message


def test_an_unknown_key_in_nested_models_is_named_with_its_line():
    message = error_of(MINIMAL + "rules:\n  code:\n    max_lines: 3\n")
    assert "/corpus/tiny.yaml:13: rules.code.max_lines" in message
    assert "'max_line'" in message


def test_a_wrong_type_says_what_was_expected_and_what_was_given():
    message = error_of(MINIMAL + "seed: many\n")
    assert "/corpus/tiny.yaml:11: seed: Input should be a valid integer" in message
    assert "'many'" in message


def test_an_unknown_kind_of_source_names_the_kinds():
    message = error_of(MINIMAL.replace("archives", "archive"))
    assert "did you mean 'archives'?" in message


def test_a_missing_key_is_named():
    assert "tokenizer: this key is missing" in error_of(MINIMAL[: MINIMAL.index("tokenizer")])


def test_every_mistake_is_told_in_one_message():
    message = error_of(MINIMAL + "seed: many\nplanet: {}\n")
    assert len(message.splitlines()) == 2


def test_a_key_that_stands_twice_is_refused():
    assert "'name' stands twice" in error_of(MINIMAL + "name: again\n")


def test_broken_yaml_names_the_line():
    assert error_of("name: [1,\n").startswith("/corpus/tiny.yaml:2: not valid YAML")


def test_a_weight_of_a_component_that_does_not_exist_is_refused():
    assert "did you mean 'code'?" in error_of(MINIMAL + "mixture: {weights: {cod: 1}}\n")


def test_fim_samples_longer_than_a_sequence_are_refused():
    message = error_of(MINIMAL + "fim: {components: [code], max_tokens: 4096}\nplan: {sequence_length: 2048}\n")
    assert "never cut" in message


def test_a_tokenizer_is_given_or_trained_not_both():
    assert "give either path or train" in error_of(MINIMAL.replace("{vocabulary: 1000}", "{}\n  path: x.json"))


def test_a_manifest_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(ManifestError, match="there is no such manifest"):
        load(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "languages: {drop: [Pyhton]}\n",
            "drop names the language 'Pyhton', which does not exist; did you mean 'Python'?",
        ),
        ("languages: {keep_other: {Yaml: data}}\n", "did you mean 'YAML'?"),
        ("languages: {keep_other: {Python: data}}\n", "which does not exist"),
    ],
)
def test_a_language_that_does_not_exist_is_refused_with_the_nearest_name(text, said):
    assert said in error_of(MINIMAL + text)


def test_a_component_of_a_language_that_does_not_exist_is_refused():
    assert "did you mean 'Python'?" in error_of(MINIMAL.replace("kinds: [code]", "languages: [Pyton]"))


def test_what_a_path_lacks_is_told_with_file_line_key_and_the_nearest_name(tmp_path):
    (tmp_path / "input").mkdir()
    path = tmp_path / "tiny.yaml"
    path.write_text(MINIMAL.replace("[in]", "[inptu]"))
    build = Build(load(str(path)), Store(str(tmp_path / "out")), Engine())
    with pytest.raises(ManifestError) as caught:
        build.check()
    expected = f"{path}:5: sources.0.paths.0: nothing matches {tmp_path}/inptu; did you mean {tmp_path}/input?"
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_text_column_that_no_row_has_stops_before_any_work(tmp_path, name):
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["hello"], "id": ["1"]}), tmp_path / name)
    else:
        (tmp_path / name).write_text('{"text": "hello", "id": "1"}\n')
    path = tmp_path / "tiny.yaml"
    columns = f"kind: tables\n    columns: {{text: txet, id: id}}\n    paths: [{name}]"
    path.write_text(MINIMAL.replace("kind: archives\n    paths: [in]", columns))
    build = Build(load(str(path)), Store(str(tmp_path / "out")), Engine())
    with pytest.raises(
        ManifestError, match=rf"tiny.yaml:5: sources.0.columns.text: {name} has no column 'txet'; did you mean 'text'"
    ):
        build.check()
    assert not (tmp_path / "out").exists()
