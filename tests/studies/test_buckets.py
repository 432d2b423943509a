"""Comparisons and searches over images of several sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.cli import main
from danqing.errors import ConfigError

SETTINGS = {
    "widths": "[8, 16]",
    "layers": "1",
    "heads": "2",
    "batch_size": "8",
    "optimizer": "adam",
    "measure_seconds": "0.001",
    "sample_images": "4",
    "sample_grids": "1",
    "num_steps": "2",
    "precision": "float32",
    "evaluation.samples": "12",
}


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training split of wide, tall and square images, and a test split of tall ones only."""
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, shapes in (
        ("train", [(24, 12), (12, 24), (18, 18), (24, 12)] * 30),
        ("test", [(12, 24)] * 16),
    ):
        folder = tmp_path / "photographs" / split
        folder.mkdir(parents=True)
        for number, (width, height) in enumerate(shapes):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photographs"


def test_a_comparison_learns_several_sizes_and_judges_at_the_most_frequent(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared"
    words = ["compare", str(photographs), "--presets", "flow-32", "--size", "auto:16", "--images", "80"]
    words += ["--features", "pixels", "--second-features", "none", "-n", "12", "--out", str(out), "--json"]
    with pytest.raises(SystemExit) as left:
        main(words + [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")])
    assert not left.value.code
    told = json.loads(capsys.readouterr().out)
    (one,) = told["contestants"]
    assert (one["status"], one["error"]) == ("finished", "")
    sizes = dq.load(out / one["run"]).family.config.sizes
    assert len(sizes) == 3
    assert told["data"]["sizes"] == [list(size) for size in sizes]
    reference = dq.open_dataset(photographs, split="test", size=sizes[0], buckets=sizes)
    assert told["reference"]["fingerprint"] == reference.fingerprint
    compared = dq.open_dataset(photographs, split="test", size=sizes[0], buckets=sizes, channels=3)
    assert {score["reference"]["fingerprint"] for score in one["scores"]} == {compared.fingerprint}
    assert ", ".join(f"{width} × {height}" for width, height in sizes) in (out / "compare.html").read_text()


def test_a_trial_learns_several_sizes(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("[optimizer.learning_rate]\nlow = 1e-4\nhigh = 1e-3\n")
    settings = {**SETTINGS, "size": "[16, 16]", "evaluation.features": "pixels", "evaluation.held_out": "0.3"}
    found = dq.tune(
        photographs,
        space=tmp_path / "space.toml",
        trials=1,
        preset="flow-32",
        size="auto",
        images=80,
        settings=settings,
        out=tmp_path / "search",
    )
    assert found.best is not None
    assert len(dq.load(found.best).family.config.sizes) == 3


def test_a_family_that_needs_one_size_is_named(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"gan-32: .*A GAN cannot learn images of several sizes: use a flow"
    ):
        dq.compare(photographs, families=["flow", "gan"], size="auto", images=80, out=tmp_path / "compared")
