"""A batch as the worker receives it: which rows to compute, by which model, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from danqing.frames import Header
from danqing.randomness import SeedMix
from danqing.service.engine.orders import Query, WholeImage


@dataclass(frozen=True, slots=True)
class Row:
    """A picture of a batch; order: the number of its order."""

    order: int
    seed: int
    label: str | int | None
    prompt: str | None
    negative_prompt: str | None
    previews: int
    attributes: dict[str, Any] | None = None
    mix: Sequence[tuple[int, float]] = ()
    moves: Sequence[tuple[int, float]] = ()

    @property
    def drawn_from(self) -> int:
        """Return the seed of its noise, or a mix of several."""
        return SeedMix(self.mix) if self.mix else self.seed


@dataclass(frozen=True, slots=True)
class Batch:
    """What the worker computes for one message of the scheduler.

    verb: a `Verb`, or an `Ability` where there are queries.
    images: of all rows, then their masks, one byte per pixel; empty for `sample` and `queries`.
    whole: the picture that all rows edit at its own size.
    queries: of all rows, if they are recognized.
    """

    number: int
    model: str
    verb: Any
    options: dict[str, Any]
    rows: list[Row]
    images: memoryview
    whole: WholeImage | None
    queries: list[Query]

    @classmethod
    def read(cls, header: Header, block: memoryview) -> "Batch":
        """Read a frame."""
        rows, whole = [Row(*row) for row in header["rows"]], None
        if header["whole"] is not None:
            length, (width, height), keeps_file, is_fine, expand, feather = header["whole"]
            content, mask = bytes(block[:length]), bytes(block[length:]) or None
            size, borders = (width, height), tuple(expand)
            whole = WholeImage(content, size, mask, keeps_file, is_fine, borders, feather)
            block = block[:0]
        queries = list[Query]()
        for length, is_text in header["queries"]:
            queries.append(Query(bytes(block[:length]), is_text))
            block = block[length:]
        return cls(
            header["batch"], header["model"], header["verb"], header["options"], rows, block, whole, queries
        )


class Draws(Protocol):
    """A model that draws what is not requested, with and without PyTorch."""

    def drawn_labels(self, seeds: Sequence[int]) -> NDArray[np.int64]: ...

    def drawn_prompts(self, seeds: Sequence[int]) -> tuple[str, ...] | None: ...


def conditions(model: Draws, rows: Sequence[Row], *, draws: bool) -> dict[str, Any]:
    """Return what some rows request, as arguments of `sample`.

    That is labels, prompts and attributes.

    draws: whether missing ones are drawn from the seed.
    """
    seeds = [row.seed for row in rows]
    labels: list[str | int | None] = [row.label for row in rows]
    prompts = [row.prompt for row in rows]
    negative = [row.negative_prompt for row in rows]
    asked: dict[str, Any] = {}
    if any(label is not None for label in labels):
        drawn = model.drawn_labels(seeds).tolist() if draws else labels
        asked["label"] = [own if label is None else label for label, own in zip(labels, drawn, strict=True)]
    if any(prompt is not None for prompt in prompts):
        texts = (model.drawn_prompts(seeds) if draws else None) or [""] * len(rows)
        asked["prompt"] = [own if text is None else text for text, own in zip(prompts, texts, strict=True)]
    if any(text is not None for text in negative):
        asked["negative_prompt"] = [text or "" for text in negative]
    if any(row.attributes for row in rows):
        asked["attributes"] = [row.attributes or {} for row in rows]
    return asked
