"""What a prompt means to a model: a text, the name of a class, or nothing."""

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from danqing.service.engine.orders import Offer
from danqing.service.errors import ApiError, invalid

_ARTICLE = re.compile(r"^(?:an?|the) ")
_SOME = 12
_DIGITS = 9
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
    asked = _named(offer, prompt)
    if asked is None:
        raise invalid(f"{offer.name} knows no {_quoted(prompt)}: {_advice(offer, prompt)}", "prompt")
    if name is not None and name != asked:
        raise invalid(f"The prompt asks for {asked} and the label for {name}: give one of them.", "label")
    return Reading(label=asked, revised=asked if asked != prompt else None)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Those of the known names that are most like a name, at most five."""
    forgiven = {_forgiven(one): one for one in list(known)[:_COMPARED_NAMES]}
    found = difflib.get_close_matches(_forgiven(name[:_COMPARED_CHARACTERS]), forgiven, n=5, cutoff=0.5)
    return [forgiven[one] for one in found]


def some(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:_SOME]) + (", ..." if len(names) > _SOME else "")


def _label(offer: Offer, label: str | int) -> str:
    if not offer.labels:
        raise invalid(f"{offer.name} was trained without labels: leave label out.", "label")
    if isinstance(label, str):
        if (name := _named(offer, label)) is not None:
            return name
        if label.isdecimal() and len(label) <= _DIGITS and int(label) < len(offer.labels):  # from a form
            return offer.labels[int(label)]
        raise invalid(f"{offer.name} knows no label {_quoted(label)}: {_advice(offer, label)}", "label")
    if 0 <= label < len(offer.labels):
        return offer.labels[label]
    raise invalid(f"{offer.name} has labels 0 to {len(offer.labels) - 1}, and no {label}.", "label")


def _named(offer: Offer, words: str) -> str | None:
    """The label that has this name or caption; what is written exactly so goes first."""
    if words in offer.labels:
        return words
    names, plain = _names(offer.labels, offer.captions), _forgiven(words)
    return names.get(plain) or names.get(_bare(plain))


@functools.lru_cache(maxsize=64)
def _names(labels: tuple[str, ...], captions: tuple[str, ...]) -> dict[str, str]:
    """Labels by what they may be called. A caption counts where each label has one, in the same order."""
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
    """Words without their case, spacing and width, with `_` and `-` as spaces."""
    plain = unicodedata.normalize("NFKC", words).casefold()
    return " ".join(plain.replace("_", " ").replace("-", " ").split())


def _bare(words: str) -> str:
    """Forgiven words without an article before them."""
    return _ARTICLE.sub("", words)


def _quoted(words: str) -> str:
    return repr(words if len(words) <= _COMPARED_CHARACTERS else words[:_COMPARED_CHARACTERS] + "...")


def check_length(text: str | None, param: str, limit: int) -> None:
    """Raises ApiError 400 for a text that is longer than is read."""
    if text is not None and len(text) > limit:
        message = f"{param} has {len(text)} characters: at most {limit} are read."
        raise ApiError(400, message, param=param, code="string_above_max_length")
