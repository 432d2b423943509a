"""A data set of one hue keeps it: the colours of samples after a short training."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing
from danqing.training.colour import channel_means

pytestmark = pytest.mark.slow

HUE = np.array([230, 140, 30])
IMAGES = 60_000
"""Fewer than two cores learn from in three minutes at this size."""


def one_hue(folder: Path) -> np.ndarray:
    """Write 500 pictures of one orange, each a bright spot on a darker ground; return their pixels."""
    rng, row, column = np.random.default_rng(0), *np.mgrid[:8, :8]
    pixels = []
    for number in range(500):
        y, x, width = rng.uniform(1.5, 6, 3)
        light = rng.uniform(0.4, 0.6) + 0.4 * np.exp(-((row - y) ** 2 + (column - x) ** 2) / width**2)
        pixels.append(np.round(np.clip(light, 0, 1)[..., None] * HUE).astype(np.uint8))
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels[-1]).save(folder / f"{number:03d}.png")
    return np.stack(pixels)


def test_a_flow_model_keeps_the_hue_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    real = one_hue(tmp_path / "orange")
    settings = {"widths": "[16, 64]", "layers": "2", "heads": "2", "sample_images": "64", "sample_grids": "1"}
    settings |= {"precision": "float32", "measure_seconds": "0.01"}
    run = danqing.train(
        tmp_path / "orange",
        preset="flow-32",
        size=(8, 8),
        images=IMAGES,
        evaluate_every=0,
        out=tmp_path / "run",
        settings=settings,
    )
    samples = danqing.load(run.model).sample(512).array
    error = channel_means(samples).mean(0) - channel_means(real).mean(0)
    assert np.abs(error).mean() < 2, f"red, green and blue are off by {error.round(2)} of 255"
    light = samples.astype(float) @ HUE / (HUE @ HUE)
    off = np.abs(samples - light[..., None] * HUE)
    assert off.mean() < 4, "each pixel is a lighter or darker orange"
    facts = json.loads((run.folder / "run.json").read_text())
    assert not [alarm for alarm in facts["alarms"] if alarm["kind"] == "colour"]
