"""Generated and unlabelled images as training data: what a batch holds, what is measured, what is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.data import open_dataset
from danqing.errors import ConfigError
from danqing.training.added_images import MixedBatches, Pool
from danqing.training.effect import verdict
from danqing.training.run_folder import RunFolder
from tests.small_run import SMALL
from tests.training.heard import Heard

LABELS = ("dark", "light", "middle")
PLAIN = {name: SMALL[name] for name in SMALL if name not in ("net", "latents", "prior", "features")}
CLASSIFY: dict[str, Any] = {**PLAIN, "features": 8, "shift": 0, "cutout": 0, "evaluation.held_out": 0.3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


def pictures(folder: Path, each: int = 24, seed: int = 0, *, labelled: bool = True) -> Path:
    """Noise of three brightnesses, 8x8."""
    rng = np.random.default_rng(seed)
    for label, low in zip(LABELS, (0, 200, 100), strict=True):
        place = folder / label if labelled else folder
        place.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = rng.integers(low, low + 50, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{label}{number}.png")
    return folder


def classify(data: Path, out: Path, listener: Heard | None = None, **options: Any) -> dq.Run:
    settings = {**CLASSIFY, **options.pop("settings", {})}
    return dq.train(
        data,
        task="classify",
        settings=settings,
        size=(8, 8),
        images=options.pop("images", 256),
        evaluate_every=128,
        out=out,
        listener=listener or Heard(),
        **options,
    )


def test_a_batch_holds_its_share_of_added_images_and_all_real_ones_equally_often(tmp_path: Path) -> None:
    dataset = open_dataset(pictures(tmp_path / "data", each=4))
    added = torch.full((5, 8, 8, 3), 255, dtype=torch.uint8)
    pool = Pool(lambda rows: added[torch.from_numpy(rows)], np.array([0, 1, 2, 2, 2]))
    batches = MixedBatches(dataset, pool, batch_size=8, share=0.5, seed=1)
    seen: list[Any] = [batches.at(start) for start in range(0, 24, 8)]
    for batch in seen:
        assert len(batch) == len(batch.condition.label) == 8
        assert (batch.images[4:] == 1).all()
        assert (batch.images[:4] < 1).flatten(1).any(1).all()
    real = np.concatenate([batches.indices(4 * number) for number in range(3)])
    assert sorted(real.tolist()) == list(range(12))
    assert torch.equal(batches.at(8).images, seen[1].images)


def test_a_run_with_generated_images_measures_them_against_real_images_alone(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    made = dq.train(
        data, preset="vae-32", settings=SMALL, size=(8, 8), images=64, out=tmp_path / "vae", listener=Heard()
    )
    settings = {
        "data.generated": 0.5,
        "data.generator": str(made.folder),
        "data.generated_images": 40,
    }
    heard = Heard()
    whole = classify(data, tmp_path / "whole", heard, settings=settings)
    facts = RunFolder(whole.folder).facts()["generated"]
    assert facts["images"] == 40
    assert set(facts["labels"]) == set(LABELS)
    low, high = facts["interval"]
    assert low <= facts["difference"] <= high
    assert whole.effect == facts["verdict"]
    assert "Generated images" in facts["verdict"]
    assert "held-out images" in facts["verdict"]
    assert any("50% of each batch is drawn from 40 images" in text for text in heard.messages)
    other = dq.train(data, config=whole.folder / "real-only" / "config.toml", out=whole.folder / "real-only")
    assert other.status == "finished"
    assert other.images == whole.images
    # A run that was killed ends with the same weights, from the same generated images.
    with pytest.raises(RuntimeError, match="stopped"):
        classify(data, tmp_path / "parts", Heard(stop_at=96), settings=settings)
    resumed = classify(data, tmp_path / "parts", settings=settings)
    one, two = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    # The images are made once, and the comparison is not repeated.
    again = Heard()
    classify(data, tmp_path / "whole", again, settings=settings)
    assert len(again.messages) == 1
    for wrong, told in (({"data.generator": ""}, "--generator MODEL"), ({}, "held-out")):
        with pytest.raises(ConfigError, match=told):
            dq.train(
                data,
                task="classify",
                settings={**CLASSIFY, **settings, **wrong},
                evaluate_every=0 if not wrong else 128,
                images=16,
                out=tmp_path / f"wrong{len(wrong)}",
                listener=Heard(),
            )


def test_a_run_learns_from_unlabelled_images_that_its_first_model_is_sure_of(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    first = classify(data, tmp_path / "first", images=1600)
    unlabelled = pictures(tmp_path / "more", seed=9, labelled=False)
    settings = {"data.unlabelled": str(unlabelled), "data.confidence": 0.4}
    heard = Heard()
    run = classify(data, tmp_path / "second", heard, init=first, settings=settings)
    facts = RunFolder(run.folder).facts()
    given = load_file(run.folder / "pseudo_labels.safetensors")
    assert facts["unlabelled"]["images"] == len(given["rows"]) > 36
    # Files are sorted by name, so that the images of a label follow each other.
    assert (given["labels"] == given["rows"] // 24).float().mean() > 0.9
    assert "Unlabelled images" in str(run.effect)
    assert any("unlabelled images" in text for text in heard.messages)
    with pytest.raises(ConfigError, match="--init MODEL"):
        classify(data, tmp_path / "third", settings=settings)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.01, 0.05, "add 3.0 points"), (-0.01, 0.07, "do not help measurably"), (-0.05, -0.01, "lower")],
)
def test_a_verdict_says_that_images_help_only_if_the_interval_excludes_zero(
    low: float, high: float, told: str
) -> None:
    assert told in verdict("Generated images", (low + high) / 2, low, high, 100)
