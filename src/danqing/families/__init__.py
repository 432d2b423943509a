"""The families of generative models, and the one place where each is registered.

Other packages register theirs through the entry point group `danqing.families`: the name of an entry point is
that of the family, its value the class. Nothing is imported until its name is asked for.
"""

import importlib
import importlib.metadata
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from danqing.errors import ConfigError, explain
from danqing.families.base import Family, FamilyConfig, Learner

REGISTRY = {
    "gan": ("danqing.families.gan", "GAN", "GANConfig"),
    "vae": ("danqing.families.vae", "VAE", "VAEConfig"),
    "vqvae": ("danqing.families.vqvae", "VQVAE", "VQVAEConfig"),
    "transformer": ("danqing.families.transformer_sampling", "build", "TransformerConfig"),
    "flow": ("danqing.families.flow", "Flow", "FlowConfig"),
}
"""Module, builder and configuration class of each family of our own; these names win over other packages'."""
GROUP = "danqing.families"


def names() -> list[str]:
    """Return the names of all families, those of other packages last."""
    others = {point.name for point in importlib.metadata.entry_points(group=GROUP)}
    return [*REGISTRY, *sorted(others - REGISTRY.keys())]


def config_class(family: str) -> type[FamilyConfig]:
    """Return the configuration class of a family; raises ConfigError where there is none of that name."""
    return _find(family).config


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
    return _find(config.family).builder(config)


def can_sample(family: str) -> bool:
    """Return whether a family samples images, and does not only learn from them."""
    builder = _find(family).builder
    return not isinstance(builder, type) or issubclass(builder, Family)


def has_prior(family: str) -> bool:
    """Return whether a family samples images out of nothing, and is not a first stage alone."""
    return can_sample(family) and bool(getattr(_find(family).builder, "has_prior", True))


def display_name(family: str) -> str:
    """Return what a family is called in a sentence: GAN, transformer; `family` where it is not known here."""
    try:
        return config_class(family).display_name or family
    except ConfigError:
        return family


class _Found(NamedTuple):
    builder: Callable[[Any], Learner]
    config: type[FamilyConfig]


def _find(family: str) -> _Found:
    if family not in REGISTRY:
        return _find_elsewhere(family)
    module, builder, config = REGISTRY[family]
    found = importlib.import_module(module)
    return _Found(getattr(found, builder), getattr(found, config))


def _find_elsewhere(family: str) -> _Found:
    """Return a family of another package; raises ConfigError where there is none, or it cannot be used."""
    points = list(importlib.metadata.entry_points(group=GROUP, name=family))
    if not points:
        raise ConfigError(f"There is no family called {family!r}: choose one of {', '.join(names())}.")
    packages = sorted({point.dist.name if point.dist else point.value for point in points})
    if len(packages) > 1:
        raise ConfigError(
            f"The packages {' and '.join(packages)} each have a family called {family!r}: uninstall all but "
            "one of them."
        )
    try:
        builder = points[0].load()
        if not (isinstance(builder, type) and issubclass(builder, Learner)):
            raise TypeError(f"{points[0].value} is not a subclass of Family")
        config = typing.get_type_hints(builder)["config"]
        if config is FamilyConfig or not issubclass(config, FamilyConfig):
            raise TypeError(f"{points[0].value} does not annotate `config` with its own FamilyConfig")
    except Exception as error:  # whatever another package raises
        raise ConfigError(
            f"The family {family!r} of the package {packages[0]} cannot be used "
            f"({type(error).__name__}: {error}): update or uninstall that package."
        ) from error
    return _Found(builder, cast("type[FamilyConfig]", config))
