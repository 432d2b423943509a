"""A loaded transformer marks the codes that it samples, and the mark is found in saved images."""

from pathlib import Path

import numpy as np
import pytest

import danqing
from danqing.errors import ConfigError
from danqing.evaluation.generated_images import generate_images
from danqing.images import Images
from danqing.model.model import Model
from danqing.trust.verify import Outcome, Provenance, Verdict, verify
from tests.families.test_transformer import SIDE, build, lively

LABELS = ("square", "bar")


@pytest.fixture(autouse=True)
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "trust"))
    return tmp_path / "trust"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = Model(lively(build(labels=LABELS)))
    return model.save(tmp_path / "model", Images(np.zeros((1, SIDE, SIDE, 1), np.uint8)))


def outcome(found: Provenance) -> Outcome:
    (check,) = (check for check in found.checks if check.name == "codes")
    return check.outcome


def test_marked_images_are_verified_from_their_pixels_alone(folder: Path, tmp_path: Path) -> None:
    model = danqing.load(folder, marks="eu,codes=on,credentials=off,registry=off")
    images = model.sample(4, seed=3)
    assert np.array_equal(images.array, model.sample(4, seed=3).array)
    path = Images(images.array).save_each(tmp_path / "stripped")[0]  # files without any other mark
    found = verify(path, model=model)
    assert outcome(found) is Outcome.PASSED
    assert found.verdict is Verdict.OURS
    plain = danqing.load(folder, marks="none").sample(4, seed=3)
    assert not np.array_equal(plain.array, images.array)
    assert outcome(verify(plain.save_each(tmp_path / "plain")[0], model=model)) is Outcome.ABSENT
    assert [check.name for check in verify(path).checks if check.name == "codes"] == []
    doubled = images.array[0].repeat(2, 0).repeat(2, 1)
    assert model.detect_mark([images.array[0]])[0].p_value < 1e-4
    assert model.detect_mark([doubled])[0].count == SIDE * SIDE


def test_measuring_and_training_see_images_without_marks(folder: Path) -> None:
    plain, marked = danqing.load(folder, marks="none"), danqing.load(folder, marks="eu,codes=on")
    measured = [generate_images(model, 4, seed=1) for model in (plain, marked)]
    rows = np.arange(4)
    assert np.array_equal(*(np.asarray(images.images(rows)) for images in measured))
    assert np.array_equal(marked.unmarked().sample(2).array, plain.sample(2).array)
    assert marked.unmarked().sample(2).marks is None
    fresh = Model(lively(build(labels=LABELS)))
    fresh.marks = "eu,codes=on"
    assert fresh.codes_mark() is None  # a model in training


def test_codes_are_marked_on_request_alone_and_no_key_is_created(folder: Path, trust: Path) -> None:
    for marks in ("none", "eu", "eu,watermark=off"):
        assert danqing.load(folder, marks=marks).codes_mark() is None
    assert not trust.exists()
    model = danqing.load(folder, marks="eu,codes=on")
    with pytest.raises(ConfigError, match="no key"):
        model.detect_mark([np.zeros((SIDE, SIDE, 1), np.uint8)])
    assert model.codes_mark() is not None
    model.marks = "none"
    assert model.codes_mark() is None


def test_the_mark_is_not_an_option_of_sampling(folder: Path) -> None:
    model = danqing.load(folder, marks="eu,codes=on")
    assert "mark" not in model.sample_options
    with pytest.raises(ConfigError, match="mark"):
        model.sample(mark=None)
