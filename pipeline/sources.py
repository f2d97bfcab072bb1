"""The sources of a manifest: what a build reads, in frozen models (``docs/manifest.md``)."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.found import Limits
from pipeline.tables import TableColumns

Kind = Literal["code", "prose", "page", "data"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]

_PATHS = Field(min_length=1, description="files, folders or globs (fsspec URLs)")
_BUCKETS = Field(None, gt=0, le=65536, description="crawl units: hash(origin) mod N; without it every input is a unit")


class Model(BaseModel):
    """A part of a manifest: frozen, every key known, no type bent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Source(Model):
    name: Name = Field(description="name of the source; enters every document's id")
    limits: Limits = Field(default=Limits(), description="guards while reading; passing one is a reject")


class ArchiveSource(_Source):
    """Tar, zip, wheel, sdist, npm tarball and deb files."""

    kind: Literal["archives"] = Field(description="tar, zip, wheel, sdist, npm tarball and deb files")
    paths: tuple[str, ...] = _PATHS
    buckets: int | None = _BUCKETS


class GitRepository(Model):
    """One repository, read at a commit."""

    url: str = Field(description="local path or https URL")
    ref: str = Field("HEAD", description="branch, tag or commit; pinned in the lock file")

    @field_validator("url")
    @classmethod
    def _is_local_or_https(cls, url: str) -> str:
        if re.match(r"(ssh|git)://|[\w.-]+@[\w.-]+:", url):
            raise ValueError(f"a local path or an https URL was expected, got {url!r}")
        return url


class GitSource(_Source):
    """Git repositories, local or remote."""

    kind: Literal["git"] = Field(description="git repositories, local or remote")
    repositories: tuple[GitRepository, ...] = Field(min_length=1, description="each is read at one commit")
    buckets: int | None = _BUCKETS


class WarcSource(_Source):
    """WARC files of a web crawl."""

    kind: Literal["warc"] = Field(description="WARC files of a web crawl")
    paths: tuple[str, ...] = _PATHS


class TableSource(_Source):
    """Parquet or JSON lines with a text column: an existing corpus."""

    kind: Literal["tables"] = Field(description="Parquet or JSON lines with a text column")
    paths: tuple[str, ...] = _PATHS
    columns: TableColumns = Field(description="which columns mean what")
    rows_are: Kind = Field("prose", description="kind of a row that declares no language")


Source = Annotated[ArchiveSource | GitSource | WarcSource | TableSource, Field(discriminator="kind")]
