"""A model that has memorised is caught, one that has not is not, and the bound on ε holds."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binom

import danqing as dq
from danqing.errors import EvaluationError, ModelError
from danqing.evaluation import membership
from danqing.evaluation.evaluate import Evaluation, evaluate
from danqing.evaluation.membership import audit, epsilon_bound
from tests.small_run import SMALL

SIDE = 6
EAGER: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if key not in ("features", "latents", "net", "prior")},
    **{"net": "mlp", "sample_grids": 1, "batch_size": 60, "augment": "{}", "ema_half_life_images": 300},
}
VAE = {**EAGER, "prior": "normal", "features": 64, "latents": 32, "learning_rate": 5e-3}
GAN = {**EAGER, "generator_features": 16, "discriminator_features": 32, "learning_rate": 4e-3}
GAN |= {
    "loss": "non_saturating",
    "discriminator_steps": 4,
    "r1": 0,
    "r2": 0,
    "diffaugment": "[]",
    "latents": 16,
}


def write(folder: Path, seed: int, count: int = 120) -> Path:
    """Images of noise: nothing is to be learnt of them, so what is known of one has been memorised."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    write(folder / "train", 0, 60)
    write(folder / "test", 1)
    return folder


def figures(found: Evaluation, metric: str = "membership") -> tuple[float, float, float]:
    """The area, the rate at few false alarms, and the bound on ε of an attack."""
    scores = {score.metric: score.value for score in found.scores}
    return scores[metric], scores[f"{metric}/tpr"], scores[f"{metric}/epsilon"]


def attacked(model: Path, data: Path) -> Evaluation:
    return evaluate(model, data, metrics="membership", features="pixels", n=200)


@pytest.mark.parametrize(
    ("preset", "settings", "images", "metric"),
    [("vae-32", VAE, 12_000, "membership"), ("gan-32", GAN, 60_000, "membership/discriminator")],
    ids=["loss", "discriminator"],
)
def test_a_model_that_was_overfitted_is_caught_and_one_that_was_not_trained_is_not(
    preset: str, settings: dict[str, Any], images: int, metric: str, noise: Path, tmp_path: Path
) -> None:
    def train(name: str, images: int, **more: Any) -> Path:
        options: dict[str, Any] = {"preset": preset, "size": (SIDE, SIDE), "evaluate_every": 0}
        chosen = {**settings, **more}
        return dq.train(noise, images=images, out=tmp_path / name, settings=chosen, **options).folder

    area, rate, epsilon = figures(attacked(train("overfitted", images), noise), metric)
    assert area >= 0.9
    assert rate > 0.2
    assert epsilon > 0.5
    fresh = attacked(train("untrained", 60, learning_rate=1e-9), noise)
    area, rate, epsilon = figures(fresh, metric)
    assert abs(area - 0.5) < 0.1
    assert rate < 0.1
    assert epsilon == 0
    card = (tmp_path / "overfitted" / "model" / "README.md").read_text(encoding="utf-8")
    assert "lower bound on ε by" in card


def test_copies_among_samples_are_caught_and_fresh_samples_are_not(noise: Path, tmp_path: Path) -> None:
    copies = shutil.copytree(noise / "train", tmp_path / "copies")
    area, rate, epsilon = figures(attacked(copies, noise), "membership/samples")
    assert (area, rate) == (1, 1)
    assert epsilon > 2
    area, rate, epsilon = figures(attacked(write(tmp_path / "fresh", 2), noise), "membership/samples")
    assert abs(area - 0.5) < 0.1
    assert epsilon == 0


def test_a_first_stage_is_attacked_by_its_reconstructions(noise: Path, tmp_path: Path) -> None:
    settings = {**EAGER, "features": 4, "blocks": 0, "vocabulary": 16}
    del settings["net"]
    run = dq.train(noise, preset="vqvae-32", size=(8, 8), images=60, out=tmp_path / "run", settings=settings)
    found = attacked(run.folder, noise)
    assert {score.metric for score in found.scores} == {"membership", "membership/tpr", "membership/epsilon"}
    assert found.scores[0].name == "membership by reconstruction"
    assert abs(figures(found)[0] - 0.5) < 0.15


