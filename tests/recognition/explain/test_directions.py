"""Directions of a generator whose directions are known."""

import torch
from torch import Tensor

from danqing.recognition.explain.directions import Change, direction_of_score, walk


def draw(noise: Tensor) -> Tensor:
    """Component 2 moves all pixels by 3, component 0 one pixel by 1; the others move nothing."""
    images = torch.zeros(len(noise), 1, 4, 4)
    images += 3 * noise[:, 2, None, None, None]
    images[:, :, 0, 0] += noise[:, :1]
    return images


NOISE = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def test_the_strongest_directions_are_those_that_change_images_most() -> None:
    change = Change(5)
    for noise in NOISE:
        change.observe(draw, noise)
    found, shares = change.strongest(3)
    assert found[0, 2] > 0.99
    assert found[1, 0] > 0.99
    assert torch.allclose(found @ found.T, torch.eye(3), atol=1e-5)
    assert shares[0] > 0.98
    assert shares[2] < 1e-6


def test_a_score_that_is_linear_in_the_noise_has_its_direction() -> None:
    noise = torch.randn(500, 5, generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor([0.6, 0.0, -0.8, 0.0, 0.0])
    found, explained = direction_of_score(noise, 4 * noise @ wanted + 1)
    assert found @ wanted > 0.9999
    assert explained > 0.999
    other = torch.randn(500, generator=torch.Generator().manual_seed(2))
    assert direction_of_score(noise, other)[1] < 0.05


def test_a_walk_begins_at_the_image_itself() -> None:
    direction = torch.eye(5)[2]
    found = walk(draw, NOISE, direction, [-1.0, 0.0, 2.0])
    assert found.shape == (6, 3, 1, 4, 4)
    assert torch.equal(found[:, 1], draw(NOISE))
    assert torch.allclose(found[:, 2] - found[:, 1], torch.full((6, 1, 4, 4), 6.0), atol=1e-5)
