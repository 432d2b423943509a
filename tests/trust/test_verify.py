"""What verification says of images with and without marks, in Python and on the command line."""

import datetime
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

import danqing as dq
from danqing import images
from danqing.cli import main
from danqing.editing import files
from danqing.errors import TrustError
from danqing.trust import authority, certificates, credentials, labels, registry, xmp
from danqing.trust.declaration import Declaration, SourceType
from danqing.trust.found_labels import find_labels
from danqing.trust.marking import Marking
from danqing.trust.settings import MarkSettings
from danqing.trust.verify import Outcome, Verdict
from danqing.trust.watermark_key import WatermarkKey
from tests.trust.certificates_of_others import Issuer
from tests.trust.pictures import CHANNELS, FORMATS, picture, pixels

AIGC = json.dumps({"Label": "1", "ContentProducer": "001191440300708461136T00000"})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "trust"))
    authority.create(tmp_path / "trust" / "authority")
    return tmp_path / "trust"


def marked(format: str = "png", mode: str = "RGB", seed: int = 0, settings: str = "eu") -> bytes:
    marks = Marking(MarkSettings.from_text(settings), Declaration(model="cats"))
    return images.encode(images.to_pil(pixels(mode, seed=seed)), format, marks=marks)


def outcomes(found: dq.Provenance) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in found.checks}


def test_an_image_of_ours_passes_all_checks() -> None:
    for format in FORMATS:
        for mode in CHANNELS:
            found = dq.verify(marked(format, mode))
            assert found.verdict is Verdict.OURS
            assert set(outcomes(found).values()) <= {Outcome.PASSED, Outcome.ABSENT}
            assert {"signature", "content", "certificate", "labels", "watermark", "registry"} <= {
                name for name, outcome in outcomes(found).items() if outcome is Outcome.PASSED
            }
            assert found.manifest["claim_generator_info"][0]["name"] == "Danqing"


@pytest.mark.parametrize("letter", ["&", "心", "𐀀"])
def test_a_long_prompt_has_room_in_every_format(letter: str) -> None:
    settings = MarkSettings.from_text("eu,credentials=off,prompt=on")
    marks = Marking(settings, Declaration(prompt=30_000 * letter))
    for format in FORMATS:
        file = images.encode(images.to_pil(pixels()), format, marks=marks)
        info = Image.open(io.BytesIO(file)).info
        packet = info.get("xmp") or info["XML:com.adobe.xmp"].encode()
        assert xmp.properties_of(packet)[labels.PROMPT] == (7999 * letter + "…",)


def test_an_image_without_marks_has_none() -> None:
    found = dq.verify(picture())
    assert found.verdict is Verdict.NONE
    assert set(outcomes(found).values()) == {Outcome.ABSENT}


def test_verifying_creates_no_trust_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = marked()
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "elsewhere"))
    assert dq.verify(file).verdict is Verdict.OTHER
    assert not (tmp_path / "elsewhere").exists()


def test_a_trust_folder_that_cannot_be_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    file = marked()
    monkeypatch.setenv("DANQING_TRUST", "/" + "x" * 300)
    with pytest.raises(TrustError, match=r"authority cannot be read .*name too long"):
        dq.verify(file)
    folder = Path("/" + "x" * 300)
    with pytest.raises(TrustError, match=r"watermark's key .* cannot be read"):
        WatermarkKey.existing(folder)
    with pytest.raises(registry.RegistryError, match="cannot be used"):
        registry.Registry(folder / "registry.sqlite").find(pixels())


def test_stripped_marks_leave_the_registry_and_labels_prove_nothing(folder: Path) -> None:
    stripped = io.BytesIO()
    with Image.open(io.BytesIO(marked("jpeg"))) as image:
        image.save(stripped, "PNG")
    found = dq.verify(stripped.getvalue())
    assert found.verdict is Verdict.OURS
    assert outcomes(found)["credentials"] is Outcome.ABSENT
    assert found.summary == "It was generated here, by the watermark and the registry."
    (folder / "registry.sqlite").rename(folder / "moved.sqlite")
    registry.shared.cache_clear()
    found = dq.verify(stripped.getvalue())
    assert found.verdict is Verdict.OURS
    assert outcomes(found)["registry"] is Outcome.ABSENT
    alone = marked(settings="eu,credentials=off,registry=off,watermark=off", seed=9)
    found = dq.verify(alone)
    assert found.verdict is Verdict.OTHER
    assert outcomes(found)["labels"] is Outcome.PASSED
    assert "anyone" in found.summary


