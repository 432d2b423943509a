"""Drawn scenes: exact masks and boxes, the same scene from the same name, at any size."""

from types import ModuleType

import numpy as np
import pytest

from danqing.data.builtin import cells, streets

KINDS = pytest.mark.parametrize("kind", [streets, cells])


@KINDS
def test_a_name_gives_the_same_scene_each_time_and_another_name_another(kind: ModuleType) -> None:
    one, again, other = (kind.drawn(name, (40, 24)) for name in ("a", "a", "b"))
    assert one.pixels.shape == (24, 40, 3)
    assert one.mask.shape == (24, 40)
    assert all(np.array_equal(x, y) for x, y in zip(one, again, strict=True))
    assert not np.array_equal(one.mask, other.mask)


@KINDS
def test_a_scene_has_the_same_objects_at_every_size(kind: ModuleType) -> None:
    """Points are compared where both have the middle of a pixel within half a pixel."""
    agreement = []
    for number in range(8):
        small, large = (kind.drawn(f"scene {number}", (side, side)) for side in (48, 96))
        agreement.append((small.mask == large.mask[::2, ::2]).mean())
    assert np.mean(agreement) > 0.93


@KINDS
def test_all_classes_occur_and_boxes_are_tight(kind: ModuleType) -> None:
    drawn = [kind.drawn(f"scene {number}", (48, 48)) for number in range(40)]
    assert set(np.unique([scene.mask for scene in drawn])) == set(range(len(kind.CLASSES)))
    boxes = 0
    for scene in drawn:
        for (left, top, right, bottom), label in zip(scene.boxes, scene.box_labels, strict=True):
            assert 0 <= left < right <= 48
            assert 0 <= top < bottom <= 48
            assert kind.CLASSES[label] in kind.OBJECTS
            inside = scene.mask[int(top) : int(bottom), int(left) : int(right)]
            own = np.isin(inside, [label, *([cells.NUCLEUS] if kind is cells else [])])
            for edge in (own[0], own[-1], own[:, 0], own[:, -1]):  # each side touches the object
                assert edge.any()
            boxes += 1
    assert boxes > 80


def test_classes_cannot_be_told_by_their_colours_alone() -> None:
    """Nearest mean colour is far from right, so that a segmenter has something to learn."""
    drawn = [streets.drawn(f"scene {number}", (32, 32)) for number in range(60)]
    pixels = np.concatenate([scene.pixels.reshape(-1, 3) for scene in drawn]).astype(float)
    mask = np.concatenate([scene.mask.ravel() for scene in drawn])
    means = np.stack([pixels[mask == number].mean(0) for number in range(len(streets.CLASSES))])
    said = ((pixels[:, None] - means) ** 2).sum(2).argmin(1)
    shares = [np.mean(said[mask == number] == number) for number in range(len(streets.CLASSES))]
    assert np.mean(shares) < 0.5
