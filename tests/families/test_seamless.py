"""Textures that repeat: no seam between opposite edges, for every network and in every sampler."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from danqing.errors import ConfigError
from danqing.families import build, parse_config
from danqing.families.base import Batch, Condition
from danqing.families.seamless import Move, Tiling
from danqing.model.model import Model
from danqing.nets.wrapping import WrappedConvolutions
from danqing.options import Seamless
from tests.families.test_flow import NETS, make, train


def moved(x: torch.Tensor, down: int, across: int) -> torch.Tensor:
    return torch.roll(x, (down, across), (-2, -1))


def texture(n: int, seed: int, size: int = 16) -> torch.Tensor:
    """Crops of smooth noise that goes on beyond them: `[n, 1, size, size]` in [-1, 1]."""
    noise = torch.randn((n, 1, size + 12, size + 12), generator=torch.Generator().manual_seed(seed))
    kernel = torch.ones(1, 1, 4, 4) / 16
    for _ in range(3):
        noise = nn.functional.conv2d(noise, kernel)
    return (noise[..., :size, :size] * 3).clamp(-1, 1)


def steps(images: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean step from each row or column to the next, in units of the mean of all.

    The last one is from one edge to the opposite one.
    """
    values = np.moveaxis(images.astype(float), axis, 0)
    found: np.ndarray = np.abs(values - np.roll(values, -1, axis=0)).mean(axis=(1, 2, 3))
    return found / found[:-1].mean()


@pytest.mark.parametrize(("x", "y"), [(True, False), (False, True), (True, True)])
def test_wrapped_convolutions_move_with_the_image(x: bool, y: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 5, padding=2))
    images = torch.randn(3, 2, 12, 10)
    plain = net(images)
    with WrappedConvolutions(x=x, y=y):
        wrapped = net(images)
        for down, across in ((3, 0), (0, 4)):
            is_periodic = (not down or y) and (not across or x)
            same = torch.allclose(net(moved(images, down, across)), moved(wrapped, down, across), atol=1e-6)
            assert same == is_periodic
    assert torch.equal(net(images), plain)
    assert not torch.allclose(wrapped, plain)
    torch.testing.assert_close(wrapped[..., 3:-3, 3:-3], plain[..., 3:-3, 3:-3])


