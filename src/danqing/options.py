"""What the options of sampling may be: one of the same name means the same, whatever family has it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from danqing.errors import ConfigError
from danqing.samplers import SamplerName

Verb = Literal["sample", "fill", "vary", "translate", "relabel", "stylize"]
"""What a model may be asked for."""

Schedule = Literal["constant", "linear", "cosine"]
"""How guidance rises as an image is written: not at all, or from 1."""

Seamless = Literal["none", "x", "y", "both"]
"""Along which axes an image repeats: x joins its left edge to its right one, y its top to its bottom."""

_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "eta": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "guidance": (lambda value: value in ("condition", "guide"), "one of condition, guide"),
    "guidance_rescale": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "guidance_end": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "guidance_start": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "guidance_scale": (lambda value: 0 <= value <= 100, "from 0 to 100"),
    "guidance_schedule": (
        lambda value: value in get_args(Schedule),
        f"one of {', '.join(get_args(Schedule))}",
    ),
    "max_sequence_length": (lambda value: 1 <= value <= 1024, "from 1 to 1024"),
    "num_steps": (lambda value: value >= 1, "at least 1"),
    "overlap": (lambda value: value is None or value >= 0, "a number of pixels from 0 on"),
    "precision": (lambda value: value in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
    "sampler": (lambda value: value in get_args(SamplerName), f"one of {', '.join(get_args(SamplerName))}"),
    "seamless": (lambda value: value in get_args(Seamless), f"one of {', '.join(get_args(Seamless))}"),
    "strength": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "temperature": (lambda value: 0 <= value <= 1000, "from 0 to 1000"),
    "tile": (lambda value: value >= 0, "a number of pixels, or 0 to choose it"),
    "time_shift": (lambda value: 0 < value <= 100, "above 0 and at most 100"),
    "top_k": (lambda value: value >= 0, "a number of codes, or 0 for all of them"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "true_cfg_scale": (lambda value: 0 <= value <= 100, "from 0 to 100"),
    "truncation": (lambda value: 0 <= value <= 1, "between 0 and 1"),
}

CONTROLS: Mapping[str, Mapping[str, Any]] = {
    "guidance": {"choices": ("condition", "guide")},
    "guidance_end": {"low": 0, "high": 1},
    "guidance_scale": {"low": 0, "high": 100},
    "guidance_schedule": {"choices": get_args(Schedule)},
    "guidance_start": {"low": 0, "high": 1},
    "num_steps": {"low": 1, "isWhole": True},
    "precision": {"choices": ("auto", "float32", "bfloat16")},
    "sampler": {"choices": get_args(SamplerName)},
    "seamless": {"choices": get_args(Seamless)},
    "strength": {"low": 0, "high": 1},
    "temperature": {"low": 0, "high": 1000},
    "time_shift": {"low": 0.01, "high": 100},
    "top_k": {"low": 0, "isWhole": True},
    "top_p": {"low": 0.01, "high": 1},
    "truncation": {"low": 0, "high": 1},
}
"""The controls of the options of sampling: their choices, or the least and the greatest number."""


def complete(given: Mapping[str, Any], defaults: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return all options of a model, with defaults where none are given.

    model: what a message calls it, as the beginning of a sentence.
    Raises ConfigError for an option that the model does not have, and as `check`.
    """
    if unknown := [name for name in given if name not in defaults]:
        raise ConfigError(
            f"{model} has no sampling option {', '.join(unknown)}: it has {', '.join(defaults)}."
        )
    chosen = {**defaults, **given}
    check(**chosen)
    return chosen


def check_given(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown option or an invalid value.

    defaults: all options that there are; a value has the type of its default.
    """
    for name, value in options.items():
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            raise ConfigError(f"This model does not know the option {name!r}; it has: {known}.", name)
        default = defaults[name]
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        wrong = not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
        if default is not None and wrong:
            raise ConfigError(
                f"The option {name} cannot be {value!r}: give a value such as {default!r}.", name
            )
    check(**options)


def check(**chosen: Any) -> None:
    """Raise ConfigError for an option whose value no family takes.

    Options that are not known here belong to a family and are not checked.
    """
    for name, value in chosen.items():
        fits, kind = _RULES.get(name, (None, ""))
        if fits is not None and not fits(value):
            raise ConfigError(f"{name} must be {kind} (got {value!r}).", name)
