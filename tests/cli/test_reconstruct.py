"""`danqing reconstruct`: real images above what a model makes of them."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing import families
from danqing.cli import main
from danqing.model.model import Model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 5)):
        folder = tmp_path / "photos" / split
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def saved(folder: Path, **options: object) -> Path:
    torch.manual_seed(0)
    values = {"width": 12, "height": 10, "channels": 3, **options}
    family = families.build(families.parse_config(values))
    family.drop_training_only()
    return Model(family).save(folder)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out + printed.err


def test_it_shows_each_image_above_its_reconstruction(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path / "model", family="vqvae", vocabulary=32, depth=2, features=4)
    out = tmp_path / "new" / "grid.png"
    code, printed = run(capsys, "reconstruct", str(model), str(photos), "--out", str(out), "--json")
    found = json.loads(printed.splitlines()[-1])
    assert code == 0
    assert (found["images"], found["split"], found["codes"], found["vocabulary"]) == (
        5,
        "test",
        [3, 3, 2],
        32,
    )
    test = danqing.open_dataset(photos, size=(12, 10), split="test").images(np.arange(5))
    again = danqing.load(model).reconstruct(danqing.images.Images(test)).array
    expected = ((again / 255 - test.numpy() / 255) ** 2).mean()
    assert found["squared_error"] == pytest.approx(expected, rel=1e-5)
    pairs = danqing.images.Images(np.concatenate([test.numpy(), again], axis=1))
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(pairs.grid()))
    code, printed = run(
        capsys, "reconstruct", str(model), str(photos), "--split", "train", "-n", "3", "--out", str(out)
    )
    assert code == 0
    assert "3 of the train split" in printed
    assert "3×3×2 codes out of 32" in printed


def test_what_cannot_be_reconstructed_is_said_in_a_sentence(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gan = str(saved(tmp_path / "model", family="gan", net="mlp"))
    for words, sentence in (
        ((gan, str(photos), "--out", str(tmp_path / "grid.png")), "A GAN cannot encode images"),
        ((str(photos), str(photos), "--out", str(tmp_path / "grid.png")), "is not a model"),
        ((gan, str(photos), "--out", "grid.gif"), "has no known image suffix"),
    ):
        code, printed = run(capsys, "reconstruct", *words)
        assert code == 2
        assert sentence in printed


@pytest.mark.parametrize("family", ["vqvae", "vae"])
def test_the_command_that_follows_the_training_of_a_first_stage_reconstructs(
    family: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["features=4", "blocks=1", "batch_size=4", "sample_images=4", "sample_grids=1"]
    settings += ["measure_seconds=0.001", "precision=float32"]
    settings += ["net=grid", "prior=normal", "latents=2"] if family == "vae" else []
    words = [word for setting in settings for word in ("--set", setting)]
    preset = {"vqvae": "vqvae-32", "vae": "vae-latents-128"}[family]
    code, printed = run(
        capsys,
        "train",
        str(photos),
        "--preset",
        preset,
        "--size",
        "8",
        "--images",
        "16",
        *words,
        "--out",
        "run",
    )
    assert code == 0
    (line,) = (line for line in printed.splitlines() if line.startswith("Next"))
    following = shlex.split(line)[1:]
    assert following == ["danqing", "reconstruct", "run", str(photos), "--out", "grid.png"]
    assert run(capsys, *following[1:])[0] == 0
    assert Path("grid.png").exists()
