"""Runs that train an adapter of a model: what the model is, what its images are called, and its own images.

The model and its configuration stay as they are. Only examples of what may be requested are those of the new
data.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danqing import atomic, families, weights
from danqing.data import Dataset
from danqing.data.batch import Condition
from danqing.data.batches import Told
from danqing.data.captions import captions_of
from danqing.errors import ConfigError, ModelError, TrainingError
from danqing.families import parse_config
from danqing.families.base import Family, FamilyConfig, Learner, ReadsText, bytes_of
from danqing.families.pipeline import Pipeline
from danqing.model.model import Model
from danqing.names import match_index
from danqing.nets import adapters
from danqing.pipelines.denoising import denoising_of
from danqing.randomness import derived_seed
from danqing.training.added_images import Pool
from danqing.training.config import RunConfig
from danqing.training.config_sections import AdapterConfig
from danqing.training.listener import Listener
from danqing.training.run_folder import RunFolder
from danqing.training.transfer import Source

FEW, SOME = 20, 200
"""With so many images, an adapter is worth a try."""
_AT_ONCE = 64


def attach(learner: Learner, config: RunConfig) -> None:
    """Load the model of `init` into a learner, and give its layers an adapter that is trained.

    Raises ConfigError where it is another model, or of a kind that has no adapters.
    """
    assert config.adapter is not None
    source, wanted = Source(config.init), config.adapter
    known, own = source.weights(), learner.state_dict()
    other = [name for name, tensor in own.items() if name in known and known[name].shape != tensor.shape]
    kept = {name for name in own if name.partition(".")[0] not in learner.training_only}
    if other or kept - known.keys():
        raise ConfigError(
            f"This model has other weights than {source.name}, and an adapter leaves them as they are: leave "
            f"out the settings that change the network ({sorted(other or kept - known.keys())[0]})."
        )
    learner.load_state_dict({**own, **{name: known[name] for name in own if name in known}})
    base = adapters.Base(config.init, source.digest, wanted.trigger)
    alpha = wanted.rank if wanted.alpha is None else wanted.alpha
    whole = sorted(_trained(learner) & set(learner.training_only))
    layers = _layers(learner, wanted)
    adapters.attach(learner, layers, base, rank=wanted.rank, alpha=alpha, seed=config.seed, whole=whole)


def opened(config: RunConfig, device: torch.device | str) -> Learner:
    """Return the pipeline of `init`, loaded on a device, with an adapter that is trained.

    Raises ConfigError for a class that cannot be fine-tuned.
    """
    assert config.adapter is not None
    source = Source(config.init)
    pipeline = source.learner
    assert isinstance(pipeline, Pipeline)
    if pipeline.offload != "none" or pipeline.load_options.offload not in ("auto", "none"):
        raise ConfigError("A pipeline that is fine-tuned stays on its device: load it without offload.")
    pipeline.to(device)
    denoising_of(pipeline.pipe)
    pipeline.config = config.model  # type: ignore[assignment]
    wanted, denoiser = config.adapter, pipeline.denoiser
    assert denoiser is not None
    base = adapters.Base(config.init, source.digest, wanted.trigger)
    alpha = wanted.rank if wanted.alpha is None else wanted.alpha
    layers = adapters.targets(denoiser, [""], wanted.targets)
    adapters.attach(pipeline, layers, base, rank=wanted.rank, alpha=alpha, seed=config.seed)
    return pipeline


def pipeline_bytes(config: RunConfig) -> int:
    """Return the bytes of a pipeline's weights; its adapter is small beside them."""
    return bytes_of(Source(config.init).learner)


def size(learner: Learner, wanted: AdapterConfig) -> int:
    """Return how many numbers an adapter of a learner has."""
    return adapters.size(learner, _layers(learner, wanted), wanted.rank)


def _layers(learner: Learner, wanted: AdapterConfig) -> list[str]:
    if not isinstance(learner, Family) or not learner.has_prior:
        name = families.display_name(learner.config.family)
        raise ConfigError(
            f"Adapters are for models that generate images, and this {name} does not: leave adapter out."
        )
    children = _trained(learner) - set(learner.training_only)
    return adapters.targets(learner, sorted(children), wanted.targets)


def _trained(learner: Learner) -> set[str]:
    """Return the children that a run trains."""
    return {module.partition(".")[0] for phase in learner.phases() for module in phase.modules}


def complete(
    folder: RunFolder, config: RunConfig, dataset: Dataset, first_stage: Mapping[str, Any] | None = None
) -> RunConfig:
    """Return the configuration of a run for its data, as it was when training began.

    first_stage: as of `RunConfig.for_data`.
    """
    if config.adapter is None:
        return folder.complete(config, dataset, first_stage)
    return folder.complete(config, dataset, made=lambda: completed(config, dataset))


