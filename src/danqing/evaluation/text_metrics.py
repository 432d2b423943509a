"""Whether images show what their prompts say: read back by a program, or judged by a network."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.data.builtin import shapes
from danqing.errors import EvaluationError
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.estimate import Estimate, share_of
from danqing.evaluation.image_sets import draw_rows
from danqing.evaluation.judges import caption_matcher
from danqing.evaluation.judges.shape_reader import read
from danqing.evaluation.metric_inputs import MOST_READ, MetricInputs
from danqing.evaluation.real_image_results import draw_captions
from danqing.evaluation.scores import Score

_ATTRIBUTES = ("colour", "shape", "size", "place", "count")
_FEW_PIXELS = 16


def composition(c: MetricInputs) -> Iterable[Score]:
    """Measure which attributes of drawn shapes are as their captions say."""
    known = shapes.by_caption()
    rows, texts = _prompted(c, known.__contains__)
    real_rows, real_texts = _captioned(c, MOST_READ // 4, known.__contains__)
    if not texts or not real_texts:
        raise EvaluationError("No image has a caption of the data shapes: leave composition out.")
    found, unread = _right(c, c.generated, rows, texts)
    real, _ = _right(c, c.reference.images, real_rows, real_texts)
    per_attribute = _per_attribute(found)
    told = ", ".join(f"{name} {share:.3f}" for name, share in per_attribute.items())
    settings = {
        "read": len(rows),
        "per_attribute": per_attribute,
        "unread": _per_attribute(unread),
        "on_real_images": round(float(real.mean()), 4),
    }
    note = f"read by a program that is right on {real.mean():.3f} of the attributes of real images"
    if c.reference.info.split != "test":
        note += "; these combinations were learnt from"
    shares = torch.from_numpy(found.mean(1))
    yield c.score(
        "composition",
        "attributes painted as asked",
        Estimate(float(shares.mean()), (shares,), least=0.0, most=1.0),
        better=True,
        settings=settings,
        note=f"{told}; {note}",
    )
    yield c.score(
        "composition-all",
        "images with all attributes as asked",
        share_of(torch.from_numpy(found.all(1))),
        better=True,
        settings={"read": len(rows), "on_real_images": round(float(real.all(1).mean()), 4)},
        note=note,
    )


def prompt_agreement(c: MetricInputs) -> Iterable[Score]:
    """Measure how often an image's caption is found among a hundred.

    This is R-precision (Xu et al. 2018).
    """
    captions = caption_matcher.captions_in(c.reference.images)
    rows, texts = _prompted(c, bool)
    real_rows, real_texts = _captioned(c, MOST_READ, bool)
    if not texts or not real_texts:
        raise EvaluationError(
            "None of the images that were drawn has a caption: leave prompt-agreement out, or raise -n."
        )
    ranks, among = _ranks(c, c.generated, rows, texts, captions)
    real, _ = _ranks(c, c.reference.images, real_rows, real_texts, captions)
    for metric, name, most in (
        ("prompt-agreement", "prompt agreement", 1),
        ("prompt-agreement-top5", "prompt agreement, top 5", 5),
    ):
        ceiling = float((real < most).mean())
        settings = {"judged": len(rows), "among": among, "taught_by": c.caption_matcher.taught}
        yield c.score(
            metric,
            name,
            share_of(torch.from_numpy(ranks < most)),
            better=True,
            settings=settings | {"on_real_images": round(ceiling, 4)},
            note=f"real images reach {ceiling:.3f}, by chance it is {most / among:.2g}",
        )


def _prompted(c: MetricInputs, suits: Callable[[str], bool]) -> tuple[NDArray[np.int64], list[str]]:
    """Some generated images, drawn by the seed, whose prompts suit, and these."""
    assert c.prompts is not None
    rows = draw_rows(c.n, MOST_READ, c.seed, "read")
    return _suiting(rows, [c.prompts[row] for row in rows], suits)


def _captioned(
    c: MetricInputs, most: int, suits: Callable[[str], bool]
) -> tuple[NDArray[np.int64], list[str]]:
    """Rows of at most `most` real images, drawn by the seed, whose captions suit, and these captions."""
    rows = draw_rows(c.reference.info.count, most, c.seed, "read real")
    return _suiting(rows, draw_captions(c.reference.images, rows, c.seed) or [""] * len(rows), suits)


def _suiting(
    rows: NDArray[np.int64], texts: Sequence[str], suits: Callable[[str], bool]
) -> tuple[NDArray[np.int64], list[str]]:
    chosen = [place for place, text in enumerate(texts) if suits(text)]
    return rows[chosen], [texts[place] for place in chosen]


def _right(
    c: MetricInputs, images: ImageSet, rows: NDArray[np.int64], texts: Iterable[str]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which attributes of each image are as its text says, and which cannot be read, both `[n, 5]`."""
    known, right, unread = shapes.by_caption(), [], []
    for number, (row, text) in enumerate(zip(rows.tolist(), texts, strict=True)):
        if not number % 64:
            c.tell("Reading images back", number, len(rows))
        reading = read(images.images(np.array([row]))[0].numpy())
        right.append([getattr(reading, name) == getattr(known[text], name) for name in _ATTRIBUTES])
        unread.append([getattr(reading, name) is None for name in _ATTRIBUTES])
    return np.array(right).reshape(-1, 5), np.array(unread).reshape(-1, 5)


def _per_attribute(flags: NDArray[np.bool_]) -> dict[str, float]:
    shares = flags.mean(0).tolist()
    return {name: round(share, 4) for name, share in zip(_ATTRIBUTES, shares, strict=True)}


def _ranks(
    c: MetricInputs,
    images: ImageSet,
    rows: NDArray[np.int64],
    texts: list[str],
    captions: list[list[str]],
) -> tuple[NDArray[np.int64], int]:
    """The rank of the right caption for each image, `[n]`, and among how many it was, at the least."""
    others = caption_matcher.other_captions(texts, captions, seed=c.seed)
    ranks = c.caption_matcher.ranks(images, rows, texts, others)
    return ranks, 1 + min(map(len, others))


def no_prompts(c: MetricInputs) -> str | None:
    """Return why it is not known what the images should show.

    None if it is known.
    """
    if c.candidate.model is None and not c.prompts:
        return "the images that are scored have no captions"
    if not c.reference.images.has_texts:
        return "the data has no captions"
    return None if c.prompts else "the model reads no text"


def nothing_to_tell_apart(c: MetricInputs) -> str | None:
    """Return why a caption cannot be looked for among others.

    None if it can.
    """
    if not c.training.has_texts:
        return "the training images have no captions"
    few = len({text for lines in caption_matcher.captions_in(c.reference.images) for text in lines})
    return "there are not ten different captions" if few < 10 else None


def no_shapes(c: MetricInputs) -> str | None:
    """Return why attributes cannot be read back; None if they can."""
    if c.reference.images.info.source.partition(":")[0] != shapes.ABOUT.name:  # a folder may have the name
        return "it is known of the built-in data shapes alone what its images show"
    if c.reference.images.channels < 3:
        return "grey images do not show colours"
    few = min(c.reference.images.size)
    return f"images of {few} pixels are too small to read" if few < _FEW_PIXELS else None
