"""Regression from one image to another: its loss, its finish, its projection, and any size."""

from typing import Any

import pytest
import torch
from torch import Tensor

from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import Translates
from danqing.families.back_projection import average_of, projected
from danqing.families.base import Batch, Condition, Phase
from danqing.families.regression import EPSILON, Regression
from danqing.nets.restoration import RestorationNet, RestorationShape, enlarged_cubic
from danqing.randomness import generator

SMALL = {"family": "regression", "width": 16, "height": 16, "channels": 3, "features": 8, "blocks": 1}
KINDS: dict[str, dict[str, Any]] = {
    "upscale": {"source_channels": 3, "source_scale": 4, "source_is_average": True},
    "colorize": {"source_channels": 1, "downsamplings": 2, "source_is_average": True},
    "enhance": {"source_channels": 3, "downsamplings": 1},
}
GOLDEN = {
    "upscale": [0.0588, 0.0714, 0.0695, 0.0554],
    "colorize": [0.3053, 0.3717, 0.3058, 0.301],
    "enhance": [0.153, 0.1455, 0.1448, 0.1433],
}


def build(kind: str, **options: Any) -> Regression:
    torch.manual_seed(0)
    found = families.build(families.parse_config({**SMALL, **KINDS[kind], **options}))
    assert isinstance(found, Regression)
    return found


def discs(kind: str, count: int, seed: int = 0) -> Batch:
    """Coloured discs on a coloured ground, and their source images."""
    rng = generator(seed, "discs")
    place = torch.rand(count, 2, 1, 1, generator=rng) * 10 + 3
    colours = torch.rand(2, count, 3, 1, 1, generator=rng) * 2 - 1
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    inside = ((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2 < 12)[:, None]
    images = torch.where(inside, colours[0], colours[1])
    settings = KINDS[kind]
    source = average_of(images, settings["source_channels"], settings.get("source_scale", 1))
    if kind == "enhance":
        source = (images + 0.2 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)
    return Batch(images, Condition(image=source))


def train(model: Regression, kind: str, steps: int) -> list[float]:
    """Train as the engine does; the loss of the network at each step."""
    optimizers = {
        phase.name: torch.optim.AdamW(
            [p for name in phase.modules for p in model.get_submodule(name).parameters()], lr=3e-3
        )
        for phase in model.phases()
    }
    found = []
    for step in range(steps):
        model.on_share(step / steps)
        for phase in model.phases():
            losses = model.loss(discs(kind, 8, step), phase, generator(0, "loss", step))
            optimizers[phase.name].zero_grad()
            losses.total.backward()
            optimizers[phase.name].step()
            if phase.name == "regression":
                found.append(losses.total.item())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_golden_losses(kind: str) -> None:
    assert train(build(kind), kind, 20)[::5] == pytest.approx(GOLDEN[kind], abs=2e-3)


def test_it_learns_to_remove_noise() -> None:
    model, held_out = build("enhance", features=16, adversarial=0.0), discs("enhance", 32, seed=1000)
    assert held_out.condition.image is not None
    train(model, "enhance", 80)
    made = model.translate(held_out.condition.image, Condition(), seeds=[0] * 32)
    before = (held_out.condition.image - held_out.images).abs().mean()
    assert (made - held_out.images).abs().mean() < 0.8 * before


def test_the_loss_of_an_untrained_network_is_that_of_the_enlarged_source() -> None:
    model, batch = build("enhance", adversarial=0.0), discs("enhance", 4)
    assert batch.condition.image is not None
    losses = model.loss(batch, model.phases()[0], generator(0, "loss"))
    difference = batch.condition.image - batch.images
    assert losses.total.item() == pytest.approx((difference**2 + EPSILON**2).sqrt().mean().item())
    assert len(model.phases()) == 1
    assert model.discriminator is None


def test_the_finish_begins_at_its_share_of_the_run_and_not_before() -> None:
    model, batch = build("upscale", adversarial_share=0.25), discs("upscale", 4)
    network, judge = model.phases()
    for share, has_begun in ((0.0, False), (0.7499, False), (0.75, True), (1.0, True)):
        model.on_share(share)
        assert ("adversarial" in model.loss(batch, network, generator(0, "loss")).logged) is has_begun
        judged = model.loss(batch, judge, generator(0, "loss"))
        assert (judged.total.item() != 0) is has_begun
        assert ("wins" in judged.logged) is has_begun


def test_the_weight_of_the_finish_rises_and_then_stays() -> None:
    model, batch = build("enhance", adversarial_adaptive=False, adversarial=0.5), discs("enhance", 2)
    weights = []
    for share in (0.75, 0.775, 0.8, 1.0):
        model.on_share(share)
        losses = model.loss(batch, model.phases()[0], generator(0, "loss"))
        weights.append(float(losses.logged["adversarial_weight"]))
    assert weights == pytest.approx([0, 0.25, 0.5, 0.5], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "height"), [(23, 17), (5, 4)])
