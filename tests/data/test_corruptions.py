import itertools

import pytest
import torch

from danqing.data.corruptions import KINDS, SEVERITIES, corrupt
from danqing.errors import ConfigError
from danqing.images import to_float, to_uint8


def pictures(channels: int, height: int = 24, width: int = 32) -> torch.Tensor:
    """Smooth pictures with an edge, with 256 levels."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, channels, 4, 4, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 1.2 - 0.6
    smooth[..., width // 2 :] += 0.3
    return to_float(to_uint8(smooth))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 4])
def test_each_severity_changes_images_more_and_keeps_transparency(kind: str, channels: int) -> None:
    images, seeds = pictures(channels), range(6)
    colours = 3 if channels == 4 else channels
    changes = []
    for severity in SEVERITIES:
        found = corrupt(images, kind, severity, seeds)
        assert found.shape == images.shape
        assert torch.equal(found[:, colours:], images[:, colours:])
        assert torch.equal(found, to_float(to_uint8(found)))
        changes.append(float((found - images).square().mean().sqrt()))
    assert changes[0] > 1e-3
    assert all(less < more for less, more in itertools.pairwise(changes)), changes


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupted_image_depends_on_its_own_seed_alone(kind: str) -> None:
    images = pictures(3)
    together = corrupt(images, kind, 3, [7, 8, 9, 10, 11, 12])
    alone = corrupt(images[2:3], kind, 3, [9])
    assert float((together[2:3] - alone).abs().max()) <= 2 / 255 + 1e-6


def test_unknown_kinds_and_severities_are_rejected() -> None:
    with pytest.raises(ConfigError, match="no corruption 'rain': choose from gaussian-noise"):
        corrupt(pictures(1), "rain", 1, range(6))
    with pytest.raises(ConfigError, match="A severity is 1, 2, 3, 4 or 5"):
        corrupt(pictures(1), "fog", 6, range(6))
