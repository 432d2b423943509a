"""Checks whether the fields of a request suit its model."""

import re
from collections.abc import Mapping
from typing import Any

from danqing import options as rules
from danqing.attributes import Attribute, read
from danqing.errors import ConfigError
from danqing.options import Verb
from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError, invalid
from danqing.service.requests import prompts, schemas
from danqing.service.settings import Limits

QUALITY = {"low": 0.5, "medium": 1.0, "high": 2.0}
"""Multiples of the model's own num_steps."""
_MOST_STEPS = 1000
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_MOST_WORD = 512
_INTEGERS = 2**63


def sampling_options(offer: Offer, verb: Verb, fields: schemas.Fields, *, as_text: bool) -> dict[str, Any]:
    """Return the requested options of a verb; raises ApiError 400.

    Each is one of the model's own, of the right type and within its range.

    as_text: whether values may be text, as in a form.
    """
    known = offer.options[verb]
    chosen = {}
    for name, value in fields.options.items():
        if name not in known:
            raise _unknown(name, known, fields, offer)
        chosen[name] = _option(name, value, known[name], as_text=as_text)
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
    if isinstance(fields, schemas.Guided):
        if fields.negative_prompt is not None and offer.reads != "text":
            message = f"{offer.name} does not read text: leave negative_prompt out."
            raise invalid(message, "negative_prompt", "unsupported_parameter")
        scale = chosen.get("guidance_scale", known.get("guidance_scale", 1))
        if (fields.negative_prompt or "").strip() and scale == 1:
            message = "negative_prompt has no effect without guidance: set guidance_scale above 1."
            raise invalid(message, "negative_prompt")
        chosen |= _steps(offer, known, fields, most)
    return chosen


def _unknown(name: str, known: Mapping[str, Any], fields: schemas.Fields, offer: Offer) -> ApiError:
    if name in type(fields).model_fields or any(name in options for options in offer.options.values()):
        message = f"{offer.name} has no {name} here: leave it out."
        return invalid(message, name, "unsupported_parameter")
    near = prompts.nearest(name, [*type(fields).model_fields, *known])
    advice = f"the nearest are {', '.join(near)}" if near else "leave it out"
    return invalid(f"There is no field {name[:100]}: {advice}.", name[:100], "unknown_parameter")


def _option(name: str, value: Any, default: Any, *, as_text: bool) -> Any:
    """Return an option's value, of the type of its default."""
    if as_text and isinstance(value, str) and not isinstance(default, str):
        value = _read(value)
    match default:
        case bool():
            fits, kind = isinstance(value, bool), "true or false"
        case int():
            whole = isinstance(value, int) and not isinstance(value, bool)
            fits, kind = whole and abs(value) < _INTEGERS, "a whole number"
        case float():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits, kind = number and abs(value) < _INTEGERS, "a number"  # false for infinity and NaN
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


def _steps(offer: Offer, known: Mapping[str, Any], fields: schemas.Guided, most: int) -> dict[str, int]:
    """Return the number of steps that the quality stands for, at most `most`; nothing if none is set."""
    quality = fields.quality
    if quality in (None, "auto", "standard"):
        return {}
    if quality not in QUALITY or "num_steps" not in known:
        possible = ["auto", "standard", *(QUALITY if "num_steps" in known else ())]
        message = f"{offer.name} has no quality {quality}: choose {', '.join(possible)}."
        raise invalid(message, "quality")
    if fields.num_steps is not None:
        raise invalid("quality and num_steps set the same thing: send one of them.", "quality")
    return {"num_steps": min(most, max(1, round(known["num_steps"] * QUALITY[quality])))}


def check_attributes(offer: Offer, fields: schemas.Fields) -> None:
    """Raise ApiError 400 for unknown attributes and values of a model."""
    if not fields.attributes:
        return
    if not offer.attributes:
        message = f"{offer.name} was trained without attributes: leave attributes out."
        raise invalid(message, "attributes", "unsupported_parameter")
    try:
        read(list(map(Attribute.model_validate, offer.attributes)), fields.attributes)
    except ConfigError as error:
        raise invalid(str(error), "attributes") from None


def check_background(fields: schemas.Fields, offer: Offer, alpha: bool) -> None:
    """Raise ApiError 400 for transparency that is not possible.

    alpha: whether the pictures have any.
    """
    if fields.output_format == "input" and fields.background == "opaque":
        message = "A file that is returned as it was sent keeps its transparency: leave background out."
        raise invalid(message, "background")
    if fields.background != "transparent":
        return
    if not alpha:
        message = f"{offer.name} paints without transparency: choose the background opaque or auto."
        raise invalid(message, "background")
    if fields.output_format == "jpeg":
        message = "A jpeg file has no transparency: choose png or webp for a transparent background."
        raise invalid(message, "background")


def output_size(
    requested: str | None,
    own: tuple[int, int],
    offer: Offer,
    n: int,
    limits: Limits,
    *,
    verb: Verb = "sample",
) -> tuple[int, int]:
    """Return the (width, height) of the pictures to return.

    own: of the pictures if none is requested. verb: only `sample` generates other sizes.
    Raises ApiError that names possible sizes.
    """
    if requested in (None, "auto", "input", f"{own[0]}x{own[1]}"):
        return own
    assert requested is not None
    match = _SIZE.fullmatch(requested)
    if match is None:
        raise invalid(f"size must be auto or WIDTHxHEIGHT, such as {own[0]}x{own[1]}.", "size")
    width, height = int(match[1]), int(match[2])
    if not offer.resamples:
        message = f"{offer.name} returns pictures of {own[0]}x{own[1]} only: leave size out."
        raise invalid(message, "size")
    if max(width, height) > limits.side or n * width * height > limits.pixels:
        raise invalid(
            f"{n} of {requested} would be too large: a side may have {limits.side} pixels, and all pictures "
            f"of a request {limits.pixels} together.",
            "size",
        )
    if verb == "sample" and offer.sizes.fits((width, height)):
        return width, height
    # One side may be rounded: 47x31 has the aspect ratio 3:2.
    if height != round(width * own[1] / own[0]) and width != round(height * own[0] / own[1]):
        larger = ", ".join(f"{own[0] * scale}x{own[1] * scale}" for scale in (1, 2, 4, 8))
        message = f"{requested} has another aspect ratio than the pictures: choose, for example, {larger}."
        if verb == "sample" and offer.sizes.multiple:
            message = (
                f"{offer.name} does not sample {requested}: choose {offer.sizes.in_words()}, or the aspect "
                f"ratio of its own size, such as {larger}."
            )
        raise invalid(message, "size")
    return width, height
