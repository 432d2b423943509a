"""Flow matching: its contract, that it learns the exact velocity, and what it edits."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danqing import presets
from danqing.errors import ConfigError
from danqing.families import build, parse_config
from danqing.families.base import Batch, Condition
from danqing.families.flow import generate
from danqing.families.flow_sampling import FlowSampler
from danqing.families.flow_variants import Flow, FlowTranslator
from danqing.images import Images, to_float, to_uint8, with_channels
from danqing.model.loading import load
from danqing.model.model import Model
from danqing.model.verb_options import options_of
from danqing.samplers import SAMPLERS

NETS = {
    "hybrid": {"widths": (8, 16), "layers": 1, "heads": 2},
    "dit": {"widths": (16,), "layers": 2, "heads": 2, "patch": 2},
    "unet": {"widths": (8, 16), "layers": 1, "heads": 2},
}


GOLDEN = {  # losses at steps 0, 6, 12 and 18
    "hybrid": [2.16374, 4.19375, 1.44989, 1.1965],
    "dit": [1.86257, 4.19898, 1.38986, 1.13891],
    "unet": [1.86236, 3.07798, 1.11634, 1.00722],
}


def make(seed: int = 0, net: str = "dit", **settings: Any) -> Any:
    """Build a tiny model whose output is not zero, as that of fresh weights is."""
    torch.manual_seed(seed)
    values = {"family": "flow", "width": 8, "height": 8, "channels": 1, "net": net, **NETS[net]}
    family = build(parse_config(values | settings))
    assert isinstance(family, FlowSampler)
    for parameter in family.network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return family


def train(family: FlowSampler, batches: list[Batch], learning_rate: float = 3e-3) -> list[float]:
    """A plain loop over the only phase; the losses."""
    optimizer = torch.optim.Adam(family.network.parameters(), learning_rate, betas=(0.9, 0.99))
    (phase,), losses = family.phases(), []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / len(batches))
        loss = family.loss(batch, phase, torch.Generator().manual_seed(step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def pictures(n: int, seed: int, channels: int = 1, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    return torch.rand((n, channels, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (2, (17, 23)), (4, (12, 8)), (3, (5, 4))])
def test_any_size_and_channels_train_and_sample(net: str, channels: int, size: tuple[int, int]) -> None:
    labels = ("a", "b", "c") if channels % 2 else ()
    family = make(net=net, channels=channels, height=size[0], width=size[1], labels=labels)
    condition = Condition(torch.tensor([0, 2, 1]) if labels else None)
    loss = family.loss(
        Batch(pictures(3, 0, channels, size), condition), family.phases()[0], torch.Generator()
    )
    loss.total.backward()
    missing = [name for name, p in family.network.named_parameters() if p.grad is None]
    assert not missing, "these learn nothing"
    with torch.no_grad():
        images = family.eval().sample(condition, seeds=[1, 2, 3], num_steps=3)
    assert images.shape == (3, channels, *size)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("net", GOLDEN)
def test_losses_follow_the_golden_curve(net: str) -> None:
    """Twenty steps on fixed images: another number means other behaviour, intended or not."""
    family = make(net=net, labels=("a", "b"), mask_share=0.5)
    rng = torch.Generator().manual_seed(1)
    batches = [
        Batch(pictures(16, step), Condition(torch.randint(2, (16,), generator=rng))) for step in range(20)
    ]
    assert train(family, batches)[::6] == pytest.approx(GOLDEN[net], rel=5e-3)


@pytest.mark.parametrize("net", NETS)
def test_a_size_has_its_own_noise_and_a_seed_alone_the_same_bits_as_in_a_batch(net: str) -> None:
    model = Model(make(net=net, mask_share=0.5))
    for size in ((8, 8), (12, 8), (8, 16)):
        together = model.sample(seeds=range(16), size=size, num_steps=3).array
        assert together.shape == (16, size[1], size[0], 1)
        alone = model.sample(seeds=[5], size=size, num_steps=3).array
        assert np.array_equal(alone[0], together[5])
    own = model.sample(seeds=[5], num_steps=3).array
    assert np.array_equal(own, model.sample(seeds=[5], size=(8, 8), num_steps=3).array)


def test_sizes_are_its_own_and_others_of_about_their_area() -> None:
    model = Model(make(sizes=((8, 8), (7, 9))))
    for size in ((8, 8), (7, 9), (12, 8), (16, 8), (4, 8)):
        model.check_size(size)
    for size in ((9, 8), (18, 8), (2, 8), (0, 8), (-8, -8)):
        with pytest.raises(ConfigError, match=r"8x8, 7x9, or sides in multiples of 2 with 31 to 128 pixels"):
            model.sample(size=size)
    with pytest.raises(ConfigError, match="a width and a height"):
        model.sample(size="8x8")  # type: ignore[arg-type]
    other = Model(build(parse_config({"family": "gan", "width": 8, "height": 8, "generator_features": 4})))
    assert other.sample(size=(8, 8)).array.shape == (1, 8, 8, 3)
    with pytest.raises(ConfigError, match=r"A GAN cannot sample another size .* 8x8: use a flow model"):
        other.sample(size=(8, 12))


@pytest.mark.parametrize("net", NETS)
def test_a_fresh_network_predicts_grey(net: str) -> None:
    torch.manual_seed(0)
    values = {"family": "flow", "width": 8, "height": 8, "channels": 1, "net": net, **NETS[net]}
    family = build(parse_config(values)).eval()
    with torch.no_grad():
        assert family.sample(Condition(), seeds=[1], num_steps=2).abs().max() < 1e-6


def test_the_learned_velocity_is_that_of_a_mixture_of_gaussians() -> None:
    """Two constant images with noise: the best prediction is known, and a small network comes near it."""
    means, spread = torch.tensor([-0.6, 0.5]), 0.1

    def draw(n: int, seed: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        which = means[torch.randint(2, (n,), generator=rng)]
        return which.view(-1, 1, 1, 1) + spread * torch.randn((n, 1, 4, 4), generator=rng)

    torch.manual_seed(0)
    shape = {"width": 4, "height": 4, "channels": 1}
    settings = {"net": "dit", "widths": (32,), "layers": 2, "heads": 2, "patch": 4}
    settings |= {"times": "uniform", "prediction": "residual"}
    family = build(parse_config({"family": "flow", **shape, **settings}))
    assert isinstance(family, Flow)
    train(family, [Batch(draw(256, seed)) for seed in range(400)])

    def best(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """E[x | z]: each Gaussian's own, weighted by how likely it makes the whole image."""
        t = t.view(-1, 1, 1, 1)
        variance = t**2 * spread**2 + (1 - t) ** 2
        under = [mean + t * spread**2 / variance * (z - t * mean) for mean in means]
        logits = [-((z - t * mean) ** 2 / (2 * variance)).flatten(1).sum(1) for mean in means]
        weights = torch.stack(logits).softmax(0)
        return sum(w.view(-1, 1, 1, 1) * u for w, u in zip(weights, under, strict=True))

    images, noise = draw(2000, 999), torch.randn((2000, 1, 4, 4), generator=torch.Generator().manual_seed(7))
    t = torch.linspace(0.02, 0.8, 2000)
    z = torch.lerp(noise, images, t.view(-1, 1, 1, 1))
    chosen = family._checked({"precision": "float32"})
    with torch.no_grad():
        velocity = family.eval()._velocity(Condition(), z.shape, chosen)(z, t)
    wanted = (best(z, t) - z) / (1 - t).view(-1, 1, 1, 1)
    error = (velocity - wanted).square().mean() / wanted.square().mean()
    assert error < 0.03

    with torch.no_grad():
        painted = family.sample(Condition(), seeds=range(400), num_steps=24)
    centres = painted.mean((1, 2, 3))
    assert (centres > 0).float().mean() == pytest.approx(0.5, abs=0.1)
    near = torch.stack([(centres - mean).abs() for mean in means]).amin(0)
    assert near.mean() < 0.06  # the mean of 16 pixels deviates by 0.02 from its centre in the data
    within = (painted - painted.mean((2, 3), keepdim=True)).std()
    assert within == pytest.approx(spread, abs=0.12)

    levels = to_float(to_uint8(images[:48]))
    bits = family.bits_per_dim(Batch(levels), torch.Generator().manual_seed(3), samples=4)
    edges = torch.stack([(levels + side / 255).double() for side in (-1, 1)])
    below, above = (
        torch.stack([torch.distributions.Normal(float(mean), spread).cdf(edge) for mean in means])
        for edge in edges
    )
    known = -((above - below).log().flatten(2).sum(2).logsumexp(0) - math.log(2)) / (16 * math.log(2))
    assert 0 < float((bits - known).mean()) < 0.5, "a bound on the known likelihood, and a near one"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("net", NETS)
