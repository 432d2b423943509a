"""Reading safetensors files that nobody vouches for: every claim of the file is checked before it is
believed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from danqing.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04", b"\x1f\x8b")


def check(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Check that a safetensors file has the expected names and shapes.

    expected: may lie on "meta": nothing is allocated, so that a forged configuration cannot exhaust the
        memory.
    Raises ModelError, with a different message for each: a missing file, a pickle or an archive in disguise,
        a damaged header, a file longer or shorter than its header says, unknown and missing names, other
        shapes.
    """
    header = _header(path)
    unknown, missing = sorted(header.keys() - expected.keys()), sorted(expected.keys() - header.keys())
    if unknown:
        raise ModelError(
            f"{path.name} holds weights that this model does not have ({_some(unknown)}): do not use it."
        )
    if missing:
        raise ModelError(
            f"{path.name} lacks weights that this model needs ({_some(missing)}): get a whole copy."
        )
    for name, shape in header.items():
        if shape != list(expected[name].shape):
            raise ModelError(
                f"{path.name} has {name} in the shape {shape}, and config.json says "
                f"{list(expected[name].shape)}: the two files do not belong together."
            )


def read(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors of a checked file.

    expected: gives their number formats.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read ({error}): get a whole copy.") from error
    return {name: tensors[name].to(expected[name].dtype) for name in expected}


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file.

    Tensors that share memory are written once each.
    """
    return save({name: on_its_own(tensor) for name, tensor in tensors.items()}, dict(metadata))


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with float16 in place of float32.

    `read` gives them back in float32. Raises ModelError where a value is too large for float16.
    """
    half = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            half[name] = tensor.half()
    for name, tensor in half.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} has values that float16 cannot hold: save the model in float32.")
    return half


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the sha256 of some tensors, in hexadecimal.

    Their names, formats and values count.
    """
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = on_its_own(tensors[name])
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def on_its_own(tensor: Tensor) -> Tensor:
    """Copy a tensor to contiguous memory on the CPU.

    No other tensor shares the memory. This is what safetensors can write.
    """
    return torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)


def _header(path: Path) -> dict[str, list[int]]:
    """Names and shapes of a file whose header agrees with its length."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise ModelError(f"{path.name} is cut short: get a whole copy.")
            length = int.from_bytes(start, "little")
            if length > MAX_HEADER_BYTES:
                if start.startswith(_PICKLE_STARTS):
                    raise ModelError(
                        f"{path.name} is a pickle or an archive, which may run code: use safetensors."
                    )
                raise ModelError(
                    f"{path.name} is not a safetensors file (its header would be {length} bytes long)."
                )
            if length + 8 > size:
                raise ModelError(f"{path.name} is cut short: its header alone should take {length} bytes.")
            header = json.loads(file.read(length).decode("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"There is no {path.name} in {path.parent}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not a safetensors file (its header is no JSON).") from error
    try:
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: [int(side) for side in entry["shape"]] for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{path.name} is not a safetensors file (its header has other fields).") from error
    if size > 8 + length + end:
        raise ModelError(
            f"{path.name} is larger than its header says ({size} > {8 + length + end} bytes): do not use it."
        )
    if size < 8 + length + end:
        raise ModelError(f"{path.name} is cut short ({size} of {8 + length + end} bytes): get a whole copy.")
    return shapes


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
