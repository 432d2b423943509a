"""Paths from noise to images, and what a network predicts on them.

Every Gaussian path α x + σ ε becomes the linear path z = t x + (1 - t) ε when it is divided by α + σ, with
t = α / (α + σ). The two differ in the clock and the scale of the network's input alone (Kingma and Gao 2023).
So time is t everywhere, 0 at noise and 1 at the image, and a sampler never needs to know the path.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.layers import pad_to_even

PathName = Literal["linear", "vp", "edm"]
Prediction = Literal["image", "residual", "velocity", "noise"]
Times = Literal["logit_normal", "uniform"]

LEAST_NOISE = 0.05
"""1 - t is at least this where a loss divides by it (Li and He 2025, JiT)."""
DATA_SCALE = 0.5
"""The standard deviation of pixels in [-1, 1] that EDM assumes (Karras et al. 2022, table 1)."""
DETAIL_SCALE = 0.15
"""The standard deviation of what halving the sides of an image removes, of pixels in [-1, 1]."""
EDM_MEAN, EDM_DEVIATION = -1.2, 1.2
"""Of ln σ in training (Karras et al. 2022, table 1)."""
EDM_LEAST, EDM_MOST = 0.002, 80.0


class Path(NamedTuple):
    """One path, in the coordinates of the linear path.

    input_scale: from t to the factor by which the network's input is multiplied.
    clock: from t to the number in [0, 1] that the network is told.
    """

    input_scale: Callable[[Tensor], Tensor]
    clock: Callable[[Tensor], Tensor]


def _one(t: Tensor) -> Tensor:
    return torch.ones_like(t)


def _vp_scale(t: Tensor) -> Tensor:
    """1 / √(t² + (1 - t)²): a variance-preserving path has α² + σ² = 1 (Song et al. 2021, equation 11)."""
    return (t.square() + (1 - t).square()).rsqrt()


def _vp_clock(t: Tensor) -> Tensor:
    """The u of α = sin(π u / 2), σ = cos(π u / 2) (Nichol and Dhariwal 2021, section 3.2)."""
    return torch.atan2(t, 1 - t) * (2 / math.pi)


def _edm_scale(t: Tensor) -> Tensor:
    """c_in / t with σ = (1 - t) / t (Karras et al. 2022, table 1)."""
    return ((1 - t).square() + (DATA_SCALE * t).square()).rsqrt()


def _edm_clock(t: Tensor) -> Tensor:
    """ln σ (Karras et al. 2022, table 1), brought to [0, 1]."""
    log_sigma = torch.log(((1 - t) / t.clamp_min(1e-6)).clamp(EDM_LEAST, EDM_MOST))
    return (math.log(EDM_MOST) - log_sigma) / (math.log(EDM_MOST) - math.log(EDM_LEAST))


PATHS = {
    "linear": Path(_one, lambda t: t),
    "vp": Path(_vp_scale, _vp_clock),
    "edm": Path(_edm_scale, _edm_clock),
}


def stratified(count: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """Draw uniform numbers `[count]` in (0, 1), one from each part.

    The interval has `count` equal parts.
    They cover the interval evenly, which makes the loss of a small batch less noisy (Kingma et al. 2021,
    "Variational Diffusion Models", appendix I.1).
    """
    places = torch.arange(count, device=device, dtype=torch.float64)
    drawn = (places + torch.rand(count, generator=rng, device=device, dtype=torch.float64)) / count
    return drawn.clamp(1e-6, 1 - 1e-6)


def draw_times(path: PathName, times: Times, mean: float, deviation: float, uniforms: Tensor) -> Tensor:
    """Turn uniform numbers into the times of training.

    The numbers are float64 `[n]`, the times float32 `[n]` in (0, 1).
    times: on the linear path, uniform or with logit t ~ N(mean, deviation²) (Esser et al. 2024, equation 19).
    The others have their own: u uniform (vp), ln σ ~ N(-1.2, 1.2²) (edm).
    """
    if path == "vp":
        angles = uniforms * (math.pi / 2)
        return (angles.sin() / (angles.sin() + angles.cos())).float()
    if path == "edm":
        return torch.sigmoid(-(EDM_MEAN + EDM_DEVIATION * torch.special.ndtri(uniforms))).float()
    if times == "uniform":
        return uniforms.float()
    return torch.sigmoid(mean + deviation * torch.special.ndtri(uniforms)).float()


def mix(t: Tensor, images: Tensor, start: Tensor) -> Tensor:
    """Mix images and start to the points of the linear path.

    z = t x + (1 - t) x0 (Lipman et al. 2023, equation 22).
    t: `[n]`; images, start: `[n, c, h, w]`, where start is noise or what else the path begins with.
    """
    return torch.lerp(start, images, wide(t))


def coarsened(noise: Tensor, factor: float) -> Tensor:
    """Make coarse parts of white noise stronger.

    noise: `[n, c, h, w]`. factor: from 1; areas of 2^k by 2^k pixels become `factor`^k times as strong. The
    average of a large area of white noise is close to 0, so it hardly says which colour the area will
    get. With a factor of 2 all sizes have the same energy, as in photographs (Field 1987).
    """
    height, width = noise.shape[-2:]
    if factor == 1 or max(height, width) == 1:
        return noise
    half = F.avg_pool2d(pad_to_even(noise), 2)

    def whole(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :height, :width]

    return noise - whole(half) + factor * whole(coarsened(2 * half, factor)) / 2


def predicted_image(path: PathName, prediction: Prediction, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Turn a network's output at points `z` into the predicted image.

    It is `[n, c, h, w]`.
    image: the output itself. residual: what the best linear guess from `z` alone lacks of the image, in
    units of the guess's error (Karras et al. 2022, equation 7, which the path edm always uses). velocity:
    v = x - ε, so x = z + (1 - t) v. noise: x = (z - (1 - t) ε) / t.
    """
    t = wide(t)
    if path == "edm" or prediction == "residual":
        square = (1 - t).square() + (DATA_SCALE * t).square()
        return (DATA_SCALE**2 * t / square) * z + (1 - t) * DATA_SCALE * square.rsqrt() * output
    if prediction == "velocity":
        return z + (1 - t) * output
    if prediction == "noise":
        return (z - (1 - t) * output) / t.clamp_min(LEAST_NOISE)
    return output


