"""Which number format the matrix products run in."""

import contextlib
from typing import Any, Literal

import torch

from danqing.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def candidates(device: torch.device) -> list[Precision]:
    """Return the formats worth measuring on a device.

    bfloat16 comes first where the hardware is known to have it.
    """
    if device.type == "cuda":
        return ["bfloat16", "float32"] if torch.cuda.is_bf16_supported() else ["float32"]
    if device.type == "cpu":
        return ["bfloat16", "float32"] if torch.cpu._is_avx512_bf16_supported() else ["float32"]
    return ["float32"]


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Run matrix products and convolutions in a precision, within a block.

    Weights stay float32.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def exact() -> contextlib.AbstractContextManager[Any]:
    """Run convolutions of a GPU in exact float32, within a block.

    Their results are the same each time.
    """
    flags: contextlib.AbstractContextManager[Any] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return flags


def choose_device(name: str) -> torch.device:
    """Return the device of a name; raises ConfigError.

    "auto" takes CUDA, then Apple's GPU, then the CPU.
    """
    if name != "auto":
        return _checked(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"There is no device {name!r} here: use auto, cpu, cuda or mps.") from error
    return device
