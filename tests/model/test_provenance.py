"""What the images of a model declare, and that marks change files and not pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing import families, weights
from danqing.errors import ConfigError
from danqing.images import Images
from danqing.model.model import Model
from danqing.trust.declaration import SourceType
from danqing.trust.marking import Marking
from danqing.trust.settings import Regime
from danqing.trust.verify import Verdict, verify


@pytest.fixture(scope="module")
def model() -> Model:
    config = families.parse_config(
        {"family": "vae", "width": 32, "height": 32, "channels": 3, "features": 8, "latents": 4}
    )
    torch.manual_seed(0)
    return Model(families.build(config), {"data": {"licence": "CC BY 4.0"}})


@pytest.fixture
def marked(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "trust"))
    folder = model.save(tmp_path / "runs" / "faces" / "model", Images(np.zeros((1, 32, 32, 3), np.uint8)))
    return danqing.load(folder, marks="eu")


def marks_of(images: Images) -> Marking:
    assert isinstance(images.marks, Marking)
    return images.marks


def test_all_images_of_a_model_carry_marks(marked: Model) -> None:
    images = marked.sample(2, seed=1)
    made = {
        "sample": images,
        "decode": marked.decode(marked.encode(images)),
        "reconstruct": marked.reconstruct(images),
        "interpolate": marked.interpolate(images[:1], images[1:]),
        "traverse": marked.traverse(images, 0),
        "vary": marked.vary(images, seed=1),
    }
    for action, results in made.items():
        declared = marks_of(results).declaration
        assert declared.action == action
        assert declared.model == "faces"
        assert declared.model_digest == weights.digest(marked.family.state_dict())
        assert declared.licence == "CC BY 4.0"
    assert marks_of(images).declaration.source is SourceType.GENERATED
    assert marks_of(made["vary"]).declaration.source is SourceType.PARTLY_GENERATED


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_saved_images_verify_and_their_arrays_have_no_marks(marked: Model, tmp_path: Path) -> None:
    images = marked.sample(3, seed=1)
    for path in (*images.save_each(tmp_path / "each", "webp"), images.save(tmp_path / "grid.jpg")):
        assert verify(path).verdict is Verdict.OURS
    marked.marks = "none"
    plain = marked.sample(3, seed=1)
    assert plain.marks is None
    assert np.array_equal(plain.array, images.array)
    assert not Image.open(plain.save(tmp_path / "plain.png")).info


def test_the_environment_chooses_marks_unless_the_caller_does(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_MARKS", "cn")
    assert marks_of(model.sample()).settings.regimes == {Regime.CN}
    monkeypatch.setenv("DANQING_MARKS", "usa")
    with pytest.raises(ConfigError, match="no marks called 'usa'"):
        model.sample()


def test_pictures_of_a_model_card_have_labels_alone(marked: Model, tmp_path: Path) -> None:
    marked.save(tmp_path / "saved")
    content = (tmp_path / "saved" / "samples.png").read_bytes()
    assert b"TC260" in content
    assert b"c2pa" not in content
    assert not (tmp_path / "trust").exists()
