"""Tokenise: ids of the reference encoder, controls that no text can forge, samples that lead back to their text."""

import json
import random
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from filters import fim, redact
from filters.fim import FimParameters
from pipeline.manifest import Component, Fim, Languages, Split, TrainTokenizer
from pipeline.records import Record, Stage, read_record
from pipeline.schemas import DUPLICATES, TOKENS
from pipeline.store import Store
from pipeline.tokenize import (
    Controls,
    Tokenize,
    TokenizerError,
    controls_of,
    encode,
    line_end_tokens,
    plain_encoder,
    sample_threshold,
    sampled,
    split_of,
    train,
)
from tests.inputs import package
from tests.pipeline.test_crawl import archives, crawled, documents_of
from tests.pipeline.test_judge import judged, manifest_of, shard_of

EOS, BOS = "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"
FIM = FimParameters()
SENTINELS = (FIM.begin, FIM.hole, FIM.end)
STAGE = Stage("tokens", "f" * 16, "code")
ALL_FIM = Fim(components=("all",), parameters=FimParameters(rate=1.0))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: Any) -> list[str]:
    """Real text of two packages and of pages in several scripts."""
    store = Store(str(tmp_path_factory.mktemp("texts")))
    records = crawled(store, archives(package("click", "8.1.7"), package("pybind11", "2.13.6")))
    found = [t for r in records for table in documents_of(store, r) for t in table.column("text").to_pylist()]
    return [*found, "日本語のテキスト\r\n\u200d\U0001f600\U0001f3fd e\u0301\n\t  x\u00a0y\ufeff", "", "\n", " " * 300]


@pytest.fixture(scope="module")
def trained(texts: Any) -> dict[str, Any]:
    return dict(json.loads(train(texts, TrainTokenizer(vocabulary=1500), [EOS, BOS, *SENTINELS])))


@pytest.fixture(scope="module")
def controls(trained: Any) -> Controls:
    return controls_of(trained, EOS, BOS, FIM)


@pytest.fixture(scope="module")
def encoder(trained: Any, controls: Any) -> Any:
    return plain_encoder(trained, controls)


