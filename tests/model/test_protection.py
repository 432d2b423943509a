"""Models that are signed or sealed load as plain ones do; 1,000 of 1,000 altered ones are rejected."""

import importlib.util
import random
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import danqing as dq
from danqing import weights
from danqing.errors import DanqingError, ModelError, TrustError
from danqing.evaluation.candidate import is_model
from danqing.model import protection
from danqing.model.files import Access, open_files
from danqing.trust import keys, seal, sealed_file, signature
from danqing.trust.sealed_file import MAC_BYTES, PREFIX_BYTES, TAG_BYTES

GOLDEN = Path(__file__).parents[1] / "golden" / "vae"
ATTEMPTS = 500
"""Of each kind: on a signed folder, and on a sealed file."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "cats"))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    keys.create_signing_key(tmp_path / "release.key")
    return tmp_path / "release.key"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    keys.create_sealing_key(tmp_path / "mine.key")
    return tmp_path / "mine.key"


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def test_a_signed_and_sealed_model_samples_as_the_plain_one(
    folder: Path, release: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dq.load(folder).sample(3, seed=5).array
    assert dq.sign(folder, release) == folder / "model.sig"
    signed = dq.load(folder, require=public(release))
    assert np.array_equal(signed.sample(3, seed=5).array, expected)
    assert signed.origin == folder
    sealed = dq.seal(folder, tmp_path / "cats.sealed", to=public(mine))
    assert is_model(sealed)
    model = dq.load(sealed, key=mine, require=[public(release)])
    assert np.array_equal(model.sample(3, seed=5).array, expected)
    assert model.origin is None
    with pytest.raises(sealed_file.WrongKeyError):
        dq.load(sealed)
    monkeypatch.setenv("DANQING_SEAL_KEY", str(mine))
    assert np.array_equal(dq.load(sealed).sample(3, seed=5).array, expected)
    back = dq.unseal(sealed, tmp_path / "back" / "cats")
    assert stat.S_IMODE(back.stat().st_mode) == 0o700
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


_written: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str):
        mode, flags = arguments[1] or "", arguments[2] or 0
        if set(mode) & set("wax+") or flags & 3:  # O_WRONLY or O_RDWR
            _written.append(arguments[0])


def test_a_sealed_model_is_decrypted_in_memory_only(folder: Path, mine: Path, tmp_path: Path) -> None:
    global _watching  # a hook stays until Python ends
    sealed = dq.seal(folder, tmp_path / "it", to=[public(mine)])
    sys.addaudithook(_watch)
    (tmp_path / "seen").write_text("before")
    _watching = True
    try:
        (tmp_path / "seen").write_text("during")
        dq.load(sealed, key=mine).sample(1, seed=0)
    finally:
        _watching = False
    assert _written == [str(tmp_path / "seen")]


def test_memory_that_weights_hardly_use_is_freed() -> None:
    tensors = {"large": torch.ones(3, 5, 4, 4), "small": torch.arange(5.0), "none": torch.empty(0, 2)}
    buffer = bytearray(weights.to_bytes(tensors, {}))
    source = weights.InMemory("it", memoryview(buffer))
    weights.check(source, tensors)
    found = weights.read(source, tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    weights.compact(source, found.values())  # nothing is copied while all of it is used
    with pytest.raises(BufferError):
        buffer.clear()
    del found["large"]
    weights.compact(source, found.values())
    source.content.release()
    buffer.clear()
    assert torch.equal(found["small"], tensors["small"])


def test_a_file_in_memory_whose_tensors_overlap_or_leave_it_is_rejected() -> None:
    content = weights.to_bytes({"a": torch.zeros(4), "b": torch.zeros(4)}, {})
    for old, new in (
        (b"[16,32]", b"[ 0,32]"),
        (b"[0,16]", b"[0,12]"),
        (b"[0,16]", b"[-9,9]"),
        (b'"F32"', b'"F64"'),
        (b'"F32"', b'"F9 "'),
    ):
        assert old in content
        hostile = weights.InMemory("it", memoryview(bytearray(content.replace(old, new, 1))))
        with pytest.raises(ModelError):
            weights.read(hostile, {"a": torch.zeros(4), "b": torch.zeros(4)})


def test_what_was_verified_is_what_is_loaded(folder: Path, release: Path) -> None:
    dq.sign(folder, release)
    files = open_files(folder, access=Access(require=(public(release),)))
    before = (folder / "config.json").read_bytes()
    (folder / "config.json").write_text("{}")  # by someone between the check and its use
    assert files.read("config.json") == before


def test_only_whole_models_of_ones_own_are_signed_and_sealed(
    folder: Path, release: Path, mine: Path, tmp_path: Path
) -> None:
    sealed = dq.seal(folder, tmp_path / "it", to=public(mine))
    for model, sentence in (
        (sealed, "sealed already"),
        ("demo", "not a folder of yours"),
        ("someone/cats", "not a folder of yours"),
        (tmp_path, "not a model folder"),
    ):
        with pytest.raises(ModelError, match=sentence):
            dq.sign(model, release)
        with pytest.raises(ModelError, match=sentence):
            dq.seal(model, tmp_path / "other", to=public(mine))
    with pytest.raises(TrustError, match="exists"):
        dq.seal(folder, sealed, to=public(mine))
    with pytest.raises(ModelError, match="not a sealed model"):
        dq.unseal(folder / "config.json", tmp_path / "out")
    with pytest.raises(TrustError, match="not empty"):
        dq.unseal(sealed, folder, key=mine)
    with pytest.raises(TrustError, match="Nothing is required"):
        protection.check_signature(folder, ())


def test_without_cryptography_one_sentence_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for use in (
        lambda: dq.sign(folder, "release.key"),
        lambda: dq.seal(folder, "it", to="mine.pub"),
        lambda: dq.load(folder, require="release.pub"),
    ):
        (folder / "model.sig").touch()
        with pytest.raises(TrustError, match=r"pip install 'danqing\[trust\]'"):
            use()
    assert dq.load(folder).info()["family"] == "vae"


def altered(content: bytes, dice: random.Random) -> bytes:
    """A file with a bit flipped, cut short, lengthened, or with two of its parts exchanged."""
    kind, place = dice.randrange(4), dice.randrange(dice.choice([500, len(content)]))
    if kind == 0:
        return content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content + dice.randbytes(dice.randint(1, 99))
    half = len(content) // 2
    return content[half:] + content[:half]


def test_500_of_500_alterations_of_a_signed_model_are_rejected(
    folder: Path, release: Path, tmp_path: Path
) -> None:
    dice = random.Random(19)
    dq.sign(folder, release)
    keys.create_signing_key(tmp_path / "other.key")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    dq.sign(other, tmp_path / "other.key")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    names, seen = sorted(set(whole) - {"model.sig"}), set()
    for _ in range(ATTEMPTS):
        path, kind = folder / dice.choice(names), dice.randrange(7)
        if kind <= 2:
            path.write_bytes(altered(path.read_bytes(), dice))
        elif kind == 3:
            path.unlink()
        elif kind == 4:
            (folder / dice.choice(["extra.json", "model.bin", ".hidden", "Config.json"])).touch()
        elif kind == 5:
            path.rename(folder / f"{path.name}.old")
        else:
            (folder / "model.sig").write_bytes((other / "model.sig").read_bytes())
        with pytest.raises(signature.SignatureError) as told:
            dq.load(folder, require=public(release))
        seen.add(told.type)
        for extra in {path.name for path in folder.iterdir()} - set(whole):
            (folder / extra).unlink()
        for name in (path.name, "model.sig"):
            (folder / name).write_bytes(whole[name])
    assert len(seen) == 4
    dq.load(folder, require=public(release))


def test_500_of_500_alterations_of_a_sealed_model_are_rejected(
    folder: Path, mine: Path, tmp_path: Path
) -> None:
    dice, recipient = random.Random(19), keys.read_recipient(public(mine))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    whole, other = tmp_path / "whole", tmp_path / "other"
    for path in (whole, other):
        seal.seal(path, files, [recipient], chunk_bytes=1024)
    content, spliced = whole.read_bytes(), other.read_bytes()
    body = len(sealed_file.read_header("whole", content)[1]) + MAC_BYTES
    length = PREFIX_BYTES + 1024 + TAG_BYTES
    count, seen = (len(content) - body) // length, set()
    assert count > 20
    for _ in range(ATTEMPTS):
        first, second = (body + length * place for place in sorted(dice.sample(range(count), 2)))
        kind = dice.randrange(6)
        if kind <= 2:
            hostile = altered(content, dice)
        elif kind == 3:
            hostile = (
                content[:first]
                + content[second : second + length]
                + content[first + length : second]
                + content[first : first + length]
                + content[second + length :]
            )
        elif kind == 4:
            hostile = content[:first] + spliced[first : first + length] + content[first + length :]
        else:
            hostile = content[:first] + content[first + length :]
        whole.write_bytes(hostile)
        with pytest.raises(DanqingError) as told:
            dq.load(whole, key=mine)
        seen.add(told.type)
    assert {sealed_file.TruncatedError, sealed_file.ReorderedError, sealed_file.SplicedError} < seen
    assert {sealed_file.TrailingDataError, sealed_file.ChangedError, sealed_file.HeaderError} < seen
    whole.write_bytes(content)
    dq.load(whole, key=mine)
