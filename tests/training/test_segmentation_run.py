"""A segmenter as a run: from data with masks to a scored model, the same after a kill."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.data.builtin import cells
from danqing.evaluation import scores
from danqing.recognition.mask_files import write_masks
from danqing.training import engine

SETTINGS: dict[str, Any] = {
    "model.widths": [8, 16, 24],
    "model.decoder_widths": [8, 16],
    "measure_seconds": 0.001,
    "precision": "float32",
    "warmup_images": 100,
    "ema_half_life_images": 200,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


def train(data: str | Path, out: Path, images: int, **settings: Any) -> dq.Run:
    return dq.train(
        data,
        task="segment",
        size=(24, 24),
        images=images,
        settings={**SETTINGS, **settings},
        out=out,
        listener=dq.Listener(),
    )


def test_a_run_on_drawn_cells_is_scored_by_its_masks(tmp_path: Path) -> None:
    run = train("cells:300", tmp_path / "run", 1600)
    assert run.best is not None
    assert run.best["metric"] == "mean_iou"
    assert run.best["value"] > 0.3  # all background would be 0.2
    found = {score.metric: score for score in scores.read(run.model / "scores.json")}
    assert found.keys() >= {"mean_iou", "mean_dice", "boundary_f1", "pixel_accuracy", "iou/nucleus"}
    assert found["mean_iou"].headline
    assert all(score.interval is not None for score in found.values())
    recognizer = dq.load_recognizer(run)
    assert recognizer.classes == cells.CLASSES
    details = json.loads((run.folder / "examination" / "details.json").read_text())["segmentation"]
    confusion = np.array(details["confusion"])
    assert confusion.trace() / confusion.sum() == pytest.approx(found["pixel_accuracy"].value)
    assert "Worst masks" in run.report.read_text(encoding="utf-8")
    assert "pipeline_tag: image-segmentation" in (run.model / "README.md").read_text(encoding="utf-8")
    on_test = dq.evaluate(run, "cells:300").headline
    assert on_test.metric == "mean_iou"
    assert on_test.images == 500
    assert on_test.value == pytest.approx(run.best["value"], abs=0.05)


def test_masks_in_a_folder_of_their_own_are_learned_and_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for number in range(24):
        scene = cells.drawn(f"cells#{number}", (24, 24))
        Image.fromarray(scene.pixels).save(data / "images" / f"{number}.png")
        Image.fromarray(scene.mask).save(data / "masks" / f"{number}.png")
    run = train(data, tmp_path / "run", 32, **{"data.masks": "images:masks"})
    recognizer = dq.load_recognizer(run)
    assert recognizer.classes == ("0", "1", "2", "3")
    found = write_masks(recognizer, data / "images", tmp_path / "out")
    assert len(found) == 24
    assert np.asarray(Image.open(tmp_path / "out" / "masks" / "0.png")).shape == (24, 24)


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"checkpoint_seconds": 1e-6, "balance": 0.5}
    whole = train("cells:60", tmp_path / "whole", 160, **settings)
    step, steps = engine.Engine.step, iter(range(4))

    def dies(*arguments: Any, **measured: Any) -> torch.Tensor:
        if not measured and next(steps, None) is None:
            raise KeyboardInterrupt
        return step(*arguments, **measured)

    with monkeypatch.context() as patched:
        patched.setattr(engine.Engine, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            train("cells:60", tmp_path / "killed", 160, **settings)
    resumed = train("cells:60", tmp_path / "killed", 160, **settings)
    one, other = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
