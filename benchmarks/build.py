"""Speed of a whole build by stage, beside datatrove on the same files, and what Beam itself costs.

``python -m benchmarks.build [--quick] [--mb N] [--slice-mb N] [--beam-mb N] [--workers N] [--json FILE]``

1. ``headrace build`` on N MB of code: MB of text per CPU second (so per core) by stage and for the whole. A build of a
   few MB comes first, so that compiled kernels are loaded. The figures hold writing, hashing and record keeping.
2. The same on a slice of these files, before and after datatrove 0.10.1 (read, Gopher's filter, MinHash 14 x 8 over
   5-grams, the same ``tokenizer.json``) on the documents of that slice, twice: with its own word tokenizer (spaCy's),
   and with a regular expression, which is faster. Gopher's thresholds are set to measure everything and drop next to
   nothing (as they are, they drop nearly all code), so that both sides pass the same documents on. Both encode what
   datatrove kept: the token counts must be equal. datatrove is installed once, by pip, in an environment of its own
   in ``$HEADRACE_CACHE/benchmarks``.
3. The passes of a build on Beam, and the same functions on the same units in plain processes, stage by stage in turn.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import corpus, measured, one_thread, parser, print_table, write_json

one_thread()

from pipeline import tokenize  # noqa: E402
from pipeline.build import Build, Unit  # noqa: E402
from pipeline.engine import Engine  # noqa: E402
from pipeline.manifest import Manifest  # noqa: E402
from pipeline.passes import Step, Work, run_pass  # noqa: E402
from pipeline.store import Store  # noqa: E402

TRAIN = {"train": {"vocabulary": 32_000, "sample_bytes": 16_000_000}}
PASSES = ("crawl", "annotate", "tokenize")
DATATROVE = "0.10.1"
# What breaks without a pin: xxhash 4 takes no str.
REQUIREMENTS = [f"datatrove[io]=={DATATROVE}", "xxhash<4", "tokenizers==0.23.3", "spacy>=3.8,<4"]
REQUIREMENTS += ["orjson", "nltk", "tldextract", "regex", "scipy"]

# Runs in datatrove's own environment: JSON parameters in, JSON results out.
_DATATROVE_STAGES = r"""
import json, re, resource, sys
from functools import lru_cache
from loguru import logger
logger.remove()
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import minhash
from datatrove.pipeline.filters import GopherQualityFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils import text as datatrove_text, word_tokenizers

given = json.loads(sys.argv[1])
out, workers = given["out"], given["workers"]

if given["words"] == "regex":
    class Words(word_tokenizers.WordTokenizer):
        def word_tokenize(self, text): return re.findall(r"\w+|[^\w\s]+", text)
        def sent_tokenize(self, text): return text.splitlines()
        def span_tokenize(self, text): return []
    words = lru_cache(lambda language: Words())
    minhash.load_word_tokenizer = datatrove_text.load_word_tokenizer = word_tokenizers.load_word_tokenizer = words
datatrove_text.split_into_words("warm up")

def cpu():
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)

def run(name, pipeline, tasks):
    start = cpu()
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(workers, tasks), start_method="fork").run()
    costs[name] = cpu() - start

costs, config = {}, minhash.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
tasks = given["tasks"]
everything = dict(
    min_doc_words=1, max_doc_words=10**9, min_avg_word_length=1e-9, max_avg_word_length=10**9,
    max_symbol_word_ratio=10**9, max_bullet_lines_ratio=1.0, max_ellipsis_lines_ratio=1.0,
    max_non_alpha_words_ratio=1e-9, min_stop_words=-1,
)
documents, filtered = (lambda: JsonlReader(given["input"])), (lambda: JsonlReader(out + "/filtered"))
run("read", [documents()], tasks)
run("read, filter", [documents(), GopherQualityFilter(**everything), JsonlWriter(out + "/filtered")], tasks)
run("signatures", [filtered(), minhash.MinhashDedupSignature(out + "/signatures", config)], tasks)
run("buckets", [minhash.MinhashDedupBuckets(out + "/signatures", out + "/buckets", config=config)], 14)
run("cluster", [minhash.MinhashDedupCluster(out + "/buckets", out + "/remove", config=config)], 1)
run("drop duplicates", [filtered(), minhash.MinhashDedupFilter(out + "/remove"), JsonlWriter(out + "/kept")], tasks)
run("tokenize", [JsonlReader(out + "/kept"),
    DocumentTokenizer(out + "/tokens", given["tokenizer"], eos_token=given["eos"], shuffle_documents=False)], tasks)