def test_a_seed_alone_gives_the_same_bits_as_in_a_batch(net: str, sampler: str) -> None:
    model = Model(make(net=net, labels=("a", "b")))
    options = {"sampler": sampler, "num_steps": 4, "guidance_scale": 1.5, "guidance_end": 0.5}
    labels = [0, 1] * 8
    together = model.sample(label=labels, seeds=range(16), **options).array
    for seed in (0, 7, 15):
        alone = model.sample(label=labels[seed], seeds=[seed], **options).array
        assert np.array_equal(alone[0], together[seed]), (sampler, seed)
    assert not np.array_equal(together[0], together[2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_guidance_of_one_is_none_bit_for_bit_and_more_changes_the_image(precision: str) -> None:
    family = make(labels=("a", "b"), condition_dropout=0.1).eval()
    condition, options = Condition(torch.tensor([0, 1])), {"num_steps": 4, "precision": precision}
    with torch.no_grad():
        plain = family.sample(condition, seeds=[1, 2], **options)
        one = family.sample(condition, seeds=[1, 2], guidance_scale=1.0, **options)
        more = family.sample(condition, seeds=[1, 2], guidance_scale=3.0, **options)
        nowhere = family.sample(condition, seeds=[1, 2], guidance_scale=3.0, guidance_start=1.0, **options)
    assert torch.equal(plain, one)
    assert torch.equal(plain, nowhere)
    assert not torch.equal(plain, more)


def test_guidance_leads_away_from_no_condition() -> None:
    """The guided prediction is the line through both predictions, at the scale."""
    family = make(labels=("a", "b")).eval()
    z, t = pictures(2, 3), torch.tensor([0.3, 0.6])
    condition, unknown = Condition(torch.tensor([0, 1])), Condition(torch.tensor([-1, -1]))

    def image(condition: Condition, scale: float) -> torch.Tensor:
        chosen = family._checked({"precision": "float32", "guidance_scale": scale})
        with torch.no_grad():
            velocity = family._velocity(condition, z.shape, chosen)(z, t)
        return z + (1 - t).view(-1, 1, 1, 1) * velocity

    under, without = image(condition, 1.0), image(unknown, 1.0)
    torch.testing.assert_close(image(condition, 2.5), (without + 2.5 * (under - without)).clamp(-1, 1))


def test_the_early_copy_guides_and_is_taken_once() -> None:
    family, average = make(guide=True), make(seed=5, guide=True)
    family.eval()
    with pytest.raises(ConfigError, match="not trained yet"):
        family.sample(Condition(), seeds=[1], guidance="guide", guidance_scale=2.0)
    family.take_guide(average)
    assert bool(family.guide_taken)
    assert family.guide is not None
    for mine, theirs in zip(family.guide.parameters(), average.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        plain = family.sample(Condition(), seeds=[1], num_steps=3)
        guided = family.sample(Condition(), seeds=[1], num_steps=3, guidance="guide", guidance_scale=2.0)
        family.take_guide(family)  # a copy of itself leads nowhere
        same = family.sample(Condition(), seeds=[1], num_steps=3, guidance="guide", guidance_scale=2.0)
    assert not torch.equal(plain, guided)
    torch.testing.assert_close(plain, same, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask_share", [0.0, 0.5])
def test_filling_keeps_every_other_byte_and_depends_on_its_own_seed(mask_share: float) -> None:
    model = Model(make(channels=3, mask_share=mask_share))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    mask = np.random.default_rng(1).random((3, 8, 8)) < 0.4
    filled = model.fill(Images(pixels), mask, seeds=[4, 5, 6], num_steps=4).array
    assert np.array_equal(filled[~mask], pixels[~mask])
    assert not np.array_equal(filled[mask], pixels[mask])
    alone = model.fill(Images(pixels[1:2]), mask[1:2], seeds=[5], num_steps=4).array
    assert np.array_equal(alone[0], filled[1])
    everything = np.ones((3, 8, 8), dtype=bool)
    painted = model.fill(Images(pixels), everything, seeds=[4, 5, 6], num_steps=4).array
    sampled = model.sample(seeds=[4, 5, 6], num_steps=4, sampler="consistency").array
    assert np.array_equal(painted, sampled) or mask_share


def test_known_pixels_are_seen_at_each_step_with_the_noise_of_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family, seen = make(channels=3, mask_share=0.5).eval(), []
    predict = family.predict

    def watched(z: torch.Tensor, t: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        seen.append((z.clone(), t.clone()))
        return predict(z, t, *rest, **more)

    monkeypatch.setattr(family, "predict", watched)
    images, mask = torch.rand(2, 3, 8, 8), (torch.rand(2, 1, 8, 8) < 0.4).float()
    noise = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        family.fill(images, mask, Condition(), seeds=[1, 2], noise=noise)
    assert len(seen) == options_of(family, "fill")["num_steps"] == 48
    for z, t in seen:
        known = torch.lerp(noise, images, t[:, None, None, None])
        assert torch.equal(z * (1 - mask), known * (1 - mask))


def test_a_model_that_learns_masks_sees_what_is_given() -> None:
    """Half of each image is the mirror of the other half, so that what is known decides the rest."""
    rng = torch.Generator().manual_seed(0)

    def draw(n: int) -> torch.Tensor:
        left = torch.rand((n, 1, 1, 1), generator=rng).expand(-1, 1, 4, 2) * 1.6 - 0.8
        return torch.cat([left, left], dim=3)

    family = make(width=4, height=4, mask_share=0.9, patch=4, widths=(32,))
    train(family, [Batch(draw(128)) for _ in range(250)])
    images, mask = draw(64), torch.zeros(64, 1, 4, 4)
    mask[..., 2:] = 1
    with torch.no_grad():
        filled = family.eval().fill(images, mask, Condition(), seeds=range(64), num_steps=12)
    assert (filled - images)[..., 2:].abs().mean() < 0.12  # a blind guess is off by 0.5
    assert torch.equal(filled[..., :2], images[..., :2])


def test_varying_goes_from_the_image_to_a_sample() -> None:
    family = make(prediction="velocity").eval()  # what fresh weights predict is near what they see
    images = pictures(2, 1)
    with torch.no_grad():
        same = family.vary(images, Condition(), seeds=[1, 2], strength=0.0)
        near = family.vary(images, Condition(), seeds=[1, 2], strength=0.1, num_steps=3)
        fresh = family.vary(images, Condition(), seeds=[1, 2], strength=1.0, num_steps=3)
        sampled = family.sample(Condition(), seeds=[1, 2], num_steps=3)
    assert torch.equal(same, images)
    assert torch.equal(fresh, sampled)
    assert (near - images).abs().mean() < (fresh - images).abs().mean()


def test_a_translation_starts_at_its_source() -> None:
    """Pairs of an image and its negative: what is made follows from the source."""
    family = make(width=4, height=4, pairs=True, patch=4, widths=(32,), source_noise=0.3)
    rng = torch.Generator().manual_seed(0)
    flat = [torch.rand((128, 1, 1, 1), generator=rng).expand(-1, 1, 4, 4) * 1.6 - 0.8 for _ in range(200)]
    train(family, [Batch(-source, Condition(image=source)) for source in flat])
    source = flat[0][:32]
    with torch.no_grad():
        made = family.eval().translate(source, Condition(), seeds=range(32), num_steps=8)
    assert (made + source).abs().mean() < 0.1
    with pytest.raises(ConfigError, match="source image"):
        family.sample(Condition(), seeds=[1])
    assert isinstance(family, FlowTranslator)
    assert not hasattr(make(), "translate")
    model = Model(family)
    pixels = Images(np.full((2, 4, 4, 1), 200, np.uint8))
    translated = model.translate(pixels, seeds=[1, 2], num_steps=4).array
    assert np.array_equal(model.translate(pixels[1:], seeds=[2], num_steps=4).array[0], translated[1])
    with pytest.raises(ConfigError, match="cannot turn one image into another: use a flow model of pairs"):
        Model(make()).translate(pixels)


def test_a_label_is_exchanged_and_the_rest_of_an_image_stays() -> None:
    """Dark and bright images with a slope of any strength: the other label keeps the slope."""
    family = make(width=4, height=4, patch=4, widths=(32,), labels=("dark", "bright"), condition_dropout=0.0)
    rng = torch.Generator().manual_seed(0)

    def drawn(labels: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        levels = torch.where(labels > 0, 0.4, -0.4)[:, None, None, None]
        return (levels + slopes[:, None, None, None] * torch.linspace(-1, 1, 4)).expand(-1, 1, 4, 4)

    batches = []
    for _ in range(400):
        labels, slopes = torch.randint(2, (128,), generator=rng), torch.randn(128, generator=rng) * 0.2
        batches.append(Batch(drawn(labels, slopes), Condition(labels)))
    train(family, batches)
    dark, slopes = torch.zeros(32, dtype=torch.int64), torch.linspace(-0.4, 0.4, 32)
    source = drawn(dark, slopes)
    model, pixels = Model(family), Images(to_uint8(source))
    back = model.translate(pixels, source_label="dark", label="dark", seed=1, num_steps=32)
    other = model.translate(pixels, source_label="dark", label="bright", seed=1, num_steps=32)
    assert np.abs(back.array.astype(int) - pixels.array).mean() < 0.03 * 255
    expected = to_uint8(drawn(dark + 1, slopes)).numpy().astype(int)
    assert np.abs(other.array - expected).mean() < 0.05 * 255
    found = other.array.astype(int)[..., 0].mean(1)
    assert np.corrcoef(found[:, 3] - found[:, 0], slopes.numpy())[0, 1] > 0.95, "the slope stays"
    unchanged = model.translate(pixels, source_label="dark", label="bright", strength=0.0)
    assert np.array_equal(unchanged.array, pixels.array)
    alone = model.translate(pixels[3:4], source_label="dark", label="bright", seeds=[7], num_steps=4)
    seeds = [1, 2, 3, 7]
    among = model.translate(pixels[:4], source_label="dark", label="bright", seeds=seeds, num_steps=4)
    assert np.array_equal(alone.array[0], among.array[3])
    steps: list[tuple[int, int]] = []
    model.translate(
        pixels[:1],
        source_label=0,
        label=1,
        num_steps=3,
        on_step=lambda done, total, preview: steps.append((done, total)),
    )
    assert steps == [(number, 6) for number in range(1, 7)]
    for name in ("stochastic", "consistency", "dpm++"):
        with pytest.raises(ConfigError, match="cannot go from an image to noise: choose one of euler, heun"):
            model.translate(pixels, source_label="dark", label="bright", sampler=name)
    with pytest.raises(ConfigError, match="say which label the images have"):
        model.translate(pixels, label="bright")
    with pytest.raises(ConfigError, match="give the label of each image"):
        model.translate(pixels, source_label="dark")


@pytest.mark.parametrize("given", [1, 2, 3, 4])
@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_a_source_of_other_channels_is_seen_as_the_target_has_them(given: int, wanted: int) -> None:
    images = torch.full((2, given, 3, 3), 0.25)
    seen = with_channels(images, wanted)
    assert seen.shape == (2, wanted, 3, 3)
    assert torch.equal(seen[:, 0], images[:, 0])


def test_previews_come_nearer_to_the_image_and_sampling_can_be_stopped() -> None:
    family, told = make().eval(), []

    class StopError(Exception):
        pass

    def on_step(done: int, steps: int, preview: Any) -> None:
        told.append((done, steps, preview()))

    def stop(done: int, steps: int, preview: Any) -> None:
        if done == 2:
            raise StopError

    with torch.no_grad():
        images = family.sample(Condition(), seeds=[1, 2], num_steps=5, on_step=on_step)
        with pytest.raises(StopError):
            family.sample(Condition(), seeds=[1], num_steps=5, on_step=stop)
    assert [entry[:2] for entry in told] == [(done, 5) for done in range(1, 6)]
    assert family.painting_steps(num_steps=5) == 5
    assert torch.equal(told[-1][2].clamp(-1, 1), images)


def test_wrong_requests_are_rejected_with_what_to_do() -> None:
    family = make(labels=("a", "b")).eval()
    condition = Condition(torch.tensor([0]))
    for options, words in (
        ({"sampler": "leapfrog"}, "sampler must be one of"),
        ({"guidance": "snapshot"}, "guidance must be one of"),
        ({"guidance": "guide", "guidance_scale": 2.0}, "guide=true"),
        ({"temperature": 1.0}, "no sampling option temperature"),
        ({"num_steps": 0}, "at least 1"),
        ({"guidance_end": 2.0}, "from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            family.sample(condition, seeds=[1], **options)
    with pytest.raises(ConfigError, match="needs a label"):
        family.sample(Condition(), seeds=[1])
    with pytest.raises(ConfigError, match="condition_dropout"):
        make(labels=("a",), condition_dropout=0.0, guide=True).sample(
            condition, seeds=[1], guidance_scale=2.0
        )
    with pytest.raises(ConfigError, match="no condition that guidance could lead away from"):
        make(guide=True).eval().sample(Condition(), seeds=[1], guidance_scale=2.0)
    for settings, words in (
        ({"widths": ()}, "widths"),
        ({"widths": (10,)}, "multiple of four times heads"),
        ({"guidance": "guide"}, "guide = true"),
        ({"pairs": True, "mask_share": 0.1}, "does not fill"),
    ):
        with pytest.raises(ConfigError, match=words):
            make(**settings)


def test_a_model_of_transport_is_sampled_without_other_noise() -> None:
    model = Model(make(transport="minibatch", sampler="stochastic", num_steps=3).eval())
    assert model.family.sample_defaults()["sampler"] == "heun"
    assert model.family.fill_defaults()["sampler"] == "ab2"
    alike = model.sample(1, seed=3).array == model.sample(1, seed=3, sampler="heun").array
    assert alike.all()
    for sampler, other in (("stochastic", "heun"), ("consistency", "ab2")):
        with pytest.raises(ConfigError, match=f"independent of the image.* set sampler to {other}"):
            model.sample(sampler=sampler)
    plain = make(sampler="stochastic").eval()
    assert plain.sample_defaults()["sampler"] == "stochastic"
    assert plain.fill_defaults()["sampler"] == "consistency"


def test_a_saved_model_gives_the_same_images(tmp_path: Path) -> None:
    model = Model(make(labels=("a", "b"), guide=True))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    options = {"label": [0, 1], "seeds": [1, 2], "num_steps": 3}
    assert np.array_equal(model.sample(**options).array, again.sample(**options).array)


@pytest.mark.parametrize("name", [name for name in presets.names() if name.startswith("flow")])
def test_presets_are_complete(name: str) -> None:
    values = presets.read(name)
    assert values["family"] == "flow"


@pytest.mark.parametrize("net", NETS)
def test_the_simple_generation_is_what_the_sampler_euler_does(net: str) -> None:
    family = make(net=net, labels=("a", "b")).eval()
    condition, seeds = Condition(torch.tensor([0, 1])), [3, 4]
    simple = generate(family, condition, family._noise(seeds), num_steps=6)
    options = {"sampler": "euler", "num_steps": 6, "precision": "float32"}
    with torch.no_grad():
        fast = family.sample(condition, seeds=seeds, **options)
    inside = (simple.abs() < 0.9).flatten(1).all(1)  # the sampler bounds predicted images as well
    torch.testing.assert_close(simple[inside], fast[inside], rtol=1e-4, atol=1e-4)
    assert (simple - fast).abs().mean() < 0.02


def test_the_likelihood_is_larger_where_the_prediction_is_right() -> None:
    """A network that predicts grey everywhere finds grey images likely, and others the less the brighter."""
    torch.manual_seed(0)
    shape = {"width": 4, "height": 4, "channels": 1}
    family = build(parse_config({"family": "flow", **shape, "net": "dit", **NETS["dit"]}))
    assert isinstance(family, Flow)
    images = torch.tensor([0.0, 0.05, 0.3]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    with torch.no_grad():
        bits = family.eval().bits_per_dim(Batch(images), torch.Generator().manual_seed(1))
    assert bits[0] < 2 < bits[1] < bits[2]
