"""The VAE family: its bound against closed forms, its samples, its latents, and that it learns."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import Compresses, Encodes, Fills, HasLikelihood, Varies
from danqing.families.base import Batch, Condition
from danqing.families.vae import VAE, gaussian_divergence, slerp
from danqing.randomness import generator

GOLDEN = {  # losses at steps 0, 6, 12 and 18 of `train` below
    "mlp": [8.47289, 4.10568, 2.46648, 1.83308],
    "conv": [6.49865, 3.28842, 2.45996, 1.85862],
    "resnet": [8.29145, 3.83, 2.66773, 1.99614],
    "hybrid": [8.70691, 3.33244, 2.30967, 1.89052],
}
NETS = tuple(GOLDEN)


def build(seed: int = 0, **settings: Any) -> VAE:
    plain = {
        "family": "vae",
        "width": 8,
        "height": 8,
        "channels": 1,
        "features": 4,
        "latents": 6,
        "blocks": 1,
    }
    small = {"couplings": 2, "prior_features": 16}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        family = families.build(families.parse_config(plain | small | settings))
    assert isinstance(family, VAE)
    return family


def shapes(count: int, seed: int = 0) -> Batch:
    """Bright squares (label 0) and upright bars (label 1) of random place and brightness, 8x8."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    places = torch.randint(0, 5, (count, 1, 1), generator=rng)
    levels = torch.randint(128, 256, (count, 1, 1), generator=rng) / 127.5 - 1
    row, column = torch.arange(8)[None, :, None], torch.arange(8)[None, None, :]
    square = (row >= places) & (row < places + 3) & (column >= places) & (column < places + 3)
    bar = (column == places) & (row >= 0)
    inside = torch.where(labels[:, None, None] == 0, square, bar)
    images = torch.where(inside, levels, -1.0)[:, None]
    return Batch(images.contiguous(memory_format=torch.channels_last), Condition(label=labels))


class Constant(nn.Module):
    """An encoder that ignores its input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor, label: Tensor | None) -> Tensor:
        return self.output.expand(len(images), -1)


class Affine(nn.Module):
    """A decoder of one latent: pixel = weight * z."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, latents: Tensor, label: Tensor | None) -> Tensor:
        return (self.weight * latents).reshape(-1, 1, 1, 1)


def linear_gaussian(weight: float, scale: float, value: float) -> tuple[VAE, Batch, float, Tensor]:
    """z ~ N(0, 1), x ~ N(weight z, scale²) for one pixel: model, batch, exact log p(x), exact posterior."""
    vae = build(latents=1, prior="normal", scale=scale)
    vae.decoder = Affine(weight)
    evidence = math.sqrt(weight**2 + scale**2)
    exact = -0.5 * (value / evidence) ** 2 - math.log(evidence * math.sqrt(2 * math.pi)) + math.log(2 / 255)
    precision = 1 + (weight / scale) ** 2
    posterior = torch.tensor([[weight * value / scale**2 / precision, -0.5 * math.log(precision)]])
    return vae, Batch(torch.full((1, 1, 1, 1), value)), exact, posterior


def nats(vae: VAE, batch: Batch, samples: int, seed: int = 0) -> float:
    """The bound on log p(x) in nats, averaged over the batch."""
    bits = vae.bits_per_dim(batch, generator(seed, "bound"), samples=samples)
    return -bits.mean().item() * vae.config.dimensions * math.log(2)


