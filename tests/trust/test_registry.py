"""The registry finds an image again by its pixels, and says nothing of images that it does not hold."""

import io
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from danqing.images import to_pil
from danqing.trust import fingerprint
from danqing.trust.declaration import Declaration
from danqing.trust.registry import Registry, RegistryError, number_of

Pixels = NDArray[np.uint8]
DECLARATION = Declaration(action="fill", model="flowers", model_digest="ab12", prompt="a secret prompt")


def picture(seed: int, side: int = 64, channels: int = 3) -> Pixels:
    """An image whose spectrum falls as that of photographs: amplitudes go as one over the frequency."""
    rng = np.random.default_rng(seed)
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    spectrum = np.fft.rfft2(rng.normal(size=(channels, side, side))) / np.maximum(distance, 1 / side)
    waves = np.fft.irfft2(spectrum, (side, side))
    waves = 128 + 45 * waves / waves.std()
    return waves.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def jpeg(pixels: Pixels, quality: int = 50) -> Pixels:
    buffer = io.BytesIO()
    to_pil(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(pixels: Pixels, factor: float) -> Pixels:
    image = to_pil(pixels)
    return np.asarray(image.resize((round(image.width * factor), round(image.height * factor))))


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "compressed": jpeg,
    "halved": lambda pixels: resized(pixels, 0.5),
    "doubled": lambda pixels: resized(pixels, 2),
    "cropped at the top left": lambda pixels: pixels[:58, :58],
    "cropped at the bottom": lambda pixels: pixels[6:, 3:61],
    "cropped, resized and compressed": lambda pixels: jpeg(resized(pixels[2:60, 5:63], 1.3)),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, list[str]]:
    registry = Registry(tmp_path_factory.mktemp("trust") / "registry.sqlite")
    return registry, [registry.add(picture(seed), DECLARATION) for seed in range(300)]


def test_equal_pixels_are_found_with_model_and_manifest(tmp_path: Path) -> None:
    path = tmp_path / "new" / "registry.sqlite"
    Registry(path).add(picture(1), DECLARATION, image_id="the-id", manifest="urn:c2pa:1")
    (match,) = Registry(path).find(picture(1))
    assert match.exact
    assert match.similarity == 1
    name, time, *rest = match.entry
    assert name == "the-id"
    assert rest == ["fill", "flowers", "ab12", "urn:c2pa:1"]
    assert time.endswith("+00:00")


@pytest.mark.parametrize("kind", COPIES)
def test_copies_without_marks_are_found(filled: tuple[Registry, list[str]], kind: str) -> None:
    registry, ids = filled
    found = [registry.find(COPIES[kind](picture(seed))) for seed in range(60)]
    assert [[match.entry.id for match in matches] for matches in found] == [[name] for name in ids[:60]]
    assert not any(match.exact for matches in found for match in matches)


def test_other_images_are_not_found(filled: tuple[Registry, list[str]]) -> None:
    assert [filled[0].find(picture(seed)) for seed in range(1000, 1200)] == [[]] * 200


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_kind_of_image_is_found(tmp_path: Path, channels: int, dtype: type) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    pixels = (picture(5, 48, channels).astype(np.uint32) * (257 if dtype == np.uint16 else 1)).astype(dtype)
    registry.add(pixels, DECLARATION)
    (exact,), (near,) = registry.find(pixels), registry.find(pixels[2:46, 1:45])
    assert exact.exact
    assert not near.exact
    assert exact.entry == near.entry


def test_depth_and_transparency_do_not_change_the_vector() -> None:
    pixels = picture(3, channels=4)
    opacity = pixels[..., 3:].astype(np.float64) / 255
    flat = (pixels[..., :3] * opacity + 255 * (1 - opacity)).round().astype(np.uint8)
    assert np.abs(fingerprint.vector(pixels) - fingerprint.vector(flat)).max() <= 2
    deep = flat.astype(np.uint16) * 257
    assert np.array_equal(fingerprint.vector(deep), fingerprint.vector(flat))
    assert fingerprint.pixel_digest(deep) != fingerprint.pixel_digest(flat)


def test_the_vector_is_the_cosine_transform_of_the_centre() -> None:
    side, order = 80, 16  # cells of 4 x 4 pixels in the 64 pixels of the centre
    pixels = picture(9, side, channels=1)
    cells = pixels[8:72, 8:72, 0].reshape(order, 4, order, 4).mean((1, 3))
    angle = np.pi * (np.arange(order) + 0.5) / order
    expected = [
        [
            (cells * np.outer(np.cos(down * angle), np.cos(across * angle))).sum()
            * np.sqrt((2 - (down == 0)) * (2 - (across == 0)))
            / order
            for across in range(8)
        ]
        for down in range(8)
    ]
    assert np.allclose(fingerprint.vector(pixels)[:64].reshape(8, 8), expected, atol=0.51)


def test_an_image_without_fine_structure_is_found_only_by_its_pixels(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0)
    flat = np.full((64, 64, 3), 200, np.uint8)
    registry.add(ramp, DECLARATION)
    registry.add(flat, DECLARATION)
    assert registry.find(ramp)[0].exact
    assert registry.find(flat)[0].exact
    assert registry.find(np.full((32, 32, 3), 200, np.uint8)) == []
    assert registry.find(jpeg(flat)) in ([], registry.find(flat))