def with_added(tokenizer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same tokenizer with other flags on its added tokens."""
    return tokenizer | {"added_tokens": [token | changes for token in tokenizer["added_tokens"]]}


def ids_of(encoder: Any, text: str) -> list[int]:
    return list(encode(encoder, [text])[0].tolist())


# Encoding ---------------------------------------------------------------------------------------------------------


def test_ids_of_real_text_are_those_of_the_reference_encoder(trained: Any, encoder: Any, texts: Any) -> None:
    reference = Tokenizer.from_str(json.dumps(trained | {"added_tokens": []}))
    flat, offsets = encode(encoder, texts)
    expected = [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)]
    assert [flat[a:b].tolist() for a, b in pairwise(offsets)] == expected


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=40))
@example("\r\n\r \t\x0b\u2028 x")
def test_any_text_is_decoded_to_itself(trained: Any, encoder: Any, text: Any) -> None:
    assert Tokenizer.from_str(json.dumps(trained)).decode(ids_of(encoder, text), skip_special_tokens=False) == text


def test_offsets_of_no_texts_and_of_empty_ones(encoder: Any) -> None:
    ids, offsets = encode(encoder, [])
    assert (ids.tolist(), offsets.tolist()) == ([], [0])
    ids, offsets = encode(encoder, ["", ""])
    assert (ids.tolist(), offsets.tolist()) == ([], [0, 0, 0])


FORGERIES = [*SENTINELS, EOS, BOS, f"a{FIM.hole}b", f"{EOS}\n{EOS}", f" {FIM.begin} ", f"{EOS[:-1]}{EOS}"]


@pytest.mark.parametrize("special", [True, False], ids=["special", "non-special added tokens"])
@pytest.mark.parametrize("text", FORGERIES)
def test_text_that_spells_a_control_token_is_ordinary_text(trained: Any, special: Any, text: Any) -> None:
    tokenizer = with_added(trained, special=special)
    found = controls_of(tokenizer, EOS, BOS, FIM)
    ids = ids_of(plain_encoder(tokenizer, found), text)
    assert not set(ids) & set(found.all)
    assert Tokenizer.from_str(json.dumps(trained)).decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", [FIM.begin, f"x {FIM.hole}"])
def test_a_build_without_fim_lets_no_text_forge_its_tokens_either(trained: Any, text: Any) -> None:
    """DeepSeek's tokenizer.json has them as added tokens that are not special."""
    tokenizer = with_added(trained, special=False)
    every = set(controls_of(tokenizer, EOS, BOS, FIM).all)
    assert not set(ids_of(plain_encoder(tokenizer, controls_of(tokenizer, EOS, None, None)), text)) & every


def test_a_control_of_plain_letters_is_not_forged_where_the_model_looks_whole_words_up(trained: Any) -> None:
    """``ignore_merges`` (Llama 3) gives the id of a vocabulary entry that is a whole word."""
    tokenizer = dict(json.loads(train(["end of text"] * 9, TrainTokenizer(vocabulary=300), ["EOS"])))
    tokenizer["model"] |= {"ignore_merges": True}
    found = controls_of(tokenizer, "EOS", None, None)
    assert found.eos not in ids_of(plain_encoder(tokenizer, found), "EOS")


def test_added_tokens_that_are_no_controls_stay(trained: Any) -> None:
    spaces = {"id": 5000, "content": "        ", "single_word": False, "lstrip": False, "rstrip": False}
    spaces |= {"normalized": False, "special": False}
    tokenizer = trained | {"added_tokens": [*trained["added_tokens"], spaces]}
    assert 5000 in ids_of(plain_encoder(tokenizer, controls_of(tokenizer, EOS, BOS, FIM)), "a" + " " * 8 + "b")


def test_a_post_processor_adds_nothing(trained: Any, controls: Any, encoder: Any) -> None:
    pair = [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    added = {BOS: {"id": BOS, "ids": [controls.bos], "tokens": [BOS]}}
    template = {"type": "TemplateProcessing", "single": pair, "pair": pair, "special_tokens": added}
    assert ids_of(plain_encoder(trained | {"post_processor": template}, controls), "abc") == ids_of(encoder, "abc")


def test_a_control_that_the_tokenizer_lacks_is_named_with_those_that_it_has(trained: Any) -> None:
    with pytest.raises(TokenizerError, match=re.escape(f"no added token '<eot>'; it has: {EOS}, {BOS}, ")):
        controls_of(trained, "<eot>", None, None)
    with pytest.raises(TokenizerError, match="it has: none"):
        controls_of({"model": {}}, EOS, None, None)


def test_controls_are_looked_up_by_content(trained: Any, controls: Any) -> None:
    ids = {token["content"]: token["id"] for token in trained["added_tokens"]}
    assert controls == Controls(ids[EOS], ids[BOS], tuple(ids[s] for s in SENTINELS))  # type: ignore[arg-type]
    assert set(controls_of(trained, EOS, None, None).all) == {ids[EOS]}


def test_line_end_tokens_are_those_whose_text_ends_with_a_newline(trained: Any) -> None:
    reference = Tokenizer.from_str(json.dumps(trained))
    ends = line_end_tokens(trained)
    assert len(ends) == reference.get_vocab_size()
    for number in range(len(ends)):
        text = reference.decode([number], skip_special_tokens=False)
        if "\ufffd" not in text:
            assert ends[number] == text.endswith("\n"), text
    assert ends.sum() >= 1


# Training ---------------------------------------------------------------------------------------------------------


def test_training_gives_the_same_bytes_for_shuffled_texts(texts: Any, trained: Any) -> None:
    shuffled = random.Random(1).sample(texts, len(texts))
    assert json.loads(train(shuffled, TrainTokenizer(vocabulary=1500), [EOS, BOS, *SENTINELS])) == trained
    assert train(shuffled, TrainTokenizer(vocabulary=400), [EOS]) == train(texts, TrainTokenizer(vocabulary=400), [EOS])


def test_the_tokenizer_is_trained_on_a_keyed_share_of_the_text() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (20_000, 16), dtype=np.uint8)
    threshold = sample_threshold(1_000_000, TrainTokenizer(sample_bytes=100_000))
    taken = sampled(ids, 7, threshold)
    assert abs(taken.mean() - 0.1) < 0.01
    assert (sampled(ids[::-1].copy(), 7, threshold) == taken[::-1]).all()
    assert sampled(ids, 7, sample_threshold(10, TrainTokenizer())).all()
    assert sampled(ids, 7, sample_threshold(0, TrainTokenizer())).all()


# Splits -----------------------------------------------------------------------------------------------------------


def test_the_split_of_an_origin_is_one_for_all_its_documents_and_by_share() -> None:
    origins = [f"package-{i // 3}" for i in range(30_000)]
    found = split_of(origins, "code", Split(validation=0.1, held_out=0.05), 3)
    by_origin: dict[str, set[str]] = {}
    for origin, name in zip(origins, found, strict=True):
        by_origin.setdefault(origin, set()).add(name)
    assert all(len(names) == 1 for names in by_origin.values())
    shares = {name: found.count(name) / len(found) for name in set(found)}
    assert abs(shares["validation"] - 0.1) < 0.02
    assert abs(shares["held_out"] - 0.05) < 0.015
    assert split_of(origins[::-1], "code", Split(validation=0.1, held_out=0.05), 3) == found[::-1]


def test_a_larger_share_keeps_what_was_held_back_before() -> None:
    origins = [f"o{i}" for i in range(2000)]
    few, many = (split_of(origins, "code", Split(validation=v), 3) for v in (0.05, 0.2))
    assert all(b == "validation" for a, b in zip(few, many, strict=True) if a == "validation")


# The stage --------------------------------------------------------------------------------------------------------


SECRETS = "mail ada@lovelace.org from 81.2.69.142\n"


@pytest.fixture
def site(tmp_path: Any, trained: Any) -> Any:
    store = Store(str(tmp_path))
    store.write("tokenizer.json", json.dumps(trained).encode())
    return store


def tokenized(
    store: Store, rows: list[dict[str, Any]], dropped: tuple[bytes, ...] = (), row_group: int = 3, **changes: Any
) -> Record:
    """Tokenise one shard; documents at the paths in ``dropped`` are duplicates."""
    shard = shard_of(store, rows, row_group=row_group)
    (verdict,) = judged(
        store, [shard], manifest_of(rules={"code": {"min_alpha_percent": 0, "max_average_line": 10**6}})
    )
    paths = store.read_table(shard.path, ["path"]).column("path").to_pylist()
    entries = [{"reason": "near_duplicate" if p in dropped else "", "kept": None, "matches": 0} for p in paths]
    duplicates = store.write_table("duplicates.parquet", DUPLICATES, [pa.RecordBatch.from_pylist(entries, DUPLICATES)])
    description = store.read_json("tokenizer.json")
    settings_: dict[str, Any] = {"redact": True, "fim": Fim(), "split": Split(), "components": (Component(name="all"),)}
    settings_ |= {"languages": Languages(), "seed": 5, "controls": controls_of(description, EOS, None, FIM)} | changes
    work = Tokenize(STAGE, store, "tokenizer.json", **settings_)
    work.setup()
    tables = {
        "verdicts": verdict.files[0].path,
        "duplicates": duplicates.path,
        "language": shard.tables["language"].files[0].path,
    }
    work.run({"unit": shard.name, "path": shard.path, "tables": tables, "inputs": {"documents": shard.digest}})
    record = read_record(store, STAGE, shard.name)
    assert record is not None
    return record


def samples_of(store: Store, record: Record) -> list[dict[str, Any]]:
    table = store.read_table(record.files[0].path)
    assert table.schema == TOKENS
    return list(table.to_pylist())


def python_rows(texts: list[str]) -> list[dict[str, Any]]:
    return [{"path": f"{i}.py".encode(), "text": text} for i, text in enumerate(texts) if text]


def decode(trained: dict[str, Any], ids: list[int]) -> str:
    return str(Tokenizer.from_str(json.dumps(trained)).decode(ids, skip_special_tokens=False))


def texts_by_id(store: Store) -> dict[bytes, str]:
    table = store.read_table("documents/code/a.parquet", ["id", "text"])
    return dict(zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True))