def detail_gain(path: PathName, prediction: Prediction, t: Tensor, noise_variance: float) -> Tensor:
    """Return the factor from the detail of points to the best output.

    Detail is what halving the sides of an image removes. The guess of the image's detail is the best linear
    one, t σ² / (t² σ² + (1 - t)² r) times that of the point (Wiener), with σ = DETAIL_SCALE and r the
    variance of the noise. It is turned into the prediction as `predicted_image` turns it back.
    t: `[n]`. noise_variance: of the detail of where the path begins; 1 for standard normal noise.
    """
    signal, noise = DETAIL_SCALE**2, noise_variance
    total = t.square() * signal + (1 - t).square() * noise
    if path == "edm" or prediction == "residual":
        square = (1 - t).square() + (DATA_SCALE * t).square()
        return t * (1 - t) * (signal - noise * DATA_SCALE**2) / (total * DATA_SCALE * square.sqrt())
    if prediction == "velocity":
        return (t * signal - (1 - t) * noise) / total
    if prediction == "noise":
        return (1 - t) * noise / total
    return t * signal / total


def training_loss(
    path: PathName,
    prediction: Prediction,
    output: Tensor,
    images: Tensor,
    start: Tensor,
    t: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute the squared error of each image, float32 `[n]`.

    It is in the space that suits the prediction.
    mask: `[n, 1, h, w]`, the pixels that count; None is all.

    image, residual: the error of the velocity that follows, ‖x̂ - x‖² / (1 - t)² (Li and He 2025,
    equation 5).
    velocity: ‖output - (x - ε)‖² (Lipman et al. 2023, equation 23). noise: ‖output - ε‖² (Ho et al. 2020,
    equation 14). edm: that of the preconditioned output, of unit variance (Karras et al. 2022, equation 8).
    """
    output = output.float()
    if path == "edm":
        error = (predicted_image(path, prediction, output, mix(t, images, start), t) - images) / wide(
            (1 - t).clamp_min(1e-4) * DATA_SCALE * _edm_scale(t)
        )
    elif prediction == "residual":
        image = predicted_image(path, prediction, output, mix(t, images, start), t)
        error = (image - images) / wide((1 - t).clamp_min(1e-4))
    elif prediction == "velocity":
        error = output - (images - start)
    elif prediction == "noise":
        error = output - start
    else:
        error = (output - images) / wide((1 - t).clamp_min(LEAST_NOISE))
    squares = error.square() if mask is None else error.square() * mask
    return squares.flatten(1).mean(1)


def wide(t: Tensor) -> Tensor:
    """Reshape one number per image, `[n]`, to `[n, 1, 1, 1]`."""
    return t.view(-1, 1, 1, 1)