print("RESULT " + json.dumps(costs))
"""


def open_build(manifest: Manifest, out: Path, workers: int, plain: bool = False) -> Build:
    """A build into a folder, on Beam or in plain processes."""
    build = Build(
        manifest,
        Store(str(out)),
        Engine(workers, quiet=True),
        run_pass=run_plain if plain else run_pass,
        say=_leave_out,
    )
    build.records = []
    return build


def _leave_out(line: str) -> None:
    """Print no progress."""


def run_plain(name: str, steps: Sequence[Step], engine: Engine, libraries: Sequence[str]) -> bool:
    """Call the same functions in a loop, or in the processes of a pool: Beam's measure."""
    (step,) = steps
    ordered = sorted(step.units, key=lambda u: (-int(u["size"]), str(u["unit"])))
    if engine.workers == 1:
        step.work.setup()
        for unit in ordered:
            step.work.run(unit)
        return True
    with get_context("spawn").Pool(engine.workers, _set_up, (step.work,)) as pool:
        pool.map(_run, ordered, chunksize=1)
        pool.close()
        pool.join()
    return True


_work: Work


def _set_up(work: Work) -> None:
    global _work
    _work = work
    work.setup()


def _run(unit: Unit) -> int:
    return _work.run(unit)


def run_steps(build: Build) -> dict[str, float]:
    """Run a build; gives the CPU seconds of each step, of hashing the inputs and of training the tokenizer."""
    costs: dict[str, float] = {}
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("inputs", build.check),
        ("crawl", build.crawl),
        ("annotate", build.annotate),
        ("judge", build.judge),
        ("deduplicate", build.deduplicate),
        ("train tokenizer", build.make_tokenizer),
        ("tokenize", build.tokenize),
        ("select, plan", build.select),
        ("select, plan", build.plan),
    ]
    for name, step in steps:
        with measured(costs, name):
            step()
    return costs


def sizes(build: Build) -> dict[str, float]:
    """MB of text that each step handled, and counts of what came out."""
    crawled = sum(shard.size for shard in build.shards) / 1e6
    tokenized = [record.counts for _, _, record in build.tokens]
    kept = sum(counts["bytes"] for counts in tokenized) / 1e6
    train = build.manifest.tokenizer.train
    dropped = [record.counts["duplicates"] for record in build.duplicates]
    return {
        "inputs": crawled,
        "crawl": crawled,
        "annotate": crawled,
        "judge": crawled,
        "deduplicate": crawled,
        "train tokenizer": min(train.sample_bytes / 1e6, kept) if train else 0.0,
        "tokenize": kept,
        "select, plan": kept,
        "documents": sum(shard.rows for shard in build.shards),
        "kept": sum(file.rows for _, _, record in build.tokens for file in record.files),
        "exact_duplicates": sum(counts.get("exact_duplicate", 0) for counts in dropped),
        "near_duplicates": sum(counts.get("near_duplicate", 0) for counts in dropped),
        "tokens": sum(counts["tokens"] for counts in tokenized),
    }


def measure_headrace(manifest: Manifest, out: Path, workers: int) -> tuple[Build, dict[str, Any]]:
    """Build, and give MB handled and CPU seconds by step."""
    build = open_build(manifest, out, workers)
    costs = run_steps(build)
    return build, {"cpu_seconds": costs, "sizes": sizes(build)}


def print_headrace(figures: dict[str, Any]) -> None:
    """Print the table of a build."""
    costs, mb = figures["cpu_seconds"], figures["sizes"]
    rows: list[list[Any]] = [[name, mb[name], cost, mb[name] / cost if cost else None] for name, cost in costs.items()]
    whole, total = sum(costs.values()), mb["crawl"]
    rows.append(["whole", total, whole, total / whole])
    trained = costs["train tokenizer"]
    rows.append(["whole, with a given tokenizer", total, whole - trained, total / (whole - trained)])
    print_table(["stage", "MB of text", "CPU s", "MB/s/core"], rows)
    duplicates = f"{mb['exact_duplicates']:,} exact and {mb['near_duplicates']:,} near-duplicates"
    print(f"{mb['documents']:,} documents, {duplicates}, {mb['kept']:,} kept, {mb['tokens']:,} tokens with FIM")


def datatrove_python() -> Path:
    """The interpreter of datatrove's own environment, made on first use."""
    home = Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace") / "benchmarks"
    environment = home / f"datatrove-{DATATROVE}"
    python, ready = environment / "bin" / "python", environment / "ready"
    if not ready.exists():
        print(f"installing datatrove {DATATROVE} into {environment}", file=sys.stderr)
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        ready.touch()
    return python


