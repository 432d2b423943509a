"""Reservations of owners are respected, and terms are counted, shown and kept."""

import json
import struct
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from danqing.cli import main
from danqing.data import open_dataset
from danqing.data.consent import Consent, Counts, Declared, count, declared, in_words, merge
from danqing.data.decoding import RESERVED
from danqing.data.named_images import NamedSource
from danqing.data.records import ImageSpec
from danqing.data.terms import PLACE, Terms
from danqing.errors import DataError
from tests.data.pictures import picture
from tests.data.test_terms import PLUS, packet

RESERVES = packet(f"<plus:DataMining>{PLUS}DMI-PROHIBITED-AIMLTRAINING</plus:DataMining>")
CREATOR = packet("<dc:creator><rdf:Seq><rdf:li>Jane</rdf:li></rdf:Seq></dc:creator>")


def photos(folder: Path, packets: list[bytes], prefix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, xmp in enumerate(packets):
        options = {"xmp": xmp} if xmp else {}
        Image.fromarray(picture(number)).save(folder / f"{prefix}{number}.webp", lossless=True, **options)
    return folder


def test_images_whose_owners_reserve_training_are_left_out_and_accounted_for(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", [b"", RESERVES, CREATOR, RESERVES, b""])
    dataset = open_dataset(folder)
    report = dataset.info.report
    assert len(dataset) == 3
    assert (dataset.images([0, 1, 2]).numpy() == [picture(n) for n in (0, 2, 4)]).all()
    assert (report.found, report.images, report.skipped, report.left_out) == (5, 3, 0, {RESERVED: 2})
    assert [file.name for file in report.left_out_files] == ["1.webp", "3.webp"]
    assert report.account() == f"5 found: 3 used, 2 {RESERVED}"
    assert report.consent == Consent(
        creators={"Jane": 1}, reservations={"no AI training (IPTC/PLUS)": 2}, reserved=2
    )
    assert any("--ignore-reservations" in line for line in report.lines())


def test_all_images_are_used_if_reservations_are_ignored(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", [b"", RESERVES, CREATOR])
    kept = open_dataset(folder, ignore_reservations=True)
    assert len(kept) == 3
    assert kept.info.report.left_out == {}
    assert (kept.info.report.consent.reserved, kept.info.report.consent.ignored) == (1, True)
    plain = photos(tmp_path / "plain", [b"", b"", b""])
    assert kept.fingerprint == open_dataset(plain).fingerprint, "the images alone make the fingerprint"
    assert open_dataset(plain, ignore_reservations=True).fingerprint == kept.fingerprint


def test_data_whose_images_are_all_reserved_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all 2 images reserve training.*--ignore-reservations"):
        open_dataset(photos(tmp_path / "photos", [RESERVES, RESERVES]))


def test_a_pair_is_reserved_if_either_image_is(tmp_path: Path) -> None:
    photos(tmp_path / "in", [b"", RESERVES, b"", b""])
    photos(tmp_path / "out", [b"", b"", RESERVES, CREATOR])
    dataset = open_dataset(tmp_path, pairs="in:out")
    assert len(dataset) == 2
    assert (dataset.source_images([0, 1]).numpy() == [picture(0), picture(3)]).all()
    assert dataset.info.report.consent.reserved == 2


def test_an_archive_reserves_like_a_folder(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", [b"", RESERVES, b""])
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    assert open_dataset(tmp_path / "photos.zip").fingerprint == open_dataset(folder).fingerprint


def test_an_interrupted_build_counts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "photos", [CREATOR, RESERVES] * 70)
    monkeypatch.setattr("danqing.data.cache_build._COMMIT_IMAGES", 64)

    def stop(done: int, total: int, what: str) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    whole = open_dataset(folder, cache_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        open_dataset(folder, cache_dir=tmp_path / "resumed", on_progress=stop)
    resumed = open_dataset(folder, cache_dir=tmp_path / "resumed")
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.info.report == whole.info.report
    assert resumed.info.report.consent.creators == {"Jane": 70}


def test_uses_other_than_training_read_reserved_images(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", [b"", RESERVES])
    (found,) = NamedSource(folder, ImageSpec()).read()
    assert found.names == ["0.webp", "1.webp"]
    assert found.skipped == []


def test_the_cache_contains_no_personal_metadata(tmp_path: Path, cache_folder: Path) -> None:
    exif = Image.Exif()
    exif[0x013B], exif.get_ifd(0x8769)[0xA430] = "An artist", "SECRET-OWNER"
    exif.get_ifd(0x8769)[0xA431] = "SECRET-SERIAL"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (48.0, 8.0, 13.337), "E", (11.0, 34.0, 31.337)
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "photos" / "0.jpg", exif=exif, comment=b"SECRET-NOTE")
    position = struct.pack("<II", 13337, 1000), struct.pack(">II", 13337, 1000)
    assert any(one in (tmp_path / "photos" / "0.jpg").read_bytes() for one in position)
    consent = open_dataset(tmp_path / "photos").info.report.consent
    assert consent.personal == {PLACE: 1, "owner of the camera": 1, "serial numbers": 1}
    stored = b"".join(path.read_bytes() for path in cache_folder.rglob("*") if path.is_file())
    assert b"An artist" in stored, "the creator is credited"
    assert b"SECRET" not in stored
    assert not any(one in stored for one in position)


def test_counts_of_many_texts_are_bounded() -> None:
    counts: Counts = {}
    for number in range(300):
        count(counts, Terms(creators=(f"creator {number}", "Jane")), used=True)
    merged: Counts = {}
    merge(merged, json.loads(json.dumps(counts)))
    consent = Consent.of(merged, ignored=False)
    assert consent.creators["Jane"] == 300
    assert len(consent.creators) == 101
    assert consent.creators["others"] == 201
    assert sum(consent.creators.values()) == 600
    assert in_words(consent.creators).endswith("and 81 more")
    assert consent.facts() == {"creators": consent.creators}


def test_check_shows_rights_and_writes_a_data_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "photos", [CREATOR, RESERVES, b"<broken"])
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(folder), "--card", str(tmp_path / "cards" / "card.md")])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Creators in files Jane (1)" in text
    assert "Reservations no AI training (IPTC/PLUS) (1); 1 images left out" in text
    assert "Metadata not read damaged (1)" in text
    assert "Faces not found: the images are too small to search" in text
    card = (tmp_path / "cards" / "card.md").read_text(encoding="utf-8")
    assert "- Creators in files: Jane (1)" in card
    assert str(folder) not in card
    assert "Cache" not in card
    with pytest.raises(SystemExit):
        main(["data", "check", str(folder), "--ignore-reservations", "--faces", "0", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 3
    assert found["faces"] is None
    assert found["report"]["consent"]["ignored"]


def test_generated_images_declare_licences_creators_and_reservations() -> None:
    data = {
        "licence": "MIT",
        "consent": {
            "licences": {"CC BY 4.0": 3},
            "creators": {f"creator {number}": 9 for number in range(50)},
            "reservations": {"no AI training (C2PA)": 2},
            "reserved": 2,
        },
    }
    found = declared(data)
    assert found.licence == "MIT, CC BY 4.0"
    assert found.creator.startswith("creator 0, creator 1")
    assert found.creator.count(",") == 9
    assert found.reservations == {"no AI training (C2PA)": 2, "images": "left out"}
    data["consent"]["ignored"] = True
    assert declared(data).reservations["images"] == "used anyway"
    for broken in ({}, {"consent": 3}, {"consent": {"creators": ["x"], "reservations": {"a": "b"}}}):
        assert declared(broken) == Declared()
