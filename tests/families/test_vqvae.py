"""The tokenizer's contract, its golden losses, and the discriminator that must not break what was learnt."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import danqing as dq
from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import Encodes, HasLikelihood, Perceives, Tokenizes
from danqing.families.base import Batch, Condition, Phase
from danqing.families.vqvae import VQVAE
from danqing.images import Images, to_uint8
from danqing.model.model import Model
from danqing.randomness import generator

SMALL = {"family": "vqvae", "width": 16, "height": 16, "channels": 3, "features": 16, "blocks": 1}
KINDS: dict[str, dict[str, Any]] = {
    "codebook": {"vocabulary": 64, "code_width": 8},
    "rotation": {"vocabulary": 64, "code_width": 8, "normalised": True, "gradient": "rotation"},
    "residual": {"vocabulary": 16, "code_width": 8, "depth": 3},
    "fsq": {"quantizer": "fsq", "levels": (5, 5, 4)},
    "binary": {"quantizer": "binary", "vocabulary": 64},
}
VQGAN = {**KINDS["codebook"], "adversarial": 0.8, "discriminator_features": 8, "perceptual": 0.5}
GOLDEN = {
    "codebook": [1.0335, 0.9561, 0.8861, 0.7701],
    "rotation": [1.0947, 0.7999, 0.7187, 0.5584],
    "residual": [1.0726, 0.8247, 0.6907, 0.5231],
    "fsq": [1.0063, 0.8259, 0.7379, 0.6476],
    "binary": [1.331, 0.9585, 0.7451, 0.7141],
}


def build(**options: Any) -> VQVAE:
    torch.manual_seed(0)
    family = families.build(families.parse_config({**SMALL, **options}))
    assert isinstance(family, VQVAE)
    return family


def discs(count: int, seed: int = 0, size: int = 16) -> Batch:
    """Coloured discs on a coloured ground, in [-1, 1]."""
    rng = generator(seed, "discs")
    place = torch.rand(count, 2, 1, 1, generator=rng) * 10 + 3
    radius = torch.rand(count, 1, 1, generator=rng) * 3 + 2
    colours = torch.rand(2, count, 3, 1, 1, generator=rng) * 2 - 1
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2 < radius**2)[:, None]
    return Batch(torch.where(inside, colours[0], colours[1]))


def train(vqvae: VQVAE, steps: int, begin: int = 0, count: int = 32) -> list[dict[str, float]]:
    """Train as the engine does, every phase in its turn; what was logged of the first phase, by step."""
    optimizers = {}
    for phase in vqvae.phases():
        parameters = [p for name in phase.modules for p in vqvae.get_submodule(name).parameters()]
        optimizers[phase.name] = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.99))
    logged = []
    for step in range(begin, begin + steps):
        vqvae.on_progress(step * count)
        for phase in vqvae.phases():
            losses = step_of(vqvae, phase, discs(count, step), step)
            optimizers[phase.name].zero_grad()
            losses.total.backward()
            optimizers[phase.name].step()
            if phase.name == "autoencoder":
                logged.append(
                    {"total": losses.total.item()} | {k: v.item() for k, v in losses.logged.items()}
                )
    return logged


def step_of(vqvae: VQVAE, phase: Phase, batch: Batch, step: int) -> Any:
    for name, child in vqvae.named_children():
        child.requires_grad_(name in phase.modules)
    return vqvae.loss(batch, phase, generator(0, phase.name, step))


def pyramid(images: Tensor) -> list[Tensor]:
    """Stands in for a network's feature maps."""
    halved = torch.nn.functional.avg_pool2d(images, 2)
    return [torch.cat([images, images.square()], 1), torch.cat([halved, halved.abs()], 1)]


