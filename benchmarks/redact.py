"""Redaction: milliseconds of CPU time a megabyte, and what is found, on the code of ``benchmarks.corpus``.

    python -m benchmarks.redact [--quick] [--json FILE]

"all" is the corpus as it is; "clean" the texts of it in which nothing is found; "re" applies the e-mail
pattern alone with Python's own regular expressions, for scale.
"""

import re
import time
from typing import Any

import pyarrow as pa

from benchmarks import corpus, parser, write_json
from filters.redact import KINDS, redact

EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")


def measure(name: str, texts: list[str]) -> dict[str, Any]:
    text = pa.array(texts, pa.large_string())
    megabytes = sum(len(t.encode()) for t in texts) / 1e6
    seconds = []
    for _ in range(5):
        begin = time.process_time()
        found = redact(text)
        seconds.append(time.process_time() - begin)
    counts = found.counts.sum(axis=0).tolist()
    return {
        "name": name,
        "megabytes": round(megabytes, 1),
        "ms_per_mb": round(1e3 * min(seconds) / megabytes, 3),
        **dict(zip(KINDS, counts, strict=True)),
    }


def measure_re(texts: list[str]) -> dict[str, Any]:
    megabytes = sum(len(t.encode()) for t in texts) / 1e6
    begin = time.process_time()
    found = sum(len(EMAIL.findall(text)) for text in texts)
    seconds = time.process_time() - begin
    cost = round(1e3 * seconds / megabytes, 3)
    return {"name": "re", "megabytes": round(megabytes, 1), "ms_per_mb": cost, "EMAIL": found}


def main() -> None:
    options = parser(__doc__, "4 MB of text instead of 40").parse_args()
    texts = corpus.texts(4 if options.quick else 40)
    found = redact(pa.array(texts, pa.large_string())).counts.sum(axis=1).tolist()
    clean = [text for text, count in zip(texts, found, strict=True) if count == 0]
    rows = [measure("all", texts), measure("clean", clean), measure_re(texts)]
    for row in rows:
        counts = "  ".join(f"{kind} {row[kind]}" for kind in KINDS if kind in row)
        print(f"{row['name']:8}{row['megabytes']:8.1f} MB{row['ms_per_mb']:9.3f} ms/MB   {counts}")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
