"""What an optimiser does of itself, whatever the gradients say."""

import pytest
import torch

from danqing import families
from danqing.training import optimizers
from danqing.training.config import OptimizerConfig

SIDES = {"width": 8, "height": 8, "channels": 3}
FAMILIES = {
    "transformer": {"layers": 2, "features": 16, "heads": 2, "labels": ("cat", "dog")},
    "vae": {"net": "conv", "features": 4, "latents": 4},
    "vqvae": {"features": 4, "blocks": 1, "vocabulary": 16},
}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_weights_decay_and_gains_biases_and_positions_do_not(kind: str, name: str) -> None:
    family = families.build(families.parse_config({"family": kind, **SIDES, **FAMILIES[kind]}))
    parameters = {key: value for key, value in family.named_parameters() if value.requires_grad}
    before = {key: value.detach().clone() for key, value in parameters.items()}
    config = OptimizerConfig.model_validate({"name": name, "learning_rate": 0.1, "weight_decay": 0.5})
    optimizer = optimizers.build(config, parameters.items())
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {key for key, value in parameters.items() if torch.equal(value, before[key])}
    for key, value in parameters.items():
        factor = 1.0 if key in kept else 1 - 0.1 * 0.5
        assert torch.allclose(value, factor * before[key], atol=1e-7)
    nonzero = {key for key, value in before.items() if bool(value.any())}
    assert {key for key in nonzero if "bias" in key or "gain" in key or before[key].dim() < 2} <= kept
    assert {"net.row", "net.column", "net.prefix"} & nonzero <= kept
    decayed = sum(value.numel() for key, value in parameters.items() if key not in kept)
    assert decayed > 0.9 * sum(before[key].numel() for key in nonzero)
