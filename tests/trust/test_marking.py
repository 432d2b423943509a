"""The marks that files have, as independent readers see them."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from danqing.image_files import decode
from danqing.images import Images, encode
from danqing.trust import labels, xmp
from danqing.trust.declaration import Declaration, SourceType
from danqing.trust.marking import Marking, marking
from danqing.trust.settings import MarkSettings

pytestmark = pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")


@pytest.fixture(autouse=True)
def _own_trust_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "trust"))


def marks(text: str = "eu", **declared: Any) -> Marking:
    found = marking(MarkSettings.from_text(text), Declaration(**{"model": "cats", **declared}))
    assert found is not None
    return found


def noise(*shape: int, dtype: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def metadata(*files: Path) -> list[dict[str, str]]:
    command = ["exiftool", "-j", "-n", "-XMP:all", *map(str, files)]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found: list[dict[str, str]] = json.loads(told)
    return found


def test_exiftool_reads_both_labels_in_each_format_and_mode(tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4):
        images = Images(noise(1, 64, 64, channels), marks(model_digest="ab" * 32))
        for suffix in ("png", "jpg", "webp"):
            images.save(tmp_path / f"{channels}.{suffix}")
    for found in metadata(*tmp_path.glob("?.*")):
        assert found["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert found["AISystemUsed"] == "Danqing, model cats"
        assert found["AISystemVersionUsed"].endswith("weights abababababab")
        told = json.loads(found["Aigc"])
        assert (told["Label"], told["ContentProducer"]) == ("1", "Danqing")
        assert len(told["ProduceID"]) == 32
        assert "AIPromptInformation" not in found


def test_the_prompt_is_written_only_on_request(tmp_path: Path) -> None:
    for name, text in (("without", "eu"), ("with", "eu,prompt=on,producer=A & B")):
        Images(noise(1, 32, 32, 3), marks(text, prompt="a <red> 心")).save(tmp_path / f"{name}.png")
    without, with_prompt = metadata(tmp_path / "without.png", tmp_path / "with.png")
    assert with_prompt["AIPromptInformation"] == "a <red> 心"
    assert json.loads(with_prompt["Aigc"])["ContentProducer"] == "A & B"
    assert not any("red" in str(value) for value in without.values())


def test_statements_of_the_input_are_kept_and_so_is_its_producer() -> None:
    first = marks("eu,producer=First")
    packets: list[bytes] = []

    def write(pixels: NDArray[Any], packet: bytes) -> bytes:
        packets.append(packet)
        return encode(pixels)

    creator = "{http://purl.org/dc/elements/1.1/}source"
    first.write(noise(32, 32, 3), write, xmp=xmp.write({creator: "a camera"}))
    marks("eu", source=SourceType.PARTLY_GENERATED).write(noise(32, 32, 3), write, xmp=packets[0])
    before, after = map(xmp.properties_of, packets)
    assert after[creator] == ("a camera",)
    assert after[labels.SOURCE_TYPE][0].endswith("compositeWithTrainedAlgorithmicMedia")
    old, new = (labels.read_aigc(found[labels.AIGC][0]) for found in (before, after))
    assert (new["ContentProducer"], new["ProduceID"]) == ("First", old["ProduceID"])
    assert new["ContentPropagator"] == "Danqing"
    assert new["PropagateID"] not in ("", old["ProduceID"])
    suspected = xmp.write({labels.AIGC: '{"Label":"3","ContentProducer":"First"}'})
    marks().write(noise(32, 32, 3), write, xmp=suspected)
    label = labels.read_aigc(xmp.properties_of(packets[-1])[labels.AIGC][0])
    assert (label["Label"], label["ContentProducer"]) == ("1", "First")  # it is certain now


def test_damaged_statements_of_the_input_are_replaced_with_a_note() -> None:
    made = marks().write(noise(32, 32, 3), lambda pixels, packet: encode(pixels), xmp=b"<!DOCTYPE x []><x/>")
    assert any("document type" in note for note in made.notes)


def test_pixels_that_an_edit_keeps_stay_and_an_unchanged_image_has_no_marks(tmp_path: Path) -> None:
    pixels, where = noise(1, 128, 128, 4), np.zeros((1, 128, 128), bool)
    plain = encode(pixels[0])
    Images(pixels, marks("eu,cn"), where).save(tmp_path / "unchanged.png")
    assert (tmp_path / "unchanged.png").read_bytes() == plain
    where[:, 50:, 20:] = True
    Images(pixels, marks("eu,cn"), where).save_each(tmp_path / "some")
    after = decode((tmp_path / "some" / "0.png").read_bytes(), alpha="keep")
    assert (after == pixels[0])[~where[0]].all()
    assert (after != pixels[0]).any()


def test_grids_and_selections_keep_their_marks_but_pictures_in_a_notebook_have_none(tmp_path: Path) -> None:
    images = Images(noise(5, 32, 32, 3), marks())
    images[1:4].save(tmp_path / "grid.png")
    assert "Aigc" in metadata(tmp_path / "grid.png")[0]
    assert b"TC260" not in images._repr_png_()


def test_no_regime_means_no_marks() -> None:
    assert marking(MarkSettings.from_text("none"), Declaration()) is None
