"""Attributes as vectors: each is told from a missing one, and no image depends on another."""

import torch
from torch import Tensor

from danqing.data.attributes import Attribute, tabulate
from danqing.nets.attributes import AttributeEmbedding

ROWS = [(30, "hat", [1.0, 2.0]), (None, "cap", None), (50, None, [3.0, 4.0]), (30, "cap", [1.0, 2.0])]


def people() -> tuple[tuple[Attribute, ...], Tensor, Tensor]:
    """Three attributes of four images: how they are described, the values, and which are known."""
    table, attributes = tabulate(["age", "kind", "pose"], ROWS)
    values = torch.from_numpy(table)
    return attributes, values.nan_to_num(0.0), ~values.isnan()


def test_each_attribute_matters_and_a_missing_one_is_no_zero() -> None:
    attributes, values, known = people()
    embedding = AttributeEmbedding(attributes, 8)
    told = embedding(values, known)
    assert told.shape == (4, 8)
    for column in range(4):
        changed, hidden = values.clone(), known.clone()
        changed[0, column] = 1 - changed[0, column]
        hidden[0, column] = False
        assert not torch.allclose(embedding(changed, known)[0], told[0])
        assert not torch.allclose(embedding(values, hidden)[0], told[0])
        zero = values.clone()
        zero[0, column] = 0
        assert not torch.allclose(embedding(zero, hidden)[0], embedding(zero, known)[0])


def test_what_stands_under_a_missing_value_changes_nothing() -> None:
    attributes, values, known = people()
    embedding = AttributeEmbedding(attributes, 8)
    filled = torch.where(known, values, 1.0)
    torch.testing.assert_close(embedding(filled, known), embedding(values, known), rtol=0, atol=0)


def test_numbers_are_described_in_standard_deviations() -> None:
    """Thousandths of a second and years must be equally easy to learn from."""
    attributes, values, known = people()
    embedding = AttributeEmbedding(attributes, 8)
    age = attributes[0]
    scaled = age.model_copy(update={"mean": (1000 * age.mean[0],), "deviation": (1000 * age.deviation[0],)})
    other = AttributeEmbedding((scaled, *attributes[1:]), 8)
    other.load_state_dict(embedding.state_dict())
    torch.testing.assert_close(
        other(values * torch.tensor([1000.0, 1, 1, 1]), known), embedding(values, known), rtol=1e-4, atol=1e-5
    )


def test_a_constant_number_gives_finite_vectors() -> None:
    table, attributes = tabulate(["age"], [(3,), (3,)])
    out = AttributeEmbedding(attributes, 4)(torch.from_numpy(table), torch.ones(2, 1, dtype=torch.bool))
    assert out.isfinite().all()
