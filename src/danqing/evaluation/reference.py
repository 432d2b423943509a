"""The real images that scores compare with, and the training images beside them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from danqing.data import builtin
from danqing.data.dataset import Dataset
from danqing.data.headers import LOSSY
from danqing.data.records import DataReport
from danqing.data.sources import open_dataset
from danqing.data.splits import has_split, has_two, hold_out, open_if_there
from danqing.errors import DataError, EvaluationError
from danqing.evaluation.candidate import Candidate, draw_subset
from danqing.evaluation.scores import ReferenceInfo
from danqing.progress import ProgressCallback

MOST_REFERENCE = 50_000
"""Scores compare with at most this many real images: the time that some take grows with their square."""
_Sizes = tuple[tuple[int, int], tuple[int, int]]
_UNLIKE_SHARE = 0.5
"""If the shares of lossy files differ by more than this, the score carries a note."""
_LEARNT = "measured on images that may have been learnt from"
_LEARNT_OTHERS = f"{_LEARNT} (the model says that it learnt from others, and these may be among them)"
_TOKENIZER = "its tokenizer learnt from other images than the model did, and these may be among them"
_CHOSEN = "the model was chosen by its scores on these images, which flatters it a little"
_LOST = (
    "the images that the run held out can no longer be told from the others: the data, or how it is read, "
    "has changed since"
)


@dataclass(frozen=True)
class Reference:
    """The real images that a candidate is compared with.

    is_held_out: whether they are others than those that may have been learnt from. open_training: what opens
    the latter, None where they are not known. cautions: what every score against them must be read with.
    """

    images: Dataset
    info: ReferenceInfo
    open_training: Callable[[], Dataset] | None = None
    is_held_out: bool = False
    cautions: tuple[str, ...] = ()


def open_reference(
    data: str | Path,
    candidate: Candidate,
    *,
    split: str | None = None,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
) -> Reference:
    """Open the split of the data that scores compare with.

    The training images are opened beside it, where they are known.

    split: "train", "test", "validation", "held-out" (what a run kept from training) or "all"; None takes the
    first of test, validation and held-out that there is, and the training images where there is none. Of more
    than `MOST_REFERENCE` images, as many are drawn by the seed. Raises DataError and EvaluationError.
    """
    seen = _Seen(data, candidate, on_progress)
    pairs = candidate.preparation.get("pairs", "")
    chosen = _usual_split(data, seen, pairs) if split is None else split
    cautions = []
    if chosen == "held-out":
        if seen.parts is None:
            raise EvaluationError(_why_none_held_out(candidate))
        images = seen.parts[1]
    elif chosen == "train" and seen.whole is not None:
        images = seen.whole
        others = learnt_from(candidate, images) is False and seen.parts is None
        cautions.append(_LEARNT_OTHERS if others else _LEARNT)
        if split is None and _share_held_out(candidate):
            cautions.append(_LOST)
    else:
        images = open_dataset(data, split=chosen, **candidate.preparation, on_progress=on_progress)
        cautions += [_LEARNT] if chosen in ("train", "all") else []
    cautions += _unlike_files(candidate, images)
    if candidate.trained is not None and candidate.trained.facts.get("data", {}).get("chosen_by") == chosen:
        cautions.append(_CHOSEN)
    is_held_out = chosen == "held-out" or (
        chosen not in ("train", "all") and has_two(data, "train", chosen, pairs)
    )
    if is_held_out and _has_foreign_tokenizer(candidate, seen, chosen):
        cautions.append(_TOKENIZER)
    whole = images
    if len(whole) > MOST_REFERENCE:
        cautions.append(f"{MOST_REFERENCE:,} of {len(whole):,} images were drawn from the {chosen} split")
        images = draw_subset(whole, MOST_REFERENCE, seed, "reference")
    return Reference(
        images=images,
        info=reference_info(images, chosen),
        open_training=seen.learnt if is_held_out else (lambda: whole) if chosen in ("train", "all") else None,
        is_held_out=is_held_out,
        cautions=tuple(cautions),
    )


def reference_info(images: Dataset, split: str) -> ReferenceInfo:
    """Return what a score says about its reference images."""
    source = images.info.source
    is_builtin = source.replace("/", ":").split(":")[0] in builtin.names()
    return ReferenceInfo(
        name=source if is_builtin else images.info.name,
        split=split,
        count=len(images),
        fingerprint=images.fingerprint,
    )


def _unlike_files(candidate: Candidate, reference: Dataset) -> list[str]:
    """Notes for images and a reference that come from different kinds of files."""
    if candidate.pictures is None:
        return []
    cautions, ours, theirs = [], candidate.pictures.info.report, reference.info.report
    shares = [share for report in (ours, theirs) if (share := _lossy_share(report)) is not None]
    if len(shares) == 2 and abs(shares[0] - shares[1]) > _UNLIKE_SHARE:
        mine, other = (" and ".join(list(report.formats)[:2]) for report in (ours, theirs))
        cautions.append(
            f"these images are {mine} and the reference is {other}: traces of compression change every "
            "distance, so save both in one format"
        )
    sizes = [report.source_sizes for report in (ours, theirs) if report.source_sizes is not None]
    if len(sizes) == 2 and _are_far_apart(*sizes):
        mine, other = ("x".join(map(str, largest)) for _, largest in sizes)
        cautions.append(
            f"these images had at most {mine} pixels before they were resized and the reference at most "
            f"{other}: resizing changes every distance, so compare images of similar size"
        )
    return cautions


def _lossy_share(report: DataReport) -> float | None:
    """The share of images that come from files of a lossy format; None where the formats are not known."""
    total = sum(report.formats.values())
    return sum(n for name, n in report.formats.items() if name in LOSSY) / total if total else None


def _are_far_apart(sizes: _Sizes, others: _Sizes) -> bool:
    """Whether the largest of one side are at most half of the smallest of the other, in width and height."""
    return any(
        all(2 * largest <= smallest for largest, smallest in zip(small[1], large[0], strict=True))
        for small, large in ((sizes, others), (others, sizes))
    )


class _Seen:
    """The training images of some data as a candidate's run saw them, opened when they are first needed."""

    def __init__(self, data: str | Path, candidate: Candidate, on_progress: ProgressCallback | None) -> None:
        self._data, self._candidate, self._on_progress = data, candidate, on_progress

    @functools.cached_property
    def whole(self) -> Dataset | None:
        """The training split as the run read it, where that gives images of the candidate's shape."""
        candidate = self._candidate
        if candidate.as_trained is not None:
            images = open_if_there(self._data, "train", **candidate.as_trained, on_progress=self._on_progress)
            wanted = (candidate.preparation["size"], candidate.preparation["channels"])
            if images is None or (images.size, images.channels) == wanted:
                return images
        return open_if_there(self._data, "train", **candidate.preparation, on_progress=self._on_progress)

    @functools.cached_property
    def parts(self) -> tuple[Dataset, Dataset] | None:
        """What a model learnt from and what was held out, where it was trained so on these very images."""
        share = _share_held_out(self._candidate)
        if share is None or self.whole is None:
            return None
        try:
            parts = hold_out(self.whole, share)
        except DataError:  # fewer images than any run could have held some out of
            return None
        return parts if any(learnt_from(self._candidate, one) for one in (self.whole, parts[0])) else None

    def learnt(self) -> Dataset:
        """What may have been learnt from; only where there is a training split."""
        assert self.whole is not None
        return self.whole if self.parts is None else self.parts[0]


