"""From the configuration of text to its encoder: settled once from the captions, then opened."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from danqing.errors import ModelError
from danqing.text import bpe
from danqing.text.cache import RememberedRows
from danqing.text.contract import TextConfig, TextFacts
from danqing.text.pretrained import Pretrained


def settle(config: TextConfig, captions: Sequence[str]) -> TextFacts:
    """Settle how text is read with the captions of the data.

    `bpe` learns its vocabulary from them; of another encoder, width and sha256 are found. An encoder that is
    a hub id is downloaded where it is not here yet.
    Raises DataError where there is no caption, TextError where there is no such encoder.
    """
    if config.encoder == "bpe":
        content = bpe.learn(captions, config.vocabulary)
        return TextFacts(bpe=content, vocabulary=bpe.BytePairs(content).vocabulary)
    encoder = Pretrained(config.encoder, config.length, fetch=True)
    return TextFacts(width=encoder.width, sha256=encoder.sha256)


def open_encoder(config: TextConfig, facts: TextFacts, *, folder: Path | None = None) -> RememberedRows:
    """Open the encoder that reads text for a model.

    A pretrained encoder is read from the disk when it is first needed, and never downloaded.

    folder: where rows are kept from run to run, which saves time with a pretrained encoder; `keep_in` sets it
        later.
    Raises ModelError where the facts do not fit the configuration; reading raises TextError where the encoder
    is missing, or not the one that the model learned with.
    """
    if config.encoder == "bpe":
        pairs = bpe.BytePairs(facts.bpe)
        if pairs.vocabulary != facts.vocabulary:
            raise ModelError("The model's words are damaged: get a whole copy of its config.json.")
        name = hashlib.sha256(f"{facts.bpe} {config.length}".encode()).hexdigest()[:32]
        rows = RememberedRows(pairs, config.length, name=name)
    else:
        if not facts.width or not facts.sha256:
            raise ModelError(
                f"The model does not say which weights of {config.encoder} it learned with: get a whole copy."
            )
        name = hashlib.sha256(f"{facts.sha256} {config.length}".encode()).hexdigest()[:32]
        maker = Pretrained(config.encoder, config.length, sha256=facts.sha256)
        rows = RememberedRows(maker, config.length, name=name)
    if folder is not None:
        rows.keep_in(folder)
    return rows


@functools.lru_cache(maxsize=4)
def shared_encoder(config: TextConfig, facts: TextFacts) -> RememberedRows:
    """Return the encoder that all models with this configuration share.

    It is not a part of any model, because models are copied.
    """
    return open_encoder(config, facts)
