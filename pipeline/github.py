"""Git repositories as sources, local or remote, read at a commit through the git command and never checked out.

No hook, filter, lazy fetch or prompt can run: repositories are bare or read in place by plumbing commands only, without
the user's or the system's configuration, and transport is https alone (http on loopback).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from pipeline.archives import content_reason, path_reason
from pipeline.found import Found, Limits

_GIT = ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_NETWORK = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HOSTED = re.compile(r"(https?|git|ssh)://(?:[^/]*@)?([^/]+)(/.*)?", re.DOTALL | re.IGNORECASE)
_SHORT = re.compile(r"(?:[^/:@]+@)?([^/:@]{2,}):(?!:)(.*)", re.DOTALL)
_BATCH = 256


class GitError(Exception):
    """What was asked of git can't be had: no such repository, reference or commit; the message has git's own words."""


def resolve(url_or_path: str, ref: str) -> str:
    """The commit that ``ref`` (branch, tag, ``HEAD`` or a full id) names now; "" for HEAD of an empty repository.

    Raises :class:`GitError`. A full id of a remote repository is returned as it is: fetching is what checks it.
    """
    if local := local_path(url_or_path):
        return _resolve_local(local, ref)
    if _SHA.fullmatch(ref):
        return ref
    listing = _run([*_transport(url_or_path), "ls-remote", "--", url_or_path], f"list the references of {url_or_path}")
    lines = [line.partition("\t") for line in listing.decode("utf-8", "replace").splitlines()]
    refs = {name: commit for commit, _, name in lines}
    if not refs and ref == "HEAD":
        return ""
    for form in (ref, f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}"):
        if form in refs:
            return refs.get(f"{form}^{{}}", refs[form])
    raise GitError(f"{url_or_path} has no branch or tag {ref!r}; it has {_some(refs)}")


def local_path(url_or_path: str) -> Path | None:
    """The folder that a path or a ``file://`` URL names; None for what lies elsewhere."""
    if url_or_path.startswith("file://"):
        return Path(unquote(url_or_path.removeprefix("file://")))
    return None if "://" in url_or_path else Path(url_or_path)


def hosted(url: str) -> str:
    """The canonical form of the URL of a repository on a host; "" for a local path and for what no host is named in.

    Credentials, a ``.git`` at the end and the capitals of the host go. What is fetched over SSH or git's own protocol
    (``git@host:path`` too) is named as over https, without a port: the same repository whatever the transport.
    """
    if match := _HOSTED.fullmatch(url):
        scheme, host, path = match[1].lower(), match[2].lower(), match[3] or ""
        if scheme in ("git", "ssh"):
            scheme, host = "https", re.sub(r":\d*$", "", host)
    elif "://" not in url and (match := _SHORT.fullmatch(url)):
        scheme, host, path = "https", match[1].lower(), match[2]
    else:
        return ""
    return f"{scheme}://{host}/{path.strip('/').removesuffix('.git').strip('/')}".rstrip("/")


def identity(repository: Path, commit: str) -> str:
    """The origin of a local repository, equal for its clones in any folder.

    The configured URL of its remote ``origin``, :func:`hosted`; without one ``root:`` and 16 hexadecimal digits of the
    least commit without parents that ``commit`` comes from (of ``commit`` itself where the history is damaged); for an
    empty repository the name of its folder. Raises :class:`GitError` where there is no git command.
    """
    configured = _call(["config", "-z", "--get-all", "remote.origin.url"], repository).stdout
    if url := hosted(configured.split(b"\0")[0].decode("utf-8", "replace")):
        return url
    if not commit:
        folder = repository.resolve()
        return folder.name.removesuffix(".git") or folder.parent.name
    listing = _call(["rev-list", "--max-parents=0", "--end-of-options", commit], repository)
    roots = listing.stdout.decode("ascii", "replace").split() if listing.returncode == 0 else []
    return f"root:{min(roots, default=commit)[:16]}"


