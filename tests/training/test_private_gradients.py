"""The noisy gradients of a private run: how far one image moves them, and what the noise is."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from danqing.data import Batches
from danqing.data.order import PoissonOrder
from danqing.errors import ConfigError
from danqing.randomness import keyed_normal, keyed_uniform
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine
from danqing.training.private_gradients import Noise, add_clipped, seed_of
from tests.training.test_engine import SMALL_GAN, SMALL_TRANSFORMER, SMALL_VAE

CPU, KEY = torch.device("cpu"), bytes(range(32))
CERTAIN = SMALL_TRANSFORMER | {"condition_dropout": 0.0}
"""A network whose loss draws nothing at random."""
HINGE = {"loss": "hinge", "r1": 0, "r2": 0, "reconstruction": 0}


def engine_of(dataset, preset, multiplier=0.0, **settings):
    values = {"batch_size": 8, "precision": "float32", "private.epsilon": 8, **settings}
    config = resolve(preset=preset, settings=values, size=dataset.size).for_data(dataset)
    batches = Batches(dataset, 8, seed_of(KEY), order=PoissonOrder(len(dataset), 8, KEY))
    engine = Engine(config, batches, CPU, "float32")
    engine.private.noise = Noise(multiplier, KEY)
    return engine


def gradient(engine, batch, step=0):
    """The gradient that the first phase sets, times the batch size: a sum over images."""
    phase = engine.phases[0]
    engine.compute_gradients(phase, [batch], step, 0)
    return 8 * torch.cat([p.grad.flatten() for _, p in engine._parameters(phase)])


def test_the_sum_is_that_of_each_image_s_own_gradient_after_clipping(dataset):
    engine, clip = engine_of(dataset, "transformer-16", **CERTAIN, **{"private.clip": 0.53}), 0.53
    batch, phase = Batches(dataset, 8, 0).at(0), engine.phases[0]
    found, lengths = gradient(engine, batch), []
    wanted = torch.zeros_like(found)
    parameters = [p for _, p in engine._parameters(phase)]
    for number in range(8):  # by the ordinary backward pass of one image
        loss = engine.learner.loss(batch[number : number + 1], phase, torch.Generator()).total
        own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        lengths.append(float(own.norm()))
        wanted += own * min(1.0, clip / lengths[-1])
    assert min(lengths) < clip < max(lengths)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_one_image_moves_the_sum_by_no_more_than_the_clipping_length(dataset, micro_batch):
    engine = engine_of(dataset, "transformer-16", **CERTAIN, **{"private.clip": 0.05})
    engine.micro_batch = micro_batch
    batch = Batches(dataset, 8, 0).at(0)
    moved = gradient(engine, batch) - gradient(engine, batch[:7])
    assert float(moved.norm()) == pytest.approx(0.05, rel=1e-3)  # it was clipped


def test_an_image_whose_gradient_is_not_finite_moves_nothing():
    gradients = [torch.tensor([[3.0, 4.0], [math.inf, 0.0], [math.nan, 1.0], [0.03, 0.04]])]
    sums = [torch.zeros(2)]
    add_clipped(sums, gradients, clip=1.0)
    torch.testing.assert_close(sums[0], torch.tensor([0.63, 0.84]))


def test_the_noise_is_normal_and_of_the_promised_size(dataset):
    engine = engine_of(dataset, "vae-32", multiplier=1.3, **SMALL_VAE, **{"private.clip": 0.5})
    nobody = Batches(dataset, 8, 0).at(0)[:0]
    noise = gradient(engine, nobody).double().numpy() / (1.3 * 0.5)
    assert len(noise) > 10_000
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert noise.std() == pytest.approx(1, abs=0.03)
    other = gradient(engine, nobody, step=1).double().numpy() / (1.3 * 0.5)
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.05


def test_more_draws_of_an_image_make_its_gradient_less_noisy(dataset):
    batch = Batches(dataset, 8, 0).at(0)
    spread = []
    for draws in (1, 16):
        settings = {"private.clip": 1e6, "private.draws": draws, "net": "dit", "layers": 1, "heads": 2}
        engine = engine_of(dataset, "flow-32", **settings, widths=[16])
        found = torch.stack([gradient(engine, batch, step) for step in range(8)])
        spread.append(float(found.std(0).norm()))
    assert spread[1] < 0.5 * spread[0]


def test_the_generator_of_a_gan_sees_nothing_of_the_images(dataset):
    engine = engine_of(dataset, "gan-32", **SMALL_GAN, **HINGE)
    assert [phase.sees_data for phase in engine.phases] == [True, False]
    batch = Batches(dataset, 8, 0)
    first, second = (
        engine.private.batch_without_data(batch.at(seen)[:rows], 0) for seen, rows in [(0, 8), (8, 3)]
    )
    assert len(first) == 8
    torch.testing.assert_close(first.images, second.images)
    engine.step(0, 0, total=100)
    assert "generator/loss" in engine.meter.sums
    assert not any(name.startswith("discriminator/") and "noisy" not in name for name in engine.meter.sums)


def test_layers_that_mix_images_are_rejected_even_in_families_of_other_packages(dataset):
    with pytest.raises(ConfigError, match="Batch norm mixes the images of a batch"):
        engine_of(dataset, "gan-32", net="dcgan", loss="hinge", r1=0, r2=0)


def test_poisson_batches_are_independent_draws_that_a_key_repeats():
    order = PoissonOrder(1000, 100, KEY)
    drawn = [order.at(step * 100).indices for step in range(300)]
    sizes = np.array([len(indices) for indices in drawn])
    assert sizes.mean() == pytest.approx(100, abs=3)
    assert sizes.std() == pytest.approx(math.sqrt(90), rel=0.2)  # binomial
    counts = np.bincount(np.concatenate(drawn), minlength=1000)
    assert counts.std() == pytest.approx(math.sqrt(300 * 0.1 * 0.9), rel=0.15)
    assert np.array_equal(PoissonOrder(1000, 100, KEY).at(700).indices, drawn[7])
    assert not np.array_equal(PoissonOrder(1000, 100, bytes(32)).at(700).indices, drawn[7])


def test_a_batch_without_images_can_be_read_and_learned_from(dataset):
    order = PoissonOrder(len(dataset), 1, KEY)
    seen = next(seen for seen in range(100) if not len(order.at(seen).indices))
    empty = Batches(dataset, 1, 0, order=order).at(seen)
    assert empty.images.shape == (0, 3, 8, 8)
    engine = engine_of(dataset, "vae-32", multiplier=1.0, **SMALL_VAE)
    assert gradient(engine, empty).isfinite().all()


def test_keyed_numbers_are_uniform_and_normal_and_follow_from_key_purpose_and_position():
    uniforms, normals = (draw(KEY, "test", 1, 2, count=50_001) for draw in (keyed_uniform, keyed_normal))
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-3
    assert stats.kstest(normals, "norm").pvalue > 1e-3
    assert uniforms[:2] == pytest.approx(keyed_uniform(KEY, "test", 1, 2, count=2))
    for other in ((bytes(32), "test", 1, 2), (KEY, "tests", 1, 2), (KEY, "test", 1, 3)):
        assert abs(np.corrcoef(uniforms, keyed_uniform(*other, count=50_001))[0, 1]) < 0.02
