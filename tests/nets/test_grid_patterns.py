"""Untrained generators and decoders draw no grid, seen in the spectra of what they give.

Upsampling treats the pixels of a square of 2, 4, 8 ... pixels differently. If kernels overlap unevenly, some
pixels of each square add up more values than others, whatever the weights (Odena et al. 2016). Then the power
of the pixels, averaged over random weights, has a peak at the frequency of the squares. If the weights
themselves are other ones for each pixel of a square, single images have such peaks, which training must
remove.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from danqing.nets.autoencoders import AutoencoderShape, build_decoder
from danqing.nets.flow.contract import FlowShape, Given
from danqing.nets.flow.dit import DiT
from danqing.nets.flow.hybrid import Hybrid
from danqing.nets.flow.unet import UNet
from danqing.nets.gan_contract import GANShape
from danqing.nets.gan_modern import ModernGenerator
from danqing.nets.gan_pairs import build_generator
from danqing.nets.grids import GridDecoder, GridShape
from danqing.nets.restoration import RestorationNet, RestorationShape
from danqing.nets.style import StyleNet
from danqing.nets.translator import Translator

SIDE, EDGE, IMAGES = 48, 8, 4
"""Padding changes pixels near the edge, which are left out."""
PERIODS = (2, 4, 8)
Draw = Callable[[], Tensor]


def from_latents(network: nn.Module) -> Tensor:
    if isinstance(network, ModernGenerator):
        for output in network.outputs:  # fresh ones draw nothing at fine levels
            nn.init.normal_(output.weight)
    images: Tensor = network(torch.randn(IMAGES, 8), None)
    return images


def from_noise(network: nn.Module) -> Tensor:
    nn.init.normal_(network.last.weight)  # type: ignore[arg-type,union-attr]  # it starts at zero
    time = torch.full((IMAGES,), 0.5)
    images: Tensor = network(torch.randn(IMAGES, 4, SIDE, SIDE), time, time, Given())
    return images


def from_images(network: Translator | RestorationNet) -> Tensor:
    """What a network adds to an image."""
    nn.init.normal_(network.last.weight)  # it starts at zero
    side = SIDE if isinstance(network, Translator) else SIDE // network.shape.scale
    source = torch.randn(IMAGES, 4, side, side)
    added: Tensor = network(source) - (source if isinstance(network, Translator) else network.base(source))
    return added


GAN_SHAPE, FLOW_SHAPE = GANShape(SIDE, SIDE, 4, 0), FlowShape(4, 0, (8, 8, 16), layers=1, heads=2)
VAE_SHAPE = AutoencoderShape(SIDE, SIDE, 4, latents=8, features=8, blocks=1)
GRID_SHAPE = GridShape(SIDE, SIDE, 4, latents=8, features=8, blocks=1, downsamplings=3)
NETWORKS: dict[str, Draw] = {
    **{
        f"gan-{net}": lambda net=net: from_latents(
            build_generator(net, GAN_SHAPE, latents=8, features=8).train()
        )
        for net in ("mlp", "dcgan", "resnet", "modern")
    },
    **{
        f"vae-{net}": lambda net=net: from_latents(build_decoder(net, VAE_SHAPE, 4))
        for net in ("mlp", "conv", "resnet", "hybrid")
    },
    "vqvae": lambda: GridDecoder(GRID_SHAPE)(torch.randn(IMAGES, 8, SIDE // 8, SIDE // 8)),
    **{f"flow-{net.__name__}": lambda net=net: from_noise(net(FLOW_SHAPE)) for net in (Hybrid, DiT, UNet)},
    "translator": lambda: from_images(Translator(4, (8, 8, 16), blocks=1)),
    "restoration": lambda: from_images(RestorationNet(RestorationShape(4, 4, 2, 8, 1, downsamplings=1))),
    "style": lambda: StyleNet(4, features=4, blocks=1)(torch.randn(IMAGES, 4, SIDE, SIDE)),
    "uneven": lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, bias=False)(
        torch.randn(IMAGES, 8, SIDE // 2, SIDE // 2)
    ),
}
"""What draws images `[n, 4, 48, 48]` with fresh weights. The last one overlaps unevenly, as a control."""


def drawn(name: str, count: int) -> Tensor:
    """The inner part of the images of some fresh networks, `[count, n, 4, side, side]`, each of mean 0."""
    images = []
    with torch.no_grad(), torch.random.fork_rng():
        for seed in range(count):
            torch.manual_seed(seed)
            images.append(NETWORKS[name]()[..., EDGE:-EDGE, EDGE:-EDGE].float())
    stacked = torch.stack(images)
    return stacked - stacked.mean((-2, -1), keepdim=True)


def peaks(spectrum: Tensor) -> dict[tuple[int, int], float]:
    """The values `[side, side]` at the frequencies of all periods, over the median of those around."""
    side, found = spectrum.shape[0], {}
    for period in PERIODS:
        for y, x in ((0, side // period), (side // period, 0), (side // period, side // period)):
            rows, columns = ([(at + offset) % side for offset in range(-2, 3)] for at in (y, x))
            around = spectrum[rows][:, columns].flatten()
            beside = torch.cat([around[:12], around[13:]])  # the middle one is the frequency itself
            found[y, x] = float(spectrum[y, x] / beside.median())
    return found


def unevenness(images: Tensor) -> float:
    """By how much the power of pixels changes with their place, as a share, at its strongest period."""
    power = images.square()
    power = (power / power.mean((-3, -2, -1), keepdim=True).clamp_min(1e-12)).flatten(0, 2).mean(0)
    spectrum = torch.fft.fft2(power).abs() / power.sum()
    side = power.shape[0]
    places = [(0, side // p) for p in PERIODS] + [(side // p, 0) for p in PERIODS]
    return max(float(spectrum[place]) for place in places)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "uneven"])
def test_no_pixel_adds_up_more_values_than_its_neighbour(name: str) -> None:
    assert unevenness(drawn(name, 120)) < 0.2


def test_kernels_that_overlap_unevenly_are_found() -> None:
    assert unevenness(drawn("uneven", 120)) > 0.3


@pytest.mark.parametrize(
    "name", ["gan-mlp", "gan-resnet", "gan-modern", "vae-mlp", "flow-UNet", "translator"]
)
def test_images_of_networks_that_interpolate_have_no_peaks(name: str) -> None:
    spectrum = torch.fft.fft2(drawn(name, 12)).abs().square().flatten(0, 2).mean(0)
    assert max(peaks(spectrum).values()) < 4, peaks(spectrum)


def test_a_kernel_with_other_weights_for_each_pixel_gives_peaks() -> None:
    spectrum = torch.fft.fft2(drawn("gan-dcgan", 12)).abs().square().flatten(0, 2).mean(0)
    assert max(peaks(spectrum).values()) > 10
