"""A real S3 server on loopback."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from tests.clusters.engines import home_of
from tests.clusters.fetch import MINIO
from tests.clusters.processes import Processes, free_ports, processes

BUCKET = "corpus"
_USER, _PASSWORD = "headrace", "loopback-only"


@dataclass(frozen=True)
class Minio:
    """An S3 server that runs, with the bucket ``corpus``. Data and port stay over ``stop`` and ``start``."""

    processes: Processes
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What clients need in their environment."""
        return {
            "AWS_ACCESS_KEY_ID": _USER,
            "AWS_SECRET_ACCESS_KEY": _PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def start(self) -> None:
        """Start the server. Raises ClusterError where it does not come up."""
        login = {"MINIO_ROOT_USER": _USER, "MINIO_ROOT_PASSWORD": _PASSWORD, "MINIO_BROWSER": "off"}
        command = [str(home_of(MINIO) / "minio"), "server", "--quiet", "--address", f"127.0.0.1:{self.port}"]
        self.processes.start("minio", [*command, str(self.processes.scratch / "data")], login)
        self.processes.wait("minio", self._lives)

    def stop(self) -> None:
        """Kill the server."""
        self.processes.stop("minio")

    def _lives(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/minio/health/live", timeout=2).close()
        except OSError:
            return False
        return True


@contextmanager
def minio(folder: Path) -> Iterator[Minio]:
    """An S3 server with an empty bucket. Raises ClusterError."""
    with processes(folder) as group:
        server = Minio(group, free_ports(1)[0])
        server.start()
        client = fs.S3FileSystem(
            access_key=_USER,
            secret_key=_PASSWORD,
            endpoint_override=f"127.0.0.1:{server.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        client.create_dir(BUCKET)
        yield server
