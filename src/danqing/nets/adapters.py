"""Low-rank adapters in the layers of a network, by the package `peft` (Hu et al. 2022, "LoRA").

A layer W x becomes W x + s B A x with small matrices A and B. W does not change, and B starts at zero, so
that a network begins as it was.
"""

import copy
import fnmatch
import hashlib
import importlib.util
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from danqing import weights
from danqing.errors import ConfigError, ModelError, first_line
from danqing.randomness import derived_seed

_N = TypeVar("_N", bound=nn.Module)
ALL = "all"
"""Stands for all linear layers and convolutions."""
NAME = "default"
"""What the adapter that a run trains is called within its network."""
_MARK = ".lora_"
_PREFIXES = ("base_model.model.", "unet.", "transformer.")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Base(NamedTuple):
    """What an adapter is trained on.

    place: where the model is, a path or a hub id. digest: of its weights. trigger: the word that means what
    the adapter learns; "" for none.
    """

    place: str
    digest: str
    trigger: str = ""


class Added(NamedTuple):
    """An adapter from a file.

    tensors: as `tensors` returns them. settings: as `settings` does. weight: multiplies what it adds.
    """

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    weight: float


def check_installed() -> None:
    """Raise ModelError if the package that computes adapters is missing."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError("Adapters need the package peft: pip install 'danqing[adapters]'.")


def targets(network: nn.Module, within: Iterable[str], wanted: Sequence[str] = (ALL,)) -> list[str]:
    """Return the names of the layers that get an adapter.

    within: names of children of the network, "" for the whole. wanted: patterns such as "*.attention.*", or
        "all".
    Raises ConfigError where there are none.
    """
    found = [
        name
        for child in within
        for name, module in network.named_modules()
        if (not child or name == child or name.startswith(f"{child}.")) and _takes_adapter(module)
    ]
    if ALL not in wanted:
        found = [name for name in found if any(_matches(name, pattern) for pattern in wanted)]
    if not found:
        what = "" if ALL in wanted else f" called {', '.join(wanted)}"
        raise ConfigError(
            f"This network has no linear layer or convolution{what} for an adapter: leave adapter.targets "
            "out, or choose another model."
        )
    return list(dict.fromkeys(found))


def _matches(name: str, pattern: str) -> bool:
    """Return whether a layer is meant: by a pattern of its whole name, or by the end of its name."""
    return fnmatch.fnmatchcase(name, pattern) or f".{name}".endswith(f".{pattern}")


def _takes_adapter(module: nn.Module) -> bool:
    """Return whether a layer may get an adapter: subclasses may compute something else of their weights."""
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)


def attach(
    network: nn.Module,
    layers: Sequence[str],
    base: Base,
    *,
    rank: int,
    alpha: float,
    seed: int,
    whole: Iterable[str] = (),
) -> None:
    """Add an adapter to layers of a network, to be trained.

    All other weights are frozen.

    layers: as `targets` returns them. base: what the network was before. alpha: the scale s is alpha / rank.
    seed: of the first A. whole: children that are trained as a whole, such as a discriminator.
    torch's global generator is left as it was. Raises ModelError where peft is missing.
    """
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(layers))  # type: ignore[arg-type]
    host = host_of(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "adapter"))
        inject_adapter_in_model(config, host, NAME)
    for name, parameter in host.named_parameters():
        if _MARK in name:
            parameter.data = parameter.data.float()  # whatever the number format of the network
    network.adapter_base, network.trained_whole = base, tuple(whole)  # type: ignore[assignment]
    for child in network.trained_whole:  # type: ignore[union-attr]
        network.get_submodule(child).requires_grad_(True)
    for module in network.modules():
        if isinstance(module, _NORMS):  # else it would learn the mean and variance of the new images
            module.eval()


def host_of(network: nn.Module) -> nn.Module:
    """Return the part of a network that gets adapters.

    That is the denoiser of a pipeline, and any other network as a whole.
    """
    host: nn.Module | None = getattr(network, "denoiser", None)
    return network if host is None else host


def is_adapted(network: nn.Module) -> bool:
    """Return whether a network has an adapter that is not merged."""
    return hasattr(host_of(network), "peft_config")


def base_of(network: nn.Module) -> Base:
    """Return what the adapter of a network is trained on."""
    base = network.adapter_base
    assert isinstance(base, Base)
    return base


def fixed(network: nn.Module) -> set[str]:
    """Return the names of the tensors that training leaves alone.

    They are those beside an adapter. Without an adapter there are none.
    """
    if not is_adapted(network):
        return set()
    whole: tuple[str, ...] = network.trained_whole  # type: ignore[assignment]
    return {
        name for name in network.state_dict() if _MARK not in name and name.partition(".")[0] not in whole
    }


def copied(network: _N) -> _N:
    """Copy a network.

    What training an adapter leaves as it is is shared with the copy.
    """
    names, state = fixed(network), network.state_dict(keep_vars=True)
    return copy.deepcopy(network, {id(state[name]): state[name] for name in names})


def merged(network: _N) -> _N:
    """Return a network without adapters that computes the same.

    A network that has none is returned itself, and so is a pipeline, which would be too large to copy.
    """
    if not is_adapted(network) or host_of(network) is not network:
        return network
    found: _N = copy.deepcopy(network)
    found.merged_digest = digest(network)  # type: ignore[assignment]
    merge(found)
    return found


def size(network: nn.Module, layers: Sequence[str], rank: int) -> int:
    """Return how many numbers an adapter of some layers has."""
    numbers = 0
    for layer in layers:
        kernel = network.get_submodule(layer).weight
        assert isinstance(kernel, Tensor)
        numbers += rank * (kernel[0].numel() + kernel.shape[0])
    return numbers


def tensors(network: nn.Module, name: str = NAME) -> dict[str, Tensor]:
    """Return the matrices of an adapter, named as in files."""
    from peft import get_peft_model_state_dict

    host = host_of(network)
    found: Mapping[str, Tensor] = get_peft_model_state_dict(host, adapter_name=name)
    prefix = _PREFIXES[0] if host is network else f"{network.denoiser_name}."
    return {f"{prefix}{key}": value.detach() for key, value in found.items()}


def settings(network: nn.Module, name: str = NAME) -> dict[str, Any]:
    """Return the content of `adapter_config.json`."""
    found: Mapping[str, Any] = host_of(network).peft_config[name].to_dict()  # type: ignore[index,union-attr]
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}
    kind = plain["peft_type"]
    return plain | {
        "base_model_name_or_path": base_of(network).place,
        "inference_mode": True,
        "peft_type": str(getattr(kind, "value", kind)),
    }


def put(network: nn.Module, added: Added, name: str) -> None:
    """Put an adapter beside those that a network has.

    name: what it is called within the network. Raises ModelError where the adapter does not fit.
    """
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    config = added.settings
    known = {
        key: config[key] for key in ("r", "lora_alpha", "target_modules", "rank_pattern") if key in config
    }
    known |= {key: config[key] for key in ("alpha_pattern", "use_rslora") if key in config}
    plain = {_without_prefix(key): value for key, value in added.tensors.items()}
    try:
        with warnings.catch_warnings():  # that there are several adapters is intended
            warnings.simplefilter("ignore")
            inject_adapter_in_model(LoraConfig(**known), network, name)
        result: Any = set_peft_model_state_dict(network, plain, adapter_name=name)
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"The adapter {name} does not fit this model ({first_line(error)}): give the model that "
            "it was trained on."
        ) from error
    own = {key for key in network.state_dict() if f".{name}." in key and _MARK in key}
    if result.unexpected_keys or len(own) != len(plain):
        raise ModelError(
            f"The adapter {name} does not fit this model: give the model that it was trained on."
        )
    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.set_scale(name, added.weight)
    network.requires_grad_(False)


def _without_prefix(key: str) -> str:
    """Return the name of a matrix within its network, however the network is called in the file."""
    for prefix in _PREFIXES:
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return key


@torch.no_grad()
def merge(network: nn.Module) -> None:
    """Add all adapters to the weights of their layers, and remove them."""
    from peft.tuners.lora import LoraLayer

    found = [(name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer)]
    for path, layer in found:
        names = [name for name in network.peft_config if name in layer.lora_A]  # type: ignore[union-attr]
        layer.merge(adapter_names=names)
        parent, _, child = path.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
    if is_adapted(network):
        del network.peft_config


def digest(network: nn.Module) -> str:
    """Return the digest of all weights of a network.

    With an adapter, it is that of the base and of the matrices; it stays the same when they are merged.
    """
    known: str | None = getattr(network, "merged_digest", None)
    if known is not None:
        return known
    if not is_adapted(network):
        return weights.digest(network.state_dict())
    return combined_digest(base_of(network).digest, [(weights.digest(tensors(network)), 1.0)])


def combined_digest(base: str, parts: Sequence[tuple[str, float]]) -> str:
    """Return the digest of a model with adapters.

    base: the digest of its weights. parts: the digest of the matrices of each adapter, and its weight.
    """
    text = "\n".join([base, *(f"{one} {weight!r}" for one, weight in parts)])
    return hashlib.sha256(text.encode()).hexdigest()
