"""Tokenise: the last reader of the text. Redact, fill-in-the-middle, encode, and write token shards.

DeepSeek-Coder-V2, section 3.1: next token and, at a rate, fill-in-the-middle in PSM order, per document before packing.
Text can't forge a control token: the encoder doesn't know them, and sentinels are put in by id.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import fim, redact
from filters.fim import FimParameters
from filters.keyed import below, keyed_u64, keyed_u64_batch
from pipeline.blame import blaming
from pipeline.judge import component_of, effective_kind, outcomes
from pipeline.manifest import Component, Fim, Languages, Split, TrainTokenizer
from pipeline.records import Record, Stage, commit
from pipeline.schemas import TOKENS
from pipeline.store import Store, fixed_rows
from pipeline.token_shards import token_writer

MODULES = ("pipeline.tokenize",)
LIBRARIES = ("fastokens", "google-re2")
COLUMNS = ("id", "path", "form", "source", "origin", "text")
_NEWLINE = "Ċ"
_CONTROL = re.compile(r"<[|｜].*[|｜]>|<fim[_-].*>")
_LONGEST = 4096
"""Characters that the trainer gets in one piece: it is quadratic in the longest run without a split."""

_PRE_TOKENS = (
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
"""How text is split before merges: DeepSeek-V3's patterns to the letter, real line ends included. fastokens knows them
by their spelling and is some ten times slower on any other (docs/benchmarks.md)."""


class TokenizerError(Exception):
    """A tokenizer.json lacks what the manifest asks for."""


@dataclass(frozen=True)
class Controls:
    """Ids of the control tokens, which only the pipeline writes."""

    eos: int
    bos: int | None
    fim: tuple[int, int, int] | None

    @property
    def all(self) -> tuple[int, ...]:
        """Every id that encoded text must not hold."""
        return (self.eos, *((self.bos,) if self.bos is not None else ()), *(self.fim or ()))


def controls_of(tokenizer: dict[str, Any], eos: str, bos: str | None, parameters: FimParameters | None) -> Controls:
    """Look the control tokens up by content. Raises TokenizerError where one is missing."""
    added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])}

    def find(content: str) -> int:
        if content not in added:
            raise TokenizerError(f"the tokenizer has no added token {content!r}; it has: {', '.join(added) or 'none'}")
        return int(added[content])

    sentinels = None
    if parameters is not None:
        sentinels = (find(parameters.begin), find(parameters.hole), find(parameters.end))
    return Controls(find(eos), find(bos) if bos else None, sentinels)


def with_controls(tokenizer: dict[str, Any], contents: Sequence[str]) -> dict[str, Any]:
    """The tokenizer with these control tokens appended behind its highest id, those that it has already left out."""
    added = list(tokenizer.get("added_tokens", []))
    has = {token["content"] for token in added}
    highest = max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added)])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for content in dict.fromkeys(contents):
        if content not in has:
            highest += 1
            added.append({"id": highest, "content": content} | flags)
    return tokenizer | {"added_tokens": added}


def plain_encoder(tokenizer: dict[str, Any], controls: Controls) -> Any:
    """An encoder that treats the text of control tokens as ordinary text.

    Control tokens are those that the pipeline writes, the special ones, and all that look like one (``<|…|>``), special
    or not: some released files mark their sentinels as ordinary.
    """
    import fastokens

    added = tokenizer.get("added_tokens", [])
    is_control = {t["id"] for t in added if t["special"] or _CONTROL.fullmatch(t["content"])} | set(controls.all)
    vocabulary = {f"\0{i}" if i in is_control else token: i for token, i in tokenizer["model"]["vocab"].items()}
    plain = {
        "added_tokens": [t for t in added if t["id"] not in is_control],
        "model": tokenizer["model"] | {"vocab": vocabulary},
        "post_processor": None,
    }
    return fastokens.Tokenizer.from_json_str(json.dumps(tokenizer | plain))


def encode(encoder: Any, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Token ids of all texts in a row, and n + 1 offsets."""
    ids, offsets = encoder.encode_batch_flat(list(texts))
    return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)


