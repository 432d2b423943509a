"""What a model has painted is what `sample` gives, on disk, and takes no memory."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from danqing.errors import EvaluationError
from danqing.evaluation.generated_images import generate_images
from danqing.evaluation.image_sets import batch_size_for
from danqing.evaluation.pixel_rows import PixelRows, hashes
from tests.evaluation.models import small_model


def test_painted_images_are_those_of_sample() -> None:
    model = small_model(labels=["cat", "dog", "hen"], label_frequencies=[0.5, 0.3, 0.2])
    painted, sampled = generate_images(model, 300, seed=3), model.sample(300, seed=3)
    assert (len(painted), painted.size, painted.channels) == (300, (9, 7), 3)
    assert np.array_equal(painted.images(np.arange(300)).numpy(), sampled.array)
    mixed = np.array([7, 8, 9, 2, 299, 2])
    assert np.array_equal(painted.images(mixed).numpy(), sampled.array[mixed])
    assert painted.images(np.arange(0)).shape == (0, 7, 9, 3)
    labels = painted.labels_at(np.arange(300))
    assert np.array_equal(model.sample(300, seed=3, label=labels.tolist()).array, sampled.array)
    assert painted.label_names == ("cat", "dog", "hen")
    assert 100 < (labels == 0).sum() < 200


def test_the_fingerprint_follows_from_seed_and_count_and_nothing_global_is_touched() -> None:
    model = small_model()
    before = torch.get_rng_state()
    first = generate_images(model, 40, seed=1).fingerprint
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert generate_images(model, 40, seed=1).fingerprint == first
    assert (
        len(
            {
                first,
                generate_images(model, 40, seed=2).fingerprint,
                generate_images(model, 41, seed=1).fingerprint,
            }
        )
        == 3
    )
    assert len(first) == hashlib.sha256().digest_size * 2
    assert set(generate_images(model, 3).labels_at(np.arange(3))) == {-1}


def test_no_room_on_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EvaluationError, match="make room there"):
        generate_images(small_model(), 2)


def test_pixels_are_weighted_by_alpha_and_large_images_averaged() -> None:
    class Two:
        fingerprint, channels, size, label_names = "", 4, (64, 128), ()

        def __len__(self) -> int:
            return 2

        def images(self, indices: np.ndarray) -> torch.Tensor:
            both = torch.full((2, 128, 64, 4), 255, dtype=torch.uint8)
            both[1, :, :, 3] = 0
            both[1, :64, :, :3] = 7  # behind full transparency: not seen
            return both[torch.from_numpy(indices)]

        def labels_at(self, indices: np.ndarray) -> np.ndarray:
            return np.full(len(indices), -1)

    rows = PixelRows(Two())
    assert rows.shape == (2, 16 * 32 * 4)
    assert torch.equal(rows[0:2][0], torch.ones(rows.shape[1]))
    assert torch.equal(rows[1:2][0], torch.zeros(rows.shape[1]))
    assert len(np.unique(hashes(Two()))) == 2


def test_large_images_are_held_a_few_at_a_time() -> None:
    class Large:
        fingerprint, channels, size, label_names = "", 1, (512, 1024), ()
        asked = 0

        def __len__(self) -> int:
            return 40

        def images(self, indices: np.ndarray) -> torch.Tensor:
            self.asked = max(self.asked, len(indices))
            return torch.from_numpy(indices).byte()[:, None, None, None].expand(-1, 1024, 512, 1)

        def labels_at(self, indices: np.ndarray) -> np.ndarray:
            return np.full(len(indices), -1)

    images = Large()
    assert [batch_size_for(size) for size in ((8, 8), (256, 256), (512, 1024), (5000, 5000))] == [
        256,
        64,
        8,
        1,
    ]
    rows = PixelRows(images)[10:40]
    assert torch.allclose(rows, torch.arange(10, 40)[:, None] / 255, rtol=1e-4)
    assert rows.shape == (30, 32 * 16)
    assert len(np.unique(hashes(images))) == 40
    assert images.asked == 8


MEMORY = """
import resource
import torch
torch.set_num_threads(1)
from danqing.evaluation.features import extract
from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.networks import open_network
from danqing.evaluation.generated_images import generate_images
from tests.evaluation.models import small_model

def score(n):
    features = extract(generate_images(model, n), open_network("pixels"), keep=False)
    if n > 500:
        frechet_distance(features, features)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

model = small_model(width=16, height=16)
print(score(500), score(4500), score(8500))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory")
def test_more_images_take_no_more_memory() -> None:
    """Beyond what one tile takes: 4,000 more images have 3 MB of pixels and 12 MB of features."""
    root = Path(__file__).parents[2]
    # what is freed goes back at once, so that the peak does not hang on where the allocator had room
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    printed = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=root, env=environment, capture_output=True, text=True
    )
    few, some, many = map(float, printed.stdout.split())
    one_tile = 4096 * 768 * (4 + 3 * 8) / 2**20
    assert some - few < one_tile, printed.stdout
    assert many - some < 11, printed.stdout
