"""The names of the splits of a data set: training, validation and test."""

import re

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}


def split_named(word: str) -> str | None:
    """Return the split that a name means, or None.

    The name of a folder, a cell, or the beginning of a file's name. A year may follow, as in `train2017`.
    """
    return SPLITS.get(re.sub(r"(?<=[a-z])[0-9]{4}$", "", word.strip().lower()))


def split_of_shard(name: str) -> str | None:
    """Return the split that a shard's name begins with, or None.

    For example `train-00000-of-00002.parquet`.
    """
    return split_named(name.replace("_", "-").split(".")[0].split("-")[0])