def test_a_changed_image_is_broken_and_a_stranger_is_other(folder: Path, tmp_path: Path) -> None:
    changed = bytearray(marked("jpeg"))
    changed[-100] ^= 1  # in the pixels
    found = dq.verify(bytes(changed))
    assert found.verdict is Verdict.BROKEN
    assert outcomes(found)["content"] is Outcome.FAILED
    assert outcomes(found)["signature"] is Outcome.PASSED
    stranger = Issuer.root("Another studio")
    signed = credentials.sign(picture(seed=3), "png", Declaration(), authority=stranger.leaf())
    found = dq.verify(signed)
    assert found.verdict is Verdict.OTHER
    assert "Another studio" in found.summary
    assert outcomes(found)["certificate"] is Outcome.FAILED
    root = tmp_path / "root.pem"
    root.write_text(certificates.certificate_pem(stranger.certificate))
    assert dq.verify(signed, roots=[root]).verdict is Verdict.OURS
    root.write_text("not a certificate")
    with pytest.raises(dq.DanqingError, match="does not have a certificate"):
        dq.verify(signed, roots=[root])


def test_an_edit_shows_its_parent_and_that_it_was_changed_before(folder: Path) -> None:
    owner = authority.load(folder / "authority")
    edit = Declaration(SourceType.PARTLY_GENERATED, "fill")
    changed = bytearray(parent := marked(seed=4))
    changed[-100] ^= 1
    for before, outcome in ((parent, Outcome.PASSED), (bytes(changed), Outcome.FAILED)):
        found = dq.verify(credentials.sign(picture(seed=5), "png", edit, authority=owner, parent=before))
        assert found.verdict is Verdict.OURS  # the edit was made here in both cases
        assert outcomes(found)["parent"] is outcome


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_an_edit_of_16_bits_is_found_by_its_pixels(format: str) -> None:
    deep = pixels("L", size=128, seed=6).astype(np.uint16) * 200 + 7
    marks = Marking(MarkSettings(credentials="off"), Declaration(SourceType.ENHANCED, "upscale"))
    made = marks.write(deep, lambda own, xmp: files.write(own, files.FileStyle(format, xmp=xmp)))
    found = dq.verify(made.content)
    assert outcomes(found)["registry"] is Outcome.PASSED
    assert "these pixels" in str(found.checks)


def test_the_image_before_an_edit_is_not_taken_for_the_edit(folder: Path) -> None:
    before = pixels("RGB", seed=6)
    after = before.copy()
    after[:9, :9] = 255
    marks = Marking(MarkSettings.from_text("eu"), Declaration(SourceType.PARTLY_GENERATED, "fill", "cats"))
    edit = images.encode(images.to_pil(after), "png", marks=marks)
    stripped = io.BytesIO()
    images.to_pil(after).save(stripped, "JPEG", quality=80)
    assert dq.verify(edit).verdict is Verdict.OURS
    for content in (picture(seed=6), stripped.getvalue()):
        found = dq.verify(content)
        assert (found.verdict, outcomes(found)["registry"]) == (Verdict.NONE, Outcome.UNSURE)
        assert "is the image before that edit" in found.summary


def test_credentials_beside_an_image_are_found(folder: Path, tmp_path: Path) -> None:
    owner = authority.load(folder / "authority")
    path = tmp_path / "picture.png"
    path.write_bytes(picture(seed=6))
    assert dq.verify(path).verdict is Verdict.NONE
    beside = credentials.sidecar(path.read_bytes(), "png", Declaration(), authority=owner)
    path.with_suffix(".c2pa").write_bytes(beside)
    assert dq.verify(path).verdict is Verdict.OURS
    assert dq.verify(path.read_bytes(), sidecar=beside).verdict is Verdict.OURS
    path.write_bytes(credentials.sign(picture(seed=8), "png", Declaration(), authority=owner))
    assert dq.verify(path).verdict is Verdict.OURS  # its own credentials count, not those of the former file


def test_an_image_without_credentials_does_not_keep_those_of_the_file_that_it_replaces(
    folder: Path, tmp_path: Path
) -> None:
    path, twin = tmp_path / "picture.png", tmp_path / "picture.webp"
    one, other = pixels("RGB", seed=1), pixels("RGB", seed=2)
    beside, inside = (
        Marking(MarkSettings.from_text(f"eu,watermark=off,registry=off,credentials={where}"), Declaration())
        for where in ("sidecar", "embedded")
    )
    for marks, verdict in ((None, Verdict.NONE), (inside, Verdict.OURS)):
        images.save(one, path, marks=beside)
        assert dq.verify(path).verdict is Verdict.OURS
        images.save(other, path, marks=marks)
        assert not path.with_suffix(".c2pa").exists()
        assert dq.verify(path).verdict is verdict
    images.save(one, twin, marks=beside)
    images.save(other, path)
    assert dq.verify(twin).verdict is Verdict.OURS  # they may belong to this image, and stay


