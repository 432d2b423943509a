"""Formats that plugins read, and what is said of those that nothing reads."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danqing.data import open_dataset
from danqing.errors import DataError
from danqing.image_files import decode, formats, inspect, reasons
from tests.image_files.files import file_of, photo


def heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(photo(64, 48)).save(buffer, quality=95)
    return buffer.getvalue()


def test_heic_photos_are_read() -> None:
    pixels = decode(heic())
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - np.asarray(photo(64, 48))).mean() < 8


def test_heic_without_its_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    content = heic()
    without = tuple(name for name in formats.pillow_formats() if name != "HEIF")
    monkeypatch.setattr("danqing.image_files.reading.pillow_formats", lambda: without)
    monkeypatch.setattr(reasons, "is_installed", lambda extra: False)
    with pytest.raises(DataError, match=r"^HEIC photos need pillow-heif: pip install 'danqing\[heif\]'\.$"):
        decode(content)


def test_a_set_that_lacked_an_extra_is_read_again_when_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.png").write_bytes(file_of(Image.new("RGB", (64, 48), (number, 0, 0))))
    (folder / "99.png").write_bytes(heic())
    with monkeypatch.context() as patch:
        without = tuple(name for name in formats.pillow_formats() if name != "HEIF")
        patch.setattr("danqing.image_files.reading.pillow_formats", lambda: without)
        for module in ("danqing.image_files.reasons", "danqing.data.cache"):
            patch.setattr(f"{module}.is_installed", lambda extra: False)
        first = open_dataset(folder)
        assert "danqing[heif]" in first.info.report.skipped_files[0].reason
        assert len(open_dataset(folder)) == 40
    assert len(open_dataset(folder)) == 41


def test_avif_is_read() -> None:
    assert np.abs(decode(file_of(photo(), "AVIF", quality=95)).astype(int) - np.asarray(photo())).mean() < 8


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"%PDF-1.7 ", "PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (bytes(5000), "only zeros"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"PK\x03\x04rest", "zip archive"),
        (file_of(photo())[:20], "truncated"),
        (file_of(photo(), "WEBP")[:-20], "truncated"),
        (file_of(photo(), "GIF")[:-200], "truncated"),
        (file_of(photo(), "TIFF")[:-600], "truncated"),
        (file_of(photo(), "BMP")[:-600], "truncated"),
        (file_of(photo()).replace(b"IDAT", b"IDAT\xff\xff\xff", 1), "damaged"),
    ],
)
def test_the_reason_is_that_of_the_file(content: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as refused:
        decode(content)
    assert ("truncated" in str(refused.value)) == (sentence == "truncated")


def test_a_damaged_jpeg_with_its_end_is_not_called_truncated() -> None:
    content = file_of(photo(), "JPEG")
    start = content.rfind(b"\xff\xda")
    with pytest.raises(DataError, match="damaged"):
        decode(content[:start] + b"\xff\xc4\0\x04\xff\xff" + content[start:])


def test_names_of_images_are_known_by_their_suffix() -> None:
    assert all(map(formats.is_image_name, ("a.PNG", "b.nii.gz", "c.dcm", "d.jxl", "e.HEIC")))
    assert not any(map(formats.is_image_name, ("a.txt", "b.gz", "png", "c.svg")))


def test_a_png_that_bears_the_mark_of_dicom_stays_a_png() -> None:
    content = bytearray(file_of(Image.fromarray(np.zeros((64, 64), np.uint8)), compress_level=0))
    content[128:132] = b"DICM"
    assert inspect(bytes(content)).size == (64, 64)