def test_a_discriminator_is_only_taken_from_the_run_of_its_model(noise: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "gan-32", "size": (SIDE, SIDE), "images": 60}
    run = dq.train(noise, out=tmp_path / "run", settings=GAN, **options)
    copied = shutil.copytree(run.model, tmp_path / "elsewhere")
    assert {score.metric.split("/")[1] for score in attacked(copied, noise).scores} == {"samples"}
    other = dq.train(noise, out=tmp_path / "other", settings=GAN | {"discriminator_features": 8}, **options)
    shutil.rmtree(run.folder / "checkpoints")
    shutil.copytree(other.folder / "checkpoints", run.folder / "checkpoints")
    with pytest.raises(ModelError, match="does not hold the discriminator of this model"):
        attacked(run.folder, noise)


def test_membership_needs_images_that_were_not_learnt(noise: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no real images that were not learnt from"):
        evaluate(noise / "train", noise / "train", metrics="membership", features="pixels")


def test_the_bound_has_a_closed_form_where_all_guesses_are_right() -> None:
    for guesses, error in ((20, 0.05), (200, 0.01)):
        expected = math.log(error ** (1 / guesses) / (1 - error ** (1 / guesses)))
        assert epsilon_bound(1000, guesses, guesses, error=error, delta=0) == pytest.approx(
            expected, abs=1e-3
        )
    assert epsilon_bound(1000, 200, 100, error=0.05, delta=0) == 0
    assert epsilon_bound(1000, 0, 0, error=0.05, delta=0) == 0


@pytest.mark.parametrize(("guesses", "right"), [(100, 80), (500, 300), (64, 64)])
def test_the_bound_is_that_of_binomial_tails(guesses: int, right: int) -> None:
    """Against SciPy: at the bound, as many right guesses have just the chance that was allowed."""
    count, delta, error = 1000, 1e-5, 0.05
    found = epsilon_bound(count, guesses, right, error=error, delta=delta)
    share = 1 / (1 + math.exp(-found))
    spread = [
        (binom.cdf(right - 1, guesses, share) - binom.cdf(right - 1 - i, guesses, share)) / i
        for i in range(1, right + 1)
    ]
    chance = binom.sf(right - 1, guesses, share) + 2 * count * delta * max(spread)
    assert chance == pytest.approx(error, rel=1e-3)
    assert found < epsilon_bound(count, guesses, right, error=error, delta=0)


def test_the_bound_holds_for_a_mechanism_whose_epsilon_is_known() -> None:
    """Randomised response says the truth with the chance e^ε / (1 + e^ε)."""
    epsilon, above, bounds = 1.5, 0, []
    for trial in range(20):
        rng = torch.Generator().manual_seed(trial)
        says = [torch.rand(1000, generator=rng) < 1 / (1 + math.exp(-sign * epsilon)) for sign in (1, -1)]
        found = audit(says[0].double(), says[1].double(), seed=trial, delta=0)
        bounds.append(found.epsilon)
        above += found.epsilon > epsilon
    assert above <= 3  # 5% of 20, and what chance adds
    assert np.mean(bounds) > 1.1, "the bound is near the truth"


def test_nothing_is_proved_where_both_sides_are_alike() -> None:
    proved = 0
    for trial in range(40):
        rng = torch.Generator().manual_seed(trial)
        sides = (torch.randn(300, generator=rng) for _ in range(2))
        proved += audit(*sides, seed=trial).epsilon > 0
        tied = audit(torch.zeros(300), torch.zeros(300), seed=trial)
        proved += tied.epsilon > 0
    assert proved <= 8
    assert audit(torch.zeros(5), torch.ones(5), seed=0).images == 0, "too few to audit"
    assert membership.CONFIDENCE == 0.95
