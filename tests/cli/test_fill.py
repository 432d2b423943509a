"""Replacing a part of an image, by command and by `Model.fill`."""

import json
from pathlib import Path

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
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_only_what_is_covered_is_painted(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "filled.png"
    asked = ("fill", str(folder), str(picture), "--label", "dog", "--out", str(out), "--json")
    code, told, _ = run(capsys, *asked, "--box", "1,2,3,9")
    assert code == 0
    assert json.loads(told)["pixels"] == 9
    before, after = (np.asarray(Image.open(path)) for path in (picture, out))
    where = np.zeros((5, 6), bool)
    where[2:, 1:4] = True
    assert np.array_equal(before[~where], after[~where])
    assert (before[where] != after[where]).mean() > 0.9
    Image.fromarray(where.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert run(capsys, *asked, "--mask", str(tmp_path / "mask.png"))[0] == 0
    assert np.array_equal(np.asarray(Image.open(out)), after)


def test_white_on_nothing_is_a_mask_as_paint_programs_write_it(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = Image.new("RGBA", (6, 5), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (1, 2, 4, 5))
    mask.save(tmp_path / "mask.png")
    asked = ("fill", str(folder), str(picture), "--label", "dog", "--mask", str(tmp_path / "mask.png"))
    code, told, _ = run(capsys, *asked, "--out", str(tmp_path / "filled.webp"), "--json")
    assert (code, json.loads(told)["pixels"]) == (0, 9)
    assert Image.open(tmp_path / "filled.webp").format == "WEBP"


def test_several_ways_differ_and_a_seed_repeats_its_own(folder: Path, picture: Path) -> None:
    trained = danqing.load(folder)
    images = Images(np.repeat(np.asarray(Image.open(picture))[None], 3, axis=0))
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


def test_a_seed_of_minus_one_picks_one_that_paints_the_same_again(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("fill", str(folder), str(picture), "--box", "1,1,3,3", "--label", "cat", "--json")

    def seed_of(name: str, seed: int) -> int:
        code, out, _ = run(capsys, *asked, "--out", str(tmp_path / name), "--seed", str(seed))
        assert code == 0
        return int(json.loads(out)["seed"])

    picked = seed_of("picked.png", -1)
    assert picked >= 0
    assert picked != seed_of("other.png", -1)
    assert seed_of("again.png", picked) == picked
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "picked.png").read_bytes()
    code, _, err = run(capsys, *asked, "--out", str(tmp_path / "x.png"), "--seed", "-2")
    assert (code, "from 0 up, or -1 to pick one" in err.replace("\n", " ")) == (2, True)


def test_mistakes_are_told_with_what_to_do(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Model
) -> None:
    asked = ("fill", str(folder), str(picture), "--out", str(tmp_path / "x.png"), "--label", "cat")
    for words, sentence in (
        ((), "--mask MASK.png"),
        (("--box", "1,2,3"), "left,top,width,height"),
        (("--box", "9,9,2,2"), "lies outside the model's 6x5 pixels"),
        (("--box", "0,0,2,2", "--set", "truncation=1"), "'truncation'"),
        (("--mask", str(tmp_path / "none.png")), "none.png"),
        (("--box", "0,0,2,2", "--out", str(tmp_path / "filled")), "filled has no known image suffix"),
    ):
        code, out, err = run(capsys, *asked, *words)
        assert (code, out) == (2, "")
        assert sentence in err.replace("\n", " ")
    images, mask = Images(np.zeros((2, 5, 6, 3), np.uint8)), np.ones((5, 6), bool)
    for arguments, message in (
        ({"mask": mask}, "label"),
        ({"mask": mask[:4], "label": "cat"}, "6x5"),
        ({"mask": mask.astype(np.float32), "label": "cat"}, "true or false"),
        ({"mask": mask, "label": "cat", "seeds": [1]}, "one seed per image"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.fill(images, **arguments)
    vae = families.build(families.parse_config({"family": "vae", "net": "mlp", "width": 6, "height": 5}))
    with pytest.raises(ConfigError, match="A VAE cannot fill a part of an image: use a transformer"):
        Model(vae).fill(images, mask)
