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


def test_a_key_that_stands_twice_is_refused():
    assert "'name' stands twice" in error_of(MINIMAL + "name: again\n")


def test_a_manifest_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(ManifestError, match="there is no such manifest"):
        load(str(tmp_path / "none.yaml"))


def test_every_path_of_a_manifest_is_named_with_its_key():
    text = MINIMAL.replace("  train: {vocabulary: 1000}", "  path: t.json") + "quarantine: q.txt\n"
    text += "decontaminate: {benchmarks: [{name: a, path: a.txt}, {name: b, path: b.txt}]}\n"
    text = text.replace(
        "components:", "  - {name: git, kind: git, repositories: [{url: one}, {url: two}]}\ncomponents:", 1
    )
    assert dict(parse(text, "/corpus/tiny.yaml").paths()) == {
        ("sources", 0, "paths", 0): "/corpus/in",
        ("sources", 1, "repositories", 0): "/corpus/one",
        ("sources", 1, "repositories", 1): "/corpus/two",
        ("decontaminate", "benchmarks", 0, "path"): "/corpus/a.txt",
        ("decontaminate", "benchmarks", 1, "path"): "/corpus/b.txt",
        ("tokenizer", "path"): "/corpus/t.json",
        ("quarantine",): "/corpus/q.txt",
    }


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
