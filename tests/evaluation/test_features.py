"""Features on disk: the same in any batches, found again, and gone when they should be."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from danqing.errors import EvaluationError
from danqing.evaluation import features
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.features import Features, extract
from danqing.evaluation.networks import open_network
from danqing.evaluation.networks.pixels import Pixels
from danqing.randomness import generator


@dataclass
class Drawn:
    """Images that follow from their number: nothing is held in memory."""

    count: int
    size: tuple[int, int] = (8, 6)
    channels: int = 3
    label_names: tuple[str, ...] = ()
    order: Tensor | None = None
    asked: list[int] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return f"drawn {self.count} {self.size} {self.channels}"

    def __len__(self) -> int:
        return self.count

    def images(self, indices: np.ndarray) -> Tensor:
        self.asked.append(len(indices))
        numbers = indices.tolist() if self.order is None else self.order[indices].tolist()
        shape = (self.size[1], self.size[0], self.channels)
        return torch.stack(
            [
                torch.randint(256, shape, dtype=torch.uint8, generator=generator(0, "drawn", number))
                for number in numbers
            ]
        )

    def labels_at(self, indices: np.ndarray) -> np.ndarray:
        return np.full(len(indices), -1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path))
    return tmp_path / "features"


def test_features_are_those_of_the_network_in_the_order_of_the_images() -> None:
    images, network = Drawn(70), open_network("pixels")
    seen = []
    found = extract(images, network, keep=False, on_progress=lambda *told: seen.append(told))
    expected = network.features(images.images(np.arange(70)))
    assert found.shape == (70, 768)
    assert torch.equal(found[:], expected)
    assert torch.equal(found[13:20], expected[13:20])
    assert torch.equal(found[-5:], expected[-5:])
    assert found[70:90].shape == (0, 768)
    assert seen[-1] == (70, 70, "Features of pixels")
    assert found.info.sha256 == network.sha256


def test_kept_features_are_computed_once(cache: Path) -> None:
    first = extract(Drawn(9), open_network("pixels"), keep=True)
    (file,) = cache.glob("*.safetensors")
    assert torch.equal(load_file(file)["features"], first[:])
    again = Drawn(9)
    assert torch.equal(extract(again, open_network("pixels"), keep=True)[:], first[:])
    assert again.asked == []


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_cache_is_computed_anew(cache: Path, damage: bytes | None) -> None:
    first = extract(Drawn(9), open_network("pixels"), keep=True)[:]
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert torch.equal(extract(Drawn(9), open_network("pixels"), keep=True)[:], first)


def test_features_are_cached_by_all_that_they_follow_from(cache: Path) -> None:
    for images in (Drawn(3), Drawn(4)):
        for change in (
            *({}, {"sha256": "0"}, {"resizer": "another"}, {"normalization": "x"}),
            {"precision": "bfloat16"},
        ):
            network = open_network("pixels")
            for name, value in change.items():
                setattr(network, name, value)
            extract(images, network, keep=True)
    assert len(list(cache.glob("*.safetensors"))) == 10


def test_features_of_a_users_module_are_not_kept_since_its_code_may_change(cache: Path) -> None:
    class Mine(nn.Module):
        def __init__(self, factor: int) -> None:
            super().__init__()
            self.factor = factor  # neither a weight nor a part of its name

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x.mean((2, 3))

    first, second = (extract(Drawn(3), open_network(Mine(factor)), keep=True)[:] for factor in (1, 2))
    assert torch.equal(second, 2 * first)
    assert list(cache.iterdir()) == []


def test_what_is_not_kept_has_no_name_and_leaves_nothing(cache: Path) -> None:
    found = extract(Drawn(5), open_network("pixels"), keep=False)
    assert list(cache.iterdir()) == []
    assert isinstance(found, Features)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_batches_order_and_chunks_change_no_feature(data: st.DataObject) -> None:
    """The tolerance is a millionth of the largest feature."""
    count = data.draw(st.integers(1, 45))
    network = data.draw(st.sampled_from(_NETWORKS))()
    images = Drawn(count, size=data.draw(st.sampled_from([(8, 6), (32, 32)])))
    expected = network.features(images.images(np.arange(count)))
    images.order = torch.tensor(data.draw(st.permutations(range(count))))
    at_once = features._AT_ONCE
    try:
        features._AT_ONCE = data.draw(st.integers(1, 50))
        found = extract(images, network, keep=False)
    finally:
        features._AT_ONCE = at_once
    assert (found[:] - expected[images.order]).abs().max() <= 1e-6 * expected.abs().max()


def _lite() -> FeatureNetwork:
    return open_network("efficientnet-lite0")


_NETWORKS: tuple[Callable[[], FeatureNetwork], ...] = (Pixels, _lite)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Resident memory, in a process of its own: what others left behind would hide what is taken."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from danqing.evaluation.features import extract
from danqing.evaluation.networks import open_network
from danqing.machine import resident_memory
from test_features import Drawn
peak = 0
def watch(*_):
    global peak
    peak = max(peak, resident_memory())
for count in (500, 500, 4000):
    extract(Drawn(count), open_network("pixels"), keep=False, on_progress=watch)
    print(peak)
"""
    environment = os.environ | {"DANQING_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    _, few, many = map(int, run.stdout.split())
    assert many - few < 4 * 2**20  # the features of 3,500 images more are 10 MiB


def test_a_killed_extraction_leaves_no_half_file(cache: Path) -> None:
    script = f"""
import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from danqing.evaluation.features import extract
from danqing.evaluation.networks import open_network
from test_features import Drawn
def die(done, total, message):
    if done > 256: os.kill(os.getpid(), signal.SIGKILL)
extract(Drawn(600), open_network("pixels"), keep=True, on_progress=die)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert list(cache.glob("*.safetensors")) == []
    extract(Drawn(600), open_network("pixels"), keep=True)
    assert [file.suffix for file in sorted(cache.iterdir())] == [".lock", ".safetensors"]


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "file"))
    with pytest.raises(EvaluationError, match="DANQING_CACHE"):
        extract(Drawn(2), open_network("pixels"), keep=True)
