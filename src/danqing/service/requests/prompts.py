"""The meaning of a prompt to a model: a text, the name of a class, or nothing."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from danqing.names import are_numbers, comparable, match, match_index
from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError, invalid

_SOME = 12
_COMPARED_CHARACTERS, _COMPARED_NAMES = 64, 2000  # limits the cost of a comparison


@dataclass(frozen=True, slots=True)
class PromptMeaning:
    """What a model receives.

    revised: the prompt in the model's own words, if these differ.
    """

    prompt: str | None = None
    label: str | None = None
    revised: str | None = None


def read(offer: Offer, prompt: str | None, requested: str | int | None) -> PromptMeaning:
    """Return the meaning of a prompt and a label to a model.

    A labelled model takes the name of a class or its caption, in any case and spacing, with any article.

    prompt: None if the request has no such field. requested: the label.

    Raises ApiError 400 that names the nearest classes.
    """
    name = None if requested is None else label(offer, requested)
    if offer.reads == "text":
        return PromptMeaning(prompt=prompt, label=name)
    if prompt is None or not prompt.strip():
        if offer.reads == "label" and name is None and prompt is not None:
            raise invalid(
                f"The prompt must say what {offer.name} should paint: {some(offer.labels)}.", "prompt"
            )
        return PromptMeaning(label=name)
    if offer.reads == "none":
        message = f"{offer.name} does not read a prompt: leave the prompt empty."
        raise invalid(message, "prompt")
    asked = match(prompt, offer.labels, offer.captions)
    if asked is None:
        raise invalid(f"{offer.name} does not know {_quoted(prompt)}: {_advice(offer, prompt)}", "prompt")
    if name is not None and name != asked:
        raise invalid(f"The prompt means {asked} and the label {name}: send one of them.", "label")
    return PromptMeaning(label=asked, revised=asked if asked != prompt else None)


def label(offer: Offer, requested: str | int, param: str = "label") -> str:
    """Return the name of a requested label.

    param: the field that holds it. Raises ApiError 400 that names the nearest ones.
    """
    if not offer.labels:
        raise invalid(f"{offer.name} was trained without labels: leave {param} out.", param)
    index = match_index(requested, offer.labels, offer.captions)
    if index is not None:
        return offer.labels[index]
    if isinstance(requested, str):
        message = f"{offer.name} does not know the label {_quoted(requested)}: {_advice(offer, requested)}"
        raise invalid(message, param)
    if are_numbers(offer.labels):
        raise invalid(f"{offer.name} has no label {requested}: choose one of {some(offer.labels)}.", param)
    raise invalid(f"{offer.name} has labels 0 to {len(offer.labels) - 1}, not {requested}.", param)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return at most five known names that are similar to a name."""
    forgiven = {comparable(one): one for one in list(known)[:_COMPARED_NAMES]}
    found = difflib.get_close_matches(comparable(name[:_COMPARED_CHARACTERS]), forgiven, n=5, cutoff=0.5)
    return [forgiven[one] for one in found]


def some(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:_SOME]) + (", ..." if len(names) > _SOME else "")


def _advice(offer: Offer, words: str) -> str:
    near = nearest(words, [*offer.labels, *(offer.captions if offer.reads == "label" else ())])
    return f"the nearest are {', '.join(near)}." if near else f"choose one of {some(offer.labels)}."


def _quoted(words: str) -> str:
    return repr(words if len(words) <= _COMPARED_CHARACTERS else words[:_COMPARED_CHARACTERS] + "...")


def check_length(text: str | None, param: str, limit: int) -> None:
    """Raise ApiError 400 for a text that is too long."""
    if text is not None and len(text) > limit:
        message = f"{param} has {len(text)} characters: the limit is {limit}."
        raise ApiError(400, message, param=param, code="string_above_max_length")
