"""The GAN family: its contract, its randomness, its alarms, and that it learns."""

from typing import Any

import pytest
import torch

from danqing import presets
from danqing.errors import ConfigError
from danqing.families import build, parse_config
from danqing.families.base import Batch, Condition
from danqing.families.gan import GAN


def make(seed: int = 0, **settings: Any) -> GAN:
    torch.manual_seed(seed)
    values = {"family": "gan", "width": 8, "height": 8, "channels": 1, "latents": 8}
    values |= {"generator_features": 8, "discriminator_features": 8} | settings
    family = build(parse_config(values))
    assert isinstance(family, GAN)
    return family


def train(family: GAN, batches: list[Batch], learning_rate: float = 2e-4) -> list[dict[str, float]]:
    """A plain loop over the family's phases; what each step logged."""
    optimizers = {}
    for phase in family.phases():
        parameters = [p for name in phase.modules for p in family.get_submodule(name).parameters()]
        rate = learning_rate * phase.learning_rate_scale
        optimizers[phase.name] = torch.optim.Adam(parameters, rate, betas=(0.5, 0.99))
    log = []
    for step, batch in enumerate(batches):
        logged = {}
        for phase in family.phases():
            for name, child in family.named_children():
                child.requires_grad_(name in phase.modules)
            for repeat in range(phase.repeats):
                optimizers[phase.name].zero_grad()
                rng = torch.Generator().manual_seed(1000 * step + repeat)
                losses = family.loss(batch, phase, rng)
                losses.total.backward()
                optimizers[phase.name].step()
                logged |= {f"{phase.name}/{name}": value.item() for name, value in losses.logged.items()}
        log.append(logged)
    return log


def pictures(n: int, seed: int, labels: int = 0, size: int = 8, channels: int = 1) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand((n, channels, size, size), generator=rng) * 2 - 1
    return Batch(images, Condition(torch.randint(labels, (n,), generator=rng) if labels else None))


@pytest.mark.parametrize("net", ["mlp", "dcgan", "resnet", "modern"])
@pytest.mark.parametrize("conditional", [True, False])
def test_an_image_depends_on_its_seed_and_label_alone(net: str, conditional: bool) -> None:
    family = make(net=net, labels=("a", "b", "c") if conditional else ())
    train(
        family, [pictures(8, seed, labels=3) for seed in range(2)]
    )  # running statistics away from their start
    family.eval()
    label = torch.tensor([2, 0, 1, 1, 0])
    with torch.no_grad():
        together = family.sample(Condition(label), seeds=[5, 6, 7, 8, 9])
        alone = family.sample(Condition(label[1:2]), seeds=[6])
        others = family.sample(Condition(torch.tensor([1, 0, 0, 2, 2])), seeds=[1, 6, 2, 3, 4])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(together[1], others[1])  # in a batch of the same size, bit for bit
    assert not torch.equal(together[0], together[1])


def test_a_search_finds_the_latents_of_an_image_from_what_is_known_of_it() -> None:
    family = make(channels=3, latents=6, labels=("a", "b")).eval().requires_grad_(False)
    for parameter in family.generator.parameters():  # fresh weights give images that hardly differ
        parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    condition, seeds = Condition(torch.tensor([0, 1, 1])), [1, 2, 3]
    images = family.sample(condition, seeds=[7, 8, 9])
    mask = torch.zeros(3, 1, 8, 8)
    mask[:, :, 2:6, 3:7] = 1

    def error(found: torch.Tensor) -> float:
        return float((found - images).square().mean())

    with torch.inference_mode():  # as models call it
        short, long = (
            family.vary(images, condition, seeds=seeds, strength=0.0, num_steps=steps) for steps in (1, 200)
        )
        filled = family.fill(images, mask, condition, seeds=seeds)
        alone = family.fill(images[1:2], mask[1:2], condition[1:2], seeds=seeds[1:2])
        fresh = family.vary(images, condition, seeds=seeds, strength=1.0, num_steps=1)
    others = error(family.sample(condition, seeds=seeds))
    assert error(long) < 0.05 * error(short) < 0.05 * others
    assert torch.equal(filled * (1 - mask), images * (1 - mask))
    assert error(filled) < 0.02 * others, "what is known tells what is hidden"
    torch.testing.assert_close(alone, filled[1:2], rtol=0, atol=1e-2)
    assert torch.equal(fresh, family.sample(condition, seeds=seeds))


def test_truncation_scales_the_latents() -> None:
    family = make().eval()
    with torch.no_grad():
        mean = family.sample(Condition(), seeds=[1, 2], truncation=0.0)
        half = family.sample(Condition(), seeds=[1, 2], truncation=0.5)
        full = family.sample(Condition(), seeds=[1, 2])
    assert torch.equal(mean[0], mean[1])
    assert (half - mean).abs().mean() < (full - mean).abs().mean()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        family.sample(Condition(), seeds=[1], truncation=1.5)
    with pytest.raises(ConfigError, match="no sampling option steps"):
        family.sample(Condition(), seeds=[1], steps=3)