def test_divergence_is_the_closed_form_and_the_monte_carlo_mean() -> None:
    mean, log_scale = torch.tensor([[0.7, -1.2]]), torch.tensor([[-0.5, 0.3]])
    prior_mean, prior_log_scale = torch.tensor([[0.1, 0.4]]), torch.tensor([[0.2, -0.1]])
    q = torch.distributions.Normal(mean, log_scale.exp())
    p = torch.distributions.Normal(prior_mean, prior_log_scale.exp())
    exact = torch.distributions.kl_divergence(q, p).sum().item()
    assert gaussian_divergence(mean, log_scale, prior_mean, prior_log_scale).item() == pytest.approx(exact)
    torch.manual_seed(0)
    draws = q.sample((100_000,))
    assert (q.log_prob(draws) - p.log_prob(draws)).sum(2).mean().item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_the_estimated_divergence_agrees_with_the_closed_form_of_a_fresh_prior(prior: str) -> None:
    vae = build(prior=prior)
    mean, log_scale = torch.randn(1, 6).expand(20_000, 6), torch.full((20_000, 6), -0.5)
    latents = mean + log_scale.exp() * torch.randn(20_000, 6)
    estimate = vae.divergence(latents, mean, log_scale, None).mean().item()
    exact = gaussian_divergence(mean, log_scale, torch.zeros_like(mean), torch.zeros_like(mean))[0].item()
    assert estimate == pytest.approx(exact, rel=0.02)


def test_the_exact_posterior_makes_every_bound_the_exact_log_likelihood() -> None:
    vae, batch, exact, posterior = linear_gaussian(weight=0.5, scale=0.2, value=2 * 200 / 255 - 1)
    vae.encoder = Constant(posterior)
    for samples in (1, 7):
        assert nats(vae, batch, samples) == pytest.approx(exact, abs=2e-3)


def test_the_importance_weighted_bound_rises_with_samples_to_the_exact_log_likelihood() -> None:
    vae, batch, exact, posterior = linear_gaussian(weight=0.5, scale=0.3, value=2 * 200 / 255 - 1)
    vae.encoder = Constant(posterior + torch.tensor([[0.4, 0.3]]))
    batch = Batch(batch.images.expand(4000, 1, 1, 1))
    bounds = [nats(vae, batch, samples) for samples in (1, 4, 16, 64)]
    assert bounds == sorted(bounds)
    assert bounds[0] < exact - 0.05
    assert bounds[-1] == pytest.approx(exact, abs=0.01)


def test_bits_per_dim_of_a_known_distribution_are_its_entropy_on_its_own_draws() -> None:
    vae = build(latents=1, prior="normal", likelihood="logistic", scale=0.1)
    vae.encoder, vae.decoder = (
        Constant(torch.zeros(1, 2)),
        Affine(0.0),
    )  # pixels ~ logistic(0, 0.1), posterior = prior
    levels = 2 * torch.arange(256) / 255 - 1
    edges = torch.sigmoid((levels[:-1] + 1 / 255).double() / 0.1)
    masses = torch.diff(edges, prepend=torch.zeros(1), append=torch.ones(1)).double()
    entropy = -(masses * masses.log2()).sum().item()
    bits = vae.bits_per_dim(Batch(levels.reshape(256, 1, 1, 1)), generator(0, "x")) * vae.config.dimensions
    assert (masses * bits).sum().item() == pytest.approx(entropy, rel=1e-4)


def test_bits_per_dim_refuses_greys_under_bernoulli_and_measures_black_and_white() -> None:
    vae = build(likelihood="bernoulli")
    grey = Batch(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ConfigError, match="black-and-white"):
        vae.bits_per_dim(grey, generator(0, "x"))
    assert vae.bits_per_dim(Batch(torch.ones(2, 1, 8, 8)), generator(0, "x")).shape == (2,)
    with pytest.raises(ConfigError, match="at least 1"):
        vae.bits_per_dim(Batch(torch.ones(2, 1, 8, 8)), generator(0, "x"), samples=0)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("labels", [(), ("square", "bar")])