def completed(config: RunConfig, dataset: Dataset) -> RunConfig:
    """Return the configuration with the model of `init`, and examples of the new data.

    Raises ConfigError where the data does not suit that model.
    """
    learner = Source(config.init).learner
    base = learner.config
    if isinstance(learner, Pipeline):
        return _completed_pipeline(config, learner, dataset)
    own, size = (base.width, base.height), dataset.size
    if size != own or dataset.channels != base.channels:
        options = [] if size == own else [f"--size {own[0]}x{own[1]}"]
        if dataset.channels != base.channels:
            options.append(f"--set data.channels={base.channels}")
            options += ["--set data.alpha=keep"] if base.channels in (2, 4) else []
        raise ConfigError(
            f"{config.init} makes images of {own[0]}x{own[1]} with {base.channels} channels, and so does its "
            f"adapter: add {' '.join(options)}."
        )
    if base.reads_source and not (dataset.has_sources or config.data.degrade):
        raise ConfigError(
            "This model makes images from source images, and the data has none: declare pairs by --pairs "
            "A:B, or degrade each image by --degrade blur,noise."
        )
    columns = [column.name for column in base.attributes]
    if columns and [column.name for column in dataset.attributes] != columns:
        raise ConfigError(
            f"{config.init} reads the attributes {', '.join(columns)}: give the data the same, by "
            f"--attributes {','.join(columns)}."
        )
    plain = base.model_dump()
    known = {name: plain[name] for name in base.from_data if name in plain}
    model = parse_config({**config.model.model_dump(), **known, **_examples(config, base, dataset)})
    return config.model_copy(update={"model": model, "size": dataset.size})


def _completed_pipeline(config: RunConfig, pipeline: Pipeline, dataset: Dataset) -> RunConfig:
    """Return the configuration with a pipeline, at the size of the data."""
    for size in dataset.sizes:
        if not pipeline.sizes.fits(size):
            raise ConfigError(
                f"{config.init} does not make images of {size[0]}x{size[1]}: give a --size of "
                f"{pipeline.sizes.in_words()}."
            )
    if dataset.channels != 3:
        raise ConfigError("A pipeline learns from images with 3 channels: add --set data.channels=3.")
    shape: dict[str, Any] = {"width": dataset.size[0], "height": dataset.size[1]}
    shape |= {"sizes": dataset.sizes if len(dataset.sizes) > 1 else ()}
    examples = _examples(config, pipeline.config, dataset)
    model = pipeline.config.model_copy(update={**shape, **examples})
    return config.model_copy(update={"model": model, "size": dataset.size})


