"""The families of generative models and the learners of recognition, and where each is registered.

Other packages register theirs through the entry point group `danqing.families`: the name of an entry point is
the name of the family, its value is the class. A family is imported when its name is first used.
"""

import importlib
import importlib.metadata
import inspect
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from danqing.errors import ConfigError, explain
from danqing.families.abilities import HasTokenizer
from danqing.families.base import Family, FamilyConfig, Learner
from danqing.nets.weightless import weightless

REGISTRY = {
    "gan": ("danqing.families.gan", "GAN", "GANConfig"),
    "vae": ("danqing.families.vae", "VAE", "VAEConfig"),
    "vqvae": ("danqing.families.vqvae", "VQVAE", "VQVAEConfig"),
    "transformer": ("danqing.families.transformer_sampling", "TransformerFamily", "TransformerConfig"),
    "flow": ("danqing.families.flow_variants", "FlowFamily", "FlowConfig"),
    "regression": ("danqing.families.regression", "Regression", "RegressionConfig"),
    "style": ("danqing.families.style", "Style", "StyleConfig"),
    "translation": ("danqing.families.translation", "TranslationModel", "TranslationConfig"),
    "classifier": ("danqing.learners.classifier", "Classifier", "ClassifierConfig"),
    "detector": ("danqing.learners.detector", "Detector", "DetectorConfig"),
    "segmenter": ("danqing.learners.segmenter", "Segmenter", "SegmenterConfig"),
    "embedder": ("danqing.learners.embedder", "Embedder", "EmbedderConfig"),
}
"""Module, class and configuration class of each family of our own; these names win over other packages'."""
PIPELINE = "pipeline"
"""The family of models that were trained elsewhere, by other packages; it is not in the registry."""
_PIPELINES = ("danqing.families.pipeline", "Pipeline", "PipelineConfig")
GROUP = "danqing.families"


def names() -> list[str]:
    """Return the names of all families, those of other packages last."""
    others = {point.name for point in importlib.metadata.entry_points(group=GROUP)}
    return [*REGISTRY, *sorted(others - REGISTRY.keys())]


def config_class(family: str) -> type[FamilyConfig]:
    """Return the configuration class of a family; raises ConfigError."""
    return _find(family).config


def parse_config(values: Mapping[str, Any]) -> FamilyConfig:
    """Read a family's configuration from plain values; raises ConfigError.

    values: `family` is one of them.
    """
    try:
        return config_class(str(values.get("family"))).model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def build(config: FamilyConfig) -> Family:
    """Build a family with fresh weights; raises ConfigError.

    The weights come from torch's global generator: seed it first. A learner that does not sample images is
    rejected.
    """
    learner = build_learner(config)
    if not isinstance(learner, Family):
        raise ConfigError(f"A {display_name(config.family)} does not sample images: choose another family.")
    return learner


def build_learner(config: FamilyConfig) -> Learner:
    """Build a learner with fresh weights, whether it samples images or not."""
    return _find(config.family).learner.from_config(config)


def without_weights(config: FamilyConfig) -> Learner:
    """Build a learner without weights, to read its properties."""
    with weightless():
        return build_learner(config)


def can_sample(family: str) -> bool:
    """Return whether a family samples images."""
    return issubclass(_find(family).learner, Family)


def implements(family: str, *protocols: type) -> bool:
    """Return whether a variant of a family implements any of some protocols."""
    learners = _find(family).learner.variants().values()
    return any(_implements(learner, protocol) for learner in learners for protocol in protocols)


def has_prior(config: FamilyConfig) -> bool:
    """Return whether a model samples images without an input.

    A first stage does not: it decodes codes or latents that another family generates.
    """
    learner = _find(config.family).learner.variant(config)
    return issubclass(learner, Family) and learner.has_prior


def tokenizer_protocol(family: str) -> type:
    """Return the protocol that the tokenizer of a family must have."""
    learner = _find(family).learner
    assert issubclass(learner, HasTokenizer)
    return learner.reads


def display_name(family: str) -> str:
    """Return what people call a family: GAN, transformer.

    A name that is not registered is returned as it is.
    """
    try:
        return config_class(family).display_name or family
    except ConfigError:
        return family


def implementing(protocol: type) -> list[str]:
    """Return the display names of the families that implement a protocol.

    protocol: one of `families.abilities`, such as `Varies`.
    A family whose variants differ in it is named by the first variant that implements it ("raster
    transformer"). A family of another package that cannot be imported is left out. Nothing is built.
    """
    found = []
    for name in names():
        try:
            variants = _find(name).learner.variants()
        except ConfigError:
            continue
        fitting = [variant for variant, learner in variants.items() if _implements(learner, protocol)]
        if fitting:
            found.append(fitting[0] or display_name(name))
    return found


def alternatives(protocol: type) -> str:
    """Return the families that implement a protocol, for a sentence.

    protocol: as of `implementing`. An example is "a VAE or a transformer"; without any such family, "another
        family".
    """
    *first, last = [with_article(name) for name in implementing(protocol)] or ["another family"]
    return f"{', '.join(first)} or {last}" if first else last


def cannot(config: FamilyConfig, ability: str, protocol: type) -> str:
    """Return a sentence: what a family cannot do, and which families can.

    ability: such as "vary an image". protocol: as of `implementing`, what gives a family this ability.
    """
    name = with_article(_variant_name(config))
    return f"{name[0].upper()}{name[1:]} cannot {ability}: use {alternatives(protocol)}."


class _Found(NamedTuple):
    learner: type[Learner]
    config: type[FamilyConfig]


def _find(family: str) -> _Found:
    if family not in REGISTRY and family != PIPELINE:
        return _find_elsewhere(family)
    module, learner, config = REGISTRY.get(family, _PIPELINES)
    found = importlib.import_module(module)
    return _Found(getattr(found, learner), getattr(found, config))


def _find_elsewhere(family: str) -> _Found:
    """Return a family of another package; raises ConfigError where it is missing or broken."""
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
        learner = points[0].load()
        if not (isinstance(learner, type) and issubclass(learner, Learner)):
            raise TypeError(f"{points[0].value} is not a subclass of Family")
        config = typing.get_type_hints(learner)["config"]
        if config is FamilyConfig or not issubclass(config, FamilyConfig):
            raise TypeError(f"{points[0].value} does not annotate `config` with its own FamilyConfig")
    except Exception as error:  # whatever another package raises
        raise ConfigError(
            f"The family {family!r} of the package {packages[0]} cannot be used "
            f"({type(error).__name__}: {error}): update or uninstall that package."
        ) from error
    return _Found(learner, cast("type[FamilyConfig]", config))


def _implements(learner: type, protocol: type) -> bool:
    """Return whether a class has all members of a protocol.

    `issubclass` does not accept protocols that have properties.
    """
    members = {*vars(protocol), *inspect.get_annotations(protocol)}
    return all(hasattr(learner, name) for name in members if not name.startswith("_"))


def _variant_name(config: FamilyConfig) -> str:
    """Return what people call the variant of a configuration."""
    try:
        learner = _find(config.family).learner
    except ConfigError:
        return display_name(config.family)
    chosen = learner.variant(config)
    named = [name for name, variant in learner.variants().items() if variant is chosen]
    return (named and named[0]) or display_name(config.family)


def with_article(name: str) -> str:
    """Return a name with "a" or "an" before it."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
