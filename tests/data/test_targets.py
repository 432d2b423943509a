"""Label sets, boxes and masks: the same targets from every format, which stay with their images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from danqing.data import Augment, Batches, Dataset, cache_build, open_dataset
from danqing.data.masks import UNKNOWN, classes_of, components
from danqing.data.targets import IGNORED
from danqing.errors import ConfigError, DataError

from .pictures import png
from .test_layout import add_up

WIDTH, HEIGHT, COUNT = 24, 16, 4
Scene = list[tuple[str, int, int, int, int]]


def scene(number: int) -> Scene:
    """The objects of an image: a class, and left, top, right, bottom."""
    return [("cat", 2 + number, 3, 8 + number, 9), ("dog", 12 + number, 6, 20, 14)]


def drawn(number: int) -> np.ndarray:
    """The mask of an image: 0 the ground, 1 a cat, 2 a dog."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, (_, left, top, right, bottom) in enumerate(scene(number), start=1):
        mask[top:bottom, left:right] = value
    return mask


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def images(folder: Path) -> None:
    """An image for each mask, whose grey levels are its classes times 100."""
    for number in range(COUNT):
        save(drawn(number) * 100, folder / f"{number}.png")


def coco(folder: Path) -> str:
    images(folder / "pictures")
    found = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(COUNT)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": n, "category_id": {"cat": 3, "dog": 7}[name], "bbox": [a, b, c - a, d - b]}
            for n in range(COUNT)
            for name, a, b, c, d in scene(n)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(found))
    return "coco"


def yolo(folder: Path) -> str:
    images(folder / "images")
    (folder / "labels").mkdir()
    for n in range(COUNT):
        lines = [
            f"{['cat', 'dog'].index(name)} {(a + c) / 2 / WIDTH} {(b + d) / 2 / HEIGHT} {(c - a) / WIDTH} "
            f"{(d - b) / HEIGHT}"
            for name, a, b, c, d in scene(n)
        ]
        (folder / "labels" / f"{n}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("path: .\nnames:\n  0: cat\n  1: 'dog'  # a dog\nnc: 2\n")
    return "yolo"


def column(folder: Path) -> str:
    images(folder)
    for n in range(COUNT):
        cell = {
            "bbox": [[a, b, c - a, d - b] for _, a, b, c, d in scene(n)],
            "category": [name for name, *_ in scene(n)],
        }
        with open(folder / "metadata.jsonl", "a") as file:
            file.write(json.dumps({"file_name": f"{n}.png", "objects": cell}) + "\n")
    return "objects"


def parquet(folder: Path) -> str:
    buffers, objects = [], []
    for n in range(COUNT):
        path = folder / "one.png"
        save(drawn(n) * 100, path)
        buffers.append(path.read_bytes())
        path.unlink()
        objects.append(
            {
                "bbox": [[float(v) for v in (a, b, c - a, d - b)] for _, a, b, c, d in scene(n)],
                "category": [["cat", "dog"].index(name) for name, *_ in scene(n)],
            }
        )
    kind = {"bbox": {"feature": {"dtype": "float32"}}, "category": {"feature": {"names": ["cat", "dog"]}}}
    told = {"huggingface": json.dumps({"info": {"features": {"objects": kind}}})}
    table = pa.table({"image": buffers, "objects": objects}).replace_schema_metadata(told)
    pq.write_table(table, folder / "train.parquet")
    return "auto"


def of_masks(folder: Path) -> str:
    images(folder / "images")
    for n in range(COUNT):
        save(drawn(n), folder / "masks" / f"{n}.png")
    (folder / "classes.txt").write_text("ground\ncat\ndog\n")
    return "masks"


def as_scenes(dataset: Dataset) -> list[Scene]:
    targets = dataset.targets_at(range(len(dataset)))
    assert targets.boxes is not None
    assert targets.box_labels is not None
    names = dataset.target_classes.boxes
    return [
        sorted((names[k], *map(round, box)) for box, k in zip(own, labels, strict=True) if k >= 0)
        for own, labels in zip(targets.boxes.tolist(), targets.box_labels.tolist(), strict=True)
    ]


@pytest.mark.parametrize("write", [coco, yolo, column, parquet, of_masks])
@pytest.mark.parametrize("auto", [False, True])
def test_every_format_of_boxes_gives_the_same_boxes(
    write: Callable[[Path], str], auto: bool, tmp_path: Path
) -> None:
    boxes = write(tmp_path)
    masks = "auto" if write is of_masks else ""
    dataset = open_dataset(tmp_path, boxes="auto" if auto else boxes, masks=masks)
    assert as_scenes(dataset) == [sorted(scene(n)) for n in range(COUNT)]
    report = dataset.info.report
    assert report.understood["Boxes"].startswith("8 of 2 classes in 4 images, from ")
    assert add_up(report)
    assert not dataset.label_names
    assert open_dataset(tmp_path).fingerprint != dataset.fingerprint
    assert dataset.subset([3, 1]).targets_at([1]).boxes is not None


def two_folders(folder: Path, mask: Callable[[np.ndarray], Image.Image]) -> str:
    images(folder / "train" / "photos")
    for n in range(COUNT):
        path = folder / "train" / "truth" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        mask(drawn(n)).save(path)
    return "photos:truth"


def beside(folder: Path, mask: Callable[[np.ndarray], Image.Image]) -> str:
    images(folder)
    for n in range(COUNT):
        mask(drawn(n)).save(folder / f"{n}_mask.png")
    return "_mask"


def in_a_column(folder: Path, mask: Callable[[np.ndarray], Image.Image]) -> str:
    images(folder)
    (folder / "other").mkdir()
    lines = ["file_name,mask"]
    for n in range(COUNT):
        mask(drawn(n)).save(folder / "other" / f"m{n}.png")
        lines.append(f"{n}.png,other/m{n}.png")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return "mask"


def palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values).convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.frombytes(values.tobytes())
    return image


