"""The network that finds the watermark in an image: small, convolutional, and run in numpy.

It turns the brightness of an image into an estimate of the mark alone, on the same grid. It knows neither key
nor number: it learned which changes are likely to be a mark, with new random signs in every step, from
images that were compressed, resized, cropped and disturbed by noise. numpy suffices, so that the process that
answers HTTP can verify images without PyTorch. The recipe is `benchmarks/watermark_training.py`.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from danqing.trust.carriers import Floats

FILE = Path(__file__).with_name("watermark.safetensors")
_REACH = 3
"""Local means are taken over this many samples to each side."""


class Learned(NamedTuple):
    """What was learned.

    amplitude, weight: of each cosine, when it is embedded and when it is read, `[32, 32]`.
    evasion: how much of the image's own share of each cosine is removed when a mark is embedded.
    layers: kernels `[out, in, 3, 3]` and biases of the network.
    """

    amplitude: Floats
    weight: Floats
    evasion: np.float32
    layers: tuple[tuple[Floats, Floats], ...]


@functools.cache
def learned() -> Learned:
    """Return what was learned, from the file in the package."""
    from safetensors.numpy import load_file

    arrays = {name: array.astype(np.float32) for name, array in load_file(FILE).items()}
    count = sum(name.endswith(".kernel") for name in arrays)
    layers = tuple((arrays[f"{place}.kernel"], arrays[f"{place}.bias"]) for place in range(count))
    return Learned(arrays["amplitude"], arrays["weight"], np.float32(arrays["evasion"]), layers)


def details(brightness: Floats) -> tuple[Floats, Floats]:
    """Return how an image differs from its local mean.

    Also returns the local deviation, which is never 0. brightness: `[n, n]`, from 0 to 255.
    """
    mean = _local_mean(brightness.shape[0])
    difference = brightness - mean @ brightness @ mean.T
    deviation = np.sqrt(mean @ (difference * difference) @ mean.T + np.float32(0.25))
    return difference, deviation


def evened(difference: Floats, deviation: Floats) -> Floats:
    """Return the details of an image, about equally strong everywhere."""
    return difference / (deviation + 2)


def extract(brightness: Floats) -> Floats:
    """Estimate the mark in an image.

    brightness: `[n, n]` with an even n, from 0 to 255. Returns `[n, n]`, of no particular scale.
    """
    difference, deviation = details(brightness)
    features = _folded(np.stack([difference / 16, evened(difference, deviation)]))
    straight = features[4:] * np.float32(0.1)
    first, *middle, last = learned().layers
    values = np.maximum(_convolved(features, *first), 0)
    for layer in middle:
        values = values + np.maximum(_convolved(values, *layer), 0)
    return _unfolded(_convolved(values, *last) + straight)


@functools.lru_cache(maxsize=8)
def _local_mean(samples: int) -> Floats:
    places = np.arange(samples)
    near = (np.abs(places[:, None] - places) <= _REACH).astype(np.float32)
    matrix: Floats = near / near.sum(1, keepdims=True)
    return matrix


def _folded(values: Floats) -> Floats:
    """Move each block of 2 x 2 samples into channels: `[c, n, n]` as `[4 c, n / 2, n / 2]`."""
    channels, side, _ = values.shape
    blocks = values.reshape(channels, side // 2, 2, side // 2, 2)
    return blocks.transpose(0, 2, 4, 1, 3).reshape(4 * channels, side // 2, side // 2)


def _unfolded(values: Floats) -> Floats:
    """Undo `_folded` for one channel: `[4, n / 2, n / 2]` as `[n, n]`."""
    side = values.shape[1]
    return values.reshape(2, 2, side, side).transpose(2, 0, 3, 1).reshape(2 * side, 2 * side)


def _convolved(values: Floats, kernel: Floats, bias: Floats) -> Floats:
    """Convolve `[c, n, n]` with kernels of 3 x 3, zeros around: one product of matrices per tap."""
    channels, side, _ = values.shape
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    total = np.repeat(bias[:, None], side * side, axis=1)
    for row in range(3):
        for column in range(3):
            shifted = padded[:, row : row + side, column : column + side].reshape(channels, -1)
            total += kernel[:, :, row, column] @ shifted
    return total.reshape(-1, side, side)
