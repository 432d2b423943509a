"""What is requested of a model, one row per image: checked, and drawn where it is not given."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danqing.data.captions import captions_of
from danqing.errors import ConfigError
from danqing.families.base import Condition, FamilyConfig, ReadsText
from danqing.model import attributes as attribute_values
from danqing.model.attributes import Attributes
from danqing.names import match_index
from danqing.randomness import derived_seed, generator
from danqing.text.encoders import shared_encoder

Label = str | int | Sequence[str | int] | None
Prompt = str | Sequence[str] | None

_SOME, _EXAMPLES = 12, 8


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
    labels = _labels(config, label, seeds)
    values, known = attribute_values.chosen(config, attributes, labels, seeds, draws=draws_attributes)
    return Condition(
        label=labels,
        text=_texts(config, prompt, seeds),
        negative_text=None if negative_prompt is None else _texts(config, negative_prompt, seeds),
        attributes=values,
        attribute_mask=known,
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
        raise ConfigError("This model was trained with labels: give the label of each image by label=...")
    prompt = "" if prompt is None and config.reads_text else prompt
    return drawn_condition(
        config, range(count), label, prompt, negative_prompt, attributes, draws_attributes=False
    )


def count_images(
    label: Label, prompt: Prompt, seeds: Sequence[int] | None, attributes: Attributes = None
) -> int:
    """Return the number of seeds, prompts, labels or attributes, or 1."""
    lists = [given for given in (seeds, prompt, label, attributes) if given is not None]
    return next((len(given) for given in lists if not isinstance(given, str | int | Mapping)), 1)


def image_seeds(count: int, seed: int, seeds: Sequence[int] | None) -> list[int]:
    """Return one seed per image: those given, or `count` derived from one.

    Raises ConfigError where a seed is negative, or where there are not `count` seeds.
    """
    for given in (seed, *(seeds or ())):
        if given < 0:
            raise ConfigError(f"A seed is a whole number from 0 on, not {given}.")
    derived = (derived_seed(seed, "image", number) for number in range(count))
    chosen = list(derived if seeds is None else seeds)
    if len(chosen) != count:
        raise ConfigError(f"Give one seed per image: there are {len(chosen)} seeds for {count} images.")
    return chosen


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
        length, most = shared_encoder(config.text, config.text_facts).measure(text)
        if length > most:
            raise ConfigError(f"{name} has {length} tokens, and this model reads {most}: shorten it.", name)


def _labels(config: FamilyConfig, label: Label, seeds: Sequence[int]) -> Tensor | None:
    """Return one class index per seed, int64; None where the model has no labels."""
    if not config.labels:
        if label is not None:
            advice = "describe the image by prompt=..." if config.reads_text else "leave the label out"
            raise ConfigError(f"This model was trained without labels: {advice}.")
        return None
    if label is None:
        frequencies = config.label_frequencies or (1.0,) * len(config.labels)
        weights = torch.tensor(frequencies, dtype=torch.float64)
        return torch.cat([torch.multinomial(weights, 1, generator=generator(s, "label")) for s in seeds])
    wanted = [label] * len(seeds) if isinstance(label, str | int) else list(label)
    if len(wanted) != len(seeds):
        raise ConfigError(
            f"Give one label, or one per image: there are {len(wanted)} for {len(seeds)} images."
        )
    return torch.tensor([_label_index(config, one) for one in wanted], dtype=torch.int64)


def _label_index(config: FamilyConfig, label: str | int) -> int:
    found = match_index(label, config.labels, config.label_captions)
    if found is None:
        raise ConfigError(
            f"This model does not know the label {label!r}: choose one of {_some(config.labels)}."
        )
    return found


def _texts(config: FamilyConfig, prompt: Prompt, seeds: Sequence[int]) -> tuple[str, ...] | None:
    """Return one text per seed, by default captions of the data; None where the model reads no text."""
    if not config.reads_text:
        if prompt is not None:
            reads = (
                f"reads labels and not text: choose one by label=... ({_some(config.labels)})"
                if config.labels
                else "reads neither text nor labels: leave the prompt out"
            )
            raise ConfigError(f"This {config.family} {reads}.")
        return None
    if prompt is None:
        return tuple(_drawn(config.captions, seed) for seed in seeds)
    wanted = [prompt] * len(seeds) if isinstance(prompt, str) else list(prompt)
    if len(wanted) != len(seeds):
        raise ConfigError(
            f"Give one prompt, or one per image: there are {len(wanted)} for {len(seeds)} images."
        )
    for one in wanted:
        if not isinstance(one, str):
            raise ConfigError(f"A prompt is a text, not {one!r}: describe the image.")
    return tuple(wanted)


def _drawn(captions: Sequence[str], seed: int) -> str:
    if not captions:
        return ""
    number = derived_seed(seed, "prompt")
    lines = captions_of(captions[number % len(captions)])
    return lines[number // len(captions) % len(lines)] if lines else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SOME]) + (", ..." if len(names) > _SOME else "")
