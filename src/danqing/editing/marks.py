"""The marks of edited images: what they declare, and which pixels an edit has made."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from danqing.editing.contract import Edit, ImageToEdit, Keeps, KeepsAverages, Values
from danqing.trust.marking import Marking, marking, once
from danqing.trust.settings import MarkSettings

_WATERMARKED = 64
"""Bytes for each pixel while a watermark is embedded."""


def marking_of(edit: Edit, marks: str | MarkSettings | None) -> Marking | None:
    """Return the marks of an edit's results; None where they get none.

    marks: which they are; None reads `DANQING_MARKS`.
    Raises ConfigError for settings that cannot be read.
    """
    settings = MarkSettings.of(marks)
    if settings.regimes and settings.watermark and isinstance(edit, KeepsAverages) and edit.keeps_averages:
        once("These images have no invisible watermark, because they average exactly to their inputs.")
        settings = replace(settings, watermark=False)
    return marking(settings, lambda: edit.declaration)


def marking_bytes(edit: Edit, marks: Marking | None, pixels: int) -> int:
    """Estimate the bytes of memory that marking a result takes."""
    if marks is None or not marks.settings.watermark:
        return 0
    return _WATERMARKED * pixels * int(getattr(edit, "scale", 1)) ** 2


def made_by(edit: Edit, image: ImageToEdit, result: Values) -> NDArray[np.bool_] | None:
    """Return which pixels of a result an edit has made.

    They are bool `[h, w]`; None means all.
    """
    if not isinstance(edit, Keeps):
        return None
    kept, made = edit.kept(image), np.ones(result.shape[:2], np.bool_)
    left, top, *_ = edit.settings.get("expand", (0, 0))
    made[top : top + kept.shape[0], left : left + kept.shape[1]] = ~kept
    return made
