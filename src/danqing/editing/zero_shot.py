"""Learning to denoise from one noisy image and no other (Mansour and Heckel 2023, "Zero-Shot Noise2Noise").

Two smaller images are made of the noisy one, each from other pixels. They show the same, with other noise, so
that a small network that predicts one from the other learns to remove the noise. The network corrects
non-local means (Buades et al. 2005), which is where it starts: it then needs a tenth of the steps.

Where the noise of neighbours is alike, the image is first divided into phases, images of every second, third
or fourth pixel, whose neighbours have noise of their own (as in Zhou et al. 2020, "When AWGN-based Denoiser
Meets Real Noises").
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 40
SMALLEST = 8
"""Pixels of the shorter side of an image that can be learned from."""
MARGIN = 11
"""How far the result depends on other pixels of a phase: the window and patch of non-local means (7), their
surroundings (2), and two convolutions of 3×3 (2)."""
_WINDOW, _PATCH = 5, 2
_FILTERING = 0.8
"""How different patches may be, in standard deviations of the noise."""
_LEARNING_RATE = 2e-3
_CHECK_EVERY, _PATIENCE = 10, 40
"""Steps between two looks at what is held out, and without a better one before training ends."""
_CROP, _CROPS, _AT_ONCE = 64, 16, 2
"""Pixels of a side of a crop of the smaller images, how many there are, and how many are used in a step."""
_LONGEST_STRIDE = 4
_GROWS = 1.1
"""By which factor the deviation of second differences grows, at least, while their noise is correlated."""
_WHOLE, _SHARE_OF_WHOLE = 1.2, 0.6
"""Of an image with correlated noise, also denoised as a whole: how much more noise is assumed there, since it
adds up in patches, and the share of the result."""
_PROBE = 0.1
"""The step of finite differences, in standard deviations of the noise."""


class Denoiser(nn.Module):
    """A network that removes the noise of one image.

    It has about 20,000 weights.

    stride: the distance between pixels whose noise is independent.
    sigma: the standard deviation of the noise.
    """

    def __init__(self, channels: int, *, stride: int, sigma: float, rng: torch.Generator) -> None:
        super().__init__()
        self.stride, self.sigma = stride, sigma
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(2 * channels, FEATURES, 3),
                nn.Conv2d(FEATURES, FEATURES, 3),
                nn.Conv2d(FEATURES, channels, 1),
            ]
        )
        with torch.no_grad():
            for layer in self.layers:
                nn.init.kaiming_uniform_(layer.weight, a=0.2, generator=rng)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.layers[-1].weight.zero_()  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """Denoise images `[n, c, h, w]` whose sides are multiples of the stride."""
        parts = phases(images, self.stride)
        clean = joined(self.corrected(parts, non_local_means(parts, self.sigma), self.sigma), self.stride)
        if self.stride == 1:
            return clean
        # Phases see less detail, and the whole image has noise that looks like detail: their errors differ.
        return torch.lerp(clean, non_local_means(images, _WHOLE * self.sigma), _SHARE_OF_WHOLE)

    def corrected(self, noisy: Tensor, means: Tensor, sigma: float) -> Tensor:
        """Return non-local means with the correction of the network.

        The network sees everything in units of the noise, since smaller images have less of it.

        noisy, means: phases `[n, c, h, w]`, as the result.
        """
        around = F.avg_pool2d(F.pad(means, (2, 2, 2, 2), mode="replicate"), 5, 1)
        h = torch.cat([noisy - means, means - around], 1) / sigma
        for layer in self.layers[:-1]:
            h = F.leaky_relu(layer(F.pad(h, (1, 1, 1, 1), mode="replicate")), 0.2)
        correction: Tensor = self.layers[-1](h)
        return means + sigma * correction

    def residual(self, examples: "_Examples") -> Tensor:
        """Return how badly either smaller image predicts the other (their equation 4)."""
        first, second = self._of_pairs(examples)
        return _swapped(first, second, examples)

    def loss(self, examples: "_Examples") -> Tensor:
        """Return the training loss: the residual plus a consistency term.

        The consistency term measures how much the order matters: denoising and making an image smaller should
        give the same in either order (their equation 6).
        """
        first, second = self._of_pairs(examples)
        whole = pair(self.corrected(examples.noisy, examples.means, self.sigma))
        residual = _swapped(first, second, examples)
        consistency = (first - whole[0]).square().mean() + (second - whole[1]).square().mean()
        return (residual + consistency) / self.sigma**2

    def _of_pairs(self, examples: "_Examples") -> tuple[Tensor, Tensor]:
        """Return both smaller images, denoised."""
        smaller = self.sigma / math.sqrt(2)
        first = self.corrected(examples.first, examples.means_of_first, smaller)
        return first, self.corrected(examples.second, examples.means_of_second, smaller)


def learned(images: Tensor, *, stride: int, steps: int, rng: torch.Generator) -> Denoiser | None:
    """Learn to denoise one image.

    A quarter of the image is held out: training ends when its pairs are no longer predicted better, and the
    best weights are returned. Those of the beginning are non-local means.

    images: `[1, c, h, w]` with sides of at least `SMALLEST`. stride: see `Denoiser`.
    steps: at most so many. rng: a generator on the CPU. Returns None for an image without noise.
    """
    noisy = torch.stack([phases(crop, stride) for crop in _crops(images, stride, rng)])
    pairs = pair(noisy)  # each [crops, stride², c, h, w]
    sigma = _deviation(noisy, pairs)
    if not sigma:
        return None
    smaller = sigma / math.sqrt(2)  # the mean of two pixels
    examples = _Examples(noisy, *pairs, _means(noisy, sigma), *(_means(one, smaller) for one in pairs))
    held = math.ceil(len(noisy) / 4)
    count = max(1, len(noisy) - held)  # of a tiny image, all is both learned from and judged
    judged = examples.at(slice(len(noisy) - held, None), slice(None))
    network = Denoiser(images.shape[1], stride=stride, sigma=sigma, rng=rng).to(images.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    best, best_step = math.inf, 0
    best_state: dict[str, Tensor] = {}
    for step in range(steps + 1):
        if step % _CHECK_EVERY == 0 or step == steps:
            with torch.no_grad():
                loss = float(network.residual(judged))
            if loss < best:
                best, best_step = loss, step
                best_state = {name: value.clone() for name, value in network.state_dict().items()}
            if step == steps or step - best_step >= _PATIENCE:
                break
        rows = torch.randint(count, (_AT_ONCE,), generator=rng)
        phase = torch.randint(noisy.shape[1], (_AT_ONCE,), generator=rng)
        optimizer.zero_grad(set_to_none=True)
        network.loss(examples.at(rows, phase)).backward()
        optimizer.step()
    network.load_state_dict(best_state)
    with torch.no_grad():
        last, share = network.layers[-1], _best_share(network, judged, rng)
        last.weight.mul_(share)  # type: ignore[operator]
        last.bias.mul_(share)  # type: ignore[operator]
    return network.eval().requires_grad_(False)


def _swapped(first: Tensor, second: Tensor, examples: "_Examples") -> Tensor:
    return (first - examples.second).square().mean() + (second - examples.first).square().mean()


class _Examples(NamedTuple):
    """Noisy phases, the smaller images that are made of each, and the non-local means of all three."""

    noisy: Tensor
    first: Tensor
    second: Tensor
    means: Tensor
    means_of_first: Tensor
    means_of_second: Tensor

    def at(self, rows: Tensor | slice, phase: Tensor | slice) -> "_Examples":
        """Return some phases of some crops, each `[n, c, h, w]`."""
        chosen = (part[rows, phase] for part in self)
        return _Examples(*(part.flatten(0, -4) for part in chosen))


def _best_share(network: Denoiser, held: _Examples, rng: torch.Generator) -> float:
    """Return how much of the network's correction is best at full size, from 0 to 1.

    What is learned at half the size may not suit the whole image. Stein's unbiased estimate of the error
    (Ramani et al. 2008, "Monte-Carlo SURE") is a parabola of the share, whose minimum is known.
    """
    noisy, means, sigma = held.noisy, held.means, network.sigma
    change = network.corrected(noisy, means, sigma) - means
    probe = torch.randn(noisy.shape, generator=rng).to(noisy.device)
    moved = noisy + _PROBE * sigma * probe
    moved_means = non_local_means(moved, sigma)
    moved_change = network.corrected(moved, moved_means, sigma) - moved_means
    divergence = (probe * (moved_change - change)).sum() / (_PROBE * sigma)
    slope = (change * (means - noisy)).sum() + sigma**2 * divergence
    return float((-slope / change.square().sum().clamp_min(1e-12)).clamp(0, 1))


def pair(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of both diagonals of each 2×2 block.

    images: `[..., h, w]`. Both results have half the height and width.
    """
    top, bottom = images[..., 0::2, :], images[..., 1::2, :]
    return (
        (top[..., 1::2] + bottom[..., 0::2]) / 2,
        (top[..., 0::2] + bottom[..., 1::2]) / 2,
    )


