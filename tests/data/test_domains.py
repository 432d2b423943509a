"""Two domains of any sizes: drawn independently, each image equally often, and repeated by the same seed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from danqing.data import Augment, Batches, Dataset, open_dataset
from danqing.data.splits import hold_out
from danqing.errors import ConfigError, DataError
from danqing.images import to_float

from .pictures import picture, write

HORSES, ZEBRAS = 12, 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = [f"horses/{n}.png" for n in range(HORSES)] + [f"zebras/{n}.png" for n in range(ZEBRAS)]
    return write(tmp_path / "animals", [*names, "dogs/0.png"])


def keys(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def expected(numbers: range) -> set[bytes]:
    return {to_float(torch.from_numpy(picture(n))[None])[0].numpy().tobytes() for n in numbers}


def drawn(dataset: Dataset, count: int, **options: int) -> tuple[Counter[bytes], Counter[bytes]]:
    """How often each source and each target is drawn among the first `count` images, in batches of 4."""
    sources, targets = Counter[bytes](), Counter[bytes]()
    batches = Batches(dataset, 4, seed=1, **options)
    for seen in range(0, count, 4):
        batch = batches.at(seen)
        assert batch.condition.image is not None
        sources.update(keys(batch.condition.image))
        targets.update(keys(batch.images))
    return sources, targets


def test_every_image_of_both_domains_is_drawn_equally_often(folder: Path) -> None:
    dataset = open_dataset(folder, domains="horses:zebras")
    assert dataset.sources is not None
    assert (len(dataset), len(dataset.sources), dataset.label_names) == (ZEBRAS, HORSES, ())
    sources, targets = drawn(dataset, 4 * HORSES * ZEBRAS)
    assert (set(sources), set(targets)) == (expected(range(HORSES)), expected(range(HORSES, HORSES + ZEBRAS)))
    assert set(sources.values()) == {4 * ZEBRAS}
    assert set(targets.values()) == {4 * HORSES}
    backwards = open_dataset(folder, domains="zebras:horses")
    assert drawn(backwards, 4 * HORSES * ZEBRAS) == (targets, sources)


def test_batches_of_domains_follow_from_seed_and_position_alone(folder: Path) -> None:
    dataset = open_dataset(folder, domains="horses:zebras")
    options = {"augment": Augment(flip=True, crop=0.2)}
    forwards, again = (Batches(dataset, 4, seed=3, **options) for _ in range(2))
    found = [forwards.at(seen) for seen in range(0, 40, 4)]
    for seen in (36, 8):  # a run that resumes begins anywhere
        batch, before = again.at(seen), found[seen // 4]
        assert batch.condition.image is not None
        assert before.condition.image is not None
        assert torch.equal(batch.images, before.images)
        assert torch.equal(batch.condition.image, before.condition.image)
    other = Batches(dataset, 4, seed=4, **options).at(8)
    assert not torch.equal(other.images, found[2].images)


def test_a_target_meets_all_sources(folder: Path) -> None:
    dataset, partners = open_dataset(folder, domains="horses:zebras"), set[tuple[bytes, bytes]]()
    batches = Batches(dataset, 4, seed=0)
    for seen in range(0, 4000, 4):
        batch = batches.at(seen)
        assert batch.condition.image is not None
        partners |= set(zip(keys(batch.condition.image), keys(batch.images), strict=True))
    assert len(partners) == HORSES * ZEBRAS


def test_both_domains_are_held_out(folder: Path) -> None:
    dataset = open_dataset(folder, domains="horses:zebras")
    training, judged = hold_out(dataset, 0.4)
    assert training.sources is not None
    assert judged.sources is not None
    sizes = [len(part) for part in (training, judged, training.sources, judged.sources)]
    assert sizes == [3, 2, 7, 5]
    rows = np.arange(len(judged))
    shown = {image.numpy().tobytes() for image in judged.source_images(rows)}
    assert shown <= {image.numpy().tobytes() for image in judged.sources.images(np.arange(5))}
    assert len({part.fingerprint for part in (dataset, training, judged, dataset.beside(None))}) == 4
    assert judged.subset([0]).sources is judged.sources


def test_mistakes_are_explained(folder: Path) -> None:
    for text in ("horses", "horses:", ":zebras", "horses:horses", "a:b:c"):
        with pytest.raises(ConfigError, match="write SOURCE:TARGET, two labels or class folders"):
            open_dataset(folder, domains=text)
    with pytest.raises(DataError, match="no label 'cats': its labels are dogs, horses, zebras"):
        open_dataset(folder, domains="cats:zebras")
