"""A zip archive, read in place: nothing is unpacked, so that no path can lead out of it."""

import functools
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from danqing.data.files import HEAD, Listing, Loader, too_large
from danqing.data.records import digest, file_key
from danqing.errors import DataError
from danqing.image_files import MAX_BYTES

_UTF8, _ENCRYPTED = 0x800, 0x1
_UNICODE_PATH = 0x7075


class Zip:
    """The members of a zip archive.

    Names are UTF-8 if the archive says so (by its flag, or the Unicode path of the extra field), and
    otherwise in the encoding that fits all of them: archives from a Chinese Windows have names in GBK.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{path} is cut short, damaged or not a zip archive ({error}): get a complete copy."
            ) from error
        except Exception as error:  # zipfile raises anything on a damaged directory
            raise DataError(f"{path} cannot be read as a zip archive: {error}.") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self.notes: list[str] = []
        self.ignored = Counter[str]()
        by_raw: dict[bytes, zipfile.ZipInfo] = {}
        known: dict[bytes, str] = {}
        for info in self._archive.infolist():
            if info.filename.endswith("/"):  # `is_dir` fails for an empty name
                continue
            raw, text = _name(info)
            if text is not None:
                known[raw] = text
            if raw in by_raw:
                self.ignored["files that a later one of the same name replaces"] += 1
            by_raw[raw] = info
        listing = Listing(by_raw, known)
        self.notes += listing.notes
        self.ignored += listing.ignored
        self._members = {name: by_raw[listing.raw[name]] for name in sorted(listing.raw)}

    def key(self) -> str:
        return digest("zip", file_key(self.path))

    def names(self) -> Sequence[str]:
        return list(self._members)

    def inner(self, name: str) -> str:
        return name

    def loaders(self, names: Sequence[str]) -> Iterator[Loader]:
        return (functools.partial(self.read, name) for name in names)

    def head(self, name: str) -> bytes:
        try:
            with self._archive.open(self._members[name]) as file:
                return file.read(HEAD)
        except Exception:  # zlib, lzma and bz2 have their own errors; reading the whole file gives the reason
            return b""

    def read(self, name: str) -> bytes:
        member = self._members[name]
        if member.flag_bits & _ENCRYPTED:
            raise DataError("The archive is encrypted: unpack it first.")
        if member.file_size > MAX_BYTES:
            raise too_large(member.file_size)
        try:
            return self._archive.read(member)  # never more than file_size, and its checksum is verified
        except NotImplementedError as error:
            raise DataError(
                f"The zip compression {_compression(member)} is not supported: unpack the archive first."
            ) from error
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, MemoryError) as error:
            raise DataError(f"The archive is damaged here ({error}).") from error
        except Exception as error:  # zlib, lzma and bz2 have errors of their own
            raise DataError(f"The archive is damaged here ({type(error).__name__}: {error}).") from error


def _name(info: zipfile.ZipInfo) -> tuple[bytes, str | None]:
    """Return the bytes of a member's name, and its text if the archive states it."""
    if info.flag_bits & _UTF8:
        return info.orig_filename.encode("utf-8", "surrogatepass"), info.orig_filename
    raw = info.orig_filename.encode("cp437")  # Python decodes names of unknown encoding like this
    text = _unicode_path(info.extra, raw)
    return raw, None if text is None else text.decode("utf-8", "replace")


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """Return the Unicode name in the extra field (APPNOTE 4.6.9), if it belongs to this name."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(content) > 5 and content[0] == 1:
            (checksum,) = struct.unpack_from("<L", content, 1)
            if checksum == zlib.crc32(raw):
                return content[5:]
    return None


def _compression(member: zipfile.ZipInfo) -> str:
    known = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 97: "WavPack", 98: "PPMd"}
    return known.get(member.compress_type, f"method {member.compress_type}")
