"""`danqing filter check`: false positives on the operator's own images and prompts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from danqing import families
from danqing.cli import main
from danqing.data.originals import Originals
from danqing.errors import ConfigError, ModelError
from danqing.evaluation.false_positives import rate_of, score_images
from danqing.model.recognizer import Recognizer
from danqing.model.scorer import ClassScorer
from danqing.trust.filters import ImageFilter

LABELS = ["cat", "gore", "blood"]


def recognizer(family: str = "classifier", **settings: object) -> Recognizer:
    torch.manual_seed(0)
    shape = {"width": 8, "height": 8, "channels": 3}
    return Recognizer(families.build_learner(families.parse_config({"family": family, **shape, **settings})))


def photos(folder: Path, count: int = 8) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (9, 12), (255 * number // count,) * 3).save(folder / f"{number}.png")
    return folder


def brightness(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2, 3)) / 255


def test_a_trained_classifier_scores_by_its_unwanted_classes() -> None:
    model = recognizer(features=8, blocks=0, labels=LABELS)
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)
    expected = model.probabilities(images)[:, 1:].sum(1).numpy()
    assert ClassScorer(model, ["Blood", "gore", "gore"])(images) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="no class 'dog'"):
        ClassScorer(model, ["dog"])
    with pytest.raises(ModelError):
        ClassScorer(recognizer("embedder", features=8), ["gore"])


def test_false_positives_and_thresholds_follow_from_the_scores(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 100)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    chosen = ImageFilter("bright", brightness, threshold=0.5, low_threshold=0.9)
    (found,) = score_images([chosen], Originals(folder))
    assert list(found.failed) == ["broken.png"]
    assert len(found.scores) == 100
    rate = found.rate()
    assert rate.blocked == int((found.scores >= 0.5).sum())
    assert rate.low < rate.value < rate.high
    for allowed in (0.01, 0.2):
        threshold = found.threshold_for(allowed)
        assert threshold is not None
        assert (found.scores >= threshold).mean() <= allowed
        assert (found.scores >= threshold - 0.002).mean() > allowed
    assert found.threshold_for(0.001) is None, "100 images say nothing of a rate of 1 in 1,000"
    assert found.highest(1)[0][1] == found.scores.max()
    assert rate_of([]).high == 1


def test_originals_are_spread_evenly_and_keep_their_size(tmp_path: Path) -> None:
    some = list(Originals(photos(tmp_path / "photos"), most=3))
    assert [each.name for each in some] == ["0.png", "3.png", "6.png"]
    assert {each.pixels.shape for each in some} == {(12, 9, 3)}


def test_check_reports_rates_of_images_and_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recognizer(features=8, blocks=0, labels=LABELS).save(tmp_path / "model")
    (tmp_path / "en.txt").write_text("gore\n")
    (tmp_path / "prompts.txt").write_text("a cat\n\na gore scene\na dog\n")
    (tmp_path / "filters.toml").write_text(
        '[prompts]\nauto_lists = ["en.txt"]\n'
        '[[images]]\nnetwork = "model"\nclasses = ["gore"]\nthreshold = 0.0001\nlow_threshold = 1.0\n'
    )
    words = ["filter", "check", str(tmp_path / "filters.toml"), "--prompts", str(tmp_path / "prompts.txt")]
    words += ["--images", str(photos(tmp_path / "photos"))]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"]["blocked"] == [{"prompt": 2, "reason": "line 1 of en.txt"}]
    assert (found["prompts"]["auto"]["of"], found["prompts"]["low"]["blocked"]) == (3, 0)
    (images,) = found["images"]
    assert (images["filter"], images["auto"]["blocked"], images["low"]["blocked"]) == ("model", 8, 0)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "8 of 8 blocked, 100.00%" in text
    assert "prompt 2: line 1 of en.txt" in text
    with pytest.raises(SystemExit) as ended:
        main(words[:3])
    assert ended.value.code == 2
