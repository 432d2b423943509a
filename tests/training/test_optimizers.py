"""What an optimiser does of itself, whatever the gradients say."""

import importlib.util
import itertools
import typing
from typing import Any

import pytest
import torch
from torch import nn

from danqing import families, presets
from danqing.errors import ConfigError
from danqing.families.base import ParameterKind, ReadsText
from danqing.text.contract import TextFacts
from danqing.training import optimizers
from danqing.training.config_sections import OptimizerConfig
from danqing.weights import on_its_own

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
    optimizer = optimizers.build(config, parameters.items(), family.parameter_kind)
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
        optimizer = optimizers.build(config, parameters.items(), family.parameter_kind)
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


def kernels() -> dict[str, torch.nn.Parameter]:
    """A wide kernel, a tall one and a matrix, in the memory layout of the networks."""
    rng = torch.Generator().manual_seed(1)
    shapes = {"wide": (6, 5, 3, 3), "tall": (40, 3, 2, 2), "point": (8, 4, 1, 1), "matrix": (6, 9)}
    values = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    return {
        name: torch.nn.Parameter(
            value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
        )
        for name, value in values.items()
    }


def take_steps(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], first: int, last: int
) -> None:
    for number in range(first, last):
        rng = torch.Generator().manual_seed(number)
        for parameter in parameters.values():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=rng))
        optimizer.step()


def test_muon_treats_a_kernel_as_a_matrix_and_a_matrix_as_torch_does() -> None:
    ours, theirs = kernels(), {name: p.detach().flatten(1) for name, p in kernels().items()}
    flat = {name: torch.nn.Parameter(value.clone()) for name, value in theirs.items()}
    how: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95}
    expected = torch.optim.Muon(flat.values(), adjust_lr_fn="match_rms_adamw", **how)
    take_steps(optimizers.Muon(list(ours.values()), 0.01, 0.1), ours, 0, 3)
    for number in range(3):
        rng = torch.Generator().manual_seed(number)
        for name, parameter in flat.items():
            parameter.grad = torch.randn(kernels()[name].shape, generator=rng).flatten(1)
        expected.step()
    for name, parameter in ours.items():
        assert torch.equal(parameter.detach().flatten(1), flat[name].detach()), name


def test_a_step_of_muon_does_not_depend_on_which_others_a_process_steps() -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(60):
        values = [torch.randn(16, 16, generator=rng) for _ in range(6)]
        together = [torch.nn.Parameter(value.clone()) for value in values[:3]]
        for parameter, value in zip(together, values[3:], strict=True):
            parameter.grad = value.clone()
        optimizers.Muon(together, 0.1, 0.0, ns_steps=3).step()
        for owned in ((0,), (1, 2)):
            apart = [torch.nn.Parameter(value.clone()) for value in values[:3]]
            for number in owned:
                apart[number].grad = values[3 + number].clone()
            optimizers.Muon(apart, 0.1, 0.0, ns_steps=3).step()
            assert all(apart[number].equal(together[number]) for number in owned)


def test_muon_over_kernels_resumes_bit_for_bit() -> None:
    config = OptimizerConfig.model_validate({"name": "muon", "learning_rate": 0.01, "weight_decay": 0.1})

    def kind_of(name: str, parameter: torch.nn.Parameter) -> ParameterKind:
        return "weight" if name == "point" else "matrix"

    whole, first, second = kernels(), kernels(), kernels()
    takes = [optimizers.build(config, each.items(), kind_of) for each in (whole, first, second)]
    take_steps(takes[0], whole, 0, 5)
    take_steps(takes[1], first, 0, 2)
    for name, parameter in second.items():
        parameter.data.copy_(first[name].data)
    saved = optimizers.state_tensors(takes[1], first.items())
    saved = {name: on_its_own(value) for name, value in saved.items()}  # as a checkpoint stores it
    optimizers.load_state_tensors(takes[2], second.items(), saved)
    take_steps(takes[2], second, 2, 5)
    for name, parameter in whole.items():
        assert torch.equal(parameter, second[name]), name
        assert parameter.stride() == second[name].stride()


EARLY = [
    name
    for name in presets.names()
    if "flow" not in name and families.can_sample(presets.read(name)["family"])
]