def _examples(config: RunConfig, base: FamilyConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what is drawn where nothing is requested of an image."""
    assert config.adapter is not None
    found: dict[str, Any] = {}
    if (places := _places(config.adapter, base, dataset)) is not None:
        counts = torch.from_numpy(np.asarray(dataset.label_counts, dtype=np.float64))
        if not dataset.label_names:
            counts = torch.tensor([float(len(dataset))], dtype=torch.float64)
        shares = torch.zeros(len(base.labels), dtype=torch.float64)
        shares.index_add_(0, places[: len(counts)], counts[: len(places)])
        found["label_frequencies"] = tuple((shares / shares.sum()).tolist())
    if isinstance(base, ReadsText) and base.reads_text:
        texts = dataset.texts(dataset.surveyed_rows()) or ()
        lines = [line for text in texts for line in captions_of(text)[:1]]
        if not lines and not config.adapter.trigger:
            raise ConfigError(
                "This model reads text, and the data has no captions: write some, or name what the images "
                "show by --set adapter.trigger=WORD."
            )
        told = [_with_trigger(line, config.adapter.trigger) for line in lines or [""]]
        step = max(1, len(told) // max(1, base.text.examples))
        found["captions"] = tuple(dict.fromkeys(told[::step]))[: max(1, base.text.examples)]
    return found


def _places(wanted: AdapterConfig, base: FamilyConfig, dataset: Dataset) -> Tensor | None:
    """Return the label of the model for each label of the data, and for images without one, int64 `[n + 1]`.

    None where the model reads no labels. Raises ConfigError for labels that it does not know.
    """
    if not (base.reads_labels and base.labels):
        return None
    trigger = match_index(wanted.trigger, base.labels, base.label_captions) if wanted.trigger else None
    some = ", ".join(base.labels[:8])
    if wanted.trigger and trigger is None:
        raise ConfigError(
            f"adapter.trigger is one of the labels of the model, and {wanted.trigger!r} is not: choose among "
            f"{some}."
        )
    places = [match_index(name, base.labels, base.label_captions) for name in dataset.label_names]
    bare = int(dataset.label_counts[-1]) if dataset.label_names else len(dataset)
    unknown = [name for name, place in zip(dataset.label_names, places, strict=True) if place is None]
    if trigger is None and (unknown or bare):
        what = f"the label {unknown[0]}, which the model does not know" if unknown else "no label"
        raise ConfigError(
            f"Some images have {what}: say which of its labels they have by --set adapter.trigger=LABEL "
            f"(such as {some}), or train all weights without --preset lora, which adds labels."
        )
    return torch.tensor([trigger if place is None else place for place in [*places, trigger or 0]])


def told(config: RunConfig, dataset: Dataset) -> Told | None:
    """Return what gives images of the data the conditions that the model knows; None without an adapter."""
    wanted, model = config.adapter, config.model
    if wanted is None:
        return None
    places, reads_text = _places(wanted, model, dataset), model.reads_text

    def tell(condition: Condition, images: int) -> Condition:
        label, text = None, None
        if places is not None:
            given = torch.full((images,), -1) if condition.label is None else condition.label
            label = places[given]
        if reads_text:
            text = tuple(_with_trigger(one, wanted.trigger) for one in condition.text or ("",) * images)
        return replace(condition, label=label, text=text)

    return tell


def _with_trigger(caption: str, trigger: str) -> str:
    """Return a caption that begins with the trigger, unless it has it already."""
    if not trigger or trigger.casefold() in caption.casefold():
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def prior_pool(config: RunConfig, folder: RunFolder, size: tuple[int, int], listener: Listener) -> Pool:
    """Return images of the model itself, which keep it from forgetting what it knew.

    Image i depends on the seed of the run and i alone. They are written to the run folder. What they show is
    drawn as in the data of the model.
    """
    assert config.adapter is not None
    source, count = Source(config.init), config.adapter.prior_images
    assert isinstance(source.learner, Family)
    if source.learner.config.attributes or source.learner.config.reads_source:
        raise ConfigError(
            "Images of the model itself have neither attributes nor source images here: set adapter.prior "
            "to 0."
        )
    model = Model(source.learner, source.facts)
    seeds = [derived_seed(config.seed, "prior image", number) for number in range(count)]
    shape = count, size[1], size[0], source.learner.config.channels
    expected = {"images": torch.empty(shape, dtype=torch.uint8, device="meta")}
    images: Tensor | None = None
    if folder.facts().get("prior", {}).get("weights") == source.digest:
        try:
            weights.check(folder.prior_file, expected)
            images = weights.read(folder.prior_file, expected)["images"]
        except ModelError:
            images = None
    if images is None:
        parts, unmarked = [], model.unmarked()
        for start in range(0, count, _AT_ONCE):
            some = seeds[start : start + _AT_ONCE]
            parts.append(torch.from_numpy(unmarked.sample(len(some), seeds=some).array))
            listener.on_data(start + len(some), count, "Sampling images of the model itself")
        images = torch.cat(parts).contiguous()
        atomic.write_bytes(folder.prior_file, weights.to_bytes({"images": images}, {}))
        folder.update_facts(prior={"weights": source.digest, "images": count})
    kept = images
    return Pool(
        lambda rows: kept[torch.from_numpy(rows)], model.drawn_labels(seeds), model.drawn_prompts(seeds)
    )


def facts(learner: Learner, config: RunConfig, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `run.json` says of the model that the adapter belongs to.

    earlier: what it said before. Raises TrainingError where the model has changed since the run began.
    """
    base, fixed = adapters.base_of(learner), adapters.fixed(learner)
    if earlier and earlier.get("weights") != base.digest:
        raise TrainingError(
            f"{config.init} has changed since this run began, and its adapter would not fit: restore that "
            "model, or choose another --out."
        )
    state = learner.state_dict()
    numbers = sum(tensor.numel() for tensor in adapters.tensors(learner).values())
    kept = sum(state[name].numel() for name in fixed)
    text = (
        f"Trains an adapter of {config.init}: {numbers:,} numbers beside {kept:,} weights, which stay as "
        "they are."
    )
    return {
        "model": config.init,
        "family": config.model.family,
        "weights": base.digest,
        "adapter": True,
        "text": text,
    }


def advice(images: int, config: RunConfig) -> str | None:
    """Return a sentence that recommends an adapter for few images; None where that does not apply."""
    samples = families.can_sample(config.family) and families.has_prior(config.model)
    if config.adapter is not None or not samples or not FEW <= images <= SOME:
        return None
    if config.init:
        return (
            f"With {images} images, an adapter of {config.init} is quicker to train than all weights, and "
            "forgets less: add --preset lora."
        )
    return (
        f"{images} images are few to train a model from scratch: an adapter of a trained model learns more "
        "from them (--init MODEL --preset lora)."
    )
