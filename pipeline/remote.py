"""Object stores and other remote places behind fsspec: one request a read, retries, writes on a condition.

A request is asked again while the store is away, refuses by load or drops the line; never where it answers that a file
is missing, that access is denied or that a condition fails. No listing and no size is remembered between requests.
"""

import io
import os
import random
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import fsspec

from pipeline.ranges import RangeFile

T = TypeVar("T")

_PATIENCE_SECONDS = 3600.0
_TELL_SECONDS, _TELL_AGAIN_SECONDS = 10.0, 60.0
_LONGEST_WAIT = 15.0
_SETTLE_SECONDS = 1.0
_PART = 16 << 20
_S3 = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 30,
        "max_pool_connections": 32,
        "retries": {"total_max_attempts": 1},
    },
}
_AWAY = {"ConnectionError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ResponseParserError"}
_AWAY |= {"IncompleteReadError", "IncompleteRead"}
_AGAIN = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling"}
_AGAIN |= {"ConditionalRequestConflict", "XAmzContentSHA256Mismatch", "IncompleteBody", "BadDigest"}
_CONDITION_FAILED = {"PreconditionFailed", "412"}
_USER = re.compile(r"://(?:[^/:@]+:(?!\d+(?:/|$))[^@]*|(?<=http://)[^/@]+|(?<=https://)[^/@]+)@", re.IGNORECASE)
_SIGNATURE = re.compile(
    r"\?(?:.*&)?[^=&]*(?:signature|sig|token|credential|secret|password|(?:api|access)[_-]?key)=.*", re.IGNORECASE
)


class StorageError(Exception):
    """The file system refused or stayed away: disk full, no permission, no answer. One sentence with what to do."""


class Head(NamedTuple):
    """Size in bytes of a remote file, and the tag that changes with its content (empty where there is none)."""

    size: int
    tag: str


def shown(url: str) -> str:
    """A URL as it may stand in a message: without credentials."""
    return _SIGNATURE.sub("?…", _USER.sub("://…@", url))


def refuse_secrets(url: str) -> None:
    """Raise StorageError where a URL holds credentials: it would stand in records, logs and the lock file."""
    if shown(url) != url:
        raise StorageError(
            f"{shown(url)}: a URL may hold no password, token or signature. Put credentials into the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or a profile (AWS_PROFILE; for git, a credential helper)."
        )


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path as it names it. Credentials come from the environment."""
    refuse_secrets(url)
    protocol = url.partition("://")[0].lower() if "://" in url else "file"
    if protocol in ("s3", "s3a"):
        _check_endpoint()
    try:
        fs, path = fsspec.url_to_fs(url, **(_S3 if protocol in ("s3", "s3a") else {}))
    except (ImportError, ValueError) as error:
        hint = " (pip install 'headrace[s3]')" if protocol in ("s3", "s3a") else ""
        raise StorageError(f"can't use {url}: {error}{hint}") from None
    if protocol in ("s3", "s3a"):
        fs.retries = 1
    return fs, path


def _check_endpoint() -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        endpoint = os.environ.get(name, "")
        refuse_secrets(endpoint)
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise StorageError(f"{name} is {endpoint!r}; it begins with http:// or https://")


def retried(url: str, act: Callable[[], T]) -> T:
    """Call until the store answers, with growing waits, for up to an hour.

    FileNotFoundError and FileExistsError pass; what else the store refuses is a StorageError.
    """
    began, wait, told = 0.0, 0.25, False
    while True:
        try:
            return act()
        except Exception as error:
            if not is_transient(error):
                explained = _explain(url, error)
                if explained is None:
                    raise
                raise explained from None
            why = _reason(error)
        began = began or time.monotonic()
        gone = time.monotonic() - began
        if gone > _PATIENCE_SECONDS:
            raise StorageError(
                f"{shown(url)} has not answered for {gone / 60:.0f} min ({why}). See that the store runs and can be "
                "reached from here, then run the same command again: it goes on where it was."
            )
        if gone > _TELL_SECONDS and not told:
            told = True
            _tell(f"headrace: {shown(url)} does not answer ({why}); asking again for {_PATIENCE_SECONDS / 60:.0f} min")
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, _LONGEST_WAIT)


_last_told = [float("-inf")]
"""Several threads wait for the same store: one says so."""


def _tell(line: str) -> None:
    if time.monotonic() - _last_told[0] > _TELL_AGAIN_SECONDS:
        _last_told[0] = time.monotonic()
        print(line, file=sys.stderr, flush=True)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: no connection, no answer in time, 5xx, too many requests."""
    chain = list(_chain(error))
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in chain):
        return False
    if any(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for e in chain):
        return False
    return any(map(_is_away, chain))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        is_answer = isinstance(error, FileNotFoundError | FileExistsError)
        error = error.__cause__ or (None if is_answer else error.__context__)


