"""Masks of large images, of files and in tiles: the same as in one piece, at each image's own size."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.cli import main
from danqing.data.builtin import cells
from danqing.errors import ConfigError, DataError
from danqing.evaluation.mask_overlays import class_colours, overlaid
from danqing.images import encode, to_float
from danqing.learners.segmenter import Segmenter, SegmenterConfig
from danqing.model.recognizer import Recognizer
from danqing.randomness import generator
from danqing.recognition.mask_files import write_masks
from danqing.recognition.segment import segment


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    """A small network with random weights, whose masks have all classes."""
    torch.manual_seed(0)
    config = SegmenterConfig(
        width=24, height=24, widths=(8, 12), decoder_widths=(8,), mask_classes=cells.CLASSES
    )
    learner = Segmenter(config)
    with torch.no_grad():
        learner.network.last.weight.normal_(generator=generator(0, "last"))
        logits = learner.mask_logits(to_float(torch.from_numpy(picture(64, 64))[None]))
        assert learner.network.last.bias is not None
        learner.network.last.bias -= logits.mean((0, 2, 3))
    return Recognizer(learner)


def picture(width: int, height: int) -> np.ndarray:
    return cells.drawn("cells", (width, height)).pixels


def test_tiles_give_the_same_mask_as_one_piece(recognizer: Recognizer) -> None:
    pixels = picture(301, 203)
    learner = recognizer.learner
    assert isinstance(learner, Segmenter)
    with torch.no_grad():
        logits = learner.mask_logits(to_float(torch.from_numpy(pixels)[None]))
    whole = logits[0].argmax(0).numpy()
    tile = 8 * learner.receptive_radius
    assert tile < 203
    tiled = segment(recognizer, pixels, scale="own", tile=tile)
    assert len(np.unique(whole)) == 4
    np.testing.assert_array_equal(tiled, whole)


def test_an_image_of_another_size_is_seen_at_the_scale_of_training(recognizer: Recognizer) -> None:
    small, large = picture(24, 36), picture(24, 36).repeat(4, 0).repeat(4, 1)
    one, other = segment(recognizer, small), segment(recognizer, large)
    assert other.shape == (144, 96)
    assert (other[2::4, 2::4] == one).mean() > 0.75
    as_it_is = segment(recognizer, large, scale="own")[2::4, 2::4]
    assert (as_it_is == one).mean() < 0.5


def test_deep_and_grey_images_have_masks_too(recognizer: Recognizer) -> None:
    pixels = picture(24, 24)
    deep = pixels.astype(np.uint16) * 257
    np.testing.assert_array_equal(segment(recognizer, deep), segment(recognizer, pixels))
    assert segment(recognizer, pixels[:, :, :1]).shape == (24, 24)


def test_files_become_masks_with_a_palette_overlays_and_tables(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    (source / "a.png").write_bytes(encode(picture(50, 30)))
    (source / "a.jpg").write_bytes(encode(picture(24, 24), "jpeg"))
    (source / "sub" / "b.png").write_bytes(encode(picture(24, 24)))
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    found = write_masks(recognizer, source, out)
    assert [item.name for item in found] == ["a.jpg", "a.png", "sub/b.png"]
    assert list(found.failed) == ["broken.png"]
    written = sorted(path.relative_to(out / "masks").as_posix() for path in (out / "masks").rglob("*.png"))
    assert written == ["a.jpg.png", "a.png.png", "sub/b.png"]
    image = Image.open(io.BytesIO((out / "masks/a.png.png").read_bytes()))
    assert image.mode == "P"
    mask = np.asarray(image)
    np.testing.assert_array_equal(mask, segment(recognizer, picture(50, 30)))
    assert np.asarray(image.convert("RGB"))[0, 0].tolist() == class_colours(4)[mask[0, 0]].tolist()
    shown = np.asarray(Image.open(out / "overlays/a.png.png"))
    np.testing.assert_array_equal(shown, overlaid(picture(50, 30), mask))
    assert [each["name"] for each in json.loads((out / "classes.json").read_text())] == list(cells.CLASSES)
    assert (out / "predictions.csv").read_text().startswith("name,background,cell,nucleus,debris\n")
    for item in found:
        assert sum(item.shares.values()) == pytest.approx(1)
        assert item.mask is None


def test_predict_returns_masks_of_files_and_of_arrays(recognizer: Recognizer, tmp_path: Path) -> None:
    pixels = picture(50, 30)
    (tmp_path / "a.png").write_bytes(encode(pixels))
    expected = segment(recognizer, pixels)
    of_file, of_array = dq.predict(recognizer, tmp_path / "a.png"), dq.predict(recognizer, pixels[None])
    np.testing.assert_array_equal(of_file[0].mask, expected)
    np.testing.assert_array_equal(of_array[0].mask, expected)
    assert of_file[0].shares == of_array[0].shares
    assert of_file.plain()["predictions"][0]["shares"].keys() == set(cells.CLASSES)
    floats = to_float(torch.from_numpy(pixels)[None])
    np.testing.assert_array_equal(dq.predict(recognizer, floats)[0].mask, expected)


def test_files_that_cannot_be_read_are_an_error_if_there_are_no_others(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(DataError, match=r"None of the 1 files can be read; of broken\.png"):
        write_masks(recognizer, tmp_path, tmp_path / "out")


def test_a_model_that_does_not_segment_says_so() -> None:
    from danqing.learners.classifier import Classifier, ClassifierConfig

    classifier = Classifier(ClassifierConfig(width=16, height=16, labels=("a", "b"), features=8))
    with pytest.raises(ConfigError, match="A classifier cannot segment images: use a segmenter"):
        segment(Recognizer(classifier), picture(24, 24))


def test_the_command_writes_masks_and_prints_shares(
    recognizer: Recognizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, source = recognizer.save(tmp_path / "model"), tmp_path / "a.png"
    source.write_bytes(encode(picture(50, 30)))
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(model), str(source), "--masks", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["images"] == 1
    assert (tmp_path / "out" / "masks" / "a.png").is_file()
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(model), str(source)])
    most = max(write_masks(recognizer, source, tmp_path / "again")[0].shares.items(), key=lambda one: one[1])
    assert f"{most[0]} {most[1]:.1%}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(model), str(source), "--scale", "half"])
    assert "There is no scale 'half': choose model or own." in capsys.readouterr().err
