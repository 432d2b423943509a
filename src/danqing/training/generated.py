"""Generated images as training data, and whether they help: training without them is the comparison."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danqing import atomic, families, weights
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import ConfigError, ModelError, TrainingError
from danqing.images import conform
from danqing.learners.abilities import Classifies
from danqing.model import loading
from danqing.model.model import Model
from danqing.model.recognizer import load_recognizer
from danqing.names import match
from danqing.randomness import derived_seed, generator
from danqing.training.added_images import Pool
from danqing.training.config import RunConfig
from danqing.training.effect import measured
from danqing.training.listener import Listener
from danqing.training.run_folder import RunFolder

REAL_ONLY = "real-only"
"""The folder in a run of the same training without generated images."""
_AT_ONCE = 256
_WHAT = "Generating images to learn from"


def open_pool(
    config: RunConfig, dataset: Dataset, folder: RunFolder, device: torch.device, listener: Listener
) -> Pool:
    """Return the generated images of a run.

    They are generated where the run has none yet.
    Their labels are as frequent as in the data, among those that the generator knows. Image i depends on the
    run's seed and i alone. They are written to the run folder, so that a resumed run has the same.
    Raises ConfigError where the generator cannot make such images.
    """
    wanted = config.data
    facts = folder.facts().get("generated", {})
    model = loading.load(wanted.generator, device=str(device))
    digest = weights.digest(model.family.state_dict())
    if folder.has_checkpoints and facts.get("weights") != digest:
        raise TrainingError(
            f"{wanted.generator} has changed since the run in {folder.path} began: restore that model, or "
            "choose another --out."
        )
    labels = _labels(model, dataset, wanted.generated_images, config.seed, wanted.generator)
    width, height = dataset.size
    shape = len(labels), height, width, dataset.channels
    images = _read(folder.generated_file, shape) if facts.get("weights") == digest else None
    if images is None:
        images = _generate(model, dataset, labels, config.seed, listener)
        atomic.write_bytes(folder.generated_file, weights.to_bytes({"images": images}, {}))
        names = [name for number, name in enumerate(dataset.label_names) if number in set(labels.tolist())]
        text = (
            f"{wanted.generated:.0%} of each batch is drawn from {len(labels):,} images that "
            f"{wanted.generator} generated of {len(names)} of {len(dataset.label_names)} labels."
        )
        told: dict[str, Any] = {"generator": wanted.generator, "weights": digest, "images": len(labels)}
        folder.update_facts(generated={**told, "share": wanted.generated, "labels": names, "text": text})
        listener.on_message(text)
        if model.facts.get("data", {}).get("fingerprint") != dataset.fingerprint:
            listener.on_message(
                f"{wanted.generator} learned from other images than this run does, perhaps from some that "
                "are held out here, so its images may seem to help more than they do."
            )
    kept = images
    return Pool(lambda rows: kept[torch.from_numpy(rows)], labels)


def check(config: RunConfig, held: Held | None) -> None:
    """Raise ConfigError where a run cannot learn from generated images."""
    if not families.implements(config.family, Classifies):
        raise ConfigError("Generated images have one label each: they suit the task classify alone.")
    if not config.data.generator:
        raise ConfigError("Generated images need a model that generates them: name it by --generator MODEL.")
    if config.data.buckets:
        raise ConfigError("A run with generated images needs one size: give one such as 64x64.")
    if held is None:
        raise ConfigError(
            "Whether generated images help is measured on held-out images, and this run has none: leave "
            "--evaluate-every at its default, or add images."
        )


def compare(
    folder: RunFolder,
    config: RunConfig,
    held: Held,
    train: Callable[[Path, Path], bool],
    listener: Listener,
) -> bool:
    """Train without the generated images, and record what they change.

    The budget is the same.
    train: trains by a configuration file in a run folder; returns whether it finished.
    What is recorded is the difference of the accuracy on held-out images with its interval, and a sentence.
    Returns whether something was recorded.
    """
    known, images = folder.facts().get("generated", {}), folder.facts()["progress"]["images"]
    if known.get("compared_at") == images:
        return False
    other = RunFolder(folder.path / REAL_ONLY)
    data = config.data.model_copy(update={"generated": 0.0, "generator": ""})
    listener.on_message(
        "The same training without generated images follows, to measure whether they help; it takes as long "
        "again."
    )
    other.create()
    other.write_config(config.model_copy(update={"data": data}))
    if not train(other.config_file, other.path):
        return False
    both = load_recognizer(folder.model), load_recognizer(other.model)
    effect = measured("Generated images", *both, held.judged, config.seed)
    if effect["interval"][0] <= 0:
        effect["verdict"] += f" Train without --generated, or use the run in {REAL_ONLY}/."
    folder.update_facts(generated={**known, **effect, "compared_at": images})
    return True


def _labels(model: Model, dataset: Dataset, count: int, seed: int, name: str) -> NDArray[np.int64]:
    """Draw the label of each image to generate, int64 `[count]`."""
    if not model.family.has_prior:
        raise ConfigError(f"{name} does not generate images by itself: choose another --generator.")
    if not dataset.label_names:
        raise ConfigError(
            "Generated images have one label each, and the data has none: leave --generated out."
        )
    known = [
        place
        for place, label in enumerate(dataset.label_names)
        if match(label, model.labels, model.family.config.label_captions) is not None
    ]
    if not known:
        some = ", ".join(dataset.label_names[:8])
        raise ConfigError(
            f"{name} knows none of the labels of the data ({some}): train a generator on the same labelled "
            "images."
        )
    shares = torch.tensor([dataset.label_frequencies[place] for place in known], dtype=torch.float64)
    drawn = torch.multinomial(shares, count, replacement=True, generator=generator(seed, "generated labels"))
    labels: NDArray[np.int64] = np.array(known, dtype=np.int64)[drawn.numpy()]
    return labels


def _generate(
    model: Model, dataset: Dataset, labels: NDArray[np.int64], seed: int, listener: Listener
) -> torch.Tensor:
    """Generate an image of each label, uint8 `[n, h, w, c]` of the size and channels of the data."""
    captions, size = model.family.config.label_captions, dataset.size
    names = [match(name, model.labels, captions) for name in dataset.label_names]
    own = None if size == model.sizes.own[0] or not model.sizes.fits(size) else size
    parts, unmarked = [], model.unmarked()
    for start in range(0, len(labels), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(labels)))
        wanted = [names[labels[row]] for row in rows]
        seeds = [derived_seed(seed, "generated image", row) for row in rows]
        images = unmarked.sample(
            len(rows), label=[name for name in wanted if name], seeds=seeds, size=own
        ).array
        if images.shape[1:] != (size[1], size[0], dataset.channels):
            images = np.stack(
                [conform(one, size=size, channels=dataset.channels, alpha="keep") for one in images]
            )
        parts.append(torch.from_numpy(np.ascontiguousarray(images)))
        listener.on_data(rows.stop, len(labels), _WHAT)
    return torch.cat(parts)


def _read(file: Path, shape: tuple[int, int, int, int]) -> torch.Tensor | None:
    """Return the images in a file; None where it is missing or damaged, so that they are generated again."""
    expected: Mapping[str, torch.Tensor] = {"images": torch.empty(shape, dtype=torch.uint8, device="meta")}
    try:
        weights.check(file, expected)
        return weights.read(file, expected)["images"]
    except ModelError:
        return None
