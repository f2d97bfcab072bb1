"""Train the token statistics of `languages.centroid`: `python -m languages.train_centroids --help`.

Two sources, both fetched by package name with the ordinary clients:

- `samples.json` of Debian's ruby-github-linguist 7.22.1: token counts by language over Linguist's samples (MIT; the
  samples have licences of their own, only counts of their tokens are used);
- the example files of Pygments 2.21.0's source distribution (BSD-2-Clause).

Each language of the 338, and each outside language that shares an extension, gets one vector: the square root of each
token's share in the language times the logarithm of how rare the token is among all languages, the heaviest tokens
kept, scaled to a fixed length and rounded. What is written are these numbers, no text.
"""

import argparse
import ast
import json
import math
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from languages import names
from languages.centroid import RARITY_SCALE, SCALE, tokens

PYGMENTS = "pygments==2.21.0"
LINGUIST = "ruby-github-linguist"
ORIGIN = (
    "Token statistics derived from GitHub Linguist's samples (Debian ruby-github-linguist 7.22.1, samples.json; "
    "Linguist is MIT, Copyright (c) 2017 GitHub, Inc.) and from the example files of Pygments 2.21.0 (BSD-2-Clause, "
    "Copyright (c) 2006-2022 by the respective authors)."
)
KEPT = 500
"""Heaviest tokens kept for each language."""

FILE_BYTES = 50 * 1024


def linguist_counts(samples: Path) -> dict[str, Counter[bytes]]:
    """Return the token counts by our language names in Linguist's samples.json, its tokens cut into ours."""
    ours = {name: language.name for language in names.table() for name in language.linguist}
    ours |= {language.name.removeprefix(names.OUTSIDE): language.name for language in names.outside()}
    ours |= {
        "Coq": "other:Rocq Prover",
        "FreeBasic": "other:FreeBASIC",
        "Fstar": "F*",
        "Mathematica": "other:Wolfram Language",
        "SaltStack": "other:Salt",
        "Vim Script": "VimL",
    }
    counts: dict[str, Counter[bytes]] = {}
    for name, found in json.loads(samples.read_text(encoding="utf-8"))["tokens"].items():
        if language := ours.get(name):
            counter = counts.setdefault(language, Counter())
            for token, count in found.items():
                for part in tokens(token.removeprefix("COMMENT").encode()):
                    counter[part] += count
    return counts