def test_an_image_is_moved_elsewhere_for_each_evaluation_and_back() -> None:
    z, seen = torch.arange(64.0).view(1, 1, 8, 8), list[torch.Tensor]()

    def network(points: torch.Tensor, move: Move) -> torch.Tensor:
        assert torch.equal(move(z), points)
        seen.append(points[0, 0])
        return 2 * points

    choices: tuple[Seamless, ...] = ("x", "y", "both")
    for seamless in choices:
        seen.clear()
        tiling = Tiling(seamless)
        for _ in range(20):
            assert torch.equal(tiling.predict(network, z), 2 * z)
        columns, rows = ({int(one[0, 0]) % 8 for one in seen}, {int(one[0, 0]) // 8 for one in seen})
        assert len(columns) == (1 if seamless == "y" else 8)
        assert len(rows) == (1 if seamless == "x" else 8)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("sampler", ["ab2", "stochastic"])
def test_seamless_images_follow_from_their_seed_and_differ_from_others(net: str, sampler: str) -> None:
    model = Model(make(net=net, labels=("a", "b"), mask_share=0.5))
    options = {"sampler": sampler, "num_steps": 4, "guidance_scale": 1.5, "seamless": "both"}
    together = model.sample(label=[0, 1] * 8, seeds=range(16), size=(12, 8), **options).array
    alone = model.sample(label=1, seeds=[7], size=(12, 8), **options).array
    assert np.array_equal(alone[0], together[7])
    plain = model.sample(label=1, seeds=[7], size=(12, 8), **options | {"seamless": "none"}).array
    assert not np.array_equal(alone, plain)


@pytest.fixture(scope="module")
def trained() -> Model:
    """A model of a texture whose crops have edges that do not fit together."""
    family = make(net="hybrid", width=16, height=16, widths=(8, 16), layers=1, heads=2)
    train(family, [Batch(texture(16, seed)) for seed in range(120)], learning_rate=1e-2)
    return Model(family)


@pytest.mark.parametrize(("seamless", "axes"), [("x", {2}), ("y", {1}), ("both", {1, 2})])
def test_opposite_edges_of_a_texture_fit_together_along_the_requested_axes_alone(
    trained: Model, seamless: str, axes: set[int]
) -> None:
    for size in ((16, 16), (24, 16)):
        images = trained.sample(32, size=size, num_steps=8, seamless=seamless).array
        control = trained.sample(32, size=size, num_steps=8).array
        for axis in (1, 2):
            assert steps(control, axis)[-1] > 2.5
            if axis in axes:  # no seam at the edges, nor one that was moved elsewhere
                assert steps(images, axis).max() < 1.7
            else:
                assert steps(images, axis)[-1] > 2.5


OF_ONE_EVALUATION: list[tuple[str, dict[str, Any]]] = [
    ("generator.first", {"family": "gan", "net": "dcgan"}),
    ("generator.first", {"family": "gan", "net": "resnet"}),
    ("generator.first", {"family": "gan", "net": "modern", "blocks": 2}),
    ("decoder.first", {"family": "vae", "net": "conv"}),
    ("decoder.first", {"family": "vae", "net": "resnet"}),
    ("decoder.first", {"family": "vae", "net": "grid", "prior": "normal", "downsamplings": 2}),
]


@pytest.mark.parametrize(
    ("first", "settings"), OF_ONE_EVALUATION, ids=lambda v: v.get("net") if isinstance(v, dict) else ""
)
def test_an_image_of_one_evaluation_moves_with_the_first_map_of_its_network(
    first: str, settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    family = build(parse_config({"width": 16, "height": 32, "channels": 2, "latents": 3, **settings})).eval()
    for name, parameter in family.named_parameters():
        if not parameter.any() and "prior" not in name:  # blocks and outputs that start at zero
            torch.nn.init.normal_(parameter, std=0.1)
    size = 4  # pixels for each place of the first map, which is 8x4

    def sample(seamless: str, down: int = 0, across: int = 0) -> torch.Tensor:
        """Sample with the first map moved by some places."""
        hook = family.get_submodule(first).register_forward_hook(
            lambda _module, _inputs, output: moved(output, down, across)
        )
        with hook, torch.no_grad():
            return family.sample(Condition(), seeds=[1, 2], seamless=seamless)

    for seamless in ("none", "x", "y", "both"):
        images = sample(seamless)
        for down, across in ((1, 0), (0, 3)):
            expected = moved(images, down * size, across * size)
            is_periodic = (not down or seamless in ("y", "both")) and (
                not across or seamless in ("x", "both")
            )
            assert torch.allclose(sample(seamless, down, across), expected, atol=1e-5) == is_periodic


@pytest.mark.parametrize(("seamless", "axes"), [("x", {2}), ("y", {1}), ("both", {1, 2})])
def test_opposite_edges_fit_together_in_the_images_of_a_trained_decoder(
    decoder: Model, seamless: str, axes: set[int]
) -> None:
    images, control = decoder.sample(64, seamless=seamless).array, decoder.sample(64).array
    for axis in (1, 2):
        assert steps(control, axis)[-1] > 2.5
        if axis in axes:
            assert steps(images, axis)[-1] < 1.8
        else:
            assert steps(images, axis)[-1] > 2.5


@pytest.fixture(scope="module")
def decoder() -> Model:
    """A VAE of the same texture."""
    torch.manual_seed(0)
    settings = {
        "family": "vae",
        "net": "conv",
        "features": 16,
        "latents": 16,
        "prior": "normal",
        "scale": 0.2,
    }
    family = build(parse_config({"width": 16, "height": 16, "channels": 1, **settings}))
    optimizer = torch.optim.Adam(family.parameters(), 5e-3)
    for number in range(200):
        optimizer.zero_grad()
        family.loss(
            Batch(texture(16, number)), family.phases()[0], torch.Generator().manual_seed(number)
        ).total.backward()
        optimizer.step()
    return Model(family)


def test_what_cannot_be_seamless_is_one_sentence() -> None:
    model = Model(make(net="dit", width=7))
    with pytest.raises(ConfigError, match="sides in multiples of 2, and these have 7x8"):
        model.sample(seamless="x")
    with pytest.raises(ConfigError, match="seamless must be one of none, x, y, both"):
        model.sample(seamless="diagonal")
    with pytest.raises(ConfigError, match="choose another sampler, such as ab2"):
        Model(make()).sample(seamless="x", sampler="adaptive")
    others: list[tuple[dict[str, Any], str]] = [
        (
            {"family": "gan", "net": "mlp"},
            "net=mlp has other layers: train a model with net=dcgan, resnet or",
        ),
        ({"family": "vae", "net": "hybrid"}, "net=hybrid has other layers: train a model with net=conv or"),
        ({"family": "gan", "width": 9}, "sides in multiples of 2, and these have 9x8"),
        ({"family": "vqvae"}, "A VQ-VAE cannot sample seamless images: use a .*GAN, a VAE"),
    ]
    for settings, sentence in others:
        other = Model(build(parse_config({"width": 8, "height": 8, **settings})))
        with pytest.raises(ConfigError, match=sentence):
            other.sample(seamless="x")


def test_seamless_images_go_on_from_what_is_given() -> None:
    model = Model(make(net="dit", mask_share=0.5))
    images, mask = model.sample(2, seed=3), np.zeros((8, 8), bool)
    mask[:, 5:] = True
    filled = model.fill(images, mask, num_steps=3, seamless="x")
    assert np.array_equal(filled.array[:, :, :5], images.array[:, :, :5])
    with torch.no_grad():
        assert model.family.sample(Condition(), seeds=[1], num_steps=2, seamless="y").shape == (1, 1, 8, 8)
