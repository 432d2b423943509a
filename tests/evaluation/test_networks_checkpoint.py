"""Weights are read from what `torch.save` writes, and nothing in a file is ever run."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from danqing.errors import EvaluationError
from danqing.pretrained.checkpoint import read_tensors

FORMATS = pytest.mark.parametrize("new_format", [True, False])


def _state() -> dict[str, Tensor]:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5))
    state = dict(net.state_dict())
    state["transposed"] = torch.arange(6.0).reshape(2, 3).T
    state["part"] = torch.arange(10, dtype=torch.float64)[3:7]
    state["same memory"] = state["2.weight"][1:]
    for dtype in (torch.float16, torch.bfloat16, torch.int32, torch.int16, torch.int8, torch.uint8):
        state[str(dtype)] = torch.arange(3).to(dtype)
    return state | {
        "truth": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 2),
    }


@FORMATS
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_torch_saves_is_read(tmp_path: Path, new_format: bool, wrapped: bool) -> None:
    state, path = _state(), tmp_path / "weights.pth"
    torch.save({"state_dict": state} if wrapped else state, path, _use_new_zipfile_serialization=new_format)
    found = read_tensors(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@FORMATS
def test_a_modules_own_dictionary_is_read(tmp_path: Path, new_format: bool) -> None:
    """An ordered dictionary with attributes, as `state_dict` returns it, and parameters beside buffers."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for state in (net.state_dict(), dict(net.named_parameters())):
        torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=new_format)
        found = read_tensors(tmp_path / "weights.pth")
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(read_tensors(tmp_path / "w.safetensors")["a"], torch.ones(2))


class _Evil:
    """What a hostile file would hold: a call, made while the file is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@FORMATS
def test_a_malicious_file_is_refused_and_not_run(tmp_path: Path, new_format: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    for content in (
        {"weight": torch.ones(2), "evil": _Evil(trace)},
        _Evil(trace),
        nn.Linear(2, 2),
        {"weight": torch.ones(2), "number": 3},
    ):
        torch.save(content, path, _use_new_zipfile_serialization=new_format)
        with pytest.raises(EvaluationError, match=r"safely|damaged"):
            read_tensors(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(_Evil(trace), protocol))
    with pytest.raises(EvaluationError):
        read_tensors(path)
    assert not trace.exists()


@FORMATS
def test_a_tensor_larger_than_its_values_is_refused(tmp_path: Path, new_format: bool) -> None:
    """Without a stride, a single number fills any shape: a terabyte here, if it were believed."""
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(1).expand(2**40)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(EvaluationError, match="larger than its values"):
        read_tensors(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), new_format=st.booleans())
def test_a_damaged_file_is_an_error_that_a_user_understands(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, new_format: bool
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "weights.pth"
    torch.save({"w": torch.ones(3, 2)}, path, _use_new_zipfile_serialization=new_format)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_tensors(path)
    except EvaluationError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in found.values())


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="name a file of weights"):
        read_tensors(tmp_path / "none.pth")
