"""Faces in images: how many are found, and how many that are none."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from danqing.data.faces import FaceDetector, find_faces
from danqing.data.originals import Original, Originals
from danqing.errors import DataError

_LFW = np.load(Path(skimage.data.__file__).parent / "lfw_subset.npy")
"""100 cropped faces of Labeled Faces in the Wild, then 100 other crops, 25x25 floats in [0, 1]."""


def crop(number: int) -> np.ndarray:
    return (_LFW[number] * 255).astype(np.uint8)[:, :, np.newaxis]


def test_faces_are_found_and_other_images_are_not_taken_for_them() -> None:
    images = [Original(str(number), crop(number)) for number in range(0, 200, 4)]
    found = find_faces([*images, Original("broken", None, "damaged")], named=200)
    assert found.images == 50
    hits = [int(name) for name in found.names]
    assert sum(number < 100 for number in hits) >= 23, "of 25"
    assert sum(number >= 100 for number in hits) == 0, "of 25"
    assert found.showing == len(hits)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_size_and_form_are_searched(channels: int) -> None:
    detector = FaceDetector()
    face = np.asarray(Image.fromarray(crop(0)[:, :, 0]).resize((200, 200)))[:, :, np.newaxis]
    pixels = np.repeat(face, channels, 2)
    if channels in (2, 4):
        pixels[:, :, -1] = 255
    assert detector.count(pixels) >= 1
    for height, width in ((1, 1), (1, 400), (400, 2), (3, 3), (24, 24)):
        assert detector.count(np.zeros((height, width, channels), np.uint8)) == 0


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danqing.data.faces.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"danqing\[faces\]"):
        FaceDetector()
    assert importlib.util.find_spec("skimage")


def test_built_in_sets_can_be_searched() -> None:
    assert find_faces(Originals("shapes", most=2)).images == 2
