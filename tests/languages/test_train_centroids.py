import io
import json
import os
import tarfile
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from languages import classify, names, train_centroids


def test_linguist_tokens_are_cut_into_ours_and_named_as_ours(tmp_path: Path) -> None:
    samples = tmp_path / "samples.json"
    counts = {"Unix Assembly": {"movl": 2, "COMMENT#": 3}, "Coq": {":=": 1}, "No such": {"x": 1}}
    samples.write_text(json.dumps({"tokens": counts}))
    found = train_centroids.linguist_counts(samples)
    assert found == {"GAS": {b"movl": 2, b"#": 3}, "other:Rocq Prover": {b":": 1, b"=": 1, b":=": 1}}


def test_examples_are_named_by_the_lexer_of_their_folder(tmp_path: Path) -> None:
    sdist = tmp_path / "pygments-0.tar.gz"
    mapping = b"LEXERS = {'A': ('m', 'Tcl', ('tcl',), (), ()), 'B': ('m', 'No such', ('none',), (), ())}\n"
    files = {"p/pygments/lexers/_mapping.py": mapping, "p/tests/examplefiles/tcl/a.tcl": b"set x 1"}
    files |= {"p/tests/examplefiles/tcl/a.tcl.output": b"", "p/tests/examplefiles/none/b": b"x"}
    with tarfile.open(sdist, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert list(train_centroids.pygments_examples(sdist)) == [("Tcl", "a.tcl", b"set x 1")]


def test_training_is_deterministic_whatever_the_order_and_rare_tokens_weigh_more(tmp_path: Path) -> None:
    counts = {"C": Counter({b"int": 4, b"printf": 4}), "Java": Counter({b"int": 4, b"extends": 4})}
    rarity = train_centroids.rarities(counts)
    assert rarity == {b"int": 0, b"printf": 44, b"extends": 44}
    vectors = train_centroids.weigh(counts, rarity, 10)
    assert vectors == {"C": {b"printf": 1000}, "Java": {b"extends": 1000}}
    train_centroids.write(vectors, rarity, tmp_path / "a")
    train_centroids.write(dict(reversed(vectors.items())), rarity, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_committed_table_is_small_and_states_its_origin() -> None:
    path = Path(train_centroids.__file__).with_name("centroids.parquet")
    assert path.stat().st_size <= 600_000
    origin = pq.read_schema(path).metadata[b"origin"].decode()
    assert "MIT" in origin
    assert "BSD-2-Clause" in origin


def test_help_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_centroids.main(["--help"])
    assert "example:" in capsys.readouterr().out


@pytest.mark.slow
def test_accuracy_on_the_example_files_of_pygments() -> None:
    """Contaminated: our file names come partly from Pygments, and the token statistics have seen these files. A floor
    against regressions, no measure of quality."""
    cache = Path(os.environ.get("HEADRACE_CACHE", Path.home() / ".cache" / "headrace"))
    cache.mkdir(parents=True, exist_ok=True)
    sdist = train_centroids.fetch_pygments(cache)
    canonical = {language.name: language.canonical for language in names.table()}
    right = inside = accepted = outside = foreign = misnamed = 0
    for language, name, text in train_centroids.pygments_examples(sdist):
        found = classify(name.encode(), text).language
        if language in canonical:
            inside += 1
            right += canonical.get(found, found) == canonical[language]
        else:
            outside += 1
            accepted += found in canonical
        for extension, candidates in names.lookups().extensions.items():
            if len(candidates) > 1 and sha256(text + extension).digest()[0] < 4 and language not in candidates:
                foreign += 1
                misnamed += classify(b"a" + extension, text).language in canonical
    assert inside >= 370
    assert right >= 0.93 * inside
    assert accepted <= 0.1 * outside
    assert misnamed <= 0.35 * foreign
