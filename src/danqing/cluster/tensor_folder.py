"""Tensors in a folder: one safetensors file for each rank that wrote it, and a manifest in JSON.

The manifest says where each element of each tensor is, so the folder can be read by any number of ranks. The
folder is written under a temporary name and appears by one rename. What is read is checked first: a manifest
or a file that is damaged, or that anyone has altered, is rejected before its content is used.
"""

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from danqing import atomic, weights

MANIFEST = "manifest.json"
WAIT_SECONDS = 600.0
"""How long rank 0 waits for the files of the others."""
_POLL_SECONDS = 0.02
_MAX_MANIFEST_BYTES = 1 << 28
_FILE = re.compile(r"rank-(0|[1-9][0-9]{0,6})-of-([1-9][0-9]{0,6})\.safetensors")


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring elements of a tensor in row-major order.

    shape: of the whole tensor.
    first: how many elements of the tensor come before them.
    values: flat and contiguous, on the CPU.
    """

    shape: tuple[int, ...]
    first: int
    values: Tensor


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Slice(_Strict):
    """Where elements are. offsets: the first of them in the flattened tensor, and the first after them."""

    file: str
    offsets: list[NonNegativeInt]


class _Entry(_Strict):
    """A tensor. dtype: as safetensors calls it."""

    dtype: str
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 62)]], Field(max_length=64)]
    slices: list[_Slice]


class _File(_Strict):
    bytes: NonNegativeInt
    sha256: str


class _Manifest(_Strict):
    """What `manifest.json` says, besides its own digest. state: of what the tensors belong to."""

    format: Literal[1] = 1
    world: PositiveInt
    state: dict[str, Any]
    files: dict[str, _File]
    tensors: dict[str, _Entry]


def file_name(rank: int, size: int) -> str:
    """Return the name of the file that a rank writes."""
    return f"rank-{rank}-of-{size}.safetensors"


def copied(tensors: Mapping[str, Tensor], rank: int = 0, size: int = 1) -> dict[str, Piece]:
    """Copy to the CPU what a rank writes of tensors that all ranks have.

    The ranks write as many bytes each. All of their pieces together are the tensors.
    """
    total = sum(tensor.nbytes for tensor in tensors.values())
    edges = total * rank // size, total * (rank + 1) // size
    pieces, before = {}, 0
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        first, last = (min(max(edge - before, 0), tensor.nbytes) // max(tensor.itemsize, 1) for edge in edges)
        before += tensor.nbytes
        if last - first == tensor.numel():
            if last or rank == 0:  # rank 0 writes tensors without elements
                values = weights.on_its_own(tensor).reshape(-1)
                pieces[name] = Piece(tuple(tensor.shape), 0, values)
        elif first < last:
            values = weights.on_its_own(tensor.reshape(-1)[first:last])
            pieces[name] = Piece(tuple(tensor.shape), first, values)
    return pieces


def temporary(path: Path) -> Path:
    """Return the name under which a folder is written."""
    return path.with_name(f".{path.name}.tmp")


def write(
    path: Path,
    pieces: Mapping[str, Piece],
    state: Mapping[str, Any],
    *,
    rank: int = 0,
    size: int = 1,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> bool:
    """Write the part of a rank; rank 0 waits for the others, and then publishes the folder.

    path: of the folder. A folder of that name is replaced: until it is deleted, the new one, which is whole,
        has the same name followed by "-again".
    state: plain values; those of rank 0 count.
    is_cancelled: makes rank 0 stop waiting.

    Returns whether this rank has published the folder. Raises OSError, and TimeoutError if another rank does
    not write its part.
    """
    place = temporary(path)
    place.mkdir(exist_ok=True)
    part = _write_part(place, pieces, rank, size)
    if rank:
        atomic.write_json(_facts_file(place, rank), part.model_dump())
        return False
    parts = [part]
    for other in range(1, size):
        found = _await_part(_facts_file(place, other), is_cancelled)
        if found is None:
            return False
        parts.append(found)
    manifest = _merged(parts, state)
    atomic.write_text(place / MANIFEST, _text(manifest))
    for other in range(1, size):
        _facts_file(place, other).unlink()
    _publish(place, path)
    return True


def _publish(place: Path, path: Path) -> None:
    """Give a folder its name; one that has this name stays until the new one is there."""
    again = path.with_name(f"{path.name}-again")
    _settle(again, path)  # if a process was killed in the midst of this
    os.replace(place, again if path.exists() else path)
    atomic.sync_folder(path.parent)
    _settle(again, path)


def _settle(again: Path, path: Path) -> None:
    """Give a folder, if it is there, the name of the one that it replaces."""
    if again.exists():
        if path.exists():
            remove(path)
        os.replace(again, path)
        atomic.sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a folder at once or not at all, as others see it."""
    leaving = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(leaving, ignore_errors=True)
    os.replace(path, leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def read(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors whose names begin with a prefix, and the state.

    Files that hold none of these tensors are not read.
    Raises ValueError, OSError or ModelError if the manifest or a file is damaged or does not fit the other.
    """
    manifest = _read_manifest(path / MANIFEST)
    wanted = {name: entry for name, entry in manifest.tensors.items() if name.startswith(prefix)}
    needed = sorted({piece.file for entry in wanted.values() for piece in entry.slices})
    found = {file: _read_file(path / file, manifest.files[file]) for file in needed}
    return {name: _assembled(name, entry, found) for name, entry in wanted.items()}, manifest.state


class _Part(_Strict):
    """What a rank tells rank 0 of its file."""

    file: _File
    name: str
    tensors: dict[str, _Entry]


def _write_part(place: Path, pieces: Mapping[str, Piece], rank: int, size: int) -> _Part:
    """Write the file of a rank, and return what it holds."""
    name, hasher, count = file_name(rank, size), hashlib.sha256(), 0
    order = sorted(pieces, key=lambda each: (-pieces[each].values.itemsize, each))  # so that all are aligned
    with open(place / name, "wb") as file:
        for chunk in weights.chunks({each: pieces[each].values for each in order}):
            hasher.update(chunk)
            count += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    entries = {
        each: _Entry(
            dtype=weights.FORMATS[pieces[each].values.dtype],
            shape=list(pieces[each].shape),
            slices=[_Slice(file=name, offsets=[piece.first, piece.first + piece.values.numel()])],
        )
        for each, piece in pieces.items()
    }
    return _Part(file=_File(bytes=count, sha256=hasher.hexdigest()), name=name, tensors=entries)


def _facts_file(place: Path, rank: int) -> Path:
    return place / f"rank-{rank}.json"


def _await_part(path: Path, is_cancelled: Callable[[], bool]) -> _Part | None:
    """Wait for what another rank says of its file; None if that is cancelled."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        if is_cancelled():
            return None
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path.stem} has not written its part in {WAIT_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    return _Part.model_validate_json(path.read_text(encoding="utf-8"))


def _merged(parts: Iterable[_Part], state: Mapping[str, Any]) -> _Manifest:
    """Return the manifest of a folder whose parts have been written."""
    files, entries = {}, dict[str, _Entry]()
    for part in parts:
        files[part.name] = part.file
        for name, entry in part.tensors.items():
            known = entries.setdefault(name, entry)
            if known is not entry:
                entries[name] = known.model_copy(update={"slices": [*known.slices, *entry.slices]})
    manifest = _Manifest(world=len(files), state=dict(state), files=files, tensors=entries)
    for name, entry in manifest.tensors.items():
        _check_cover(name, entry)
    return manifest


def _text(manifest: _Manifest) -> str:
    content = manifest.model_dump()
    return json.dumps({"sha256": _digest(content), "manifest": content}) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> _Manifest:
    """Read a manifest; raises ValueError where it is damaged or contradicts itself."""
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise ValueError(f"its manifest is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        content, digest = whole["manifest"], whole["sha256"]
        matches = _digest(content) == digest
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("its manifest is not JSON of the known form") from error
    if not matches:
        raise ValueError("its manifest does not match its digest")
    try:
        manifest = _Manifest.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise ValueError("its manifest has other fields than this version knows") from error
    for file in manifest.files:
        found = _FILE.fullmatch(file)
        if found is None or int(found[2]) != manifest.world or int(found[1]) >= manifest.world:
            raise ValueError(f"its manifest names the file {file!r}, which no rank has written")
    for name, entry in manifest.tensors.items():
        if any(piece.file not in manifest.files for piece in entry.slices):
            raise ValueError(f"its manifest has {name} in a file that it does not list")
        if entry.dtype not in weights.DTYPES:
            raise ValueError(f"its manifest gives {name} the unknown format {entry.dtype!r}")
        _check_cover(name, entry)
    return manifest


def _check_cover(name: str, entry: _Entry) -> None:
    """Raise ValueError unless the slices are the whole tensor, each element once."""
    edges = [tuple(piece.offsets) for piece in _in_order(entry)]
    if any(len(each) != 2 or each[0] > each[1] for each in edges):
        raise ValueError(f"its manifest has offsets of {name} that are not a range")
    follow = all(one[1] == other[0] for one, other in itertools.pairwise(edges))
    whole = bool(edges) and edges[0][0] == 0 and edges[-1][1] == math.prod(entry.shape)
    if not (follow and whole):
        raise ValueError(f"its manifest does not have every element of {name} once")
    if len({piece.file for piece in entry.slices}) != len(entry.slices):
        raise ValueError(f"its manifest has {name} twice in one file")


def _in_order(entry: _Entry) -> list[_Slice]:
    return sorted(entry.slices, key=lambda piece: piece.offsets)


def _read_file(path: Path, expected: _File) -> dict[str, Tensor]:
    """Read the tensors of a file that has the expected digest; they stay in the memory that was read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected.bytes:
            raise ValueError(f"{path.name} has {size} bytes instead of {expected.bytes}")
        content = bytearray(size)
        if file.readinto(content) != size:
            raise ValueError(f"{path.name} is cut short")
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise ValueError(f"{path.name} does not match its digest")
    return weights.views(weights.InMemory(path.name, memoryview(content)))


def _assembled(name: str, entry: _Entry, found: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """Return a tensor from its slices; raises ValueError where a file does not hold them as promised."""
    values = []
    for piece in _in_order(entry):
        value = found[piece.file].get(name)
        count = piece.offsets[1] - piece.offsets[0]
        if value is None or value.dtype != weights.DTYPES[entry.dtype] or value.numel() != count:
            raise ValueError(f"{piece.file} does not hold {name} as the manifest says")
        values.append(value.reshape(-1))
    try:
        return (values[0] if len(values) == 1 else torch.cat(values)).view(entry.shape)
    except RuntimeError as error:
        raise ValueError(f"its manifest gives {name} a shape that is not possible") from error