MASKS: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "grey": Image.fromarray,
    "palette": palette,
    "16 bits": lambda values: Image.fromarray(values.astype(np.uint16)),
    "half the size": lambda values: Image.fromarray(values).resize((WIDTH * 2, HEIGHT * 2), 0),
    "colours": lambda values: Image.fromarray(
        np.array([(0, 0, 0), (0, 0, 200), (200, 0, 0)], np.uint8)[values]
    ),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("write", [two_folders, beside, in_a_column])
def test_every_layout_and_kind_of_masks_gives_the_same_masks(
    write: Callable[[Path, Callable[[np.ndarray], Image.Image]], str], kind: str, tmp_path: Path
) -> None:
    masks = write(tmp_path, MASKS[kind])
    dataset = open_dataset(tmp_path, masks=masks)
    expected = np.stack([drawn(n) for n in range(COUNT)])
    found = dataset.targets_at(range(COUNT)).mask
    assert found is not None
    assert np.array_equal(found.numpy(), expected)
    assert np.array_equal(dataset.images(range(COUNT))[..., 0].numpy(), expected * 100)
    names = ("#000000", "#0000c8", "#c80000") if kind == "colours" else ("0", "1", "2")
    assert dataset.target_classes.mask == names
    shares = [float((expected == k).mean()) for k in range(3)]
    assert dataset.target_classes.mask_shares == pytest.approx(shares)
    assert len(dataset) == COUNT
    assert add_up(dataset.info.report)


def test_values_of_masks_become_classes() -> None:
    assert classes_of([0, 255]).of_value == {0: 0, 255: 1}
    assert classes_of([255, 0, 3]).of_value == {0: 0, 3: 1, 255: IGNORED}
    assert classes_of([65535, 0, 3]).of_value == {0: 0, 3: 1, 65535: IGNORED}
    assert classes_of([0, 2], ["a", "b", "c"]).names == ("a", "b", "c")
    assert classes_of([UNKNOWN, 1, 2]).of_value == {1: 0, 2: 1}
    with pytest.raises(DataError, match="more than 255 different values"):
        classes_of(range(300))


