"""Requested attributes become a row per image; what is not requested is drawn as it occurs in the data."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from danqing.data.attributes import Example, tabulate
from danqing.errors import ConfigError
from danqing.families.base import Condition, FamilyConfig
from danqing.model.conditions import drawn_condition, given_condition
from danqing.requested import count_images
from danqing.requested_attributes import OutsideTrainingWarning

# Hats are worn from 60 on, and age has a gap; label 1 is for those who wear a cap.
ROWS: list[tuple[Any, ...]] = [(20.0 + n, "cap", [n, 1.0]) for n in range(10)]
ROWS += [(60.0 + n, "hat", [n, 2.0]) for n in range(10)] + [(None, "hat", None)]
TABLE, ATTRIBUTES = tabulate(["age", "Kind", "place"], ROWS)
EXAMPLES = tuple(
    Example(label=int(row[1] == 0), values=tuple(None if np.isnan(v) else float(v) for v in row))
    for row in TABLE
)
CONFIG = FamilyConfig(family="gan", attributes=ATTRIBUTES, attribute_examples=EXAMPLES)
LABELLED = CONFIG.model_copy(update={"labels": ("old", "young"), "label_frequencies": (0.5, 0.5)})
SEEDS = range(300)


def values(condition: Condition) -> Mapping[str, Any]:
    """The columns of a condition as arrays, NaN where one is missing."""
    assert condition.attributes is not None
    assert condition.attribute_mask is not None
    assert condition.attributes.dtype == torch.float32
    assert (condition.attributes[~condition.attribute_mask] == 0).all()
    table = torch.where(condition.attribute_mask, condition.attributes, torch.nan).numpy()
    return {"age": table[:, 0], "kind": table[:, 1], "place": table[:, 2:]}


def test_what_is_requested_reaches_its_image() -> None:
    for age in (30, "30", 30.0, np.float32(30)):
        found = values(
            drawn_condition(CONFIG, [1, 2], attributes={"age": age, "kind": "HAT", "place": [3, 1]})
        )
        assert found["age"].tolist() == [30, 30]
        assert found["kind"].tolist() == [1, 1]
        assert found["place"].tolist() == [[3, 1], [3, 1]]
    each = values(drawn_condition(CONFIG, [1, 2], attributes=[{"age": 21}, {"age": None, "place": "4, 1"}]))
    assert each["age"][0] == 21
    assert np.isnan(each["age"][1])
    assert each["place"][1].tolist() == [4, 1]
    assert count_images(None, None, None, [{"age": 1}, {}]) == 2
    assert count_images(None, None, None, {"age": 1}) == 1


def test_without_a_request_attributes_are_drawn_together_as_in_the_data() -> None:
    found = values(drawn_condition(CONFIG, SEEDS))
    rows = {tuple(np.nan_to_num(row, nan=-1)) for row in TABLE}
    drawn = np.column_stack([found["age"], found["kind"], found["place"]])
    assert {tuple(np.nan_to_num(row, nan=-1)) for row in drawn} == rows
    assert np.mean(found["kind"] == 0) == pytest.approx(10 / 21, abs=0.12)


def test_the_rest_is_drawn_from_images_most_like_the_request() -> None:
    hats = values(drawn_condition(CONFIG, SEEDS, attributes={"kind": "hat"}))
    assert np.nanmin(hats["age"]) >= 60
    assert len(set(hats["age"][~np.isnan(hats["age"])])) == 10
    young = values(drawn_condition(CONFIG, SEEDS, attributes={"age": 25}))
    assert set(young["kind"]) == {0}
    assert (young["age"] == 25).all()
    labelled = drawn_condition(LABELLED, SEEDS)
    assert labelled.label is not None
    assert np.array_equal(values(labelled)["kind"] == 0, labelled.label.numpy() == 1)


def test_an_image_draws_by_its_own_seed() -> None:
    together = drawn_condition(LABELLED, [5, 6, 7], attributes={"age": 25})
    alone = drawn_condition(LABELLED, [6], attributes={"age": 25})
    assert together.attributes is not None
    assert alone.attributes is not None
    assert torch.equal(together.attributes[1:2], alone.attributes)


def test_of_images_that_are_there_nothing_is_drawn() -> None:
    found = values(given_condition(CONFIG, 2, attributes={"age": 25}))
    assert found["age"].tolist() == [25, 25]
    assert np.isnan(found["kind"]).all()
    assert np.isnan(values(given_condition(CONFIG, 2))["age"]).all()


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"aeg": 30}, "does not know the attribute 'aeg': it knows age, Kind, place"),
        ({"age": "old"}, "age is a number and cannot be 'old': give for example"),
        ({"age": True}, "age is a number"),
        ({"age": float("inf")}, "age is a number"),
        ({"kind": "wig"}, "Kind cannot be 'wig': choose one of cap, hat"),
        ({"place": [1]}, r"place is 2 numbers and cannot be \[1\]"),
        ({"age": 30, "Age": 31}, "age is given twice"),
        ([{"age": 30}] * 3, "one table of attributes, or one per image: there are 3 for 2 images"),
    ],
)
def test_what_a_model_does_not_know_is_refused(attributes: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        drawn_condition(CONFIG, [1, 2], attributes=attributes)


def test_a_model_without_attributes_says_so() -> None:
    bare = FamilyConfig(family="gan")
    assert drawn_condition(bare, [1]).attributes is None
    with pytest.raises(ConfigError, match="trained without attributes: leave them out"):
        drawn_condition(bare, [1], attributes={"age": 3})


def test_a_number_that_no_training_image_has_is_a_warning() -> None:
    with pytest.warns(OutsideTrainingWarning, match=r"age 93 .* have 20 to 69 \(\d\.\d standard deviations"):
        drawn_condition(CONFIG, [1], attributes={"age": 93})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn_condition(CONFIG, [1], attributes={"age": 45, "place": [0, 2]})
