"""How probable an image is given the decoder's output: Gaussian, discretised logistic, Bernoulli.

A pixel has one of 256 levels; level k stands at 2k/255 - 1. Gaussian and logistic give each level the mass of
the interval half a level to either side, and the two outermost levels the tails. So the masses of the 256
levels sum to one, and bits per dimension are those of a code for the pixels of the file.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError

LikelihoodName = Literal["gaussian", "logistic", "bernoulli"]
Scale = Literal["learned", "pixel"] | float

HALF_LEVEL = 1 / 255
_SCALE_SPEED = (
    8.0  # a lone parameter under Adam moves one learning rate per step: this lets it keep up with the nets
)
_START = 0.3


class Likelihood(nn.Module):
    """The distribution of pixels that a decoder's output describes.

    The output has `parameters_per_channel * c` channels.
    """

    parameters_per_channel = 1

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """Compute the log-probability of each image in nats, `[n]`.

        images: `[n, c, h, w]` in [-1, 1].
        """
        raise NotImplementedError

    def mean(self, output: Tensor) -> Tensor:
        """Return the expected image `[n, c, h, w]` in [-1, 1]."""
        raise NotImplementedError

    def scale(self) -> Tensor | None:
        """Return the scale, where all pixels share one.

        It is in units of the pixel range [-1, 1].
        """
        return None

    def check_levels(self, images: Tensor) -> None:
        """Raise ConfigError where these images have no bits per dimension."""


class LocationScale(Likelihood):
    """A symmetric density on the line, cut into 256 levels.

    scale: a number fixes it, "learned" learns one for all pixels (sigma-VAE, Rybkin et al. 2021), "pixel"
        lets the decoder choose one for every pixel and channel.
    """

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.log_scale: nn.Parameter | None = None
        self.fixed: float | None = None
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.tensor(math.log(_START) / _SCALE_SPEED))
        elif scale == "pixel":
            self.parameters_per_channel = 2
        else:
            self.fixed = float(scale)

    def log_cumulative(self, x: Tensor) -> Tensor:
        """Compute the log of the standard distribution's cumulative function."""
        raise NotImplementedError

    def location_and_log_scale(self, output: Tensor) -> tuple[Tensor, Tensor]:
        output = output.float()
        if self.parameters_per_channel == 2:
            location, log_scale = output.chunk(2, dim=1)
            return location, log_scale.clamp(math.log(HALF_LEVEL / 4), math.log(4.0))
        if self.log_scale is not None:
            return output, (self.log_scale * _SCALE_SPEED).clamp_min(math.log(HALF_LEVEL / 4))
        return output, output.new_tensor(math.log(self.fixed or 1.0))

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        location, log_scale = self.location_and_log_scale(output)
        return self.log_mass(images, location, log_scale).flatten(1).sum(1)

    def log_mass(self, x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """Compute the log-probability of each value's interval.

        It is [x - half a level, x + half a level], open at the two ends of the range. Both interior edges are
        reflected into the lower tail, where a logarithm of the cumulative function keeps its digits.
        """
        inverse = torch.exp(-log_scale)
        distance = x - location
        below = -distance.abs()
        lowest, highest = x < -1 + HALF_LEVEL, x > 1 - HALF_LEVEL
        nearest = torch.where(lowest, distance, torch.where(highest, -distance, below))
        upper = self.log_cumulative((nearest + HALF_LEVEL) * inverse)
        lower = self.log_cumulative((below - HALF_LEVEL) * inverse)
        inside = upper + torch.log(-torch.expm1((lower - upper).clamp(max=-1e-6)))
        return torch.where(lowest | highest, upper, inside)

    def mean(self, output: Tensor) -> Tensor:
        return self.location_and_log_scale(output)[0].clamp(-1, 1)

    def scale(self) -> Tensor | None:
        if self.log_scale is not None:
            return (self.log_scale.detach() * _SCALE_SPEED).exp()
        return None if self.fixed is None else torch.tensor(self.fixed)


class Gaussian(LocationScale):
    """The normal distribution, discretised."""

    def log_cumulative(self, x: Tensor) -> Tensor:
        log_cumulative: Tensor = torch.special.log_ndtr(x)
        return log_cumulative


class DiscretisedLogistic(LocationScale):
    """The logistic distribution, discretised.

    Kingma et al. 2016, section 5; Salimans et al. 2017, eq. 2.
    """

    def log_cumulative(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x)


class Bernoulli(Likelihood):
    """Black or white, independently.

    Greys are taken as the probability of white, the usual relaxation. The relaxed value is not a
    log-probability of a grey image, so bits per dimension exist for black-and-white images only.
    """

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        white = (images + 1) / 2
        loss = F.binary_cross_entropy_with_logits(output.float(), white, reduction="none")
        return -loss.flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return torch.tanh(output.float() / 2)  # 2 * sigmoid(output) - 1

    def check_levels(self, images: Tensor) -> None:
        if bool((images.abs() < 1 - HALF_LEVEL).any()):
            raise ConfigError(
                "A Bernoulli likelihood has bits per dimension for black-and-white images only, and these "
                "have greys: train with --set likelihood=gaussian or --set likelihood=logistic for bits."
            )


def build_likelihood(name: LikelihoodName, scale: Scale) -> Likelihood:
    """Build the likelihood of a name."""
    if name == "bernoulli":
        return Bernoulli()
    return Gaussian(scale) if name == "gaussian" else DiscretisedLogistic(scale)
