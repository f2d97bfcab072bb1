"""A bucket with a site's input, and builds in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from tests.clusters.minio import BUCKET, Minio
from tests.sites import MANIFEST, Site

ON_DISK: dict[str, Any] = MANIFEST | {"sources": [source for source in MANIFEST["sources"] if source["kind"] != "git"]}
"""Every source but git: a local repository is no object."""


@dataclass
class Bucket:
    """The S3 server with a site's input; builds of it lie in the bucket. ``folder`` holds only the manifest."""

    server: Minio
    folder: Path

    def site(self, out: str) -> "S3Site":
        return S3Site(self.folder, Path(out), self)

    @property
    def client(self) -> fs.S3FileSystem:
        keys = self.server.environment
        return fs.S3FileSystem(
            access_key=keys["AWS_ACCESS_KEY_ID"],
            secret_key=keys["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=keys["AWS_ENDPOINT_URL"],
            region=keys["AWS_DEFAULT_REGION"],
        )


@dataclass
class S3Site(Site):
    """A build in the bucket; the command gets its credentials from the environment."""

    bucket: Bucket

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        return [f"s3://{BUCKET}/{self.out}" if part == str(self.out) else part for part in command]

    def try_build(self, *arguments: str, **environment: str) -> Any:
        return super().try_build(*arguments, **self.bucket.server.environment, **environment)

    def start(self, *arguments: str, start_new_session: bool = False, **environment: str) -> Any:
        environment = self.bucket.server.environment | environment
        return super().start(*arguments, start_new_session=start_new_session, **environment)

    def committed(self, role: str, word: str = "") -> int:
        """How many units below a folder of the build have a record, with a word in its path."""
        found = self.bucket.client.get_file_info(fs.FileSelector(f"{BUCKET}/{self.out}/{role}", True, True))
        return sum(info.path.endswith(".json") and word in info.path for info in found)


def in_bucket(value: Any) -> Any:
    """A manifest whose input lies in the bucket."""
    if isinstance(value, dict):
        return {key: in_bucket(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_bucket(item) for item in value]
    return f"s3://{BUCKET}/{value}" if isinstance(value, str) and value.startswith("in/") else value


def filled(server: Minio, site: Site, folder: Path) -> Bucket:
    """Copy a site's input into the bucket and write its manifest into ``folder``."""
    made = Bucket(server, folder)
    here = fs.LocalFileSystem()
    fs.copy_files(str(site.folder / "in"), f"{BUCKET}/in", source_filesystem=here, destination_filesystem=made.client)
    made.site("none").write(in_bucket(ON_DISK))
    return made
