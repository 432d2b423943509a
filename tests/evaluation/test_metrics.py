"""What metrics make of odd cases: perfect reconstructions, uneven counts, images without labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.errors import EvaluationError
from danqing.evaluation.candidate import open_candidate
from danqing.evaluation.generated_images import store_images
from danqing.evaluation.image_sets import labels_of
from danqing.evaluation.metric_inputs import MetricInputs
from danqing.evaluation.metrics import METRICS
from danqing.evaluation.model_metrics import reconstruction
from danqing.evaluation.networks import open_network
from danqing.evaluation.reference import open_reference
from tests.evaluation.models import small_model


def compare(candidate: object, data: str | Path, n: int = 100) -> MetricInputs:
    opened = open_candidate(candidate, data, n=n, seed=0)  # type: ignore[arg-type]
    return MetricInputs(opened, open_reference(data, opened), open_network("pixels"), n=n, seed=0)


def test_perfect_reconstructions_are_counted_apart() -> None:
    c = compare(small_model(width=8, height=8, channels=1), "digits")
    rows = c.on_real_images.shown(c.reference.images)
    real = c.reference.images.images(rows).numpy()

    def pretend(pixels: np.ndarray) -> None:
        c.on_real_images.reconstructed = store_images([pixels], pixels.shape, np.full(len(pixels), -1), ())

    some = np.concatenate([real[:300], np.roll(real[300:], 1, 2)])
    pretend(some)
    found, error = reconstruction(c, "psnr"), reconstruction(c, "reconstruction-error")
    equal = int((some == real).all((1, 2, 3)).sum())
    assert equal >= 300
    assert found.settings["exact"] == equal
    assert (found.images, error.images) == (len(rows) - equal, len(rows))
    assert f"{equal:,} images that come out as they were are left out" in found.note
    low, high = found.interval or (1, 0)
    assert 0 < low < found.value < high < 100
    assert "exact" not in error.settings
    pretend(real)
    with pytest.raises(EvaluationError, match="PSNR of reconstructions is infinite"):
        reconstruction(c, "psnr")


@pytest.mark.parametrize(("n", "uneven"), [(1000, False), (300, True)])
def test_uneven_counts_are_said_where_they_matter(n: int, uneven: bool) -> None:
    c = compare("digits", "digits", n)
    (recall,) = METRICS["recall"].measure(c)
    (kernel,) = METRICS["kernel"].measure(c)
    assert (f"uneven: compare at {n:,} against 1,797 alone" in recall.note) is uneven
    assert "uneven" not in kernel.note


def test_images_without_a_label_teach_nothing(tmp_path: Path) -> None:
    digits = dq.open_dataset("digits")
    for split, shift in (("train", 0), ("test", 100)):
        for number in range(80):
            label = int(labels_of(digits)[number + shift])
            folder = tmp_path / split / (f"digit {label}" if label < 5 else "other")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images(np.array([number + shift])).numpy()[0, :, :, 0]).save(
                folder / f"{number}.png"
            )
    model = small_model(width=8, height=8, channels=1, labels=[f"digit {n}" for n in range(5)])
    c = compare(model, tmp_path)
    labelled = int((c.labels(c.training) >= 0).sum())
    assert 0 < labelled < 80 < len(c.generated)
    assert c.taught_images == labelled
    few = METRICS["label-agreement"].unwise[0](c)
    assert few == f"{labelled} images teach a classifier little"


def test_a_score_says_on_what_device_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    c = compare(small_model(width=8, height=8, channels=1), "digits")
    assert "device" not in c.score("kernel", "KD", 1.0).settings
    monkeypatch.setattr(type(c.on_real_images.model), "device", torch.device("cuda:0"))
    again = compare(c.on_real_images.model, "digits")
    assert again.score("kernel", "KD", 1.0).settings["device"] == "cuda"
