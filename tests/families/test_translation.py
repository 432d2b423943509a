"""Unpaired translation: its losses against formulas of their own, its contract, and that it learns."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families import build, parse_config
from danqing.families.base import Batch, Condition
from danqing.families.translation import (
    DISCRIMINATOR,
    GENERATOR,
    TranslationModel,
    patch_contrast,
)
from danqing.images import Images
from danqing.model.model import Model
from danqing.nets.translator import PatchHeads, Translator

SMALL = {"widths": (4, 8), "blocks": 2, "patches": 8, "vectors": 8}
SMALL |= {"discriminator_features": 4, "discriminator_layers": 1}
GOLDEN = {  # losses at steps 0, 6, 12 and 18
    DISCRIMINATOR: [0.704763, 0.702807, 0.698005, 0.696342],
    GENERATOR: [2.78837, 2.28908, 1.68102, 1.40237],
}


def make(seed: int = 0, **settings: Any) -> TranslationModel:
    torch.manual_seed(seed)
    values = {"family": "translation", "width": 8, "height": 8, "channels": 3, **SMALL}
    family = build(parse_config(values | settings))
    assert isinstance(family, TranslationModel)
    return family


def pictures(n: int, seed: int, channels: int = 3, size: tuple[int, int] = (8, 8)) -> Tensor:
    return torch.rand((n, channels, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def lively(family: TranslationModel) -> TranslationModel:
    """Give it an output that differs from its input, as that of fresh weights does not."""
    torch.manual_seed(5)
    for parameter in family.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return family


def train(family: TranslationModel, batches: list[Batch], learning_rate: float) -> list[dict[str, float]]:
    """A plain loop over both phases; what each step logged, by phase."""
    optimizers = {
        phase.name: torch.optim.Adam(
            [p for name in phase.modules for p in family.get_submodule(name).parameters()],
            learning_rate,
            betas=(0.0, 0.99),
        )
        for phase in family.phases()
    }
    logged = []
    for step, batch in enumerate(batches):
        losses = {}
        for phase in family.phases():
            for name, module in family.named_children():
                module.requires_grad_(name in phase.modules)
            found = family.loss(batch, phase, torch.Generator().manual_seed(step))
            optimizers[phase.name].zero_grad()
            found.total.backward()
            optimizers[phase.name].step()
            losses[phase.name] = float(found.total.detach())
        logged.append(losses)
    return logged


def test_contrast_is_the_cross_entropy_of_similarities() -> None:
    """Against the formula of InfoNCE in NumPy, with loops."""
    n, p, d, temperature = 3, 5, 4, 0.07
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(2, n, p, d))
    queries, keys = (v / np.linalg.norm(v, axis=2, keepdims=True) for v in (queries, keys))
    expected = np.zeros(n)
    for image in range(n):
        for place in range(p):
            positive = np.exp(queries[image, place] @ keys[image, place] / temperature)
            all_of_them = sum(
                np.exp(queries[image, place] @ keys[image, other] / temperature) for other in range(p)
            )
            expected[image] -= np.log(positive / all_of_them) / p
    found = patch_contrast(torch.from_numpy(queries), torch.from_numpy(keys), temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_losses_are_those_of_the_paper_on_the_model_s_own_features() -> None:
    """Relativistic verdicts, penalties and contrasts, each computed again from the networks' outputs."""
    family = lively(make(gamma=0.3, contrast=2.0, identity=0.5, patches=4096, penalty_fraction=1.0))
    source, real = pictures(4, 0), pictures(4, 1)
    batch = Batch(real, Condition(image=source))
    with torch.no_grad():
        fake = family.generator(source).clamp(-1, 1)
        logits = [family.discriminator(images).numpy().astype(np.float64) for images in (real, fake)]
    difference = logits[0] - logits[1]
    gradients = []
    for images in (real, fake):
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(family.discriminator(x).sum(), x)
        gradients.append(float(gradient.square().sum() / 2 / len(x) / logits[0][0].size))
    expected = np.log1p(np.exp(-difference)).mean() + 0.3 * sum(gradients)
    found = family.loss(batch, family.phases()[0], torch.Generator())
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-5)

    def contrast(images: Tensor) -> float:
        with torch.no_grad():
            inputs = family.generator.maps(images)
            outputs = family.generator.maps(family.generator(images).clamp(-1, 1))
            places = [torch.arange(one.shape[2] * one.shape[3]) for one in inputs]
            keys, queries = family.heads(inputs, places), family.heads(outputs, places)
        parts = [patch_contrast(q, k, 0.07).mean() for q, k in zip(queries, keys, strict=True)]
        return float(torch.stack(parts).mean())

    expected = np.log1p(np.exp(difference)).mean() + 2 * contrast(source) + 0.5 * contrast(real[:2])
    found = family.loss(batch, family.phases()[1], torch.Generator())
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert set(found.logged) == {"verdict", "contrast", "identity"}
    alone = make(identity=0.0).loss(batch, family.phases()[1], torch.Generator())
    assert set(alone.logged) == {"verdict", "contrast"}


def test_losses_follow_the_golden_curve() -> None:
    """Twenty steps on fixed images: another number means other behaviour, intended or not."""
    batches = [Batch(pictures(8, step), Condition(image=pictures(8, 100 + step))) for step in range(20)]
    logged = train(make(), batches, 3e-3)
    for name, values in GOLDEN.items():
        assert [step[name] for step in logged[::6]] == pytest.approx(values, rel=5e-3), name


