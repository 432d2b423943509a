"""Puts a loaded pipeline on a device, as its options say."""

from collections.abc import Mapping
from typing import Any

import torch

from danqing import machine
from danqing.errors import ConfigError, ModelError, first_line
from danqing.pipelines.kinds import Kind
from danqing.pipelines.memory import MemoryEstimate
from danqing.pipelines.options import LoadOptions
from danqing.quantities import memory


def least_offload(options: LoadOptions, device: torch.device) -> str:
    """Return what is offloaded at least, where the options leave it open."""
    if device.type == "cpu":
        return "none"
    return "model" if options.offload == "auto" else options.offload


def choose_offload(needed: MemoryEstimate, options: LoadOptions, device: torch.device) -> str:
    """Return what is offloaded; raises ModelError where a pipeline does not fit.

    needed: by the pipeline with these options.
    """
    free, least = machine.available_memory(device), least_offload(options, device)
    chosen = "none" if options.offload == "auto" and needed.on_device("none") <= free else least
    if needed.on_device(chosen) > free:
        raise ModelError(
            f"The pipeline needs {memory(needed.on_device(chosen))} of memory, and {device} has "
            f"{memory(free)} free: {advice(options, device, chosen)}."
        )
    return chosen


def advice(options: LoadOptions, device: torch.device, offload: str) -> str:
    """Return which option saves memory next, as the end of a sentence."""
    if options.torch_dtype(device) == torch.float32:
        return "load it with dtype=bfloat16"
    if options.chunk > 1:
        return "load it with chunk=1"
    if not options.tiling:
        return "load it with tiling=true"
    if offload == "none" and device.type != "cpu":
        return "load it with offload=model"
    if options.quantize == "none":
        return "load it with quantize=float8"
    if offload == "model" and device.type != "cpu":
        return "load it with offload=sequential"
    return "choose a smaller size, or a machine with more memory"


def place(pipe: Any, kind: Kind, options: LoadOptions, device: torch.device, offload: str) -> None:
    """Put a pipeline on a device.

    Raises ConfigError for options that it cannot have.
    """
    denoiser = getattr(pipe, kind.denoiser)
    if options.quantize == "float8":
        denoiser.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=options.torch_dtype(device)
        )
    if options.attention != "auto":
        _choose_attention(denoiser, options.attention)
    for name, is_on in {"tiling": options.tiling, "slicing": options.slicing}.items():
        if is_on:
            method = getattr(getattr(pipe, "vae", None), f"enable_{name}", None)
            if method is None:
                raise ConfigError(f"The autoencoder of this pipeline has no {name}: leave it out.")
            method()
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)


def _choose_attention(denoiser: Any, backend: str) -> None:
    """Choose what computes attention in a denoiser."""
    processors: Mapping[str, Any] = getattr(denoiser, "attn_processors", {})
    if not any(hasattr(one, "_attention_backend") for one in processors.values()):
        raise ConfigError(
            "The attention of this pipeline has no backends to choose from: leave attention out."
        )
    try:
        denoiser.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"attention={backend} cannot be used: {first_line(error)}") from error
