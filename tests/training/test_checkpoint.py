"""A checkpoint reads back bit for bit, and one that is damaged is never believed."""

import pytest
import torch

from danqing.errors import TrainingError
from danqing.training import checkpoint


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a/weight": torch.randn(5, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "a/half": torch.randn(7, generator=generator).bfloat16(),
        "a/count": torch.tensor(7),
        "a/flags": torch.tensor([True, False]),
    }


def test_what_was_written_is_read(tmp_path):
    checkpoint.write(tmp_path, 64, tensors(0), {"step": 1, "seconds": 0.1})
    read, state, complaints = checkpoint.read_latest(tmp_path)
    assert state == {"step": 1, "seconds": 0.1}
    assert not complaints
    assert all(
        torch.equal(read[name], value) and read[name].dtype == value.dtype
        for name, value in tensors(0).items()
    )


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    checkpoint.write(tmp_path, 64, tensors(0), {"step": 1})
    newest = checkpoint.write(tmp_path, 128, tensors(1), {"step": 2})
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-10] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        content[20] ^= 255
    newest.write_bytes(bytes(content))
    read, state, complaints = checkpoint.read_latest(tmp_path)
    assert state == {"step": 1}
    assert torch.equal(read["a/weight"], tensors(0)["a/weight"])
    assert newest.name in complaints[0]
    newest.with_name("images-000000000064.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match="whole"):
        checkpoint.read_latest(tmp_path)


def test_only_the_newest_few_are_kept_and_leftovers_removed(tmp_path):
    (tmp_path / ".images-000000000001.safetensors.abc.tmp").write_bytes(b"half")
    for images in (10, 20, 30, 40):
        checkpoint.write(tmp_path, images, tensors(images), {})
    checkpoint.read_latest(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["images-000000000030.safetensors", "images-000000000040.safetensors"]


def test_nothing_there_is_none(tmp_path):
    assert checkpoint.read_latest(tmp_path) is None
