"""Flow on latents: every verb goes through the tokenizer, and images keep the promises of flow on pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import Compresses, Fills, HasLikelihood, Varies
from danqing.families.base import Batch, Condition
from danqing.families.flow_variants import LatentFlow
from danqing.images import Images
from danqing.model.loading import load
from danqing.model.model import Model
from danqing.requested import image_seeds
from danqing.samplers import SAMPLERS

TOKENIZERS: dict[str, dict[str, Any]] = {
    "vae": {
        "family": "vae",
        "net": "grid",
        "latents": 2,
        "features": 8,
        "downsamplings": 1,
        "prior": "normal",
    },
    "vqvae": {
        "family": "vqvae",
        "features": 8,
        "blocks": 0,
        "vocabulary": 16,
        "code_width": 2,
        "downsamplings": 1,
    },
}
NET = {"net": "hybrid", "widths": (8, 16), "layers": 1, "heads": 2, "prediction": "velocity"}
STATISTICS = {"mean": (0.5, -0.2), "deviation": (2.0, 0.5)}


def make(
    tokenizer: str = "vae", channels: int = 3, size: tuple[int, int] = (8, 8), **settings: Any
) -> LatentFlow:
    """Build a tiny model whose output is not zero, as that of fresh weights is."""
    torch.manual_seed(0)
    shape = {"height": size[0], "width": size[1], "channels": channels}
    first = {"tokenizer": {**TOKENIZERS[tokenizer], **shape}, "latent_statistics": STATISTICS}
    family = families.build(families.parse_config({"family": "flow", **NET, **shape, **first, **settings}))
    assert isinstance(family, LatentFlow)
    for parameter in family.network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return family.eval()


def pictures(n: int, seed: int = 0, channels: int = 3, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    return torch.rand((n, channels, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (2, (17, 23)), (4, (5, 4))])
def test_any_size_and_channels_train_the_network_alone_and_sample(
    tokenizer: str, channels: int, size: tuple[int, int]
) -> None:
    family = make(tokenizer, channels, size).train()
    assert not family.tokenizer.training, "a codebook learns while it trains"
    (phase,) = family.phases()
    batch = Batch(pictures(3, channels=channels, size=size))
    family.loss(batch, phase, torch.Generator()).total.backward()
    missing = [name for name, p in family.network.named_parameters() if p.grad is None]
    assert not missing, "these learn nothing"
    assert all(p.grad is None for p in family.tokenizer.parameters())
    with torch.no_grad():
        images = family.eval().sample(Condition(), seeds=[1, 2, 3], num_steps=3)
    assert images.shape == (3, channels, *size)
    assert images.abs().max() <= 1


def test_latents_are_normalized_by_the_statistics_and_read_from_the_batch() -> None:
    family, images = make(), pictures(4)
    raw = family.codec.compress(images)
    mean, deviation = (torch.tensor(STATISTICS[name]).view(-1, 1, 1) for name in ("mean", "deviation"))
    torch.testing.assert_close(family.latents_of(images), (raw - mean) / deviation)
    cached = Batch(torch.empty(4, 0, 0, 0), codes=raw)
    assert torch.equal(family.batch_latents(cached), family.latents_of(images))
    (phase,) = family.phases()
    losses = [
        family.loss(batch, phase, torch.Generator().manual_seed(1)).total for batch in (cached, Batch(images))
    ]
    assert torch.equal(*losses)
    model = Model(family)
    shown = Images(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8))
    latents = model.encode(shown)
    assert latents.shape == (4, 2, 4, 4)
    assert np.array_equal(model.decode(latents).array, model.reconstruct(shown).array)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_seed_alone_gives_the_same_bits_as_in_a_batch(tokenizer: str, sampler: str) -> None:
    model = Model(make(tokenizer, labels=("a", "b")))
    options = {"sampler": sampler, "num_steps": 3, "guidance_scale": 1.5, "guidance_end": 0.5}
    labels = [0, 1] * 8
    together = model.sample(label=labels, seeds=range(16), **options).array
    for seed in (0, 15):
        alone = model.sample(label=labels[seed], seeds=[seed], **options).array
        assert np.array_equal(alone[0], together[seed]), (sampler, seed)
    assert not np.array_equal(together[0], together[2])


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_other_sizes_are_generated_and_not_resampled(tokenizer: str) -> None:
    model = Model(make(tokenizer, size=(15, 15)))  # 8x8 places of 2x2 pixels
    assert model.sizes.in_words() == "15x15, or sides in multiples of 4 with 112 to 450 pixels"
    own = model.sample(2, num_steps=2).array
    assert np.array_equal(model.sample(2, size=(15, 15), num_steps=2).array, own)
    for width, height in ((24, 16), (12, 20), (16, 16)):  # the last one has as many places as its own size
        options: dict[str, Any] = {"size": (width, height), "num_steps": 2}
        previews: list[Any] = []
        together = model.sample(
            16, on_step=lambda done, steps, preview, into=previews: into.append(preview()), **options
        ).array
        assert {together.shape, *(each.array.shape for each in previews)} == {(16, height, width, 3)}
        seed = image_seeds(16, 0, None)[7]
        assert np.array_equal(model.sample(seeds=[seed], **options).array[0], together[7])
    with pytest.raises(ConfigError, match="does not sample 18x16: choose 15x15, or sides in multiples of 4"):
        model.sample(size=(18, 16))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_first_stage_learns_images_of_other_sizes(tokenizer: str) -> None:
    config = families.parse_config({**TOKENIZERS[tokenizer], "height": 8, "width": 8, "channels": 3})
    assert config.takes_sizes
    family = families.build(config)
    for size in ((8, 8), (6, 12), (5, 9)):
        batch = Batch(pictures(2, size=size))
        loss = family.loss(batch, family.phases()[0], torch.Generator()).total
        loss.backward()
        assert loss.isfinite()
        assert family.rebuilt(batch).shape == batch.images.shape  # type: ignore[operator]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_seamless_image_moves_with_the_first_map_of_its_decoder(tokenizer: str) -> None:
    family = make(tokenizer)

    def sample(seamless: str, down: int = 0, across: int = 0) -> torch.Tensor:
        """Sample with the first map of the decoder moved by some places."""
        hook = family.tokenizer.decoder.first.register_forward_hook(  # type: ignore[union-attr,operator]
            lambda _module, _inputs, output: torch.roll(output, (down, across), (-2, -1))
        )
        with hook, torch.no_grad():
            return family.sample(Condition(), seeds=[1, 2], size=(12, 8), num_steps=2, seamless=seamless)

    for seamless in ("none", "x", "y", "both"):
        for down, across in ((1, 0), (0, 2)):
            expected = torch.roll(sample(seamless), (2 * down, 2 * across), (-2, -1))
            wraps = (not down or seamless in ("y", "both")) and (not across or seamless in ("x", "both"))
            assert torch.allclose(sample(seamless, down, across), expected, atol=1e-5) == wraps
    assert not torch.equal(sample("both"), sample("none"))
    with pytest.raises(ConfigError, match="sides in multiples of 4, and these have 10x8"):
        family.check_seamless((10, 8))


@pytest.mark.parametrize("size", [(8, 8), (17, 13)])
def test_filling_keeps_every_other_byte_and_does_not_see_what_is_covered(size: tuple[int, int]) -> None:
    model, rng = Model(make(size=size)), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, *size, 3), dtype=np.uint8)
    mask = np.zeros((3, *size), bool)
    mask[:, 3:5, 2:6] = True
    filled = model.fill(Images(pixels), mask, seeds=[4, 5, 6], num_steps=3).array
    assert np.array_equal(filled[~mask], pixels[~mask])
    other = np.where(mask[..., None], rng.integers(0, 256, pixels.shape, dtype=np.uint8), pixels)
    assert np.array_equal(model.fill(Images(other), mask, seeds=[4, 5, 6], num_steps=3).array, filled)
    alone = model.fill(Images(pixels[1:2]), mask[1], seeds=[5], num_steps=3).array
    assert np.array_equal(alone[0], filled[1])
    again = model.fill(Images(pixels), mask, seeds=[7, 8, 9], num_steps=3).array
    assert not np.array_equal(again[mask], filled[mask])


def test_all_places_whose_latents_see_a_covered_pixel_are_generated() -> None:
    family = make(size=(17, 13))
    noise, images = torch.zeros(1, *family.codec.latent_shape), pictures(1, size=(17, 13))
    for row, column in ((0, 0), (16, 12), (8, 5)):
        mask = torch.zeros(1, 1, 17, 13)
        mask[..., row, column] = 1
        _, _, generated = family._known(images, mask, noise)
        assert generated[0, 0, row // 2, column // 2] == 1
        assert generated.sum() <= 16


def test_varying_goes_from_the_reconstruction_to_a_sample() -> None:
    family, images = make(), pictures(2, 1)
    with torch.no_grad():
        same = family.vary(images, Condition(), seeds=[1, 2], strength=0.0)
        fresh = family.vary(images, Condition(), seeds=[1, 2], strength=1.0, num_steps=3)
        sampled = family.sample(Condition(), seeds=[1, 2], num_steps=3)
        assert torch.equal(same, family.decode(family.encode(images, Condition()), Condition()))
    assert torch.equal(fresh, sampled)
    assert not torch.equal(same, fresh)


def test_previews_are_images_and_the_last_one_is_the_result() -> None:
    family, shown = make(), []
    with torch.no_grad():
        images = family.sample(
            Condition(),
            seeds=[1, 2],
            num_steps=4,
            on_step=lambda done, steps, preview: shown.append(preview()),
        )
    assert [preview.shape for preview in shown] == [images.shape] * 4
    assert torch.equal(shown[-1], images)
    assert not torch.equal(shown[0], images)


def test_a_saved_model_gives_the_same_images(tmp_path: Path) -> None:
    model = Model(make(labels=("a", "b"), guide=True))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    options: dict[str, Any] = {"label": [0, 1], "seeds": [1, 2], "num_steps": 3}
    assert np.array_equal(model.sample(**options).array, again.sample(**options).array)
    assert again.family.config == model.family.config


def test_what_is_learned_from_pixels_alone_is_rejected_with_what_to_do() -> None:
    for settings in (
        {"mask_share": 0.5},
        {"pairs": True},
        {"transport": "semidiscrete", "conditional": False},
    ):
        with pytest.raises(ConfigError, match="learned from pixels: set mask_share = 0, pairs = false and"):
            make(**settings)
    family = make()
    assert isinstance(family, Fills)
    assert isinstance(family, Varies)
    assert not isinstance(family, HasLikelihood)
    shown = Images(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(
        ConfigError, match=r"^A latent flow model cannot compute how likely an image is: use a VAE"
    ):
        Model(family).bits_per_dim(shown)
    with pytest.raises(ConfigError, match="cannot turn one image into another: use a flow model of pairs"):
        Model(family).translate(shown)
    vector = {"family": "vae", "height": 8, "width": 8, "channels": 3}
    with pytest.raises(
        ConfigError, match=r"^A VAE cannot turn images into latents: use a VAE with a grid of lat"
    ):
        families.build(families.parse_config({**vector, "family": "flow", **NET, "tokenizer": vector}))
    assert families.alternatives(Compresses) == "a VAE with a grid of latents or a VQ-VAE"
    with pytest.raises(ConfigError, match="same width, height and channels"):
        make(width=16)