@pytest.mark.parametrize("preset", EARLY)
def test_the_kinds_of_parameters_of_the_first_four_families_stay(preset: str) -> None:
    values = presets.read(preset)
    config = families.parse_config({"family": values["family"], **values.get("model", {})})
    if isinstance(config, ReadsText):
        config = config.model_copy(update={"text_facts": TextFacts(vocabulary=258)})
    with torch.device("meta"):
        learner = families.build_learner(config)
    for name, parameter in learner.named_parameters():
        decays = parameter.dim() > 1 and "weight" in name
        is_matrix = decays and parameter.dim() == 2 and "blocks." in name
        kind = learner.parameter_kind(name, parameter)
        assert kind == ("matrix" if is_matrix else "weight" if decays else "other"), name


def test_muon_trains_the_layers_that_read_a_text_for_flow() -> None:
    """AdamW's steps at the learning rate of Muon are so long there that a model learns no words."""
    values = presets.read("flow-text-64")
    config = families.parse_config({"family": "flow", **values["model"]})
    assert isinstance(config, ReadsText)
    config = config.model_copy(update={"text_facts": TextFacts(vocabulary=258)})
    with torch.device("meta"):
        learner = families.build_learner(config)
    kinds = {
        learner.parameter_kind(name, parameter)
        for name, parameter in learner.named_parameters()
        if ".layers." in name and parameter.dim() == 2
    }
    assert kinds == {"matrix"}


def test_muon_is_refused_where_nothing_is_for_it() -> None:
    config = OptimizerConfig.model_validate({"name": "muon"})
    family = families.build(families.parse_config({"family": "vqvae", **SIDES, **FAMILIES["vqvae"]}))
    with pytest.raises(ConfigError, match="set optimizer=adamw"):
        optimizers.build(config, family.named_parameters(), family.parameter_kind)


def test_muon_leaves_a_phase_without_matrices_to_adamw() -> None:
    config = OptimizerConfig.model_validate({"name": "muon"})
    phases = {name: [(name, torch.nn.Parameter(torch.ones(4, 4)))] for name in ("matrix", "other")}
    found = optimizers.build_each(config, phases, lambda name, parameter: name)  # type: ignore[arg-type,return-value]
    assert isinstance(found["matrix"], optimizers.MuonAndAdamW)
    assert isinstance(found["other"], torch.optim.AdamW)
    with pytest.raises(ConfigError, match="set optimizer=adamw"):
        optimizers.build_each(config, {"other": phases["other"]}, lambda name, parameter: "other")


@pytest.mark.parametrize("name", typing.get_args(OptimizerConfig.model_fields["name"].annotation))
def test_an_optimiser_keeps_no_more_averages_than_it_declares(name: str) -> None:
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    config = OptimizerConfig.model_validate({"name": name, "momentum": 0.9})
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = optimizers.build(config, [("weight", parameter)], lambda name, parameter: "matrix")
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
    kept = [value for value in state if value.shape == parameter.shape]
    assert 1 <= len(kept) <= optimizers.averages(config)


def test_adamw_in_8_bits_resumes_bit_for_bit_or_says_what_is_missing() -> None:
    config = OptimizerConfig(name="adamw8bit", learning_rate=1e-2)
    torch.manual_seed(0)
    weights = {"large.weight": torch.randn(128, 64), "small.bias": torch.randn(8)}

    def begun() -> tuple[list[tuple[str, nn.Parameter]], torch.optim.Optimizer]:
        named = [(name, nn.Parameter(value.clone())) for name, value in weights.items()]
        return named, optimizers.build(config, named, lambda *_: "weight")

    def step(named: list[tuple[str, nn.Parameter]], optimizer: torch.optim.Optimizer, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        optimizer.step()

    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ConfigError, match="pip install bitsandbytes"):
            begun()
        return
    (whole, first), (parts, second) = begun(), begun()
    for seed in range(4):
        step(whole, first, seed)
        if seed < 2:
            step(parts, second, seed)
    kept = {name: value.clone() for name, value in optimizers.state_tensors(second, parts).items()}
    assert kept["large.weight/state1"].dtype == torch.uint8
    for name, parameter in parts:
        weights[name] = parameter.detach()
    parts, second = begun()
    optimizers.load_state_tensors(second, parts, kept)
    for seed in (2, 3):
        step(parts, second, seed)
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(whole, parts, strict=True))
