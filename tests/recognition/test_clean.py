"""A folder in which everything is planted, from finding it to training without it."""

import csv
import html
import json
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

import danqing as dq
from danqing.data.clean_list import read_clean_list
from danqing.errors import ConfigError
from danqing.recognition.cleaning import quality
from danqing.recognition.cleaning.outliers import find_outliers
from danqing.recognition.first_look import first_look
from tests.recognition.test_near_duplicates import scenes
from tests.small_run import SMALL


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path_factory.mktemp("cache")))


def tinted(picture: Image.Image, label: str) -> Image.Image:
    """An image whose label can be seen."""
    colour = {"red": (220, 40, 40), "blue": (40, 40, 220)}[label]
    return Image.blend(picture, Image.new("RGB", picture.size, colour), 0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tints"

    def put(place: str, picture: Image.Image) -> None:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / place)

    pictures = scenes(64, seed=3)
    for number, one in enumerate(pictures):
        label, split = ("red", "blue")[number % 2], "test" if number >= 48 else "train"
        shown = tinted(one, label)
        put(f"{split}/{'blue' if number == 10 else label}/{number}.png", shown)
        if number == 5:
            put(f"train/{label}/copy.png", ImageOps.mirror(shown))
        if number == 11:  # the copy is larger, and only its label is wrong
            put("train/red/mislabelled.png", shown.resize((192, 192)))
        if number == 50:
            put(f"train/{label}/leak.png", shown.crop((4, 3, 91, 90)))
        if number == 7:
            put(f"train/{label}/unsharp.png", shown.filter(ImageFilter.GaussianBlur(6)))
        if number == 9:
            put(f"train/{label}/long.png", shown.resize((290, 40)))
    put("train/red/empty.png", Image.new("RGB", (96, 96), (128, 0, 0)))
    (root / "train/red/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def test_everything_that_is_planted_is_found_and_left_out(data: Path, tmp_path: Path) -> None:
    found = dq.clean(data, out=tmp_path / "clean.html", features="pixels")
    named = {(one.kind, found.names[one.row]) for one in found.findings}
    planted = {
        ("leak", "train/red/leak.png"),
        ("copy", "train/blue/copy.png"),
        ("label", "train/blue/10.png"),
        ("blank", "train/red/empty.png"),
        ("blurred", "train/blue/unsharp.png"),
        ("stretched", "train/blue/long.png"),
    }
    assert planted <= named
    assert found.splits == {"test": 16, "train": 54}
    assert [name for name, _ in found.unreadable] == ["train/red/broken.png"]
    rows = {row.name: row for row in read_clean_list(tmp_path / "clean.csv")}
    assert rows["train/red/leak.png"].like == "test/red/50.png"
    assert rows["train/blue/10.png"].suggested == "red"
    dropped = {name for name, row in rows.items() if row.decision == "drop"}
    assert {"train/red/leak.png", "train/blue/copy.png", "train/red/empty.png"} <= dropped
    assert not any(name.startswith("test/") for name in dropped)
    assert "copies" in rows["train/red/mislabelled.png"].findings
    assert "label" in rows["train/red/mislabelled.png"].findings
    assert "train/blue/11.png" not in dropped, "the copy with the right label stays"
    cleaned = dq.open_dataset(data, clean=tmp_path / "clean.csv")
    assert len(cleaned) == len(dq.open_dataset(data)) - len(dropped)


def test_the_page_holds_all_decisions_and_no_markup_of_others(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = dq.clean(data, out=out, features="pixels")
    text = out.read_text(encoding="utf-8")
    assert text.count("<figure") == len(found.findings)
    assert html.escape(f"--clean {shlex.quote(str(tmp_path / 'page.csv'))}") in text
    with (tmp_path / "page.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found.rows)
    with pytest.raises(ConfigError, match=r"name it page\.html"):
        dq.clean(data, out=tmp_path / "page.pdf")


def test_a_run_says_what_is_unusual_and_what_its_list_left_out(data: Path, tmp_path: Path) -> None:
    dq.clean(data, out=tmp_path / "clean.html", features="pixels")
    said: list[str] = []

    class Ear(dq.Listener):
        def on_message(self, text: str) -> None:
            said.append(text)

    budget = {"preset": "vae-32", "images": 16, "size": (8, 8), "settings": {**SMALL, "batch_size": 8}}
    dq.train(data, out=tmp_path / "all", listener=Ear(), **budget)
    assert any(line.startswith("Images worth a look: 1 blank") for line in said)
    run = dq.train(data, out=tmp_path / "run", clean=tmp_path / "clean.csv", listener=Ear(), **budget)
    assert "left out by the clean list" in (run.folder / "run.json").read_text(encoding="utf-8")
    command = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["command"]
    assert f"--clean {shlex.quote(str(tmp_path / 'clean.csv'))}" in command


def test_a_first_look_counts_what_is_there(data: Path) -> None:
    sentence = first_look(dq.open_dataset(data), "my data")
    assert sentence is not None
    assert "1 blank" in sentence
    assert "See them with danqing data clean 'my data' --out clean.html" in sentence
    assert first_look(dq.open_dataset(data, split="test"), data) is None


def test_equal_images_with_different_labels_are_the_first_to_be_said(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for row, labels in enumerate([("a", "b", "a"), ("a", "a"), *[("a", "b")[row % 2] for row in range(10)]]):
        for number, label in enumerate(labels):
            folder = tmp_path / "data" / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(folder / f"{row}-{number}.png")
    sentence = first_look(dq.open_dataset(tmp_path / "data"), "data")
    assert sentence is not None
    assert "look: 3 equal to one with another label, 3 equal to another" in sentence


def test_an_image_far_from_all_others_is_an_outlier() -> None:
    rng = torch.Generator().manual_seed(0)
    features = 5 + torch.randn(300, 400, generator=rng)
    features[17, ::2] *= -0.1  # weak features, near the mean of those of others
    found = find_outliers(features)
    assert found.rows.tolist() == [17]
    assert found.ratios[0] > 2
    assert len(find_outliers(features[:3]).rows) == 0


def test_measures_follow_exposure_and_blur() -> None:
    edges = torch.zeros(1, 1, 64, 64)
    edges[:, :, :, 32:] = 1
    smooth = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    measured = quality.measure(torch.cat([edges, smooth, 0.1 * edges, 0.9 + 0.1 * edges, edges * 0 + 0.5]))
    assert measured.detail[0] > 0.2
    assert measured.detail[1] == pytest.approx(1 / 16, rel=0.01)
    assert quality.is_dark(measured).tolist() == [False, False, True, False, False]
    assert quality.is_bright(measured).tolist() == [False, False, False, True, False]
    assert quality.is_blank(measured).tolist() == [False, False, False, False, True]


def test_sizes_are_odd_only_beside_others() -> None:
    sizes = np.array([[100, 100]] * 30 + [[100, 100 * 3], [20, 20], [0, 0]])
    assert np.flatnonzero(quality.is_stretched(sizes)).tolist() == [30]
    assert np.flatnonzero(quality.is_small(sizes, (64, 64))).tolist() == [31]
    assert np.flatnonzero(quality.is_small(sizes, (16, 16))).tolist() == []
    assert Counter(quality.if_rare(np.array([True] * 5 + [False] * 95)).tolist()).total() == 5
    assert len(quality.if_rare(np.array([True] * 6 + [False] * 94))) == 0