def _usual_split(data: str | Path, seen: _Seen, pairs: str) -> str:
    for name in ("test", "validation"):
        if has_split(data, name, pairs):
            return name
    return "train" if seen.parts is None else "held-out"


def _has_foreign_tokenizer(candidate: Candidate, seen: _Seen, split: str) -> bool:
    """Whether a model says that its tokenizer learnt from images among which those of a split may be."""
    facts = candidate.trained.facts if candidate.trained is not None else {}
    told = facts.get("tokenizer", {}).get("fingerprint")
    if told in (None, facts.get("data", {}).get("fingerprint")):
        return False
    harmless = [seen.parts[0]] if seen.parts is not None else []
    harmless += [seen.whole] if seen.whole is not None and split != "held-out" else []
    return told not in [images.fingerprint for images in harmless]


def _share_held_out(candidate: Candidate) -> float | None:
    """The share of its data that a model says was held out; None where none was."""
    told = candidate.trained.facts.get("data", {}).get("held_out") if candidate.trained else None
    return told if isinstance(told, float) and 0 < told < 1 else None


def _why_none_held_out(candidate: Candidate) -> str:
    if candidate.trained is None:
        return (
            f"{candidate.name} is not a model, and only a model's run holds images out: name another --split."
        )
    if _share_held_out(candidate) is not None:
        return f"For {candidate.name}, {_LOST}: name another --split."
    return f"{candidate.name} did not keep a part of this data from training: name another --split."


def learnt_from(candidate: Candidate, images: Dataset) -> bool | None:
    """Return whether a model says that it learnt from these images.

    None if it does not say.
    """
    known = candidate.trained.facts.get("data", {}).get("fingerprint") if candidate.trained else None
    return None if known is None else known == images.fingerprint
