"""Images of many aspect ratios: a few sizes of one area, batches of one size, and nothing left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from danqing.cli import main
from danqing.data import Augment, Batches, Dataset, decoding, open_dataset
from danqing.data.buckets import LEAST_SHARE, MOST, choose, nearest
from danqing.data.order import BucketOrder
from danqing.data.splits import open_held
from danqing.errors import DataError
from danqing.image_files import decode
from danqing.images import conform, to_uint8

from .pictures import picture

SHAPES = {"wide": (60, 40), "tall": (40, 60), "square": (50, 50)}
SIDES = st.integers(16, 2000)


def write_mixed(folder: Path, count: int = 30) -> Path:
    """Write as many pictures of each shape, under names that mix the shapes."""
    for number in range(count):
        for name, (width, height) in SHAPES.items():
            path = folder / f"{number:03d}-{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(len(name) * 1000 + number, width, height)).save(path)
    Image.fromarray(picture(7, 100, 20)).save(folder / "a banner.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed(tmp_path_factory.mktemp("mixed"))


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder, size=(16, 16), buckets=True)


@given(st.tuples(SIDES, SIDES), st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_buckets_are_few_of_one_area_and_each_holds_images(
    target: tuple[int, int], found: list[tuple[int, int]]
) -> None:
    buckets = choose(target, found)
    area = target[0] * target[1]
    step = 8 if area >= 64 * 64 else 4
    assert 1 <= len(buckets) <= MOST
    for width, height in buckets:
        assert width % step == height % step == 0
        assert abs(width * height / area - 1) <= 0.15
    held = np.bincount([nearest(size, buckets) for size in found], minlength=len(buckets))
    assert held.min() >= LEAST_SHARE * len(found)
    assert list(held) == sorted(held, reverse=True)


def test_photographs_lose_little_and_images_of_one_shape_have_one_bucket() -> None:
    photographs = [(6000, 4000)] * 50 + [(4000, 6000)] * 30 + [(4032, 3024)] * 20
    buckets = choose((128, 128), photographs)
    lost = []
    for width, height in photographs:
        ratio = width / height * np.divide(*buckets[nearest((width, height), buckets)][::-1])
        lost.append(1 - min(ratio, 1 / ratio))
    assert np.mean(lost) < 0.05  # of a square, a third would be left
    assert choose((128, 128), [(500, 500)] * 9) == ((128, 128),)


def test_each_image_is_cached_at_its_own_bucket_and_shown_at_one_size(folder: Path, dataset: Dataset) -> None:
    files = sorted(folder.iterdir())
    assert len(dataset) == len(files) == 91
    assert dataset.sizes == (dataset.size, *dataset.sizes[1:])
    assert len(set(dataset.sizes)) == 3
    buckets = dataset.buckets_at(range(91))
    for number, file in enumerate(files):
        with Image.open(file) as image:
            size = dataset.sizes[nearest(image.size, dataset.sizes)]
        expected = decode(file, size=size)
        assert dataset.sizes[buckets[number]] == size
        assert np.array_equal(dataset.full_depth([number])[0].numpy(), expected)
        assert np.array_equal(dataset.images([number])[0].numpy(), conform(expected, size=dataset.size))
    assert dataset.images(range(91)).shape == (91, *dataset.size[::-1], 3)
    with pytest.raises(DataError, match="These images have 3 sizes"):
        dataset.full_depth(range(91))
    assert np.bincount(dataset.subset([5, 6, 7]).buckets_at([0, 1, 2])).max() < 3
    assert "2 other sizes" in repr(dataset)


def test_threads_and_processes_give_the_same_buckets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_threads = open_dataset(folder, size=(20, 20), buckets=True)
    monkeypatch.setattr(decoding, "FEW", 10)
    by_processes = open_dataset(folder, size=(20, 20), buckets=True, background="#fffffe")
    assert np.array_equal(by_processes.images(range(91)), by_threads.images(range(91)))
    assert np.array_equal(by_processes.buckets_at(range(91)), by_threads.buckets_at(range(91)))


def test_buckets_that_are_given_are_those_that_were_chosen(folder: Path, dataset: Dataset) -> None:
    again = open_dataset(folder, size=dataset.size, buckets=dataset.sizes)
    assert again.cache != dataset.cache
    assert again.fingerprint == dataset.fingerprint
    assert open_dataset(folder, size=(16, 16)).fingerprint != dataset.fingerprint


def test_images_that_are_held_out_have_the_buckets_of_the_others(folder: Path, tmp_path: Path) -> None:
    held = open_held(folder, size=(16, 16), buckets=True)
    assert held.judged.sizes == held.training.sizes
    assert len(held.judged) + len(held.training) == 91
    for number in range(12):
        for split, size in (("train", (60, 40)), ("train", (40, 60)), ("validation", (50, 50))):
            path = tmp_path / split / f"{number}-{size[0]}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture(number, *size)).save(path)
    held = open_held(tmp_path, size=(16, 16), buckets=True)
    assert held.split == "validation"
    assert held.judged.sizes == held.training.sizes
    assert held.judged.images(range(12)).shape[1:3] == held.training.size[::-1]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 24), st.integers(0, 5), st.data())
@settings(max_examples=40, deadline=None)
def test_an_epoch_of_a_bucket_skips_and_repeats_nothing(
    counts: list[int], batch_size: int, seed: int, data: st.DataObject
) -> None:
    names = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = BucketOrder(names, batch_size, seed)
    drawn = [order.at(batch * batch_size) for batch in range(3 * sum(counts) // batch_size + 4)]
    streams: list[list[int]] = [[] for _ in counts]
    for number, batch in enumerate(drawn):
        (bucket,) = np.unique(names[batch.indices])
        streams[bucket] += batch.indices.tolist()
        rounds = (number + 1) * batch_size / sum(counts)
        for stream, count in zip(streams, counts, strict=True):  # they take turns
            assert (rounds - 2) * count - len(counts) * batch_size < len(stream)
            assert len(stream) < (rounds + 2) * count + len(counts) * batch_size
    for bucket, stream in enumerate(streams):
        members = np.flatnonzero(names == bucket).tolist()
        for start in range(0, len(stream) - len(members) + 1, len(members)):
            assert sorted(stream[start : start + len(members)]) == members
    position = data.draw(st.integers(0, len(drawn) - 1))
    again = BucketOrder(names, batch_size, seed).at(position * batch_size)
    assert np.array_equal(again.indices, drawn[position].indices)


def test_a_batch_holds_images_of_one_size_and_repeats_by_position(dataset: Dataset) -> None:
    augment = Augment(flip=True, rotation=10, crop=0.1, colour=0.1)
    plain, changed = Batches(dataset, 7, seed=3), Batches(dataset, 7, seed=3, augment=augment, prefetch=True)
    sizes = set()
    for position in range(0, 7 * 20, 7):
        batch, indices = plain.at(position), plain.indices(position)
        assert torch.equal(to_uint8(batch.images), dataset.full_depth(indices))
        assert changed.at(position).images.shape == batch.images.shape
        sizes.add(tuple(batch.images.shape[-2:]))
    assert sizes == {size[::-1] for size in dataset.sizes}
    assert torch.equal(changed.at(49).images, Batches(dataset, 7, seed=3, augment=augment).at(49).images)


def test_pairs_need_one_size(tmp_path: Path) -> None:
    for name in ("sketches", "photos"):
        write_mixed(tmp_path / name, 5)
    with pytest.raises(DataError, match="Pairs need one size"):
        open_dataset(tmp_path, size=(16, 16), buckets=True, pairs="sketches:photos")


def test_check_prints_the_buckets_with_their_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for words in (["--json"], []):
        with pytest.raises(SystemExit) as left:
            main(["data", "check", str(folder), "--size", "auto:16", *words])
        assert not left.value.code
        printed.append(capsys.readouterr().out)
    buckets = json.loads(printed[0])["buckets"]
    assert sum(bucket["images"] for bucket in buckets) == 91
    for bucket in buckets:
        width, height = bucket["size"]
        assert f"{width}x{height} {bucket['images']}" in printed[1]
    assert "each is cropped and resized to the nearest of 3 sizes" in printed[1]
