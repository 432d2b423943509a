"""Runs on images of several sizes: they resume bit for bit, and the model knows the sizes that it learned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.cli import main
from danqing.errors import ConfigError
from danqing.training.listener import Listener, Progress

SETTINGS = {
    "widths": "[8, 16]",
    "layers": "1",
    "heads": "2",
    "batch_size": "8",
    "optimizer": "adam",
    "measure_seconds": "0.001",
    "sample_images": "4",
    "sample_grids": "2",
    "num_steps": "2",
    "precision": "float32",
    "size": "[16, 16]",
}
SCORED = {"evaluation.samples": "16", "evaluation.features": "pixels", "evaluation.held_out": "0.3"}
OFTEN = {"checkpoint_seconds": "0.0001"}


class Stop(Listener):
    """Ends a run as a crash does, after some images."""

    def __init__(self, images: int) -> None:
        self.images = images

    def on_progress(self, progress: Progress) -> None:
        if progress.images >= self.images:
            raise RuntimeError("stopped")


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        width, height = [(24, 12), (12, 24), (18, 18), (24, 12)][number % 4]
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    return folder


def train(
    folder: Path, out: Path, settings: dict[str, str], listener: Listener | None = None, **arguments: Any
) -> dq.Run:
    chosen = SETTINGS | settings
    return dq.train(
        folder,
        preset="flow-32",
        size="auto",
        images=160,
        out=out,
        settings=chosen,
        listener=listener or Listener(),
        **arguments,
    )


def test_a_run_that_was_killed_ends_with_the_same_weights(photographs: Path, tmp_path: Path) -> None:
    whole = train(photographs, tmp_path / "whole", {})
    for images in (24, 72, 104):
        with pytest.raises(RuntimeError, match="stopped"):
            train(photographs, tmp_path / "killed", OFTEN, Stop(images))
    killed = train(photographs, tmp_path / "killed", OFTEN)
    first, second = (load_file(run.model / "model.safetensors") for run in (whole, killed))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)
    assert (whole.folder / "log.jsonl").read_bytes() == (killed.folder / "log.jsonl").read_bytes()


def test_the_model_knows_its_sizes_and_samples_each(photographs: Path, tmp_path: Path) -> None:
    run = train(photographs, tmp_path / "run", SCORED, evaluate_every=80)
    model = dq.load(run.folder)
    sizes = model.family.config.sizes
    assert len(sizes) == 3
    assert sizes[0] == (model.family.config.width, model.family.config.height)
    assert sizes[0][0] > sizes[0][1]  # half of the images are wide
    for width, height in sizes:
        assert model.sample(2, size=(width, height)).array.shape == (2, height, width, 3)
        words = [
            "--size",
            f"{width}x{height}",
            "--seamless",
            "both",
            "-n",
            "2",
            "--each",
            str(tmp_path / "each"),
        ]
        with pytest.raises(SystemExit) as left:
            main(["sample", str(run.folder), *words])
        assert not left.value.code
        expected = model.sample(2, size=(width, height), seamless="both").array
        assert np.array_equal(np.asarray(Image.open(tmp_path / "each" / "1.png")), expected[1])
    told = json.loads((run.folder / "run.json").read_text())["data"]
    assert told["sizes"] == [list(size) for size in sizes]
    assert "Sizes that it learned" in (run.model / "README.md").read_text()
    assert run.best is not None  # at the first size
    scored = dq.evaluate(run.folder, photographs, metrics=["kernel"], n=16, features="pixels")
    assert scored.headline.reference.split == "held-out"


@pytest.mark.slow
def test_a_model_of_few_steps_learns_the_first_size_of_its_teacher(photographs: Path, tmp_path: Path) -> None:
    teacher = train(photographs, tmp_path / "teacher", {})
    options = {"settings": {"model.solution.discriminator_features": "4"}, "listener": Listener()}
    options |= {"images": 160, "trajectories": 8}
    student = dq.distill(teacher, photographs, steps=2, out=tmp_path / "student", **options)
    config = dq.load(student).config
    assert (config.sizes, (config.width, config.height)) == ((), dq.load(teacher).sizes.own[0])


@pytest.mark.parametrize(
    ("preset", "settings", "sentence"),
    [
        ("gan-32", {}, "A GAN cannot learn images of several sizes: use a flow model"),
        ("vae-32", {}, "A VAE cannot learn images of several sizes: use a flow model"),
        ("flow-32", {"transport": "semidiscrete"}, "needs one size: give a size such as 64x64"),
        ("flow-pairs-64", {}, "needs one size"),
        ("flow-32", {"objective": "solution"}, "samples in few steps"),
        ("text2image-32", {}, "cannot learn images of several sizes: use a flow model"),
    ],
)
def test_a_family_that_needs_one_size_says_what_to_do(
    preset: str, settings: dict[str, str], sentence: str, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        dq.train(photographs, preset=preset, size="auto", images=16, out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()
