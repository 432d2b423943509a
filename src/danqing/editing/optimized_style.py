"""A style by optimisation: the pixels of an image are changed until it has the style (Gatys et al. 2016)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing.editing.shrinking import limited
from danqing.errors import ConfigError
from danqing.families.style import read_style
from danqing.families.style_loss import StyleLoss
from danqing.pretrained import fingerprint
from danqing.pretrained.hed_trunk import MEAN, WEIGHTS, Trunk

_BYTES_PER_PIXEL = 4_000
"""Of the features of the network, forward and backward."""
_SMOOTHNESS = 0.1


@dataclass(frozen=True)
class OptimizedStyle:
    """The style of an image, transferred by L-BFGS on the pixels.

    The optimisation starts from the image that is edited.

    steps: of L-BFGS. side: the longer side of the image that is optimised; the change of a larger one is
        enlarged. The style image gets the same longer side.
    style_weight: of the distance from the style, relative to that from the content.
    Raises ConfigError for numbers out of range.
    """

    style_image: Path
    steps: int = 100
    side: int = 384
    style_weight: float = 10.0
    device: str = "cpu"

    channels = 3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}: choose at least 1.", "steps")
        if self.side < 32:
            raise ConfigError(f"side is {self.side}: choose at least 32 pixels.", "side")

    @functools.cached_property
    def settings(self) -> Mapping[str, Any]:
        """Return all that the result depends on besides the image."""
        return {
            "method": "optimize",
            "style_image": fingerprint.of_file(self.style_image),
            "steps": self.steps,
            "side": self.side,
            "style_weight": self.style_weight,
            "weights": WEIGHTS.sha256,
        }

    def peak_bytes(self, width: int, height: int) -> int:
        """Estimate the memory for an image of this size, in bytes."""
        scale = min(1.0, self.side / max(width, height))
        return round(60 * width * height + _BYTES_PER_PIXEL * width * height * scale**2) + 250_000_000

    def apply(self, images: Tensor) -> Tensor:
        """Return images `[1, 3, h, w]` in [-1, 1] in this style."""
        return limited(self._optimized, images, self.side)

    def _optimized(self, images: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            start = images.detach().to(self.device).contiguous()
            content = self._compare.content_of(start)
            made = start.clone().requires_grad_()
            optimizer = torch.optim.LBFGS([made], max_iter=self.steps, history_size=10, tolerance_change=0)

            def closure() -> Tensor:
                optimizer.zero_grad()
                terms = self._compare.terms(made, content)
                loss = terms.content + self.style_weight * terms.style + _SMOOTHNESS * terms.variation
                loss.backward()
                return loss

            optimizer.step(closure)
            return made.detach().clamp(-1, 1).cpu()

    @functools.cached_property
    def _compare(self) -> StyleLoss:
        style = read_style(self.style_image, 3, longer_side=self.side)
        return StyleLoss(self._stages, style.to(self.device))

    def _stages(self, images: Tensor) -> list[Tensor]:
        levels = (images + 1) * 127.5 - images.new_tensor(MEAN)[:, None, None]
        return self._trunk.stages(levels.contiguous(memory_format=torch.channels_last))

    @functools.cached_property
    def _trunk(self) -> Trunk:
        return Trunk().load_published(WEIGHTS.checked()).requires_grad_(False).to(self.device)
