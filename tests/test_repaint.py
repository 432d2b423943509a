"""RePaint, which `benchmarks/quality_fill.py` compares filling with, draws from the known distribution."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

DEVIATION = 0.4


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("repaint")


def velocity_of_equal_pixels(z: Tensor, t: Tensor) -> Tensor:
    """The exact velocity where all pixels of an image are one number, drawn from N(0, 0.4²)."""
    t = t.view(-1, 1, 1, 1)
    pixels, prior = z[0].numel(), (t * DEVIATION).square()
    level = t * DEVIATION**2 * z.sum((1, 2, 3), keepdim=True) / (pixels * prior + (1 - t).square())
    return (level - z) / (1 - t)


def test_repaint_continues_what_is_known_and_keeps_it(benchmark: ModuleType) -> None:
    images = torch.full((8, 1, 4, 4), 0.5)
    mask = torch.zeros_like(images)
    mask[..., 2:] = 1
    filled, evaluations = benchmark.repaint(
        velocity_of_equal_pixels, images, mask, torch.Generator().manual_seed(0), steps=50, resamplings=3
    )
    assert evaluations == 150
    assert torch.equal(filled[..., :2], images[..., :2])
    assert torch.allclose(filled[..., 2:], images[..., 2:], atol=0.1)


def test_repaint_of_everything_has_the_deviation_of_the_data(benchmark: ModuleType) -> None:
    images = torch.zeros(512, 1, 1, 1)
    filled, _ = benchmark.repaint(
        velocity_of_equal_pixels,
        images,
        torch.ones_like(images),
        torch.Generator().manual_seed(0),
        resamplings=2,
    )
    assert float(filled.std()) == pytest.approx(DEVIATION, rel=0.12)
