"""The description of a served model."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from danqing.options import Verb
from danqing.service.engine.orders import Ability
from danqing.sizes import SizeRange


@dataclass(frozen=True, slots=True)
class Offer:
    """A served model or index and its abilities.

    As the worker found them in its folder.

    width, height: in pixels. sizes: those that it generates without resampling.
    task: what it was trained to do to pictures, such as "upscale"; "" for a model that generates them.
    scale: how many times as large as the picture that was sent its result is.
    reads: what its prompt is.
    attributes: those that may be requested, as plain values of `danqing.attributes.Attribute`.
    captions: examples for a model that reads text; for a labelled model, those of each label, if any.
    options: of each verb that it supports, with their defaults.
    guides: whether guidance_scale may differ from 1.
    directions: along how many directions of its noise pictures can be moved.
    steps: whether it has intermediate pictures.
    range: the (low, high) that become black and white in pictures of more than 8 bits, None for 8 bits.
    recognizes: what a recognizer or an index does; a model that makes pictures may attribute them to words.
    reads_text: whether a text may be embedded or searched for.
    calibrated: whether the probabilities of a classifier were calibrated.
    embedding_size: the length of its vectors. entries: the pictures in an index.
    tokens: codes that one picture is written in, 0 for families without codes.
    prompt_tokens: the longest text that it reads, 0 if it reads none.
    resamples: whether its card allows other sizes to be made from its pictures.
    chunk: how many pictures are computed in the time of one.
    runtime, precision: what computes it, and in which numbers; "" where PyTorch or a request decides.
    digest: SHA-256 of its weights, "" for indexes. licence, creator: of its training data, as its card names
        them.
    adapters: those that it may be used with, by name: the digest of each, the licence of its data, and the
        word that means what it learned ("trigger").
    created: seconds since 1970.
    fault: why it cannot be used, None if it can.
    """

    name: str
    path: str
    family: str = ""
    width: int = 0
    height: int = 0
    channels: int = 0
    sizes: SizeRange = field(default_factory=lambda: SizeRange(()))
    range: tuple[float, float] | None = None
    task: str = ""
    scale: int = 1
    reads: Literal["text", "label", "none"] = "none"
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    attributes: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[Verb, Mapping[str, Any]] = field(default_factory=lambda: {"sample": {}})
    guides: bool = True
    directions: int = 0
    steps: bool = False
    recognizes: tuple[Ability, ...] = ()
    reads_text: bool = False
    calibrated: bool = False
    embedding_size: int = 0
    entries: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    resamples: bool = True
    chunk: int = 1
    parameters: int = 0
    runtime: Literal["torch", "onnx", "openvino"] = "torch"
    precision: str = ""
    digest: str = ""
    licence: str = ""
    creator: str = ""
    adapters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    created: int = 0
    card: str = ""
    fault: str | None = None

    @property
    def verbs(self) -> tuple[Verb, ...]:
        """Return the verbs that it supports."""
        return tuple(self.options)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return what it can do to a picture that is edited."""
        fills = ["fill"] if "fill" in self.options else []
        exchanges = ["translate"] if "relabel" in self.options else []
        return tuple(dict.fromkeys([*fills, *filter(None, [self.task]), *exchanges]))

    def image_tokens(self, size: tuple[int, int] | None = None) -> int:
        """Return the tokens of one picture in `usage`.

        Its codes, or one per 16x16 pixels if it has none.
        size: (width, height) that it is generated at; None is the model's own.
        """
        width, height = size or (self.width, self.height)
        return self.tokens or math.ceil(width / 16) * math.ceil(height / 16)


class OffersOf(Mapping[str, Offer]):
    """Some of the models in the worker, as currently known.

    offers: of all models. names: of those that are here.
    """

    def __init__(self, offers: Mapping[str, Offer], names: Iterable[str]) -> None:
        self._offers, self._names = offers, dict.fromkeys(names)

    def include(self, name: str) -> None:
        """Add a model to those that are here."""
        self._names[name] = None

    def exclude(self, name: str) -> None:
        """Take a model from those that are here."""
        self._names.pop(name, None)

    def __getitem__(self, name: str) -> Offer:
        if name not in self._names:
            raise KeyError(name)
        return self._offers[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if name in self._offers)

    def __len__(self) -> int:
        return len(self._names.keys() & self._offers.keys())
