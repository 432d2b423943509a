"""What a prompt means to a model: a text, the name of a class, or nothing."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from danqing.names import are_numbers, comparable, match, match_index
from danqing.service.errors import ApiError, invalid
from danqing.service.orders import Offer

_SOME = 12
_COMPARED_CHARACTERS, _COMPARED_NAMES = 64, 2000  # what comparing may cost is bounded


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model is told. revised: the prompt in the model's own words, where these are others."""

    prompt: str | None = None
    label: str | None = None
    revised: str | None = None


def read(offer: Offer, prompt: str | None, label: str | int | None) -> Reading:
    """The prompt and the label of a request as the model understands them; prompt None: the request has none.

    A labelled model takes the name of a class or its caption, whatever its case, spacing and article. Raises
    ApiError 400 that names the nearest classes.
    """
    name = None if label is None else _label(offer, label)
    if offer.reads == "text":
        return Reading(prompt=prompt, label=name)
    if prompt is None or not prompt.strip():
        if offer.reads == "label" and name is None and prompt is not None:
            raise invalid(f"Say by the prompt what {offer.name} is to paint: {some(offer.labels)}.", "prompt")
        return Reading(label=name)
    if offer.reads == "none":
        message = f"{offer.name} paints what it likes and reads no prompt: leave the prompt empty."
        raise invalid(message, "prompt")
    asked = match(prompt, offer.labels, offer.captions)
    if asked is None:
        raise invalid(f"{offer.name} knows no {_quoted(prompt)}: {_advice(offer, prompt)}", "prompt")
    if name is not None and name != asked:
        raise invalid(f"The prompt asks for {asked} and the label for {name}: give one of them.", "label")
    return Reading(label=asked, revised=asked if asked != prompt else None)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Those of the known names that are most like a name, at most five."""
    forgiven = {comparable(one): one for one in list(known)[:_COMPARED_NAMES]}
    found = difflib.get_close_matches(comparable(name[:_COMPARED_CHARACTERS]), forgiven, n=5, cutoff=0.5)
    return [forgiven[one] for one in found]


def some(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:_SOME]) + (", ..." if len(names) > _SOME else "")


def _label(offer: Offer, label: str | int) -> str:
    if not offer.labels:
        raise invalid(f"{offer.name} was trained without labels: leave label out.", "label")
    index = match_index(label, offer.labels, offer.captions)
    if index is not None:
        return offer.labels[index]
    if isinstance(label, str):
        raise invalid(f"{offer.name} has no label {_quoted(label)}: {_advice(offer, label)}", "label")
    if are_numbers(offer.labels):
        raise invalid(f"{offer.name} has no label {label}: choose one of {some(offer.labels)}.", "label")
    raise invalid(f"{offer.name} has labels 0 to {len(offer.labels) - 1}, not {label}.", "label")


def _advice(offer: Offer, words: str) -> str:
    near = nearest(words, [*offer.labels, *(offer.captions if offer.reads == "label" else ())])
    return f"the nearest are {', '.join(near)}." if near else f"choose one of {some(offer.labels)}."


def _quoted(words: str) -> str:
    return repr(words if len(words) <= _COMPARED_CHARACTERS else words[:_COMPARED_CHARACTERS] + "...")


def check_length(text: str | None, param: str, limit: int) -> None:
    """Raises ApiError 400 for a text that is longer than is read."""
    if text is not None and len(text) > limit:
        message = f"{param} has {len(text)} characters: at most {limit} are read."
        raise ApiError(400, message, param=param, code="string_above_max_length")
