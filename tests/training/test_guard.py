"""Alarms are raised for what they name, once, and not for healthy runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing
from danqing.families.base import Alarm, Family
from danqing.training.colour import channel_means, drift, in_words
from danqing.training.guard import WINDOW, Guard, diversity
from tests.small_run import SMALL


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


def test_losses_of_another_size_raise_no_alarm():
    guard, given = Guard(Complaining(), [], []), []
    for images in range(2, 120, 2):
        line = {"images": images, "d/loss": 0.05 if images > 15 else 9.0}
        given += [images for _ in guard.on_log(line, since=15 if images > 15 else 0)]
    assert given == [16 + 2 * WINDOW]  # line 16 averages steps of both sizes


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


def test_channel_means_count_what_can_be_seen():
    image = np.zeros((1, 1, 2, 4), np.uint8)
    image[0, 0, 0] = (200, 100, 50, 255)
    image[0, 0, 1] = (255, 255, 255, 0)
    assert channel_means(image).tolist() == [[100, 50, 25, 127.5]]


@pytest.mark.parametrize(
    ("shift", "spread", "count", "drifts"),
    [
        (7, 0, 4, True),  # one hue: what people notice
        (5, 0, 4, False),
        (7, 10, 10_000, True),
        (7, 40, 10_000, False),  # many colours: less than a quarter of their spread
        (11, 40, 10_000, True),
        (11, 40, 16, False),  # few samples: within chance
    ],
)
def test_a_drift_is_more_than_what_shows_and_than_chance(shift, spread, count, drifts):
    rows = np.tile([-spread, spread], count // 2)[:, None] * (1 - 1 / count) ** 0.5
    real = 120 + np.repeat(rows, 3, axis=1)
    found = drift(real + np.array([0, -shift, 0]), real)
    assert (found is not None) is drifts
    if found is not None:
        assert in_words(found.tolist()) == f"red +0.0, green -{shift:.1f}, blue +0.0"


def test_other_colours_raise_one_alarm_that_says_what_to_change():
    real = channel_means(np.full((16, 4, 4, 3), 100, np.uint8))
    samples = np.full((8, 4, 4, 3), (100, 100, 130), np.uint8)
    guard = Guard(Complaining(), [], [])
    assert guard.on_colours(np.full((8, 4, 4, 3), 102, np.uint8), real) == []
    (alarm,) = guard.on_colours(samples, real)
    assert alarm.kind == "colour"
    assert "blue +30.0 of 255" in alarm.text
    assert "optimizer.learning_rate" in alarm.text
    assert guard.on_colours(samples, real) == []
    assert Guard(Complaining(), ["colour"], []).on_colours(samples, real) == []
    (alarm,) = Guard(FirstStage(), [], []).on_colours(samples, real)
    assert alarm.text.startswith("The reconstructions")


def one_hue(folder: Path) -> Path:
    """Images of one orange, a little brighter or darker, of two labels: twenty times as many of one."""
    for number in range(42):
        level = 0.97 + 0.03 * (number % 3) / 2
        path = folder / ("rare" if number < 2 else "common") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), tuple(round(level * value) for value in (230, 140, 30))).save(path)
    return folder


def colour_alarms(run: Path) -> list[str]:
    facts = json.loads((run / "run.json").read_text())
    return [alarm["text"] for alarm in facts["alarms"] if alarm["kind"] == "colour"]


def test_a_run_raises_the_alarm_of_colours_once_and_only_where_they_drift(tmp_path: Path):
    data, settings = one_hue(tmp_path / "data"), {**SMALL, "sample_images": "8", "sample_grids": "8"}
    fresh, learnt = tmp_path / "fresh", tmp_path / "learnt"
    danqing.train(data, preset="vae-32", size=(8, 8), images=64, out=fresh, settings=settings)
    (text,) = colour_alarms(fresh)
    assert "other colours than the training images" in text
    assert text.split("(")[0] in (fresh / "report.html").read_text(encoding="utf-8")
    settings |= {"learning_rate": "0.01", "ema_half_life_images": "500"}
    danqing.train(data, preset="vae-32", size=(8, 8), images=16_000, out=learnt, settings=settings)
    assert colour_alarms(learnt) == []
