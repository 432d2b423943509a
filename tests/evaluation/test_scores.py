"""A score tells its own story, and reads back from its file as it was."""

import json
import math
from pathlib import Path

import pytest

from danqing.errors import DataError
from danqing.evaluation.scores import FeatureInfo, ReferenceInfo, Score, number, read, write

SCORE = Score(
    metric="frechet",
    name="FD-pixels",
    value=12.3456,
    interval=(11.0, 14.0),
    higher_is_better=False,
    images=1000,
    candidate="runs/cats (gan)",
    reference=ReferenceInfo(name="cats", split="test", count=500, fingerprint="ab" * 32),
    features=FeatureInfo(
        name="pixels",
        sha256="cd" * 32,
        resizer="bicubic to 16x16, clamped to 0..255",
        normalization="x / 255",
        precision="float32",
    ),
    seed=7,
    settings={"weights": "123"},
)


def test_one_line_says_everything() -> None:
    line = str(SCORE)
    for part in (
        *("FD-pixels 12.35", "95% interval 11 to 14", "1,000 images of runs/cats (gan), seed 7"),
        *("500 of cats, split test, abababababab", "features pixels cdcdcdcdcdcd, bicubic to 16x16, "),
        "clamped to 0..255, x / 255, float32",
        *("weights 123", "danqing ", "torch ", "numpy ", "pillow ", "python "),
    ):
        assert part in line
    assert "\n" not in line
    by_label = SCORE.model_copy(update={"settings": {"weights": "123", "per_class": {"cat": 0.5}}})
    assert str(by_label) == line


def test_scores_read_back_as_they_were(tmp_path: Path) -> None:
    endless = SCORE.model_copy(update={"metric": "psnr", "value": float("inf"), "interval": None})
    write(tmp_path / "scores.json", [SCORE])
    assert read(tmp_path / "scores.json") == [SCORE]
    (told,) = json.loads((tmp_path / "scores.json").read_text())
    assert told["text"] == str(SCORE)
    assert {
        "metric",
        "value",
        "interval",
        "images",
        "reference",
        "features",
        "seed",
        "versions",
    } <= told.keys()
    assert endless.to_json()["value"] is None
    assert read(tmp_path / "nothing.json") == []
    broken = endless.model_copy(update={"interval": (float("nan"), 3.0)})
    write(tmp_path / "scores.json", [endless, broken])
    values = read(tmp_path / "scores.json")
    assert all(math.isnan(score.value) and score.interval is None for score in values)


def test_scores_from_before_the_normalization_was_named_are_read(tmp_path: Path) -> None:
    write(tmp_path / "scores.json", [SCORE])
    (told,) = json.loads((tmp_path / "scores.json").read_text())
    del told["features"]["normalization"]
    (tmp_path / "scores.json").write_text(json.dumps([told]))
    (score,) = read(tmp_path / "scores.json")
    assert score.features.normalization == ""
    assert "clamped to 0..255, float32" in str(score)


@pytest.mark.parametrize("content", ["[", "{}3", '[{"metric": 1}]', "[3]", '"text"', "null", "\xff"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match="does not hold scores that this version can read: move it away"):
        read(tmp_path / "scores.json")


def test_numbers_have_four_digits() -> None:
    assert [number(value) for value in (137.96, 0.031234, 1009.4, 0.0, -0.5)] == [
        *("138", "0.03123", "1,009", "0", "-0.5")
    ]
