"""Drawn scenes as a data set: images with the class of each pixel and boxes of their objects."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from danqing.data.boxes import Objects
from danqing.data.builtin.scene_canvas import Mask, Scene
from danqing.data.raw_targets import RawTargets
from danqing.data.records import About, ImageSpec, Natural, Record, digest
from danqing.data.survey import Survey
from danqing.errors import DataError, MissingSplitError
from danqing.images import Pixels

TRAINING_IMAGES, TEST_IMAGES = 4000, 500


class SceneKind(NamedTuple):
    """One kind of scenes.

    version: increases when a name gives another scene. classes: of the masks. objects: those of them that
    have boxes. draw: from a name and a (width, height) to a scene.
    """

    about: About
    version: int
    classes: tuple[str, ...]
    objects: tuple[str, ...]
    draw: Callable[[str, tuple[int, int]], Scene]


def open_scenes(kind: SceneKind, split: str, part: tuple[str, ...]) -> "SceneSource":
    """Open scenes of a kind.

    part: may set the number of training images.
    """
    name = kind.about.name
    if split not in ("train", "test", "all"):
        raise MissingSplitError(f"{name} has no {split} split: it has train and test.")
    text = "".join(part) or str(TRAINING_IMAGES)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 100_000_000:
        raise DataError(f"{name} takes a number of images, not {text!r}: write for example {name}:5000.")
    return SceneSource(kind, split, int(text))


class SceneSource:
    """Scenes drawn one by one, with their masks and boxes."""

    label_names: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    natural: Natural | None = Natural((64, 64), True, False)

    def __init__(self, kind: SceneKind, split: str, training_images: int) -> None:
        self.about, self.split, self._kind = kind.about, split, kind
        self._counts = {
            "train": 0 if split == "test" else training_images,
            "test": 0 if split == "train" else TEST_IMAGES,
        }

    def key(self) -> str:
        return digest(self.about.name, str(self._kind.version), str(self._counts), str(self._kind.classes))

    def count(self) -> int:
        return sum(self._counts.values())

    def survey(self) -> Survey:
        return Survey(class_names={"Masks": self._kind.classes, "Boxes": self._kind.objects})

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        size = spec.size or (64, 64)
        names = [
            f"{self.about.name}/{split}#{n}" for split, count in self._counts.items() for n in range(count)
        ]
        for name in names[start:]:
            scene = functools.cache(functools.partial(self._kind.draw, name, size))  # drawn once, if at all
            yield Record(
                name,
                functools.partial(_pixels, scene),
                targets=RawTargets(
                    mask=functools.partial(_mask, scene),
                    objects=functools.partial(_objects, scene, self._kind.classes),
                ),
            )


def _pixels(scene: Callable[[], Scene]) -> Pixels:
    return scene().pixels


def _mask(scene: Callable[[], Scene]) -> Mask:
    return scene().mask


def _objects(scene: Callable[[], Scene], classes: tuple[str, ...]) -> Objects:
    drawn = scene()
    names = [classes[label] for label in drawn.box_labels.tolist()]
    return Objects(names, [tuple(box) for box in drawn.boxes.tolist()])
