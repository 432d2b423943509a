"""The detector: its geometry in closed form, and a run that learns to find objects in seconds."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing import families
from danqing.cli import main
from danqing.data.batch import Batch
from danqing.data.targets import Targets
from danqing.errors import ConfigError
from danqing.evaluation import scores
from danqing.learners.abilities import Classifies, Detects, Embeds
from danqing.learners.box_geometry import assign, overlaps, places, without_duplicates
from danqing.learners.detector import Detector
from danqing.training import trainer

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def test_overlaps_of_boxes_in_closed_form() -> None:
    one = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]])
    other = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 4, 4], [0, 0, 0, 0]])
    overlap, generalized = overlaps(one, other)
    assert overlap.tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert generalized.tolist() == pytest.approx([1, 1 / 3, -0.5, 0])


def test_places_learn_the_smallest_object_near_whose_centre_they_are() -> None:
    centres = places(4, 4, 4, torch.device("cpu"))  # 2, 6, 10, 14
    boxes = torch.tensor(
        [[[0.0, 0, 16, 16], [4, 4, 8, 8], [0, 0, 0, 0]], [[9, 1, 10.5, 3], [0] * 4, [0] * 4]]
    )
    is_box = torch.tensor([[True, True, False], [True, False, False]])
    chosen = assign(centres, boxes, is_box, radius=3)
    wanted = torch.zeros(2, 4, 4, dtype=torch.bool)
    wanted[0, 1:3, 1:3] = True  # of the large one, within 3 pixels of (8, 8)
    wanted[1, 0, 2] = True  # around (9.75, 2), though it lies outside of the box
    assert torch.equal(chosen.is_positive, wanted.view(2, 16))
    assert chosen.which[0].view(4, 4)[1, 1] == 1  # the small one covers this place
    assert chosen.which[0].view(4, 4)[2, 2] == 0
    none = assign(centres, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), 3)
    assert not none.is_positive.any()


def test_duplicates_of_one_class_are_removed() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [20, 0, 30, 10], [2, 0, 12, 10]])
    classes = torch.tensor([0, 0, 1, 0, 0])
    # The last one overlaps the first by 2/3 and the second, which is removed, by more.
    assert without_duplicates(boxes, classes, 0.6).tolist() == [0, 2, 3]
    assert without_duplicates(boxes, classes, 0.7).tolist() == [0, 2, 3, 4]
    assert without_duplicates(boxes[:0], classes[:0], 0.6).tolist() == []


def detector(**settings: object) -> Detector:
    config = {
        "family": "detector",
        "features": 16,
        "blocks": 0,
        "head_features": 16,
        "width": 32,
        "height": 24,
    }
    torch.manual_seed(0)
    learner = families.build_learner(
        families.parse_config({**config, "box_classes": ["blue", "red"], **settings})
    )
    assert isinstance(learner, Detector)
    return learner


@pytest.mark.parametrize(("stride", "coarsest"), [(2, 2), (4, 4), (8, 4)])
def test_a_detector_can_do_what_it_declares(stride: int, coarsest: int) -> None:
    learner = detector(stride=stride).eval()
    assert isinstance(learner, Detects)
    assert isinstance(learner, Embeds)
    assert not isinstance(learner, Classifies)
    assert learner.stride == coarsest
    images = torch.rand(2, 3, 24, 32) * 2 - 1
    found = learner.detect(images, threshold=0.0)
    assert len(found) == 2
    for boxes, classes, certain in found:
        assert len(boxes) == len(classes) == len(certain) <= 100
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= 32).all()
        assert (boxes[:, 3] <= 24).all()
        assert (certain.diff() <= 0).all()
    assert learner.detect(images, threshold=0.9)[0].boxes.shape == (0, 4)
    assert learner.embed(images).shape == (2, learner.embedding_size)


def test_padding_and_images_without_objects_change_no_loss() -> None:
    learner = detector()
    images = torch.rand(3, 3, 24, 32) * 2 - 1
    boxes = torch.tensor([[[2.0, 2, 12, 12]], [[5, 5, 20, 15]], [[0, 0, 0, 0]]])
    labels = torch.tensor([[0], [1], [-1]])
    padded = torch.cat([boxes, torch.zeros(3, 4, 4)], 1), torch.cat([labels, torch.full((3, 4), -1)], 1)
    (phase,) = learner.phases()
    losses = [
        learner.loss(Batch(images, targets=Targets(boxes=b, box_labels=k)), phase, torch.Generator()).total
        for b, k in ((boxes, labels), padded)
    ]
    assert torch.equal(losses[0], losses[1])
    nothing = Targets(boxes=torch.zeros(3, 0, 4), box_labels=torch.zeros(3, 0, dtype=torch.long))
    assert torch.isfinite(learner.loss(Batch(images, targets=nothing), phase, torch.Generator()).total)


def write_scenes(folder: Path, count: int) -> None:
    """Images of 32x24 with one to three rectangles, and their boxes in COCO's format."""
    rng = np.random.default_rng(0)
    listed, annotations = [], []
    for number in range(count):
        pixels = rng.integers(90, 160, (24, 32, 3), dtype=np.uint8)
        for place in rng.permutation(3)[: rng.integers(1, 4)].tolist():
            kind = int(rng.integers(0, 2))
            width, height = rng.integers(5, 10), rng.integers(6, 16)
            left, top = place * 11 + rng.integers(0, 11 - width), rng.integers(0, 24 - height)
            pixels[top : top + height, left : left + width] = list(COLOURS.values())[kind]
            box = [int(left), int(top), int(width), int(height)]
            annotations.append({"image_id": number, "category_id": kind, "bbox": box})
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        listed.append({"id": number, "file_name": f"{number:04d}.png", "width": 32, "height": 24})
    kinds = [{"id": number, "name": name} for number, name in enumerate(COLOURS)]
    found = {"images": listed, "annotations": annotations, "categories": kinds}
    (folder / "objects.json").write_text(json.dumps(found))


