"""The training step: accumulation, resuming in memory, golden losses, what is frozen and when."""

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from danqing.data import Batches
from danqing.errors import TrainingError
from danqing.nets.recomputing import recompute_blocks
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine, initialise

CPU = torch.device("cpu")


def engine_of(dataset, preset, **settings):
    values = {"batch_size": 8, "precision": "float32", **settings}
    config = resolve(preset=preset, settings=values, size=dataset.size).for_data(dataset)
    return Engine(config, Batches(dataset, config.batch_size, config.seed), CPU, config.training.precision)


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
        ("vae-32", SMALL_VAE | {"optimizer": "sgd", "momentum": 0.9, "micro_batch": 4, "clip_norm": 1.0}),
        ("vae-32", SMALL_VAE | {"optimizer": "rmsprop", "momentum": 0.5, "prior": "flow"}),
        ("gan-32", SMALL_GAN),
        ("gan-32", SMALL_GAN | {"ema_lengths": (0.05, 0.1)}),
        ("transformer-16", SMALL_TRANSFORMER | {"optimizer": "muon", "weight_decay": 0.1}),
        ("vqvae-32", SMALL_VQGAN | {"depth": 2, "adversarial_start_images": 24, "micro_batch": 3}),
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


def test_parts_of_a_batch_give_the_gradients_of_the_whole(dataset):
    # Without dropout of the condition, this family draws nothing at random.
    settings = SMALL_TRANSFORMER | {"condition_dropout": 0.0, "optimizer": "sgd"}
    whole, *others = (
        engine_of(dataset, "transformer-16", **settings, micro_batch=size) for size in ("auto", 4, 3, 1)
    )
    run(whole, 3)
    for parts in others:
        run(parts, 3)
        torch.testing.assert_close(parts.learner.state_dict(), whole.learner.state_dict())
    losses = [engine.meter.drain()["transformer/loss"] for engine in (whole, *others)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-2)


def test_what_is_drawn_at_random_for_parts_is_drawn_alike(dataset):
    whole, parts = (engine_of(dataset, "vae-32", **SMALL_VAE, micro_batch=size) for size in (8, 4))
    run(whole, 3)
    run(parts, 3)
    first, second = (engine.meter.drain()["autoencoder/reconstruction"] for engine in (whole, parts))
    assert first == pytest.approx(second, rel=0.05)


SMALL_FLOW = {"widths": (8, 16), "layers": 2, "heads": 2}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("preset", "small"),
    [
        ("flow-32", SMALL_FLOW),
        ("flow-32", SMALL_FLOW | {"net": "unet", "layers": 1}),
        ("transformer-16", SMALL_TRANSFORMER),
        ("vqvae-32", SMALL_VQGAN | {"depth": 2, "adversarial_start_images": 8}),
        ("vae-64", {"features": 4, "latents": 4, "blocks": 1, "prior": "normal"}),
    ],
)
def test_computing_activations_again_changes_no_bit(dataset, preset, small, precision):
    keeping, computing = (engine_of(dataset, preset, **small, precision=precision) for _ in range(2))
    assert recompute_blocks(computing.learner, True)
    run(keeping, 3)
    run(computing, 3)
    assert all(torch.equal(value, computing.tensors()[name]) for name, value in keeping.tensors().items())


def test_memory_that_runs_out_halves_the_parts_and_the_step_starts_again(dataset):
    whole, short = (engine_of(dataset, "transformer-16", **SMALL_TRANSFORMER) for _ in range(2))
    short.micro_batch = 8
    original, sizes = short.learner.loss, []

    def loss(batch, phase, rng):
        sizes.append(len(batch))
        if len(batch) > 2 or len(sizes) == 5:  # once more in the middle of a step
            torch.empty(2**60)  # the allocator's own error
        return original(batch, phase, rng)

    short.learner.loss = loss
    run(short, 2)
    assert sizes == [8, 4, 2, 2, 2] + [1] * 16
    alike = engine_of(dataset, "transformer-16", **SMALL_TRANSFORMER, micro_batch=1)
    run(alike, 2)
    assert all(torch.equal(value, short.tensors()[name]) for name, value in alike.tensors().items())
    short.learner.loss = lambda batch, phase, rng: torch.empty(2**60)
    with pytest.raises(TrainingError, match=r"Memory is too small for 1 images at once.*checkpointing=on"):
        run(short, 1)
    run(whole, 1)
    whole.learner.loss = lambda batch, phase, rng: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        run(whole, 1)


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
