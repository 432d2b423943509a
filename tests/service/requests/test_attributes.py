"""Attributes of a request: checked before it is queued, and given to the model with each row."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from danqing import families
from danqing.data.attributes import Example, tabulate
from danqing.images import Images
from danqing.model.files import Access
from danqing.model.model import Model
from danqing.service.engine import model_description
from danqing.service.engine.offers import Offer
from danqing.service.engine.received_batch import Row, conditions
from danqing.service.errors import ApiError
from danqing.service.failures import from_validation
from danqing.service.requests.field_checks import check_attributes
from danqing.service.requests.schemas import Generation

TABLE, ATTRIBUTES = tabulate(["age", "kind"], [(20, "cap"), (60, "hat")])
CONFIG = {
    "family": "vae",
    "width": 8,
    "height": 8,
    "channels": 1,
    "net": "mlp",
    "features": 4,
    "latents": 4,
    "attributes": [one.model_dump() for one in ATTRIBUTES],
    "attribute_examples": [Example(values=tuple(row)).model_dump() for row in TABLE.tolist()],
}


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(families.build(families.parse_config(CONFIG)))


@pytest.fixture(scope="module")
def offer(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Offer:
    """The offer as the server receives it from the worker: through JSON."""
    folder: Path = tmp_path_factory.mktemp("model")
    model.save(folder, Images(np.zeros((1, 4, 4, 3), np.uint8)))
    described = model_description.describe("people", str(folder), Access())
    sent = json.loads(json.dumps(dataclasses.asdict(described)))
    return Offer(**sent)


def request(attributes: Any, *, as_text: bool = False) -> Generation:
    body = {"prompt": "", "attributes": attributes}
    return Generation.model_validate(body, strict=False if as_text else None)


def test_attributes_are_taken_from_json_and_from_a_form(offer: Offer) -> None:
    fields = request({"age": 30, "Kind": "HAT"})
    check_attributes(offer, fields)
    form = request('{"age": 30, "Kind": "HAT"}', as_text=True)
    check_attributes(offer, form)
    assert form.attributes == fields.attributes == {"age": 30, "Kind": "HAT"}
    check_attributes(offer, request(None))
    assert [one["name"] for one in offer.attributes] == ["age", "kind"]


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"aeg": 30}, "does not know the attribute 'aeg': it knows age, kind"),
        ({"age": "old"}, "age is a number and cannot be 'old'"),
        ({"age": 10**400}, "age is a number"),
        ({"kind": "x" * 1000}, r"kind cannot be 'x+\.\.\.: choose one of cap, hat"),
    ],
)
def test_attributes_that_do_not_exist_are_rejected(offer: Offer, attributes: Any, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence) as caught:
        check_attributes(offer, request(attributes))
    assert (caught.value.status, caught.value.param) == (400, "attributes")


def test_a_model_without_attributes_rejects_them() -> None:
    with pytest.raises(ApiError, match="pets was trained without attributes: leave attributes out"):
        check_attributes(Offer("pets", ""), request({"age": 3}))


@pytest.mark.parametrize("attributes", [{"age": True}, {"age": {"a": 1}}, [1], "age=3", "[" * 10_000])
def test_what_is_no_table_of_values_names_its_field(attributes: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        request(attributes)
    assert (from_validation(caught.value).param or "").startswith("attributes")


def test_the_worker_gives_each_row_its_attributes(model: Model) -> None:
    rows = [
        Row(0, seed, None, None, None, 0, asked)
        for seed, asked in ((5, {"age": 20, "kind": "cap"}), (6, None), (7, {"age": None, "kind": None}))
    ]
    painted = model.sample(seeds=[5, 6, 7], **conditions(model, rows, draws=True))
    alone = [
        model.sample(seeds=[5], attributes={"age": 20, "kind": "cap"}),
        model.sample(seeds=[6]),
        model.sample(seeds=[7], attributes={"age": None, "kind": None}),
    ]
    assert np.array_equal(painted.array, np.concatenate([images.array for images in alone]))