def test_loss_is_a_function_of_its_generator() -> None:
    family = make(
        diffaugment=("colour", "translation", "cutout"), r1=1.0, gradient_penalty=1.0, batch_norm=False
    )
    batch, before = pictures(6, 0), torch.get_rng_state()
    for phase in family.phases():
        values = [family.loss(batch, phase, torch.Generator().manual_seed(s)).total.item() for s in (3, 3, 4)]
        assert values[0] == pytest.approx(values[1], rel=1e-6)
        assert values[0] != pytest.approx(values[2], rel=1e-6)
    assert torch.equal(before, torch.get_rng_state())


def test_the_discriminators_phase_leaves_the_generator_alone() -> None:
    family = make(r2=1.0)
    discriminator, generator = family.phases()
    family.loss(pictures(4, 0), discriminator, torch.Generator()).total.backward()
    assert all(p.grad is None for p in family.generator.parameters())
    assert all(p.grad is not None for p in family.discriminator.parameters())
    family.zero_grad()
    family.loss(pictures(4, 0), generator, torch.Generator()).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in family.generator.parameters())


def test_spectral_norm_bounds_every_layer() -> None:
    family = make(spectral_norm=True, net="resnet", labels=("a", "b"), width=12)
    train(family, [pictures_of(family, seed) for seed in range(20)], learning_rate=1e-4)
    weights = [w for name, w in family.discriminator.named_modules() if hasattr(w, "parametrizations")]
    assert len(weights) == 6
    for module in weights:
        largest = torch.linalg.matrix_norm(module.weight.detach().flatten(1), ord=2)
        assert 0.9 < largest < 1.1


def pictures_of(family: GAN, seed: int) -> Batch:
    batch = pictures(6, seed, labels=len(family.config.labels))
    shape = (6, family.config.channels, family.config.height, family.config.width)
    return Batch(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1, batch.condition)


def test_painting_needs_the_generator_alone() -> None:
    family = make().eval()
    with torch.no_grad():
        before = family.sample(Condition(), seeds=[1])
        family.drop_training_only()
        assert not any(name.startswith("discriminator") for name in family.state_dict())
        assert torch.equal(before, family.sample(Condition(), seeds=[1]))


def test_alarm_names_the_setting_to_change() -> None:
    family = make()
    assert family.alarms({"discriminator/wins": 0.9}) == []
    (alarm,) = family.alarms({"discriminator/wins": 0.999})
    assert "has won" in alarm.text
    assert "r1" in alarm.text
    assert make(loss="wasserstein").alarms({"discriminator/wins": 1.0}) == []


GOLDEN = {
    "minimax": (1.0188, -0.4745),
    "non_saturating": (1.0244, 0.9622),
    "least_squares": (0.0972, 0.3402),
    "hinge": (1.2422, 0.3475),
    "wasserstein": (-0.8099, 0.1638),
    "relativistic": (0.3726, 1.3711),
}


@pytest.mark.parametrize("loss", GOLDEN)
def test_golden_losses(loss: str) -> None:
    """Twelve steps on fixed pictures: a changed number means changed behaviour, intended or not."""
    family = make(loss=loss, r1=0.1, labels=("a", "b"), discriminator_steps=2)
    log = train(family, [pictures(16, seed, labels=2) for seed in range(12)], learning_rate=5e-3)
    last = log[-1]
    assert (last["discriminator/loss"], last["generator/loss"]) == pytest.approx(
        GOLDEN[loss], rel=0.02, abs=0.01
    )


FEW = {"training_images": 300, "batch_norm": False, "net": "dcgan"}


def test_few_images_switch_augmentation_and_reconstruction_on() -> None:
    few, many, unknown = (make(**FEW | {"training_images": count}).config for count in (1999, 2000, 0))
    assert few.augmentations == ("colour", "translation", "cutout")
    assert few.reconstruction_weight == 1
    for config in (many, unknown):
        assert (config.augmentations, config.reconstruction_weight) == ((), 0)
    chosen = make(**FEW, diffaugment=("translation",), reconstruction=0.5).config
    assert (chosen.augmentations, chosen.reconstruction_weight) == (("translation",), 0.5)
    assert make(**FEW | {"net": "mlp"}).config.reconstruction_weight == 0  # it has no map to draw from
    with pytest.raises(ConfigError, match="mlp cannot reconstruct"):
        make(net="mlp", reconstruction=1)


@pytest.mark.parametrize("net", ["dcgan", "resnet", "modern"])
def test_the_reconstruction_is_trained_with_the_discriminator_and_left_behind(net: str) -> None:
    family = make(**FEW | {"net": net, "diffaugment": ()}, width=16, height=16)
    discriminator, _ = family.phases()
    assert discriminator.modules == ("discriminator", "reconstruction")
    smooth = torch.nn.functional.interpolate(pictures(8, 0, size=2).images, (16, 16), mode="bilinear")
    log = train(family, [Batch(smooth)] * 60, learning_rate=3e-3)
    assert log[-1]["discriminator/reconstruction"] < 0.8 * log[0]["discriminator/reconstruction"]
    family.drop_training_only()
    assert {name.partition(".")[0] for name in family.state_dict()} == {"generator"}