def test_a_sample_is_the_text_and_eos_in_the_order_of_documents(
    site: Any, trained: Any, controls: Any, texts: Any
) -> None:
    record = tokenized(site, python_rows(texts[:30]), redact=False)
    samples, by_id = samples_of(site, record), texts_by_id(site)
    assert [s["sample_id"] for s in samples] == sorted(by_id)
    for sample in samples:
        assert sample["tokens"][-1] == controls.eos
        assert decode(trained, sample["tokens"][:-1]) == by_id[sample["sample_id"]]
        assert sample["n_tokens"] == len(sample["tokens"])
        assert sample["n_bytes"] == len(by_id[sample["sample_id"]].encode())
        assert sample["pieces"] == [{"document": sample["sample_id"], "first_token": 0}]
        assert (sample["source"], sample["component"], sample["language"]) == ("code", "all", "Python")
        assert (sample["fim"], sample["redactions"], sample["split"]) == (False, 0, "train")


def test_bos_stands_before_every_sample_if_the_manifest_says_so(site: Any, trained: Any, controls: Any) -> None:
    rows = python_rows(["x = 1\n", "y = 2\n"])
    for sample in samples_of(site, tokenized(site, rows, controls=controls)):
        assert (sample["tokens"][0], sample["tokens"][-1]) == (controls.bos, controls.eos)
        assert len(set(sample["tokens"][1:-1]) & set(controls.all)) == 0
    assert all(controls.bos not in s["tokens"] for s in samples_of(site, tokenized(site, rows)))


