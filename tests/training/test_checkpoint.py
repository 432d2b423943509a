"""A checkpoint reads back bit for bit at any number of ranks, and one that is damaged is never used."""

import copy
import hashlib
import json
import os
import threading

import pytest
import torch
from safetensors.torch import load_file, save

from danqing.cluster import tensor_folder
from danqing.errors import TrainingError
from danqing.training import checkpoint
from tests.checkpoints import write

MANIFEST = "manifest.json"


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a/weight": torch.randn(5, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "a/half": torch.randn(7, generator=generator).bfloat16(),
        "a/count": torch.tensor(7),
        "a/flags": torch.tensor([True, False]),
        "a/none": torch.zeros(0, 3),
        "b/wide": torch.randn(11, 3, generator=generator)[:, 1:],
    }


def are_equal(read, written):
    return read.keys() == written.keys() and all(
        torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in written.items()
    )


def test_what_was_written_is_read(tmp_path):
    write(tmp_path, 64, tensors(0), {"step": 1, "seconds": 0.1})
    read, state, complaints = checkpoint.read_latest(tmp_path)
    assert state == {"step": 1, "seconds": 0.1}
    assert not complaints
    assert are_equal(read, tensors(0))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_what_ranks_share_the_writing_of_is_read_by_any_number(tmp_path, size):
    written = tensors(0)
    for rank in reversed(range(size)):  # rank 0 finds what the others have written
        writer = checkpoint.Writer(tmp_path, rank, size)
        writer.begin(64, written, {"rank": rank})
        writer.wait()
        assert bool(checkpoint.checkpoints(tmp_path)) == (rank == 0)
    folder = tmp_path / "images-000000000064"
    parts = [f"rank-{rank}-of-{size}.safetensors" for rank in range(size)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([MANIFEST, *parts])
    bytes_of = [sum(value.nbytes for value in load_file(folder / part).values()) for part in parts]
    assert sum(bytes_of) == sum(value.nbytes for value in written.values())
    assert max(bytes_of) - min(bytes_of) < 16
    read, state, _ = checkpoint.read_latest(tmp_path)
    assert are_equal(read, written)
    assert state == {"rank": 0}
    some, _ = tensor_folder.read(folder, "b/")
    assert are_equal(some, {"b/wide": written["b/wide"]})


def test_the_caller_goes_on_while_a_checkpoint_is_written(tmp_path):
    goes_on, written = threading.Event(), tensors(0)
    state = {"step": [1]}
    writer = checkpoint.Writer(tmp_path)
    writer.begin(64, written, state, before=lambda: goes_on.wait(60) and None)
    assert writer.is_writing
    for value in written.values():
        value.zero_()
    state["step"].append(2)
    assert not checkpoint.checkpoints(tmp_path)
    writer.check()
    goes_on.set()
    writer.wait()
    read, kept, _ = checkpoint.read_latest(tmp_path)
    assert are_equal(read, tensors(0))
    assert kept == {"step": [1]}


def test_a_write_that_fails_is_reported_once_it_is_over_and_keeps_the_one_before(tmp_path):
    write(tmp_path, 64, tensors(0), {"step": 1})
    writer = checkpoint.Writer(tmp_path)
    (tmp_path / ".images-000000000128.tmp").write_bytes(b"in the way")
    writer.begin(128, tensors(1), {"step": 2})
    with pytest.raises(TrainingError, match=r"cannot be written to .*: free some space .* the same command"):
        writer.wait()
    writer.check()
    assert checkpoint.read_latest(tmp_path)[1] == {"step": 1}


def test_a_state_is_replaced_by_a_later_one_after_the_same_images(tmp_path):
    for step in (1, 2):
        write(tmp_path, 64, tensors(step), {"step": step})
    read, state, _ = checkpoint.read_latest(tmp_path)
    assert state == {"step": 2}
    assert are_equal(read, tensors(2))
    assert len(list(tmp_path.iterdir())) == 1


class Killed(BaseException):
    """What stands for the end of a process."""


def test_a_process_that_is_killed_while_a_state_is_replaced_leaves_a_whole_one(tmp_path, monkeypatch):
    calls = [(os, "replace"), (os, "rename"), (os, "rmdir"), (os, "unlink"), (os, "fsync"), (os, "mkdir")]
    real, left = {name: getattr(module, name) for module, name in calls}, [0]

    def mortal(name):
        def call(*args, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real[name](*args, **options)

        return call

    write(tmp_path, 64, tensors(0), {"step": 0})
    pieces, path = tensor_folder.copied(tensors(1)), tmp_path / "images-000000000064"
    survivals = 0
    with monkeypatch.context() as patch:
        for module, name in calls:
            patch.setattr(module, name, mortal(name))
        for survivals in range(100):
            left[0] = survivals
            try:
                tensor_folder.write(path, pieces, {"step": 1})
                break
            except Killed:
                left[0] = -1
                read, state, complaints = checkpoint.read_latest(tmp_path)
                assert are_equal(read, tensors(state["step"]))
                assert not complaints
    assert survivals > 10
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert checkpoint.read_latest(tmp_path)[1] == {"step": 1}


def test_a_checkpoint_without_all_parts_never_appears(tmp_path):
    writer = checkpoint.Writer(tmp_path, 0, 2)
    writer.begin(64, tensors(0), {})
    writer.stop()
    assert checkpoint.read_latest(tmp_path) is None


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0",
    "flip": lambda content: content[:-10] + bytes([content[-10] ^ 1]) + content[-9:],
    "empty": lambda content: b"",
    "start": lambda content: content[:20] + bytes([content[20] ^ 255]) + content[21:],
}


@pytest.mark.parametrize("file", ["rank-0-of-1.safetensors", MANIFEST])
@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, file):
    older = write(tmp_path, 64, tensors(0), {"step": 1})
    newest = write(tmp_path, 128, tensors(1), {"step": 2})
    if damage == "missing":
        (newest / file).unlink()
    else:
        (newest / file).write_bytes(DAMAGES[damage]((newest / file).read_bytes()))
    if (damage, file) == ("longer", MANIFEST):
        (newest / file).write_bytes((newest / file).read_bytes() + b"{}")  # a byte alone is still JSON
    read, state, complaints = checkpoint.read_latest(tmp_path)
    assert state == {"step": 1}
    assert torch.equal(read["a/weight"], tensors(0)["a/weight"])
    assert newest.name in complaints[0]
    assert "\n" not in complaints[0]
    (older / MANIFEST).write_bytes(b"")
    with pytest.raises(TrainingError, match="whole"):
        checkpoint.read_latest(tmp_path)


