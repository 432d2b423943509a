"""A flow network that grows: what a larger size begins with, and which weights each size trains."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from danqing.families import build, parse_config, paths
from danqing.families.base import Batch, Condition
from danqing.families.flow_growth import noise_scale
from danqing.families.flow_sampling import FlowSampler
from danqing.model.model import Model
from danqing.nets.layers import enlarged, shrunk

SIZES = {(16, 16): (4, 8, 16), (23, 17): (5, 9, 17), (16, 24): (4, 16)}


def make(size: tuple[int, int] = (16, 16), net: str = "hybrid", **settings: Any) -> Any:
    """Build a tiny network that grows, as fresh weights have it."""
    torch.manual_seed(0)
    values = {"family": "flow", "width": size[1], "height": size[0], "channels": 3, "net": net}
    values |= {"widths": (8, 12, 16), "layers": 1, "heads": 2, "grow": SIZES[size]}
    family = build(parse_config(values | settings))
    assert isinstance(family, FlowSampler)
    return family


def stir(family: Any, number: int) -> None:
    """Change all weights that learn up to a size, as training would."""
    rng = torch.Generator().manual_seed(1)
    for name, parameter in family.network.named_parameters():
        if family.starts_at(f"network.{name}") <= number:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)


def predict(family: Any, z: torch.Tensor, t: torch.Tensor, level: int) -> torch.Tensor:
    with torch.no_grad():
        absent = torch.zeros(len(z), dtype=torch.bool)
        given = family.given(Condition(), absent, z.shape[2:], level=level)
        return family.eval().predict(z, t, given, "float32")


@pytest.mark.parametrize("net", ["hybrid", "unet"])
@pytest.mark.parametrize("size", SIZES)
def test_a_larger_size_begins_as_the_enlarged_smaller_one(net: str, size: tuple[int, int]) -> None:
    family = make(size, net, prediction="velocity")
    t = torch.tensor([0.1, 0.5, 0.9, 0.99])
    levels = family.config.grow_levels
    for number, (small, large) in enumerate(itertools.pairwise(levels)):
        stir(family, number)
        images, noise = torch.rand(4, 3, *size) * 2 - 1, torch.randn(4, 3, *size)
        z = shrunk(paths.mix(t, images, noise), large)
        smaller, larger = (predict(family, shrunk(z, level - large), t, level) for level in (small, large))
        torch.testing.assert_close(shrunk(larger, small - large), smaller, rtol=1e-4, atol=1e-4)
        # The detail is the best linear guess from that of the noisy image, and nothing else.
        whole = (z.shape[-2], z.shape[-1])
        detail = larger - enlarged(smaller, small - large, whole)
        seen = z - enlarged(shrunk(z, small - large), small - large, whole)
        for row, time in enumerate(t.tolist()):
            signal, noisy = (time * paths.DETAIL_SCALE) ** 2, ((1 - time) * noise_scale(large)) ** 2
            expected = seen[row] * signal / (time * (signal + noisy))
            torch.testing.assert_close(detail[row], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("path", ["linear", "vp", "edm"])
@pytest.mark.parametrize("prediction", ["image", "residual", "velocity", "noise"])
def test_the_guess_of_detail_is_the_same_image_in_every_prediction(
    path: paths.PathName, prediction: paths.Prediction
) -> None:
    t = torch.linspace(0.06, 0.98, 40)
    z = torch.randn(40, 1, 2, 2)
    for variance in (1.0, 0.25, 0.0225):
        output = paths.wide(paths.detail_gain(path, prediction, t, variance)) * z
        image = paths.predicted_image(path, prediction, output, z, t)
        signal, noise = t**2 * paths.DETAIL_SCALE**2, (1 - t) ** 2 * variance
        torch.testing.assert_close(image, z * paths.wide(signal / (signal + noise) / t), rtol=1e-3, atol=1e-3)


SETTINGS = [{"labels": ("a", "b")}, {"mask_share": 0.5}, {"pairs": True}, {"transport": "semidiscrete"}]


@pytest.mark.parametrize("net", ["hybrid", "unet"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_each_size_trains_the_weights_that_have_begun_and_no_others(
    net: str, size: tuple[int, int], settings: dict[str, Any]
) -> None:
    family = make(size, net, **settings)
    for number, level in enumerate(family.config.grow_levels):
        stir(family, number)
        family.zero_grad(set_to_none=True)
        images = shrunk(torch.rand(4, 3, *size) * 2 - 1, level)
        noise = shrunk(torch.randn(4, 3, *size), level)
        condition = Condition(
            label=torch.tensor([0, 1, 0, 1]) if "labels" in settings else None,
            image=-images if "pairs" in settings else None,
        )
        rng = torch.Generator().manual_seed(3)
        family.loss(Batch(images, condition, noise=noise), family.phases()[0], rng).total.backward()
        trained = {name for name, parameter in family.named_parameters() if parameter.grad is not None}
        begun = {name for name, _ in family.named_parameters() if family.starts_at(name) <= number}
        assert trained == begun
    assert trained == {name for name, _ in family.named_parameters()}


def test_small_images_are_points_of_the_same_flow() -> None:
    """What a size learns from is what the average of a whole image gives at the same time."""
    family, points = make(times="uniform"), {}
    whole = torch.rand(2048, 3, 16, 16) * 2 - 1

    def recorded(z: torch.Tensor, t: torch.Tensor, given: Any, **_: Any) -> torch.Tensor:
        points[given.level] = z.clone(), t
        return torch.zeros_like(z)

    family.output = recorded
    for level in family.config.grow_levels:
        family.loss(Batch(shrunk(whole, level)), family.phases()[0], torch.Generator().manual_seed(5))
    for level, (z, t) in points.items():
        deviation = ((z - paths.wide(t) * shrunk(whole, level)) / paths.wide(1 - t)).std()
        assert float(deviation) == pytest.approx(0.5**level, rel=0.02)


@pytest.mark.parametrize("settings", [{"labels": ("a", "b")}, {"mask_share": 0.5}])
def test_a_network_that_has_not_grown_yet_samples_enlarged_small_images(settings: dict[str, Any]) -> None:
    family = make(**settings)
    stir(family, 0)
    model = Model(family)
    condition = {"label": [0, 1] * 8} if "labels" in settings else {}
    options = {"num_steps": 3, "sampler": "stochastic"}
    for level in family.config.grow_levels:
        family.level.fill_(level)
        images = model.sample(seeds=range(16), **condition, **options).array
        assert images.shape == (16, 16, 16, 3)
        small = images[:, :: 2**level, :: 2**level]
        assert np.array_equal(images, small.repeat(2**level, 1).repeat(2**level, 2))
        alone = model.sample(seeds=[7], **{name: value[7:8] for name, value in condition.items()}, **options)
        assert np.array_equal(alone.array[0], images[7])


def test_previews_have_the_whole_size_and_sources_are_made_small() -> None:
    family, shapes = make(pairs=True), []
    stir(family, 0)
    source = torch.rand(2, 3, 16, 16) * 2 - 1

    def on_step(done: int, steps: int, preview: Any) -> None:
        shapes.append(preview().shape)

    with torch.no_grad():
        made = family.eval().translate(source, Condition(), seeds=[1, 2], num_steps=2, on_step=on_step)
    assert {made.shape, *shapes} == {(2, 3, 16, 16)}


def test_growing_leaves_a_network_that_does_not_grow_as_it_was() -> None:
    names = set(make().network.state_dict())
    plain = make(grow=())
    assert not hasattr(plain, "level")
    assert {name for name in plain.network.state_dict() if "small" in name} == set()
    assert set(plain.network.state_dict()) < names
