"""Model folders written by version 0.1.0 load, and give the same pixels from the same seeds.

The tiny models in `tests/golden/` have random weights. `expected.safetensors` beside them holds the pixels
that each call below gave when the folders were written; `tests/golden/make.py` writes those of a new family.

Few pixels may differ, by one level: convolutions and matrix products sum in another order on a processor with
other vector instructions. That changes the last bits of a float32, and a value between two levels may then
round to the other. Flow models are asked for float32: how bfloat16 rounds depends on the processor. The codes
of the transformer are discrete, so its own test compares digests.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import danqing as dq
from danqing.images import Images
from danqing.model.model import Model
from tests.families.test_golden_transformer import given

GOLDEN = Path(__file__).parents[1] / "golden"
SEEDS = [3, 1, 4]


def label(model: Model) -> list[str] | None:
    return [model.labels[0], model.labels[-1], model.labels[0]] if model.labels else None


def sample(model: Model, **options: float | str) -> Images:
    return model.sample(seeds=SEEDS, label=label(model), **options)


def sample_exactly(model: Model, **options: float | str) -> Images:
    return sample(model, precision="float32", **options)


CALLS: dict[str, dict[str, Callable[[Model], Images]]] = {
    "gan": {"sample": sample, "truncated": lambda model: sample(model, truncation=0.6)},
    "vae": {
        "sample": sample,
        "cool": lambda model: sample(model, temperature=0.6),
        "reconstructed": lambda model: model.reconstruct(given(model), label(model)),
        "varied": lambda model: model.vary(given(model), strength=0.4, seeds=SEEDS, label=label(model)),
        "between": lambda model: model.interpolate(given(model), given(model)[[1, 2, 0]], 3, label(model)),
        "traversed": lambda model: model.traverse(given(model), 1, (-2, 2), label(model)),
    },
    "translation": {"translated": lambda model: model.translate(given(model))},
    "vqvae": {"sample": sample, "reconstructed": lambda model: model.reconstruct(given(model))},
    "flow": {
        "sample": sample_exactly,
        "guided": lambda model: sample_exactly(model, guidance_scale=2.0),
        "exact": lambda model: sample_exactly(model, sampler="heun", num_steps=4),
        "varied": lambda model: model.vary(
            given(model), strength=0.4, seeds=SEEDS, label=label(model), precision="float32"
        ),
    },
    "latent-flow": {"sample": sample_exactly},
    "regression": {"translated": lambda model: model.translate(Images(given(model).array[:, ::2, ::2]))},
}


@pytest.mark.parametrize("family", CALLS)
def test_an_older_model_folder_gives_the_same_pixels(family: str) -> None:
    model = dq.load(GOLDEN / family)
    expected = load_file(GOLDEN / family / "expected.safetensors")
    assert expected.keys() == CALLS[family].keys()
    for call, function in CALLS[family].items():
        off = np.abs(function(model).array.astype(int) - expected[call].astype(int))
        assert off.max() <= 1, call
        assert np.count_nonzero(off) <= 0.01 * off.size, call
        assert expected[call].std() > 5, "a flat image would hide a change"
