"""The images of a run: those to train on, and those that are held out."""

from pathlib import Path
from typing import Any

from danqing.data import Dataset, open_dataset
from danqing.data.splits import Held, open_held
from danqing.errors import TrainingError
from danqing.training.config import RunConfig
from danqing.training.listener import Listener
from danqing.training.validation import FEWEST


def open_data(
    source: str | Path, config: RunConfig, listener: Listener
) -> tuple[RunConfig, Dataset, Held | None]:
    """The images to train on and, if the run is evaluated, those that are held out.

    In the configuration that is returned, "auto" has been decided. Raises DataError and TrainingError.
    """
    options: dict[str, Any] = {
        "size": config.size,
        **config.data.of_source(),
        "on_progress": listener.on_data,
    }
    if config.evaluation.every_images == "auto":
        whole = open_dataset(source, **options)
        config = config.with_evaluation("tenth" if config.is_worth_evaluating(len(whole)) else 0)
    if not config.evaluation.every_images:
        return config, open_dataset(source, **options), None
    held = open_held(source, config.evaluation.held_out, **options)
    if len(held.judged) < FEWEST:
        raise TrainingError(
            f"{len(held.judged)} images are too few to score on: add images, raise evaluation.held_out, or "
            "train with --evaluate-every 0."
        )
    if config.model.reads_labels:
        _report_lost_labels(open_dataset(source, split="train", **options), held, listener)
    return config, held.training, held


def _report_lost_labels(whole: Dataset, held: Held, listener: Listener) -> None:
    """Say which labels have too few images left to train on, because some are held out."""
    lost = [label for label in whole.label_names if label not in held.training.label_names]
    if lost:
        listener.on_message(
            f"The model will not know {', '.join(lost)}: with some images held out for scores, too few of "
            "these labels are left to train on. Add images, or train with --evaluate-every 0."
        )
