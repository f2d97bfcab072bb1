"""Decontaminate: the benchmark texts that must not be in the corpus (DeepSeek-Coder, section 2.4).

A document that shares a 10-gram of words with a benchmark text is dropped; benchmark texts of 3 to 9 words count where
they stand whole.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator

import orjson

from filters import contamination
from pipeline.manifest import Benchmark, Decontamination, ManifestError
from pipeline.records import Record, Stage, commit, find
from pipeline.store import Store, Written, open_url, sha256_of

MODULES = ("pipeline.decontaminate", "filters.contamination")


def read_items(benchmark: Benchmark) -> Iterator[contamination.Benchmark]:
    """The items of a benchmark file: the joined fields of each JSON line, or the whole text of another file."""
    with open_url(benchmark.path) as file:
        data = file.read()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ManifestError(f"{benchmark.path}: damaged gzip ({error})") from None
    if not benchmark.fields:
        yield contamination.Benchmark(benchmark.name, "0", data.decode("utf-8", "replace"))
        return
    for number, line in enumerate(data.splitlines()):
        if line.strip():
            yield _item(benchmark, number, line)


def _item(benchmark: Benchmark, number: int, line: bytes) -> contamination.Benchmark:
    where = f"{benchmark.path}:{number + 1}"
    try:
        row = orjson.loads(line)
        if not isinstance(row, dict):
            raise ManifestError(f"{where}: a JSON object was expected; leave out `fields` for a plain text file")
        parts = [row[name] for name in benchmark.fields]
        name = str(row[benchmark.id]) if benchmark.id else str(number)
    except orjson.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON ({error}); leave out `fields` for a plain text file") from None
    except KeyError as error:
        raise ManifestError(f"{where}: no field {error}; it has: {', '.join(sorted(row))}") from None
    text = "\n".join("\n".join(map(str, part)) if isinstance(part, list) else str(part) for part in parts if part)
    return contamination.Benchmark(benchmark.name, name, text)


def digest(configuration: Decontamination) -> str:
    """A hash of the benchmark files' content. Raises ManifestError where one is missing."""
    total = hashlib.sha256()
    for number, benchmark in enumerate(configuration.benchmarks):
        try:
            content = sha256_of(lambda path=benchmark.path: open_url(path))  # type: ignore[misc]
        except FileNotFoundError:
            raise ManifestError(f"no file {benchmark.path}", "decontaminate", "benchmarks", number, "path") from None
        total.update(orjson.dumps([benchmark.name, benchmark.fields, benchmark.id, content]))
    return total.hexdigest()


def write_index(store: Store, stage: Stage, configuration: Decontamination, content: str) -> Record:
    """Write the index of the benchmark texts, if it is not there."""
    inputs = {"benchmarks": content}
    known = find(store, stage, "index", inputs)
    if known is not None:
        return known
    items = [item for benchmark in configuration.benchmarks for item in read_items(benchmark)]
    data = contamination.to_bytes(contamination.build_index(items, configuration.ngram, configuration.shortest))
    path, sha256 = stage.file("index", ".bin"), hashlib.sha256(data).hexdigest()
    store.write(path, data)
    written = Written(path, len(items), sha256, len(data), sha256)
    return commit(store, Record(stage, "index", inputs, (written,), {"items": len(items)}))
