"""The manifest of a finished cache."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from danqing.data.attributes import Attribute
from danqing.data.records import DataReport
from danqing.data.targets import TargetClasses
from danqing.image_files import Range

VERSION = 5
HEADER = 4096
"""Bytes before the first image: a padded safetensors header, which is written once the count is known."""


class Manifest(BaseModel):
    """The contents of a finished cache.

    `shape` is `[n, h, w, c]`, `fingerprint` a sha256 of everything.

    name: of the source, for people; empty if an earlier version built the cache.
    depth: bits of a value, 8 or 16. range: the (low, high) of the source that became black and white, if
    it has more than 8 bits. lacking: the extras that would have read more of the source. pairs: whether each
    image is followed by its source image. attributes: the columns of the table of attributes. buckets: the
    (width, height) of images, the first as in `shape`; empty if all have that size. targets: the classes of
    the targets.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    fingerprint: str
    shape: tuple[int, int, int, int]
    label_names: tuple[str, ...]
    label_frequencies: tuple[float, ...]
    has_texts: bool
    report: DataReport
    name: str = ""
    depth: int = 8
    range: Range | None = None
    lacking: tuple[str, ...] = ()
    pairs: bool = False
    attributes: tuple[Attribute, ...] = ()
    buckets: tuple[tuple[int, int], ...] = ()
    targets: TargetClasses = TargetClasses()

    @property
    def image_bytes(self) -> int:
        """Return the bytes of one image.

        Including its source image if the data has pairs. With buckets, an image of the largest.
        """
        _, height, width, channels = self.shape
        pixels = max(wide * high for wide, high in self.buckets or ((width, height),))
        return pixels * channels * self.depth // 8 * (2 if self.pairs else 1)


def read_manifest(cache: Path) -> Manifest:
    """Read the manifest of a finished cache."""
    return Manifest.model_validate_json((cache / "manifest.json").read_bytes())
