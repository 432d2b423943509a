"""The training of editors: the finish starts where it should, and a run continues in it bit for bit."""

from typing import Any

import pytest
import torch

from danqing.data import Batches, Dataset
from danqing.data.degrade import Degradation
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine

STEPS, BATCH = 8, 8
SETTINGS: dict[str, Any] = {"features": 8, "blocks": 1, "discriminator_features": 4, "precision": "float32"}


def engine_of(dataset: Dataset, **settings: Any) -> Engine:
    values = {**SETTINGS, "degrade": "shrink2", "batch_size": BATCH, **settings}
    config = resolve(preset="upscale-64", settings=values, size=dataset.size).for_data(dataset)
    batches = Batches(dataset, BATCH, config.seed, degrade=Degradation(config.data.degrade))
    return Engine(config, batches, torch.device("cpu"), "float32")


def run(engine: Engine, steps: int, start: int = 0) -> list[dict[str, float]]:
    logged = []
    for step in range(start, start + steps):
        engine.step(step * BATCH, step, total=STEPS * BATCH)
        logged.append(engine.meter.drain())
    return logged


def discriminator(engine: Engine) -> list[torch.Tensor]:
    tensors = engine.tensors()
    return [value.clone() for name, value in tensors.items() if name.startswith("family/discriminator")]


def test_the_finish_takes_the_last_share_of_the_run_and_the_discriminator_rests_until_then(
    dataset: Dataset,
) -> None:
    engine = engine_of(dataset, adversarial_share=0.25)
    fresh = discriminator(engine)
    before = run(engine, 6)
    assert all(torch.equal(a, b) for a, b in zip(fresh, discriminator(engine), strict=True))
    after = run(engine, 2, start=6)
    assert not all(torch.equal(a, b) for a, b in zip(fresh, discriminator(engine), strict=True))
    assert ["regression/adversarial" in line for line in before + after] == [False] * 6 + [True] * 2
    assert "discriminator" not in {name.split(".")[0] for name in engine.ema.learner.state_dict()}


@pytest.mark.parametrize("step", [3, 5])
def test_a_fresh_engine_continues_before_and_in_the_finish(dataset: Dataset, step: int) -> None:
    whole, first, second = (engine_of(dataset, adversarial_share=0.5) for _ in range(3))
    expected = run(whole, STEPS)
    run(first, step)
    tensors = {name: value.clone() for name, value in first.tensors().items()}
    second.load_tensors(tensors, first.meter.counts)
    assert run(second, STEPS - step, start=step) == expected[step:]
    assert all(torch.equal(value, second.tensors()[name]) for name, value in whole.tensors().items())
