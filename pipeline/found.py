"""What a source offers: files, pages and rows as found in the world, before they become documents or rejects."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Counted guards while streaming a container; passing one is a reject with a reason, never a crash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_file_bytes: int = Field(1 << 20, gt=0, description="a file, page or row larger than this is rejected")
    max_unit_bytes: int = Field(8 << 30, gt=0, description="what a unit may read in all, decompressed")
    max_unit_files: int = Field(2_000_000, gt=0, description="what a unit may offer in all")
    max_ratio: int = Field(200, gt=0, description="decompressed bytes per compressed byte of a container, above 16 MiB")
    max_path_bytes: int = Field(4096, gt=0, description="length of a path inside a container")


@dataclass(frozen=True, slots=True)
class Found:
    """One offered row. ``raw`` is None when a guard rejected it before its bytes were read.

    ``origin`` is the canonical key of what it belongs to (package release, repository, registered domain);
    ``path`` is a path inside the container or a URL, as bytes (names are not always UTF-8), empty where a table row has
    no name;
    ``locator`` leads back to the bytes: container name, then member or offset and length;
    ``charset`` is what the transport declared; ``fields`` are the mapped columns of a table row.
    """

    origin: str
    path: bytes
    locator: str
    size: int
    raw: bytes | None
    reason: str | None = None
    revision: str = ""
    charset: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