def test_a_sample_with_fim_decodes_back_to_its_text_in_the_order_prefix_suffix_middle(
    site: Any, trained: Any, controls: Any, texts: Any
) -> None:
    for chosen_controls in (controls, controls_of(trained, EOS, None, FIM)):
        record = tokenized(site, python_rows(texts[:30]), fim=ALL_FIM, redact=False, controls=chosen_controls)
        samples, by_id = samples_of(site, record), texts_by_id(site)
        assert record.counts["fim"] == sum(s["fim"] for s in samples) > 10
        for sample in (s for s in samples if s["fim"]):
            tokens = sample["tokens"]
            assert [tokens.count(c) for c in chosen_controls.all] == [1] * len(chosen_controls.all)
            begin, hole, end = (tokens.index(c) for c in controls.fim or ())
            assert begin == (1 if chosen_controls.bos is not None else 0)
            assert begin < hole < end < len(tokens) - 1 == tokens.index(controls.eos)
            prefix, suffix, middle = (
                decode(trained, tokens[a + 1 : b]) for a, b in ((begin, hole), (hole, end), (end, len(tokens) - 1))
            )
            text = by_id[sample["sample_id"]]
            assert (prefix, middle, suffix) == fim.split(text, sample["sample_id"], 5)
            assert prefix + middle + suffix == text


def test_a_sample_that_would_exceed_the_limit_with_fim_stays_whole(site: Any, controls: Any) -> None:
    rows = python_rows([("abc = def\n" * n) for n in range(1, 60)])
    limit = 64
    samples = samples_of(site, tokenized(site, rows, fim=ALL_FIM.model_copy(update={"max_tokens": limit})))
    assert {s["fim"] for s in samples} == {True, False}
    plain = {s["sample_id"]: s["tokens"] for s in samples_of(site, tokenized(site, rows))}
    for sample in samples:
        if sample["fim"]:
            assert sample["n_tokens"] <= limit
        else:
            assert sample["tokens"] == plain[sample["sample_id"]]
            assert sample["n_tokens"] > limit - 6


