"""Grids of samples: few steps during training, all of them at its end."""

import json
from pathlib import Path

import numpy as np
import pytest

import danqing as dq
from danqing.training.config_reading import from_toml
from danqing.training.publication import brief_options, sample_grid

SMALL = {
    **{"batch_size": "16", "measure_seconds": "0.001", "sample_images": "4", "sample_grids": "2"},
    **{"precision": "float32", "conditional": "false"},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


def test_grids_before_the_last_are_sampled_in_few_steps(tmp_path: Path) -> None:
    settings = SMALL | {"widths": "[8, 16]", "layers": "1", "heads": "2", "learning_rate": "0.02"}
    settings |= {"warmup_images": "0", "ema_half_life_images": "16"}  # so that the network does something
    settings |= {"sampler": "ab2", "num_steps": "24"}
    run = dq.train(
        "digits", preset="flow-32", out=tmp_path / "run", images=320, size=(8, 8), settings=settings
    )
    model, config = dq.load(run), from_toml(run.folder / "config.toml")
    assert brief_options(model) == {"num_steps": 8}
    brief, whole = (sample_grid(model, config, options) for options in (brief_options(model), None))
    assert np.array_equal(brief.array, model.sample(4, seed=config.seed, num_steps=8).array)
    assert not np.array_equal(brief.array, whole.array)
    whole.save(tmp_path / "whole.png")
    grids = sorted((run.folder / "samples").glob("0*.png"))
    assert [grid.stem for grid in grids] == ["000000000", "000000160", "000000320"]
    assert grids[-1].read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert json.loads((run.folder / "run.json").read_text())["grid_steps"] == [8, 24]
    assert "Sampled in 8 steps during training, and in 24 at its end." in run.report.read_text()


def test_a_model_without_steps_has_grids_of_one_kind(tmp_path: Path) -> None:
    settings = SMALL | {"net": "mlp", "generator_features": "4", "discriminator_features": "4"}
    run = dq.train("digits", preset="gan-32", out=tmp_path / "run", images=64, size=(8, 8), settings=settings)
    assert brief_options(dq.load(run)) == {}
    assert "grid_steps" not in json.loads((run.folder / "run.json").read_text())
    assert "Sampled in" not in run.report.read_text()
