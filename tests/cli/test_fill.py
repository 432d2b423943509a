"""Filling and varying images by command, and by `Model.fill`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing import families
from danqing.cli import main
from danqing.errors import ConfigError
from danqing.images import Images
from danqing.model.model import Model


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


@pytest.fixture(scope="module")
def model() -> Model:
    shape = {"width": 6, "height": 5, "channels": 3}
    config = families.parse_config(
        {"family": "transformer", **shape, "layers": 1, "features": 16, "heads": 2, "labels": ("cat", "dog")}
    )
    torch.manual_seed(0)
    return Model(families.build(config))


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("model"), Images(np.zeros((1, 5, 6, 3), np.uint8)))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_only_what_is_covered_is_filled(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "filled.png"
    words = ("fill", str(folder), str(picture), "--label", "dog", "--out", str(out), "--json")
    code, told, _ = run(capsys, *words, "--box", "1,2,3,90", "--box", "20,0,4,4")
    assert code == 0
    assert json.loads(told)["written"] == {"picture.png": str(out)}
    before, after = (np.asarray(Image.open(path)) for path in (picture, out))
    where = np.zeros((20, 30), bool)
    where[2:, 1:4] = where[:4, 20:24] = True
    assert np.array_equal(before[~where], after[~where])
    assert (before[where] != after[where]).mean() > 0.9
    Image.fromarray(where.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert run(capsys, *words, "--mask", str(tmp_path / "mask.png"))[0] == 0
    assert np.array_equal(np.asarray(Image.open(out)), after)
    assert run(capsys, *words, "--expand", "0,3,4,0", "--feather", "2", "--grow", "2")[0] == 0
    assert Image.open(out).size == (34, 23)


def test_several_versions_have_numbers_and_a_seed_of_minus_one_gives_them_again(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fill", str(folder), str(picture), "--box", "1,1,9,9", "--label", "cat", "--json", "-n", "2")

    def seed_of(name: str, seed: int) -> int:
        code, out, _ = run(capsys, *words, "--out", str(tmp_path / name), "--seed", str(seed))
        assert code == 0
        return int(json.loads(out)["seed"])

    picked = seed_of("picked.png", -1)
    assert picked >= 0
    assert picked != seed_of("other.png", -1)
    assert seed_of("again.png", picked) == picked
    one, two = ((tmp_path / f"again-{number}.png").read_bytes() for number in (1, 2))
    assert one != two
    assert (tmp_path / "picked-1.png").read_bytes() == one
    assert (tmp_path / "picked-2.png").read_bytes() == two
    code, _, err = run(capsys, *words, "--out", str(tmp_path / "x.png"), "--seed", "-2")
    assert (code, "from 0 up, or -1 to pick one" in err.replace("\n", " ")) == (2, True)


def test_a_folder_is_varied_and_strength_0_keeps_its_files(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    inside = tmp_path / "in" / "deep" / "a.png"
    inside.write_bytes(picture.read_bytes())

    def varied(strength: str, name: str) -> bytes:
        words = ("vary", str(folder), str(tmp_path / "in"), "--label", "cat", "--strength", strength)
        code, told, _ = run(capsys, *words, "--tile", "6", "--out", str(tmp_path / name), "--json")
        assert code == 0, told
        assert list(json.loads(told)["written"]) == ["deep/a.png"]
        return (tmp_path / name / "deep" / "a.png").read_bytes()

    assert varied("0", "same") == inside.read_bytes()
    assert varied("0.5", "other") != inside.read_bytes()


def test_several_ways_differ_and_a_seed_repeats_its_own(folder: Path) -> None:
    trained = danqing.load(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    images = Images(np.repeat(pixels[None], 3, axis=0))
    where = np.zeros((5, 6), bool)
    where[1, 1:] = True
    filled = trained.fill(images, where, label="cat", seed=4).array
    assert not np.array_equal(filled[0], filled[1])
    one = trained.fill(images[:1], where, label="cat", seed=4).array
    assert np.array_equal(filled[:1], one)
    each = np.stack([where, ~where, np.zeros_like(where)])
    apart = trained.fill(images, each, label="cat", seed=4).array
    assert np.array_equal(apart[0], filled[0])
    assert np.array_equal(apart[2], images.array[2])


def test_mistakes_are_told_with_what_to_do(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Model
) -> None:
    words = ("fill", str(folder), str(picture), "--out", str(tmp_path / "x.png"), "--label", "cat")
    for more, sentence in (
        ((), "--mask"),
        (("--box", "1,2,3"), "left,top,width,height"),
        (("--expand", "1,2,3"), "left,top,right,bottom"),
        (("--box", "0,0,2,2", "--set", "truncation=1"), "'truncation'"),
        (("--mask", str(tmp_path / "none.png")), "none.png"),
        (("--box", "0,0,2,2", "--out", str(picture)), "is the input"),
    ):
        code, out, err = run(capsys, *words, *more)
        assert (code, out) == (2, "")
        assert sentence in err.replace("\n", " ")
    code, out, _ = run(capsys, *words, "--box", "90,9,2,2", "--json")
    assert code == 1
    assert "lies outside the image's 30x20 pixels" in json.loads(out)["failed"]["picture.png"]
    images, mask = Images(np.zeros((2, 5, 6, 3), np.uint8)), np.ones((5, 6), bool)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"mask": mask}, "label"),
        ({"mask": mask[:4], "label": "cat"}, "6x5"),
        ({"mask": mask.astype(np.float32), "label": "cat"}, "true or false"),
        ({"mask": mask, "label": "cat", "seeds": [1]}, "one seed per image"),
    )
    for arguments, message in wrong:
        with pytest.raises(ConfigError, match=message):
            model.fill(images, **arguments)
    config = families.parse_config({"family": "vqvae", "width": 6, "height": 5, "features": 4})
    with pytest.raises(ConfigError, match="A VQ-VAE cannot fill a part of an image: use a GAN, a VAE"):
        Model(families.build(config)).fill(images, mask)