def error(vqvae: VQVAE, batch: Batch) -> float:
    with torch.no_grad():
        return (vqvae.detokenize(vqvae.tokenize(batch.images)) - batch.images).square().mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_follow_the_golden_curve(kind: str) -> None:
    losses = [step["total"] for step in train(build(**KINDS[kind]), 16)]
    assert losses[::5] == pytest.approx(GOLDEN[kind], rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_its_codes_say_what_an_image_shows(kind: str) -> None:
    vqvae = build(**KINDS[kind])
    logged = train(vqvae, 120)
    assert logged[-1]["perplexity"] > 0.4 * vqvae.vocabulary
    vqvae.eval()
    test = discs(64, seed=10_000)
    assert error(vqvae, test) < 0.4 * test.images.var()
    codes = vqvae.tokenize(test.images)
    once, twice = vqvae.detokenize(codes), vqvae.detokenize(vqvae.encode(test.images, Condition()))
    assert torch.equal(once, twice)
    assert torch.equal(once, vqvae.decode(codes, Condition()))
    again = vqvae.tokenize(once)  # a reconstruction is written with nearly the same codes
    changed = (vqvae.detokenize(again) - once).square().mean()
    assert changed < (once - test.images).square().mean()


@given(
    height=st.integers(4, 21), width=st.integers(4, 21), channels=st.integers(1, 4), halved=st.integers(1, 3)
)
@settings(max_examples=25, deadline=None)
def test_any_size_comes_back_exactly(height: int, width: int, channels: int, halved: int) -> None:
    vqvae = build(
        height=height,
        width=width,
        channels=channels,
        downsamplings=halved,
        vocabulary=8,
        features=4,
        blocks=0,
    ).eval()
    images = torch.rand(2, channels, height, width, generator=generator(0, "images")) * 2 - 1
    codes = vqvae.tokenize(images)
    rows, columns, depth = vqvae.code_shape
    assert (rows, columns) == (math.ceil(height / 2**halved), math.ceil(width / 2**halved))
    assert codes.shape == (2, rows, columns, depth)
    painted = vqvae.detokenize(codes)
    assert painted.shape == images.shape
    assert painted.abs().max() <= 1


def test_it_is_a_first_stage_that_reads_no_labels() -> None:
    vqvae = build(vocabulary=8)
    assert isinstance(vqvae, Tokenizes)
    assert isinstance(vqvae, Encodes)
    assert not isinstance(vqvae, HasLikelihood)
    assert not vqvae.has_prior
    assert not vqvae.config.reads_labels
    assert vqvae.vocabulary == 8
    assert build(**KINDS["fsq"]).vocabulary == 100
    assert build(**KINDS["residual"]).code_shape == (4, 4, 3)


def test_an_image_depends_on_its_own_seed_alone() -> None:
    vqvae = build(vocabulary=8, depth=2).eval()
    together = vqvae.sample(Condition(), seeds=[5, 6, 7])
    assert torch.allclose(together[1:2], vqvae.sample(Condition(), seeds=[6]), atol=1e-6)
    assert not torch.equal(together[0], together[2])
    with pytest.raises(ConfigError, match="no sampling option"):
        vqvae.sample(Condition(), seeds=[1], temperature=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_comes_back_alone_and_within_a_transformer(kind: str, tmp_path: Path) -> None:
    images = Images(to_uint8(discs(3).images).numpy())
    alone = Model(build(**KINDS[kind]).eval())
    loaded = dq.load(alone.save(tmp_path / "alone", images))
    assert np.array_equal(loaded.reconstruct(images).array, alone.reconstruct(images).array)
    both = {"family": "transformer", "tokenizer": {**SMALL, **KINDS[kind]}, "layers": 1, "heads": 2}
    sides = {side: SMALL[side] for side in ("width", "height", "channels")}
    writer = Model(families.build(families.parse_config({**both, **sides, "features": 16})).eval())
    loaded = dq.load(writer.save(tmp_path / "both", images))
    assert np.array_equal(loaded.sample(2, seed=3).array, writer.sample(2, seed=3).array)


def test_samples_are_written_as_often_as_training_wrote_each_code(monkeypatch: pytest.MonkeyPatch) -> None:
    vqvae = build(vocabulary=4, width=64, height=64).eval()
    shares = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    vqvae.quantizer.frequencies.copy_(shares)
    drawn: list[Tensor] = []

    def lookup(codes: Tensor) -> Tensor:
        drawn.append(codes)
        return codes.new_zeros(2, 16, 16, 16).float()

    monkeypatch.setattr(vqvae.quantizer, "lookup", lookup)
    vqvae.sample(Condition(), seeds=[1, 2])
    counts = torch.bincount(drawn[0].flatten(), minlength=4) / drawn[0].numel()
    assert torch.allclose(counts, shares[0], atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 2, "normalised": True}, "depth above 1"),
        ({"depth": 2, "quantizer": "fsq"}, "depth above 1"),
        ({"quantizer": "binary", "vocabulary": 100}, "power of two"),
        ({"quantizer": "fsq", "levels": (8, 1)}, "from 2 on"),
        ({"quantizer": "fsq", "levels": (257,)}, "256 at most"),
        ({"quantizer": "fsq", "levels": (8,) * 10}, "product 262,144 at most"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_unused_codes_are_reported_once_training_has_settled() -> None:
    vqvae = build(vocabulary=100)
    assert vqvae.alarms({"autoencoder/codebook_use": 0.2}) == []
    vqvae.on_progress(50_000)
    (alarm,) = vqvae.alarms({"autoencoder/codebook_use": 0.2})
    assert "20% of the 100 codes" in alarm.text
    assert vqvae.alarms({"autoencoder/codebook_use": 0.95}) == []


def test_the_discriminator_waits_and_is_then_listened_to_little_by_little() -> None:
    vqvae = build(
        **KINDS["codebook"], adversarial=0.8, adversarial_start_images=1000, adversarial_warmup_images=400
    )
    weights = {}
    for images in (0, 999, 1000, 1100, 1400, 9000):
        vqvae.on_progress(images)
        weights[images] = vqvae.adversarial_weight
    assert weights == {0: 0, 999: 0, 1000: 0, 1100: pytest.approx(0.2), 1400: 0.8, 9000: 0.8}
    before = {name: value.clone() for name, value in vqvae.discriminator.state_dict().items()}
    train(vqvae, 5)
    assert all(torch.equal(value, before[name]) for name, value in vqvae.discriminator.state_dict().items())
    train(vqvae, 5, begin=40)
    assert not torch.equal(vqvae.discriminator.last.weight, before["last.weight"])
    vqvae.drop_training_only()
    assert vqvae.discriminator is None
    assert vqvae.detokenize(vqvae.tokenize(discs(2).images)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("loss", ["hinge", "non_saturating", "relativistic"])
def test_the_adaptive_weight_makes_both_gradients_as_long(loss: str) -> None:
    vqvae = build(**VQGAN, adversarial_loss=loss, adversarial_start_images=0, adversarial_warmup_images=0)
    vqvae.perceive(pyramid)
    vqvae.on_progress(1)
    batch, (phase, _) = discs(16), vqvae.phases()
    weight = vqvae.decoder.last.weight

    def gradient(**changed: Any) -> Tensor:
        vqvae.config = vqvae.config.model_copy(update=changed)
        (found,) = torch.autograd.grad(step_of(vqvae.eval(), phase, batch, 0).total, weight)
        return found

    whole, likeness = gradient(adversarial=0.8), gradient(adversarial=0.0)
    assert (whole - likeness).norm().item() == pytest.approx(0.8 * likeness.norm().item(), rel=1e-3)
    plain = gradient(adversarial=0.8, adversarial_adaptive=False) - likeness
    direction = torch.nn.functional.cosine_similarity(plain.flatten(), (whole - likeness).flatten(), dim=0)
    assert direction.item() == pytest.approx(1, abs=1e-3)


def test_the_reconstruction_does_not_collapse_when_the_discriminator_starts() -> None:
    start, steps = 80, 160
    vqvae = build(**VQGAN, adversarial_start_images=32 * start, adversarial_warmup_images=32 * 40)
    assert isinstance(vqvae, Perceives)
    assert vqvae.perceptual_network == "efficientnet-lite0"
    vqvae.perceive(pyramid)
    logged = train(vqvae, start)
    test = discs(64, seed=10_000)
    before = error(vqvae.eval(), test)
    assert before < 0.35 * test.images.var()
    logged += train(vqvae.train(), steps, begin=start)
    errors = [step["squared_error"] for step in logged]
    usual = sum(errors[start - 20 : start]) / 20
    assert max(errors[start:]) < 2 * usual  # at no step since
    assert error(vqvae.eval(), test) < before
    assert logged[-1]["perplexity"] > 0.5 * logged[start - 1]["perplexity"]
    verdicts = [step["adversarial"] for step in logged if "adversarial" in step]
    assert len(verdicts) == steps - 1  # the first has no weight yet


def test_r1_smooths_the_discriminator() -> None:
    vqvae = build(**KINDS["codebook"], adversarial=1.0, r1=10.0, adversarial_start_images=0)
    _, phase = vqvae.phases()
    losses = step_of(vqvae, phase, discs(8), 0)
    assert losses.total.item() == pytest.approx(
        losses.logged["verdict"].item() + 10 * losses.logged["r1"].item(), rel=1e-5
    )
    losses.total.backward()
    assert vqvae.discriminator.last.weight.grad is not None
