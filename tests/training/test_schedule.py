"""The learning rate, the budget and the moving average follow their formulas."""

import math

import pytest
import torch

from danqing.errors import TrainingError
from danqing.families import build, parse_config
from danqing.training.config_sections import ScheduleConfig
from danqing.training.ema import EMA, HalfLife
from danqing.training.schedule import Budget, learning_rate_factor


def test_cosine_falls_from_one_through_the_half_to_its_final_fraction():
    config = ScheduleConfig(name="cosine", final_fraction=0.1)
    assert learning_rate_factor(config, 0, 1000) == pytest.approx(1.0)
    assert learning_rate_factor(config, 500, 1000) == pytest.approx(0.55)
    assert learning_rate_factor(config, 1000, 1000) == pytest.approx(0.1)
    assert learning_rate_factor(config, 5000, 1000) == pytest.approx(0.1)


def test_warmup_is_linear_and_never_zero():
    config = ScheduleConfig(warmup_images=99)
    factors = [learning_rate_factor(config, images, 1000) for images in (0, 49, 99, 500)]
    assert factors == pytest.approx([0.01, 0.5, 1.0, 1.0])


def test_budget_follows_corrections_and_reads_back_what_it_wrote(tmp_path):
    budget = Budget(tmp_path / "budget.json", [])
    budget.set(0, 1000)
    budget.set(100, 1200)
    assert [budget.total(n) for n in (0, 99, 100, 5000)] == [1000, 1000, 1200, 1200]
    assert Budget.read(tmp_path / "budget.json").entries == budget.entries


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"totals": [[0]]}', '{"totals": 3}', '{"totals": [[0, "many"]]}']
)
def test_a_damaged_budget_is_named(tmp_path, text):
    (tmp_path / "budget.json").write_text(text)
    with pytest.raises(TrainingError, match=r"budget\.json is damaged"):
        Budget.read(tmp_path / "budget.json")


def test_tenths_follow_the_corrected_budget_and_a_larger_one_begins_anew(tmp_path):
    budget = Budget(tmp_path / "budget.json", [(0, 100)])
    assert [budget.tenth(images) for images in (0, 9, 10, 99, 100, 120)] == [0, 0, 1, 9, 10, 10]
    budget.set(30, 200)
    assert [budget.tenth(images) for images in (29, 30, 200)] == [2, 1, 10]
    budget.begin(100, 400, 10)
    assert (budget.begun, budget.tenth(100)) == (100, 2)


def test_ema_halves_the_distance_in_its_half_life():
    family = build(parse_config({"family": "vae", "net": "mlp", "width": 8, "height": 8, "channels": 1}))
    ema = EMA(family, HalfLife(100))
    before = {name: value.clone() for name, value in ema.learner.state_dict().items()}
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(1.0)
    ema.update(images=1_000_000, step_images=100)
    name = next(name for name, _ in family.named_parameters())
    moved = (ema.learner.state_dict()[name] - before[name]).mean()
    assert math.isclose(float(moved), 0.5, rel_tol=1e-5)


def test_ema_of_a_young_run_forgets_its_random_start():
    family = build(parse_config({"family": "vae", "net": "mlp", "width": 8, "height": 8, "channels": 1}))
    ema = EMA(family, HalfLife(10_000_000))
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.fill_(3.0)
    for images in range(64, 6400, 64):
        ema.update(images, 64)
    assert float(next(ema.learner.parameters()).mean()) == pytest.approx(3.0, abs=1e-3)


def test_a_resumed_run_keeps_the_correction_that_a_killed_process_made_further_on(tmp_path):
    budget = Budget(tmp_path / "budget.json", [(0, 1000), (500, 900)])
    budget.replan(seconds=100, spent=60, images=300, step=10)
    assert budget.entries == [(0, 1000), (500, 900)]
    budget.replan(seconds=100, spent=60, images=600, step=10)
    assert budget.entries == [(0, 1000), (500, 900), (600, 1000)]


def test_a_budget_in_minutes_never_grows_beyond_the_images_that_are_allowed(tmp_path):
    budget = Budget(tmp_path / "budget.json", [(0, 1000)])
    budget.replan(seconds=100, spent=10, images=300, step=10, most=1000)  # enough time for 3,000 images
    assert budget.entries == [(0, 1000), (300, 1000)]
    budget.replan(seconds=100, spent=60, images=400, step=10, most=1000)
    assert budget.entries[-1] == (400, 670)