def test_only_components_that_are_named_have_fim_and_at_the_rate_given(site: Any) -> None:
    rows = python_rows([f"value_{i} = {i}\n" for i in range(400)])
    none = samples_of(site, tokenized(site, rows, fim=Fim(components=("other",), parameters=FimParameters(rate=1.0))))
    assert not any(s["fim"] for s in none)
    half = samples_of(site, tokenized(site, rows, fim=Fim(components=("all",))))
    share = sum(s["fim"] for s in half) / len(half)
    assert abs(share - 0.5) < 0.1
    ids = np.frombuffer(b"".join(s["sample_id"] for s in half), np.uint8).reshape(-1, 16)
    assert [s["fim"] for s in half] == fim.chosen(ids, 5, 0.5).tolist()


def test_personal_data_is_replaced_before_encoding_and_counted(site: Any, trained: Any) -> None:
    rows = python_rows([SECRETS * 2, "x = 1\n", SECRETS])
    record = tokenized(site, rows)
    samples, by_id = samples_of(site, record), texts_by_id(site)
    for sample in samples:
        redacted = redact.redact(pa.array([by_id[sample["sample_id"]]], pa.large_string()))
        text = redacted.text.to_pylist()[0]
        assert decode(trained, sample["tokens"][:-1]) == text
        assert (sample["redactions"], sample["n_bytes"]) == (int(redacted.counts.sum()), len(text.encode()))
        assert "ada" not in decode(trained, sample["tokens"])
    assert sorted(s["redactions"] for s in samples) == [0, 2, 4]
    assert {kind: record.counts[kind] for kind in redact.KINDS} == {"EMAIL": 3, "IP_ADDRESS": 3, "KEY": 0}


def test_a_cut_for_fim_never_leaves_a_part_of_an_address(site: Any, trained: Any) -> None:
    record = tokenized(site, python_rows([SECRETS + f"x{i} = 1\n" for i in range(60)]), fim=ALL_FIM)
    for sample in samples_of(site, record):
        assert not {"ada", "lovelace", "81.2"} & set(
            re.findall(r"ada|lovelace|81\.2", decode(trained, sample["tokens"]))
        )


def test_text_that_spells_control_tokens_becomes_a_sample_like_any_other(
    site: Any, trained: Any, controls: Any
) -> None:
    texts = [f"x = '{token}'\n" for token in (*SENTINELS, EOS, BOS)]
    for changes in ({}, {"fim": ALL_FIM, "controls": controls}):
        samples = samples_of(site, tokenized(site, python_rows(texts), **changes))
        assert len(samples) == 5
        for sample in samples:
            assert all(sample["tokens"].count(c) <= 1 for c in controls.all)
            assert sample["tokens"].index(controls.eos) == len(sample["tokens"]) - 1


def test_what_judging_or_deduplication_drops_is_not_tokenised(site: Any) -> None:
    rows = [*python_rows(["x = 1\n", "y = 2\n", "z = 3\n"]), {"path": b"a.toml", "text": "a = 1"}]
    record = tokenized(site, rows, dropped=(b"1.py",))
    kept = {s["sample_id"] for s in samples_of(site, record)}
    assert {texts_by_id(site)[i] for i in kept} == {"x = 1\n", "z = 3\n"}


def test_a_shard_of_which_nothing_is_kept_has_an_empty_token_shard(site: Any) -> None:
    record = tokenized(site, [{"path": b"a.toml", "text": "a = 1"}])
    assert samples_of(site, record) == []
    assert record.files[0].rows == record.counts["tokens"] == record.counts["bytes"] == 0


def test_counts_are_the_sums_of_the_samples(site: Any, texts: Any) -> None:
    record = tokenized(site, python_rows(texts[:20]), fim=ALL_FIM)
    samples = samples_of(site, record)
    assert record.counts["tokens"] == sum(s["n_tokens"] for s in samples)
    assert record.counts["bytes"] == sum(s["n_bytes"] for s in samples)
    assert record.counts["fim"] == sum(s["fim"] for s in samples)


def test_tokens_do_not_depend_on_row_groups(site: Any, texts: Any, tmp_path: Any, trained: Any) -> None:
    first = tokenized(site, python_rows(texts[:20]), fim=ALL_FIM)
    other = Store(str(tmp_path / "other"))
    other.write("tokenizer.json", json.dumps(trained).encode())
    assert tokenized(other, python_rows(texts[:20]), row_group=7, fim=ALL_FIM).digest == first.digest
