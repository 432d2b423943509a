"""Tiles of a network of convolutions give what the whole image gives; noise and weights belong to places."""

import pytest
import torch
from torch import nn

from danqing.editing.tiles import NoiseField, blending_weights, run_in_tiles, tiles_of
from danqing.editing.windows import Window
from danqing.errors import ConfigError
from danqing.nets.grids import GridDecoder, GridEncoder, GridShape


def autoencoder(height: int, width: int) -> nn.Module:
    """A network of convolutions, strided by 4 and back; its receptive field reaches 42 pixels at most."""
    torch.manual_seed(0)
    shape = GridShape(height, width, channels=3, latents=4, features=8, blocks=1, downsamplings=2)
    return nn.Sequential(GridEncoder(shape), GridDecoder(shape)).eval()


@torch.no_grad()
def test_tiled_equals_untiled_for_a_network_of_convolutions() -> None:
    height, width = 128, 176
    network, images = autoencoder(height, width), torch.rand(1, 3, height, width) * 2 - 1
    whole = network(images)
    for tile, overlap in ((96, 72), (104, 84)):
        sizes = set()

        def tiled(part: torch.Tensor, seen: set[tuple[int, ...]] = sizes) -> torch.Tensor:
            seen.add(tuple(part.shape))
            result: torch.Tensor = network(part)
            return result

        found = run_in_tiles(tiled, images, tile=tile, overlap=overlap, multiple=4)
        assert len(sizes) == 1, "tiles have one shape"
        torch.testing.assert_close(found, whole, rtol=0, atol=2e-6)
    seams = run_in_tiles(network, images, tile=32, overlap=0, multiple=4)
    assert (seams - whole).abs().max() > 1e-3, "without overlap there are seams"


@torch.no_grad()
@pytest.mark.parametrize("scale", [1, 2])
def test_a_tile_is_as_exact_as_the_receptive_field_is_small(scale: int) -> None:
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1)]
    if scale == 2:
        layers.insert(0, nn.Upsample(scale_factor=2))
    network, images = nn.Sequential(*layers).double(), torch.rand(2, 3, 37, 41, dtype=torch.float64)
    whole = network(images)
    found = run_in_tiles(network, images, tile=16, overlap=6, scale=scale)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    covered = torch.zeros(37 * scale, 41 * scale)
    for place, result in tiles_of(network, images, tile=16, overlap=6, scale=scale):
        assert result.shape[2:] == (place.height, place.width)
        covered[place.slices] += 1
    assert (covered == 1).all()


def test_sides_that_are_no_multiple_are_padded_and_cut_again() -> None:
    def halved_and_back(images: torch.Tensor) -> torch.Tensor:
        assert images.shape[2] % 4 == images.shape[3] % 4 == 0
        return images

    images = torch.rand(1, 1, 13, 30)
    assert torch.equal(run_in_tiles(halved_and_back, images, tile=18, overlap=2, multiple=4), images)
    with pytest.raises(ConfigError, match="Tiles of 8 pixels cannot overlap by 8"):
        run_in_tiles(halved_and_back, images, tile=8, overlap=8)


def test_noise_belongs_to_places_and_not_to_windows() -> None:
    field = NoiseField(3, 2)
    whole = field.crop(0, 0, 200, 150)
    assert torch.equal(field.crop(60, 50, 70, 90), whole[:, 60:130, 50:140])
    assert torch.equal(NoiseField(3, 2).crop(199, 149, 1, 1), whole[:, 199:, 149:])
    assert not torch.equal(NoiseField(4, 2).crop(0, 0, 8, 8), whole[:, :8, :8])
    assert abs(float(whole.mean())) < 0.02
    assert float(whole.std()) == pytest.approx(1, abs=0.02)
    under = field.under(Window(40, 20, 16, 16), (2, 8, 8))  # two pixels for each place
    assert torch.equal(under, whole[:, 10:18, 20:28])


def test_weights_of_overlapping_windows_add_up_to_one_and_rise_from_their_ends() -> None:
    begins, side, length = [0, 5, 10, 11], 8, 19
    weights = blending_weights(begins, side, length)
    sums = torch.zeros(length)
    for begin, weight in zip(begins, weights, strict=True):
        sums[begin : begin + side] += weight
    torch.testing.assert_close(sums, torch.ones(length))
    assert (weights > 0).all()
    assert (weights[0, :5] == 1).all()
    assert weights[0, 5] > weights[0, 6] > weights[0, 7]
