"""What is requested of a model, one row per image: checked, and drawn where it is not given."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from danqing import requested, requested_attributes
from danqing.data.captions import captions_of
from danqing.errors import ConfigError
from danqing.families.base import Condition, FamilyConfig, ReadsText
from danqing.randomness import generator
from danqing.requested import Label, Prompt
from danqing.requested_attributes import Attributes
from danqing.text.encoders import shared_encoder

_EXAMPLES = 8


def drawn_condition(
    config: FamilyConfig,
    seeds: Sequence[int],
    label: Label = None,
    prompt: Prompt = None,
    negative_prompt: Prompt = None,
    attributes: Attributes = None,
    *,
    draws_attributes: bool = True,
) -> Condition:
    """Return the condition of one image per seed.

    Each seed draws what is not given. draws_attributes: whether it draws attributes, too.
    Raises ConfigError for an unknown label or attribute, and for what the model does not read.
    """
    if negative_prompt is not None and not config.reads_text:
        raise ConfigError(f"This {config.family} does not read text: leave the negative prompt out.")
    found = requested.labels(config, label, seeds, _drawn_label)
    labels = None if found is None else np.array(found, np.int64)
    told = requested_attributes.chosen(config, attributes, labels, seeds, draws=draws_attributes)
    return Condition(
        label=None if labels is None else torch.from_numpy(labels),
        text=requested.texts(config, prompt, seeds),
        negative_text=None if negative_prompt is None else requested.texts(config, negative_prompt, seeds),
        attributes=None if told is None else torch.from_numpy(told[0]),
        attribute_mask=None if told is None else torch.from_numpy(told[1]),
    )


def given_condition(
    config: FamilyConfig,
    count: int,
    label: Label = None,
    prompt: Prompt = None,
    negative_prompt: Prompt = None,
    attributes: Attributes = None,
) -> Condition:
    """Return the condition of existing images.

    Nothing is drawn, and attributes that are not given are missing.
    Raises ConfigError as `drawn_condition`, and where the model needs labels and none are given.
    """
    if label is None and config.labels:
        raise ConfigError(
            "This model was trained with labels: give the label of each image (--label), such as "
            f"{config.labels[0]}."
        )
    prompt = "" if prompt is None and config.reads_text else prompt
    return drawn_condition(
        config, range(count), label, prompt, negative_prompt, attributes, draws_attributes=False
    )


def describe_text(config: FamilyConfig) -> dict[str, Any] | None:
    """Describe for people how a model reads text.

    Returns the encoder, its vocabulary (0 where it gives hidden states), the number of tokens that are read
    at most, and some captions of the data; None where the model reads no text.
    """
    if not (config.reads_text and isinstance(config, ReadsText)):
        return None
    captions = [line for caption in config.captions for line in captions_of(caption)]
    return {
        "encoder": config.text.encoder,
        "vocabulary": 0 if config.text_facts is None else config.text_facts.vocabulary,
        "length": config.text.length,
        "captions": list(dict.fromkeys(captions))[:_EXAMPLES],
    }


def check_length(config: FamilyConfig, text: str, name: str) -> None:
    """Raise ConfigError for a text of more tokens than a model reads.

    name: of the option that holds the text.
    """
    if isinstance(config, ReadsText) and config.text_facts is not None:
        check_measured(shared_encoder(config.text, config.text_facts).measure(text), name)


def check_measured(measured: tuple[int, int], name: str) -> None:
    """Raise ConfigError for a text of more tokens than are read.

    measured: how many it has, and how many are read. name: of the option that holds the text.
    """
    length, most = measured
    if length > most:
        raise ConfigError(f"{name} has {length} tokens, and this model reads {most}: shorten it.", name)


def _drawn_label(frequencies: Sequence[float], seed: int) -> int:
    """Draw the index of a label, with the probabilities of some frequencies."""
    weights = torch.tensor(frequencies, dtype=torch.float64)
    return int(torch.multinomial(weights, 1, generator=generator(seed, "label")))
