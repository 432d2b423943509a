"""Captions read before the first step, where reading one takes as long as a step may."""

from collections.abc import Callable

import numpy as np

from danqing.data import Dataset
from danqing.data.cache import default_folder
from danqing.data.captions import captions_of
from danqing.families.base import FamilyConfig
from danqing.families.prefix import reader
from danqing.text.contract import TextConfig, TextFacts

_AT_ONCE = 64
_IMAGES = 4096


def read(model: FamilyConfig, dataset: Dataset, on_progress: Callable[[int, int, str], None]) -> None:
    """Let a pretrained encoder read every caption once, and keep what it makes of them in the cache.

    Byte pairs are read as quickly as looked up: nothing is kept of them. Raises TextError.
    """
    text, facts = getattr(model, "text", None), getattr(model, "text_facts", None)
    if not model.reads_text or not isinstance(text, TextConfig) or not isinstance(facts, TextFacts):
        return
    if not facts.width:
        return
    encoder = reader(text, facts)
    encoder.keep_in(default_folder() / "text")
    captions: dict[str, None] = {}
    for start in range(0, len(dataset), _IMAGES):
        for lines in dataset.texts(np.arange(start, min(start + _IMAGES, len(dataset)))) or ():
            captions |= dict.fromkeys(captions_of(lines))
    known = list(captions)
    try:
        for start in range(0, len(known), _AT_ONCE):
            encoder.encode(known[start : start + _AT_ONCE])
            on_progress(min(start + _AT_ONCE, len(known)), len(known), "Reading captions")
    finally:
        encoder.flush()
