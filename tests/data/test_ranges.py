"""One value range per data set, kept at its depth, said in the report and used for whatever comes later."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from danqing.data import Augment, Batches, cache_build, decoding, open_dataset
from danqing.data.records import ImageSpec
from danqing.data.splits import open_held
from danqing.errors import ConfigError
from danqing.images import to_float
from tests.image_files.test_depths import tiff
from tests.image_files.test_medical import dicom

from .pictures import png


def scans(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(images):
        (folder / f"{number:03d}.tif").write_bytes(tiff(values))
    return folder


def pixels(folder: Path, **options: object) -> np.ndarray:
    dataset = open_dataset(folder, **options)
    return dataset.full_depth(range(len(dataset))).numpy()[:, :, :, 0]


def test_one_value_above_one_does_not_turn_the_others_black(tmp_path: Path) -> None:
    images = [np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8) for _ in range(20)]
    images[3] = images[3].copy()
    images[3][0, 0] = 1.004
    found = pixels(scans(tmp_path, images))
    assert np.array_equal(found[0], np.round(images[0] * 65535))
    assert found[3, 0, 0] == 65535
    assert np.array_equal(found[3].ravel()[1:], found[0].ravel()[1:])


@pytest.mark.parametrize("bits", [10, 12])
def test_ten_and_twelve_bits_stored_in_sixteen_are_not_black(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    images = [np.linspace(0, top, 64).round().astype(np.uint16).reshape(8, 8) for _ in range(20)]
    images[7] = images[7] // 8  # a dark one stays dark
    found = pixels(scans(tmp_path, images))
    assert found[0].max() == 65535
    assert np.array_equal(found[7], np.round(images[7] / top * 65535))


def test_ct_slices_share_one_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        raw = rng.integers(0, 300 if number % 2 else 3000, (8, 8), dtype=np.uint16)
        (tmp_path / f"{number:02d}.tif").write_bytes(tiff(raw.astype(np.int16) - 1000))
    dataset = open_dataset(tmp_path)
    low, high = dataset.range or (0, 0)
    assert -1000 <= low < -990
    assert 1900 < high <= 2000
    mean = dataset.full_depth(range(12)).float().mean((1, 2, 3)) / 65535
    assert mean[1::2].max() < 0.07 < 0.4 < mean[::2].min()
    (note,) = [note for note in dataset.info.report.notes if "becomes black" in note]
    assert f"{low:g} becomes black and {high:g} white" in note
    assert "data.range sets another" in note
    assert dataset.info.range == dataset.range
    again = open_dataset(tmp_path, range=(-1000, 400))
    assert again.range == (-1000, 400)
    assert again.fingerprint != dataset.fingerprint


def test_the_chosen_range_given_again_finds_the_same_cache(tmp_path: Path) -> None:
    images = [np.random.default_rng(n).integers(-900, 900, (8, 8), dtype=np.int16) for n in range(5)]
    first = open_dataset(scans(tmp_path, images))
    second = open_dataset(tmp_path, range=first.range)
    assert (second.cache, second.fingerprint) == (first.cache, first.fingerprint)


def test_files_of_eight_bits_keep_their_full_range_among_deeper_ones(tmp_path: Path) -> None:
    scans(tmp_path, [np.linspace(0, 1000, 64).round().astype(np.uint16).reshape(8, 8)] * 3)
    shallow = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(shallow).save(tmp_path / "x.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.depth, dataset.range) == (16, (0, 1023))
    assert np.array_equal(dataset.full_depth([3])[0, :, :, 0].numpy(), shallow.astype(np.uint16) * 257)
    assert np.array_equal(dataset.images([3])[0, :, :, 0].numpy(), shallow)


@pytest.mark.parametrize("few", [0, 10_000])
def test_sixteen_bits_survive_the_cache_and_reach_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, cache_folder: Path
) -> None:
    monkeypatch.setattr(decoding, "FEW", few)
    images = [np.random.default_rng(n).integers(0, 65536, (8, 6), dtype=np.uint16) for n in range(5)]
    dataset = open_dataset(scans(tmp_path, images))
    assert dataset.depth == 16
    assert dataset.image_bytes == 2 * 8 * 6
    assert np.array_equal(dataset.full_depth(range(5))[:, :, :, 0].numpy(), np.stack(images))
    assert load_file(dataset.cache / "images.safetensors")["images"].dtype == np.uint16
    rounded = np.round(np.stack(images) / 257)
    assert np.array_equal(dataset.images(range(5))[:, :, :, 0].numpy(), rounded)
    batches = Batches(dataset, 5, seed=0)
    batch = batches.at(0).images
    assert batch.dtype == torch.float32
    expected = np.stack(images)[batches.indices(0)] / 32767.5 - 1
    assert np.abs(batch[:, 0].numpy() - expected).max() < 1e-6


def test_a_change_of_one_level_in_sixteen_bits_changes_the_fingerprint(tmp_path: Path) -> None:
    images = [np.random.default_rng(n).integers(0, 65536, (8, 6), dtype=np.uint16) for n in range(3)]
    before = open_dataset(scans(tmp_path / "a", images))
    images[1] ^= 1
    after = open_dataset(scans(tmp_path / "b", images))
    assert before.fingerprint != after.fingerprint
    assert torch.equal(before.images([0, 2]), after.images([0, 2]))


@pytest.mark.parametrize(
    "augment",
    [Augment(), Augment(flip=True, crop=0.2), Augment(rotation=20, scale=0.1, colour=0.2, flip=True)],
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_augmentation_of_sixteen_bits_is_that_of_eight(augment: Augment, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 8, channels), dtype=np.uint8)
    images = torch.from_numpy(noise)
    deep = (images.int() * 257).to(torch.uint16)
    assert torch.allclose(augment.apply(deep, 1, 0), augment.apply(images, 1, 0), atol=1e-4)
    assert torch.allclose(to_float(deep), to_float(images), atol=1e-6)


def test_the_validation_split_has_the_range_of_the_training_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scans(tmp_path / "train", [rng.integers(-1000, 2000, (8, 8), dtype=np.int16) for _ in range(9)])
    scans(tmp_path / "validation", [rng.integers(-50, 50, (8, 8), dtype=np.int16) for _ in range(9)])
    held = open_held(tmp_path)
    assert held.training.range == held.judged.range
    assert held.split == "validation"


def test_a_range_that_is_none_is_refused_and_one_without_effect_is_said(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    with pytest.raises(ConfigError, match="the lower one first"):
        open_dataset(tmp_path, range=(1, 0))
    dataset = open_dataset(tmp_path, range=(0, 100))
    assert any("has no effect" in note for note in dataset.info.report.notes)
    assert dataset.fingerprint == open_dataset(tmp_path).fingerprint
    assert (dataset.depth, dataset.range) == (8, None)


def test_eight_bit_data_keeps_the_fingerprint_that_it_always_had() -> None:
    spec = '{"size": null, "channels": 0, "alpha": "flatten", "background": "#ffffff", "fit": "crop"}'
    assert json.dumps(cache_build._of_pixels(ImageSpec(range=(0, 1), depth=8))) == spec


def test_dicom_files_are_a_data_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(5):
        raw = rng.integers(0, 4096, (8, 8), dtype=np.uint16)
        content = dicom(raw, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024)
        (tmp_path / f"{number}.png").write_bytes(content)  # a suffix that every reader takes
    dataset = open_dataset(tmp_path)
    low, high = dataset.range or (0, 0)
    assert dataset.depth == 16
    assert -1024 <= low < -1000 < 3000 < high <= 3071