def test_every_net_keeps_the_contract(net: str, labels: tuple[str, ...]) -> None:
    vae = build(net=net, labels=labels, width=11, height=7, channels=3)
    assert isinstance(vae, Encodes)
    assert isinstance(vae, HasLikelihood)
    condition = Condition(label=torch.tensor([0, 1, 1]) if labels else None)
    batch = Batch(torch.rand(3, 3, 7, 11) * 2 - 1, condition)
    (phase,) = vae.phases()
    assert {name for name, _ in vae.named_children()} == set(phase.modules)
    losses = vae.loss(batch, phase, generator(0, "loss"))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(not value.requires_grad and value.numel() == 1 for value in losses.logged.values())
    with torch.no_grad():
        vae.eval()
        assert vae.reconstruct(batch.images, condition).shape == batch.images.shape
        assert vae.interpolate(batch.images, batch.images.flip(0), condition, steps=4).shape == (
            3,
            4,
            3,
            7,
            11,
        )
        assert vae.traverse(batch.images, condition, latent=2, values=[-2, 0, 2]).shape == (3, 3, 3, 7, 11)
        assert vae.bits_per_dim(batch, generator(0, "bits"), samples=3).shape == (3,)


def test_an_image_depends_on_its_own_seed_and_label_alone() -> None:
    vae = build(labels=("square", "bar")).eval()
    label = torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        together = vae.sample(Condition(label=label), seeds=[5, 6, 7, 8])
        alone = vae.sample(Condition(label=label[2:3]), seeds=[7])
        cold = vae.sample(Condition(label=label[:2]), seeds=[1, 2], temperature=0)
    assert together.abs().max() <= 1
    assert torch.allclose(together[2:3], alone, atol=1e-6)
    assert not torch.allclose(together[0], together[2])
    assert torch.allclose(
        cold[0], vae.sample(Condition(label=label[:1]), seeds=[9], temperature=0)[0], atol=1e-6
    )


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_variations_go_from_the_reconstruction_to_a_picture_of_the_seed_alone(prior: str) -> None:
    vae, batch, seeds = build(prior=prior, labels=("square", "bar")).eval(), shapes(6), range(6)
    assert isinstance(vae, Varies)
    with torch.inference_mode():
        same, near, far, other = (
            vae.vary(batch.images, batch.condition, seeds=seeds, strength=strength)
            for strength in (0.0, 0.2, 0.8, 1.0)
        )
        back, painted = (
            vae.reconstruct(batch.images, batch.condition),
            vae.sample(batch.condition, seeds=seeds),
        )
        moved = vae.vary(batch.images[3:], batch.condition[slice(3, 6)], seeds=seeds[3:], strength=0.2)
    assert torch.allclose(same, back, atol=1e-5)
    assert torch.equal(other, painted)
    assert torch.allclose(moved, near[3:], atol=1e-6)
    assert 0 < (near - back).abs().mean() < (far - back).abs().mean()


def test_a_fill_follows_the_seed_and_keeps_the_rest() -> None:
    vae, batch, seeds = build(labels=("square", "bar")).eval(), shapes(6), range(6)
    assert isinstance(vae, Fills)
    mask = torch.zeros_like(batch.images[:, :1])
    mask[:, :, 2:5, 1:6] = 1
    with torch.inference_mode():
        filled, again, other = (
            vae.fill(batch.images, mask, batch.condition, seeds=own, num_steps=3)
            for own in (seeds, seeds, range(6, 12))
        )
        moved = vae.fill(
            batch.images[3:], mask[3:], batch.condition[slice(3, 6)], seeds=seeds[3:], num_steps=3
        )
    assert torch.equal(filled * (1 - mask), batch.images * (1 - mask))
    assert torch.equal(filled, again)
    assert not torch.equal(filled, other)
    assert torch.allclose(moved, filled[3:], atol=1e-5)