def test_images_of_a_stolen_key_are_no_longer_ours(folder: Path) -> None:
    owner = authority.load(folder / "authority")
    signed = credentials.sign(picture(seed=7), "png", Declaration(), authority=owner)
    authority.rotate(folder / "authority")
    assert dq.verify(signed).verdict is Verdict.OURS
    authority.rotate(folder / "authority", revoke=True)  # of the second leaf
    assert dq.verify(signed).verdict is Verdict.OURS
    second = authority.load(folder / "authority")
    stolen = credentials.sign(picture(seed=8), "png", Declaration(), authority=second)
    authority.rotate(folder / "authority", revoke=True)
    found = dq.verify(stolen)
    assert found.verdict is Verdict.OTHER
    assert found.summary == "It was signed by Danqing images, with a certificate that is revoked here."
    assert outcomes(found)["certificate"] is Outcome.FAILED


def test_labels_of_others_are_read_wherever_they_are(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("AIGC", AIGC)
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = (
        b"ASCII\0\0\0" + b'{"AIGC":' + AIGC.encode() + b"}"
    )
    for format, options in (("PNG", {"pnginfo": text}), ("JPEG", {"exif": exif})):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32)).save(buffer, format, **options)
        found = find_labels(buffer.getvalue())
        assert (found.label, found.producer) == ("1", "001191440300708461136T00000")
        assert dq.verify(buffer.getvalue()).verdict is Verdict.OTHER


def test_an_xmp_bomb_fails_one_check_alone() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><x>&e11;</x>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", bomb)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG", pnginfo=text)
    found = dq.verify(buffer.getvalue())
    assert found.verdict is Verdict.NONE
    assert outcomes(found)["labels"] is Outcome.FAILED


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def test_the_command_prints_verdicts_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "ours.png").write_bytes(marked())
    code, shown, _ = run(capsys, "verify", str(place / "ours.png"))
    assert code == 0
    assert "ours.png: ours." in shown
    assert "certificate  passed" in shown
    (place / "10.webp").write_bytes(picture("webp", seed=2))
    (place / "2.png").write_bytes(b"not an image")
    code, shown, _ = run(capsys, "verify", str(place), "--json")
    assert code == 1
    printed = json.loads(shown)
    assert [(Path(each["name"]).name, each["verdict"]) for each in printed["images"]] == [
        ("10.webp", "none"),
        ("ours.png", "ours"),
    ]
    assert [Path(name).name for name in printed["failed"]] == ["2.png"]
    assert {"name", "outcome", "detail"} == printed["images"][0]["checks"][0].keys()
    assert run(capsys, "verify", str(place / "2.png"))[0] == 2
    assert run(capsys, "verify", str(place), "--sidecar", "x.c2pa")[0] == 2


def test_a_signer_cannot_draw_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = Issuer.root("\x1b[2J\nours.png: ours\u202e").leaf()
    path = tmp_path / "a.png"
    path.write_bytes(credentials.sign(picture(seed=3), "png", Declaration(), authority=stranger))
    _, shown, _ = run(capsys, "verify", str(path))
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert not [line for line in shown.splitlines() if line.startswith("ours.png")]


def test_the_commands_of_an_authority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "second"))
    code, _, told = run(capsys, "authority", "export")
    assert code == 2
    assert "authority create" in told
    offline = tmp_path / "root.key"
    code, shown, told = run(
        capsys, "authority", "create", "--name", "Studio", "--root-key", str(offline), "--json"
    )
    assert code == 0
    assert "offline" in told
    assert json.loads(shown)["expires"] > f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    assert run(capsys, "authority", "rotate")[0] == 2
    assert run(capsys, "authority", "rotate", "--root-key", str(offline), "--revoke")[0] == 0
    code, pem, _ = run(capsys, "authority", "export")
    assert pem.startswith("-----BEGIN CERTIFICATE-----")
    out = tmp_path / "root.pem"
    assert run(capsys, "authority", "export", str(out))[0] == 0
    assert out.read_text().strip() == pem.strip()
    assert "PRIVATE" not in pem + told + shown
