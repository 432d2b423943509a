"""Content Credentials: what they say, who reads them, and what breaks them."""

import hashlib
import io
import json
import runpy
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import c2pa
import pytest
from PIL import Image

from danqing.errors import ConfigError, TrustError
from danqing.trust import authority, certificates, credentials
from danqing.trust.declaration import Declaration, SourceType
from danqing.trust.verify import Outcome, verify
from tests.trust.pictures import CHANNELS, FORMATS, picture

FILL = Declaration(SourceType.PARTLY_GENERATED, "fill", model="cats", model_digest="ab" * 32)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> authority.Authority:
    return authority.load(tmp_path_factory.mktemp("trust") / "authority")


def read(file: bytes, owner: authority.Authority, **options: bytes) -> credentials.Credentials:
    found = credentials.read(file, roots=[owner.root], **options)
    assert found is not None
    return found


def action(found: credentials.Credentials) -> dict:
    [assertion] = [each for each in found.manifest["assertions"] if each["label"].startswith("c2pa.actions")]
    assert assertion["created"]  # the signer vouches for it, and did not gather it
    return assertion["data"]["actions"][-1]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", CHANNELS)
def test_the_c2pa_reader_trusts_our_root(format: str, mode: str, owner: authority.Authority) -> None:
    file = picture(format, mode)
    signed = credentials.sign(file, format, Declaration(), authority=owner)
    assert len(signed) - len(file) <= 15_000
    context = c2pa.Context.from_dict({"trust": {"user_anchors": owner.root}})
    reader = c2pa.Reader(f"image/{format}", io.BytesIO(signed), context=context)
    assert reader.get_validation_state() == "Trusted"
    untrusting = c2pa.Reader(f"image/{format}", io.BytesIO(signed))
    codes = [each["code"] for each in untrusting.get_validation_results()["activeManifest"]["failure"]]
    assert codes == ["signingCredential.untrusted"]
    with Image.open(io.BytesIO(file)) as before, Image.open(io.BytesIO(signed)) as after:
        assert before.tobytes() == after.tobytes()
        assert before.mode == after.mode


def test_a_manifest_says_how_the_image_was_made(owner: authority.Authority) -> None:
    declaration = Declaration(
        model="cats", model_digest="ab" * 32, licence="CC0", reservations={"DMI": "prohibited"}
    )
    found = read(credentials.sign(picture(), "png", declaration, authority=owner), owner)
    assert found.trusted
    assert found.failures == ()
    made = action(found)
    assert made["action"] == "c2pa.created"
    assert made["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert made["softwareAgent"]["name"] == "Danqing"
    assert made["parameters"]["danqing"] == {
        "operation": "sample",
        "model": "cats",
        "model_sha256": "ab" * 32,
        "training_data": {"licence": "CC0", "reservations": {"DMI": "prohibited"}},
    }
    assert "prompt" not in json.dumps(found.manifest)
    image_id = uuid.uuid4().hex
    named = credentials.sign(picture(), "png", Declaration(), authority=owner, image_id=image_id)
    assert read(named, owner).manifest["label"] == credentials.manifest_id(image_id)
    with_prompt = read(
        credentials.sign(picture(), "png", Declaration(prompt="一只猫"), authority=owner), owner
    )
    assert action(with_prompt)["parameters"]["danqing"]["prompt"] == "一只猫"


def test_an_edit_carries_its_parent_and_what_was_wrong_with_it(owner: authority.Authority) -> None:
    parent = credentials.sign(picture(seed=1), "png", Declaration(), authority=owner)
    changed = bytearray(parent)
    changed[-100] ^= 1
    unmarked = picture("webp", seed=1)
    bitmap = io.BytesIO()
    Image.new("RGB", (8, 8)).save(bitmap, "BMP")
    cases: list[tuple[bytes, tuple[str, ...]]] = [
        (parent, ()),
        (bytes(changed), ("assertion.dataHash.mismatch",)),
        (parent[:9000], ()),  # its manifest is cut off, and the parent is named without it
        (unmarked, ()),
        (bitmap.getvalue(), ()),
        (b"", ()),
    ]
    for before, wrong in cases:
        found = read(credentials.sign(picture(), "png", FILL, authority=owner, parent=before), owner)
        assert found.trusted
        assert found.failures == ()
        [parent_of_edit] = found.parents
        assert parent_of_edit.failures == wrong
        assert hashlib.sha256(before).hexdigest() in parent_of_edit.description
        [ingredient] = found.manifest["ingredients"]
        assert ("active_manifest" in ingredient) == (before in (parent, bytes(changed)))
        made = action(found)
        assert made["action"] == "c2pa.edited"
        assert made["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")


def test_credentials_beside_an_image_leave_its_file_as_it_is(owner: authority.Authority) -> None:
    file = picture("webp")
    beside = credentials.sidecar(file, "webp", Declaration(), authority=owner)
    assert credentials.read(file) is None
    assert read(file, owner, sidecar=beside).failures == ()
    assert read(file, owner, sidecar=beside).trusted
    [(code, _)] = read(picture("webp", seed=1), owner, sidecar=beside).failures
    assert code == "assertion.dataHash.mismatch"


def test_threads_sign_with_one_authority(owner: authority.Authority) -> None:
    signed: list[bytes] = []

    def work() -> None:
        signed.extend(credentials.sign(picture(), "png", Declaration(), authority=owner) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = {read(each, owner).manifest["label"] for each in signed}
    assert len(labels) == 20  # each image has an id of its own


def test_other_formats_are_not_signed(owner: authority.Authority) -> None:
    with pytest.raises(ConfigError, match="png, webp or jpeg"):
        credentials.sign(b"", "bmp", Declaration(), authority=owner)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("format", ["png", "jpeg"])  # the exiftool of Debian 12 reads no manifests in webp
def test_exiftool_reads_the_manifest(format: str, owner: authority.Authority, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{format}"
    path.write_bytes(credentials.sign(picture(format), format, Declaration(model="cats"), authority=owner))
    command = ["exiftool", "-json", "-struct", str(path)]
    [found] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert found["JUMDLabel"] == "c2pa"
    assert found["Actions"]["action"] == "c2pa.created"
    assert found["Actions"]["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert found["Actions"]["parameters"]["danqing"] == {"operation": "sample", "model": "cats"}


def test_missing_packages_are_named_with_the_command_that_installs_them(
    owner: authority.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(TrustError, match=r"pip install 'danqing\[trust\]'"):
        credentials.sign(picture(), "png", Declaration(), authority=owner)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(TrustError, match=r"pip install 'danqing\[trust\]'"):
        runpy.run_path(certificates.__file__)
    monkeypatch.setattr(credentials, "is_installed", lambda: False)
    found = verify(picture(), folder=tmp_path)
    assert found.checks[0].outcome is Outcome.SKIPPED
    assert "danqing[trust]" in found.checks[0].detail