def test_wrong_requests_are_refused_with_what_to_do() -> None:
    vae = build(labels=("square", "bar"))
    with pytest.raises(ConfigError, match="square, bar"):
        vae.sample(Condition(), seeds=[0])
    with pytest.raises(ConfigError, match="temperature"):
        vae.sample(Condition(label=torch.tensor([0])), seeds=[0], truncation=0.5)
    with pytest.raises(ConfigError, match="from 0 to 5"):
        vae.traverse(torch.zeros(1, 1, 8, 8), Condition(label=torch.tensor([0])), latent=6, values=[0])
    for settings, message in (
        ({"scale": -1.0}, "positive"),
        ({"latents": 1}, "prior=normal"),
        ({"net": "x"}, "mlp"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(**settings)


def test_beta_warms_up_with_the_images_seen_and_weighs_the_divergence() -> None:
    vae = build(beta=4.0, beta_warmup_images=1000)
    batch, (phase,) = shapes(16), vae.phases()
    totals = {}
    for images, beta in ((0, 0.0), (250, 1.0), (1000, 4.0), (9000, 4.0)):
        vae.on_progress(images)
        assert vae.beta == beta
        losses = vae.loss(batch, phase, generator(0, "loss"))
        totals[beta] = losses.total.item()
        expected = losses.logged["reconstruction"] + beta * losses.logged["divergence"]
        assert losses.total.item() == pytest.approx(expected.item() / 64, rel=1e-5)
    assert totals[0.0] < totals[1.0] < totals[4.0]


def test_a_collapsed_posterior_is_counted_and_reported_once_training_has_settled() -> None:
    vae = build(beta=8.0)
    (phase,) = vae.phases()
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()
    logged = {
        f"autoencoder/{k}": float(v)
        for k, v in vae.loss(shapes(32), phase, generator(0, "loss")).logged.items()
    }
    assert logged["autoencoder/active_latents"] == 0
    assert vae.alarms(logged) == []
    vae.on_progress(50_000)
    (alarm,) = vae.alarms(logged)
    assert "beta (now 8)" in alarm.text
    assert vae.alarms({"autoencoder/active_latents": 0.5}) == []


def test_slerp_keeps_the_length_and_ends_where_it_should() -> None:
    start, end = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 3.0], [1.0, 1.0]])
    assert torch.allclose(slerp(start, end, 0.0), start)
    assert torch.allclose(slerp(start, end, 1.0), end, atol=1e-6)
    assert slerp(start, end, 0.3).norm(dim=1).tolist() == pytest.approx([3.0, math.sqrt(2)])


def train(vae: VAE, steps: int, rate: float = 3e-3) -> list[float]:
    optimizer = torch.optim.Adam(vae.parameters(), lr=rate)
    (phase,) = vae.phases()
    losses = []
    for step in range(steps):
        vae.on_progress(step * 32)
        optimizer.zero_grad()
        total = vae.loss(shapes(32, seed=step), phase, generator(0, "loss", step)).total
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses


@pytest.mark.parametrize("net", NETS)
def test_losses_follow_the_golden_curve(net: str) -> None:
    losses = train(build(net=net, labels=("square", "bar")), 20)
    assert losses[::6] == pytest.approx(GOLDEN[net], rel=2e-3)


def test_training_is_a_function_of_its_seeds() -> None:
    runs = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        runs.append(train(build(labels=("square", "bar")), 3))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("net", NETS)
def test_it_learns_to_reconstruct_and_to_paint_what_a_label_says(net: str) -> None:
    vae = build(net=net, labels=("square", "bar"), features=8)
    losses = train(vae, 200)
    assert sum(losses[-20:]) / 20 < losses[0] - 1.5
    vae.eval()
    test = shapes(64, seed=10_000)
    with torch.no_grad():
        error = (vae.reconstruct(test.images, test.condition) - test.images).square().mean()
        painted = vae.sample(Condition(label=torch.tensor([0, 1] * 32)), seeds=range(64)) + 1
    assert error < 0.3 * test.images.var()
    rows, columns = (painted.sum(axis).amax((1, 2)) for axis in (3, 2))  # the brightest of each
    upright = (columns - rows) / painted.sum((1, 2, 3)).clamp_min(1)  # 7/8 for a bar, 0 for a square
    assert upright[1::2].mean() > upright[::2].mean() + 0.2