def test_components_agree_with_an_independent_labelling() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    values = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.int32)
    expected = set()
    for value in (1, 2):
        labels, _ = ndimage.label(values == value, np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(labels):
            expected.add((value, (columns.start, rows.start, columns.stop, rows.stop)))
    assert {tuple(each) for each in components(values)} == expected


def test_each_value_may_be_one_object(tmp_path: Path) -> None:
    for n in range(COUNT):
        save(drawn(n) * 100, tmp_path / "images" / f"{n}.png")
        save(drawn(n).astype(np.uint16) * 1000, tmp_path / "masks" / f"{n}.png")
    dataset = open_dataset(tmp_path, masks="auto", boxes="instances")
    wanted = [sorted(("object", *box) for _, *box in scene(n)) for n in range(COUNT)]
    assert as_scenes(dataset) == wanted
    assert dataset.targets_at([0]).mask is None


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(16, 16), (32, 12), (12, 8)])
def test_masks_and_boxes_reach_a_size_with_their_images(
    fit: str, size: tuple[int, int], tmp_path: Path
) -> None:
    coco(tmp_path)
    for n in range(COUNT):
        save(drawn(n), tmp_path / "masks" / f"{n}.png")
    dataset = open_dataset(
        tmp_path,
        masks="pictures:masks",
        boxes="coco",
        size=size,
        fit=fit,
        background="black",  # type: ignore[arg-type]
    )
    targets = dataset.targets_at(range(COUNT))
    assert targets.mask is not None
    grey = dataset.images(range(COUNT))[..., 0].numpy() / 100
    mask = targets.mask.numpy()
    known = mask != IGNORED
    assert (known.all()) == (fit != "pad" or size == (12, 8))
    assert (np.abs(grey - mask)[known] < 0.6).mean() > 0.9  # edges are antialiased in the image alone
    for row, labels, own in zip(mask, targets.box_labels.tolist(), targets.boxes.tolist(), strict=True):  # type: ignore[union-attr]
        for label, (left, top, right, bottom) in zip(labels, own, strict=True):
            rows, columns = np.nonzero(
                row == 1 + dataset.target_classes.boxes.index("dog") * 0 + (label == 1)
            )
            extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.subtract(extent, (left, top, right, bottom))).max() <= 1


CHANGES = [Augment(flip=True), Augment(crop=0.2), Augment(flip=0.7, rotation=20, scale=0.3, crop=0.1)]


@pytest.mark.parametrize("augment", CHANGES)
def test_masks_and_boxes_move_with_their_images(augment: Augment, tmp_path: Path) -> None:
    of_masks(tmp_path)
    dataset = open_dataset(tmp_path, masks="auto", boxes="masks", size=(WIDTH * 4, HEIGHT * 4))
    batch = Batches(dataset, 32, seed=1, augment=augment).at(64)
    targets = batch.targets
    assert targets is not None
    assert targets.mask is not None
    levels = ((batch.images[:, 0] + 1) * 127.5 / 100).round()
    assert (levels == targets.mask).float().mean() > 0.95
    assert targets.boxes is not None
    assert targets.box_labels is not None
    assert (targets.box_labels >= 0).any()
    for mask, boxes, labels in zip(targets.mask, targets.boxes, targets.box_labels, strict=True):
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            if label < 0:
                assert box == [0, 0, 0, 0]
                continue
            left, top, right, bottom = box
            rows, columns = torch.nonzero(mask == label + 1, as_tuple=True)
            if not augment.crop:  # otherwise the border is mirrored, and objects may appear twice
                assert columns.min() >= left - 1
                assert columns.max() <= right
                assert rows.min() >= top - 1
                assert rows.max() <= bottom
            inside = mask[int(top + 0.5) : int(bottom + 0.5), int(left + 0.5) : int(right + 0.5)]
            assert (inside == label + 1).float().mean() > (0.95 if not augment.rotation else 0.3)


def test_volumes_and_images_of_16_bits_keep_their_masks(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.arange(6 * 7 * 5, dtype=np.int16).reshape(6, 7, 5) * 40
    for folder, content in (("scans", values), ("masks", (values > 4000).astype(np.int16))):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), tmp_path / folder / "one.nii.gz")
    dataset = open_dataset(tmp_path, masks="scans:masks", size=(6, 7), range=(0, 8400))
    assert (len(dataset), dataset.depth, dataset.channels) == (5, 16, 1)
    batch = Batches(dataset, 5, seed=0, augment=Augment(flip=0.5, crop=0.3)).at(5)
    assert batch.targets is not None
    assert batch.targets.mask is not None
    levels = (batch.images[:, 0] + 1) / 2 * 8400
    assert torch.equal(levels > 4020, batch.targets.mask == 1)