@pytest.mark.parametrize("scales", [1, 2])
def test_gamma_weighs_both_penalties_and_falls_to_its_final_share(scales: int) -> None:
    family = make(net="modern", gamma=0.4, loss="relativistic", training_batch=8, scales=scales)
    batch = pictures(8, 0)
    discriminator, _ = family.phases()
    full = 0.4 * (8 * 8 / 32**2) * (32 / 8)
    for progress, gamma in ((0.0, full), (0.5, 0.55 * full), (1.0, 0.1 * full)):
        family.on_burn_in(progress)
        losses = family.loss(batch, discriminator, torch.Generator().manual_seed(0))
        logged = {name: float(value) for name, value in losses.logged.items()}
        assert logged["gamma"] == pytest.approx(gamma)
        expected = logged["loss"] + gamma * (logged["r1"] + logged["r2"])
        assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-5)


def test_gamma_and_r1_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="leave r1 and r2 at 0"):
        make(gamma=0.1, r1=0.1)


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("side", [4, 8, 11, 16, 32])
def test_modern_trains_on_images_of_every_size_on_the_way(side: int, scales: int) -> None:
    """A run that grows gives smaller images first: γ follows their pixels, finer levels are left alone."""
    settings = {"net": "modern", "width": 32, "height": 32, "gamma": 0.1, "reconstruction": 1}
    family = make(**settings, scales=scales, labels=("a", "b"))
    before = {name: value.clone() for name, value in family.state_dict().items()}
    log = train(family, [pictures(4, seed, labels=2, size=side) for seed in range(3)])
    assert log[0]["discriminator/gamma"] == pytest.approx(0.1 * side**2 / 32**2)
    moved = {name for name, value in family.state_dict().items() if not torch.equal(value, before[name])}
    finest = {name for name in before if name.startswith("generator.levels.3.")}
    assert bool(finest & moved) == (side > 16)
    assert {name for name in before if name.startswith("generator.levels.0.")} & moved


def test_a_model_that_grows_samples_what_it_has_learned() -> None:
    family = make(net="modern", width=14, height=16, grow=(4, 14)).eval()
    for parameter in family.generator.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    with torch.no_grad():
        early = family.sample(Condition(), seeds=[1, 2])
        family.level.fill_(0)
        late = family.sample(Condition(), seeds=[1, 2])
    assert early.shape == late.shape == (2, 1, 16, 14)
    blocks = torch.nn.functional.interpolate(early[..., ::4, ::4], scale_factor=4.0)[..., :14]
    assert torch.equal(early, blocks)
    assert not torch.allclose(early, late, atol=0.01)
    starts = {name: family.starts_at(f"generator.{name}") for name, _ in family.generator.named_parameters()}
    later = {name for name, size in starts.items() if size}
    assert {name.rpartition(".")[0].split(".")[0] for name in later} == {"levels", "outputs", "change"}
    assert not any(name.startswith(("first", "levels.0", "outputs.0")) for name in later)
    assert {"change.0.weight", "outputs.1.bias", "levels.2.0.middle.weight"} <= later
    with pytest.raises(ConfigError, match="does not grow"):
        make(grow=(4, 8))


@pytest.mark.parametrize("name", ["gan-32", "gan-64", "gan-128"])
def test_presets_describe_a_gan(name: str) -> None:
    values = presets.read(name)
    config = parse_config({"family": values["family"], "width": 16, "height": 16, **values["model"]})
    assert build(config).phases()[0].name == "discriminator"


@pytest.mark.parametrize("net", ["mlp", "modern"])
def test_learns_which_half_is_bright(net: str) -> None:
    """Two classes, bright above and bright below: training must put the light there."""
    family = make(net=net, labels=("above", "below"), r1=0.1, loss="relativistic", latents=4)
    rng = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(300):
        label = torch.randint(2, (32,), generator=rng)
        images = torch.full((32, 1, 8, 8), -0.8)
        images[label == 0, :, :4] = 0.8
        images[label == 1, :, 4:] = 0.8
        batches.append(Batch(images + 0.1 * torch.randn(images.shape, generator=rng), Condition(label)))
    train(family, batches, learning_rate=1e-3)
    family.eval()
    with torch.no_grad():
        painted = family.sample(Condition(torch.arange(40) % 2), seeds=range(40))
    above, below = painted[:, :, :4].mean((1, 2, 3)), painted[:, :, 4:].mean((1, 2, 3))
    is_above = torch.arange(40) % 2 == 0
    assert (torch.where(is_above, above - below, below - above) > 0.4).float().mean() > 0.9
