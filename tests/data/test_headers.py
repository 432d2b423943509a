"""The format and size of a file are known before it is decoded, and a data set keeps count of them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from danqing.data import cache_build, open_dataset
from danqing.data.headers import described
from tests.data.pictures import picture, png


def _encoded(format: str, size: tuple[int, int], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_what_pillow_writes_is_described_as_pillow_does(format: str, tmp_path: Path) -> None:
    content = _encoded(format, (37, 21))
    (tmp_path / "file").write_bytes(content)
    for source in (content, tmp_path / "file", Image.open(io.BytesIO(content))):
        assert described(source) == (format, (37, 21))


@pytest.mark.parametrize("options", [{"progressive": True}, {"exif": b"Exif\0\0" + bytes(40_000)}])
def test_a_jpeg_is_described_whatever_comes_before_its_frame(options: dict[str, object]) -> None:
    assert described(_encoded("JPEG", (300, 5), **options)) == ("JPEG", (300, 5))


def test_a_frame_beyond_what_is_read_is_found_by_pillow() -> None:
    """Two comments of 60 kB each lie before the frame."""
    content = _encoded("JPEG", (9, 8))
    comment = b"\xff\xfe" + (60_000).to_bytes(2, "big") + bytes(59_998)
    assert described(content[:2] + comment * 2 + content[2:]) == ("JPEG", (9, 8))


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]))
def test_damaged_files_are_described_by_nothing_and_raise_nothing(rest: bytes, start: bytes) -> None:
    format, size = described(start + rest)
    assert size is None or len(size) == 2
    assert isinstance(format, str)


@pytest.mark.parametrize("few", [10_000, 0])
def test_a_data_set_counts_formats_and_knows_the_range_of_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("danqing.data.decoding.FEW", few)
    monkeypatch.setattr(cache_build, "_COMMIT_IMAGES", 64)
    for number in range(150):
        (tmp_path / f"{number:03d}.png").write_bytes(png(number, width=8, height=10))
    for number, size in enumerate([(20, 6), (9, 30)]):
        (tmp_path / f"photo{number}.jpg").write_bytes(_encoded("JPEG", size))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + b"\xff" * 8)
    report = open_dataset(tmp_path, size=(8, 8)).info.report
    assert report.formats == {"PNG": 150, "JPEG": 2}
    assert report.source_sizes == ((8, 6), (20, 30))


def test_pixels_that_were_never_encoded_have_a_size_and_no_format() -> None:
    assert described(picture(0, width=4, height=3)) == ("", (4, 3))
    report = open_dataset("digits").info.report
    assert (report.formats, report.source_sizes) == ({}, ((8, 8), (8, 8)))


def test_a_cache_from_before_formats_were_counted_is_still_read(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    folder = open_dataset(tmp_path).cache
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["name"], manifest["report"]["formats"], manifest["report"]["source_sizes"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    report = open_dataset(tmp_path).info.report
    assert (report.formats, report.source_sizes) == ({}, None)
