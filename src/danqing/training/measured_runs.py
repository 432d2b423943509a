"""Runs that were measured, and what they say of a planned one: its likely score, if its budget is enough."""

import functools
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from danqing import families, presets
from danqing.families.base import FamilyConfig
from danqing.quantities import duration, number
from danqing.training.config import RunConfig

TABLE = Path(__file__).with_name("measured_runs.toml")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MeasuredRun(_Row):
    """A run that was measured.

    size: (width, height) in pixels.
    minutes: of training, both stages together. images: of the last stage, if they are known.
    machine: as the end of "5 min on ...".
    metric, score: its name in full, and its value.
    source: where the run is described.
    """

    preset: str
    family: str
    data: str
    size: tuple[int, int]
    minutes: float = Field(gt=0)
    images: int | None = None
    machine: str
    metric: str
    score: float
    source: str

    @property
    def sentence(self) -> str:
        """Return a sentence on the run."""
        width, height = self.size
        return (
            f"Nearest measured run: {self.preset} on {self.data}, {width}x{height}, {self.minutes:g} min on "
            f"{self.machine}: {self.metric} {number(self.score)} ({self.source})"
        )


class ImagesNeeded(_Row):
    """After how many images the pictures of a family are recognisable.

    side: of the square images that this was measured on, in pixels.
    source: where the run is described.
    """

    family: str
    side: int = Field(gt=0)
    images: int = Field(gt=0)
    source: str


class Table(_Row):
    """The table in the package."""

    runs: tuple[MeasuredRun, ...]
    images_needed: tuple[ImagesNeeded, ...]


class Advice(NamedTuple):
    """Sentences on a planned run; empty where there is nothing to say."""

    nearest: str
    warning: str


NO_ADVICE = Advice("", "")


@functools.cache
def read_table() -> Table:
    """Read the table."""
    return Table.model_validate(tomllib.loads(TABLE.read_text(encoding="utf-8")))


def nearest_run(family: str, size: tuple[int, int], minutes: float) -> MeasuredRun | None:
    """Return the run of a family with the nearest size, and of these the nearest time."""
    own = [run for run in read_table().runs if run.family == family]

    def distance(run: MeasuredRun) -> tuple[float, float]:
        pixels = abs(math.log(math.prod(run.size) / math.prod(size)))
        return pixels, abs(math.log(run.minutes / max(minutes, 1e-6)))

    return min(own, key=distance, default=None)


def images_needed(family: str, size: tuple[int, int]) -> int | None:
    """Return after how many images a family's pictures are recognisable; None if it was not measured.

    It was measured at the nearest size in the table. From there it is assumed to grow with the side: larger
    pictures have more to learn, and each of them shows more.
    """
    own = [row for row in read_table().images_needed if row.family == family]
    if not own:
        return None
    side = math.sqrt(math.prod(size))
    row = min(own, key=lambda row: abs(math.log(row.side / side)))
    return round(row.images * side / row.side)


def advise(config: RunConfig, images: int, seconds: float) -> Advice:
    """Compare a planned run with measured ones.

    images, seconds: of the run, or of its second stage; images for each size are assumed to cost in
        proportion to their pixels. What is said of the time is of both stages. A run that starts from
        another's weights is never warned: how much it has to learn is not known.
    """
    seconds /= _share(config)
    size = (config.model.width, config.model.height)
    run = nearest_run(config.family, size, seconds / 60)
    nearest = run.sentence if run else ""
    needed = images_needed(config.family, size) if families.has_prior(config.model) else None
    if needed is None or images >= needed or config.init:
        return Advice(nearest, "")
    longer = seconds * needed / max(images, 1)
    warning = (
        f"A budget of {_rough(seconds)} is too small for {size[0]}x{size[1]}: on this machine, images are "
        f"recognisable after about {_rough(longer)}. {_remedy(config, images)}"
    )
    return Advice(nearest, warning)


def _share(config: RunConfig) -> float:
    """Return which share of the time of a run its last stage takes."""
    first = config.tokenizer
    return 1 - first.share if first is not None and not first.model else 1.0


def _remedy(config: RunConfig, images: int) -> str:
    """Say what to do, with the largest preset of the same kind whose size suits the budget."""
    pixels = config.model.width * config.model.height
    for (width, height), name in sorted(_presets_like(config).items(), reverse=True):
        smaller, needed = width * height, images_needed(config.family, (width, height))
        if smaller < pixels and needed is not None and images * pixels / smaller >= needed:
            return f"{width}x{height} fits into this budget: --preset {name}."
    return "Give more --minutes, or a smaller --size."


def preset_advice(config: RunConfig, preset: str, size: tuple[int, int]) -> str | None:
    """Return a sentence that recommends the preset for a (width, height); None if this one suits it.

    preset: of the run. It does not suit a size if that of another one is nearer by a factor of two or more,
        in pixels.
    """
    if config.init or config.private is not None:
        return None  # the model of `init` decides the network, and few presets can be private
    found, own = _presets_like(config), presets.read(preset).get("size")
    if not found or own is None:
        return None

    def distance(other: Sequence[int]) -> float:
        return abs(math.log2(math.prod(other) / math.prod(size)))

    nearest = min(sorted(found), key=distance)
    if distance(own) < distance(nearest) + 1:
        return None
    return (
        f"{preset} is for images of {own[0]}x{own[1]}: for {size[0]}x{size[1]}, --preset {found[nearest]} "
        "suits better."
    )


def _presets_like(config: RunConfig) -> dict[tuple[int, int], str]:
    """The presets of the same family, task and condition, by their size; the plainest name of each."""
    found: dict[tuple[int, int], str] = {}
    for name in sorted(presets.names(), key=lambda name: (not name.startswith(config.family), len(name))):
        values = presets.read(name)
        if values["family"] != config.family or "size" not in values:
            continue
        model = families.parse_config({"family": config.family, **values.get("model", {})})
        if values.get("task", "") == config.task and _kind(model) == _kind(config.model):
            width, height = values["size"]
            found.setdefault((width, height), name)
    return found


def _kind(model: FamilyConfig) -> tuple[bool, bool, bool]:
    """Return what a preset must have in common with a run."""
    return model.reads_text, model.reads_source, families.has_prior(model)


def _rough(seconds: float) -> str:
    """A length of time without seconds where minutes matter: 45 s, 12 min, 2 h 10 min."""
    return duration(seconds) if seconds < 90 else duration(60 * round(seconds / 60)).replace(" 00 s", "")
