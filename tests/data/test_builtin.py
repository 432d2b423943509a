"""The built-in sets: drawn, read or fetched, each with its licence."""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from danqing.data import builtin, open_dataset
from danqing.data.builtin import cifar10, emoji, fashion_mnist, mnist
from danqing.data.download import Published
from danqing.data.records import ImageSpec
from danqing.errors import DataError


@pytest.mark.parametrize("name", builtin.names())
def test_every_set_states_its_licence_and_citation(name: str) -> None:
    module = builtin.load(name)
    assert module.ABOUT.name == name
    assert module.ABOUT.licence
    assert len(module.ABOUT.citation) > 40
    assert module.SUMMARY


def test_digits_have_the_means_that_scikit_learn_says() -> None:
    dataset = open_dataset("digits")
    assert (len(dataset), dataset.size, dataset.channels) == (1797, (8, 8), 1)
    assert dataset.label_names == tuple("0123456789")
    assert dataset.images(range(1797)).float().mean().item() == pytest.approx(4.884 * 255 / 16, abs=0.2)
    part = open_dataset("digits:3,5")
    assert part.label_names == ("3", "5")
    assert len(part) == 183 + 182
    with pytest.raises(DataError, match="no label 'x'"):
        open_dataset("digits:x")
    with pytest.raises(DataError, match="no test split"):
        open_dataset("digits", split="test")


def test_faces_are_drawn_whole_centred_and_named_in_two_languages() -> None:
    dataset = open_dataset("emoji:faces", size=(40, 40), alpha="keep")
    assert 110 <= len(dataset) <= 140
    assert dataset.channels == 4
    assert dataset.label_names == ()
    alpha = dataset.images(range(len(dataset)))[:, :, :, 3].numpy()
    edges = np.concatenate(
        [alpha[:, [0, -1]].reshape(len(dataset), -1), alpha[:, :, 0], alpha[:, :, -1]], axis=1
    )
    assert edges.max() < 24
    for picture in alpha:
        rows, columns = np.nonzero(picture > 64)
        assert max(np.ptp(rows), np.ptp(columns)) >= 28
        assert abs(rows.min() + rows.max() - 39) <= 2
        assert abs(columns.min() + columns.max() - 39) <= 2
    texts = dataset.texts(range(len(dataset)))
    assert texts is not None
    assert any(text == "grinning face\n嘿嘿" for text in texts), texts[:5]


def test_emoji_sizes_need_not_be_square_and_groups_are_labels() -> None:
    dataset = open_dataset("emoji/flags,food-drink", size=(24, 16))
    assert dataset.label_names == ("food-drink", "flags")
    assert dataset.size == (24, 16)
    with pytest.raises(DataError, match="choose from faces"):
        open_dataset("emoji:fruit")


def test_without_a_text_shaper_only_joined_emoji_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    every = emoji.EmojiSource(("faces",))
    whole = every.count()
    monkeypatch.setattr(features, "check", lambda name: False)
    fewer = emoji.EmojiSource(("faces",))
    assert 0.9 * whole < fewer.count() < whole
    assert every.key() != fewer.key()
    survey = fewer.survey()
    assert survey.left_out.total() == whole - fewer.count()
    assert f"{whole - fewer.count()} emoji that join several characters are left out" in survey.notes[0]
    assert "libfribidi0" in survey.notes[0]


def test_nearly_all_named_emoji_have_a_drawing_and_a_group() -> None:
    source = emoji.EmojiSource(())
    groups = [record.label for record in source.records(ImageSpec())]
    assert 3900 <= source.count() <= 4100
    assert set(groups) == set(emoji.GROUPS)
    assert emoji.group_of("🏴‍☠️") == "flags"
    assert emoji.group_of("#️⃣") == "symbols"
    assert emoji.group_of("👩🏽‍🚀") == "people-body"
    with pytest.raises(DataError, match="draws nothing"):
        emoji.render(source._font, "\u200b", (16, 16))


def idx(array: np.ndarray) -> bytes:
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes())


def small_mnist(name: str) -> tuple[Published, dict[str, bytes]]:
    """A published set of few images, and its files."""
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    files = {
        "train-images-idx3-ubyte.gz": idx(images),
        "train-labels-idx1-ubyte.gz": idx(labels),
        "t10k-images-idx3-ubyte.gz": idx(images[:5]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[:5]),
    }
    return Published(name, "http://127.0.0.1:9/", md5_of(files)), files


