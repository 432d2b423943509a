"""Whether the fields of a request fit the model that is to paint them."""

import re
from collections.abc import Mapping
from typing import Any

from danqing import options as rules
from danqing.errors import ConfigError
from danqing.service.engine.orders import Offer, Verb
from danqing.service.errors import ApiError, invalid
from danqing.service.requests import prompts
from danqing.service.requests import schemas as wire
from danqing.service.settings import Limits

QUALITY = {"low": 0.5, "medium": 1.0, "high": 2.0}
"""Of the model's own num_steps."""
_MOST_STEPS = 1000
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_MOST_WORD = 512
_INTEGERS = 2**63


def options(offer: Offer, verb: Verb, fields: wire.Fields, *, words: bool) -> dict[str, Any]:
    """The options of a verb that are asked for, each one that the model has, of the right kind and within its
    range; raises ApiError 400. words: they may be written, as in a form.
    """
    known = offer.options[verb]
    chosen = {}
    for name, value in fields.options.items():
        if name not in known:
            raise _unknown(name, known, fields, offer)
        chosen[name] = _option(name, value, known[name], words=words)
        try:
            rules.check(**{name: chosen[name]})
        except ConfigError as error:
            raise invalid(str(error), name) from None
    if not offer.guides and chosen.get("guidance_scale", 1) != 1:
        raise invalid(f"{offer.name} cannot be guided: leave guidance_scale at 1.", "guidance_scale")
    most = offer.tokens or _MOST_STEPS
    if chosen.get("num_steps", 1) > most:
        message = f"{offer.name} paints in at most {most} steps (got {chosen['num_steps']})."
        raise invalid(message, "num_steps")
    if isinstance(fields, wire.Guided):
        if fields.negative_prompt is not None and offer.reads != "text":
            message = f"{offer.name} reads no text: leave negative_prompt out."
            raise invalid(message, "negative_prompt", "unsupported_parameter")
        scale = chosen.get("guidance_scale", known.get("guidance_scale", 1))
        if (fields.negative_prompt or "").strip() and scale == 1:
            message = "Guidance leads away from negative_prompt: set guidance_scale above 1."
            raise invalid(message, "negative_prompt")
        chosen |= _steps(offer, known, fields, most)
    return chosen


def _unknown(name: str, known: Mapping[str, Any], fields: wire.Fields, offer: Offer) -> ApiError:
    if name in type(fields).model_fields or name in offer.options["sample"]:
        message = f"{offer.name} has no {name} here: leave it out."
        return invalid(message, name, "unsupported_parameter")
    near = prompts.nearest(name, [*type(fields).model_fields, *known])
    advice = f"the nearest are {', '.join(near)}" if near else "leave it out"
    return invalid(f"There is no field {name[:100]}: {advice}.", name[:100], "unknown_parameter")


def _option(name: str, value: Any, default: Any, *, words: bool) -> Any:
    """An option's value, of the kind that its default has. words: it may be written, as in a form."""
    if words and isinstance(value, str) and not isinstance(default, str):
        value = _read(value)
    match default:
        case bool():
            fits, kind = isinstance(value, bool), "true or false"
        case int():
            whole = isinstance(value, int) and not isinstance(value, bool)
            fits, kind = whole and abs(value) < _INTEGERS, "a whole number"
        case float():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits, kind = number and abs(value) < _INTEGERS, "a number"  # what is not finite neither
        case _:
            fits, kind = isinstance(value, str) and len(value) <= _MOST_WORD, "a word"
    if not fits:
        raise invalid(f"{name} must be {kind}.", name)
    return float(value) if isinstance(default, float) else value


def _read(word: str) -> bool | int | float | str:
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word[:_MOST_WORD])
        except ValueError:
            continue
    return word


def _steps(offer: Offer, known: Mapping[str, Any], fields: wire.Guided, most: int) -> dict[str, int]:
    """The steps that the quality stands for, where one is asked for: `most` at most."""
    quality = fields.quality
    if quality in (None, "auto", "standard"):
        return {}
    if quality not in QUALITY or "num_steps" not in known:
        possible = ["auto", "standard", *(QUALITY if "num_steps" in known else ())]
        message = f"{offer.name} has no quality {quality}: choose {', '.join(possible)}."
        raise invalid(message, "quality")
    if fields.num_steps is not None:
        raise invalid("quality and num_steps say the same thing: give one of them.", "quality")
    return {"num_steps": min(most, max(1, round(known["num_steps"] * QUALITY[quality])))}


def check_background(fields: wire.Fields, offer: Offer, alpha: bool) -> None:
    """Raise ApiError 400 for transparency that there is none of; alpha: whether the pictures have it."""
    if fields.background != "transparent":
        return
    if not alpha:
        message = f"{offer.name} paints without transparency: choose the background opaque or auto."
        raise invalid(message, "background")
    if fields.output_format == "jpeg":
        message = "A jpeg knows no transparency: choose png or webp for a transparent background."
        raise invalid(message, "background")


def size(asked: str | None, own: tuple[int, int], offer: Offer, n: int, limits: Limits) -> tuple[int, int]:
    """The (width, height) to hand out; raises ApiError that names those that are possible."""
    if asked in (None, "auto", f"{own[0]}x{own[1]}"):
        return own
    assert asked is not None
    match = _SIZE.fullmatch(asked)
    if match is None:
        raise invalid(f"size must be auto or WIDTHxHEIGHT, such as {own[0]}x{own[1]}.", "size")
    width, height = int(match[1]), int(match[2])
    if not offer.resamples:
        message = f"{offer.name} hands out its pictures as {own[0]}x{own[1]} alone: leave size out."
        raise invalid(message, "size")
    if max(width, height) > limits.side or n * width * height > limits.pixels:
        raise invalid(
            f"{n} of {asked} would be too large: a side may have {limits.side} pixels, and all pictures of a "
            f"request {limits.pixels} together.",
            "size",
        )
    # One side may be rounded: 47x33 is the shape of 3x2 at that width.
    if height != round(width * own[1] / own[0]) and width != round(height * own[0] / own[1]):
        larger = ", ".join(f"{own[0] * scale}x{own[1] * scale}" for scale in (1, 2, 4, 8))
        message = f"{asked} is of another shape than the pictures: choose such as {larger}."
        raise invalid(message, "size")
    return width, height