def test_a_run_finds_objects_and_predict_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    write_scenes(tmp_path / "scenes", 300)
    settings = {
        **{"model.features": 16, "model.head_features": 32, "model.blocks": 0, "batch_size": 32},
        **{"measure_seconds": 0.001, "precision": "float32", "learning_rate": 1e-2, "warmup_images": 500},
        **{"ema_half_life_images": 500, "sample_images": 4},
    }

    def train(out: str, images: int) -> dq.Run:
        return dq.train(
            tmp_path / "scenes",
            task="detect",
            size=(32, 24),
            images=images,
            settings=settings,
            out=tmp_path / out,
            listener=dq.Listener(),
        )

    run = train("run", 6400)
    measured = {score.metric: score for score in scores.read(run.model / "scores.json")}
    assert measured["map50"].value > 0.9
    assert measured["map"].headline
    assert measured["map"].interval is not None
    page = run.report.read_text(encoding="utf-8")
    assert "AP50" in page
    assert "Objects that were found" in page
    assert "object-detection" in (run.model / "README.md").read_text(encoding="utf-8")

    again = dq.evaluate(run, tmp_path / "scenes")
    assert again.headline.value == measured["map"].value

    # In an image of twice the size, boxes are in its own pixels.
    image = Image.new("RGB", (64, 48), (120, 120, 120))
    image.paste(COLOURS["red"], (8, 10, 24, 36))
    (tmp_path / "new").mkdir()
    image.save(tmp_path / "new" / "one.jpg", quality=95)
    (prediction,) = dq.predict(run, tmp_path / "new")
    assert prediction.objects is not None
    best = prediction.objects[0]
    assert best.name == "red"
    assert np.abs(np.subtract(best.box, (8, 10, 24, 36))).max() < 4
    table, drawn = tmp_path / "found.csv", tmp_path / "drawn"
    arguments = [
        "predict",
        str(run.folder),
        str(tmp_path / "new"),
        "--out",
        str(table),
        "--drawn",
        str(drawn),
    ]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert rows[0]["label"] == "red"
    assert float(rows[0]["left"]) == pytest.approx(best.box[0], abs=0.02)
    with Image.open(drawn / "one.jpg.png") as picture:
        assert picture.size == (256, 192)


def test_a_killed_run_with_augmented_boxes_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    write_scenes(tmp_path / "scenes", 60)
    settings = {
        **{"model.features": 8, "model.head_features": 8, "model.blocks": 0, "batch_size": 16},
        **{"measure_seconds": 0.001, "precision": "float32", "checkpoint_seconds": 1e-6, "sample_images": 4},
        "data.augment": "{flip = true, crop = 0.1, rotation = 5}",
    }

    def train(out: str) -> dq.Run:
        return dq.train(
            tmp_path / "scenes",
            task="detect",
            size=(32, 24),
            images=192,
            settings=settings,
            out=tmp_path / out,
            evaluate_every=0,
            listener=dq.Listener(),
        )

    whole = train("whole")
    step, steps = trainer.Trainer._step, iter(range(7))

    def dies(self: trainer.Trainer) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train("parts")
    parts = train("parts")
    one, other = (load_file(run.model / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_data_without_boxes_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="A detector needs images with boxes"):
        dq.train(
            "digits", task="detect", size=(16, 16), images=64, out=tmp_path / "run", listener=dq.Listener()
        )
