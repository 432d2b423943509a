"""The set-up of a comparison: its presets, with the same images, size, seed and budget for all."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from danqing import presets
from danqing.data import Dataset
from danqing.data.sources import open_dataset
from danqing.data.splits import HELD_OUT, open_alike, open_held
from danqing.errors import ConfigError, DataError
from danqing.evaluation.learner_scores import has_own_score
from danqing.evaluation.reference import reference_info
from danqing.evaluation.scores import ReferenceInfo
from danqing.families import display_name, has_prior, with_article
from danqing.families import names as family_names
from danqing.training import config_reading
from danqing.training.config import RunConfig
from danqing.training.validation import FEWEST

_JUDGES = 200
_LARGEST_SHARE = 0.25
_OWN = {
    "seed": "use --seed",
    "size": "use --size",
    "minutes": "use --minutes",
    "images": "use --images",
    "evaluation.features": "use --features",
} | dict.fromkeys(
    [f"evaluation.{name}" for name in ("every_images", "held_out", "keep", "patience_images")], "leave it out"
)
"""Settings that a comparison makes itself for all, and what to do instead of setting them."""


class ComparisonData(NamedTuple):
    """The images that all learn from, and those that all are compared with.

    held_out: the share of the training images that is held out if the data has no validation split.
    """

    training: Dataset
    reference: Dataset
    info: ReferenceInfo
    held_out: float


def choose_presets(
    families: Sequence[str],
    wanted: Sequence[str],
    size: tuple[int, int] | None,
    data: str | Path,
    *,
    ignore_reservations: bool = False,
) -> list[str]:
    """Return the presets to compare.

    They are those named, and for each family the one made for about this size.

    The size is that of the data where none is given. Raises ConfigError.

    ignore_reservations: whether the images count whose owners reserve training on them.
    """
    known = family_names() if families else []
    for family in families:
        if family not in known:
            raise ConfigError(f"There is no family called {family!r}: choose from {', '.join(known)}.")
    chosen = [presets.path(name).stem for name in wanted]
    if families:
        if size is None:
            size = open_dataset(data, ignore_reservations=ignore_reservations).size
        side = math.prod(size)
        chosen += [_nearest(family, side) for family in families]
    chosen = list(dict.fromkeys(chosen))
    if not chosen:
        raise ConfigError("Say what to compare, for instance: --families gan,vae.")
    return chosen


def configure(
    names: Sequence[str],
    *,
    size: tuple[int, int] | None,
    minutes: float | None,
    images: int | None,
    seed: int,
    settings: Mapping[str, Any],
    own: Mapping[str, Any] | None = None,
) -> dict[str, RunConfig]:
    """Return the configuration of each preset under the same budget.

    settings: the user's. own: the comparison's.

    Raises ConfigError where sizes differ, and where a setting fits one of them not or is not the user's.
    """
    if (minutes is None) == (images is None):
        raise ConfigError("Say how long each may train: --minutes 10, or --images 200000.")
    chosen = {}
    every: dict[str, Any] = {"size": size, "minutes": minutes, "images": images, "seed": seed}
    for name in names:
        try:
            _refuse_own(settings, presets.read(name)["family"])
            chosen[name] = config_reading.resolve(preset=name, settings={**settings, **(own or {})}, **every)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    sizes = {config.size for config in chosen.values()}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {'x'.join(map(str, c.size or ()))}" for name, c in chosen.items())
        raise ConfigError(
            f"These presets are for different sizes ({listed}): choose one by --size, such as 64, or "
            "auto:64 for several sizes of that area."
        )
    recognize = {name: config.family for name, config in chosen.items() if has_own_score(config.family)}
    if recognize and (len(recognize) < len(chosen) or len(set(recognize.values())) > 1):
        one = min(recognize)
        raise ConfigError(
            f"{one} is {with_article(display_name(recognize[one]))}, which is scored by what it recognizes: "
            "compare it only with others of its kind."
        )
    of_pairs = {name for name, config in chosen.items() if config.model.reads_source}
    others = of_pairs | recognize.keys()
    first = {name for name, config in chosen.items() if not has_prior(config.model)} - others
    for some, kind, kinds, made in (
        (first, "first stage", "first stages", "reconstructions"),
        (of_pairs, "model of pairs", "models of pairs", "translations"),
    ):
        if some and len(some) < len(chosen):
            raise ConfigError(
                f"{min(some)} is a {kind}, which is scored by its {made} and not by samples: compare {kinds} "
                "only with one another."
            )
    return chosen


def open_judged(data: str | Path, config: RunConfig) -> ComparisonData:
    """Open the same images for all.

    Scores compare with the test split, else with the validation split, else with what is held out.

    Where there is no validation split, a part of the training images is held out for the scores during
    training; it is larger where it must judge in the end too and the data is small. Raises DataError.
    """
    reading: dict[str, Any] = {"size": config.size, **config.data.of_source()}
    whole = open_dataset(data, split="train", **reading)
    share = min(max(HELD_OUT, round(_JUDGES / len(whole), 2)), _LARGEST_SHARE)
    test = open_alike(whole, data, "test", **reading)
    reading["range"] = whole.range
    held = open_held(data, HELD_OUT if test is not None else share, **reading)
    if len(held.judged) < FEWEST:
        raise DataError(
            f"{len(whole):,} images leave only {len(held.judged)} to compare with: add images "
            "or a test split."
        )
    if test is not None:
        return ComparisonData(held.training, test, reference_info(test, "test"), HELD_OUT)
    return ComparisonData(held.training, held.judged, reference_info(held.judged, held.split), share)


def _refuse_own(settings: Mapping[str, Any], family: str) -> None:
    for key in settings:
        full = config_reading.full_name(key, family)
        if full in _OWN:
            raise ConfigError(f"{full} is the comparison's own, the same for all: {_OWN[full]}.")


def _nearest(family: str, pixels: int) -> str:
    """The family's preset whose size is nearest, by area; `demo` and the like are for other purposes."""
    known = [
        preset
        for preset in map(presets.describe, presets.names())
        if preset["family"] == family and re.fullmatch(rf"{family}-\d+", preset["name"])
    ]
    if not known:
        raise ConfigError(f"No preset is made for the family {family}: name one by --presets.")
    return str(min(known, key=lambda preset: abs(math.log(math.prod(preset["size"]) / pixels)))["name"])
