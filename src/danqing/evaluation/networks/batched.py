"""What feature networks made of PyTorch modules share: batches of their own size, one number format."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from danqing.evaluation.resize import images_at_once
from danqing.precision import Precision, exact


class TorchNetwork:
    """A feature network around a module; a child class prepares its images.

    Pictures pass through the network `batch_size` at a time, whatever comes in at once, and the last batch is
    filled up: libraries choose their algorithms by the shape, and a picture's features must not depend on how
    many others came with it. The size is what the processor's caches like best.
    """

    batch_size = 32

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        sha256: str,
        resizer: str,
        normalization: str,
        dimensions: int,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.name, self.sha256, self.dimensions = name, sha256, dimensions
        self.resizer, self.normalization = resizer, normalization
        self.device, self.precision = torch.device(device), precision
        self.module = module.to(self.device)

    def features(self, images: Tensor) -> Tensor:
        """Return feature vectors float32 `[n, dimensions]`, on the CPU.

        images: uint8 `[n, h, w, c]`.
        """
        _, height, width, _ = images.shape
        size = min(self.batch_size, images_at_once((width, height)))
        with self._computing():
            parts = [self._batch(part, size) for part in torch.split(images, size) if len(part)]
        return torch.cat(parts) if parts else torch.empty(0, self.dimensions)

    def _batch(self, images: Tensor, size: int) -> Tensor:
        full = filled(images, size).to(self.device)
        return self._vectors(self._inputs(full))[: len(images)].float().cpu()

    def _inputs(self, images: Tensor) -> Tensor:
        """Images uint8 `[n, h, w, c]` to what the module takes."""
        raise NotImplementedError

    def _vectors(self, inputs: Tensor) -> Tensor:
        """What the module takes to feature vectors `[n, dimensions]`."""
        found: Tensor = self.module(inputs)
        return found

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, and the number format that the network says: a GPU takes float32 for less."""
        bfloat16 = self.precision == "bfloat16"
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16),
            exact(),
        ):
            yield


class StagedNetwork(TorchNetwork):
    """A network whose module has `stages`, the activations of some layers."""

    def stages(self, images: Tensor) -> list[Tensor]:
        """Return the activations of some layers, float32 `[n, channels, h, w]`.

        images: uint8 `[n, h, w, c]`.
        """
        with self._computing():
            return [found.float().cpu() for found in self._stages(self._inputs(images.to(self.device)))]

    def perceive(self, images: Tensor) -> list[Tensor]:
        """Return the same activations with gradients for the images.

        images: `[n, c, h, w]` in [-1, 1].
        """
        return self._stages(self._inputs((images.permute(0, 2, 3, 1) + 1) * 127.5))

    def _stages(self, inputs: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.module.stages(inputs)  # type: ignore[operator]
        return found


def filled(images: Tensor, count: int) -> Tensor:
    """Return a batch of `count` images; the first is repeated as needed."""
    lacking = count - len(images)
    return torch.cat([images, images[:1].expand(lacking, -1, -1, -1)]) if lacking else images
