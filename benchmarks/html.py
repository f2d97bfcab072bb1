"""HTML to text: speed, and whether the lines of code survive, beside other extractors.

``python -m benchmarks.html [--quick] [--json FILE]`` fetches two documentation packages of Debian once
(``apt-get download``), and prints for each extractor MB of HTML a second of CPU time of one thread, and the share of
the lines inside ``<pre>`` (as Python's own html.parser sees them) that stand in the text exactly, indentation included.
Peers that are not installed are named and left out: ``pip install resiliparse trafilatura``.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from filters.html import extract

PACKAGES = ("python3.11-doc", "git-doc")
CACHE = Path(os.environ.get("HEADRACE_CACHE", Path.home() / ".cache" / "headrace")) / "debs"


class PreLines(HTMLParser):
    """Collects the lines inside the ``<pre>`` elements of a page that are not blank."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.depth = 0
        self.pieces: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.depth += tag == "pre"
        if tag == "br" and self.depth:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:  # noqa: D102
        if tag == "pre" and self.depth:
            self.depth -= 1
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:  # noqa: D102
        if self.depth:
            self.pieces.append(data)

    def lines(self, page: bytes) -> list[str]:
        """The lines of one page, in order."""
        self.feed(page.decode("utf-8", "replace").replace("\r\n", "\n"))
        return [line for line in "".join(self.pieces).split("\n") if line.strip()]


def fetch_pages(packages: tuple[str, ...]) -> list[bytes]:
    """The HTML files of Debian packages, in the order of their names."""
    CACHE.mkdir(parents=True, exist_ok=True)
    pages: dict[str, bytes] = {}
    for package in packages:
        if not any(CACHE.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-qq", package], cwd=CACHE, check=True)
        archive = min(CACHE.glob(f"{package}_*.deb"))
        with (
            subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as members,
        ):
            for member in members:
                if member.isfile() and member.name.endswith(".html"):
                    content = members.extractfile(member)
                    pages[member.name] = content.read() if content else b""
    return [pages[name] for name in sorted(pages)]


def extractors() -> dict[str, Callable[[bytes], str] | None]:
    """Each extractor by name, or None where it is not installed."""
    turbohtml = importlib.import_module("turbohtml")
    found: dict[str, Callable[[bytes], str] | None] = {
        "headrace extract": lambda page: extract(page).text or "",
        "turbohtml to_text": lambda page: str(turbohtml.parse(page.decode("utf-8", "replace")).to_text()),
        "resiliparse plain": None,
        "resiliparse main content": None,
        "trafilatura fast": None,
    }
    try:
        plain: Any = importlib.import_module("resiliparse.extract.html2text").extract_plain_text
        found["resiliparse plain"] = lambda page: str(plain(page.decode("utf-8", "replace")))
        found["resiliparse main content"] = lambda page: str(plain(page.decode("utf-8", "replace"), main_content=True))
    except ImportError:
        pass
    try:
        trafilatura: Any = importlib.import_module("trafilatura")
        found["trafilatura fast"] = lambda page: trafilatura.extract(page.decode("utf-8", "replace"), fast=True) or ""
    except ImportError:
        pass
    return found


def measure(extractor: Callable[[bytes], str], pages: list[bytes], expected: list[list[str]]) -> dict[str, float]:
    """Speed (MB/s of CPU time, best of two runs) and fidelity of an extractor."""
    seconds = []
    texts: list[str] = []
    for _ in range(2):
        start = time.process_time()
        texts = [extractor(page) for page in pages]
        seconds.append(time.process_time() - start)
    kept = total = 0
    for text, lines in zip(texts, expected, strict=True):
        present = set(text.split("\n"))
        kept += sum(line in present for line in lines)
        total += len(lines)
    size = sum(map(len, pages))
    return {
        "mb_per_s": size / min(seconds) / 1e6,
        "pages_per_s": len(pages) / min(seconds),
        "code_lines_exact": kept / total,
        "text_share": sum(len(text.encode()) for text in texts) / size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 60 pages instead of 400")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    arguments = parser.parse_args()
    pages = fetch_pages(PACKAGES)
    pages = pages[:: -(-len(pages) // (60 if arguments.quick else 400))]
    expected = [PreLines().lines(page) for page in pages]
    print(f"{len(pages)} pages, {sum(map(len, pages)) / 1e6:.1f} MB, {sum(map(len, expected))} lines of code")
    print(f"{'extractor':26}{'MB/s':>8}{'pages/s':>9}{'code exact':>12}{'text/HTML':>11}")
    rows = {}
    for name, extractor in extractors().items():
        if extractor is None:
            print(f"{name:26}not installed", file=sys.stderr)
            continue
        row = rows[name] = measure(extractor, pages, expected)
        print(
            f"{name:26}{row['mb_per_s']:8.1f}{row['pages_per_s']:9.0f}"
            f"{row['code_lines_exact']:12.4f}{row['text_share']:11.3f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"pages": len(pages), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
