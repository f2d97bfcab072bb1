"""Crawl units: named by content and never by place, pinned before work starts."""

import hashlib
import re
import shutil
import subprocess
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import github
from pipeline.inputs import LOCK, CrawlUnit, Input, Lock, crawl_units
from pipeline.manifest import ArchiveSource, GitRepository, GitSource, ManifestError, TableSource
from pipeline.store import Store, open_url
from pipeline.tables import TableColumns


@pytest.fixture
def lock(tmp_path: Any) -> Any:
    return Lock(Store(str(tmp_path / "out")))


@pytest.fixture
def folder(tmp_path: Any) -> Any:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b-1.0.zip", "a-2.0.tar.gz"):
        (folder / name).write_bytes(name.encode())
    return folder


def archives(*paths: Any, **more: Any) -> ArchiveSource:
    return ArchiveSource(name="code", kind="archives", paths=tuple(map(str, paths)), **more)


def names(units: list[CrawlUnit]) -> list[str]:
    return [unit.name for unit in units]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_unit_is_a_file_named_by_its_name_and_content(folder: Any, lock: Any) -> None:
    units = crawl_units(archives(folder), lock)
    assert names(units) == [f"a-2.0.tar.gz-{sha(b'a-2.0.tar.gz')[:12]}", f"b-1.0.zip-{sha(b'b-1.0.zip')[:12]}"]
    assert [unit.inputs[0].origin for unit in units] == ["a-2.0", "b-1.0"]
    assert [unit.size for unit in units] == [12, 9]
    assert units[0].digests == {units[0].name: sha(b"a-2.0.tar.gz")}


def test_the_names_of_units_do_not_depend_on_the_folder(folder: Any, lock: Any, tmp_path: Any) -> None:
    before = crawl_units(archives(folder), lock)
    moved = tmp_path / "some where" / "else"
    shutil.copytree(folder, moved)
    after = crawl_units(archives(moved), lock)
    assert names(after) == names(before)
    assert [u.digests for u in after] == [u.digests for u in before]


def test_the_order_and_the_form_of_paths_do_not_matter(folder: Any, lock: Any) -> None:
    whole = crawl_units(archives(folder), lock)
    one_by_one = crawl_units(archives(folder / "b-1.0.zip", folder / "a-2.0.tar.gz"), lock)
    assert one_by_one == whole == crawl_units(archives(f"{folder}/*", folder / "b-1.0.zip"), lock)


def test_the_same_file_in_two_folders_is_one_unit(folder: Any, lock: Any, tmp_path: Any) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert names(crawl_units(archives(folder, tmp_path / "copy"), lock)) == names(crawl_units(archives(folder), lock))


def test_which_copy_is_read_does_not_depend_on_the_order_of_paths(folder: Any, lock: Any, tmp_path: Any) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert crawl_units(archives(folder, tmp_path / "copy"), lock) == crawl_units(
        archives(tmp_path / "copy", folder), lock
    )


def test_other_bytes_under_a_name_are_another_unit(folder: Any, lock: Any, tmp_path: Any) -> None:
    before = crawl_units(archives(folder), lock)
    (folder / "b-1.0.zip").write_bytes(b"changed now")
    after = crawl_units(archives(folder), lock)
    assert names(before)[0] == names(after)[0]
    assert names(before)[1] != names(after)[1]


def test_what_matches_nothing_is_a_message_with_the_source_and_the_pattern(folder: Any, lock: Any) -> None:
    with pytest.raises(ManifestError, match=r"nothing matches .*none\*") as caught:
        crawl_units(archives(folder, folder / "none*"), lock)
    assert caught.value.key == ("paths", 1)