def _tensor(**changes):
    return lambda manifest: manifest["tensors"]["a/weight"].update(changes)


def _slices(*offsets, files=("rank-0-of-2.safetensors", "rank-1-of-2.safetensors")):
    return _tensor(
        slices=[{"file": file, "offsets": list(each)} for file, each in zip(files, offsets, strict=False)]
    )


def _renamed(file):
    def change(manifest):
        manifest["files"][file] = manifest["files"].pop("rank-1-of-2.safetensors")
        for entry in manifest["tensors"].values():
            for piece in entry["slices"]:
                piece["file"] = piece["file"].replace("rank-1-of-2.safetensors", file)

    return change


HOSTILE = {
    "elements that are missing": _slices((0, 100)),
    "elements that are there twice": _slices((0, 100), (50, 135)),
    "a gap": _slices((0, 100), (101, 135)),
    "a range that ends before it begins": _slices((0, 135), (135, 0)),
    "offsets that are no pair": _slices((0, 135, 3)),
    "negative offsets": _slices((-5, 135)),
    "a tensor twice in one file": _slices((0, 70), (70, 135), files=["rank-0-of-2.safetensors"] * 2),
    "no slices": _tensor(slices=[]),
    "more elements than the files have": _tensor(
        shape=[1 << 40], slices=[{"file": "rank-0-of-2.safetensors", "offsets": [0, 1 << 40]}]
    ),
    "a size beyond numbers": _tensor(shape=[1 << 61, 1 << 61]),
    "a size that is no number": _tensor(shape=["5", 27]),
    "a thousand sides": _tensor(shape=[135] + [1] * 1000),
    "another number format": _tensor(dtype="F16"),
    "a format that is not known": _tensor(dtype="object"),
    "a file outside of the folder": _renamed("../rank-1-of-2.safetensors"),
    "a file of another world": _renamed("rank-1-of-3.safetensors"),
    "a rank beyond the world": _renamed("rank-2-of-2.safetensors"),
    "a file that is not listed": _slices((0, 135), files=["rank-7-of-2.safetensors"]),
    "a later format": lambda manifest: manifest.update(format=2),
    "a field that is not known": lambda manifest: manifest.update(code="print()"),
    "no files": lambda manifest: manifest.pop("files"),
    "a state that is a list": lambda manifest: manifest.update(state=[]),
}


