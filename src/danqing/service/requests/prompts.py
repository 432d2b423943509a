"""What a prompt means to a model: a text, the name of a class, or nothing."""

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError, invalid

_ARTICLE = re.compile(r"^(?:an?|the) ")
_SOME = 12
_DIGITS = 9
_COMPARED_CHARACTERS, _COMPARED_NAMES = 64, 2000  # limits the cost of a comparison


@dataclass(frozen=True, slots=True)
class PromptMeaning:
    """What a model receives.

    revised: the prompt in the model's own words, where these differ.
    """

    prompt: str | None = None
    label: str | None = None
    revised: str | None = None


def read(offer: Offer, prompt: str | None, label: str | int | None) -> PromptMeaning:
    """Return the prompt and the label of a request as the model understands them.

    A labelled model takes the name of a class or its caption, in any case and spacing, with any article.

    prompt: None where the request has no such field.

    Raises ApiError 400 that names the nearest classes.
    """
    name = None if label is None else _label(offer, label)
    if offer.reads == "text":
        return PromptMeaning(prompt=prompt, label=name)
    if prompt is None or not prompt.strip():
        if offer.reads == "label" and name is None and prompt is not None:
            raise invalid(
                f"The prompt must say what {offer.name} should paint: {some(offer.labels)}.", "prompt"
            )
        return PromptMeaning(label=name)
    if offer.reads == "none":
        message = f"{offer.name} reads no prompt: leave the prompt empty."
        raise invalid(message, "prompt")
    asked = _named(offer, prompt)
    if asked is None:
        raise invalid(f"{offer.name} does not know {_quoted(prompt)}: {_advice(offer, prompt)}", "prompt")
    if name is not None and name != asked:
        raise invalid(f"The prompt means {asked} and the label {name}: send one of them.", "label")
    return PromptMeaning(label=asked, revised=asked if asked != prompt else None)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are most similar to a name, at most five."""
    forgiven = {_forgiven(one): one for one in list(known)[:_COMPARED_NAMES]}
    found = difflib.get_close_matches(_forgiven(name[:_COMPARED_CHARACTERS]), forgiven, n=5, cutoff=0.5)
    return [forgiven[one] for one in found]


def some(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:_SOME]) + (", ..." if len(names) > _SOME else "")


def _label(offer: Offer, label: str | int) -> str:
    if not offer.labels:
        raise invalid(f"{offer.name} was trained without labels: leave label out.", "label")
    if isinstance(label, str):
        if (name := _named(offer, label)) is not None:
            return name
        if label.isdecimal() and len(label) <= _DIGITS and int(label) < len(offer.labels):  # from a form
            return offer.labels[int(label)]
        raise invalid(
            f"{offer.name} does not know the label {_quoted(label)}: {_advice(offer, label)}", "label"
        )
    if 0 <= label < len(offer.labels):
        return offer.labels[label]
    raise invalid(f"{offer.name} has the labels 0 to {len(offer.labels) - 1}, not {label}.", "label")


def _named(offer: Offer, words: str) -> str | None:
    """Return the label with this name or caption; an exact match goes first."""
    if words in offer.labels:
        return words
    names, plain = _names(offer.labels, offer.captions), _forgiven(words)
    return names.get(plain) or names.get(_bare(plain))


@functools.lru_cache(maxsize=64)
def _names(labels: tuple[str, ...], captions: tuple[str, ...]) -> dict[str, str]:
    """Return labels by their names and captions; captions count where each label has one, in order."""
    names = {_forgiven(label): label for label in reversed(labels)}
    if len(captions) == len(labels):
        for label, caption in zip(labels, captions, strict=True):
            for line in caption.splitlines():
                names.setdefault(_forgiven(line), label)
    for name, label in list(names.items()):
        names.setdefault(_bare(name), label)
    names.pop("", None)
    return names


def _advice(offer: Offer, words: str) -> str:
    near = nearest(words, [*offer.labels, *(offer.captions if offer.reads == "label" else ())])
    return f"the nearest are {', '.join(near)}." if near else f"choose one of {some(offer.labels)}."


def _forgiven(words: str) -> str:
    """Normalise case, spacing and width; `_` and `-` become spaces."""
    plain = unicodedata.normalize("NFKC", words).casefold()
    return " ".join(plain.replace("_", " ").replace("-", " ").split())


def _bare(words: str) -> str:
    """Remove an article from the start of normalised words."""
    return _ARTICLE.sub("", words)


def _quoted(words: str) -> str:
    return repr(words if len(words) <= _COMPARED_CHARACTERS else words[:_COMPARED_CHARACTERS] + "...")


def check_length(text: str | None, param: str, limit: int) -> None:
    """Raise ApiError 400 for a text that is too long."""
    if text is not None and len(text) > limit:
        message = f"{param} has {len(text)} characters: the limit is {limit}."
        raise ApiError(400, message, param=param, code="string_above_max_length")
