"""What is requested of a model, one row per image: checked, without PyTorch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Protocol

from danqing.data.captions import captions_of
from danqing.errors import ConfigError
from danqing.names import match_index
from danqing.randomness import derived_seed
from danqing.requested_attributes import Attributes, HasAttributes

Label = str | int | Sequence[str | int] | None
Prompt = str | Sequence[str] | None
DrawLabel = Callable[[Sequence[float], int], int]
"""From the weights of labels and a seed to the index that the seed draws."""

_SOME = 12


class HasConditions(HasAttributes, Protocol):
    """What a model says of its conditions, as in `families.configuration.FamilyConfig`."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def label_frequencies(self) -> tuple[float, ...]: ...

    @property
    def label_captions(self) -> tuple[str, ...]: ...

    @property
    def captions(self) -> tuple[str, ...]: ...

    @property
    def reads_text(self) -> bool: ...


def count_images(
    label: Label, prompt: Prompt, seeds: Sequence[int] | None, attributes: Attributes = None
) -> int:
    """Return the number of seeds, prompts, labels or attributes, or 1."""
    lists = [given for given in (seeds, prompt, label, attributes) if given is not None]
    return next((len(given) for given in lists if not isinstance(given, str | int | Integral | Mapping)), 1)


def image_seeds(count: int, seed: int, seeds: Sequence[int] | None) -> list[int]:
    """Return one seed per image: those given, or `count` derived from one.

    Raises ConfigError where a seed is negative or no whole number, or where there are not `count` seeds.
    """
    if not isinstance(count, Integral):
        raise ConfigError(f"The number of images is a whole number, not {count!r}.")
    for given in (seed, *(() if seeds is None else seeds)):
        if not isinstance(given, Integral) or given < 0:
            raise ConfigError(f"A seed is a whole number from 0 on, not {given!r}.")
    derived = (derived_seed(seed, "image", number) for number in range(count))
    chosen = list(derived if seeds is None else seeds)
    if len(chosen) != count:
        raise ConfigError(f"Give one seed per image: there are {len(chosen)} seeds for {count} images.")
    return chosen


def labels(config: HasConditions, label: Label, seeds: Sequence[int], draw: DrawLabel) -> list[int] | None:
    """Return one class index per seed; None for a model without labels.

    draw: draws a label where none is requested.
    Raises ConfigError for an unknown label, and for another number of labels.
    """
    if not config.labels:
        if label is not None:
            advice = "describe the image by a prompt" if config.reads_text else "leave the label out"
            raise ConfigError(f"This model was trained without labels: {advice}.")
        return None
    if label is None:
        frequencies = config.label_frequencies or (1.0,) * len(config.labels)
        return [draw(frequencies, seed) for seed in seeds]
    if not isinstance(label, str | Integral | Iterable):
        raise ConfigError(f"A label is a name or a whole number, not {label!r}.")
    wanted = [label] * len(seeds) if isinstance(label, str | Integral) else list(label)
    if len(wanted) != len(seeds):
        raise ConfigError(
            f"Give one label, or one per image: there are {len(wanted)} for {len(seeds)} images."
        )
    return [_label_index(config, one) for one in wanted]


def _label_index(config: HasConditions, label: str | int) -> int:
    found = match_index(label, config.labels, config.label_captions)
    if found is None:
        raise ConfigError(
            f"This model does not know the label {label!r}: choose one of {_some(config.labels)}."
        )
    return found


def texts(config: HasConditions, prompt: Prompt, seeds: Sequence[int]) -> tuple[str, ...] | None:
    """Return one text per seed; None where the model reads none.

    By default they are captions of the data.
    Raises ConfigError for a prompt of a model that reads none, and for another number of prompts.
    """
    if not config.reads_text:
        if prompt is not None:
            reads = (
                f"reads labels and not text: choose a label ({_some(config.labels)})"
                if config.labels
                else "reads neither text nor labels: leave the prompt out"
            )
            raise ConfigError(f"This {config.family} {reads}.")
        return None
    if prompt is None:
        return tuple(_drawn(config.captions, seed) for seed in seeds)
    wanted = [prompt] * len(seeds) if isinstance(prompt, str) else list(prompt)
    if len(wanted) != len(seeds):
        raise ConfigError(
            f"Give one prompt, or one per image: there are {len(wanted)} for {len(seeds)} images."
        )
    for one in wanted:
        if not isinstance(one, str):
            raise ConfigError(f"A prompt is a text, not {one!r}: describe the image.")
    return tuple(wanted)


def _drawn(captions: Sequence[str], seed: int) -> str:
    if not captions:
        return ""
    number = derived_seed(seed, "prompt")
    lines = captions_of(captions[number % len(captions)])
    return lines[number // len(captions) % len(lines)] if lines else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SOME]) + (", ..." if len(names) > _SOME else "")
