"""What an optimiser does of itself, whatever the gradients say."""

import itertools
import typing

import pytest
import torch

from danqing import families
from danqing.errors import ConfigError
from danqing.training import optimizers
from danqing.training.config import OptimizerConfig

SIDES = {"width": 8, "height": 8, "channels": 3}
FAMILIES = {
    "transformer": {"layers": 2, "features": 16, "heads": 2, "labels": ("cat", "dog")},
    "vae": {"net": "conv", "features": 4, "latents": 4},
    "vqvae": {"features": 4, "blocks": 1, "vocabulary": 16},
}


@pytest.mark.parametrize(
    ("kind", "name"), [*itertools.product(FAMILIES, ["adamw", "sgd"]), ("transformer", "muon")]
)
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


def test_muon_turns_gradients_of_blocks_into_steps_of_one_length_in_every_direction() -> None:
    family = families.build(
        families.parse_config({"family": "transformer", **SIDES, **FAMILIES["transformer"]})
    )
    rng = torch.Generator().manual_seed(0)
    parameters = {key: value for key, value in family.named_parameters() if value.requires_grad}
    before = {key: value.detach().clone() for key, value in parameters.items()}
    gradients = {key: torch.randn(value.shape, generator=rng) for key, value in parameters.items()}
    steps = {}
    for name in ("muon", "adamw"):
        config = OptimizerConfig.model_validate({"name": name, "learning_rate": 0.01})
        optimizer = optimizers.build(config, parameters.items())
        for key, parameter in parameters.items():
            parameter.data.copy_(before[key])
            parameter.grad = gradients[key].clone()
        optimizer.step()
        steps[name] = {key: value.detach() - before[key] for key, value in parameters.items()}
    blocks = {
        key for key, value in before.items() if value.dim() == 2 and "blocks" in key and "gain" not in key
    }
    assert len(blocks) == 2 * 4  # queries with keys and values, out, gate with up, down: of each layer
    for key, step in steps["muon"].items():
        if key not in blocks:
            assert torch.equal(step, steps["adamw"][key])
            continue
        sizes = torch.linalg.svdvals(step) / (0.01 * 0.2 * max(step.shape) ** 0.5)
        assert sizes.min() > 0.6  # what five steps of Newton and Schulz leave
        assert sizes.max() < 1.3
        assert (step * gradients[key]).sum() < 0


def test_muon_is_refused_where_nothing_is_for_it() -> None:
    config = OptimizerConfig.model_validate({"name": "muon"})
    family = families.build(families.parse_config({"family": "vqvae", **SIDES, **FAMILIES["vqvae"]}))
    with pytest.raises(ConfigError, match="set optimizer=adamw"):
        optimizers.build(config, family.named_parameters())


@pytest.mark.parametrize("name", typing.get_args(OptimizerConfig.model_fields["name"].annotation))
def test_an_optimiser_keeps_no_more_averages_than_it_declares(name: str) -> None:
    config = OptimizerConfig.model_validate({"name": name, "momentum": 0.9})
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = optimizers.build(config, [("blocks.0.weight", parameter)])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
    assert 1 <= len(kept) <= optimizers.averages(config)