def test_nothing_is_said_where_two_images_fit_about_as_well(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    one, other = picture(1), picture(2)
    near = ((one * 0.85) + other * 0.15).astype(np.uint8)
    middle = ((one * 0.925) + other * 0.075).astype(np.uint8)
    first = registry.add(one, DECLARATION)
    assert [match.entry.id for match in registry.find(middle)] == [first]
    registry.add(near, DECLARATION)
    assert registry.find(middle) == []


def test_an_image_that_was_saved_twice_is_found_twice(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    ids = {registry.add(picture(1), DECLARATION), registry.add(jpeg(picture(1), 90), DECLARATION)}
    assert {match.entry.id for match in registry.find(picture(1)[3:61, 3:61])} == ids
    assert len(registry.find(picture(1)[3:61, 3:61], limit=1)) == 1


def test_images_are_found_by_the_number_of_their_watermark(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    assert registry.numbered(1, 24) == []
    ids = [registry.add(picture(seed, 32), DECLARATION) for seed in range(3)]
    number = number_of(ids[1])
    assert number < 2**48
    assert number_of(ids[0]) != number
    for bits in (24, 48):
        assert [entry.id for entry in registry.numbered(number % 2**bits, bits)] == [ids[1]]
    again = [registry.add(picture(1, 32), DECLARATION, number=number) for _ in range(3)]
    assert [entry.id for entry in registry.numbered(number, 48, limit=2)] == again[:0:-1]
    assert len(registry.numbered(number, 48)) == 4
    assert registry.numbered(number ^ 2**40, 48) == []
    assert [entry.id for entry in registry.numbered(number ^ 2**40, 24)] == [*again[::-1], ids[1]]


def test_recoloured_images_are_other_images(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    pixels = picture(1)
    registry.add(pixels, DECLARATION)
    assert registry.find(pixels[..., ::-1]) == []


def test_no_prompt_is_stored_and_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trust" / "registry.sqlite"
    registry = Registry(path)
    registry.add(picture(1), DECLARATION)
    registry.close()
    assert all(b"secret" not in file.read_bytes() for file in path.parent.iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


WRITER = """
import sys
import numpy as np
from danqing.trust.declaration import Declaration
from danqing.trust.registry import Registry
assert "torch" not in sys.modules
registry, first = Registry(sys.argv[1]), int(sys.argv[2])
sys.stdin.readline()
for number in range(first, first + 25):
    registry.add(np.full((32, 32, 3), number, np.uint8), Declaration())
"""


def test_processes_write_one_registry_at_once(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    reader = Registry(path)
    assert len(reader) == 0
    assert reader.find(picture(1)) == []
    assert not path.exists()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first)], stdin=subprocess.PIPE)
        for first in (0, 25, 50)
    ]
    for writer in writers:  # none has created the file: they wait for a line
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert len(reader) == 75
    assert all(reader.find(np.full((32, 32, 3), number, np.uint8))[0].exact for number in range(75))


def test_a_reader_sees_what_is_registered_later(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    reader, writer = Registry(path), Registry(path)
    for seed in range(80):
        name = writer.add(picture(seed), DECLARATION)
        if seed % 20 == 0:
            assert [match.entry.id for match in reader.find(picture(seed)[3:61, 3:61])] == [name]


def test_a_child_process_opens_the_file_again(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite")
    registry.add(picture(1), DECLARATION)
    child = os.fork()
    if not child:
        try:
            registry.add(picture(2), DECLARATION)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(registry) == 2
    assert registry.find(picture(2))[0].exact


def test_a_file_that_is_not_a_registry_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 40)
    with pytest.raises(RegistryError, match=r"registry\.sqlite cannot be used"):
        Registry(path).find(picture(1))
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("pragma user_version = 2")
    connection.close()
    with pytest.raises(RegistryError, match="newer version"):
        Registry(path).add(picture(1), DECLARATION)


def test_a_file_that_is_deleted_while_it_is_open_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    registry, other = Registry(path), Registry(path)
    registry.add(picture(1), DECLARATION)
    assert len(other) == 1
    path.unlink()  # without the files that SQLite keeps beside it
    assert len(other) == 0
    assert registry.find(picture(1)) == []
    names = [registry.add(picture(2), DECLARATION), other.add(picture(3), DECLARATION)]
    for reader in (registry, other, Registry(path)):
        assert [reader.find(picture(seed))[0].entry.id for seed in (2, 3)] == names
        assert reader.find(picture(1)[3:61, 3:61]) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_replaced_while_it_is_open_is_used_from_then_on(tmp_path: Path) -> None:
    path, copy = tmp_path / "registry.sqlite", tmp_path / "copy"
    registry = Registry(path)
    first = registry.add(picture(1), DECLARATION)
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    registry.add(picture(2), DECLARATION)
    os.replace(copy, path)
    third = registry.add(picture(3), DECLARATION)
    for reader in (registry, Registry(path)):
        assert [reader.find(picture(seed)[3:61, 3:61])[0].entry.id for seed in (1, 3)] == [first, third]
        assert reader.find(picture(2)) == []
    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_an_image_is_kept_whose_file_is_deleted_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    registry = Registry(path)
    registry.add(picture(1), DECLARATION)
    assert registry._connection is not None
    registry._connection.set_trace_callback(lambda text: text.startswith("insert") and path.unlink())
    name = registry.add(picture(2), DECLARATION)
    assert Registry(path).find(picture(2))[0].entry.id == name
