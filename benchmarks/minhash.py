"""MinHash signatures, 256 permutations over word 5-grams: ours against datasketch and, where installed, rensa and daft.

    python -m benchmarks.minhash [--quick] [--json FILE]

All read the same files, code of ``benchmarks.corpus``, in one run on one core; times are CPU seconds from a
list of texts (Arrow for ours and daft) to signatures. The last column is the error of the similarity estimated between
a text and its first four fifths, against the exact one: a fast kernel that is wrong would show.
"""

import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import corpus, parser, write_json

PERMUTATIONS = 256
SHINGLE = 5
PAIRS = 200
Sign = Callable[[list[str]], NDArray[Any]]


def shingles(text: str) -> list[str]:
    """Word 5-grams, lower-case, as a Python peer gets them."""
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))]


def sign_ours(texts: list[str]) -> NDArray[Any]:
    from filters.minhash import MinHashParameters, sign

    return sign(pa.array(texts, pa.large_string()), MinHashParameters(permutations=PERMUTATIONS)).signature


def sign_datasketch(texts: list[str]) -> NDArray[Any]:
    peer = import_module("datasketch")
    signatures = np.empty((len(texts), PERMUTATIONS), np.uint32)
    for i, text in enumerate(texts):
        minhash = peer.MinHash(num_perm=PERMUTATIONS)
        minhash.update_batch([shingle.encode() for shingle in shingles(text)])
        signatures[i] = minhash.hashvalues
    return signatures


def sign_rensa(texts: list[str]) -> NDArray[Any]:
    peer = import_module("rensa")
    signatures = np.empty((len(texts), PERMUTATIONS), np.uint32)
    for i, text in enumerate(texts):
        minhash = peer.RMinHash(num_perm=PERMUTATIONS, seed=1)
        minhash.update(shingles(text))
        signatures[i] = minhash.digest()
    return signatures


def sign_daft(texts: list[str]) -> NDArray[Any]:
    peer = import_module("daft")
    frame = peer.from_arrow(pa.table({"text": pa.array(texts, pa.large_string())}))
    text = peer.col("text").normalize(lowercase=True, white_space=True)
    hashed = frame.select(text.minhash(num_hashes=PERMUTATIONS, ngram_size=SHINGLE)).to_arrow()
    return np.array(hashed.column(0).combine_chunks().flatten()).reshape(len(texts), PERMUTATIONS)


def error(sign: Sign, texts: Sequence[str]) -> float:
    """Root mean square error of the estimate on pairs of a text and its first four fifths."""
    pairs = [text for whole in texts[:PAIRS] for text in (whole, whole[: len(whole) * 4 // 5])]
    signatures = sign(pairs)
    estimates = (signatures[0::2] == signatures[1::2]).mean(axis=1)
    exact = []
    for left, right in zip(pairs[0::2], pairs[1::2], strict=True):
        a, b = set(shingles(left)), set(shingles(right))
        exact.append(len(a & b) / len(a | b))
    return float(np.sqrt(np.mean(np.square(estimates - np.array(exact)))))


def measure(name: str, sign: Sign, texts: list[str], megabytes: float, rounds: int) -> dict[str, Any]:
    rmse = error(sign, texts)
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        sign(texts)
        seconds.append(time.process_time() - begin)
    return {
        "name": name,
        "version": getattr(import_module(name), "__version__", "?") if name != "headrace" else "",
        "cpu_seconds": round(min(seconds), 3),
        "mb_per_s": round(megabytes / min(seconds), 1),
        "docs_per_s": round(len(texts) / min(seconds)),
        "rmse": round(rmse, 4),
    }


def main() -> None:
    options = parser(__doc__, "4 MB of text instead of 40").parse_args()
    texts = corpus.texts(4 if options.quick else 40)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rows = [measure("headrace", sign_ours, texts, megabytes, 5)]
    missing = []
    for name, sign in (("datasketch", sign_datasketch), ("rensa", sign_rensa), ("daft", sign_daft)):
        if find_spec(name) is None:
            missing.append(name)
        else:
            rows.append(measure(name, sign, texts, megabytes, 1))
    print(f"{len(texts)} files, {megabytes:.1f} MB, K = {PERMUTATIONS}, word {SHINGLE}-grams, CPU time")
    for row in rows:
        ratio = rows[0]["mb_per_s"] / row["mb_per_s"]
        print(
            f"{row['name']:12}{row['version']:10}{row['mb_per_s']:9.1f} MB/s{row['docs_per_s']:9} docs/s"
            f"  ours is {ratio:6.1f} x as fast   RMSE {row['rmse']:.4f}"
        )
    if missing:
        print("not installed:", ", ".join(missing))
    report = {"files": len(texts), "megabytes": round(megabytes, 1), "rows": rows, "missing": missing}
    write_json(options.json, report)


if __name__ == "__main__":
    main()
