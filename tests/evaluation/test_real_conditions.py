"""Models that read attributes are told those of the real images that they are shown."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.data.attributes import tabulate
from danqing.errors import ConfigError
from danqing.evaluation.real_conditions import attributes_for
from danqing.images import Images
from danqing.model.model import Model
from danqing.training.run_files import read_json
from tests.evaluation.models import small_model
from tests.small_run import SCORED

ROWS: list[tuple[Any, ...]] = [(20.0 + n, "cap" if n % 2 else "hat") for n in range(10)]
_, ATTRIBUTES = tabulate(["age", "kind"], ROWS)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Pictures as bright as their age, which one lacks, and of a kind that a model may not know."""
    folder = tmp_path / "people"
    folder.mkdir()
    lines = ["file_name,age,kind"]
    for number in range(120):
        level = 40 + number
        Image.new("L", (8, 8), level).save(folder / f"{number:03d}.png")
        kind = "crown" if number == 5 else ("cap" if number % 2 else "hat")
        lines.append(f"{number:03d}.png,{'' if number == 3 else 20 + number / 10},{kind}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_what_an_image_lacks_or_the_model_does_not_know_is_left_out(people: Path) -> None:
    images = dq.open_dataset(people, attributes=["kind", "age"])
    model = small_model(attributes=ATTRIBUTES, width=8, height=8, channels=1)
    found = attributes_for(model, images, np.array([0, 3, 5]))
    assert found == [{"kind": "hat", "age": 20}, {"kind": "cap"}, {"age": pytest.approx(20.5)}]
    assert attributes_for(small_model(), images, np.array([0])) is None
    assert attributes_for(model, dq.open_dataset("digits"), np.array([0])) is None


@pytest.mark.parametrize("verb", ["encode", "reconstruct", "bits_per_dim", "interpolate", "traverse"])
def test_verbs_on_given_images_take_attributes(verb: str) -> None:
    model = small_model(attributes=ATTRIBUTES)
    images = Images(np.random.default_rng(0).integers(0, 256, (3, 7, 9, 3), dtype=np.uint8))

    def call(attributes: Any) -> np.ndarray:
        given = {"interpolate": (images, images[::-1], 2), "traverse": (images, 0)}.get(verb, (images,))
        found = getattr(model, verb)(*given, attributes=attributes)
        return found.array if isinstance(found, Images) else found.numpy()

    plain, hat = call(None), call({"kind": "hat"})
    assert not np.array_equal(plain, hat), "attributes are read"
    each = call([{"kind": "hat"}, {}, {"kind": "cap", "age": 25}])
    many = len(plain) // 3
    assert np.array_equal(each[:many], hat[:many])
    assert np.array_equal(each[many : 2 * many], plain[many : 2 * many])
    assert not np.array_equal(each[2 * many :], plain[2 * many :])
    with pytest.raises(ConfigError, match="does not know the attribute"):
        call({"height": 3})


def test_a_model_of_attributes_is_evaluated_as_its_run_was(people: Path, tmp_path: Path) -> None:
    settings = {**SCORED, "data.attributes": '["age", "kind"]', "prior": "normal"}
    run = dq.train(
        people,
        preset="vae-32",
        size=(8, 8),
        images=320,
        evaluate_every=160,
        out=tmp_path / "run",
        settings=settings,
    )
    found = dq.evaluate(run.folder, people, split="held-out", metrics="bits-per-dim,psnr", features="pixels")
    scores = {score.metric: score for score in found.scores}
    judged = read_json(run.folder / "run.json")["data"]["judged"]
    assert scores["psnr"].reference is not None
    assert scores["psnr"].reference.fingerprint == judged["fingerprint"]
    model = dq.load(run.model)
    assert expected_bits(model, people, judged["fingerprint"]) == pytest.approx(
        scores["bits-per-dim"].value, rel=0.02
    )
    other = tmp_path / "without a table"
    other.mkdir()
    for path in people.glob("*.png"):
        (other / path.name).write_bytes(path.read_bytes())
    plain = dq.evaluate(run.folder, other, metrics="bits-per-dim", features="pixels")
    assert math.isfinite(plain.headline.value)


def expected_bits(model: Model, people: Path, fingerprint: str) -> float:
    """The mean bits of the held-out images, of which the model is told the attributes."""
    from danqing.data.splits import hold_out

    whole = dq.open_dataset(people, size=(8, 8), attributes=["age", "kind"])
    _, judged = hold_out(whole, 0.1)
    assert judged.fingerprint == fingerprint
    rows = np.arange(len(judged))
    told = attributes_for(model, judged, rows)
    assert told is not None
    return float(model.bits_per_dim(Images(judged.images(rows)), attributes=told, samples=16).mean())