@pytest.mark.parametrize("loss", ["relativistic", "hinge", "least_squares", "non_saturating"])
def test_each_phase_trains_its_own_networks_and_nothing_is_left_out(loss: str) -> None:
    family = lively(make(adversarial_loss=loss))
    batch = Batch(pictures(4, 0), Condition(image=pictures(4, 1)))
    for phase in family.phases():
        family.zero_grad()
        for name, module in family.named_children():
            module.requires_grad_(name in phase.modules)
        family.loss(batch, phase, torch.Generator()).total.backward()
        learning = {name.partition(".")[0] for name, p in family.named_parameters() if p.grad is not None}
        assert learning == set(phase.modules)
        missing = [
            name
            for child in phase.modules
            for name, p in family.get_submodule(child).named_parameters()
            if p.grad is None
        ]
        assert not missing, "these learn nothing"


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (2, (17, 23)), (4, (12, 8)), (3, (5, 4))])
def test_any_size_and_channels_train_and_translate(channels: int, size: tuple[int, int]) -> None:
    family = make(channels=channels, height=size[0], width=size[1])
    images = pictures(3, 0, channels, size)
    batch = Batch(images, Condition(image=pictures(3, 1, channels, size)))
    for phase in family.phases():
        family.loss(batch, phase, torch.Generator()).total.backward()
    other = pictures(2, 2, channels, (19, 6))
    with torch.no_grad():
        assert family.translate(images, Condition(), seeds=[1, 2, 3]).shape == images.shape
        assert family.translate(other, Condition(), seeds=[1, 2]).shape == other.shape


def test_training_begins_with_the_image_itself() -> None:
    family, images = make(), pictures(4, 0)
    with torch.no_grad():
        assert torch.equal(family.translate(images, Condition(), seeds=range(4)), images)


@pytest.mark.parametrize(("widths", "blocks"), [((8,), 1), ((4, 8), 2), ((4, 4, 4), 0), ((4, 6, 8), 3)])
def test_a_pixel_depends_on_none_beyond_the_receptive_radius(widths: tuple[int, ...], blocks: int) -> None:
    torch.manual_seed(0)
    network = Translator(1, widths, blocks).double()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    furthest, middle = 0, 96
    for place in range(middle, middle + network.stride):
        image = torch.randn((1, 1, 2 * middle, 2 * network.stride), dtype=torch.float64)
        image.requires_grad_()
        maps = network.maps(image)
        assert [one.shape[1] for one in maps] == list(network.map_widths)
        (gradient,) = torch.autograd.grad(network(image)[0, 0, place, 0], image)
        (seen,) = np.nonzero(gradient.abs().sum((0, 1, 3)).numpy())
        furthest = max(furthest, place - int(seen.min()), int(seen.max()) - place)
    assert 0.7 * network.receptive_radius < furthest <= network.receptive_radius


def test_an_image_does_not_depend_on_its_batch_nor_on_its_seed() -> None:
    model = Model(lively(make()))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    together = model.translate(Images(pixels), seed=1).array
    assert np.array_equal(model.translate(Images(pixels[7:8]), seed=2).array[0], together[7])
    assert np.abs(together.astype(int) - pixels).mean() > 1
    with pytest.raises(ConfigError, match="does not know the option 'num_steps'"):
        model.translate(Images(pixels), num_steps=3)
    with pytest.raises(ConfigError, match="give it a source image"):
        model.family.sample(Condition(), seeds=[1])


def test_it_learns_a_change_of_colour_and_keeps_where_things_are() -> None:
    """Dark images with a bright spot become red ones: the spot stays where it is."""
    rng = torch.Generator().manual_seed(0)

    def spots(n: int, *, red: bool) -> Tensor:
        images = torch.full((n, 3, 8, 8), -0.6)
        rows, columns = torch.randint(6, (2, n), generator=rng)
        for image, row, column in zip(images, rows, columns, strict=True):
            image[:, row : row + 3, column : column + 3] = 0.6
        if red:
            images[:, 0] = images[:, 0] / 2 + 0.5
            images[:, 1:] -= 0.3
        return images

    family = make(contrast=1.0, discriminator_features=8, gamma=0.05)
    batches = [Batch(spots(16, red=True), Condition(image=spots(16, red=False))) for _ in range(150)]
    train(family, batches, 3e-3)
    source = spots(32, red=False)
    true = source.clone()
    true[:, 0] = true[:, 0] / 2 + 0.5
    true[:, 1:] -= 0.3
    with torch.no_grad():
        made = family.eval().translate(source, Condition(), seeds=range(32))
    assert (made - true).abs().mean() < 0.4 * (source - true).abs().mean()


def test_the_heads_return_vectors_of_length_one() -> None:
    heads = PatchHeads((3, 5), 4)
    maps = [pictures(2, 0, 3), pictures(2, 1, 5, (4, 4))]
    vectors = heads(maps, [torch.tensor([0, 63]), torch.tensor([1, 2, 15])])
    assert [v.shape for v in vectors] == [(2, 2, 4), (2, 3, 4)]
    for v in vectors:
        torch.testing.assert_close(v.norm(dim=2), torch.ones(v.shape[:2]))


def test_a_discriminator_that_has_won_is_an_alarm() -> None:
    family = make()
    assert not family.alarms({f"{DISCRIMINATOR}/wins": 0.9})
    (alarm,) = family.alarms({f"{DISCRIMINATOR}/wins": 0.999})
    assert "raise gamma (it is 0.1)" in alarm.text
