"""What image files say of the rights in them and of people."""

import importlib.util
import io
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

from danqing.data.terms import INFERENCE, NO_TERMS, OWNER, PATIENT, PEOPLE, PLACE, SERIALS, Terms, terms_of
from danqing.image_files import Frame
from danqing.image_files.embedded import embedded
from danqing.trust import authority
from tests.image_files.test_medical import dicom

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF"]
PLUS = "http://ns.useplus.org/ldf/vocab/"


def packet(body: str, attributes: str = "") -> bytes:
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"
 xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" xmlns:tdm="http://www.w3.org/ns/tdmrep/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:exif="http://ns.adobe.com/exif/1.0/">
<rdf:Description rdf:about="" {attributes}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def image_file(format: str, xmp: bytes = b"", exif: bytes = b"") -> bytes:
    buffer, image = io.BytesIO(), Image.new("RGB", (16, 16), (200, 30, 10))
    options: dict[str, Any] = {}
    if format == "PNG" and xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    elif format == "TIFF" and xmp:
        options["tiffinfo"] = {700: xmp}
    elif format == "GIF":
        image.save(buffer, format)
        place = buffer.getvalue().index(b",\0\0\0\0")
        trailer = bytes([1, *range(255, -1, -1), 0])
        block = b"!\xff\x0bXMP DataXMP" + xmp + trailer if xmp else b""
        return buffer.getvalue()[:place] + block + buffer.getvalue()[place:]
    elif xmp:
        options["xmp"] = xmp
    if exif:
        options["exif"] = exif
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_rights_are_read_from_the_xmp_of_every_format(format: str, tmp_path: Path) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    content = image_file(
        format,
        packet(
            f'<plus:DataMining rdf:resource="{PLUS}DMI-PROHIBITED-AIMLTRAINING"/>'
            "<dc:creator><rdf:Seq><rdf:li>Jane Doe</rdf:li><rdf:li>李华</rdf:li></rdf:Seq></dc:creator>"
            '<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">© Jane</rdf:li></rdf:Alt></dc:rights>'
            "<xmpRights:WebStatement>https://example.org/licence</xmpRights:WebStatement>"
            "<Iptc4xmpExt:PersonInImage><rdf:Bag><rdf:li>A</rdf:li></rdf:Bag></Iptc4xmpExt:PersonInImage>",
            attributes='exif:GPSLatitude="48,8N"',
        ),
    )
    expected = Terms(
        "https://example.org/licence",
        ("Jane Doe", "李华"),
        "© Jane",
        ("no AI training (IPTC/PLUS)",),
        (PLACE, PEOPLE),
    )
    assert terms_of(content) == expected
    path = tmp_path / "image"
    path.write_bytes(content)
    assert terms_of(path) == expected
    assert terms_of(image_file(format)) == NO_TERMS


@pytest.mark.parametrize(
    ("value", "reservation"),
    [
        ("DMI-PROHIBITED", "no data mining (IPTC/PLUS)"),
        ("DMI-PROHIBITED-AIMLTRAINING", "no AI training (IPTC/PLUS)"),
        ("DMI-PROHIBITED-GENAIMLTRAINING", "no generative AI training (IPTC/PLUS)"),
        ("DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", "no data mining except for search engines (IPTC/PLUS)"),
        ("DMI-PROHIBITED-SEECONSTRAINT", "data mining under conditions (IPTC/PLUS)"),
        ("DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR", "data mining under conditions (IPTC/PLUS)"),
        ("Prohibited for something new", "data mining under conditions (IPTC/PLUS)"),
        ("DMI-ALLOWED", None),
        ("DMI-UNSPECIFIED", None),
    ],
)
def test_every_value_of_plus_data_mining_is_understood(value: str, reservation: str | None) -> None:
    for text in (PLUS + value, value):
        found = terms_of(image_file("JPEG", packet(f"<plus:DataMining>{text}</plus:DataMining>")))
        assert found.reservations == ((reservation,) if reservation else ())
        assert found.is_reserved is bool(reservation)


def test_the_web_protocol_reserves_in_xmp_as_well() -> None:
    assert terms_of(image_file("PNG", packet("<tdm:reservation>1</tdm:reservation>"))).is_reserved
    assert not terms_of(image_file("PNG", packet("<tdm:reservation>0</tdm:reservation>"))).is_reserved


def write_tags(path: Path, *tags: str) -> None:
    command = ["exiftool", "-q", "-overwrite_original"]  # which expects UTF-8 whatever the locale
    subprocess.run([*command, *(tag.encode() for tag in tags), path], check=True)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_what_exiftool_writes_is_read(ending: str, tmp_path: Path) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    path = tmp_path / f"image.{ending}"
    Image.new("RGB", (16, 16)).save(path)
    tags = ["-GPSLatitude=48.1", "-GPSLongitude=11.5", "-Artist=Jane Doe", "-Copyright=© Jane"]
    tags += ["-ExifIFD:OwnerName=Jane", "-ExifIFD:SerialNumber=123", "-XMP-cc:License=CC BY 4.0"]
    write_tags(path, *tags)
    found = terms_of(path)
    assert found.licence == "CC BY 4.0"
    assert (found.creators, found.notice) == (("Jane Doe",), "© Jane")
    assert found.personal == (PLACE, OWNER, SERIALS)
    write_tags(path, "-all=")
    assert terms_of(path).personal == ()


