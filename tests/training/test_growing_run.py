"""A run that grows: the sizes that it learns from, what each trains, and that resuming needs nothing more."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.data import Batches, open_dataset
from danqing.nets.layers import shrunk
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine, initialise
from danqing.training.listener import Listener, Progress
from danqing.training.requirements import estimate_requirements
from tests.small_run import SCORED

CPU = torch.device("cpu")
FLOW = {"widths": [8, 12, 16], "layers": 1, "heads": 2, "num_steps": 2, "learning_rate": 1e-3}
GROWING = {
    **{name: value for name, value in SCORED.items() if name not in ("net", "features", "latents", "prior")},
    **FLOW,
    "grow": [4, 8, 16],
    "grow_fractions": [0.4, 0.3, 0.3],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


class Heard(Listener):
    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.messages, self.scores = stop_at, list[str](), list[int]()

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_score(self, scored: Any) -> None:
        self.scores.append(scored.images)

    def on_progress(self, progress: Progress) -> None:
        if self.stop_at is not None and progress.images >= self.stop_at:
            raise RuntimeError("stopped")


def engine_of(pictures: Path, **settings: Any) -> Engine:
    dataset = open_dataset(pictures)
    values = {**FLOW, "batch_size": 8, "grow": [4, 8, 16], "precision": "float32", **settings}
    config = resolve(preset="flow-32", settings=values, size=dataset.size).for_data(dataset)
    return Engine(config, Batches(dataset, config.batch_size, 0), CPU, "float32")


def test_weights_of_later_sizes_are_untouched_before_their_phase(pictures: Path) -> None:
    engine = engine_of(pictures)
    fresh, seen = initialise(engine.config).state_dict(), []
    loss = engine.learner.loss

    def recorded(batch: Any, phase: Any, rng: Any) -> Any:
        seen.append(tuple(batch.images.shape[-2:]))
        return loss(batch, phase, rng)

    engine.learner.loss = recorded
    begins = (0, 32, 56)
    for step in range(9):
        reached = sum(begin <= 8 * step for begin in begins)
        engine.step(8 * step, step, 72, begins=begins[:reached])
        state = engine.tensors()
        for name, start in fresh.items():
            if name == "level":
                assert int(state["ema/level"]) == int(state["family/level"]) == 3 - reached
                continue
            is_begun = engine.learner.starts_at(name) < reached
            assert any(key.startswith(f"optimizer/flow/{name}/") for key in state) == is_begun
            if not is_begun:
                assert torch.equal(state[f"family/{name}"], start)
                assert torch.equal(state[f"ema/{name}"], start)
    assert seen == [(4, 6)] * 4 + [(8, 12)] * 3 + [(16, 24)] * 2
    moved = [name for name, start in fresh.items() if not torch.equal(state[f"family/{name}"], start)]
    assert {engine.learner.starts_at(name) for name in moved} == {0, 1, 2}


def test_small_images_are_averages_of_the_same_batch(pictures: Path) -> None:
    engine = engine_of(pictures)
    whole, (small,) = engine.batches.at(16), engine._drawn(16, 2)
    expected = whole.images.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))
    torch.testing.assert_close(small.images, expected)
    paired = whole.mapped(lambda images: shrunk(images, 1))
    assert paired.condition == whole.condition


def test_the_average_of_a_weight_that_begins_late_forgets_its_first_value(pictures: Path) -> None:
    engine = engine_of(pictures, ema_half_life_images=10_000_000)
    late = "network.net.first.weight"
    start = 80_000
    with torch.no_grad():
        parameter = dict(engine.learner.named_parameters())[late]
        parameter.fill_(3.0)
    for step in range(100):
        engine.ema.update(start + 8 * (step + 1), 8, (0, 100, start))
    average = dict(engine.ema.learner.named_parameters())[late]
    assert float(average.mean()) == pytest.approx(3.0, abs=1e-3)


def test_a_plan_counts_each_size_at_its_own_speed(pictures: Path) -> None:
    engine = engine_of(pictures, grow_fractions=[0.5, 0.25, 0.25], measure_seconds=0.2)
    needs = estimate_requirements(engine.config, engine.batches, CPU, "float32")
    small, middle, whole = needs.pace.seconds
    assert small < whole
    plan = needs.plan(4000, CPU, seen=1000)
    assert plan.seconds == pytest.approx(1000 * small + 1000 * middle + 1000 * whole)
    assert 1 / plan.images_per_second == pytest.approx((2 * small + middle + whole) / 4, rel=1e-3)


def train(pictures: Path, out: Path, listener: Listener, **options: Any) -> dq.Run:
    settings = {**GROWING, **options.pop("settings", {})}
    options = {"images": 320, "listener": listener, **options}
    return dq.train(pictures, preset="flow-32", size=(24, 16), out=out, settings=settings, **options)


def test_a_run_that_stops_in_each_size_ends_with_the_same_weights(pictures: Path, tmp_path: Path) -> None:
    often = {"checkpoint_seconds": "0.0001"}
    whole = train(pictures, tmp_path / "whole", heard := Heard())
    said = [text for text in heard.messages if text.startswith("From ")]
    assert said == [
        "From 128 images on, images are 12x8.",
        "From 224 images on, images are 24x16.",
    ]
    for stop in (64, 128, 240):
        with pytest.raises(RuntimeError, match="stopped"):
            train(pictures, tmp_path / "parts", Heard(stop), settings=often)
    parts = train(pictures, tmp_path / "parts", Heard())
    found = [load_file(run.model / "model.safetensors") for run in (whole, parts)]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert int(found[0]["level"]) == 0
    grids = [{p.name: p.read_bytes() for p in (run.folder / "samples").iterdir()} for run in (whole, parts)]
    shared = grids[0].keys() & grids[1].keys()
    assert len(shared) >= 3
    assert all(grids[0][name] == grids[1][name] for name in shared)
    assert dq.load(whole).sample(2, seed=1).array.shape == (2, 16, 24, 3)


def test_a_larger_budget_does_not_return_to_small_images(pictures: Path, tmp_path: Path) -> None:
    train(pictures, tmp_path / "run", Heard(), images=160)
    heard = Heard()
    train(pictures, tmp_path / "run", heard, images=640)
    assert not [text for text in heard.messages if text.startswith("From ")]
    model = load_file(tmp_path / "run/model/model.safetensors")
    assert int(model["level"]) == 0


def test_patience_begins_with_the_whole_size(pictures: Path, tmp_path: Path) -> None:
    settings = {"evaluation.every_images": 32, "evaluation.patience_images": 32, "evaluation.held_out": 0.4}
    run = train(pictures, tmp_path / "run", heard := Heard(), settings=settings)
    assert min(heard.scores) < 128
    assert run.images > 224
