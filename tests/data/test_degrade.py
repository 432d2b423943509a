"""Degradations: each does what it is called, in order, and follows from the seed, the image and the epoch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from danqing.data import Augment, Batches, open_dataset
from danqing.data.degrade import Degradation, source_images
from danqing.errors import ConfigError
from danqing.images import to_float, to_uint8
from danqing.training.config_reading import resolve

from .pictures import write

SEEDS = [3, 1, 4, 1]


def pictures(channels: int = 3, side: int = 24) -> Tensor:
    """Four images with edges, float32 `[4, c, side, side]`; the second and the last are the same."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, channels, side // 4, side // 4, generator=rng)
    images = torch.kron(coarse, torch.ones(1, 1, 4, 4)) * 2 - 1
    images[3] = images[1]
    return images


def degrade(steps: str, images: Tensor) -> Tensor:
    return Degradation(steps).apply(images, SEEDS)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", ["blur", "down", "noise", "jpeg", "gray", "blur,down4,noise,jpeg,gray"])
def test_any_step_takes_any_channels_and_gives_levels_of_a_file(steps: str, channels: int) -> None:
    images = pictures(channels)
    found = degrade(steps, images)
    wanted = {3: 1, 4: 2}.get(channels, channels) if "gray" in steps else channels
    assert found.shape == (4, wanted, 24, 24)
    assert found.shape[1] == Degradation(steps).channels(channels)
    assert torch.equal(to_float(to_uint8(found)), found)
    assert torch.equal(found[1], found[3]), "the same image and seed must give the same"
    alone = Degradation(steps).apply(images[2:3], SEEDS[2:3])
    torch.testing.assert_close(alone[0], found[2], rtol=0, atol=2 / 255)
    if steps in ("blur", "down", "noise", "jpeg"):
        assert not torch.allclose(found[:, 0], images[:, 0], atol=0.01)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_shrink_averages_squares_and_the_steps_after_it_see_small_images(channels: int) -> None:
    images = pictures(channels, 24)[:, :, :23, :17]
    steps = Degradation("shrink2,shrink2")
    assert (steps.scale, steps.is_average) == (4, True)
    found = degrade("shrink4", images)
    assert found.shape == (4, channels, 6, 5)
    if channels in (1, 3):
        means = images[:, :, :20, :16].unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))
        torch.testing.assert_close(found[:, :, :5, :4], means, rtol=0, atol=1.01 / 255)
    noisy = Degradation("shrink4,noise0.1")
    assert (noisy.scale, noisy.is_average) == (4, False)
    assert (noisy.apply(images, SEEDS) - found)[:, 0].std() > 0.1
    assert steps.apply(images[:0], []).shape == (0, channels, 6, 5)


def test_sources_of_pairs_may_be_shrunk(tmp_path: Path) -> None:
    write(tmp_path, [f"{side}/{n}.png" for side in "AB" for n in range(4)])
    dataset, steps = open_dataset(tmp_path, pairs="A:B"), Degradation("shrink4")
    batch = Batches(dataset, 4, seed=1, degrade=steps).at(0)
    rows = Batches(dataset, 4, seed=1).indices(0).tolist()
    assert batch.condition.image is not None
    assert torch.equal(batch.condition.image, source_images(dataset, rows, steps, seed=0))
    config = resolve(preset="upscale-64", settings={"data.pairs": "A:B"}).for_data(dataset)
    assert (config.model.source_scale, config.model.source_is_average) == (4, False)


def test_blur_keeps_the_mean_and_has_the_given_width() -> None:
    point = torch.full((1, 1, 41, 41), -1.0)
    point[0, 0, 20, 20] = 1.0
    found = (Degradation("blur1").apply(point, [0]) + 1) / 2
    assert found.sum().item() == pytest.approx(1, abs=0.1)
    assert found[0, 0, 20, 20].item() == pytest.approx(1 / (2 * torch.pi), abs=0.005)


def test_down_keeps_the_means_of_large_squares_and_nothing_finer() -> None:
    images = pictures()
    stripes = torch.tensor([0.4, -0.4]).repeat(12)
    found = degrade("down4", 0.5 * images + stripes)
    assert (found - 0.5 * images).abs().mean() < 0.25
    assert (degrade("down24", images).amax((2, 3)) - degrade("down24", images).amin((2, 3))).max() < 1e-6


def test_noise_has_the_given_strength() -> None:
    grey = torch.zeros(1, 1, 100, 100)
    assert (Degradation("noise0.1").apply(grey, [5]) - grey).std().item() == pytest.approx(0.2, rel=0.05)


def test_a_lower_quality_of_jpeg_is_further_from_the_image() -> None:
    images = pictures()
    errors = [(degrade(f"jpeg{quality}", images) - images).abs().mean() for quality in (90, 40, 5)]
    assert errors == sorted(errors)


