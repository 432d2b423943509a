"""The presets that a data set of images, labels and captions can be trained with, and what they cost."""

import functools
import tomllib
from importlib import resources
from typing import Any, NamedTuple

from danqing import presets
from danqing.threads import cores

_TASKS = frozenset({"generate", "classify"})
"""Others need pairs of images, boxes, masks or the image of a style, or make vectors."""
_FIRST_STAGES = ("vqvae-", "vae-latents-")
"""How the names of presets begin that encode images for another model."""
_OTHERS = frozenset({"demo", "faces-32"})
"""Those that are for data of their own."""


class Preset(NamedTuple):
    """A preset.

    needs: "labels" or "captions" if it cannot be trained without, "" otherwise.
    minutes: its own budget, None for one in images.
    core_hours: what these minutes cost here.
    nearest: a run that was measured, None for families without one.
    """

    name: str
    description: str
    family: str
    size: tuple[int, int]
    needs: str
    minutes: float | None
    images: int | None
    core_hours: float | None
    nearest: dict[str, Any] | None


@functools.cache
def offered() -> dict[str, Preset]:
    """Return the presets that can be chosen, by their names.

    The smallest pictures come first.
    """
    found = [_described(name) for name in presets.names() if name not in _OTHERS and _suits(name)]
    return {one.name: one for one in sorted(found, key=lambda one: (one.size, one.name))}


def _suits(name: str) -> bool:
    """Return whether a preset reads images, labels and captions alone, and generates or classifies."""
    values = presets.read(name)
    return _task(values) in _TASKS and "private" not in values and not name.startswith(_FIRST_STAGES)


def _task(values: dict[str, Any]) -> str:
    return str(values.get("task", "generate"))


def _described(name: str) -> Preset:
    values = presets.read(name)
    model = values.get("model", {})
    training = {**values, **values.get("training", {})}
    minutes, images = training.get("minutes"), training.get("images")
    needs = (
        "labels" if _task(values) == "classify" else "captions" if model.get("condition") == "text" else ""
    )
    width, height = values["size"]
    cost = None if minutes is None else round(minutes * cores() / 60, 2)
    nearest = _nearest(values["family"], width * height)
    described = str(values.get("description", ""))
    return Preset(name, described, values["family"], (width, height), needs, minutes, images, cost, nearest)


def _nearest(family: str, pixels: int) -> dict[str, Any] | None:
    """Return the measured run of a family whose size is nearest."""
    own = [run for run in _measured() if run["family"] == family]
    found = min(own, key=lambda run: abs(run["size"][0] * run["size"][1] - pixels), default=None)
    shown = ("preset", "data", "size", "minutes", "images", "machine", "metric", "score")
    return found and {key: found.get(key) for key in shown}


@functools.cache
def _measured() -> list[dict[str, Any]]:
    """Read the table of measured runs without `danqing.training`, which imports PyTorch."""
    text = resources.files("danqing.training").joinpath("measured_runs.toml").read_text(encoding="utf-8")
    return list(tomllib.loads(text)["runs"])
