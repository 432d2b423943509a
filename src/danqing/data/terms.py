"""What an image file says of the rights in it and of people, read from its metadata.

Reservations are read from IPTC/PLUS data mining (IPTC Photo Metadata Standard 2025.1), from assertions on
training and data mining in Content Credentials (CAWG 1.1, C2PA 1.4), and from TDMRep (W3C, 2024).
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from PIL import Image

from danqing.errors import DanqingError
from danqing.image_files import MAX_BYTES, Frame
from danqing.image_files.embedded import NOTHING, Embedded, embedded
from danqing.image_files.formats import recognised
from danqing.image_files.medical import names_patient
from danqing.trust import xmp

INFERENCE = "no AI inference (C2PA)"
"""The only reservation that is not about training."""
PLACE, OWNER, SERIALS, PATIENT, PEOPLE = (
    "where it was taken",
    "owner of the camera",
    "serial numbers",
    "patient",
    "people who are named or marked",
)
_LONGEST, _HEAD = 200, 512

_DC, _RIGHTS = "{http://purl.org/dc/elements/1.1/}", "{http://ns.adobe.com/xap/1.0/rights/}"
_PLUS, _TDM = "{http://ns.useplus.org/ldf/xmp/1.0/}", "{http://www.w3.org/ns/tdmrep/}"
_LICENCE_NAMES = ("{http://creativecommons.org/ns#}license", f"{_RIGHTS}WebStatement", f"{_RIGHTS}UsageTerms")
_EXIF_SPACES = ("{http://ns.adobe.com/exif/1.0/}", "{http://cipa.jp/exif/1.0/}")
_AUX = "{http://ns.adobe.com/exif/1.0/aux/}"
_IPTC_CORE, _IPTC_EXT = (
    "{http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/}",
    "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}",
)
_PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
_PERSONAL_NAMES = {
    PLACE: (
        *(f"{space}{name}" for space in _EXIF_SPACES for name in ("GPSLatitude", "GPSLongitude")),
        *(f"{_IPTC_EXT}{name}" for name in ("LocationCreated", "LocationShown")),
        *(f"{_IPTC_CORE}Location", f"{_PHOTOSHOP}City"),
    ),
    OWNER: (f"{_AUX}OwnerName", *(f"{space}CameraOwnerName" for space in _EXIF_SPACES)),
    SERIALS: (
        *(f"{_AUX}{name}" for name in ("SerialNumber", "LensSerialNumber")),
        *(f"{space}{name}" for space in _EXIF_SPACES for name in ("BodySerialNumber", "LensSerialNumber")),
    ),
    PEOPLE: (f"{_IPTC_EXT}PersonInImage", "{http://www.metadataworkinggroup.com/schemas/regions/}Regions"),
}
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_LATITUDE, _LONGITUDE = 2, 4
_ARTIST, _COPYRIGHT, _XP_AUTHOR = 0x013B, 0x8298, 0x9C9D
_PERSONAL_TAGS = {OWNER: (0xA430,), SERIALS: (0xA431, 0xA435, 0xC62F)}
_BY_LINE, _CITY, _SUBLOCATION, _COPYRIGHT_NOTICE = 80, 90, 92, 116

_PLUS_PROHIBITIONS = {
    "DMI-PROHIBITED": "no data mining",
    "DMI-PROHIBITED-AIMLTRAINING": "no AI training",
    "DMI-PROHIBITED-GENAIMLTRAINING": "no generative AI training",
    "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING": "no data mining except for search engines",
}
_ASSERTIONS = re.compile(r"(?:cawg|c2pa)\.training-mining(?:__\d+)?")
_USES = {
    "data_mining": "data mining",
    "ai_training": "AI training",
    "ai_generative_training": "generative AI training",
    "ai_inference": "AI inference",
}


class Terms(NamedTuple):
    """What one file says of the rights in it and of people.

    licence: as its metadata name it, or an address. notice: its copyright notice. reservations: what its
    owner reserves. personal: kinds of personal metadata. unread: whether there are Content Credentials that
    cannot be read without the extra `trust`. damaged: whether there are metadata that cannot be read.
    """

    licence: str = ""
    creators: tuple[str, ...] = ()
    notice: str = ""
    reservations: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    unread: bool = False
    damaged: bool = False

    @property
    def is_reserved(self) -> bool:
        """Return whether the owner reserves training or data mining."""
        return any(one != INFERENCE for one in self.reservations)

    def with_partner(self, other: Self) -> Self:
        """Return the terms of a pair: those of both images."""
        return self._replace(
            licence=self.licence or other.licence,
            creators=_unique([*self.creators, *other.creators]),
            notice=self.notice or other.notice,
            reservations=_unique([*self.reservations, *other.reservations]),
            personal=_unique([*self.personal, *other.personal]),
            unread=self.unread or other.unread,
            damaged=self.damaged or other.damaged,
        )


NO_TERMS = Terms()


def terms_of(image: object) -> Terms:
    """Read the terms of an image file.

    image: its bytes, its path, or one image of it. Other images have none.
    """
    if isinstance(image, Frame):
        if image.number:  # the first one stands for the file
            return NO_TERMS
        image = image.source
    content = _content(image)
    if not content:
        return NO_TERMS
    if recognised(content) == "DICOM":
        return _of_dicom(content)
    try:
        found = embedded(content)
    except DanqingError:
        return NO_TERMS  # the decoder, which runs next, says why
    if found == NOTHING:
        return NO_TERMS
    return _Reader(content, found).terms()


def _of_dicom(content: bytes) -> Terms:
    try:
        return Terms(personal=(PATIENT,)) if names_patient(content) else NO_TERMS
    except Exception:  # pydicom raises many kinds of errors; the decoder, which runs next, says why
        return NO_TERMS


class _Reader:
    """Collects the terms in the metadata of one file."""

    def __init__(self, content: bytes, found: Embedded) -> None:
        self._content, self._found = content, found
        self._licences, self._notices = list[str](), list[str]()
        self._creators, self._reservations = list[str](), list[str]()
        self._personal = list[str]()
        self._unread = self._damaged = False

    def terms(self) -> Terms:
        for packet in self._found.xmp:
            self._read_xmp(packet)
        if self._found.exif:
            self._read_exif(self._found.exif)
        self._read_iptc(self._found.iptc)
        self._add(self._creators, [self._found.texts.get("Author", "")])
        self._add(self._notices, [self._found.texts.get("Copyright", "")])
        if self._found.has_credentials:
            self._read_credentials()
        return Terms(
            next(iter(self._licences), ""),
            _unique(self._creators),
            next(iter(self._notices), ""),
            _unique(self._reservations),
            _unique(self._personal),
            self._unread,
            self._damaged,
        )

    def _read_xmp(self, packet: bytes) -> None:
        try:
            found = xmp.properties_of(packet)
        except DanqingError:
            self._damaged = True
            return
        for name in _LICENCE_NAMES:
            self._add(self._licences, found.get(name, ())[:1])
        self._add(self._notices, found.get(f"{_DC}rights", ())[:1])
        self._add(self._creators, found.get(f"{_DC}creator", ()))
        self._personal += [kind for kind, names in _PERSONAL_NAMES.items() if any(map(found.get, names))]
        self._reservations += filter(None, map(_of_plus, found.get(f"{_PLUS}DataMining", ())))
        if found.get(f"{_TDM}reservation", ("",))[0].strip() == "1":
            self._reservations.append("no text and data mining (TDMRep)")

    def _read_exif(self, block: bytes) -> None:
        try:
            tags = Image.Exif()
            tags.load(block)
            more, place = tags.get_ifd(_EXIF_IFD), tags.get_ifd(_GPS_IFD)
            self._add(self._creators, [_utf8(tags.get(_ARTIST)), _utf16(tags.get(_XP_AUTHOR))])
            self._add(self._notices, [_utf8(tags.get(_COPYRIGHT))])
        except Exception:  # Pillow raises many kinds of errors on hostile tags
            self._damaged = True
            return
        if _LATITUDE in place or _LONGITUDE in place:
            self._personal.append(PLACE)
        for kind, numbers in _PERSONAL_TAGS.items():
            if any(_text(more.get(number) or tags.get(number)) for number in numbers):
                self._personal.append(kind)

    def _read_iptc(self, block: bytes) -> None:
        for number, text in _records(block):
            if number == _BY_LINE:
                self._add(self._creators, [text])
            elif number == _COPYRIGHT_NOTICE:
                self._add(self._notices, [text])
            elif number in (_CITY, _SUBLOCATION) and _text(text):
                self._personal.append(PLACE)

    def _read_credentials(self) -> None:
        from danqing.trust import credentials  # most files have none, and its packages take time to import

        if not credentials.is_installed():
            self._unread = True
            return
        try:
            found = credentials.read(self._content)
        except DanqingError:
            self._damaged = True
            return
        if found is None:
            return
        self._damaged = self._damaged or not found.manifest
        for assertion in _dicts(found.manifest.get("assertions")):
            if _ASSERTIONS.fullmatch(str(assertion.get("label"))):
                self._reservations += _of_assertion(assertion.get("data"))

    def _add(self, texts: list[str], found: Iterable[object]) -> None:
        texts += filter(None, map(_text, found))


def _content(image: object) -> bytes:
    """Return the bytes of an image file that may hold metadata; b"" for everything else."""
    if isinstance(image, bytes):
        return image
    if not isinstance(image, Path):
        return b""
    try:
        with image.open("rb") as file:
            head = file.read(_HEAD)
            if recognised(head) in ("", "NIfTI"):
                return b""
            return head + file.read(MAX_BYTES)
    except OSError:
        return b""


def _of_plus(value: str) -> str:
    """Return the reservation that a value of PLUS data mining means; "" for none."""
    name = value.strip().rpartition("/")[2].upper()
    if name in _PLUS_PROHIBITIONS:
        return f"{_PLUS_PROHIBITIONS[name]} (IPTC/PLUS)"
    return "data mining under conditions (IPTC/PLUS)" if "PROHIBIT" in name else ""


def _of_assertion(data: object) -> Iterator[str]:
    """Yield the reservations in a training and data mining assertion."""
    entries = data.get("entries") if isinstance(data, dict) else None
    for name, entry in (entries if isinstance(entries, dict) else {}).items():
        use = _USES.get(str(name).rpartition(".")[2])
        chosen = str(entry.get("use")) if isinstance(entry, dict) else ""
        if use and chosen in ("notAllowed", "constrained"):
            yield f"no {use} (C2PA)" if chosen == "notAllowed" else f"{use} under conditions (C2PA)"


def _records(block: bytes) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each record of the application record (IPTC IIM 4.2)."""
    place = 0
    while place + 5 <= len(block) and block[place] == 0x1C:
        length = int.from_bytes(block[place + 3 : place + 5], "big")
        data = block[place + 5 : place + 5 + length]
        if block[place + 1] == 2:
            try:
                yield block[place + 2], data.decode()
            except UnicodeDecodeError:
                yield block[place + 2], data.decode("latin-1")
        place += 5 + length


def _text(value: object) -> str:
    """Return metadata as a short text on one line."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    shown = "".join(c if c.isprintable() else " " for c in value[: 4 * _LONGEST])
    return " ".join(shown.split())[:_LONGEST]


def _utf8(value: object) -> str:
    """Return a text of EXIF, which many programs write as UTF-8 and Pillow reads as Latin-1."""
    text = value if isinstance(value, str) else ""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _utf16(value: object) -> str:
    found = bytes(value) if isinstance(value, tuple) else value
    return found.decode("utf-16-le", "replace") if isinstance(found, bytes) else ""


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
