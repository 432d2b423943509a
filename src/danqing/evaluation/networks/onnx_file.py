"""A network in an ONNX file, run by onnxruntime."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.networks.batched import filled
from danqing.evaluation.networks.module import NORMALIZATION, RESIZER, pooled
from danqing.evaluation.resize import images_at_once, in_words, prepared
from danqing.precision import Precision
from danqing.pretrained import fingerprint

_BATCH = 32


class OnnxFile:
    """A feature network in an ONNX file.

    It takes RGB float32 `[n, 3, h, w]` in [-1, 1], and its first output is `[n, d]`.

    Activations `[n, d, h, w]` are pooled. Where the file says its height and width, pictures are resized to
    them; else they come at their own size. The weights must lie in the file itself: what lies beside it is
    neither read nor part of the sha256. Computes in float32 on the CPU.
    """

    precision: Precision = "float32"
    normalization = NORMALIZATION

    def __init__(self, path: Path) -> None:
        if find_spec("onnxruntime") is None:
            raise EvaluationError("ONNX networks need onnxruntime: run pip install 'danqing[onnx]'.")
        import onnxruntime

        self.sha256 = fingerprint.of_file(path)
        self.name = f"{path.stem}-{self.sha256[:8]}"
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own that have no common parent
            raise EvaluationError(f"{path} is not an ONNX network that holds all its weights.") from error
        takes, gives = self._session.get_inputs(), self._session.get_outputs()
        if len(takes) != 1 or takes[0].type != "tensor(float)" or len(takes[0].shape) != 4:
            raise EvaluationError(f"{path} must take one float32 tensor of pictures [n, 3, h, w].")
        self._input = takes[0].name
        batch, _, height, width = (side if isinstance(side, int) else 0 for side in takes[0].shape)
        self._batch, self._size = batch, (width, height)
        self.resizer = in_words(self._size) if width and height else RESIZER
        channels = gives[0].shape[1] if len(gives[0].shape) > 1 else 0
        self.dimensions = channels if isinstance(channels, int) else 0

    def features(self, images: Tensor) -> Tensor:
        """Return feature vectors float32 `[n, d]`.

        images: uint8 `[n, h, w, c]`. Raises EvaluationError if the network returns another shape.
        """
        _, height, width, _ = images.shape
        own = (self._size[0] or width, self._size[1] or height)
        at_once = self._batch or min(_BATCH, images_at_once((width, height)), images_at_once(own))
        parts = [self._of_batch(part, at_once, own) for part in torch.split(images, at_once) if len(part)]
        found = torch.cat(parts) if parts else torch.empty(0, self.dimensions)
        self.dimensions = found.shape[1]
        return found

    def _of_batch(self, images: Tensor, at_once: int, size: tuple[int, int]) -> Tensor:
        inputs = (prepared(filled(images, at_once), size) / 127.5 - 1).contiguous().numpy()
        try:
            found = self._session.run(None, {self._input: inputs})[0]
        except Exception as error:
            raise EvaluationError(
                f"The network {self.name} cannot take pictures of {size[0]}x{size[1]} ({error}): give it a "
                "height and a width, or dimensions that are free."
            ) from error
        return pooled(torch.from_numpy(found), at_once, self.name)[: len(images)].float()