def test_all_that_is_missing_is_said_at_once(folder: Any, lock: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        crawl_units(archives(folder, folder / "one*", folder / "b-1.1.zip", folder / "none" / "x"), lock)
    assert str(caught.value).splitlines() == [
        f"nothing matches {folder}/one*",
        f"nothing matches {folder}/b-1.1.zip; did you mean {folder}/b-1.0.zip?",
        f"nothing matches {folder}/none/x; {folder} has no 'none'",
    ]
    assert caught.value.key == ("paths", 1)


def test_long_reading_tells_how_far_it_is(folder: Any, lock: Any, monkeypatch: Any, capsys: Any) -> None:
    crawl_units(archives(folder / "a-2.0.tar.gz"), lock)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("pipeline.inputs._QUIET_SECONDS", 0.0)
    crawl_units(archives(folder), lock)
    assert capsys.readouterr().err.startswith("read inputs: 1 files in 0 s")


def test_tables_have_no_origin_by_file(folder: Any, lock: Any) -> None:
    source = TableSource(name="rows", kind="tables", paths=(str(folder),), columns=TableColumns(text="text"))
    assert [unit.inputs[0].origin for unit in crawl_units(source, lock)] == ["", ""]


@pytest.mark.parametrize(
    ("name", "slug"), [("a b/ü.zip", "a-b-.zip"), ("..", "input"), ("ü", "input"), ("x" * 200, "x" * 80)]
)
def test_a_slug_is_fit_for_a_file_name(name: Any, slug: Any) -> None:
    assert Input(name, "0123456789abcdef", "", "", 0).slug == f"{slug}-0123456789ab"


@given(st.text(min_size=1))
def test_any_name_gives_a_slug_that_stays_in_its_folder(name: Any) -> None:
    slug = Input(name, "0" * 64, "", "", 0).slug
    assert len(slug) <= 93
    assert slug.isascii()
    assert not set(slug) & set("/\\ \0")
    assert not slug.startswith(".")


def test_a_specification_leads_back_to_its_unit(folder: Any, lock: Any) -> None:
    for unit in crawl_units(archives(folder, buckets=1), lock):
        assert CrawlUnit.from_json(unit.as_json()) == unit


# Buckets ----------------------------------------------------------------------------------------------------------


def test_buckets_hold_every_input_once_and_an_origin_in_one(folder: Any, lock: Any) -> None:
    for i in range(40):
        (folder / f"p{i % 20}-{i}.0.zip").write_bytes(str(i).encode())
        (folder / f"p{i % 20}-{i}.0.tar.gz").write_bytes(b"s" + str(i).encode())
    units = crawl_units(archives(folder, buckets=4), lock)
    single = crawl_units(archives(folder), lock)
    assert names(units) == [f"bucket-{b:05d}-of-00004" for b in range(4)]
    assert sorted(i for u in units for i in u.inputs) == sorted(i for u in single for i in u.inputs)
    origins = [origin for unit in units for origin in {i.origin for i in unit.inputs}]
    assert len(origins) == len(set(origins))


def test_the_bucket_of_an_origin_does_not_depend_on_what_else_there_is(folder: Any, lock: Any) -> None:
    for i in range(20):
        (folder / f"p-{i}.0.zip").write_bytes(str(i).encode())
    bucket = {i.name: unit.name for unit in crawl_units(archives(folder, buckets=5), lock) for i in unit.inputs}
    for path in list(folder.iterdir())[::2]:
        path.unlink()
    for unit in crawl_units(archives(folder, buckets=5), lock):
        assert all(bucket[i.name] == unit.name for i in unit.inputs)


def test_inputs_of_a_bucket_stand_in_a_fixed_order(folder: Any, lock: Any) -> None:
    (unit,) = crawl_units(archives(folder, buckets=1), lock)
    assert list(unit.inputs) == sorted(unit.inputs)


# The lock ---------------------------------------------------------------------------------------------------------


def test_a_file_is_hashed_once_and_again_when_it_changed(folder: Any, tmp_path: Any, monkeypatch: Any) -> None:
    store = Store(str(tmp_path / "out"))
    reads: list[str] = []

    def noted(url: str) -> BinaryIO:
        reads.append(url)
        return open_url(url)

    monkeypatch.setattr("pipeline.inputs.open_url", noted)
    lock = Lock(store)
    first = crawl_units(archives(folder), lock)
    lock.save()
    assert len(reads) == 2
    again = Lock(store)
    assert crawl_units(archives(folder), again) == first
    assert len(reads) == 2
    (folder / "b-1.0.zip").write_bytes(b"longer than before")
    crawl_units(archives(folder), Lock(store))
    assert len(reads) == 3


def test_nothing_is_written_without_a_new_pin(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    Lock(store).save()
    assert not store.exists(LOCK)


@pytest.fixture
def repository(tmp_path: Any) -> Any:
    path = tmp_path / "repository"
    path.mkdir()

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(["git", *who, *arguments], cwd=path, check=True, capture_output=True, text=True).stdout

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "one")
    return path, git


def test_a_branch_is_pinned_to_the_commit_that_the_build_first_saw(repository: Any, tmp_path: Any) -> None:
    path, git = repository
    store = Store(str(tmp_path / "out"))
    source = GitSource(name="git", kind="git", repositories=(GitRepository(url=str(path), ref="main"),))
    lock = Lock(store)
    (unit,) = crawl_units(source, lock)
    lock.save()
    first = git("rev-parse", "main").strip()
    assert unit.inputs[0].digest == first
    assert unit.inputs[0].origin == f"root:{first[:16]}"
    assert re.fullmatch(f"root-{first[:16]}-[0-9a-f]{{8}}-{first[:12]}", unit.name)
    git("commit", "-q", "--allow-empty", "-m", "two")
    assert crawl_units(source, Lock(store)) == [unit]
    (fresh,) = crawl_units(source, Lock(Store(str(tmp_path / "elsewhere"))))
    assert fresh.inputs[0].digest == git("rev-parse", "main").strip() != first


def test_a_repository_or_branch_that_is_missing_is_a_message(repository: Any, tmp_path: Any, lock: Any) -> None:
    path, _ = repository
    for url, ref in ((str(path), "no-such-branch"), (str(tmp_path / "none"), "HEAD")):
        source = GitSource(name="git", kind="git", repositories=(GitRepository(url=url, ref=ref),))
        with pytest.raises(ManifestError):
            crawl_units(source, lock)


def git_units(lock: Any, *urls: Any) -> list[CrawlUnit]:
    return crawl_units(
        GitSource(name="git", kind="git", repositories=tuple(GitRepository(url=str(url)) for url in urls)), lock
    )


@pytest.mark.parametrize("remote", ["", "git@example.org:a/tool.git"])
def test_two_clones_of_a_repository_in_two_folders_are_one_unit(
    repository: Any, tmp_path: Any, lock: Any, remote: str
) -> None:
    path, git = repository
    if remote:
        git("remote", "add", "origin", remote)
    moved = tmp_path / "else where" / "renamed.git"
    shutil.copytree(path, moved)
    (here,), (there,) = git_units(lock, path), git_units(lock, f"file://{str(moved).replace(' ', '%20')}")
    assert (here.name, here.digests, here.inputs[0].origin) == (there.name, there.digests, there.inputs[0].origin)
    assert len(git_units(lock, path, moved)) == 1
    assert here.name.startswith("tool-" if remote else "root-")


def test_repositories_of_one_folder_name_are_units_of_their_own(repository: Any, tmp_path: Any, lock: Any) -> None:
    """Two at one commit that call different hosts their home, and one with another history."""
    path, git = repository
    places = [tmp_path / name / "repository" for name in "abc"]
    for place, url in zip(places, ("https://example.org/a/tool", "https://example.org/b/tool", ""), strict=True):
        shutil.copytree(path, place)
        if url:
            git("-C", str(place), "remote", "add", "origin", url)
    git("-C", str(places[2]), "commit", "-q", "--amend", "--allow-empty", "-m", "another beginning")
    assert len({unit.name for unit in git_units(lock, path, *places)}) == 4


def test_a_long_name_of_a_repository_leaves_room_for_the_hash(lock: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(github, "resolve", lambda url, ref: "1" * 40)
    units = git_units(lock, *(f"https://example.org/{owner}/{'x' * 100}" for owner in "ab"))
    assert len({unit.name for unit in units}) == 2


def test_a_token_in_the_url_of_a_repository_is_refused_without_showing_it(lock: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(github, "resolve", lambda url, ref: "1" * 40)
    with pytest.raises(ManifestError, match="may hold no password, token or signature") as caught:
        git_units(lock, "https://example.org/a/one.git", "https://user:hidden@example.org/a/tool.git")
    assert caught.value.key == ("repositories", 1)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("commit", ["0123456789abcdef0123456789abcdef01234567", None], ids=["at one commit", "gone"])
def test_two_remote_repositories_of_one_name_are_two_units(lock: Any, monkeypatch: Any, commit: Any) -> None:
    """A fork that changed nothing is an origin of its own; of two that are gone both are rejects."""

    def resolve(url: str, ref: str) -> str:
        if commit is None:
            raise github.GitError(f"{url}: repository not found")
        return str(commit)

    monkeypatch.setattr(github, "resolve", resolve)
    urls = ("https://example.org/a/tool", "https://example.org/b/tool.git")
    source = GitSource(name="git", kind="git", repositories=tuple(GitRepository(url=url) for url in urls))
    units = crawl_units(source, lock)
    assert sorted(i.origin for unit in units for i in unit.inputs) == [url.removesuffix(".git") for url in urls]
    assert len({unit.name for unit in units}) == 2
