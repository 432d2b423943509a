"""What is unusual about training images at a glance, before a run begins."""

import shlex
from pathlib import Path

import numpy as np

from danqing.data import Dataset
from danqing.evaluation.image_sets import index_batches, spread_evenly
from danqing.evaluation.resize import flattened
from danqing.recognition.cleaning import quality

_IMAGES, _BYTES = 2000, 16 * 2**20
"""So many images and pixels are looked at, which takes a fraction of a second."""
_BATCH = 128


def first_look(dataset: Dataset, data: str | Path) -> str | None:
    """Return a sentence on copies and poor images; None without any.

    data: as the user named it.
    """
    report, width, height = dataset.info.report, *dataset.size
    count = min(len(dataset), _IMAGES, max(1, _BYTES // (width * height * dataset.channels)))
    surveyed, measured = dataset.surveyed_rows(), list[quality.Quality]()
    count = min(count, len(surveyed))
    rows = surveyed[spread_evenly(len(surveyed), count)]
    for part in index_batches(count, _BATCH):
        levels = flattened(dataset.images(rows[part])).div_(255)
        measured.append(quality.measure(levels.mean(1, keepdim=True)))
    whole = quality.Quality(*(np.concatenate(values) for values in zip(*measured, strict=True)))
    kinds = {
        "blank": quality.is_blank(whole),
        "too dark": quality.is_dark(whole),
        "too bright": quality.is_bright(whole),
        "blurred": quality.is_blurred(whole),
    }
    found = [
        f"{len(rare):,} {name}" for name, is_one in kinds.items() if len(rare := quality.if_rare(is_one))
    ]
    if found and count < len(dataset):
        found[-1] += f" of {count:,} that were looked at"
    if report.duplicates:
        found.insert(0, f"{report.duplicates:,} equal to another")
    if report.contradicted:
        found.insert(0, f"{report.contradicted:,} equal to one with another label")
    if not found:
        return None
    page = shlex.join(["danqing", "data", "clean", str(data), "--out", "clean.html"])
    return f"Images worth a look: {', '.join(found)}. See them with {page}"