def pygments_examples(sdist: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield (language, file name, text) for the example files of Pygments whose lexer is one of our languages or
    outside ones."""
    ours = {lexer: language.name for language in names.table() for lexer in language.pygments}
    lowered = {language.name.removeprefix(names.OUTSIDE).lower(): language.name for language in names.outside()}
    with tarfile.open(sdist) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        mapping = next(member for member in members if member.name.endswith("/pygments/lexers/_mapping.py"))
        aliases = {alias: lexer for lexer, found in _lexers(_read(archive, mapping)) for alias in found}
        for member in members:
            parts = member.name.split("/")
            if len(parts) < 5 or parts[2] != "examplefiles" or member.name.endswith(".output"):
                continue
            lexer = aliases.get(parts[3], "")
            if language := ours.get(lexer) or lowered.get(lexer.lower()):
                yield language, parts[-1], _read(archive, member)


def rarities(counts: Mapping[str, Counter[bytes]]) -> dict[bytes, int]:
    """Return for each token how rare it is among the languages, times `RARITY_SCALE`."""
    spread = Counter(token for counter in counts.values() for token in counter)
    return {token: round(RARITY_SCALE * math.log(len(counts) / used)) for token, used in spread.items()}


def weigh(counts: Mapping[str, Counter[bytes]], rarity: Mapping[bytes, int], kept: int) -> dict[str, dict[bytes, int]]:
    """Turn token counts by language into integer vectors of length about `SCALE` with at most `kept` tokens each."""
    vectors = {}
    for language, counter in counts.items():
        weights = {token: math.sqrt(count) * rarity[token] for token, count in counter.items()}
        heaviest = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:kept]
        length = math.sqrt(sum(weight * weight for _, weight in heaviest)) or 1.0
        vectors[language] = {token: value for token, weight in heaviest if (value := round(weight / length * SCALE))}
    return vectors


def ranked() -> frozenset[str]:
    """Return the languages that need a vector: the 338, and what is outside and shares an extension with another
    language."""
    shared = {name for found in names.lookups().extensions.values() if len(found) > 1 for name in found}
    return frozenset(shared | {language.name for language in names.table()})


def write(vectors: Mapping[str, Mapping[bytes, int]], rarity: Mapping[bytes, int], out: Path) -> None:
    """Write vectors as a table: a row for each token, in order, with its rarity, the languages that use it and their
    weights."""
    languages = sorted(vectors)
    rows: dict[bytes, list[tuple[int, int]]] = {}
    for place, language in enumerate(languages):
        for token, weight in vectors[language].items():
            rows.setdefault(token, []).append((place, weight))
    order = sorted(rows)
    schema = pa.schema(
        [
            ("token", pa.binary()),
            ("rarity", pa.uint16()),
            ("languages", pa.list_(pa.uint16())),
            ("weights", pa.list_(pa.uint16())),
        ],
        {"languages": "\n".join(languages), "origin": ORIGIN},
    )
    columns = [
        pa.array(order, pa.binary()),
        pa.array([rarity[token] for token in order], pa.uint16()),
        pa.array([[place for place, _ in rows[token]] for token in order], pa.list_(pa.uint16())),
        pa.array([[weight for _, weight in rows[token]] for token in order], pa.list_(pa.uint16())),
    ]
    pq.write_table(
        pa.table(columns, schema=schema),
        out,
        compression="zstd",
        compression_level=19,
        use_dictionary=["rarity", "languages.list.element", "weights.list.element"],
        column_encoding={"token": "DELTA_BYTE_ARRAY"},
        write_statistics=False,
    )


def fetch(cache: Path) -> tuple[Path, Path]:
    """Fetch both sources by package name into a folder, unless they are there.

    Returns the paths of samples.json and of the source distribution of Pygments.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob("linguist/**/samples.json")):
        subprocess.run(["apt-get", "download", LINGUIST], check=True, cwd=cache)
        package = next(cache.glob(LINGUIST + "*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(cache / "linguist")], check=True)
    return next(cache.glob("linguist/**/samples.json")), fetch_pygments(cache)


def fetch_pygments(cache: Path) -> Path:
    """Fetch the source distribution of Pygments into a folder with pip, unless it is there; return its path."""
    if not list(cache.glob("pygments-*.tar.gz")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pygments"]
        subprocess.run([*command, "--dest", str(cache), PYGMENTS], check=True)
    return next(cache.glob("pygments-*.tar.gz"))


def train(
    samples: Path | None, sdist: Path | None, kept: int = KEPT
) -> tuple[dict[str, dict[bytes, int]], dict[bytes, int]]:
    """Return the vectors of the languages that the given sources show, and the rarities of tokens.

    Dialects told apart by convention count as their first name.
    """
    counts = linguist_counts(samples) if samples else {}
    merged = dict(line[1::-1] for line in names.rows("conventions.tsv"))
    for language, _, text in pygments_examples(sdist) if sdist else ():
        counts.setdefault(merged.get(language, language), Counter()).update(tokens(text[:FILE_BYTES]))
    rarity = rarities(counts)
    wanted = ranked()
    return weigh(
        {language: counter for language, counter in counts.items() if language in wanted}, rarity, kept
    ), rarity


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m languages.train_centroids",
        description="Train the token statistics that tell languages apart, from packages fetched by name.",
        epilog="example: python -m languages.train_centroids --cache ~/.cache --out languages/centroids.parquet",
    )
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for the packages (needs pip, apt-get, dpkg-deb)"
    )
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--kept", type=int, default=KEPT, help=f"heaviest tokens of a language (default {KEPT})")
    options = parser.parse_args(arguments)
    vectors, rarity = train(*fetch(options.cache), options.kept)
    write(vectors, rarity, options.out)
    print(f"{len(vectors)} languages, {options.out.stat().st_size:,} bytes")


def _lexers(source: bytes) -> Iterator[tuple[str, tuple[str, ...]]]:
    tree = ast.parse(source)
    assignment = next(node for node in tree.body if isinstance(node, ast.Assign))
    for _, name, aliases, _, _ in ast.literal_eval(assignment.value).values():
        yield name, aliases


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


if __name__ == "__main__":
    main()