def test_several_labels_of_an_image_come_from_lists_texts_and_rows(tmp_path: Path) -> None:
    wanted = [{"cat", "dog"}, {"cat"}, set(), {"bird", "dog"}]
    for n in range(COUNT):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    rows = [
        '{"file_name": "0.png", "tags": ["cat", "dog"]}',
        '{"file_name": "1.png", "tags": "cat"}',
        '{"file_name": "2.png", "tags": []}',
        '{"file_name": "3.png", "tags": "dog;bird"}',
        '{"file_name": "3.png", "tags": "dog"}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    dataset = open_dataset(tmp_path, label_sets="Tags")
    names = dataset.target_classes.label_set
    assert names == ("bird", "cat", "dog")
    found = dataset.targets_at(range(COUNT)).label_set
    assert found is not None
    assert found.dtype == torch.float32
    assert [{names[k] for k, on in enumerate(row) if on} for row in found.tolist()] == wanted
    assert "1 images have none of the labels in their set." in dataset.info.report.notes


def test_several_labels_in_parquet_have_the_names_of_the_hub(tmp_path: Path) -> None:
    told = {"huggingface": json.dumps({"info": {"features": {"tags": {"feature": {"names": ["a", "b"]}}}}})}
    table = pa.table({"image": [png(n) for n in range(3)], "tags": [[1], [0, 1], []]})
    pq.write_table(table.replace_schema_metadata(told), tmp_path / "train.parquet")
    dataset = open_dataset(tmp_path, label_sets="tags")
    assert dataset.target_classes.label_set == ("a", "b")
    found = dataset.targets_at(range(3)).label_set
    assert found is not None
    assert found.tolist() == [[0, 1], [1, 1], [0, 0]]


def test_a_validation_split_numbers_classes_as_the_training_split_does(tmp_path: Path) -> None:
    from danqing.data.splits import open_alike

    values = {"train": [0, 4, 9], "val": [4, 9, 12]}
    for split, classes in values.items():
        for n in range(COUNT):
            save(drawn(n), tmp_path / "images" / split / f"{n}.png")
            save(np.array(classes, np.uint8)[drawn(n)], tmp_path / "masks" / split / f"{n}.png")
    options = {"masks": "auto"}
    training = open_dataset(tmp_path, **options)  # type: ignore[arg-type]
    validation = open_alike(training, tmp_path, "validation", **options)
    assert validation is not None
    assert validation.target_classes.mask == ("0", "4", "9")
    mask = validation.targets_at([0]).mask
    assert mask is not None
    expected = np.array([1, 2, IGNORED], np.uint8)[drawn(0)]
    assert np.array_equal(mask[0].numpy(), expected)
    assert "The classes 12 of" in validation.info.report.notes[-1]


def test_what_lacks_targets_or_contradicts_its_image_is_counted(tmp_path: Path) -> None:
    of_masks(tmp_path)
    for n in range(COUNT, 60):
        save(drawn(0), tmp_path / "images" / f"{n}.png")
        save(drawn(0), tmp_path / "masks" / f"{n}.png")
    (tmp_path / "masks" / "1.png").unlink()
    (tmp_path / "images" / "2.png").unlink()
    save(np.zeros((9, 40), np.uint8), tmp_path / "masks" / "3.png")
    dataset = open_dataset(tmp_path, masks="auto")
    report = dataset.info.report
    assert report.left_out == {"a mask without an image": 1, "without a mask in masks": 1}
    assert report.skipped_files[0].reason == (
        "Its mask cannot be used: The mask has 40x9 pixels and its image 24x16: both must have the same "
        "shape."
    )
    assert add_up(report)
    assert len(dataset) == 57


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"masks": "auto"}, DataError, "No masks were found: looked for two folders"),
        ({"boxes": "auto"}, DataError, "No boxes were found"),
        ({"boxes": "yolo"}, DataError, "has no boxes: looked for text files of boxes"),
        ({"boxes": "masks"}, ConfigError, "declare the masks too"),
        ({"masks": "_m", "pairs": "A:B"}, ConfigError, "leave pairs out"),
        ({"label_sets": "tags"}, DataError, "No image has a label in its set"),
    ],
)
def test_declared_targets_that_do_not_exist_are_named(
    options: dict[str, str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    images(tmp_path)
    with pytest.raises(error, match=message):
        open_dataset(tmp_path, **options)  # type: ignore[arg-type]


def test_a_build_that_was_stopped_continues_with_its_targets(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_masks(tmp_path)
    for n in range(COUNT, 150):
        save(drawn(n % COUNT), tmp_path / "images" / f"{n}.png")
        save(drawn(n % COUNT) * (1 + n % 2), tmp_path / "masks" / f"{n}.png")
    (tmp_path / "classes.txt").unlink()
    options = {"masks": "auto", "boxes": "masks"}
    whole = open_dataset(tmp_path, cache_dir=cache_folder / "whole", **options)  # type: ignore[arg-type]
    monkeypatch.setattr(cache_build, "_COMMIT_IMAGES", 64)

    def stop(done: int, total: int | None, what: str) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            open_dataset(tmp_path, on_progress=stop, **options)  # type: ignore[arg-type]
    parts = open_dataset(tmp_path, **options)  # type: ignore[arg-type]
    assert parts.fingerprint == whole.fingerprint
    assert parts.target_classes.mask == ("0", "1", "2", "4")
    masks = [dataset.targets_at(range(150)).mask for dataset in (whole, parts)]
    assert torch.equal(masks[0], masks[1])  # type: ignore[arg-type]