def md5_of(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a web server on this machine publishes, in place of the publishers."""
    folder = tmp_path / "published"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("DANQING_MIRROR", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()
        thread.join()


def publish(folder: Path, name: str, files: dict[str, bytes]) -> None:
    (folder / name).mkdir()
    for file, content in files.items():
        (folder / name / file).write_bytes(content)


@pytest.mark.parametrize(("name", "module"), [("mnist", mnist), ("fashion-mnist", fashion_mnist)])
def test_idx_sets_are_fetched_once_and_then_found(
    name: str, module: object, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, files = small_mnist(name)
    monkeypatch.setattr(module, "PUBLISHED", published)
    monkeypatch.setenv("DANQING_DATA", str(tmp_path / "data"))
    publish(mirror, name, files)
    seen: list[str] = []
    dataset = open_dataset(name, on_progress=lambda done, total, what: seen.append(what))
    assert (len(dataset), dataset.size, len(dataset.label_names)) == (20, (28, 28), 10)
    assert "Fetching train-images-idx3-ubyte.gz" in seen
    for file in (mirror / name).iterdir():
        file.unlink()
    assert len(open_dataset(name, split="test")) == 5
    with pytest.raises(DataError, match="choose train or test"):
        open_dataset(name, split="validation")


def test_files_already_installed_are_used_unfetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published, files = small_mnist("fashion-mnist")
    (tmp_path / "system").mkdir()
    for file, content in files.items():
        (tmp_path / "system" / file).write_bytes(content)
    installed = Published(published.name, published.address, published.files, (tmp_path / "system",))
    monkeypatch.setattr(fashion_mnist, "PUBLISHED", installed)
    assert open_dataset("fashion-mnist").label_names[0] == "T-shirt/top"
    for part in ("fashion-mnist:T-shirt/top", "fashion-mnist/T-shirt/top"):
        assert len(open_dataset(part)) == 2
    assert fashion_mnist.fetch() == tmp_path / "system"


def test_two_first_uses_at_once_fetch_each_file_once(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, files = small_mnist("mnist")
    monkeypatch.setenv("DANQING_DATA", str(tmp_path / "data"))
    publish(mirror, "mnist", files)
    seen: list[str] = []
    fetch = Published._fetch

    def slow(self: Published, file: str, *rest: object) -> None:
        seen.append(file)
        time.sleep(0.05)
        fetch(self, file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Published, "_fetch", slow)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: published.folder(), range(3)))
    assert folders == {tmp_path / "data" / "mnist"}
    assert seen == list(files)
    assert {path.name for path in folders.pop().iterdir()} == set(files)


def test_a_file_that_is_not_the_published_one_is_refused_and_not_kept(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, files = small_mnist("mnist")
    monkeypatch.setattr(mnist, "PUBLISHED", published)
    monkeypatch.setenv("DANQING_DATA", str(tmp_path / "data"))
    publish(mirror, "mnist", {**files, "train-labels-idx1-ubyte.gz": b"another file"})
    with pytest.raises(DataError, match="is not the file that was published"):
        open_dataset("mnist")
    assert [path.name for path in (tmp_path / "data" / "mnist").iterdir()] == ["train-images-idx3-ubyte.gz"]
    (mirror / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"cannot be fetched.*\$DANQING_DATA/mnist/ by hand"):
        open_dataset("mnist")


def test_cifar10_is_read_from_the_binary_archive(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    pictures = {}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for number, name in enumerate([*cifar10.PARTS["train"], *cifar10.PARTS["test"]]):
            rows = rng.integers(0, 256, (3, cifar10.ROW), dtype=np.uint8)
            rows[:, 0] = np.arange(3) + number
            pictures[name] = rows[:, 1:].reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = rows.size
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    files = {cifar10.ARCHIVE: buffer.getvalue()}
    monkeypatch.setattr(cifar10, "PUBLISHED", Published("cifar10", "http://127.0.0.1:9/", md5_of(files)))
    publish(mirror, "cifar10", files)
    train, test = open_dataset("cifar10"), open_dataset("cifar10", split="test")
    assert (len(train), len(test), train.size, train.channels) == (15, 3, (32, 32), 3)
    expected = np.concatenate([pictures[name] for name in cifar10.PARTS["train"]])
    assert np.array_equal(train.images(range(15)).numpy(), expected)
    assert test.label_names == ("dog", "frog", "horse")
    assert train.info.augment.flip
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-binary.tar").write_bytes(gzip.decompress(buffer.getvalue()))
    monkeypatch.setenv("DANQING_DATA", str(tmp_path))
    assert open_dataset("cifar10").fingerprint == train.fingerprint
