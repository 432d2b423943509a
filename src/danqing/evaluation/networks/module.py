"""Any `nn.Module` of a user's as a feature network."""

import torch
from torch import Tensor, nn

from danqing.errors import EvaluationError
from danqing.evaluation.networks.batched import TorchNetwork
from danqing.evaluation.resize import flattened
from danqing.precision import Precision
from danqing.pretrained import fingerprint

RESIZER = "none"
NORMALIZATION = "x / 127.5 - 1"


class UserModule(TorchNetwork):
    """A module of the user's as a feature network.

    It takes RGB float32 `[n, 3, h, w]` in [-1, 1], at the size of the images, and returns `[n, d]`.

    Activations `[n, d, h, w]` are pooled. `dimensions` is 0 until the first pictures have been seen, unless
    the module has an attribute of that name. The module stays in the mode, training or not, that it was in.
    """

    def __init__(
        self, module: nn.Module, *, device: torch.device | str = "cpu", precision: Precision = "float32"
    ) -> None:
        sha256 = fingerprint.of_tensors(module.state_dict(), repr(module))
        super().__init__(
            module,
            name=f"{type(module).__name__}-{sha256[:8]}",
            sha256=sha256,
            resizer=RESIZER,
            normalization=NORMALIZATION,
            dimensions=int(getattr(module, "dimensions", 0)),
            device=device,
            precision=precision,
        )

    def features(self, images: Tensor) -> Tensor:
        """Return feature vectors float32 `[n, d]`.

        images: uint8 `[n, h, w, c]`. Raises EvaluationError if the module returns another shape.
        """
        was_training = self.module.training
        self.module.eval()
        try:
            found = super().features(images)
        finally:
            self.module.train(was_training)
        self.dimensions = found.shape[1]
        return found

    def _inputs(self, images: Tensor) -> Tensor:
        return (flattened(images) / 127.5 - 1).expand(-1, 3, -1, -1)

    def _vectors(self, inputs: Tensor) -> Tensor:
        return pooled(self.module(inputs), len(inputs), self.name)


def pooled(found: object, count: int, name: str) -> Tensor:
    """Return vectors `[n, d]`, pooled from activations `[n, d, h, w]` if needed.

    Raises EvaluationError for anything else.
    """
    if isinstance(found, Tensor) and found.ndim in (2, 4) and len(found) == count:
        return found if found.ndim == 2 else found.float().mean((2, 3))
    shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise EvaluationError(
        f"The network {name} gives {shape} for {count} pictures: it must give a tensor of {count} vectors."
    )
