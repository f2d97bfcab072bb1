import pytest

from pipeline.manifest import ManifestError, load, parse

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
