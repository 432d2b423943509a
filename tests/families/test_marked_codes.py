"""A transformer marks what it writes, and its images are recognized by their pixels alone."""

from typing import Any

import numpy as np
import pytest
import torch

from danqing.families.abilities import MarksCodes
from danqing.families.base import Condition
from danqing.families.decoding import Sampling, raised
from danqing.families.transformer_sampling import TransformerFamily
from danqing.images import to_float, to_uint8
from danqing.trust.codes_mark import STRENGTH, CodesMark
from tests.families.test_transformer import ORDERS, SIDE, TOKENIZER, build, lively, pictures

MARK, OTHER = CodesMark(b"a key of an installation"), CodesMark(b"a key of somebody else")
SEEDS = range(40)


def condition(count: int) -> Condition:
    return Condition(label=torch.arange(count) % 2)


def family_of(**settings: Any) -> TransformerFamily:
    return lively(build(labels=("square", "bar"), **settings))


def sampled(family: TransformerFamily, mark: CodesMark | None, seeds: Any = SEEDS, **options: Any) -> Any:
    with torch.inference_mode():
        return family.sample(condition(len(seeds)), seeds=seeds, mark=mark, **options)


def p_values(family: TransformerFamily, images: Any, mark: CodesMark) -> np.ndarray:
    seen = to_float(to_uint8(images))  # as a file without losses keeps them
    return np.array([found.p_value for found in family.detect_mark(seen, mark)])


@pytest.mark.parametrize("order", ORDERS)
def test_images_are_recognized_by_the_key_that_marked_them_and_by_no_other(order: str) -> None:
    family = family_of(order=order)
    assert isinstance(family, MarksCodes)
    marked, plain = sampled(family, MARK), sampled(family, None)
    assert np.median(p_values(family, marked, MARK)) < 1e-4
    assert p_values(family, marked, OTHER).min() > 1e-4
    assert p_values(family, plain, MARK).min() > 1e-4


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_marked_image_depends_on_its_own_seed_alone(order: str, guidance_scale: float) -> None:
    family = family_of(order=order, tokenizer=TOKENIZER)
    whole = sampled(family, MARK, guidance_scale=guidance_scale, precision="float32")
    again = sampled(family, MARK, guidance_scale=guidance_scale, precision="float32")
    assert torch.equal(whole, again)
    other = range(100, 140)
    mixed = [seed if seed % 2 else other[seed] for seed in SEEDS]
    neighbours = sampled(family, MARK, mixed, guidance_scale=guidance_scale, precision="float32")
    assert torch.equal(neighbours[1::2], whole[1::2])
    assert not torch.equal(neighbours[::2], whole[::2])


@pytest.mark.parametrize("order", ORDERS)
def test_a_fill_marks_only_what_it_writes(order: str) -> None:
    family, images = family_of(order=order), pictures(8)
    mask = torch.zeros(8, 1, SIDE, SIDE)
    mask[:, :, :4] = 1
    with torch.inference_mode():
        filled = family.fill(images, mask, condition(8), seeds=range(8), mark=MARK)
        varied = family.vary(images, condition(8), seeds=range(8), strength=1.0, mark=MARK)
    assert torch.equal(filled[:, :, 4:], images[:, :, 4:])
    found = family.detect_mark(filled, MARK)
    assert np.mean([each.favoured for each in found]) > SIDE * (4 * 0.6 + 2 * 0.15)
    assert np.median(p_values(family, varied, MARK)) < 1e-4


def test_logits_of_favoured_codes_are_raised_at_their_places() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    favoured = torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    places = torch.tensor([[0, 6, 2], [3, 3, 1]])
    expected = logits + STRENGTH * favoured[places].float()
    assert torch.equal(raised(logits, favoured, places), expected)
    assert torch.equal(raised(logits[:, 0], favoured, 4), logits[:, 0] + STRENGTH * favoured[4].float())
    assert raised(logits, None, places) is logits
    evenly = (torch.arange(4096) + 0.5) / 4096
    chosen = Sampling().choose(raised(logits[:1, 0], favoured, 0).expand(4096, -1), evenly)
    shares = torch.bincount(chosen, minlength=5) / 4096
    assert torch.allclose(shares, expected[0, 0].softmax(-1), atol=1e-3)


def test_only_the_first_code_of_a_place_is_marked_and_codes_of_a_kind_alike() -> None:
    family = family_of(tokenizer=TOKENIZER | {"depth": 2, "vocabulary": 128})
    favoured = family._favoured(MARK).view(9, 2, 128)
    assert not favoured[:, 1].any()
    assert 0.1 < favoured[:, 0].float().mean() < 0.4
    for kind in np.unique(family._kinds):
        of_kind = favoured[:, 0, family._kinds == kind]
        assert torch.equal(of_kind.all(1), of_kind.any(1))
