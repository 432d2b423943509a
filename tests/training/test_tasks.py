"""Tasks: which presets and settings they choose, and what they reject."""

from typing import Any

import pytest

from danqing import presets
from danqing.errors import ConfigError
from danqing.training import tasks
from danqing.training.config import TaskName
from danqing.training.config_reading import resolve


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_presets_of_a_task_say_what_they_are_for(task: TaskName) -> None:
    for mode, name in tasks.TASKS[task].presets.items():
        pairs = {"data.pairs": "A:B"} if tasks.TASKS[task].learns_from == "pairs" else {}
        preset, settings = tasks.choose(task, mode, pairs)
        assert preset == name in presets.names()
        config = resolve(preset=preset, settings=settings)
        assert config.task == task
        assert config.family == mode
        assert bool(config.data.degrade or config.data.pairs) == config.model.reads_source


def test_the_first_mode_of_a_task_is_its_default() -> None:
    assert tasks.choose("upscale", None, {}) == ("upscale-64", {})
    assert tasks.choose("fill", None, {})[0] == "flow-64"
    domains = {"data.domains": "A:B"}
    assert tasks.choose("translate", None, domains) == ("translation-64", domains)


def test_declared_pairs_replace_the_degradation_of_a_preset() -> None:
    for task, degrade in (("enhance", ""), ("colorize", ""), ("upscale", "shrink4")):
        preset, settings = tasks.choose(task, None, {"data.pairs": "A:B"})
        config = resolve(preset=preset, settings=settings)
        assert (config.data.pairs, config.data.degrade) == ("A:B", degrade)
    preset, settings = tasks.choose("enhance", "flow", {"data.degrade": "noise0.1"})
    assert resolve(preset=preset, settings=settings).data.degrade == "noise0.1"


@pytest.mark.parametrize(
    ("task", "mode", "settings", "sentence"),
    [
        ("paint", None, {}, "There is no task 'paint'. Choose one of upscale"),
        ("upscale", "slow", {}, "The task upscale has no mode 'slow': choose regression or flow"),
        ("fill", "regression", {}, "The task fill has no mode 'regression': choose flow"),
        ("translate", None, {}, "declare them by --pairs SOURCES:TARGETS or --domains"),
        ("fill", None, {"data.pairs": "A:B"}, "leave pairs and degrade out"),
        ("enhance", None, {"data.domains": "A:B"}, "does not learn from domains"),
        ("translate", "flow", {"data.domains": "A:B"}, "in the mode flow"),
        ("upscale", None, {"data.degrade": "blur"}, "add a step such as shrink4"),
    ],
)
def test_what_a_task_cannot_be_is_one_sentence(
    task: str, mode: str | None, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tasks.choose(task, mode, settings)