def line_end_tokens(tokenizer: dict[str, Any]) -> NDArray[np.bool_]:
    """For each id of a byte-level vocabulary, whether the token ends with a newline."""
    vocabulary = tokenizer["model"]["vocab"]
    size = max([*vocabulary.values(), *(t["id"] for t in tokenizer.get("added_tokens", []))]) + 1
    ends = np.zeros(size, bool)
    for token, number in vocabulary.items():
        ends[number] = token.endswith(_NEWLINE)
    return ends


def train(texts: Sequence[str], configuration: TrainTokenizer, specials: Sequence[str]) -> str:
    """Train a byte-level BPE behind DeepSeek-V3's pre-tokenizer; gives the tokenizer.json.

    Neither the order of the texts nor threads matter to the result.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _PRE_TOKENS]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=configuration.vocabulary,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = (text[i : i + _LONGEST] for text in texts for i in range(0, len(text), _LONGEST))
    tokenizer.train_from_iterator(pieces, trainer)
    return str(tokenizer.to_str())


def split_of(origins: Sequence[str], source: str, split: Split, seed: int) -> list[str]:
    """The split of each origin: a keyed hash of source and origin, so that no origin stands in two."""
    validation, held_out = below(split.validation), below(split.validation + split.held_out)
    names: dict[str, str] = {}
    for origin in set(origins):
        value = keyed_u64(seed, "split", f"{source}\0{origin}".encode())
        names[origin] = "validation" if value < validation else "held_out" if value < held_out else "train"
    return [names[origin] for origin in origins]


@dataclass
class Tokenize:
    """Tokenise what is kept of one shard of documents."""

    stage: Stage
    store: Store
    tokenizer_path: str
    controls: Controls
    redact: bool
    fim: Fim
    split: Split
    components: tuple[Component, ...]
    languages: Languages
    seed: int

    def setup(self) -> None:
        """Load the encoder once per process."""
        self._encoder = _load_encoder(self.store, self.tokenizer_path, self.controls)

    def run(self, specification: dict[str, Any]) -> int:
        """Tokenise the shard of this specification; gives the bytes of text read."""
        unit, tables = specification["unit"], specification["tables"]
        is_kept = outcomes(self.store, tables["verdicts"], tables["duplicates"]) == ""
        language = self.store.read_table(tables["language"], ["language", "kind"])
        totals = dict.fromkeys(("tokens", "bytes", "fim", *redact.KINDS), 0)
        row = read = 0
        with token_writer(self.store, self.stage.file(unit)) as writer:
            for batch in self.store.batches(specification["path"], COLUMNS):
                rows = slice(row, row + batch.num_rows)
                taken = np.flatnonzero(is_kept[rows])
                if len(taken):
                    kept = batch.take(pa.array(taken))
                    names = language.slice(row, batch.num_rows).take(pa.array(taken)).combine_chunks()
                    writer.write(blaming(partial(self._samples, language=names, totals=totals), kept, 0))
                    read += int(kept.column("text").nbytes)
                row += batch.num_rows
        if writer.written.rows != int(is_kept.sum()):
            raise AssertionError(f"{unit}: {int(is_kept.sum())} documents kept, {writer.written.rows} samples")
        commit(self.store, Record(self.stage, unit, specification["inputs"], (writer.written,), totals))
        return read

    def _samples(self, batch: pa.RecordBatch, row: int, language: pa.Table, totals: dict[str, int]) -> pa.RecordBatch:
        language = language.slice(row, batch.num_rows)
        source = batch.column("source")[0].as_py()
        forms = batch.column("form").to_numpy(zero_copy_only=False)
        kinds, _ = effective_kind(language, forms, self.languages)
        names = language.column("language").to_numpy(zero_copy_only=False).astype(object)
        components = component_of(kinds, source, names, self.components)
        text, counts = batch.column("text"), np.zeros((batch.num_rows, len(redact.KINDS)), np.uint32)
        if self.redact:
            redacted = redact.redact(text)
            text, counts = redacted.text, redacted.counts
        texts: list[str] = text if isinstance(text, list) else text.to_pylist()
        ids = fixed_rows(batch.column("id"))
        wants_fim = np.isin(components.astype(str), self.fim.components)
        wants_fim &= fim.chosen(ids, self.seed, self.fim.parameters.rate)
        tokens, lengths, is_fim = self._encode(texts, ids, wants_fim)
        n_bytes = np.array([len(t.encode()) for t in texts], np.uint32)
        for kind, total in zip(redact.KINDS, counts.sum(axis=0).tolist(), strict=True):
            totals[kind] += total
        totals["tokens"] += len(tokens)
        totals["bytes"] += int(n_bytes.sum())
        totals["fim"] += int(is_fim.sum())
        origins = batch.column("origin").to_pylist()
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        one_each = pa.array(np.arange(batch.num_rows + 1), pa.int32())
        piece = pa.StructArray.from_arrays(
            [batch.column("id"), pa.array(np.zeros(batch.num_rows, np.uint32))],
            fields=list(TOKENS.field("pieces").type.value_type),
        )
        columns = {
            "sample_id": batch.column("id"),
            "pieces": pa.ListArray.from_arrays(one_each, piece, type=TOKENS.field("pieces").type),
            "tokens": pa.ListArray.from_arrays(offsets, pa.array(tokens), type=TOKENS.field("tokens").type),
            "n_tokens": pa.array(lengths.astype(np.uint32)),
            "n_bytes": pa.array(n_bytes),
            "component": pa.array(components, pa.string()),
            "language": pa.array(names, pa.string()),
            "source": batch.column("source"),
            "origin": batch.column("origin"),
            "split": pa.array(split_of(origins, source, self.split, self.seed), pa.string()),
            "fim": pa.array(is_fim),
            "redactions": pa.array(counts.sum(axis=1).astype(np.uint32)),
        }
        return pa.RecordBatch.from_arrays([columns[name] for name in TOKENS.names], schema=TOKENS)

    def _encode(
        self, texts: list[str], ids: NDArray[np.uint8], wants_fim: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens of all samples in a row, the length of each, and which have FIM."""
        pieces: list[str] = []
        first = np.zeros(len(texts) + 1, np.int64)
        for i, text in enumerate(texts):
            parts = fim.split(text, ids[i].tobytes(), self.seed) if wants_fim[i] else (text,)
            pieces.extend(parts)
            first[i + 1] = first[i] + len(parts)
        flat, offsets = self._checked(pieces)
        counts = offsets[first[1:]] - offsets[first[:-1]]
        overhead = 5 if self.controls.bos is not None else 4
        too_long = np.flatnonzero(wants_fim & (counts + overhead > self.fim.max_tokens))
        whole, whole_offsets = self._checked([texts[i] for i in too_long])
        is_fim = wants_fim.copy()
        is_fim[too_long] = False
        place = {int(i): n for n, i in enumerate(too_long)}
        head = [np.array([self.controls.bos], np.uint32)] if self.controls.bos is not None else []
        eos = np.array([self.controls.eos], np.uint32)
        begin, hole, end = (np.array([t], np.uint32) for t in self.controls.fim or (0, 0, 0))
        out: list[NDArray[np.uint32]] = []
        lengths = np.zeros(len(texts), np.int64)
        for i in range(len(texts)):
            if is_fim[i]:
                a, b, c, d = offsets[first[i] : first[i] + 4]
                sample = [*head, begin, flat[a:b], hole, flat[c:d], end, flat[b:c], eos]
            elif i in place:
                n = place[i]
                sample = [*head, whole[whole_offsets[n] : whole_offsets[n + 1]], eos]
            else:
                sample = [*head, flat[offsets[first[i]] : offsets[first[i + 1]]], eos]
            lengths[i] = sum(map(len, sample))
            out.extend(sample)
        return np.concatenate(out), lengths, is_fim

    def _checked(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        ids, offsets = encode(self._encoder, texts)
        for control in self.controls.all:
            if (ids == control).any():
                raise TokenizerError(f"text was encoded to the control token {control}")
        return ids, offsets


@lru_cache(maxsize=1)
def _load_encoder(store: Store, path: str, controls: Controls) -> Any:
    return plain_encoder(store.read_json(path), controls)


def sample_threshold(kept_bytes: int, configuration: TrainTokenizer) -> int:
    """A document is in the tokenizer's sample when its keyed hash is below this."""
    return below(min(1.0, configuration.sample_bytes / max(1, kept_bytes)))


def sampled(ids: NDArray[np.uint8], seed: int, threshold: int) -> NDArray[np.bool_]:
    """Which documents the tokenizer is trained on."""
    return keyed_u64_batch(seed, "tokenizer", ids) < np.uint64(threshold)