def test_odd_sizes_and_all_channels_train_and_translate(kind: str, width: int, height: int) -> None:
    for channels in (1, 2, 3, 4):
        own = {"source_channels": channels, "source_is_average": False, "channels": channels}
        model = build(kind, width=width, height=height, **own).eval()
        images = torch.rand(2, channels, height, width, generator=generator(0, "images")) * 2 - 1
        source = average_of(images, channels, model.config.source_scale)
        assert source.shape[2:] == model.config.source_size[::-1]
        batch = Batch(images, Condition(image=source))
        model.on_share(1.0)
        for phase in model.phases():
            model.loss(batch, phase, generator(0, "loss")).total.backward()  # type: ignore[no-untyped-call]
        assert isinstance(model, Translates)
        made = model.translate(source, Condition(), seeds=[0, 1])
        scale = model.config.source_scale
        assert made.shape == (2, channels, source.shape[2] * scale, source.shape[3] * scale)


def randomised(model: Regression) -> Regression:
    """The model with random weights everywhere, so that no layer does nothing."""
    rng = generator(0, "weights")
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["upscale", "colorize"])
def test_results_average_to_their_source(kind: str) -> None:
    model = randomised(build(kind))
    channels, scale = KINDS[kind]["source_channels"], KINDS[kind].get("source_scale", 1)
    source = torch.rand(2, channels, 9, 7, generator=generator(0, "source")) * 2 - 1
    source[0, :, :3], source[1, :, :3] = 1.0, -1.0  # black and white leave no room
    made = model.translate(source, Condition(), seeds=[0, 1])
    assert made.abs().max() <= 1
    assert (average_of(made, channels, scale) - source).abs().max() < 1e-5
    assert made.std() > 0.2
    again = projected(made, source, scale)
    torch.testing.assert_close(again, made, rtol=0, atol=1e-5)


def test_a_projection_moves_each_square_by_one_value() -> None:
    images = torch.rand(1, 3, 8, 8, generator=generator(0, "images")) * 0.2
    source = torch.rand(1, 3, 2, 2, generator=generator(0, "source")) * 0.2
    shift = (projected(images, source, 4) - images).unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    torch.testing.assert_close(shift, shift[..., :1].expand_as(shift), rtol=0, atol=1e-5)


def test_a_value_depends_on_no_pixel_beyond_the_reach() -> None:
    shape = RestorationShape(1, 1, 2, 4, 1, 1)
    torch.manual_seed(0)
    net = RestorationNet(shape).requires_grad_(False)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    image = torch.rand(1, 1, 64, 64)
    changed = image.clone()
    changed[0, 0, 32, 32] += 1
    rows, columns = (net(changed) - net(image))[0, 0].nonzero(as_tuple=True)
    reached = max(int((side - 65).abs().max()) // 2 for side in (rows, columns))
    assert 4 <= reached <= shape.reach


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_untrained_network_shows_no_grid(scale: int) -> None:
    net = RestorationNet(RestorationShape(3, 3, scale, 8, 2, 0)).requires_grad_(False)
    flat = torch.full((1, 3, 5, 6), 0.3)
    torch.testing.assert_close(net(flat), torch.full((1, 3, 5 * scale, 6 * scale), 0.3))
    ramp = torch.arange(12.0).expand(1, 1, 12, 12)
    steps = enlarged_cubic(ramp, scale)[0, 0, :, 4 * scale : -4 * scale].diff(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 1 / scale), rtol=0, atol=1e-5)


def test_what_it_cannot_do_is_one_sentence() -> None:
    model = build("enhance").eval()
    with pytest.raises(ConfigError, match="give it a source image"):
        model.sample(Condition(), seeds=[0])
    with pytest.raises(ConfigError, match="has no option num_steps"):
        model.translate(torch.zeros(1, 3, 16, 16), Condition(), seeds=[0], num_steps=3)


def test_an_image_does_not_depend_on_its_batch() -> None:
    model = randomised(build("colorize"))
    source = torch.rand(4, 1, 16, 16, generator=generator(0, "source")) * 2 - 1

    def made(images: Tensor) -> Tensor:
        return model.translate(images, Condition(), seeds=[0] * len(images))

    torch.testing.assert_close(made(source)[2], made(source[2:3])[0], rtol=0, atol=1e-5)


def test_only_the_network_and_the_judge_are_trained() -> None:
    phases: tuple[Phase, ...] = build("upscale").phases()
    assert [phase.modules for phase in phases] == [("network",), ("discriminator",)]
