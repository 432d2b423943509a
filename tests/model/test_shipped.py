"""The model that comes with the package: small, licensed, found by its name, and never overwritten."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.evaluation.candidate import open_candidate
from danqing.model import shipped
from danqing.model.shipped import DEMO_FOLDER

LARGEST = 12_000_000


def test_the_shipped_model_is_small_and_says_whose_artwork_it_learned_from() -> None:
    files = {path.name: path for path in DEMO_FOLDER.iterdir()}
    assert set(files) == {
        *("config.json", "model.safetensors", "README.md", "samples.png", "scores.json", "LICENSE")
    }
    assert sum(path.stat().st_size for path in files.values()) <= LARGEST
    card, licence = (files[name].read_text(encoding="utf-8") for name in ("README.md", "LICENSE"))
    assert licence.startswith("Attribution-ShareAlike 4.0 International")
    assert "CC BY-SA 4.0" in card
    assert "OpenMoji" in card
    trained = json.loads(files["config.json"].read_text(encoding="utf-8"))["trained"]
    assert trained["images"] > 0
    assert f"Images seen: {trained['images']}" in card


def test_a_name_means_the_shipped_model_unless_a_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find("demo") == DEMO_FOLDER
    assert shipped.find("other") is None
    assert shipped.find("runs/demo") is None
    Path("demo").mkdir()
    assert shipped.find("demo") is None


def test_the_shipped_model_reads_english_and_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = dq.load("demo")
    images = model.sample(prompt=["cat on a blue background", "蓝色背景上的猫"], seeds=[3, 3]).array
    assert images.shape == (2, 64, 64, 3)
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int)  # [2, 4, 3]
    assert (corners[..., 2] > corners[..., 0] + 40).mean() > 0.7, "the background is not blue"


def test_scores_are_not_written_into_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(np.full((64, 64, 3), 80 * number, np.uint8)).save(f"pictures/{number}.png")
    candidate = open_candidate("demo", "pictures", n=3, seed=0)
    assert candidate.model is not None
    assert candidate.folder is None
