"""The simple loops of `families/transformer.py` write the same codes as the fast decoders."""

from typing import Any

import pytest
import torch
from torch import Tensor

from danqing.families.base import Condition
from danqing.families.decoding import Sampling
from danqing.families.transformer import generate, generate_masked
from danqing.families.transformer_sampling import TransformerFamily
from danqing.randomness import uniform
from tests.families.test_transformer import SIDE, TOKENIZER, build, lively

SEEDS = range(6)
OPTIONS = [
    Sampling(),
    Sampling(temperature=0.7, top_k=11, top_p=0.9),
    Sampling(guidance_scale=3.0, guidance_schedule="linear"),
]


@pytest.mark.parametrize("sampling", OPTIONS)
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_simple_loop_writes_what_the_raster_decoder_writes(
    depth: int, key_value_heads: int, sampling: Sampling
) -> None:
    settings = {"labels": ("square", "bar"), "tokenizer": TOKENIZER | {"depth": depth}}
    family = lively(build(key_value_heads=key_value_heads, **settings))
    condition, prefix, uniforms = inputs(family, sampling)
    codes = generate(family.net, prefix, uniforms, sampling)
    assert_samples_are(family, codes, condition, sampling)


@pytest.mark.parametrize("sampling", OPTIONS)
@pytest.mark.parametrize("num_steps", [1, 5, 40])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_simple_loop_writes_what_the_parallel_decoder_writes(
    depth: int, num_steps: int, sampling: Sampling
) -> None:
    settings = {"labels": ("square", "bar"), "tokenizer": TOKENIZER | {"depth": depth}}
    family = lively(build(order="masked", **settings))
    condition, prefix, uniforms = inputs(family, sampling)
    codes = generate_masked(family.net, prefix, uniforms, sampling, num_steps)
    assert_samples_are(family, codes, condition, sampling, num_steps=num_steps)


def inputs(family: TransformerFamily, sampling: Sampling) -> tuple[Condition, Tensor, Tensor]:
    condition = Condition(label=torch.arange(len(SEEDS)) % 2)
    prefix = family.prefix(condition, torch.zeros(len(SEEDS), dtype=torch.bool))
    if sampling.is_guided:
        prefix = torch.cat([prefix, family.prefix.nothing(len(SEEDS))])
    count = family.net.shape.codes
    assert count == 9 * family.net.shape.depth  # (SIDE / 2)² places
    return condition, prefix, uniform(SEEDS, (count,), purpose="codes")


def assert_samples_are(
    family: TransformerFamily, codes: Tensor, condition: Condition, sampling: Sampling, **options: Any
) -> None:
    assert len(codes.unique(dim=0)) > 2  # the images differ
    expected = family.tokenizer.detokenize(codes.view(len(SEEDS), *family.tokenizer.code_shape))
    chosen = {name: getattr(sampling, name) for name in sampling.__slots__} | options
    sampled = family.sample(condition, seeds=SEEDS, precision="float32", **chosen)
    assert sampled.shape == (len(SEEDS), 1, SIDE, SIDE)
    assert torch.equal(sampled, expected)
