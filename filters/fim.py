"""Fill in the middle: which samples are rearranged, and where they are cut (arXiv 2207.14255; DeepSeek: PSM, 0.5).

A chosen sample (DeepSeek-Coder-V2, section 3.1: per document, before packing) becomes, in PSM order,

    begin  prefix  hole  suffix  end  middle

where begin, hole and end are control ids. This module splits text; the stage that tokenises puts the ids in. The
sentinel strings below only name the ids in the tokenizer's vocabulary: they are never joined to text, and text that
spells them is encoded as ordinary text, so that no document can forge one.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from filters.keyed import below, keyed_u64, keyed_u64_batch


class FimParameters(BaseModel):
    """How many samples are rearranged, and the names of the control ids (DeepSeek-Coder's; U+FF5C and U+2581)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(0.5, ge=0, le=1, description="share of samples, DeepSeek-Coder-V2, section 3.1")
    mode: Literal["psm"] = Field("psm", description="prefix, suffix, middle; DeepSeek-Coder-V2, section 3.1")
    begin: str = Field("<｜fim▁begin｜>", min_length=1, description="token before the prefix")
    hole: str = Field("<｜fim▁hole｜>", min_length=1, description="token where the middle was")
    end: str = Field("<｜fim▁end｜>", min_length=1, description="token before the middle")


def chosen(ids: NDArray[np.uint8], seed: int, rate: float) -> NDArray[np.bool_]:
    """Which of n samples (ids u8[n, 16]) are rearranged: a keyed hash below the rate. bool[n]."""
    if rate >= 1:
        return np.ones(len(ids), np.bool_)
    return np.asarray(keyed_u64_batch(seed, "fim", ids) < np.uint64(below(rate)))


def split(text: str, id_: bytes, seed: int) -> tuple[str, str, str]:
    """Cut a text in (prefix, middle, suffix), which joined in this order are the text; each may be empty.

    The two cuts are drawn independently and uniformly from the n + 1 places between characters (arXiv 2207.14255,
    section 3), by hashes keyed by seed and id, and move on to the next place where no character is torn: not inside
    CR LF, not before a combining mark, a variation selector or a skin tone, and not beside a zero-width joiner.
    """
    places = len(text) + 1
    first, second = sorted((keyed_u64(seed, purpose, id_) * places) >> 64 for purpose in ("fim cut 1", "fim cut 2"))
    first = _next_place(text, first)
    second = _next_place(text, max(first, second))
    return text[:first], text[first:second], text[second:]


def _next_place(text: str, at: int) -> int:
    while 0 < at < len(text) and _joined(text[at - 1], text[at]):
        at += 1
    return at


def _joined(before: str, after: str) -> bool:
    if before == "\u200d" or (before == "\r" and after == "\n"):
        return True
    return any(low <= after <= high for low, high in _EXTENDING)


_EXTENDING = (
    ("\u0300", "\u036f"),  # combining diacritical marks, their extensions and supplements
    ("\u1ab0", "\u1aff"),
    ("\u1dc0", "\u1dff"),
    ("\u200d", "\u200d"),  # zero-width joiner
    ("\u20d0", "\u20ff"),  # combining marks for symbols
    ("\ufe00", "\ufe0f"),  # variation selectors
    ("\ufe20", "\ufe2f"),
    ("\U0001f3fb", "\U0001f3ff"),  # skin tones
    ("\U000e0100", "\U000e01ef"),  # variation selectors supplement
)
