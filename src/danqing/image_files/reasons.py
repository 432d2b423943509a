"""The reason why a file cannot be read, in one sentence."""

import struct
from collections.abc import Iterator

from danqing.image_files.formats import FORMATS, is_installed, recognised

TRUNCATED = "The file is truncated: get a complete copy."
_OTHERS = {
    "SVG": "SVG drawings are not supported: convert them to PNG first.",
    "HTML": "The file is a web page (HTML), not an image: download the image again.",
    "PDF": "The file is a PDF document, not an image: export its pages as PNG.",
    "PostScript": "PostScript is not supported: convert it to PNG first.",
    "Photoshop": "Photoshop files are not supported: export them as PNG or TIFF.",
    "Git LFS": "The file is a Git LFS pointer, not the image itself: run `git lfs pull`.",
    "a zip archive": "The file is a zip archive, not an image: unpack it.",
    "a video": "The file is a video, not an image: extract its frames first.",
}
_EXTRAS = {
    "heif": "HEIC photos need pillow-heif: pip install 'danqing[heif]'.",
    "scans": "JPEG XL images need imagecodecs: pip install 'danqing[scans]'.",
    "medical": "DICOM and NIfTI files need pydicom and nibabel: pip install 'danqing[medical]'.",
    "trust": "Content Credentials need c2pa-python: pip install 'danqing[trust]'.",
}


def missing(extra: str) -> str:
    """Return what to install to read the formats of an extra."""
    return _EXTRAS[extra]


def missing_extras(*sentences: str) -> set[str]:
    """Return the extras that reasons and notes recommend."""
    return {extra for extra in _EXTRAS if any(f"danqing[{extra}]" in sentence for sentence in sentences)}


def unidentified(content: bytes) -> str:
    """Return why a file cannot be opened."""
    name = recognised(content)
    if name in _OTHERS:
        return _OTHERS[name]
    extra = next((format.extra for format in FORMATS if format.name == name and format.extra), "")
    if extra and not is_installed(extra):
        return missing(extra)
    if not any(content[:1024]):
        return "The file holds only zeros: get a complete copy."
    if name == "TIFF" and len(content) >= 8 and not _is_tiff_cut(content):
        advice = "convert it to PNG" if is_installed("scans") else "pip install 'danqing[scans]' reads more"
        return f"The layout or compression of this TIFF file is not supported: {advice}."
    if name and is_truncated(content):
        return TRUNCATED
    if name:
        return f"The file is a damaged {name} image: get a complete copy."
    return "The file is not an image in a format that can be read."


def undecodable(content: bytes, error: Exception) -> str:
    """Return why the pixels of an opened file cannot be decoded."""
    if isinstance(error, MemoryError):
        return "The image does not fit into memory."
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    sounds_short = "truncat" in said.lower() or isinstance(error, EOFError)
    known = recognised(content) in ("PNG", "JPEG", "GIF", "WEBP")
    if is_truncated(content) or (sounds_short and not known):
        return TRUNCATED
    return f"The image data is damaged ({'it does not fill the image' if sounds_short else said})."


def is_truncated(content: bytes) -> bool:
    """Return whether the end of a file is missing.

    Works for PNG, JPEG, GIF, WebP and TIFF.
    """
    name = recognised(content)
    if name == "PNG":
        return b"IEND\xaeB`\x82" not in content and all(kind != b"IEND" for kind, _, _ in png_chunks(content))
    if name == "JPEG":
        return content.rfind(b"\xff\xd9") <= content.rfind(b"\xff\xda")
    if name == "GIF":
        return not content.rstrip(b"\0").endswith(b";")
    if name == "WEBP":
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    return name == "TIFF" and _is_tiff_cut(content)


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each complete chunk of a PNG file.

    Its type, and where it starts and ends.
    """
    start = 8
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            return
        yield content[start + 4 : start + 8], start, end
        start = end


def _is_tiff_cut(content: bytes) -> bool:
    """Return whether the first directory of a TIFF file, or a strip or tile in it, is beyond its end."""
    order = "<" if content[:2] == b"II" else ">"
    if content[2:4] in (b"+\0", b"\0+"):  # BigTIFF is not checked
        return False
    try:
        (place,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, place)
        tags = {}
        for number in range(count):
            tag, kind, values = struct.unpack_from(f"{order}HHI", content, place + 2 + 12 * number)
            tags[tag] = (kind, values, place + 10 + 12 * number)
        for starts, lengths in ((273, 279), (324, 325)):
            if starts in tags and lengths in tags:
                pairs = zip(_tiff_values(content, order, *tags[starts]),
                            _tiff_values(content, order, *tags[lengths]), strict=False)  # fmt: skip
                if any(start + length > len(content) for start, length in pairs):
                    return True
    except struct.error:
        return True
    return False


def _tiff_values(content: bytes, order: str, kind: int, count: int, place: int) -> tuple[int, ...]:
    code = {3: "H", 4: "I"}.get(kind)
    if code is None or count > len(content):
        return ()
    if struct.calcsize(code) * count > 4:
        (place,) = struct.unpack_from(f"{order}I", content, place)
    return struct.unpack_from(f"{order}{count}{code}", content, place)