def _is_away(error: BaseException) -> bool:
    code, status = _answer(error)
    if code or status:
        return code in _AGAIN or status in (408, 429) or (status >= 500 and status not in (501, 505, 507))
    names = {c.__name__ for c in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(names & _AWAY)


def _answer(error: BaseException) -> tuple[str, int]:
    """Code and HTTP status that a server answered with, as botocore, aiohttp and gcsfs put them; empty and 0."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return str(response.get("Error", {}).get("Code", "")), int(status)
    answered = getattr(error, "status", None) or getattr(error, "code", None)
    return "", answered if isinstance(answered, int) and not isinstance(error, SystemExit) else 0


def _codes(error: BaseException) -> set[str]:
    return {_answer(e)[0] for e in _chain(error)}


def _reason(error: BaseException) -> str:
    """Why, in a few words without credentials."""
    for link in _chain(error):
        code, status = _answer(link)
        if code:
            message = getattr(link, "response", {}).get("Error", {}).get("Message", "")
            return " ".join(shown(f"{code}: {message}".rstrip(": ")).split())
        if status:
            return f"HTTP status {status}"
    for link in reversed(list(_chain(error))):
        if isinstance(link, OSError) and link.strerror:
            return shown(link.strerror)
    return " ".join(shown(str(error)).split()) or type(error).__name__


def _explain(url: str, error: Exception) -> StorageError | None:
    """What a store's refusal means to a person, or None for an error of another kind."""
    names = {c.__name__ for e in _chain(error) for c in type(e).__mro__}
    if "NoSuchBucket" in _codes(error):
        return StorageError(f"can't use {shown(url)}: there is no such bucket. Make it, or mend its name.")
    if isinstance(error, FileNotFoundError | FileExistsError) or not names & _KNOWN:
        return None
    if "NoCredentialsError" in names:
        return StorageError(
            f"no credentials for {shown(url)}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, here "
            "and on every worker."
        )
    if isinstance(error, PermissionError):
        return StorageError(
            f"can't use {shown(url)}: {_reason(error)}. Check the credentials (environment or profile), and that they "
            "may get, put, delete and list there."
        )
    return StorageError(f"can't use {shown(url)}: {_reason(error)}.")


_KNOWN = {"OSError", "BotoCoreError", "ClientError", "HttpError"}


class Remote:
    """Files of a remote file system, by the paths that it uses. Every request is repeated while the store is away."""

    def __init__(self, fs: Any):
        self._fs = fs
        self.is_s3 = "s3" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)

    def _ask(self, path: str, act: Callable[[], T]) -> T:
        return retried(self._fs.unstrip_protocol(path), act)

    def _s3(self, method: str, path: str, **more: Any) -> Any:
        bucket, key, _ = self._fs.split_path(path)
        return self._fs.call_s3(method, Bucket=bucket, Key=key, **more)

    def head(self, path: str) -> Head | None:
        """Size and tag, or None where the file is missing."""
        try:
            if self.is_s3:
                answer = self._ask(path, lambda: self._s3("head_object", path))
                return Head(int(answer["ContentLength"]), answer.get("ETag", ""))
            info = self._ask(path, lambda: self._fs.info(path))
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else Head(int(info["size"] or 0), tag_of(info))

    def read(self, path: str) -> bytes:
        """A file whole, in one request."""
        options = {"max_concurrency": 1} if self.is_s3 else {}
        return cast(bytes, self._ask(path, lambda: self._fs.cat_file(path, **options)))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``, in one request; fewer where the file ends before."""

        def act() -> bytes:
            try:
                return cast(bytes, self._fs.cat_file(path, start=start, end=end))
            except OSError as error:
                if _codes(error) & {"InvalidRange", "416"}:
                    return b""
                raise

        return self._ask(path, act) if end > start else b""

    def open(self, path: str) -> BinaryIO:
        """A file for reading, seekable; each read is one request. Raises FileNotFoundError."""
        head = self.head(path)
        if head is None:
            raise FileNotFoundError(path)
        return cast(BinaryIO, RangeFile(head.size, lambda start, end: self.read_range(path, start, end)))

    def find(self, path: str) -> list[str]:
        """Every file below a folder, sorted."""
        found = self._ask(path, lambda: self._fs.find(path))
        return sorted(name for name in found if not name.endswith("/"))

    def write(self, path: str, data: bytes) -> None:
        """Write a file: one request, or one finished multipart upload where it is large."""
        if self.is_s3 and len(data) > 2 * _PART:
            self._put_parts(io.BytesIO(data), len(data), path)
        else:
            self._ask(path, lambda: self._fs.pipe_file(path, data))

    def put(self, file: BinaryIO, size: int, path: str) -> None:
        """Upload a local file that stands at its start, as :meth:`write` does. A failed upload leaves nothing."""
        if not self.is_s3:
            self._ask(path, lambda: self._fs.put_file(file.name, path))
        elif size <= 2 * _PART:
            self.write(path, file.read())
        else:
            self._put_parts(file, size, path)

    def _put_parts(self, file: BinaryIO, size: int, path: str) -> None:
        upload = self._ask(path, lambda: self._s3("create_multipart_upload", path))["UploadId"]
        parts: list[dict[str, Any]] = []
        try:
            while data := file.read(_PART):
                part = {"UploadId": upload, "PartNumber": len(parts) + 1, "Body": data}
                answer = self._ask(path, lambda part=part: self._s3("upload_part", path, **part))  # type: ignore[misc]
                parts.append({"PartNumber": len(parts) + 1, "ETag": answer["ETag"]})
            self._finish(path, upload, parts, size)
        except BaseException:
            with suppress(Exception):
                self._s3("abort_multipart_upload", path, UploadId=upload)
            raise

    def _finish(self, path: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        try:
            finish = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            self._ask(path, lambda: self._s3("complete_multipart_upload", path, **finish))
        except FileNotFoundError:  # no such upload: it was finished before, and that answer was lost
            head = self.head(path)
            if head is None or head.size != size:
                raise

    def exchange(self, path: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it holds ``old`` (None: if it is not there); tells whether it holds ``new`` now.

        S3 decides by ``If-None-Match`` and ``If-Match``. Elsewhere a replaced file is read again after a pause, so
        that of two who replace it at the same time one sees the other. Contents must be unique to the caller.
        """
        if old is None:
            return self._exchange_if(path, new, mode="create")
        head = self.head(path)
        if head is None or self._content(path) != old:
            return False
        if self.is_s3:
            return self._exchange_if(path, new, IfMatch=head.tag)
        self.write(path, new)
        time.sleep(_SETTLE_SECONDS)
        return self._content(path) == new

    def _exchange_if(self, path: str, new: bytes, **condition: str) -> bool:
        def act() -> bool:
            try:
                self._fs.pipe_file(path, new, **condition)
            except OSError as error:
                is_missing = isinstance(error, FileNotFoundError) and "NoSuchBucket" not in _codes(error)
                if is_missing or isinstance(error, FileExistsError) or _codes(error) & _CONDITION_FAILED:
                    return False
                raise
            return True

        return self._ask(path, act) or self._content(path) == new

    def _content(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def remove(self, path: str) -> None:
        """Remove a file that may be gone already."""
        with suppress(FileNotFoundError):
            self._ask(path, lambda: self._fs.rm_file(path))

    def remove_folder(self, path: str) -> None:
        """Remove every file below a folder. A store may answer that it did and leave some: look."""
        found = self.find(path)
        if found:
            self._ask(path, lambda: self._fs.rm(found))
            if left := self.find(path):
                raise StorageError(f"can't remove {self._fs.unstrip_protocol(left[0])}: the store keeps it.")


def tag_of(info: dict[str, Any]) -> str:
    """The tag of a listed file that changes with its content; empty where the store gives none."""
    return str(info.get("ETag") or info.get("etag") or "")