def test_the_logged_bits_are_those_of_the_bound() -> None:
    vae = build(labels=("square", "bar"))
    batch, (phase,) = shapes(256), vae.phases()
    logged = vae.loss(batch, phase, generator(0, "loss")).logged["bits_per_dim"].item()
    assert logged == pytest.approx(vae.bits_per_dim(batch, generator(1, "bits")).mean().item(), rel=0.02)


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (13, 8, 4), (17, 31, 2)])
def test_a_grid_of_latents_is_a_first_stage_of_any_size(height: int, width: int, channels: int) -> None:
    vae = build(net="grid", prior="normal", height=height, width=width, channels=channels, latents=3)
    assert isinstance(vae, Compresses)
    assert not isinstance(build(), Compresses)
    assert not vae.has_prior
    assert not families.has_prior(vae.config)
    assert not vae.config.reads_labels
    assert vae.latent_shape == (3, math.ceil(height / 8), math.ceil(width / 8))
    images = torch.rand(2, channels, height, width) * 2 - 1
    latents = vae.eval().compress(images)
    assert latents.shape == (2, *vae.latent_shape)
    assert torch.equal(vae.expand(latents), vae.reconstruct(images, Condition()))
    assert vae.sample(Condition(), seeds=[1, 2]).shape == images.shape
    assert vae.bits_per_dim(Batch(images), generator(0, "bits")).shape == (2,)
    with pytest.raises(ConfigError, match="prior=normal"):
        build(net="grid", prior="flow")


def test_a_latent_of_a_grid_depends_on_pixels_around_its_place() -> None:
    vae = build(net="grid", prior="normal", height=64, width=64, blocks=1, downsamplings=2).eval()
    images = torch.zeros(1, 1, 64, 64)
    before = vae.compress(images)
    images[..., :8, :8] = 1
    changed = (vae.compress(images) - before).abs().sum((0, 1)) > 0
    assert changed[:2, :2].all()
    assert not changed[8:].any()
    assert not changed[:, 8:].any()


@pytest.mark.parametrize("net", ["grid", "hybrid", "conv"])
def test_a_perceptual_and_an_adversarial_term_join_the_bound(net: str) -> None:
    settings = {"net": net, "prior": "normal", "discriminator_features": 4, "adversarial_start_images": 0}
    settings |= {"adversarial_warmup_images": 0}
    batch, vae = shapes(8), build(**settings, perceptual=0.5, adversarial=0.8)
    assert vae.perceptual_network == "efficientnet-lite0"
    vae.perceive(lambda images: [torch.cat([images, images.square()], 1)])
    vae.on_progress(1)
    first, second = vae.phases()
    plain = build(**settings).loss(batch, first, generator(0, "loss"))
    both = vae.loss(batch, first, generator(0, "loss"))
    more = 0.5 * both.logged["perceptual"] + both.logged["adversarial_weight"] * both.logged["adversarial"]
    assert both.total.item() == pytest.approx((plain.total + more).item(), rel=1e-5)
    last = vae.decoder.last.weight
    likeness = both.total - both.logged["adversarial_weight"] * both.logged["adversarial"]
    assert likeness.item() == pytest.approx((plain.total + 0.5 * both.logged["perceptual"]).item(), rel=1e-5)
    (whole,) = torch.autograd.grad(both.total, last)
    vae.config = vae.config.model_copy(update={"adversarial": 0.0})
    (alone,) = torch.autograd.grad(vae.loss(batch, first, generator(0, "loss")).total, last)
    assert (whole - alone).norm().item() == pytest.approx(0.8 * alone.norm().item(), rel=1e-3)
    judged = vae.loss(batch, second, generator(0, "loss"))
    judged.total.backward()
    assert vae.discriminator.last.weight.grad is not None
    assert all(p.grad is None for p in vae.decoder.parameters())
    vae.drop_training_only()
    assert not any("discriminator" in name for name in vae.state_dict())
