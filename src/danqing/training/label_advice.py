"""Advice for a run that learns to recognize images from few of them."""

from collections.abc import Iterator

from danqing.data import Dataset
from danqing.evaluation.learner_scores import has_own_score
from danqing.training.config import AUTO_RECOGNITION, RunConfig

FEW = 5
"""A label with fewer images is hardly learned."""
_NAMED = 5


def advice(dataset: Dataset, config: RunConfig, *, is_scored: bool) -> Iterator[str]:
    """Yield what is missing for a model that recognizes images.

    Other models get no advice.

    dataset: the images to learn from. is_scored: whether images are held out.
    """
    if not has_own_score(config.family):
        return
    counts = zip(dataset.label_names, dataset.label_counts.tolist(), strict=False)
    few = [f"{name} ({count})" for name, count in counts if count < FEW]
    if few and config.family == "classifier":
        more = f" and {len(few) - _NAMED:,} more" if len(few) > _NAMED else ""
        yield (
            f"Labels with fewer than {FEW} images are hardly learned: {', '.join(few[:_NAMED])}{more}. "
            "Add images of them, or leave them out."
        )
    if not is_scored and len(dataset) < AUTO_RECOGNITION:
        yield (
            f"Of fewer than {AUTO_RECOGNITION} images none are held out, so this run has no scores: danqing "
            "evaluate measures the model on other images (--data), and --set evaluation.every_images=tenth "
            "holds some of these out."
        )
