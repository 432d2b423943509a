"""Weights that PyTorch has saved, read without unpickling: no name in the file is ever looked up or called.

A `.pth` file describes its tensors in the language of pickle, which can call any function. Here that
language is read by an interpreter that knows only what a dictionary of tensors needs, and refuses the rest.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from danqing.errors import EvaluationError

_NUMBERS = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MAGIC = 0x1950A86A20F9469CFC6C
"""What the older format of `torch.save` begins with."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT"}


class _RefusedError(Exception):
    """The file holds something else than tensors by name."""


@dataclass(frozen=True)
class _Storage:
    key: str
    numbers: torch.dtype


@dataclass(frozen=True)
class _View:
    """A tensor as the file describes it: where it lies in a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """Something that a pickle would import."""

    text: str


_MARK = object()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or of a state dictionary.

    Both formats of `torch.save` are read.

    Raises EvaluationError where the file cannot be read or holds anything but tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        file = io.BytesIO(path.read_bytes())
        return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror or error}): name a file of weights."
        ) from error
    except (_RefusedError, SafetensorError, zipfile.BadZipFile) as error:
        raise EvaluationError(
            f"{path} is not a file of weights that can be read safely ({error}): save its state dictionary "
            "as safetensors."
        ) from error
    except (
        *(ValueError, LookupError, TypeError, AttributeError, EOFError, struct.error),
        *(RuntimeError, ArithmeticError, MemoryError),
    ) as error:
        raise EvaluationError(f"{path} is damaged, or no file of weights: get a whole copy.") from error


def _read_zip(file: io.BytesIO) -> dict[str, Tensor]:
    with zipfile.ZipFile(file) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _RefusedError("it is compressed")
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise _RefusedError("its numbers are big-endian")
        views = _views(_interpret(io.BytesIO(archive.read(names["data.pkl"]))))
        keys = {view.storage.key for view in views.values()}
        contents = {key: archive.read(names[f"data/{key}"]) for key in keys}
    return _tensors(views, contents.__getitem__)


def _read_legacy(file: io.BytesIO) -> dict[str, Tensor]:
    """Five pickles (magic, version, system, tensors, keys of storages), then each storage: length, values."""
    file.seek(0)
    if _interpret(file) != _MAGIC or _interpret(file) != 1001:
        raise _RefusedError("it is in no format of torch.save")
    if _interpret(file).get("little_endian") is not True:
        raise _RefusedError("its numbers are big-endian")
    views = _views(_interpret(file))
    bytes_each = {view.storage.key: view.storage.numbers.itemsize for view in views.values()}
    contents = {}
    for key in _interpret(file):
        (length,) = struct.unpack("<q", file.read(8))
        contents[key] = file.read(length * bytes_each[key]) if length > 0 else b""
    return _tensors(views, contents.__getitem__)


def _views(found: Any) -> dict[str, _View]:
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, _View) for name, value in found.items()
    ):
        raise _RefusedError("it holds other things than tensors by name")
    return found


def _tensors(views: dict[str, _View], content: Callable[[str], bytes]) -> dict[str, Tensor]:
    storages = {
        view.storage: _values(content(view.storage.key), view.storage.numbers) for view in views.values()
    }
    for name, view in views.items():  # a few bytes may describe a tensor larger than any memory
        if math.prod(view.size) > len(storages[view.storage]):
            raise _RefusedError(f"{name} is larger than its values")
    return {
        name: storages[view.storage].as_strided(view.size, view.stride, view.offset).contiguous()
        for name, view in views.items()
    }


def _values(content: bytes, numbers: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=numbers) if content else torch.empty(0, dtype=numbers)


def _interpret(file: io.BytesIO) -> Any:
    """The value of the pickle that `file` stands at: plain values, dictionaries, and `_View` for tensors."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def to_mark() -> list[Any]:
        place = max(number for number, item in enumerate(stack) if item is _MARK)
        items = stack[place + 1 :]
        del stack[place:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _LITERALS:
                stack.append(argument)
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = to_mark()
                stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                items = to_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_Name(argument.replace(" ", ".")))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_built(called, arguments))
            case "BUILD":  # attributes of the dictionary: the versions of its modules
                stack.pop()
            case name:
                raise _RefusedError(f"it uses the instruction {name}")
    raise _RefusedError("it ends too early")


def _built(called: Any, arguments: tuple[Any, ...]) -> Any:
    """What the only three functions make that a state dictionary needs."""
    match called:
        case _Name("collections.OrderedDict") if not arguments:
            return {}
        case _Name("torch._utils._rebuild_tensor_v2"):
            storage, offset, size, stride, *_ = arguments
            if not isinstance(storage, _Storage):
                raise _RefusedError("it has a tensor without values")
            return _View(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))
        case _Name("torch._utils._rebuild_parameter"):
            return arguments[0]
        case _Name(text):
            raise _RefusedError(f"it calls {text}")
    raise _RefusedError("it calls what has no name")


def _storage(reference: Any) -> _Storage:
    kind, numbers, key, *_ = reference
    module, _, name = numbers.text.rpartition(".")
    if kind != "storage" or module != "torch" or name not in _NUMBERS:
        raise _RefusedError(f"it refers to a {numbers.text}")
    return _Storage(str(key), _NUMBERS[name])
