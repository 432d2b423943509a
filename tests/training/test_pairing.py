"""Batches whose noise chooses the images: even, paired, and the same after a run is killed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.data import Augment, Dataset, open_dataset
from danqing.families import transport
from danqing.families.vae import VAEConfig
from danqing.images import to_float
from danqing.training.listener import Listener, Progress
from danqing.training.pairing import PairedBatches, open_batches
from tests.small_run import SMALL

COUNT = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        base = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(base.repeat(2, 0).repeat(2, 1)).save(folder / f"{number}.png")
    return open_dataset(folder, cache_dir=tmp_path_factory.mktemp("cache"))


class Heard(Listener):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.fitted = 0

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_data(self, done: int, total: int, text: str) -> None:
        self.fitted += 1


def opened(
    dataset: Dataset, folder: Path, *, is_begun: bool = False, listener: Listener | None = None, **changes
) -> PairedBatches:
    options = {"batch_size": 8, "seed": 3, "device": "cpu", "augment": Augment(), **changes}
    file = folder / "transport.safetensors"
    return open_batches(dataset, file, listener or Listener(), is_begun=is_begun, **options)


def test_each_image_is_the_one_that_its_noise_belongs_to(dataset: Dataset, tmp_path: Path) -> None:
    batches = opened(dataset, tmp_path)
    batch = batches.at(16)
    assert batch.noise is not None
    assert batch.noise.shape == batch.images.shape == (8, 3, 8, 10)
    points = transport.reduced(to_float(dataset.images(np.arange(COUNT))), 16)
    scores = transport.reduced(batch.noise, 16) @ points.T + batches.potentials
    assert batches.indices(16).tolist() == scores.argmax(1).tolist()
    assert torch.equal(batch.images, to_float(dataset.images(batches.indices(16))))


def test_noise_is_normal_and_images_come_equally_often(dataset: Dataset, tmp_path: Path) -> None:
    batches, rounds = opened(dataset, tmp_path, batch_size=COUNT), 60
    chosen = np.concatenate([batches.indices(COUNT * number) for number in range(rounds)])
    counts = np.bincount(chosen, minlength=COUNT)
    assert counts.sum() == rounds * COUNT
    assert abs(counts - rounds).max() < 5 * rounds**0.5
    noise = torch.cat([batches.at(COUNT * number).noise for number in range(5)])
    assert float(noise.mean().abs()) < 5 / noise.numel() ** 0.5
    assert float(noise.std()) == pytest.approx(1, abs=5 / (2 * noise.numel()) ** 0.5)


def test_pairs_are_closer_than_independent_ones(dataset: Dataset, tmp_path: Path) -> None:
    batches = opened(dataset, tmp_path, batch_size=64)
    batch = batches.at(0)
    together = (batch.noise * batch.images).flatten(1).sum(1)
    apart = (batch.noise * batch.images.roll(1, 0)).flatten(1).sum(1)
    assert float(together.mean()) > float(apart.mean()) + 10


@pytest.mark.parametrize("augment", [Augment(), Augment(flip=True, crop=0.2)])
def test_a_resumed_run_goes_on_with_the_same_pairs_bit_for_bit(
    dataset: Dataset, tmp_path: Path, augment: Augment
) -> None:
    heard = Heard()
    first = opened(dataset, tmp_path, augment=augment, listener=heard)
    assert heard.fitted
    assert "24 images" in heard.messages[0]
    for damaged in (None, b"", b"cut short"):  # the file is there, or must be made again
        if damaged is not None:
            (tmp_path / "transport.safetensors").write_bytes(damaged)
        heard.fitted = 0
        resumed = opened(dataset, tmp_path, is_begun=True, augment=augment, listener=heard)
        assert bool(heard.fitted) == (damaged is not None)
        assert torch.equal(first.potentials, resumed.potentials)
    one, other = first.at(40), resumed.at(40)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.noise, other.noise)


def test_a_new_run_does_not_take_the_potentials_of_an_earlier_try(dataset: Dataset, tmp_path: Path) -> None:
    first = opened(dataset, tmp_path)
    other = opened(dataset, tmp_path, seed=4)
    assert not torch.equal(first.potentials, other.potentials)


def test_a_mirror_image_has_noise_of_its_own(dataset: Dataset, tmp_path: Path) -> None:
    batches = opened(dataset, tmp_path, augment=Augment(flip=True), batch_size=32)
    batch, plain = batches.at(0), to_float(dataset.images(batches.indices(0)))
    mirrored = (batch.images != plain).flatten(1).any(1)
    assert 5 < int(mirrored.sum()) < 27
    assert torch.equal(batch.images[mirrored], plain[mirrored].flip(3))
    points = torch.cat([transport.reduced(batch.images, 16), transport.reduced(batch.images.flip(3), 16)])
    own, other = (points * transport.reduced(batch.noise, 16).repeat(2, 1)).sum(1).chunk(2)
    assert float((own > other).float().mean()) > 0.6


def test_reading_ahead_changes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    plain = opened(dataset, tmp_path, prefetch=False)
    ahead = opened(dataset, tmp_path, prefetch=True)
    for position in (0, 8, 16, 8, 64):
        one, other = plain.at(position), ahead.at(position)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.noise, other.noise)


class Stops(Listener):
    """Ends a run as a crash does, after some images."""

    def on_progress(self, progress: Progress) -> None:
        if progress.images >= 128:
            raise RuntimeError("stopped")


def test_a_run_that_stops_and_resumes_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(VAEConfig, "noise_chooses_images", property(lambda self: True))
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")

    def train(out: str, listener: Listener) -> bytes:
        settings = {**SMALL, "checkpoint_seconds": "0.0001"}
        options = {"size": (8, 8), "images": 256, "settings": settings, "listener": listener}
        run = dq.train(tmp_path / "pictures", preset="vae-32", out=tmp_path / out, **options)
        return (run.model / "model.safetensors").read_bytes()

    whole = train("whole", heard := Heard())
    assert heard.fitted
    assert any("paired" in message for message in heard.messages)
    with pytest.raises(RuntimeError, match="stopped"):
        train("stopped", Stops())
    assert train("stopped", Listener()) == whole
    files = [tmp_path / out / "transport.safetensors" for out in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    monkeypatch.setattr(VAEConfig, "noise_chooses_images", property(lambda self: False))
    assert train("independent", Listener()) != whole