def fetch(url: str, commit: str, into: Path) -> None:
    """Fetch one commit without history into the bare repository ``into``, which is made; nothing if it is there.

    Blobs of any size come along, so that a fetched and a local repository give the same rows. A new repository is
    fetched beside its place (``<into>.partial``) and renamed. Raises :class:`GitError`.
    """
    if into.exists() and (not commit or _has(into, commit)):
        return
    place = into if into.exists() else into.with_name(into.name + ".partial")
    if place != into:
        shutil.rmtree(place, ignore_errors=True)
        _run(["init", "-q", "--bare", "--", str(place)], f"make {place}")
    if commit:
        options = ["-q", "--depth", "1", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"]
        _run(["-C", str(place), *_transport(url), "fetch", *options, "--", url, commit], f"fetch {commit} from {url}")
    if place != into:
        place.rename(into)


def read_git(repository: Path, commit: str, origin: str, limits: Limits) -> Iterator[Found]:
    """Offer every file of ``commit`` in the order of its tree; "" (an empty repository) offers nothing.

    Paths are git's bytes, ``revision`` the commit, the locator ``origin!path@blob``. Symbolic links, submodules and
    blobs over the cap are rejects that are never read; absent objects (partial clones, damage) are ``missing_object``.
    Raises :class:`GitError` before the first row if the repository lacks the commit.
    """
    if not commit:
        return
    if not _has(repository, commit):
        raise GitError(f"{repository} has no commit {commit}")
    rows = _Rows(commit, origin, limits)
    with _Process(repository, "ls-tree", "-r", "-z", "--full-tree", commit) as tree, _Objects(repository) as objects:
        entries = _entries(tree.output)
        while batch := list(islice(entries, _BATCH)):
            sizes = objects.sizes([entry[2] for entry in batch])
            for entry, size in zip(batch, sizes, strict=True):
                found, go_on = rows.judge(entry, size, objects)
                yield found
                if not go_on:
                    return
        if tree.wait():
            yield rows.found(b"", b"", 0, None, "missing_object")


class _Rows:
    def __init__(self, commit: str, origin: str, limits: Limits) -> None:
        self.commit, self.origin, self.limits = commit, origin, limits
        self.files = 0
        self.bytes = 0

    def found(self, path: bytes, blob: bytes, size: int, raw: bytes | None, reason: str | None) -> Found:
        name = path.decode("utf-8", "backslashreplace")
        locator = f"{self.origin}!{name}@{blob.decode()}" if path else f"{self.origin}@{self.commit}"
        return Found(self.origin, path, locator, size, raw, reason, self.commit)

    def judge(self, entry: tuple[bytes, bytes, bytes], size: int | None, objects: "_Objects") -> tuple[Found, bool]:
        """The row of one tree entry, and whether the unit's limits allow another."""
        mode, path, blob = entry
        self.files += 1
        length = size or 0
        if self.files > self.limits.max_unit_files:
            return self.found(path, blob, length, None, "unit_files"), False
        kind = {b"120000": "link", b"160000": "submodule"}.get(mode)
        reason = kind or path_reason(path, self.limits) or ("missing_object" if size is None else None)
        if not reason and length > self.limits.max_file_bytes:
            reason = "too_large"
        if reason:
            return self.found(path, blob, length, None, reason), True
        self.bytes += length
        if self.bytes > self.limits.max_unit_bytes:
            return self.found(path, blob, length, None, "unit_bytes"), False
        raw = objects.read(blob, length)
        return self.found(path, blob, length, raw, "broken_record" if raw is None else content_reason(raw)), True


def _entries(tree: IO[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Parse ``ls-tree -r -z``: mode, path and object id of each entry."""
    rest = b""
    while piece := tree.read(1 << 16):
        *lines, rest = (rest + piece).split(b"\0")
        for line in lines:
            head, _, path = line.partition(b"\t")
            mode, _, blob = head.split(b" ")
            yield mode, path, blob


class _Objects:
    """Sizes and contents of blobs, from one ``cat-file --batch-check`` and one ``cat-file --batch``.

    git ends at an object that it can't read (damage, or an absent one of a partial clone): it is then started anew.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._local = _local_objects(repository) if _is_partial(repository) else None
        self._check = _Process(repository, "cat-file", "--batch-check")
        self._batch = _Process(repository, "cat-file", "--batch")

    def __enter__(self) -> "_Objects":
        return self

    def __exit__(self, *_: object) -> None:
        self._check.stop()
        self._batch.stop()

    def sizes(self, blobs: Sequence[bytes]) -> list[int | None]:
        """The size of each blob, None where it is absent."""
        sizes: list[int | None] = []
        while len(sizes) < len(blobs):
            asked = blobs[len(sizes) :]
            known = asked if self._local is None else [blob for blob in asked if blob in self._local]
            self._check.send(b"".join(blob + b"\n" for blob in known))
            for blob in asked:
                if self._local is not None and blob not in self._local:
                    sizes.append(None)
                    continue
                fields = self._check.output.readline().split()
                sizes.append(int(fields[2]) if len(fields) == 3 and fields[1] == b"blob" else None)
                if not fields:
                    self._check.stop()
                    self._check = _Process(self._repository, "cat-file", "--batch-check")
                    break
        return sizes

    def read(self, blob: bytes, size: int) -> bytes | None:
        """The content of a blob of ``size`` bytes, None if git can't read it."""
        self._batch.send(blob + b"\n")
        if self._batch.output.readline().split() == [blob, b"blob", b"%d" % size]:
            raw = self._batch.output.read(size + 1)
            if len(raw) == size + 1:
                return raw[:-1]
        self._batch.stop()
        self._batch = _Process(self._repository, "cat-file", "--batch")
        return None


class _Process:
    """One git plumbing command in a repository, with pipes."""

    def __init__(self, repository: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [*_GIT, "-C", str(repository), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(repository),
            bufsize=1 << 18,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self.output = self._process.stdin, self._process.stdout

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def send(self, data: bytes) -> None:
        """Write to the command; that it has ended shows in its output."""
        try:
            self._input.write(data)
            self._input.flush()
        except BrokenPipeError:
            return

    def wait(self) -> int:
        """The exit status, once the output is read."""
        return self._process.wait()

    def stop(self) -> None:
        """End the command and close its pipes."""
        self._process.kill()
        self._process.wait()
        self.output.close()
        try:
            self._input.close()
        except BrokenPipeError:
            return


def _resolve_local(path: Path, ref: str) -> str:
    _run(["rev-parse", "--git-dir"], f"open the repository {path}", path)
    found = _call(["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"], path)
    if found.returncode == 0:
        return found.stdout.decode().strip()
    listing = _run(["for-each-ref", "--format=%(refname)"], f"list the references of {path}", path)
    refs = listing.decode("utf-8", "replace").split()
    if not refs and ref == "HEAD":
        return ""
    raise GitError(f"{path} has no branch, tag or commit {ref!r}; it has {_some(refs)}")


def _some(refs: Collection[str]) -> str:
    names = sorted({re.sub(r"^refs/(heads|tags)/", "", name).removesuffix("^{}") for name in refs})
    return (", ".join(names[:8]) + (" ..." if len(names) > 8 else "")) or "no reference at all"


def _transport(url: str) -> list[str]:
    """The options that allow this URL's transport and no other."""
    parts = urlsplit(url)
    allowed = ["-c", "protocol.allow=never", "-c", "protocol.https.allow=always", *_NETWORK]
    if parts.scheme == "https":
        return allowed
    if parts.scheme == "http" and _LOOPBACK.fullmatch(parts.hostname or ""):
        return [*allowed, "-c", "protocol.http.allow=always", "-c", "http.followRedirects=false"]
    raise GitError(f"can't fetch {url}: only https is allowed, and http on loopback; a local path is read in place")


def _has(repository: Path, commit: str) -> bool:
    return _call(["cat-file", "-e", f"{commit}^{{commit}}"], repository).returncode == 0


def _is_partial(repository: Path) -> bool:
    keys = r"^(extensions\.partialclone|remote\..*\.promisor)$"
    return _call(["config", "--get-regexp", keys], repository).returncode == 0


def _local_objects(repository: Path) -> frozenset[bytes]:
    """The ids of what a partial clone holds: asking for an absent one would fetch it or end git."""
    arguments = ["cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname)"]
    with _Process(repository, *arguments) as listing:
        return frozenset(line.strip() for line in listing.output)


def _run(arguments: Sequence[str], doing: str, repository: Path | None = None) -> bytes:
    done = _call(arguments, repository)
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise GitError(f"can't {doing}: git ended with {done.returncode}: {words}")
    return done.stdout


def _call(arguments: Sequence[str], repository: Path | None) -> subprocess.CompletedProcess[bytes]:
    place = ["-C", str(repository)] if repository else []
    try:
        return subprocess.run(
            [*_GIT, *place, *arguments], env=_environment(repository), capture_output=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise GitError("the git command is not installed, or not in PATH") from error


def _environment(repository: Path | None) -> dict[str, str]:
    """No configuration but ours, no prompt, no lazy fetch, no translated message, no search of folders above."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SSH_", "LANGUAGE"))}
    ours = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
    }
    if repository:
        ours["GIT_CEILING_DIRECTORIES"] = str(repository.absolute().parent)
    return kept | ours
