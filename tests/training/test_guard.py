"""Alarms are raised for what they name, once, and not for healthy runs."""

import numpy as np
import pytest

from danqing.families.base import Alarm, Family
from danqing.training.guard import WINDOW, Guard, diversity


class Complaining(Family):
    def alarms(self, logged):
        text = f"The discriminator has won, at {logged['d/loss']:.3f}: lower it."
        return [Alarm("discriminator won", text)] if logged["d/loss"] < 0.1 else []


class FirstStage(Family):
    has_prior = False


def test_a_family_alarm_is_given_once_and_needs_a_full_window():
    guard = Guard(Complaining(), [], [])
    given = [guard.on_log({"images": i, "d/loss": 0.05}) for i in range(WINDOW + 5)]
    assert [len(texts) for texts in given] == [0] * (WINDOW - 1) + [1] + [0] * 5
    (alarm,) = given[WINDOW - 1]
    resumed = Guard(Complaining(), [alarm.kind], [{"d/loss": 0.0}] * WINDOW)
    assert resumed.on_log({"d/loss": 0.0}) == []
    assert len(Guard(Complaining(), [], [{"d/loss": 0.0}] * WINDOW).on_log({"d/loss": 0.0})) == 1


def test_diversity_is_the_mean_distance_of_pairs():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    flat = images.reshape(20, -1).astype(float)
    squares = [((a - b) ** 2).mean() for i, a in enumerate(flat) for b in flat[i + 1 :]]
    assert diversity(images) == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-9)


def test_samples_all_alike_raise_the_alarm_and_varied_ones_do_not():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
    guard = Guard(Complaining(), [], [])
    assert guard.on_samples(real[::-1], real) == []
    collapsed = np.clip(real[:1].astype(int) + rng.integers(-3, 4, real.shape), 0, 255).astype(np.uint8)
    (alarm,) = guard.on_samples(collapsed, real)
    assert alarm.text.startswith("The samples are nearly all alike")
    assert "optimizer.learning_rate" in alarm.text
    assert guard.on_samples(collapsed, real) == []
    (alarm,) = Guard(FirstStage(), [], []).on_samples(collapsed, real)
    assert alarm.text.startswith("The reconstructions are nearly all alike")


def test_one_image_has_no_diversity():
    assert diversity(np.zeros((1, 4, 4, 3), np.uint8)) == 0
