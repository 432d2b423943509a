import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import danqing as dq
from danqing.data import open_dataset
from danqing.images import to_float
from danqing.model.domain import Domain, statistics
from danqing.requested_attributes import OutsideTrainingWarning
from tests.small_run import SMALL


def shapes(rows: range) -> Tensor:
    return to_float(open_dataset("shapes", size=(16, 16)).images(rows))


def batches(images: Tensor) -> Iterator[Tensor]:
    yield from images.split(100)


@pytest.fixture(scope="module")
def domain() -> Domain:
    found = Domain.fit(batches(shapes(range(600))))
    assert found is not None
    return found


def test_images_of_the_domain_are_inside_and_others_outside(domain: Domain) -> None:
    others = shapes(range(1000, 1400))
    noise = torch.rand(100, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert domain.are_outside(others).float().mean() < 0.03
    assert domain.are_outside(noise).all()
    assert domain.are_outside(-others).float().mean() > 0.9
    assert not domain.are_outside(torch.zeros(4, 1, 16, 16)).any()  # of grey images it knows nothing


def test_what_is_hidden_does_not_count(domain: Domain) -> None:
    images = shapes(range(1000, 1100))
    hidden = torch.zeros(100, 1, 16, 16)
    hidden[:, :, :, 8:] = 1
    broken = torch.where(hidden > 0, torch.rand_like(images), images)
    values, known = statistics(broken, hidden)
    assert torch.equal(values[known], statistics(images, hidden)[0][known])
    assert known.sum(1).unique().tolist() == [6]  # half of the middle cells is visible
    assert domain.are_outside(broken, hidden).float().mean() < 0.05
    assert not domain.are_outside(broken, torch.ones_like(hidden)).any()


def test_a_domain_survives_its_facts_and_damaged_facts_are_none(domain: Domain) -> None:
    facts = domain.facts()
    again, images = Domain.read({"domain": facts}), shapes(range(50))
    assert again is not None
    assert torch.allclose(again.distances(images), domain.distances(images), atol=0.01)
    assert Domain.read({}) is None
    for damaged in (
        None,
        3,
        {**facts, "scale": "nan"},
        {**facts, "groups": ["1 2"]},
        {**facts, "centre": [1]},
    ):
        assert Domain.read({"domain": damaged}) is None
    assert Domain.fit(batches(shapes(range(40)))) is None


def test_a_trained_model_warns_of_images_that_are_unlike_its_own(tmp_path: Path) -> None:
    run = dq.train("shapes", preset="vae-32", size=(16, 16), images=640, settings=SMALL, out=tmp_path / "run")
    model = dq.load(run)
    assert model.domain is not None
    assert "domain" not in model.info()["trained"]
    usual = open_dataset("shapes", size=(16, 16)).images(range(8)).numpy()
    noise = np.random.default_rng(0).integers(0, 256, usual.shape, dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutsideTrainingWarning)
        model.vary(dq.Images(usual), strength=0.5, label=0)
    with pytest.warns(OutsideTrainingWarning, match="8 of 8 images are unlike the training images"):
        model.vary(dq.Images(noise), strength=0.5, label=0)
    (tmp_path / "in").mkdir()
    dq.Images(usual[:1]).save(tmp_path / "in" / "usual.png")
    dq.Images(noise[:1]).save(tmp_path / "in" / "noise.png")
    result = dq.vary(model, tmp_path / "in", out=tmp_path / "out", strength=0.5, label=0)
    assert list(result.notes) == ["noise.png"]
    assert "unlike the training images" in result.notes["noise.png"][0]
