"""What several tests of training use."""

import numpy as np
import pytest
from PIL import Image

from danqing.data import open_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """24 images of 8x8 random colours."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return open_dataset(folder, cache_dir=tmp_path_factory.mktemp("cache"))
