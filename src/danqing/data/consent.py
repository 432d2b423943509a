"""What the files of a data set say of the rights in them and of people, in numbers of images."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from danqing.data.terms import Terms

_MOST, _MOST_COUNTED, _SHOWN = 100, 10_000, 20
_DECLARED, _LONGEST = 10, 200
"""How many licences and creators each image declares, and how long: every file has to hold them."""
_OTHERS = "others"
Counts = dict[str, Counter[str]]
"""The number of images by text, by field of `Consent`."""


class Consent(BaseModel):
    """What the files of a data set say, as numbers of images.

    licences, creators, notices, personal: of the images in use, the most frequent first.
    reservations: by kind, of all images. reserved: images whose owners reserve training on them, in use only
    if `ignored`. unread: images with Content Credentials that need the extra `trust`. damaged: images with
    metadata that cannot be read.
    """

    model_config = ConfigDict(frozen=True)

    licences: dict[str, int] = {}
    creators: dict[str, int] = {}
    notices: dict[str, int] = {}
    personal: dict[str, int] = {}
    reservations: dict[str, int] = {}
    reserved: int = 0
    ignored: bool = False
    unread: int = 0
    damaged: int = 0

    @classmethod
    def of(cls, counts: Counts, *, ignored: bool) -> Self:
        """Return the summary of counts.

        ignored: whether images are used although their owners reserve training.
        """
        images = counts.get("images", Counter())
        tables = {
            name: _most_common(counts.get(name, Counter()))
            for name in ("licences", "creators", "notices", "personal", "reservations")
        }
        return cls(
            **tables,
            reserved=images["reserved"],
            ignored=ignored and images["reserved"] > 0,
            unread=images["unread"],
            damaged=images["damaged"],
        )

    def facts(self) -> dict[str, Any]:
        """Return what a model says of its training data.

        That is what is not empty, and nothing personal.
        """
        told = self.model_dump(exclude={"personal", "unread", "damaged"})
        return {name: value for name, value in told.items() if value}

    def notes(self) -> list[str]:
        """Return what users should know before they train, as sentences."""
        notes = []
        if self.reserved:
            kinds = in_words(self.reservations)
            done = "They are used anyway" if self.ignored else "They are left out"
            how = "" if self.ignored else "; --ignore-reservations uses them, if you have the permission"
            notes.append(f"The owners of {self.reserved:,} images reserve training ({kinds}). {done}{how}.")
        if self.personal:
            notes.append(
                f"Files name personal data: {in_words(self.personal)}. The cache does not contain it."
            )
        if self.unread:
            notes.append(
                f"The Content Credentials of {self.unread:,} images were not read, and may reserve training: "
                "pip install 'danqing[trust]'."
            )
        if self.damaged:
            notes.append(f"{self.damaged:,} images have metadata that are damaged and were not read.")
        return notes


class Declared(NamedTuple):
    """What generated images declare of the rights in the training data.

    licence: of the data set as a whole, and those that its files name. creator: the creators that its files
    name. reservations: the numbers of images by reservation, and whether these were left out.
    """

    licence: str = ""
    creator: str = ""
    reservations: Mapping[str, Any] = {}


def declared(data: Mapping[str, Any]) -> Declared:
    """Return what images declare.

    data: what a model says of its training data.
    """
    consent = read_consent(data.get("consent"))
    licences = [str(data.get("licence") or ""), *_first(consent.licences)]
    reservations: dict[str, Any] = {
        kind: count for kind, count in consent.reservations.items() if kind in _first(consent.reservations)
    }
    if reservations:
        reservations["images"] = "used anyway" if consent.ignored else "left out"
    creators = ", ".join(_first(consent.creators))
    return Declared(", ".join(filter(None, licences)), creators, reservations)


def _first(table: Mapping[str, int]) -> list[str]:
    return [text[:_LONGEST] for text in list(table)[:_DECLARED]]


def read_consent(told: Any) -> Consent:
    """Read what a model folder says; a damaged one says nothing."""
    try:
        return Consent.model_validate(told)
    except ValidationError:
        return Consent()


def in_words(table: Mapping[str, int]) -> str:
    """Return texts with their counts, such as "CC BY 4.0 (12)"."""
    shown = [f"{text} ({number:,})" for text, number in list(table.items())[:_SHOWN]]
    more = [f"and {len(table) - _SHOWN:,} more"] if len(table) > _SHOWN else []
    return ", ".join([*shown, *more])


def count(counts: Counts, terms: Terms, *, used: bool) -> None:
    """Add the terms of an image to counts, in place.

    used: whether it is in the data set.
    """
    counts.setdefault("reservations", Counter()).update(terms.reservations)
    states = {"reserved": terms.is_reserved, "unread": terms.unread, "damaged": terms.damaged}
    counts.setdefault("images", Counter()).update(name for name, is_so in states.items() if is_so)
    if used:
        texts = {
            "licences": filter(None, [terms.licence]),
            "creators": terms.creators,
            "notices": filter(None, [terms.notice]),
            "personal": terms.personal,
        }
        for name, found in texts.items():
            counts.setdefault(name, Counter()).update(found)


def merge(counts: Counts, more: Mapping[str, Mapping[str, int]]) -> None:
    """Add counts to others, in place.

    Texts beyond the first 10,000 count as others.
    """
    for name, table in more.items():
        known = counts.setdefault(name, Counter())
        for text, number in table.items():
            known[text if text in known or len(known) < _MOST_COUNTED else _OTHERS] += number


def _most_common(table: Counter[str]) -> dict[str, int]:
    """Return the most frequent texts, and how often others occur."""
    others = table[_OTHERS]
    ranked = [(text, number) for text, number in table.most_common() if text != _OTHERS and number]
    others += sum(number for _, number in ranked[_MOST:])
    return dict(ranked[:_MOST]) | ({_OTHERS: others} if others else {})
