"""The training step: accumulation, resuming in memory, golden losses, what is frozen and when."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from danqing import machine
from danqing.data import Batches, open_dataset
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine, initialise
from danqing.training.requirements import estimate_requirements

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return open_dataset(folder, cache_dir=tmp_path_factory.mktemp("cache"))


def engine_of(dataset, preset, **settings):
    values = {"batch_size": 8, "precision": "float32", **settings}
    config = resolve(preset=preset, settings=values, size=dataset.size).for_data(dataset)
    micro_batch = config.batch_size // config.training.accumulate
    return Engine(config, Batches(dataset, micro_batch, config.seed), CPU, "float32")


SMALL_VAE = {"net": "mlp", "features": 4, "latents": 4, "prior": "normal"}
SMALL_VQGAN = {"features": 4, "blocks": 1, "vocabulary": 16, "adversarial": 1.0, "discriminator_features": 4}
SMALL_TRANSFORMER = {"layers": 2, "features": 16, "heads": 2}
SMALL_MODERN = {"net": "modern", "generator_features": 4, "discriminator_features": 4, "scales": 2}
SMALL_GAN = {"net": "mlp", "generator_features": 4, "discriminator_features": 4}


def run(engine, steps, start=0):
    for step in range(start, start + steps):
        engine.step(step * engine.images_per_step, step, total=10_000)


@pytest.mark.parametrize(
    ("preset", "small"),
    [
        ("vae-32", SMALL_VAE | {"optimizer": "sgd", "momentum": 0.9, "accumulate": 2, "clip_norm": 1.0}),
        ("vae-32", SMALL_VAE | {"optimizer": "rmsprop", "momentum": 0.5, "prior": "flow"}),
        ("gan-32", SMALL_GAN),
        ("gan-32", SMALL_GAN | {"ema_lengths": (0.05, 0.1)}),
        ("transformer-16", SMALL_TRANSFORMER | {"optimizer": "muon", "weight_decay": 0.1}),
        ("vqvae-32", SMALL_VQGAN | {"depth": 2, "adversarial_start_images": 24, "accumulate": 2}),
        ("vqvae-32", SMALL_VQGAN | {"perceptual": 0.5, "normalised": True, "gradient": "rotation"}),
        ("gan-32", SMALL_GAN | {"spectral_norm": True, "discriminator_steps": 2, "optimizer": "adamw"}),
        ("faces-32", SMALL_GAN | {"net": "dcgan", "diffaugment": ["colour", "translation", "cutout"]}),
        ("gan-64", SMALL_MODERN),
        ("gan-32", SMALL_GAN | {"loss": "wasserstein", "gradient_penalty": 10, "r1": 0, "r2": 0}),
    ],
)
def test_state_put_into_a_fresh_engine_continues_bit_for_bit(dataset, preset, small):
    whole, first, second = (engine_of(dataset, preset, **small) for _ in range(3))
    run(whole, 7)
    run(first, 4)
    tensors = {name: value.clone() for name, value in first.tensors().items()}
    second.load_tensors(tensors, first.meter.counts)
    run(second, 3, start=4)
    assert all(torch.equal(value, second.tensors()[name]) for name, value in whole.tensors().items())
    assert whole.meter.drain() == second.meter.drain()


def test_accumulating_changes_only_the_order_of_sums(dataset):
    # The same gradient in halves: noise is drawn per part, so compare what has none, the average of images.
    whole, parts = (engine_of(dataset, "vae-32", **SMALL_VAE, accumulate=n) for n in (1, 2))
    assert len(whole.batches.at(0)) == 8
    joined = torch.cat([parts.batches.at(0).images, parts.batches.at(4).images])
    assert torch.equal(whole.batches.at(0).images, joined)
    run(whole, 3)
    run(parts, 3)
    first, second = (engine.meter.drain()["autoencoder/reconstruction"] for engine in (whole, parts))
    assert first == pytest.approx(second, rel=0.05)


def test_torch_s_global_generator_is_neither_read_nor_moved(dataset):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = engine_of(dataset, "gan-32", **SMALL_GAN)
    run(one, 2)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    other = engine_of(dataset, "gan-32", **SMALL_GAN)
    run(other, 2)
    assert all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())


def test_each_phase_trains_its_own_modules_alone(dataset):
    engine = engine_of(dataset, "gan-32", **SMALL_GAN, discriminator_steps=3)
    assert engine.images_per_step == 24
    seen = {}
    original = engine.learner.loss

    def loss(batch, phase, rng):
        trained = {
            name
            for name, child in engine.learner.named_children()
            if any(p.requires_grad for p in child.parameters())
        }
        seen.setdefault(phase.name, []).append(trained)
        return original(batch, phase, rng)

    engine.learner.loss = loss
    run(engine, 1)
    assert seen == {"discriminator": [{"discriminator"}] * 3, "generator": [{"generator"}]}


def test_betas_and_gamma_change_in_the_burn_in_alone(dataset):
    engine = engine_of(
        dataset, "gan-64", **SMALL_MODERN, betas=[0.0, 0.9], final_betas=[0.0, 0.99], burn_in=0.5
    )
    assert engine.learner.config.training_images == len(dataset)
    found = []
    for images in (0, 2500, 5000, 8000):
        engine.step(images, images // 8, total=10_000)
        groups = engine.optimizers["generator"].param_groups
        found.append((groups[0]["betas"][1], engine.meter.drain()["discriminator/gamma"]))
    seconds, gammas = zip(*found, strict=True)
    assert seconds == pytest.approx((0.9, 0.945, 0.99, 0.99))
    assert [gamma / gammas[0] for gamma in gammas] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_a_gan_that_grows_trains_the_levels_of_its_images_alone(dataset):
    engine = engine_of(dataset, "gan-64", **SMALL_MODERN, grow=[4, 8])
    before = {name: value.clone() for name, value in engine.learner.state_dict().items()}
    finest = {name for name in before if name.startswith(("generator.levels.1.", "generator.outputs.1."))}

    def moved():
        now = engine.learner.state_dict()
        return {name for name in before if not torch.equal(before[name], now[name])}

    for step in range(4):
        if step == 2:
            assert moved()
            assert not moved() & finest
            assert engine.learner.level == 1
        engine.step(8 * step, step, total=32, begins=(0,) if step < 2 else (0, 16))
    assert moved() & finest
    assert engine.learner.level == 0


def test_the_seed_alone_decides_the_weights(dataset):
    config = resolve(preset="vae-32", settings=SMALL_VAE).for_data(dataset)
    other = config.model_copy(update={"seed": 1})
    one, again, different = (
        parameters_to_vector(initialise(c).parameters()) for c in (config, config, other)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, different)


def test_the_estimate_counts_what_starts_later_than_the_run(dataset, monkeypatch):
    monkeypatch.setattr(machine, "resident_memory", lambda: 0)  # the interpreter's own comes and goes

    def memory(**budget):
        settings = SMALL_VQGAN | {"batch_size": 8, "measure_seconds": 0.001, "discriminator_features": 64}
        settings["adversarial_start_images"] = 1000
        config = resolve(preset="vqvae-32", settings=settings, **budget).for_data(dataset)
        return estimate_requirements(config, Batches(dataset, 8, 0), CPU, "float32").memory_bytes

    never, later = memory(images=500), memory(images=2000)
    assert later > never + 1_000_000  # the discriminator's own activations, while it judges
    assert memory(minutes=1.0) == pytest.approx(later, rel=0.1)


def test_the_estimate_counts_each_average_and_its_snapshots(dataset, monkeypatch):
    monkeypatch.setattr(machine, "resident_memory", lambda: 0)

    def needs(**settings):
        values = SMALL_VAE | {"batch_size": 8, "measure_seconds": 0.001, "features": 64, **settings}
        config = resolve(preset="vae-32", settings=values).for_data(dataset)
        return estimate_requirements(config, Batches(dataset, 8, 0), CPU, "float32")

    one, two = needs(), needs(ema_lengths=(0.05, 0.1))
    values = sum(two.parameters.values())
    assert two.memory_bytes - one.memory_bytes == pytest.approx(4 * values, rel=0.01)
    assert one.snapshot_bytes == 0
    assert two.snapshot_bytes == pytest.approx(32 * 2 * 2 * values, rel=0.01)


def test_the_estimate_grows_with_the_batch_and_refuses_what_cannot_fit(dataset, monkeypatch):
    from danqing.errors import TrainingError

    def memory(batch_size):
        config = resolve(
            preset="vae-32", settings={"batch_size": batch_size, "measure_seconds": 0.001, "net": "conv"}
        ).for_data(dataset)
        return estimate_requirements(config, Batches(dataset, batch_size, 0), CPU, "float32").memory_bytes

    monkeypatch.setattr(machine, "resident_memory", lambda: 0)
    one, two, four = (memory(n) for n in (64, 128, 256))
    assert (four - two) == pytest.approx(2 * (two - one), rel=0.1)
    monkeypatch.setattr(machine, "available_memory", lambda device: one // 2)
    with pytest.raises(TrainingError, match=r"training\.accumulate"):
        memory(64)