def phases(images: Tensor, stride: int) -> Tensor:
    """Divide images into images of every `stride`-th pixel.

    images: `[n, c, h, w]`. Returns `[n * stride², c, h', w']`.
    """
    n, channels, height, width = images.shape
    parts = images.reshape(n, channels, height // stride, stride, width // stride, stride)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(-1, channels, height // stride, width // stride)


def joined(parts: Tensor, stride: int) -> Tensor:
    """Put together what `phases` has divided."""
    _, channels, height, width = parts.shape
    images = parts.reshape(-1, stride, stride, channels, height, width).permute(0, 3, 4, 1, 5, 2)
    return images.reshape(-1, channels, height * stride, width * stride)


def non_local_means(images: Tensor, sigma: float) -> Tensor:
    """Average pixels whose surroundings are alike (Buades et al. 2005, section 5).

    images: `[n, c, h, w]`. sigma: the standard deviation of the noise.
    """
    height, width = images.shape[2:]
    reach, patch = _WINDOW + _PATCH, 2 * _PATCH + 1
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    inner = (height + 2 * _PATCH, width + 2 * _PATCH)
    centre = padded[:, :, _WINDOW : _WINDOW + inner[0], _WINDOW : _WINDOW + inner[1]]
    total, weights = images.clone(), torch.ones_like(images[:, :1])
    for down in range(2 * _WINDOW + 1):
        for right in range(2 * _WINDOW + 1):
            if down == right == _WINDOW:
                continue  # the pixel itself
            other = padded[:, :, down : down + inner[0], right : right + inner[1]]
            distance = (centre - other).square().mean(1, keepdim=True)
            distance = F.avg_pool2d(F.avg_pool2d(distance, (patch, 1), 1), (1, patch), 1)
            weight = torch.exp((2 * sigma**2 - distance).clamp_max(0) / (_FILTERING * sigma) ** 2)
            total += weight * other[:, :, _PATCH : _PATCH + height, _PATCH : _PATCH + width]
            weights += weight
    return total / weights


def independent_stride(images: Tensor) -> int:
    """Estimate between which pixels noise is independent, from 1 to 4.

    The second difference of pixels that are d apart has a variance that grows with d until their noise is
    independent. It is measured where the image is flattest.

    images: `[1, c, h, w]`.
    """
    block, longest = 16, _longest_stride(images)
    if longest == 1:
        return 1
    deviations = []
    coarse = F.avg_pool2d(images.mean(1, keepdim=True), 4)
    flatness = F.avg_pool2d(coarse.square(), block // 4) - F.avg_pool2d(coarse, block // 4).square()
    is_flat = flatness <= torch.quantile(flatness.flatten(), 0.25)
    chosen = F.interpolate(is_flat.float(), scale_factor=block)[0, 0].bool()
    for d in range(1, longest + 2):
        across = images[..., : -2 * d] - 2 * images[..., d:-d] + images[..., 2 * d :]
        down = images[..., : -2 * d, :] - 2 * images[..., d:-d, :] + images[..., 2 * d :, :]
        squares = 0.0
        for difference in (across, down):
            height, width = (min(a, b) for a, b in zip(difference.shape[2:], chosen.shape, strict=True))
            where = chosen[:height, :width]
            squares += float(difference[0, :, :height, :width].square().mean(0)[where].mean())
        deviations.append(math.sqrt(squares))
    for d in range(1, longest):
        if deviations[d] < _GROWS * deviations[d - 1]:
            return d
    return longest


def correlated_stride(images: Tensor) -> int:
    """Return the stride for an image with correlated noise.

    It is at least 2 if the image is large enough.
    """
    return min(max(2, independent_stride(images)), _longest_stride(images))


def _longest_stride(images: Tensor) -> int:
    """Return the longest stride with phases that can be learned from."""
    return max(1, min(_LONGEST_STRIDE, min(images.shape[2:]) // (4 * SMALLEST)))


def _crops(images: Tensor, stride: int, rng: torch.Generator) -> list[Tensor]:
    """Cut out what is learned from and what is held out: squares that do not overlap, in random order."""
    unit, size = 2 * stride, images.shape[2:]
    least = -(-SMALLEST // unit) * unit
    sides = [max(least, min(2 * _CROP * stride, length // 2 // unit * unit)) for length in size]
    sides = [min(side, length // unit * unit) for side, length in zip(sides, size, strict=True)]
    rows, columns = (length // side for side, length in zip(sides, size, strict=True))
    places = torch.randperm(rows * columns, generator=rng)[:_CROPS].tolist()
    corners = [(place // columns * sides[0], place % columns * sides[1]) for place in places]
    return [images[:, :, top : top + sides[0], left : left + sides[1]] for top, left in corners]


def _means(stack: Tensor, sigma: float) -> Tensor:
    return non_local_means(stack.flatten(0, 1), sigma).view(stack.shape)


def _deviation(noisy: Tensor, pairs: tuple[Tensor, Tensor]) -> float:
    """Return the standard deviation of the noise, by the median difference of pairs.

    Four equal pixels say nothing: they are clipped, or background that was never measured.
    """
    first, second = pairs
    top, bottom = noisy[..., 0::2, :], noisy[..., 1::2, :]
    quads = torch.stack([top[..., 0::2], top[..., 1::2], bottom[..., 0::2], bottom[..., 1::2]])
    varies = quads.amax(0) > quads.amin(0)
    if varies.float().mean() < 0.01:
        return 0.0
    return float((first - second)[varies].abs().median()) / 0.6745
