"""The inputs of graphs that say what images show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from danqing import requested, requested_attributes
from danqing.compress.runtime.graphs import Array
from danqing.compress.runtime.manifest import Manifest
from danqing.compress.runtime.normals import Generator
from danqing.errors import ConfigError
from danqing.randomness import derived_seed
from danqing.requested import Label, Prompt
from danqing.requested_attributes import Attributes

if TYPE_CHECKING:
    from danqing.compress.runtime.prompts import Prompts


@dataclass(frozen=True, slots=True)
class Conditions:
    """What images show, as inputs of graphs.

    given: by their names, one row for each image: `label` int64 `[n]`; `tokens` int64 `[n, length]` and
        `blank` bool `[n]`, whether a prompt is; `attributes` float32 and `known` bool `[n, k]`; `absent` bool
        `[n]`, whether all of that is hidden.
    away: the same for what guidance leads away from.
    texts, negative: the prompts.
    """

    given: dict[str, Array]
    away: dict[str, Array]
    texts: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


def rows_of(inputs: Mapping[str, Array], rows: Sequence[int]) -> dict[str, Array]:
    """Return the inputs of some images."""
    return {name: values[list(rows)] for name, values in inputs.items()}


def conditions(
    manifest: Manifest,
    prompts: "Prompts | None",
    seeds: Sequence[int],
    label: Label = None,
    prompt: Prompt = None,
    negative_prompt: Prompt = None,
    attributes: Attributes = None,
) -> Conditions:
    """Return the conditions of one image per seed.

    Each seed draws what is not given.
    The arguments are those of `danqing.model.model.Model.sample`.
    Raises ConfigError for an unknown label or attribute, and for what the model does not read.
    """
    if negative_prompt is not None and not manifest.reads_text:
        raise ConfigError(f"This {manifest.family} does not read text: leave the negative prompt out.")
    given: dict[str, Array] = {"absent": np.zeros(len(seeds), np.bool_)}
    labels = requested.labels(manifest, label, seeds, drawn_label)
    indices = None if labels is None else np.array(labels, np.int64)
    told = requested_attributes.chosen(manifest, attributes, indices, seeds, draws=True)
    texts = requested.texts(manifest, prompt, seeds) or ()
    negative = (
        (requested.texts(manifest, negative_prompt, seeds) or ()) if negative_prompt is not None else ()
    )
    if indices is not None:
        given["label"] = indices
    if told is not None:
        given["attributes"], given["known"] = told
    if prompts is None:
        return Conditions(given, {**given, "absent": ~given["absent"]})
    given |= prompts.inputs(texts)
    away = {**given, **prompts.inputs(negative)} if negative else {**given, "absent": ~given["absent"]}
    return Conditions(given, away, texts, negative)


def drawn_label(frequencies: Sequence[float], seed: int) -> int:
    """Draw the index of a label as a model in PyTorch does."""
    return int(Generator(derived_seed(seed, "label")).multinomial(frequencies, 1)[0])
