"""The families of generative models, and the one place where each is registered."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import ValidationError

from danqing.errors import ConfigError, explain
from danqing.families.base import Family, FamilyConfig, Learner

REGISTRY = {
    "gan": ("danqing.families.gan", "GAN", "GANConfig"),
    "vae": ("danqing.families.vae", "VAE", "VAEConfig"),
    "vqvae": ("danqing.families.vqvae", "VQVAE", "VQVAEConfig"),
    "transformer": ("danqing.families.transformer_sampling", "build", "TransformerConfig"),
}


def config_class(family: str) -> type[FamilyConfig]:
    """The configuration class of a family, by the family's name."""
    module, _, name = _entry(family)
    return cast("type[FamilyConfig]", getattr(importlib.import_module(module), name))


def parse_config(values: Mapping[str, Any]) -> FamilyConfig:
    """A family's configuration from plain values, `family` among them; raises ConfigError."""
    try:
        return config_class(str(values.get("family"))).model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def build(config: FamilyConfig) -> Family:
    """Build a family with fresh weights; raises ConfigError where it does not sample images.

    The weights come from torch's global generator: seed it first.
    """
    learner = build_learner(config)
    if not isinstance(learner, Family):
        raise ConfigError(f"A {display_name(config.family)} does not sample images: choose another family.")
    return learner


def build_learner(config: FamilyConfig) -> Learner:
    """Build what learns with fresh weights, whether it samples images or not."""
    return cast(Learner, _builder(config.family)(config))


def can_sample(family: str) -> bool:
    """Return whether a family samples images, and does not only learn from them."""
    builder = _builder(family)
    return not isinstance(builder, type) or issubclass(builder, Family)


def has_prior(family: str) -> bool:
    """Return whether a family samples images out of nothing, and is not a first stage alone."""
    return can_sample(family) and bool(getattr(_builder(family), "has_prior", True))


def display_name(family: str) -> str:
    """What a family is called in a sentence: GAN, transformer; its `family` where it is not registered."""
    return config_class(family).display_name or family if family in REGISTRY else family


def _builder(family: str) -> Callable[..., Any]:
    module, name, _ = _entry(family)
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))


def _entry(family: str) -> tuple[str, str, str]:
    if family not in REGISTRY:
        raise ConfigError(f"There is no family called {family!r}: choose one of {', '.join(REGISTRY)}.")
    return REGISTRY[family]