@pytest.fixture(scope="module")
def written_by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for rank in (1, 0):
        pieces = tensor_folder.copied(tensors(0), rank, 2)
        tensor_folder.write(folder / "images-000000000064", pieces, {"step": 1}, rank=rank, size=2)
    return folder / "images-000000000064"


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_manifest_is_rejected_in_one_sentence(written_by_two, attack):
    original = (written_by_two / MANIFEST).read_text()
    manifest = copy.deepcopy(json.loads(original)["manifest"])
    HOSTILE[attack](manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    try:
        (written_by_two / MANIFEST).write_text(json.dumps({"sha256": digest, "manifest": manifest}))
        with pytest.raises(ValueError, match=r"^(its manifest|rank-\d-of-2.safetensors) ") as caught:
            tensor_folder.read(written_by_two)
        assert "\n" not in str(caught.value)
    finally:
        (written_by_two / MANIFEST).write_text(original)
    assert are_equal(tensor_folder.read(written_by_two)[0], tensors(0))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"sha256": 1, "manifest": []}', "7", "\xff"])
def test_a_manifest_that_is_something_else_is_rejected(written_by_two, text):
    original = (written_by_two / MANIFEST).read_text()
    try:
        (written_by_two / MANIFEST).write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"^its manifest "):
            tensor_folder.read(written_by_two)
    finally:
        (written_by_two / MANIFEST).write_text(original)


def test_only_the_newest_few_are_kept(tmp_path):
    for images in (10, 20, 30, 40):
        write(tmp_path, images, tensors(images), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-000000000030", "images-000000000040"]


def test_a_checkpoint_of_an_earlier_version_is_read_and_makes_room_for_new_ones(tmp_path):
    plain = {name: value.contiguous() for name, value in tensors(0).items()}
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(plain):
        digest.update(name.encode() + plain[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    content = save(plain, {"state": '{"step": 1}', "digest": digest.hexdigest()})
    (tmp_path / "images-000000000010.safetensors").write_bytes(content)
    read, state, _ = checkpoint.read_latest(tmp_path)
    assert are_equal(read, plain)
    assert state == {"step": 1}
    write(tmp_path, 10, tensors(1), {"step": 2})  # after a return to it
    assert checkpoint.read_latest(tmp_path)[1] == {"step": 2}
    (tmp_path / "images-000000000020.safetensors").write_bytes(content[:-1])
    assert len(checkpoint.read_latest(tmp_path)[2]) == 1
    for images in (30, 40):
        write(tmp_path, images, tensors(images), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-000000000030", "images-000000000040"]


def test_nothing_there_is_none(tmp_path):
    assert checkpoint.read_latest(tmp_path) is None
