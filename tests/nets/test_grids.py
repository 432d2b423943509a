"""The convolutional nets of a tokenizer, at any size, and its judge of patches."""

import pytest
import torch
from torch import nn

from danqing.nets.autoencoders import AutoencoderShape, build_decoder
from danqing.nets.grids import GridDecoder, GridEncoder, GridShape, grid_of
from danqing.nets.patchgan import PatchDiscriminator


def shape_of(height: int, width: int, downsamplings: int, blocks: int = 1) -> GridShape:
    return GridShape(
        height=height,
        width=width,
        channels=2,
        latents=5,
        features=8,
        blocks=blocks,
        downsamplings=downsamplings,
    )


@pytest.mark.parametrize("downsamplings", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (13, 8), (17, 31)])
def test_any_size_becomes_a_grid_and_comes_back(height: int, width: int, downsamplings: int) -> None:
    shape = shape_of(height, width, downsamplings)
    latents = GridEncoder(shape)(torch.rand(3, 2, height, width))
    assert latents.shape == (3, 5, *shape.grid)
    assert GridDecoder(shape)(latents).shape == (3, 2, height, width)


def test_other_sizes_than_the_usual_one_become_grids_of_their_own() -> None:
    encoder, decoder = GridEncoder(shape_of(16, 16, 2)), GridDecoder(shape_of(16, 16, 2))
    for height, width in ((12, 20), (13, 16), (15, 15)):
        images = torch.rand(2, 2, height, width)
        latents = encoder(images)
        assert latents.shape == (2, 5, *grid_of((height, width), 4))
        assert decoder.decoded(latents, (height, width)).shape == images.shape


def test_the_padding_repeats_the_image_s_edge() -> None:
    odd, even = GridEncoder(shape_of(6, 7, 2)), GridEncoder(shape_of(8, 8, 2))
    even.load_state_dict(odd.state_dict())
    images = torch.rand(1, 2, 6, 7)
    padded = images[:, :, [0, 1, 2, 3, 4, 5, 5, 5]][..., [0, 1, 2, 3, 4, 5, 6, 6]]
    assert torch.allclose(odd(images), even(padded), atol=1e-6)


def test_the_widths_double_towards_the_grid() -> None:
    assert shape_of(32, 32, 4).widths == [16, 16, 16, 16]
    shape = GridShape(height=32, width=32, channels=3, latents=4, features=64, blocks=0, downsamplings=3)
    assert shape.widths == [32, 64, 128]


def test_a_logit_depends_on_its_patch_alone() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(3, features=4, layers=2)
    images = torch.rand(2, 3, 40, 52)
    logits = judge(images)
    assert logits.shape == (2, 10, 13)
    images[:, :, :, 40:] = 0  # far to the right
    changed = (judge(images) - logits).abs().amax((0, 1)) > 0
    assert not changed[:7].any()
    assert changed[11:].all()


@pytest.mark.parametrize(("height", "width"), [(4, 4), (7, 5), (9, 30)])
def test_a_judge_takes_any_size(height: int, width: int) -> None:
    assert PatchDiscriminator(1, features=4, layers=3)(torch.rand(2, 1, height, width)).dim() == 3


def decoder_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """An untrained decoder of images of 64x64, and the shape of its latents."""
    if name == "grid":
        shape = GridShape(height=64, width=64, channels=3, latents=4, features=32, blocks=1, downsamplings=3)
        return GridDecoder(shape), (4, 8, 8)
    vector = AutoencoderShape(64, 64, 3, latents=16, features=16, blocks=int(name != "conv"))
    return build_decoder(name, vector, 3), (16,)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["grid", "conv", "resnet", "hybrid"])
def test_an_untrained_decoder_has_no_peak_at_the_frequencies_of_its_strides(name: str) -> None:
    """A grid in the images is a peak at a whole number of waves in 2, 4 or 8 pixels."""
    torch.manual_seed(0)
    power = torch.zeros(64, 64)
    for _ in range(8):
        decoder, shape = decoder_of(name)
        inputs = torch.randn(16, *shape)
        with torch.no_grad():
            images = decoder(inputs) if name == "grid" else decoder(inputs, None)
        images = images - images.mean((2, 3), keepdim=True)
        power += torch.fft.fft2(images).abs().square().mean((0, 1)) / images.var()
    rows = [power.sum(0), power.sum(1)]  # along each axis
    for line in rows:
        for frequency in (8, 16, 24, 32):  # 64 pixels: strides of 8, 4 and 2 and their multiples
            beside = torch.cat([line[frequency - 3 : frequency - 1], line[frequency + 2 : frequency + 4]])
            assert line[frequency] < 1.5 * beside.mean(), (name, frequency)
