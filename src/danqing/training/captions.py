"""Captions read before the first step: to see whether they fit, and where reading one takes its time."""

from danqing.data import Dataset
from danqing.data.cache import default_folder
from danqing.data.captions import captions_of
from danqing.families.base import FamilyConfig, ReadsText
from danqing.text.bpe import END
from danqing.text.encoders import shared_encoder
from danqing.training.listener import Listener

_AT_ONCE = 64
_IMAGES = 4096
_TRIED = 2048
_TOLERATED = 0.05
"""The share of captions that may be cut without a word."""


def read(model: FamilyConfig, dataset: Dataset, listener: Listener) -> None:
    """Let a pretrained encoder read every caption once, and keep what it makes of them in the cache; say so
    where many captions are longer than what is read of them. Raises TextError.

    Byte pairs are read as quickly as looked up: some captions are tried, and nothing is kept of them.
    """
    if not (model.reads_text and isinstance(model, ReadsText)) or model.text_facts is None:
        return
    text, facts = model.text, model.text_facts
    encoder, captions = shared_encoder(text, facts), _different(dataset)
    if facts.width:
        encoder.keep_in(default_folder() / "text")
    else:
        captions = captions[:: -(-len(captions) // _TRIED)]
    cut = 0
    try:
        for start in range(0, len(captions), _AT_ONCE):
            last = encoder.encode(captions[start : start + _AT_ONCE])[:, -1].reshape(-1, max(1, facts.width))
            cut += int(((last != 0) & (last != END)).any(1).sum())
            if facts.width:
                listener.on_data(min(start + _AT_ONCE, len(captions)), len(captions), "Reading captions")
    finally:
        encoder.flush()
    if cut > _TOLERATED * len(captions):
        listener.on_message(
            f"{cut / len(captions):.0%} of the captions are longer than the {text.length} tokens that are "
            "read of each: raise model.text.length, or the model never reads how they end."
        )


def _different(dataset: Dataset) -> list[str]:
    """Every caption, once. Of streamed images, some; the others are read when a batch holds them."""
    found: dict[str, None] = {}
    rows = dataset.surveyed_rows()
    for start in range(0, len(rows), _IMAGES):
        for lines in dataset.texts(rows[start : start + _IMAGES]) or ():
            found |= dict.fromkeys(captions_of(lines))
    return list(found)
