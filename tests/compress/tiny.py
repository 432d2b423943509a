"""Tiny models of all families, with weights that are nowhere zero."""

from collections.abc import Sequence
from typing import Any

import torch

from danqing import families
from danqing.attributes import Attribute, Example
from danqing.families.base import Family, Learner
from danqing.model.model import Model

LABELS = {"labels": ("cat", "dog"), "label_frequencies": (1, 3)}
ATTRIBUTES = {
    "attributes": (
        Attribute(name="age", kind="number", mean=(3,), deviation=(2,), lowest=(0,), highest=(9,)),
        Attribute(name="kind", kind="category", categories=("hat", "cap")),
    ),
    "attribute_examples": tuple(Example(label=i % 2, values=(i, i % 2)) for i in range(6)),
}
CAPTIONS = ("a cat", "a dog")
TEXT = {"condition": "text", "captions": CAPTIONS, "text": {"vocabulary": 300, "length": 6}}
TOKENIZER = {
    "family": "vqvae",
    "width": 8,
    "height": 8,
    "vocabulary": 16,
    "code_width": 4,
    "features": 8,
    "blocks": 1,
    "downsamplings": 1,
}
GAN = {
    "family": "gan",
    "width": 8,
    "height": 6,
    "latents": 5,
    "generator_features": 4,
    "discriminator_features": 4,
    **LABELS,
}
VAE = {"family": "vae", "width": 8, "height": 6, "latents": 5, "features": 8, "prior": "flow", **LABELS}
FLOW = {
    "family": "flow",
    "width": 8,
    "height": 8,
    "widths": (8, 16),
    "layers": 1,
    "heads": 2,
    "num_steps": 3,
    "guide": True,
    **LABELS,
    **ATTRIBUTES,
}
LATENT_FLOW = {
    **{name: FLOW[name] for name in ("family", "width", "height", "layers", "heads", "num_steps")},
    "widths": (16,),
    "tokenizer": TOKENIZER,
    "latent_statistics": {"mean": (0.1,) * 4, "deviation": (0.5,) * 4},
    **TEXT,
}
FEW_STEPS = {**LATENT_FLOW, "objective": "solution", "sampler": "consistency", "num_steps": 2}
PIXELS = {
    "family": "transformer",
    "width": 4,
    "height": 4,
    "channels": 1,
    "layers": 2,
    "features": 32,
    "heads": 4,
    "key_value_heads": 2,
    **LABELS,
    **ATTRIBUTES,
}
MASKED = {
    "family": "transformer",
    "order": "masked",
    "width": 8,
    "height": 8,
    "layers": 2,
    "features": 32,
    "heads": 4,
    "key_value_heads": 1,
    "tokenizer": {**TOKENIZER, "depth": 2},
    **TEXT,
}


def learner_of(values: dict[str, Any], captions: Sequence[str] = CAPTIONS, *, noise: float = 0.1) -> Learner:
    """Build a learner; the same weights each time. noise: that is added to fresh weights."""
    torch.manual_seed(3)
    learner = families.build_learner(families.parse_config(values).complete(captions))
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    if (taken := getattr(learner, "guide_taken", None)) is not None:
        taken.fill_(True)
    return learner


def model_of(values: dict[str, Any], *, noise: float = 0.1) -> Model:
    """Build a model without marks; noise: as of `learner_of`."""
    family = learner_of(values, noise=noise)
    assert isinstance(family, Family)
    model = Model(family, {"data": {"licence": "CC0"}}, name="tiny")
    model.marks = "none"
    return model
