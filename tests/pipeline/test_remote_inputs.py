"""Inputs behind URLs, served for real on loopback."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.crawl import ChangedInputError, Crawl
from pipeline.inputs import CrawlUnit, Lock, crawl_units
from pipeline.manifest import ArchiveSource, ManifestError, Shards
from pipeline.records import Stage, read_record
from pipeline.store import Store
from tests.inputs import package

STAGE = Stage("documents", "0" * 16, "remote")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "click-8.1.8.whl").write_bytes(package("click", "8.1.8").read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def source(*paths: str) -> ArchiveSource:
    return ArchiveSource(name="remote", kind="archives", paths=paths)


def crawled(store: Store, paths: ArchiveSource, unit: CrawlUnit) -> list[tuple[str, int, str]]:
    Crawl(paths, Shards(), frozenset(), STAGE, store).run(unit.as_json())
    record = read_record(store, STAGE, unit.name)
    assert record is not None
    return [(file.path, file.rows, file.digest) for file in record.files]


def test_an_archive_behind_a_url_gives_the_unit_and_documents_of_the_same_file_on_disk(served, tmp_path):
    folder, url = served
    remote, local = source(f"{url}/click-8.1.8.whl"), source(str(folder / "click-8.1.8.whl"))
    stores = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    (there,), (here,) = (crawl_units(s, Lock(store)) for s, store in zip((remote, local), stores, strict=True))
    assert (there.name, there.digests, there.size) == (here.name, here.digests, here.size)
    assert crawled(stores[0], remote, there) == crawled(stores[1], local, here)


def test_a_url_that_gives_other_bytes_than_those_pinned_is_a_fault(served, tmp_path):
    folder, url = served
    store, remote = Store(str(tmp_path / "out")), source(f"{url}/click-8.1.8.whl")
    (unit,) = crawl_units(remote, Lock(store))
    (folder / "click-8.1.8.whl").write_bytes(package("click", "8.1.7").read_bytes())
    with pytest.raises(ChangedInputError, match=r"has changed since it was pinned.*lock\.json"):
        crawled(store, remote, unit)


def test_what_a_web_server_gave_is_pinned_for_good(served, tmp_path):
    folder, url = served
    store, remote = Store(str(tmp_path / "out")), source(f"{url}/click-8.1.8.whl")
    lock = Lock(store)
    before = crawl_units(remote, lock)
    lock.save()
    (folder / "click-8.1.8.whl").write_bytes(package("click", "8.1.7").read_bytes())
    assert [unit.digests for unit in crawl_units(remote, Lock(store))] == [unit.digests for unit in before]


def test_a_url_that_is_not_there_stops_before_any_work(served, tmp_path):
    _, url = served
    with pytest.raises(ManifestError, match=r"nothing matches http.*nothing\.whl"):
        crawl_units(source(f"{url}/nothing.whl"), Lock(Store(str(tmp_path))))
