"""`predict`: files, folders, zips and arrays, as tables and JSON, with calibrated probabilities."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing import families
from danqing.cli import main
from danqing.errors import ConfigError, DataError, ModelError
from danqing.model.recognizer import Recognizer
from danqing.recognition.predict import predict


@pytest.fixture
def recognizer() -> Recognizer:
    """A classifier that says which third of an image is brightest, of grey images of 6x6."""
    config = {"family": "classifier", "features": 8, "blocks": 0, "width": 6, "height": 6, "channels": 1}
    torch.manual_seed(0)
    learner = families.build_learner(families.parse_config({**config, "labels": ["left", "right", "up"]}))
    return Recognizer(learner, {"temperature": 0.5, "data": {"prepared": {"fit": "stretch"}}})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(9, 12), (6, 6), (30, 20)], 1):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_probabilities_are_the_softmax_of_logits_over_the_temperature(recognizer: Recognizer) -> None:
    images = dq.Images(np.random.default_rng(1).integers(0, 256, (70, 6, 6, 1), dtype=np.uint8))
    expected = (recognizer.logits(images) / 0.5).softmax(1)
    found = predict(recognizer, images, top=3)
    assert [item.name for item in found] == [str(number) for number in range(70)]
    assert found.is_calibrated
    for item, row in zip(found, expected.tolist(), strict=True):
        by_name = dict(zip(recognizer.classes, row, strict=True))
        chances = [each.probability for each in item.labels]
        assert chances == pytest.approx(sorted(row, reverse=True))
        assert chances == pytest.approx([by_name[each.name] for each in item.labels])


def test_files_of_any_size_in_folders_and_zips_are_read_as_in_training(
    recognizer: Recognizer, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in sorted(pictures.glob("?.png")):
            archive.write(path, path.name)
    whole = predict(recognizer, pictures, top=2)
    assert list(whole.failed) == ["broken.png"]
    names = ["1.png", "2.png", "3.png"]
    assert [item.name for item in whole] == names
    assert predict(recognizer, tmp_path / "pictures.zip", top=2).items == whole.items
    assert predict(recognizer, str(pictures / "[123].png"), top=2).items == whole.items
    single = predict(recognizer, [pictures / "3.png"], top=2)
    in_memory = predict(recognizer, np.asarray(Image.open(pictures / "3.png"))[None], top=2)
    for item in (single[0], in_memory[0]):
        for one, other in zip(item.labels, whole[2].labels, strict=True):
            assert one.name == other.name
            assert one.probability == pytest.approx(other.probability, abs=1e-6)
    rows = list(csv.reader(io.StringIO(whole.to_csv())))
    assert rows[0] == ["name", "label", "probability", "label_2", "probability_2"]
    assert [row[0] for row in rows[1:]] == names
    assert float(rows[1][2]) == pytest.approx(whole[0].labels[0].probability, abs=1e-6)
    saved = json.loads(whole.save(tmp_path / "all.json").read_text())
    assert saved["predictions"][0]["labels"][0]["label"] == rows[1][1]
    assert saved["failed"] == dict(whole.failed)


def test_an_image_with_several_labels_has_all_that_are_likely_enough() -> None:
    torch.manual_seed(0)
    config = {"family": "classifier", "features": 8, "width": 6, "height": 6, "label_set": ["a", "b", "c"]}
    recognizer = Recognizer(families.build_learner(families.parse_config(config)))
    images = torch.randn(9, 3, 6, 6)
    chances = recognizer.logits(images).sigmoid()
    found = predict(recognizer, images, threshold=0.5)
    assert not found.is_calibrated
    for item, row in zip(found, chances, strict=True):
        likely = {name for name, chance in zip("abc", row.tolist(), strict=True) if chance >= 0.5}
        assert {each.name for each in item.labels} == likely


def test_what_cannot_be_recognized_is_said(recognizer: Recognizer, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shape \[n, 1, 6, 6\]"):
        predict(recognizer, torch.zeros(1, 3, 6, 6))
    with pytest.raises(ConfigError, match="is not images"):
        recognizer.inputs(np.zeros((2, 6, 6), np.uint8))
    assert len(predict(recognizer, np.zeros((0, 6, 6, 1), np.uint8))) == 0
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="None of the 1 files"):
        predict(recognizer, tmp_path / "bad.png")
    with pytest.raises(ConfigError, match=r"\.csv or \.json"):
        predict(recognizer, pictures).save(tmp_path / "all.txt")
    with pytest.raises(ModelError, match="cannot segment images"):
        recognizer.masks(torch.zeros(1, 1, 6, 6))
    shape = {"width": 6, "height": 6, "channels": 1}
    embedder = Recognizer(families.build_learner(families.parse_config({"family": "embedder", **shape})))
    with pytest.raises(ConfigError, match="turns images into vectors and says nothing else"):
        predict(embedder, pictures)
    with pytest.raises(ModelError, match="An embedder cannot segment images"):
        embedder.masks(torch.zeros(1, 1, 6, 6))
    with pytest.raises(ModelError, match="samples images and does not recognize them: train a model"):
        dq.load_recognizer("demo")


def test_the_command_writes_a_table(
    recognizer: Recognizer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recognizer.save(tmp_path / "model")
    out = tmp_path / "answers.csv"
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tmp_path / "model"), str(pictures), "--out", str(out), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3
    assert out.read_text().splitlines()[0] == "name,label,probability"
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "model"), str(pictures / "1.png"), "--top", "2"])
    shown = capsys.readouterr().out
    first = predict(recognizer, pictures / "1.png")[0].labels[0]
    assert f"1.png  {first.name} {first.probability:.1%}" in shown


def test_options_that_masks_do_not_use_are_rejected(
    recognizer: Recognizer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recognizer.save(tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        main(
            ["predict", str(tmp_path / "model"), str(pictures), "--masks", str(tmp_path / "m"), "--top", "2"]
        )
    assert ended.value.code == 2
    assert "leave --top" in capsys.readouterr().err.replace("\n", " ")


def test_options_that_change_nothing_are_rejected(recognizer: Recognizer, pictures: Path) -> None:
    unused: list[dict[str, Any]] = [{"threshold": 0.9}, {"scale": "own"}]
    for options in unused:
        with pytest.raises(ConfigError, match="leave it out"):
            predict(recognizer, pictures, **options)
