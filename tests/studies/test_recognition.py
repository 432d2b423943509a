"""Classifiers are compared and tuned by what they recognize."""

from pathlib import Path
from typing import Any

import pytest

import danqing
from danqing.errors import ConfigError
from danqing.studies import compare_setup
from danqing.studies.results import row
from danqing.studies.search import Trial, best_of, held_out_scores

SETTINGS: dict[str, Any] = {
    "model.features": 32,
    "model.blocks": 1,
    "batch_size": 64,
    "evaluation.samples": 100,
    "sample_images": 4,
    "measure_seconds": 0.01,
    "precision": "float32",
    "learning_rate": 1e-2,
    "ema_half_life_images": 500,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_classifiers_are_compared_by_accuracy_and_speed(tmp_path: Path) -> None:
    found = danqing.compare(
        "digits:0,1,2",
        presets=["classify-32", "classify-transformer-32"],
        images=960,
        size=(8, 8),
        settings=SETTINGS,
        out=tmp_path / "compared",
    )
    assert [one.status for one in found.contestants] == ["finished", "finished"]
    accuracy = row(found, "accuracy")
    assert accuracy is not None
    assert accuracy.better == "higher"
    assert all(cell is not None and cell.interval is not None for cell in accuracy.cells)
    assert all(one.measured["recognition_speed"] > 0 for one in found.contestants)
    assert any("recognized as they should be" in sentence for sentence in found.verdict)
    page = (tmp_path / "compared" / "compare.html").read_text(encoding="utf-8")
    assert "the most confident mistakes of each" in page
    assert "Samples of each" not in page


@pytest.mark.slow
def test_a_search_prefers_higher_accuracy(tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text('["optimizer.learning_rate"]\nchoices = [1e-7, 1e-2]\n')
    found = danqing.tune(
        "digits:0,1,2",
        space=space,
        trials=4,
        pruner="none",
        preset="classify-32",
        images=960,
        size=(8, 8),
        settings=SETTINGS,
        out=tmp_path / "search",
    )
    assert found.metric == "accuracy"
    best = found.best_trial
    assert best is not None
    assert best.score == max(trial.score or 0.0 for trial in found.trials)
    tried = {trial.settings["optimizer.learning_rate"] for trial in found.trials}
    assert tried == {1e-7, 1e-2}
    assert best.settings["optimizer.learning_rate"] == 1e-2


def test_a_higher_score_is_better_where_the_score_says_so(tmp_path: Path) -> None:
    def line(tenth: int, value: float) -> dict[str, Any]:
        return {"tenth": tenth, "score": {"value": value, "higher_is_better": True}}

    assert held_out_scores([line(1, 0.5), line(2, 0.9)]) == {1: -0.5, 2: -0.9}
    low, high = (
        Trial(number, tmp_path, "finished", {}, score, higher_is_better=True)
        for number, score in enumerate([0.5, 0.9], 1)
    )
    assert best_of([low, high]) is high
    assert best_of([Trial(1, tmp_path, "finished", {}, 0.5), Trial(2, tmp_path, "finished", {}, 0.9)])


def test_a_classifier_is_not_compared_with_what_samples_images() -> None:
    budget: dict[str, Any] = {"size": (8, 8), "minutes": None, "images": 100, "seed": 0, "settings": {}}
    with pytest.raises(ConfigError, match="classify-32 is a classifier, which is scored by what it recog"):
        compare_setup.configure(["gan-32", "classify-32"], **budget)
