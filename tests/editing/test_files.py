"""Files with new pixels keep what surrounds them: format, quality, profiles, EXIF, texts, depth."""

import contextlib
import io
import random
import re
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin
from PIL.JpegImagePlugin import get_sampling

from danqing import image_files
from danqing.editing import containers, files
from danqing.errors import ConfigError, DataError
from tests.image_files.files import file_of, photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = SRGB.replace("sRGB".encode("utf-16-be"), "Wide".encode("utf-16-be"))
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
DEEP = {
    1: RAMP[:, :, None],
    2: np.stack([RAMP, RAMP.T], axis=2),
    3: np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=2),
    4: np.stack([RAMP, RAMP.T, RAMP[::-1], RAMP[:, ::-1]], axis=2),
}


def opened(content: bytes) -> Any:
    return Image.open(io.BytesIO(content))


def exif_block(orientation: int = 6, *, preview: bytes = b"") -> bytes:
    """EXIF in big-endian order, with a size, a maker's note and a preview."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    inner = exif.get_ifd(0x8769)
    inner[0xA002], inner[0xA003], inner[0x927C] = 40, 30, b"\x01secret offsets"
    exif.get_ifd(0x8825)[1] = "N"
    block = bytearray(exif.tobytes().removeprefix(b"Exif\0\0"))
    if preview:
        order = "<" if block[:2] == b"II" else ">"
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        struct.pack_into(f"{order}I", block, first + 2 + 12 * count, len(block))
        start = len(block) + 2 + 2 * 12 + 4
        block += struct.pack(f"{order}H", 2)
        block += struct.pack(f"{order}HHII", 0x0201, 4, 1, start)
        block += struct.pack(f"{order}HHII", 0x0202, 4, 1, len(preview)) + bytes(4) + preview
    return b"Exif\0\0" + bytes(block)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [20, 75, 100])
def test_a_jpeg_keeps_its_tables_and_its_chroma_subsampling(
    quality: int, subsampling: int, progressive: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    given = file_of(
        Image.fromarray(noise), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive
    )
    values, style = files.read(given)
    before, after = opened(given), opened(files.write(255 - values, style))
    assert after.format == "JPEG"
    assert after.quantization == before.quantization
    assert get_sampling(after) == get_sampling(before) == subsampling
    assert bool(after.info.get("progressive")) == progressive


def test_a_grey_jpeg_stays_grey_and_jpeg_cannot_hold_transparency() -> None:
    given = file_of(photo().convert("L"), "JPEG", quality=40)
    values, style = files.read(given)
    assert values.shape == (30, 40, 1)
    after = opened(files.write(values, style))
    assert (after.mode, after.quantization) == ("L", opened(given).quantization)
    with pytest.raises(DataError, match="JPEG cannot hold transparency"):
        files.write(values.repeat(2, axis=2), style)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_rotated_image_comes_back_upright_once(format: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if format == "WEBP" else {}
    given = file_of(photo(), format, exif=exif, **options)
    values, style = files.read(given)
    upright = image_files.decode(given)
    assert np.array_equal(values, upright)
    written = files.write(values, style)
    assert opened(written).getexif().get(0x0112, 1) == 1
    again = image_files.decode(written)
    assert again.shape == upright.shape
    assert np.abs(again.astype(int) - upright).mean() <= (4 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_metadata_outlast_an_edit_and_none_is_stale(format: str) -> None:
    preview = file_of(photo(8, 6), "JPEG")
    block = exif_block(preview=preview)
    given = file_of(photo(), format, exif=block, icc_profile=WIDE, xmp=XMP)
    if format == "PNG":  # Pillow has no option for XMP
        given = containers.with_chunks(given, containers.png_xmp(XMP))
    assert preview in given
    values, style = files.read(given)
    enlarged = values.repeat(2, axis=0).repeat(2, axis=1)
    written = files.write(enlarged, style)
    after = opened(written)
    after.load()
    exif = after.getexif()
    assert after.info["icc_profile"] == WIDE
    assert (exif[0x0112], exif[0x010F]) == (1, "Maker")
    inner = exif.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003], inner[0x927C]) == (60, 80, b"\x01secret offsets")
    assert exif.get_ifd(0x8825)[1] == "N"
    assert preview not in written
    assert preview[-30:] not in written
    found = after.info["xmp"]
    assert (found if isinstance(found, bytes) else found.encode()) == XMP.replace(b'"6"', b'"1"')
    bare = opened(files.write(values, files.stripped(style)))
    assert not {"exif", "xmp", "XML:com.adobe.xmp"} & bare.info.keys()
    assert dict(bare.getexif()) == {}


def test_stripping_drops_a_profile_only_where_colours_do_not_depend_on_it() -> None:
    for profile, is_kept in ((SRGB, False), (WIDE, True)):
        values, style = files.read(file_of(photo(), "PNG", icc_profile=profile))
        assert style.profile == profile
        stripped = opened(files.write(values, files.stripped(style)))
        assert ("icc_profile" in stripped.info) == is_kept


def test_the_parts_of_a_jpeg_around_the_pixels_are_kept() -> None:
    thumbnail = b"8BIM" + struct.pack(">HBBI", 1036, 0, 0, 6) + b"thumbs"
    caption = b"8BIM" + struct.pack(">HBBI", 1028, 0, 0, 7) + b"caption\0"
    body = b"Photoshop 3.0\0" + thumbnail + caption
    extra = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    signed = b"\xff\xeb" + struct.pack(">H", 12) + b"JP__c2pa.."
    given = file_of(photo(), "JPEG", comment=b"a remark", dpi=(300, 150), extra=extra + signed)
    values, style = files.read(given)
    written = files.write(values, style)
    after = opened(written)
    assert after.info["comment"] == b"a remark"
    assert after.info["dpi"] == (300, 150)
    assert caption in written
    assert b"thumbs" not in written
    assert b"c2pa" not in written
    assert style.notes == (containers.SIGNED,)


def test_the_chunks_of_a_png_outlast_an_edit_where_they_do_not_describe_its_pixels() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a photo")
    info.add_itxt("Autor", "雪", zip=True)
    info.add_text("parameters", "steps: 20", zip=True)
    given = file_of(photo().quantize(16), "PNG", pnginfo=info, dpi=(300, 300))
    given = containers.with_chunks(given, containers.png_chunk(b"gAMA", struct.pack(">I", 45455)))
    given = containers.with_chunks(
        given, containers.png_chunk(b"hiST", b"safe") + containers.png_chunk(b"hisT", b"not")
    )
    values, style = files.read(given)
    written = files.write(values, style)
    after = opened(written)
    after.load()
    assert (after.text["Title"], after.text["Autor"], after.text["parameters"]) == (
        "a photo",
        "雪",
        "steps: 20",
    )
    assert after.info["gamma"] == pytest.approx(0.45455)
    assert after.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert b"hisT" not in written
    stripped = opened(files.write(values, files.stripped(style)))
    stripped.load()
    assert stripped.text == {}
    assert "dpi" not in stripped.info
    assert stripped.info["gamma"] == pytest.approx(0.45455)  # the colours depend on it


def test_a_palette_keeps_its_transparency() -> None:
    palette = photo().quantize(16)
    clear = np.asarray(palette) == 3
    values, style = files.read(file_of(palette, "PNG", transparency=3))
    assert values.shape == (30, 40, 4)
    assert np.array_equal(values[:, :, 3] == 0, clear)
    after = opened(files.write(values, style))
    assert after.mode == "RGBA"
    assert np.array_equal(np.asarray(after)[:, :, 3] == 0, clear)
    assert files.read(file_of(photo().quantize(16), "PNG"))[0].shape == (30, 40, 3)
    grey, _ = files.read(file_of(photo().convert("L"), "PNG", transparency=200))
    assert grey.shape == (30, 40, 2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tiff", "tiff-deflate", "tiff-lzw"])
def test_sixteen_bits_come_back_as_all_their_values(kind: str, channels: int) -> None:
    deep = DEEP[channels]
    plane = deep[:, :, 0] if channels == 1 else deep
    if kind == "png":
        given = bytes(imagecodecs.png_encode(plane))
    else:
        buffer, options = io.BytesIO(), {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
        compression = {"tiff": None, "tiff-deflate": "zlib", "tiff-lzw": "lzw"}[kind]
        photometric = "minisblack" if channels < 3 else "rgb"
        tifffile.imwrite(
            buffer, plane, photometric=photometric, planarconfig="contig", compression=compression, **options
        )
        given = buffer.getvalue()
    values, style = files.read(given)
    assert values.dtype == np.uint16
    assert np.array_equal(values, deep)
    assert len(np.unique(values[:, :, 0])) == 65536
    written = files.write(values, style)
    independent = imagecodecs.png_decode(written) if kind == "png" else tifffile.imread(io.BytesIO(written))
    assert independent.dtype == np.uint16
    assert np.array_equal(independent.reshape(deep.shape), deep)
    assert np.array_equal(files.read(written)[0], deep)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_level_of_sixteen_bits_becomes_alpha(channels: int) -> None:
    plane = RAMP if channels == 1 else np.stack([RAMP] * 3, axis=2)
    chunk = containers.png_chunk(b"tRNS", struct.pack(">H", 777) * channels)
    values, _ = files.read(containers.with_chunks(bytes(imagecodecs.png_encode(plane)), chunk))
    assert values.shape[2] == channels + 1
    assert np.array_equal(values[:, :, -1] == 0, RAMP == 777)


LOSSLESS = [(format, mode) for format in ("PNG", "WEBP", "TIFF", "TGA") for mode in ("L", "RGB", "RGBA")]
LOSSLESS += [(format, mode) for format in ("BMP", "PPM") for mode in ("L", "RGB")]


@pytest.mark.parametrize(("format", "mode"), LOSSLESS)
def test_lossless_formats_return_every_value(format: str, mode: str) -> None:
    rng = np.random.default_rng(1)
    shape = (31, 41, {"L": 1, "RGB": 3, "RGBA": 4}[mode])
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    given = file_of(Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels), format, **options)
    values, style = files.read(given)
    changed = 255 - values
    written = files.write(changed, style)
    assert opened(written).format == format
    assert np.array_equal(files.read(written)[0], changed)


@pytest.mark.parametrize("quality", [30, 60, 75, 90])
def test_a_lossy_webp_keeps_its_quality(quality: int) -> None:
    rows, columns = np.mgrid[:120, :160]
    waves = 128 + 100 * np.stack(
        [np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 15)], axis=2
    )
    noisy = waves + np.random.default_rng(0).normal(0, 12, waves.shape)
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    given = file_of(picture, "WEBP", quality=quality)
    values, style = files.read(given)
    assert style.options["quality"] == pytest.approx(quality, abs=10)
    assert len(files.write(values, style)) == pytest.approx(len(given), rel=0.15)
    assert files.read(file_of(picture, "WEBP", lossless=True))[1].options == {"lossless": True}


def test_tiff_keeps_its_tags_its_exif_and_its_compression() -> None:
    written, exif = Image.Exif(), Image.Exif()
    written[0x010E], written[0x0112] = "a scan", 6
    written.get_ifd(0x8769).update({0x9003: "2026:11:29 10:00:00", 0xA002: 40, 0xA003: 30})
    exif.load(written.tobytes())  # Pillow writes the EXIF directory of a TIFF file only if it was read
    for compression, number in (("raw", 1), ("tiff_lzw", 8), ("tiff_adobe_deflate", 8)):
        tags = {"exif": exif} if compression == "raw" else {"tiffinfo": {0x010E: "a scan", 0x0112: 6}}
        given = file_of(photo(), "TIFF", compression=compression, dpi=(600, 300), icc_profile=WIDE, **tags)
        values, style = files.read(given)
        for pixels in (values, values.astype(np.uint16) * 257):
            with tifffile.TiffFile(io.BytesIO(files.write(pixels, style))) as file:
                page: Any = file.pages[0]
                tags = {tag.name: tag.value for tag in page.tags}
            assert (tags["ImageDescription"], tags["Orientation"]) == ("a scan", 1)
            if compression == "raw":
                inner = tags["ExifTag"]
                assert inner["DateTimeOriginal"] == "2026:11:29 10:00:00"
                assert (inner["PixelXDimension"], inner["PixelYDimension"]) == (30, 40)
            assert tags["XResolution"][0] / tags["XResolution"][1] == 600
            assert tags["YResolution"][0] / tags["YResolution"][1] == 300
            assert tags["InterColorProfile"] == WIDE
            assert tags["Compression"] == number


def test_formats_that_are_not_written_become_png_and_say_so() -> None:
    given = file_of(photo(), "JPEG2000")
    values, style = files.read(given)
    assert (style.format, style.suffix, files.suffix_for(given)) == ("PNG", ".png", ".png")
    assert style.notes == ("JPEG2000 files cannot be written: the result is PNG.",)
    assert np.array_equal(np.asarray(opened(files.write(values, style))), values)
    assert files.suffix_for(file_of(photo(), "PNG")) == ""


def test_a_named_format_gets_the_metadata_of_the_input() -> None:
    given = file_of(photo(), "JPEG", exif=exif_block(), icc_profile=WIDE, dpi=(300, 300), xmp=XMP)
    values, style = files.read(given)
    for name, format in (("a.png", "PNG"), ("a.webp", "WEBP"), ("a.tif", "TIFF"), ("a.JPG", "JPEG")):
        after = opened(files.write(values, files.in_format(style, name)))
        after.load()
        exif = after.getexif()
        assert (after.format, exif[0x010F], exif.get(0x0112, 1)) == (format, "Maker", 1)
        assert exif.get_ifd(0x8769)[0xA002] == 30
        assert after.info["icc_profile"] == WIDE
        assert format == "WEBP" or after.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    values, style = files.read(file_of(photo(), "TIFF", tiffinfo={0x010F: "Maker"}))
    assert opened(files.write(values, files.in_format(style, "a.jpg"))).getexif()[0x010F] == "Maker"
    with pytest.raises(
        ConfigError, match=re.escape("a.gif cannot be written: its name must end in one of .png")
    ):
        files.in_format(style, "a.gif")


def test_what_belongs_to_the_image_of_a_phone_is_kept_and_the_rest_named() -> None:
    given = file_of(photo(), "MPO", save_all=True, append_images=[photo(8, 6)], exif=exif_block())
    values, style = files.read(given)
    assert values.shape == (40, 30, 3)
    assert style.format == "JPEG"
    assert style.notes == ("The file holds 1 more images, such as previews, which were left out.",)
    assert opened(files.write(values, style)).format == "JPEG"


def test_exif_in_a_text_of_a_png_is_applied_once_and_kept() -> None:
    info, block = PngImagePlugin.PngInfo(), exif_block()
    lines = [block.hex()[start : start + 72] for start in range(0, 2 * len(block), 72)]
    info.add_text("Raw profile type exif", "\n".join(["", "exif", f"{len(block):8d}", *lines, ""]), zip=True)
    info.add_text("Raw profile type iptc", "kept")
    values, style = files.read(file_of(photo(), "PNG", pnginfo=info))
    assert values.shape == (40, 30, 3)
    after = opened(files.write(values, style))
    after.load()
    assert (after.getexif()[0x0112], after.getexif()[0x010F]) == (1, "Maker")
    assert "Raw profile type exif" not in after.info
    assert after.info["Raw profile type iptc"] == "kept"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_that_a_tiff_holds_premultiplied_are_straightened(dtype: type) -> None:
    top, buffer = np.iinfo(dtype).max, io.BytesIO()
    colour = np.array([0.2, 0.6, 1.0]) * np.ones((8, 9, 3))
    alpha = np.linspace(0.1, 1, 72).reshape(8, 9, 1)
    values = np.round(np.concatenate([colour * alpha, alpha], axis=2) * top).astype(dtype)
    tifffile.imwrite(buffer, values, photometric="rgb", extrasamples=["assocalpha"])
    found, style = files.read(buffer.getvalue())
    assert np.abs(found[:, :, :3] / top - colour).max() < 0.025
    assert np.array_equal(found[:, :, 3], values[:, :, 3])
    assert np.array_equal(files.read(files.write(found, style))[0], found)


def test_files_that_cannot_be_edited_say_why() -> None:
    two = [photo(), photo().rotate(180)]
    for format in ("GIF", "TIFF", "WEBP", "PNG"):
        with pytest.raises(DataError, match="holds 2 images: save each as a file"):
            files.read(file_of(two[0], format, save_all=True, append_images=two[1:]))
    floats = io.BytesIO()
    tifffile.imwrite(floats, RAMP.astype(np.float32))
    with pytest.raises(DataError, match="numbers of type float32"):
        files.read(floats.getvalue())
    with pytest.raises(DataError, match="16 bits is not read from PPM"):
        files.read(b"P6 1 1\n# remark\n65535\n" + bytes(6))
    with pytest.raises(DataError, match="JPEG cannot hold 16 bits"):
        files.write(RAMP[:, :, None], files.FileStyle("JPEG"))
    with pytest.raises(DataError, match="not an image"):
        files.read(b"no image")


def test_levels_of_twelve_bits_become_sixteen() -> None:
    twelve, buffer = (RAMP // 16).astype(np.uint16), io.BytesIO()
    tifffile.imwrite(buffer, twelve, bitspersample=12)
    values, _ = files.read(buffer.getvalue())
    assert (values.min(), values.max(), len(np.unique(values))) == (0, 65535, 4096)


def test_colours_stay_in_the_space_of_their_profile_but_cmyk_becomes_srgb() -> None:
    values, style = files.read(file_of(photo(), "PNG", icc_profile=WIDE))
    assert np.array_equal(values, np.asarray(photo()))
    assert style.profile == WIDE
    values, style = files.read(file_of(photo().convert("CMYK"), "JPEG", quality=95))
    assert values.shape == (30, 40, 3)
    assert style.notes == ("CMYK colours became sRGB.",)
    assert opened(files.write(values, style)).mode == "RGB"
    grey, _ = files.read(file_of(photo().convert("L"), "PNG"))
    assert "icc_profile" not in opened(files.write(grey, files.FileStyle("PNG", profile=WIDE))).info


def test_damaged_files_raise_only_data_errors() -> None:
    rng, block = random.Random(1), exif_block(preview=b"preview")
    wholes = [file_of(photo(), format, exif=block, icc_profile=WIDE) for format in ("JPEG", "PNG", "WEBP")]
    wholes.append(file_of(photo(), "TIFF", tiffinfo={0x010E: "a scan"}, dpi=(300, 300)))
    for number in range(200):
        damaged = bytearray(wholes[number % len(wholes)])
        for _ in range(1 + number % 4):
            damaged[rng.randrange(min(len(damaged), 500))] = rng.randrange(256)
        with contextlib.suppress(DataError):
            files.suffix_for(bytes(damaged))
            values, style = files.read(bytes(damaged))
            for name in ("a.png", "a.tif"):
                own = files.in_format(style, name)
                written = files.write(values, files.stripped(own) if number % 2 == 0 else own)
                assert np.array_equal(files.read(written)[0], values)
