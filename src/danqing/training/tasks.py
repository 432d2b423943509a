"""Tasks: what people train for besides sampling, and the presets and settings that suit each."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from danqing import presets
from danqing.data.degrade import Degradation
from danqing.errors import ConfigError, nearest
from danqing.training.config import TaskName


class Task(NamedTuple):
    """One task.

    presets: by the mode, which is the family that is trained; the first is the default. An editor computes in
        one evaluation (regression), or in 4 to 8 from the source image with noise (flow). `style` is one
        evaluation too, of a network that learned from a style image instead of targets.
    settings: what is set besides, unless the user sets it.
    learns_from: "pairs" where a source image cannot be made from its target, "images" where there is none,
        and "either" otherwise.
    """

    presets: Mapping[str, str]
    settings: Mapping[str, Any] = {}
    learns_from: Literal["pairs", "images", "either"] = "either"


TASKS: dict[TaskName, Task] = {
    "upscale": Task({"regression": "upscale-64", "flow": "flow-upscale-64"}),
    "enhance": Task({"regression": "enhance-64", "flow": "flow-enhance-64"}),
    "colorize": Task({"regression": "colorize-64", "flow": "flow-colorize-64"}),
    "translate": Task({"regression": "translate-64", "flow": "flow-pairs-64"}, learns_from="pairs"),
    "fill": Task({"flow": "flow-64"}, {"model.mask_share": 0.9, "task": "fill"}, learns_from="images"),
    "style": Task({"style": "style-128"}, learns_from="images"),
    "classify": Task({"classifier": "classify-32"}, learns_from="images"),
    "segment": Task({"segmenter": "segment-64"}, {"data.masks": "auto"}, learns_from="images"),
    "detect": Task({"detector": "detect-128"}, {"data.boxes": "auto"}, learns_from="images"),
    "embed": Task({"embedder": "embed-32"}, learns_from="images"),
}


UNPAIRED = "translation-64"
"""The preset of the task translate where there are domains instead of pairs."""


def choose(task: str, mode: str | None, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the preset of a task and all settings.

    mode: None is the task's default.
    settings: those of the user. Declared pairs replace the degradation of the preset; a model that upscales
        still learns by how much.
    Raises ConfigError for an unknown task or mode, and for data that the task cannot learn from.
    """
    found = TASKS.get(task)  # type: ignore[call-overload]
    if found is None:
        near = nearest(task, TASKS) or f" Choose one of {', '.join(TASKS)}."
        raise ConfigError(f"There is no task {task!r}.{near}")
    mode = mode or next(iter(found.presets))
    if mode not in found.presets:
        known = " or ".join(found.presets)
        raise ConfigError(f"The task {task} has no mode {mode!r}: choose {known}.")
    preset, own = found.presets[mode], dict(found.settings)
    if settings.get("data.domains") or settings.get("domains"):
        if (task, mode) != ("translate", "regression"):
            raise ConfigError(
                f"The task {task} does not learn from domains in the mode {mode}: leave them out, or choose "
                "the task translate without a mode."
            )
        return UNPAIRED, {**own, **settings}
    pairs, degrade = (settings.get(f"data.{name}") or settings.get(name) for name in ("pairs", "degrade"))
    if found.learns_from == "pairs" and not (pairs or degrade):
        raise ConfigError(
            f"The task {task} learns from pairs or from two kinds of images: declare them by --pairs "
            "SOURCES:TARGETS or --domains SOURCE:TARGET."
        )
    if found.learns_from == "images" and (pairs or degrade):
        raise ConfigError(f"The task {task} learns from images alone: leave pairs and degrade out.")
    if task == "upscale" and degrade and Degradation(str(degrade)).scale == 1:
        raise ConfigError(
            f"degrade is {degrade!r}, which makes no image smaller: add a step such as shrink4 for the task "
            "upscale."
        )
    made = presets.read(preset).get("data", {}).get("degrade")
    if pairs and made and task != "upscale":
        own["data.degrade"] = ""
    return preset, {**own, **settings}