def test_iptc_records_and_texts_of_png_are_read(tmp_path: Path) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    path = tmp_path / "image.jpg"
    Image.new("RGB", (16, 16)).save(path)
    tags = ["-IPTC:By-line=Jane Doe", "-IPTC:CopyrightNotice=Notice", "-IPTC:City=München"]
    write_tags(path, *tags)
    assert terms_of(path) == Terms("", ("Jane Doe",), "Notice", (), (PLACE,))
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Jane Doe")
    info.add_text("Copyright", "x" * 5000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG", pnginfo=info)
    found = terms_of(buffer.getvalue())
    assert found.creators == ("Jane Doe",)
    assert found.notice == "x" * 200


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> authority.Authority:
    return authority.load(tmp_path_factory.mktemp("trust") / "authority")


def with_assertion(owner: authority.Authority, format: str, label: str, entries: object) -> bytes:
    data = {"label": label, "data": {"entries": entries}}
    builder = c2pa.Builder(json.dumps({"assertions": [data]}))
    builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
    signer = c2pa.Signer.from_callback(owner.sign, c2pa.C2paSigningAlg.ES256, owner.certificate, None)
    signed = io.BytesIO()
    builder.sign(signer, f"image/{format.lower()}", io.BytesIO(image_file(format)), signed)
    return signed.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("namespace", ["cawg", "c2pa"])
def test_assertions_of_content_credentials_are_read(
    owner: authority.Authority, format: str, namespace: str
) -> None:
    entries = {
        f"{namespace}.ai_generative_training": {"use": "notAllowed"},
        f"{namespace}.ai_training": {"use": "allowed"},
        f"{namespace}.data_mining": {"use": "constrained", "constraint_info": "ask"},
        f"{namespace}.ai_inference": {"use": "notAllowed"},
    }
    content = with_assertion(owner, format, f"{namespace}.training-mining", entries)
    found = terms_of(content)
    assert set(found.reservations) == {
        "no generative AI training (C2PA)",
        "data mining under conditions (C2PA)",
        INFERENCE,
    }
    assert found.is_reserved
    assert not found.damaged
    inference = {f"{namespace}.ai_inference": {"use": "notAllowed"}}
    only = terms_of(with_assertion(owner, format, f"{namespace}.training-mining", inference))
    assert only.reservations == (INFERENCE,)
    assert not only.is_reserved


def test_credentials_that_need_a_missing_package_are_counted(
    owner: authority.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = with_assertion(owner, "PNG", "cawg.training-mining", {})
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "c2pa" else find_spec(name, *rest)
    )
    assert terms_of(content) == Terms(unread=True)


@pytest.mark.parametrize(
    "xmp",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]><x>&b;</x>',
        b"<a>" * 100_000,
        b"\xff\xfe\x00",
        b"not XML",
    ],
)
def test_hostile_xmp_is_counted_as_damaged(xmp: bytes) -> None:
    chunk = b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)
    content = image_file("PNG")
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert terms_of(content[:33] + framed + content[33:]) == Terms(damaged=True)


def test_a_bomb_in_a_compressed_text_is_cut() -> None:
    chunk = b"zTXtCopyright\0\0" + zlib.compress(bytes(200 * 2**20), 9)
    content = image_file("PNG")
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert len(embedded(content[:33] + framed + content[33:]).texts["Copyright"]) <= 4 * 2**20


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]), st.data())
def test_damaged_metadata_never_raise(format: str, data: st.DataObject) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Jane"
    content = bytearray(image_file(format, packet("<dc:title>x</dc:title>"), exif.tobytes()))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    assert isinstance(terms_of(bytes(content[:end])), Terms)


def test_a_dicom_file_that_names_its_patient_is_found(tmp_path: Path) -> None:
    values = np.zeros((2, 8, 8), np.uint16)
    named = dicom(values, PatientName="Doe^Jane", PatientID="1")
    assert terms_of(named) == Terms(personal=(PATIENT,))
    (tmp_path / "scan").write_bytes(named)
    assert terms_of(Frame(tmp_path / "scan", 0)).personal == (PATIENT,)
    assert terms_of(Frame(tmp_path / "scan", 1)) == NO_TERMS, "the first frame stands for the file"
    assert terms_of(dicom(values, PatientName="")) == NO_TERMS
    assert terms_of(named[:200]) == NO_TERMS


def test_images_that_are_not_files_have_no_terms(tmp_path: Path) -> None:
    for image in (Image.new("RGB", (4, 4)), tmp_path / "missing.png", tmp_path, b"", b"text", None):
        assert terms_of(image) is NO_TERMS
    assert Terms() == NO_TERMS
