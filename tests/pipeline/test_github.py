import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crawl import Crawl
from pipeline.found import Found, Limits
from pipeline.github import GitError, fetch, hosted, identity, local_path, read_git, resolve
from pipeline.inputs import GONE, Lock, crawl_units
from pipeline.manifest import GitRepository, GitSource, ManifestError, Shards
from pipeline.records import Stage, read_record
from pipeline.store import Store

LIMITS = Limits(max_file_bytes=1000)


def git(folder: Path, *arguments: str, data: bytes | None = None) -> str:
    names = {f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {"GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}
    env = {**os.environ, **names, **dates, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", "-C", str(folder), *arguments], env=env, input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work tree with two commits, two branches, an annotated tag, and one of everything that is refused."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "src").mkdir()
    (folder / "src" / "a.py").write_bytes(b"a = 1\n")
    (folder / "src" / "crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    (folder / ".gitattributes").write_bytes(b"* text=auto\nhidden.py export-ignore\n")
    (folder / "hidden.py").write_bytes(b"hidden\n")
    (folder / "edge").write_bytes(b"x" * 1000)
    (folder / "large").write_bytes(b"x" * 1001)
    (folder / "empty").write_bytes(b"")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1\n"
    (folder / "model.bin").write_text(pointer)
    (folder / "evil").symlink_to("/etc/passwd")
    with open(os.fsencode(folder) + b"/caf\xe9.py", "wb") as file:
        file.write(b"latin\n")
    git(folder, "add", "-A")
    (folder / "module").mkdir()
    git(folder, "update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",module")
    git(folder, "commit", "-q", "-m", "one")
    git(folder, "tag", "-a", "v1", "-m", "one")
    (folder / "src" / "a.py").write_bytes(b"a = 2\n")
    git(folder, "commit", "-q", "-am", "two")
    git(folder, "branch", "feature/main")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[str]:
    """Real git http-backend on loopback, serving the folder of the repository."""
    root = repository.parent
    backend = Path(
        subprocess.run(["git", "--exec-path"], capture_output=True, text=True).stdout.strip(), "git-http-backend"
    )

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            self.serve(b"")

        def do_POST(self) -> None:
            self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def serve(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            if path.startswith("/private"):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
                self.end_headers()
                return
            if path.startswith("/elsewhere"):
                self.send_response(301)
                self.send_header("Location", self.path.replace("/elsewhere", ""))
                self.end_headers()
                return
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
                "GIT_CONFIG_COUNT": "2",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "GIT_CONFIG_KEY_1": "uploadpack.allowFilter",
                "GIT_CONFIG_VALUE_1": "true",
            }
            out = subprocess.run([backend], input=body, env=env, capture_output=True).stdout
            head, _, content = out.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def rows(folder: Path, ref: str = "HEAD", limits: Limits = LIMITS) -> list[Found]:
    return list(read_git(folder, resolve(str(folder), ref), "project", limits))


def test_a_work_tree_is_read_in_place_at_the_commit_as_git_stores_it(repository):
    (repository / "src" / "a.py").write_bytes(b"not committed\n")
    commit = git(repository, "rev-parse", "HEAD")
    found = {f.path: f for f in rows(repository)}
    assert found[b"src/a.py"].raw == b"a = 2\n"
    assert found[b"src/crlf.txt"].raw == b"one\ntwo\n"
    assert found[b"hidden.py"].raw == b"hidden\n"
    assert found[b"caf\xe9.py"].raw == b"latin\n"
    assert (found[b"empty"].raw, found[b"empty"].size) == (b"", 0)
    assert {f.revision for f in found.values()} == {commit}
    assert {f.origin for f in found.values()} == {"project"}
    blob = git(repository, "rev-parse", "HEAD:src/a.py")
    assert found[b"src/a.py"].locator == f"project!src/a.py@{blob}"
    assert [f.path for f in rows(repository)] == sorted(found)
    git(repository, "checkout", "-q", "src/a.py")


def test_links_submodules_pointers_and_large_blobs_are_rejects(repository):
    refused = {f.path: (f.reason, f.size) for f in rows(repository) if f.reason}
    assert refused == {
        b"evil": ("link", 11),
        b"large": ("too_large", 1001),
        b"model.bin": ("lfs_pointer", 126),
        b"module": ("submodule", 0),
    }
    assert {f.path for f in rows(repository) if f.raw is None} == {b"evil", b"large", b"module"}
    assert next(f for f in rows(repository) if f.path == b"edge").raw == b"x" * 1000


def test_a_reference_is_resolved_the_same_way_here_and_over_http(repository, server):
    url = f"{server}/project/.git"
    main, first = git(repository, "rev-parse", "main"), git(repository, "rev-parse", "v1^{commit}")
    for place in (str(repository), f"file://{repository}", url):
        assert resolve(place, "HEAD") == main
        assert resolve(place, "main") == main
        assert resolve(place, "v1") == first
        assert resolve(place, "refs/tags/v1") == first
        assert resolve(place, first) == first


def test_a_remote_repository_gives_the_same_rows_as_a_local_one(repository, server, tmp_path):
    url = f"{server}/project/.git"
    for ref in ("HEAD", "v1"):
        commit = resolve(url, ref)
        into = tmp_path / ref
        fetch(url, commit, into)
        assert list(read_git(into, commit, "project", LIMITS)) == rows(repository, ref)
        assert not list(into.glob("hooks/*")) or all(p.suffix == ".sample" for p in into.glob("hooks/*"))
        fetch("http://127.0.0.1:1/gone", commit, into)
    assert git(tmp_path / "HEAD", "rev-list", "--count", "--all", "FETCH_HEAD") == "1"


def test_a_second_commit_goes_into_the_same_place_and_a_broken_fetch_is_no_obstacle(repository, server, tmp_path):
    url, into = f"{server}/project/.git", tmp_path / "mirror"
    (tmp_path / "mirror.partial").mkdir()
    (tmp_path / "mirror.partial" / "shallow.lock").write_text("left by a killed fetch")
    for ref in ("v1", "HEAD"):
        fetch(url, resolve(url, ref), into)
    assert [p.name for p in tmp_path.iterdir()] == ["mirror"]
    assert list(read_git(into, resolve(url, "v1"), "project", LIMITS)) == rows(repository, "v1")


def test_what_can_not_be_had_is_an_error_with_what_was_tried_and_the_words_of_git(repository, server, tmp_path):
    with pytest.raises(GitError, match=r"no branch, tag or commit 'mian'; it has feature/main, main, v1"):
        resolve(str(repository), "mian")
    with pytest.raises(GitError, match=r"no branch or tag 'mian'; it has HEAD, feature/main, main, v1"):
        resolve(f"{server}/project/.git", "mian")
    with pytest.raises(GitError, match=r"open the repository .*nowhere.*No such file"):
        resolve(str(tmp_path / "nowhere"), "HEAD")
    with pytest.raises(GitError, match=r"not a git repository"):
        resolve(str(tmp_path), "HEAD")
    with pytest.raises(GitError, match=r"list the references of .*nowhere.*not found"):
        resolve(f"{server}/nowhere", "HEAD")
    with pytest.raises(GitError, match=r"(?i)authentication|could not read|terminal prompts disabled"):
        resolve(f"{server}/private/x", "HEAD")
    with pytest.raises(GitError, match="fetch 2222"):
        fetch(f"{server}/project/.git", "2" * 40, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(GitError, match=r"has no commit 2222"):
        list(read_git(repository, "2" * 40, "project", LIMITS))


def test_a_folder_inside_a_repository_is_not_taken_for_the_repository(repository):
    with pytest.raises(GitError, match="not a git repository"):
        resolve(str(repository / "src"), "HEAD")


@pytest.mark.parametrize(
    "url",
    ["http://example.org/x", "ssh://git@example.org/x", "git://example.org/x", "ext::sh -c id", "ext://x", "ftp://x/y"],
)
def test_no_transport_but_https_is_allowed(url, tmp_path):
    with pytest.raises(GitError, match="only https"):
        fetch(url, "1" * 40, tmp_path / "x")
    if "://" in url:
        with pytest.raises(GitError, match="only https"):
            resolve(url, "HEAD")


def test_a_loopback_redirect_is_not_followed(server):
    with pytest.raises(GitError, match=r"redirect|301"):
        resolve(f"{server}/elsewhere/project/.git", "HEAD")


def test_an_empty_repository_offers_nothing(tmp_path):
    git(tmp_path, "init", "-q", "--bare", "empty")
    assert rows(tmp_path / "empty") == []
    with pytest.raises(GitError, match="no reference at all"):
        resolve(str(tmp_path / "empty"), "main")


def test_an_empty_remote_repository_offers_nothing(repository, server, tmp_path):
    git(repository.parent, "init", "-q", "--bare", "empty")
    url = f"{server}/empty"
    assert resolve(url, "HEAD") == ""
    fetch(url, "", tmp_path / "empty")
    assert list(read_git(tmp_path / "empty", "", "empty", LIMITS)) == []


def test_a_blob_that_is_gone_or_damaged_is_a_reject_and_the_rest_is_read(repository, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", "--no-hardlinks", str(repository), "copy")
    copy = tmp_path / "copy"
    for pack in (copy / "objects" / "pack").glob("*.pack"):
        moved = pack.rename(tmp_path / "moved.pack")
        pack.with_suffix(".idx").unlink()
        git(copy, "unpack-objects", "-q", data=moved.read_bytes())
    gone, bad = (git(repository, "rev-parse", f"HEAD:{path}") for path in ("src/a.py", "hidden.py"))
    (copy / "objects" / gone[:2] / gone[2:]).unlink()
    damaged = copy / "objects" / bad[:2] / bad[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:12])
    reasons = {f.path: f.reason for f in rows(copy)}
    assert reasons.pop(b"src/a.py") == "missing_object"
    assert reasons.pop(b"hidden.py") in {"missing_object", "broken_record"}
    assert reasons == {f.path: f.reason for f in rows(repository) if f.path in reasons}


def test_a_missing_tree_is_one_reject(repository, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", "--no-hardlinks", str(repository), "copy")
    copy = tmp_path / "copy"
    for pack in (copy / "objects" / "pack").glob("*.pack"):
        moved = pack.rename(tmp_path / "moved.pack")
        pack.with_suffix(".idx").unlink()
        git(copy, "unpack-objects", "-q", data=moved.read_bytes())
    tree = git(repository, "rev-parse", "HEAD:src")
    (copy / "objects" / tree[:2] / tree[2:]).unlink()
    found = rows(copy)
    assert (found[-1].reason, found[-1].path) == ("missing_object", b"")
    assert not any(f.path.startswith(b"src/") for f in found)


def test_a_partial_clone_is_read_without_fetching_what_it_lacks(repository, server, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", "--filter=blob:limit=500", f"{server}/project/.git", "partial")
    reasons = {f.path: f.reason for f in rows(tmp_path / "partial")}
    assert reasons[b"edge"] == reasons[b"large"] == "missing_object"
    assert reasons[b"src/a.py"] is None
    local = git(tmp_path / "partial", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    assert git(repository, "rev-parse", "HEAD:edge") not in local


def test_forged_paths_in_a_tree_are_refused(repository, tmp_path):
    git(tmp_path, "init", "-q", "--bare", "forged")
    forged = tmp_path / "forged"
    blob = git(forged, "hash-object", "-w", "--stdin", data=b"x\n")
    inner = git(
        forged, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", data=b"100644 x\0" + bytes.fromhex(blob)
    )
    body = b"40000 ..\0" + bytes.fromhex(inner)
    tree = git(forged, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", data=body)
    commit = git(forged, "commit-tree", tree, "-m", "x")
    assert [(f.path, f.reason) for f in read_git(forged, commit, "f", LIMITS)] == [(b"../x", "path_traversal")]


def test_a_unit_stops_at_its_files_and_at_its_bytes(repository):
    found = rows(repository, limits=Limits(max_unit_files=3))
    assert [f.reason for f in found[3:]] == ["unit_files"]
    found = rows(repository, limits=Limits(max_unit_bytes=500))
    assert found[-1].reason == "unit_bytes"
    assert sum(len(f.raw or b"") for f in found) <= 500


def test_more_files_than_one_batch_are_read_in_the_order_of_the_tree(tmp_path):
    git(tmp_path, "init", "-q", "--bare", "many")
    names = [f"f{i:04d}" for i in range(1000)]
    stream = [b"commit refs/heads/main\ncommitter x <y> 0 +0000\ndata 1\nx\n"]
    for name in names:
        body = name.encode() * 20
        stream.append(b"M 100644 inline %s\ndata %d\n%s\n" % (name.encode(), len(body), body))
    git(tmp_path / "many", "fast-import", "--quiet", data=b"".join(stream))
    found = list(read_git(tmp_path / "many", resolve(str(tmp_path / "many"), "main"), "many", LIMITS))
    assert [(f.path, f.raw) for f in found] == [(n.encode(), n.encode() * 20) for n in names]


def test_hooks_and_configuration_of_the_repository_do_not_run(repository, tmp_path):
    git(tmp_path, "clone", "-q", str(repository), "copy")
    copy, trap = tmp_path / "copy", tmp_path / "ran"
    script = copy / "trap.sh"
    script.write_text(f"#!/bin/sh\ntouch {trap}\n")
    script.chmod(0o755)
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "core.gitProxy", "filter.x.smudge", "diff.external"):
        git(copy, "config", key, str(script))
    (copy / ".git" / "info" / "attributes").write_text("* filter=x\n")
    assert [f.reason for f in rows(copy)] == [f.reason for f in rows(repository)]
    assert not trap.exists()


def test_leaving_early_leaves_no_process(repository):
    found = read_git(repository, resolve(str(repository), "HEAD"), "project", LIMITS)
    next(found)
    found.close()
    children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True).stdout
    assert "git" not in children.split()


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://example.org/a/tool.git", "https://example.org/a/tool"),
        ("https://Example.ORG/A/Tool/", "https://example.org/A/Tool"),
        ("https://user:to@ken@example.org/a/tool", "https://example.org/a/tool"),
        ("https://token@example.org:8443/a/tool.git/", "https://example.org:8443/a/tool"),
        ("http://127.0.0.1:80/project/.git", "http://127.0.0.1:80/project"),
        ("ssh://git@example.org:2222/a/tool.git", "https://example.org/a/tool"),
        ("git://example.org/a/tool", "https://example.org/a/tool"),
        ("git@example.org:a/tool.git", "https://example.org/a/tool"),
        ("example.org:/a/tool", "https://example.org/a/tool"),
        ("https://example.org", "https://example.org"),
        ("https://[::1/x", "https://[::1/x"),
        *((url, "") for url in ("", "/a/tool.git", "../tool", "./a:b", "C:\\tool", "file:///a/tool", "ext::sh -c id")),
    ],
)
def test_the_url_of_a_repository_has_one_form_without_credentials_and_a_path_has_none(url, canonical):
    assert hosted(url) == canonical
    assert hosted(canonical) == canonical


@given(st.text(max_size=40))
def test_the_form_of_any_url_is_final(url):
    assert hosted(hosted(url)) == hosted(url)


def test_a_path_is_local_as_it_is_and_a_file_url_unquoted():
    assert local_path("/a%20b") == Path("/a%20b")
    assert local_path("file:///a%20b") == Path("/a b")
    assert local_path("https://example.org/a") is None


def test_a_repository_is_known_by_its_remote_else_by_its_least_root_and_never_by_its_folder(repository, tmp_path):
    commit = git(repository, "rev-parse", "HEAD")
    root = git(repository, "rev-parse", "v1^{commit}")
    assert identity(repository, commit) == f"root:{root[:16]}"
    git(tmp_path, "clone", "-q", "--bare", str(repository), "other name.git")
    copy = tmp_path / "other name.git"
    assert git(copy, "config", "remote.origin.url") == str(repository)
    assert identity(copy, commit) == f"root:{root[:16]}"
    git(copy, "config", "remote.origin.url", "https://me:secret@example.org/a/tool.git")
    git(copy, "config", "--add", "remote.origin.url", "https://example.org/second")
    assert identity(copy, commit) == "https://example.org/a/tool"


def test_of_several_roots_the_least_counts(repository, tmp_path):
    git(tmp_path, "clone", "-q", str(repository), "merged")
    folder, main = tmp_path / "merged", git(repository, "rev-parse", "main")
    roots = [git(repository, "rev-parse", "v1^{commit}")]
    for name in ("b", "c"):
        roots.append(git(folder, "commit-tree", "-m", name, "HEAD^{tree}"))
        main = git(folder, "commit-tree", "-m", "merge", "-p", main, "-p", roots[-1], "HEAD^{tree}")
    assert identity(folder, main) == f"root:{min(roots)[:16]}"


def test_a_repository_whose_history_is_damaged_is_known_by_its_commit(repository, tmp_path):
    git(tmp_path, "init", "-q", "--bare", "damaged")
    damaged = tmp_path / "damaged"
    tree = git(damaged, "mktree", data=b"")
    body = f"tree {tree}\nparent {'1' * 40}\nauthor x <y> 0 +0000\ncommitter x <y> 0 +0000\n\nx\n".encode()
    commit = git(damaged, "hash-object", "-w", "-t", "commit", "--stdin", data=body)
    assert identity(damaged, commit) == f"root:{commit[:16]}"


def test_an_empty_repository_has_the_name_of_its_folder(tmp_path):
    git(tmp_path, "init", "-q", "--bare", "tool.git")
    git(tmp_path, "init", "-q", "work")
    assert identity(tmp_path / "tool.git", "") == "tool"
    assert identity(tmp_path / "work" / ".git", "") == "work"


@pytest.mark.parametrize("name", ["nowhere", "private/x"])
def test_a_remote_repository_that_is_gone_is_one_reject(server: str, tmp_path: Path, name: str) -> None:
    repository = GitRepository(url=f"{server}/{name}", ref="HEAD")
    source = GitSource(name="git", kind="git", repositories=(repository,))
    store = Store(str(tmp_path))
    (unit,) = crawl_units(source, Lock(store))
    assert unit.inputs[0].digest == GONE
    stage = Stage("documents", "0" * 16, "git")
    Crawl(source, Shards(), frozenset(), stage, store).run(unit.as_json())
    record = read_record(store, stage, unit.name)
    assert record is not None
    assert record.counts["rejects"] == {"gone": 1}


def test_a_local_repository_that_is_missing_stops_before_any_work(tmp_path: Path) -> None:
    source = GitSource(name="git", kind="git", repositories=(GitRepository(url=str(tmp_path / "none"), ref="HEAD"),))
    with pytest.raises(ManifestError, match="none"):
        crawl_units(source, Lock(Store(str(tmp_path))))
