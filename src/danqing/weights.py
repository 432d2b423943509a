"""Reading safetensors files that nobody vouches for: every claim of the file is checked before it is
used.
"""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from danqing import atomic
from danqing.errors import ModelError
from danqing.names import first_few

MAX_HEADER_BYTES = 100_000_000
_ALIGNED = 64
_MOST_VALUES = 2**58
"""Values of a tensor; the bytes of more than these cannot be counted in 64 bits."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The number formats of safetensors that are known here, by the names in a header."""
FORMATS = {dtype: name for name, dtype in DTYPES.items()}
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04", b"\x1f\x8b")


@dataclass(frozen=True, slots=True)
class InMemory:
    """A safetensors file whose content is in memory.

    name: for sentences.
    content: in writable memory, in which the tensors may stay.
    """

    name: str
    content: memoryview


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a header says of a tensor; start, end: bytes, from the end of the header on."""

    kind: str
    shape: list[int]
    start: int
    end: int


def check(source: Path | InMemory, expected: Mapping[str, Tensor]) -> None:
    """Check that a safetensors file has the expected names and shapes.

    expected: may lie on "meta": nothing is allocated, so that a forged configuration cannot exhaust the
        memory.
    Raises ModelError, with a different message for each: a missing file, a pickle or an archive in disguise,
        a damaged header, a file longer or shorter than its header says, unknown and missing names, other
        shapes.
    """
    header = _header(source)[0]
    unknown, missing = sorted(header.keys() - expected.keys()), sorted(expected.keys() - header.keys())
    if unknown:
        raise ModelError(
            f"{source.name} holds weights that this model does not have ({first_few(unknown)}): do not "
            "use it."
        )
    if missing:
        raise ModelError(
            f"{source.name} lacks weights that this model needs ({first_few(missing)}): get a whole copy."
        )
    for name, shape in ((name, entry.shape) for name, entry in header.items()):
        if shape != list(expected[name].shape):
            raise ModelError(
                f"{source.name} has {name} in the shape {shape}, and config.json says "
                f"{list(expected[name].shape)}: the two files do not belong together."
            )


def stand_ins(source: Path | InMemory) -> dict[str, Tensor]:
    """Return tensors on "meta" like those in a file.

    Only its header is read. A format that is not known here is bytes. Raises ModelError as `check`.
    """
    header = _header(source)[0]
    return {
        name: torch.empty(entry.shape, dtype=DTYPES[entry.kind], device="meta")
        if entry.kind in DTYPES
        else torch.empty(entry.end - entry.start, dtype=torch.uint8, device="meta")
        for name, entry in header.items()
    }


def read(source: Path | InMemory, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors of a checked file.

    expected: gives their number formats.
    """
    try:
        tensors = views(source) if isinstance(source, InMemory) else load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{source.name} cannot be read ({error}): get a whole copy.") from error
    return {name: tensors[name].to(expected[name].dtype) for name in expected}


def compact(source: Path | InMemory, tensors: Iterable[Tensor]) -> None:
    """Copy tensors out of memory of which they use less than half.

    The memory is then freed.
    source: what they were read from. tensors: of a model; some were copied when their layout changed.
    """
    if isinstance(source, InMemory):
        first = np.frombuffer(source.content, np.uint8).ctypes.data
        last = first + len(source.content)
        inside = [tensor for tensor in tensors if first <= tensor.data_ptr() < last]
        if 2 * sum(tensor.nbytes for tensor in inside) < len(source.content):
            for tensor in inside:
                tensor.data = tensor.data.clone()


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file.

    Tensors that share memory are written once each.
    """
    return save({name: on_its_own(tensor) for name, tensor in tensors.items()}, dict(metadata))


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically, without copying the tensors.

    tensors: contiguous, on the CPU.
    """
    with atomic.replacing(path) as file:
        for chunk in chunks(tensors):
            file.write(chunk)


def chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Return a safetensors file in chunks, without copying tensors.

    tensors: contiguous, on the CPU, in the order of the file.
    """
    header, end = dict[str, object](), 0
    for name, tensor in tensors.items():
        offsets = [end, end + tensor.nbytes]
        kind, shape = FORMATS[tensor.dtype], list(tensor.shape)
        header[name], end = {"dtype": kind, "shape": shape, "data_offsets": offsets}, offsets[1]
    text = json.dumps(header).encode()
    text = text.ljust(-(-(len(text) + 8) // _ALIGNED) * _ALIGNED - 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        yield tensor.detach().reshape(-1).view(torch.uint8).numpy().data


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


def views(source: InMemory) -> dict[str, Tensor]:
    """Return the tensors of a file as views of its memory.

    Raises ModelError where the header is damaged, and where tensors overlap.
    """
    entries, data = _header(source)
    found, position = dict[str, Tensor](), 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        kind, count = DTYPES.get(entry.kind), math.prod(entry.shape)
        if kind is None:
            raise ModelError(f"{name} in {source.name} has the format {entry.kind}, which is not known here.")
        if entry.start != position or entry.end - entry.start != count * kind.itemsize:
            raise ModelError(f"{source.name} places {name} where it does not fit: do not use it.")
        position = entry.end
        flat = torch.empty(0, dtype=kind)
        if count:
            flat = torch.frombuffer(source.content, dtype=kind, count=count, offset=data + entry.start)
        found[name] = flat.view(entry.shape)
    return found


def _header(source: Path | InMemory) -> tuple[dict[str, _Entry], int]:
    """Return the tensors in a file whose header agrees with its length, and the bytes before the first."""
    try:
        with _open(source) as (file, size):
            start = file.read(8)
            if len(start) < 8:
                raise ModelError(f"{source.name} is cut short: get a whole copy.")
            length = int.from_bytes(start, "little")
            if length > MAX_HEADER_BYTES:
                if start.startswith(_PICKLE_STARTS):
                    raise ModelError(
                        f"{source.name} is a pickle or an archive, which may run code: use safetensors."
                    )
                raise ModelError(
                    f"{source.name} is not a safetensors file (its header would be {length} bytes long)."
                )
            if length + 8 > size:
                raise ModelError(f"{source.name} is cut short: its header alone should take {length} bytes.")
            header = json.loads(file.read(length).decode("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"There is no {source.name} in {Path(error.filename).parent}.") from error
    except OSError as error:
        raise ModelError(f"{source.name} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{source.name} is not a safetensors file (its header is not JSON).") from error
    try:
        entries = {
            name: _Entry(str(entry["dtype"]), _shape(entry["shape"]), *_counts(entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
        if any(entry.start > entry.end for entry in entries.values()):
            raise ValueError
        end = max((entry.end for entry in entries.values()), default=0)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{source.name} is not a safetensors file (its header has other fields).") from error
    if size > 8 + length + end:
        raise ModelError(
            f"{source.name} is larger than its header says ({size} > {8 + length + end} bytes): do not use "
            "it."
        )
    if size < 8 + length + end:
        raise ModelError(
            f"{source.name} is cut short ({size} of {8 + length + end} bytes): get a whole copy."
        )
    return entries, 8 + length


def _counts(values: Any) -> list[int]:
    """Return whole numbers from 0; raises ValueError for anything else."""
    counts = list(values)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError
    return counts


def _shape(sides: Any) -> list[int]:
    """Return the shape of a tensor; raises ValueError for what no tensor can have."""
    shape = _counts(sides)
    if math.prod(max(1, side) for side in shape) > _MOST_VALUES:
        raise ValueError
    return shape


@contextlib.contextmanager
def _open(source: Path | InMemory) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file at its start, and say how long it is."""
    if isinstance(source, InMemory):
        header = 8 + int.from_bytes(source.content[:8], "little")  # the weights are not copied
        yield io.BytesIO(source.content[:header]), len(source.content)
    else:
        with source.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