def write_documents(build: Build, folder: Path, files: int) -> None:
    """Write the documents of a build as JSONL.gz, the way datatrove reads them."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        paths = [folder / f"{number:05d}.jsonl.gz" for number in range(files)]
        writers = [stack.enter_context(gzip.open(path, "wt", compresslevel=6)) for path in paths]
        for number, (id_, text) in enumerate(_documents(build)):
            writers[number % files].write(json.dumps({"id": id_, "text": text}, ensure_ascii=False) + "\n")


def _documents(build: Build) -> Iterator[tuple[str, str]]:
    for shard in build.shards:
        for batch in build.store.batches(shard.path, ["id", "text"]):
            for id_, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
                yield id_.hex(), text


def measure_datatrove(build: Build, scratch: Path, words: str, workers: int) -> dict[str, Any]:
    """Run datatrove's stages on the documents of a build and encode with ours what it kept."""
    source, out = scratch / "jsonl", scratch / f"datatrove-{words}"
    if not source.exists():
        write_documents(build, source, workers)
    tokenizer = build.store.full(build.tokenizer.files[0].path)
    given: dict[str, Any] = {"input": str(source), "out": str(out), "tokenizer": tokenizer, "words": words}
    given |= {"eos": build.manifest.tokenizer.eos, "workers": workers, "tasks": workers}
    command = [str(datatrove_python()), "-c", _DATATROVE_STAGES, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
    if done.returncode:
        raise RuntimeError(f"datatrove failed:\n{done.stderr[-4000:]}")
    result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    filtered, kept = _lines(out / "filtered"), _lines(out / "kept")
    texts = [json.loads(line)["text"] for line in kept]
    size = 2 if build.line_ends.size <= 1 << 16 else 4
    tokens = sum(file.stat().st_size for file in (out / "tokens").glob("*.ds")) // size
    description = json.loads(Path(tokenizer).read_text())
    controls = tokenize.controls_of(description, build.manifest.tokenizer.eos, None, None)
    ours, _ = tokenize.encode(tokenize.plain_encoder(description, controls), texts)
    counts = {"filtered": len(filtered), "kept": len(kept), "tokens": tokens}
    counts |= {"tokens_of_headrace": len(ours) + len(texts)}
    return {"cpu_seconds": json.loads(result.removeprefix("RESULT ")), "counts": counts}


def _lines(folder: Path) -> list[str]:
    lines: list[str] = []
    for path in sorted(folder.glob("*.gz")):
        with gzip.open(path, "rt") as file:
            lines.extend(file)
    return lines


COMPARED = (
    ("read; crawl", ("crawl", "inputs"), ("read",)),
    ("filter; annotate, judge", ("annotate", "judge"), ("read, filter", "signatures")),
    ("deduplicate", ("deduplicate",), ("buckets", "cluster", "drop duplicates")),
    ("tokenize", ("tokenize",), ("tokenize",)),
)


def rates(cpu: dict[str, float], mb: float, number: int) -> dict[str, float]:
    """MB/s per core of all text by compared stage; ``number`` 1 picks our names of the stages, 2 datatrove's."""
    figures = {row[0]: mb / sum(cpu[name] for name in row[number]) for row in COMPARED}
    # reading is in each of datatrove's stages; alone it stands in the first line only
    whole = [name for row in COMPARED[number - 1 :] for name in row[number]]
    return figures | {"whole": mb / sum(cpu[name] for name in whole)}


def compare(full: dict[str, Any], slices: Sequence[dict[str, Any]], datatrove: dict[str, Any]) -> dict[str, Any]:
    """Print MB/s per core by stage: ours on all files and (mean of the runs) on the slice, datatrove's on the slice."""
    mb = slices[0]["sizes"]["crawl"]
    mean = {n: sum(run["cpu_seconds"][n] for run in slices) / len(slices) for n in slices[0]["cpu_seconds"]}
    ours = {"headrace": rates(full["cpu_seconds"], full["sizes"]["crawl"], 1), "headrace, slice": rates(mean, mb, 1)}
    theirs = {f"datatrove, {words}": rates(run["cpu_seconds"], mb, 2) for words, run in datatrove.items()}
    columns = ours | theirs
    for words in datatrove:
        for size, mine in ours.items():
            other = theirs[f"datatrove, {words}"]
            columns[f"x {size.replace('headrace', words)}"] = {s: mine[s] / other[s] for s in mine}
    rows = [[stage, *(column[stage] for column in columns.values())] for stage in ours["headrace"]]
    print_table(["MB/s/core of all text", *columns], rows)
    return columns


def measure_beam(folder: Path, tokenizer: str, scratch: Path, workers: int) -> dict[str, dict[str, float]]:
    """CPU seconds of each pass on Beam and in plain processes: two builds, stage by stage in turn."""
    manifest = corpus.manifest(folder, {"path": tokenizer})
    builds = {
        "beam": open_build(manifest, scratch / "on-beam", workers),
        "plain": open_build(manifest, scratch / "plain", workers, plain=True),
    }
    costs: dict[str, dict[str, float]] = {name: {} for name in PASSES}
    for step in ("crawl", "annotate", "judge", "deduplicate", "tokenize"):
        for way, build in builds.items():
            with measured(costs.setdefault(step, {}), way):
                getattr(build, step)()
    if [r.digest for _, _, r in builds["beam"].tokens] != [r.digest for _, _, r in builds["plain"].tokens]:
        raise AssertionError("the two ways gave different tokens")
    return {name: costs[name] for name in PASSES}


def print_beam(costs: dict[str, dict[str, float]]) -> None:
    """Print what Beam adds."""
    costs = costs | {"all passes": {way: sum(cost[way] for cost in costs.values()) for way in ("beam", "plain")}}
    rows = [[n, c["beam"], c["plain"], f"{100 * (c['beam'] / c['plain'] - 1):+.1f} %"] for n, c in costs.items()]
    print_table(["pass", "Beam, CPU s", "plain processes, CPU s", "Beam's cost"], rows)


def main() -> None:
    arguments = parser(__doc__, "20 MB, a slice of 5 MB, 20 MB for Beam")
    arguments.add_argument("--mb", type=float, help="MB of code to build (default: 400)")
    arguments.add_argument("--slice-mb", type=float, help="MB for datatrove (default: 40; 0: leave it out)")
    arguments.add_argument("--beam-mb", type=float, help="MB for Beam's own cost (default: 400; 0: leave it out)")
    arguments.add_argument("--workers", type=int, default=1, help="worker processes, on both sides (default: 1)")
    options = arguments.parse_args()

    def size(given: float | None, full: float, quick: float) -> float:
        return given if given is not None else quick if options.quick else full

    mb, slice_mb = size(options.mb, 400, 20), size(options.slice_mb, 40, 5)
    beam_mb = size(options.beam_mb, 400, 20)
    results: dict[str, Any] = {"workers": options.workers}
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as folder:
        scratch = Path(folder)
        corpus.write_corpus(scratch / "warm", 2)
        measure_headrace(corpus.manifest(scratch / "warm", TRAIN), scratch / "warm-out", 1)
        corpus.write_corpus(scratch / "code", mb)
        print(f"headrace build, {mb:.0f} MB of code, {options.workers} worker(s)")
        build, results["headrace"] = measure_headrace(
            corpus.manifest(scratch / "code", TRAIN), scratch / "out", options.workers
        )
        print_headrace(results["headrace"])
        tokenizer = str(scratch / "tokenizer.json")
        Path(tokenizer).write_bytes(build.store.read(build.tokenizer.files[0].path))
        shutil.rmtree(scratch / "out")
        if slice_mb:
            results["compared"] = compare_slice(slice_mb, results["headrace"], tokenizer, scratch, options.workers)
        if beam_mb:
            if beam_mb != mb:
                shutil.rmtree(scratch / "code")
                corpus.write_corpus(scratch / "code", beam_mb)
            print(f"\nBeam's own cost, {beam_mb:.0f} MB of code, {options.workers} worker(s)")
            results["beam"] = measure_beam(scratch / "code", tokenizer, scratch, options.workers)
            print_beam(results["beam"])
    write_json(options.json, results)


def compare_slice(mb: float, full: dict[str, Any], tokenizer: str, scratch: Path, workers: int) -> dict[str, Any]:
    """Build a slice with headrace, datatrove (twice) and headrace again; print speeds and counts."""
    corpus.write_corpus(scratch / "slice", mb)
    manifest = corpus.manifest(scratch / "slice", {"path": tokenizer})
    build, first = measure_headrace(manifest, scratch / "slice-1", workers)
    datatrove = {words: measure_datatrove(build, scratch, words, workers) for words in ("spacy", "regex")}
    _, second = measure_headrace(manifest, scratch / "slice-2", workers)
    print(f"\nthe same stages on a slice of {first['sizes']['crawl']:.1f} MB, {workers} worker(s)")
    speeds = compare(full, [first, second], datatrove)
    mine = first["sizes"]
    near = mine["exact_duplicates"] + mine["near_duplicates"]
    rows = [["headrace", mine["documents"], mine["kept"] + near, near, mine["kept"], mine["tokens"], None]]
    for words, run in datatrove.items():
        counts = run["counts"]
        row = [f"datatrove, {words}", mine["documents"], counts["filtered"], counts["filtered"] - counts["kept"]]
        rows.append([*row, counts["kept"], counts["tokens"], counts["tokens_of_headrace"]])
    head = ["documents", "in", "past the filter", "duplicates", "kept", "tokens", "headrace's tokens of these"]
    print_table(head, rows)
    return {"headrace": [first, second], "datatrove": datatrove, "mb_per_core_second": speeds}


if __name__ == "__main__":
    main()