def test_steps_are_applied_in_their_order() -> None:
    images = pictures()
    after, before = degrade("noise0.2,blur2", images), degrade("blur2,noise0.2", images)
    smooth = degrade("blur2", images)
    assert (after - smooth).std() < 0.3 * (before - smooth).std()


def test_hidden_colours_do_not_bleed() -> None:
    images = torch.ones(1, 4, 16, 16)
    images[:, 0] = -1.0
    images[:, :, :, 8:] = torch.tensor([1.0, -1, -1, -1])[:, None, None]  # red, and transparent
    found = Degradation("blur2").apply(images, [0])
    assert found[0, 0, :, :8].max() < -0.9


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("blurr", "'blurr' is not a step: use blur, down, noise, jpeg, gray, dose, shrink"),
        ("shrink", "shrink takes a whole number from 2 to 16 after its name"),
        ("blur,,jpeg", "'' is not a step"),
        ("down1", "down takes a whole number from 2 to 32"),
        ("down2.5", "down takes a whole number"),
        ("jpeg0", "jpeg takes a whole number from 1 to 95"),
        ("noise2", r"noise takes a number from 0\.001 to 1 after its name"),
        ("gray3", "gray takes nothing after its name"),
        ("blur.", "blur takes a number"),
    ],
)
def test_a_step_that_means_nothing_is_refused(steps: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Degradation(steps)
    with pytest.raises(ConfigError, match=sentence):
        resolve(preset="gan-32", settings={"degrade": steps})


def test_a_degradation_is_told_in_words() -> None:
    told = Degradation(" blur, down4,jpeg40 ,gray").in_words()
    assert told == (
        "blur of 0.4 to 2 pixels, sides divided by 4 and enlarged again, JPEG of quality 40, grey"
    )


def test_a_batch_has_the_degraded_copy_of_each_augmented_image(tmp_path: Path) -> None:
    write(tmp_path, [f"{n}.png" for n in range(6)])
    dataset, steps = open_dataset(tmp_path), Degradation("noise0.01")
    batches = Batches(dataset, 6, seed=2, augment=Augment(flip=True, crop=0.2), degrade=steps)
    first, second = batches.at(0), batches.at(6)
    for batch in (first, second):
        assert batch.condition.image is not None
        assert (batch.condition.image - batch.images).abs().max() < 0.2
    again = Batches(dataset, 3, seed=2, degrade=steps)
    plain = Batches(dataset, 6, seed=2, degrade=steps).at(0)
    assert plain.condition.image is not None
    assert torch.equal(plain.condition.image[3:], again.at(3).condition.image)  # type: ignore[arg-type]
    noise = {
        index: plain.condition.image[row] - plain.images[row]
        for row, index in enumerate(batches.indices(0).tolist())
    }
    later = Batches(dataset, 6, seed=2, degrade=steps).at(6)
    assert later.condition.image is not None
    for row, index in enumerate(batches.indices(6).tolist()):
        assert not torch.equal(later.condition.image[row] - later.images[row], noise[index])


def test_sources_of_pairs_are_augmented_as_their_targets(tmp_path: Path) -> None:
    write(tmp_path, [f"{side}/{n}.png" for side in "AB" for n in range(4)])
    for n in range(4):  # both images of a pair are the same, so that what is done to them can be compared
        (tmp_path / "B" / f"{n}.png").write_bytes((tmp_path / "A" / f"{n}.png").read_bytes())
    dataset = open_dataset(tmp_path, pairs="A:B")
    augment = Augment(flip=True, crop=0.3, rotation=20, scale=0.2, colour=0.2)
    batch = Batches(dataset, 4, seed=1, augment=augment, prefetch=True).at(0)
    assert batch.condition.image is not None
    assert torch.equal(batch.condition.image, batch.images)
    assert torch.equal(source_images(dataset, [2, 0], None, seed=0), to_float(dataset.images([2, 0])))


def test_sources_outside_of_training_follow_from_seed_and_image(tmp_path: Path) -> None:
    write(tmp_path, [f"{n}.png" for n in range(4)])
    dataset, steps = open_dataset(tmp_path), Degradation("noise,jpeg")
    found = source_images(dataset, [3, 1], steps, seed=7)
    assert torch.equal(found[1:], source_images(dataset, [1], steps, seed=7))
    assert not torch.equal(found, source_images(dataset, [3, 1], steps, seed=8))


def test_who_reads_no_source_image_refuses_to_degrade(tmp_path: Path) -> None:
    write(tmp_path, ["1.png", "2.png"])
    config = resolve(preset="gan-32", settings={"degrade": "blur"})
    with pytest.raises(ConfigError, match=r"A gan does not restore images: leave data\.degrade out"):
        config.for_data(open_dataset(tmp_path))
    with pytest.raises(ConfigError, match="leave degrade or pairs out"):
        resolve(preset="gan-32", settings={"degrade": "blur", "pairs": "A:B"})
