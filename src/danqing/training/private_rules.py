"""What a private run rejects: all by which images could leak beside the noisy gradients."""

from danqing import families
from danqing.data import Dataset
from danqing.errors import ConfigError
from danqing.training.config import RunConfig
from danqing.training.privacy import accountants
from danqing.training.transfer import Source


def secured(config: RunConfig) -> RunConfig:
    """Return a configuration with a secret key; raises ConfigError if the run is not private."""
    if config.private is None:
        raise ConfigError("Only a private run has a secret key: add --private epsilon=8, or drop --secure.")
    return config.model_copy(update={"private": config.private.model_copy(update={"secure": True})})


def check(config: RunConfig) -> None:
    """Raise ConfigError where settings would not keep the guarantee of a private run."""
    if config.private is None:
        return
    accountants()  # before anything is prepared
    if reason := _why_not(config):
        raise ConfigError(f"This run cannot be private. {reason}")


def check_data(config: RunConfig, dataset: Dataset) -> None:
    """Raise ConfigError where the images of a private run do not suit its settings."""
    if config.private is None:
        return
    if dataset.stream is not None:
        raise ConfigError(
            "A private run draws each image at random at every step, which streamed images cannot do: raise "
            "data.stream_over, so that they are decoded into the cache."
        )
    count, delta = len(dataset), config.private.delta
    if config.batch_size > count:
        raise ConfigError(
            f"A private run draws its batches at random, and batch_size={config.batch_size} is more than its "
            f"{count:,} images: lower batch_size."
        )
    if delta * count > 1:
        raise ConfigError(
            f"private.delta={delta:g} is too large for {count:,} images, since it is the probability with "
            f"which the guarantee may fail for each of them: set private.delta={1 / (10 * count):.0e}."
        )
    if dataset.depth > 8 and config.data.range is None:
        raise ConfigError(
            "The range of values that become black and white would be measured on the images, without noise: "
            "set data.range, for instance data.range=[0,65535]."
        )


def check_init(config: RunConfig, source: Source, dataset: Dataset) -> None:
    """Raise ConfigError where a private run starts from a model that may know the same images.

    Models that learned from other models do not say what those have seen.
    """
    if config.private is None:
        return
    data = source.facts.get("data", {})
    if data.get("fingerprint") == dataset.fingerprint or data.get("name") == dataset.info.name:
        raise ConfigError(
            f"This run cannot be private. {source.name} has learned from {dataset.info.name} too, and what "
            "it knows of these images would stay in the weights: leave --init out, or start from a model of "
            "other images."
        )
    if any(source.facts.get(name) for name in ("init", "generated", "unlabelled")):
        raise ConfigError(
            f"This run cannot be private. {source.name} has learned from another model, which may know "
            f"{dataset.info.name}: leave --init out, or start from a model that learned from images alone."
        )


def _why_not(config: RunConfig) -> str:
    """Return why a run cannot be private, and what to change; "" if it can."""
    model, data = config.model, config.data
    if reason := model.why_not_private:
        return reason
    if not families.has_prior(model) or model.reads_source:
        return (
            "The folder of this model would show real images beside its results: private training is for "
            "models that generate images."
        )
    if config.tokenizer is not None:
        return (
            "The first stage of a model of two stages learns from the images without noise: choose a preset "
            "of one stage, such as private-32."
        )
    if model.reads_text or data.attributes:
        return "The model would keep captions or attributes of images: train with labels or without."
    if model.grow:
        return "Noise would move the weights of sizes that have not begun: leave grow out."
    if data.generated or data.unlabelled:
        return "The images of other models and other folders are not covered: leave them out."
    if data.clean:
        return "A clean list follows from comparing images with each other: prepare the images beforehand."
    if data.buckets:
        return "Which sizes there are would follow from the images: give a size such as 64x64."
    if config.evaluation.every_images not in (0, "auto") or config.evaluation.patience_images:
        return (
            "Scores on held-out images are measured without noise, and they choose the model: leave "
            "--evaluate-every and --patience out, and evaluate the model afterwards."
        )
    if config.training.checkpointing == "on":
        return "Activations cannot be computed again for the gradient of each image: set checkpointing=auto."
    return ""
