"""Attacks on credentials with certificates that another issued, that expired, or that cannot issue."""

import struct
import time
import uuid

import pytest

from danqing.trust import certificates, credentials, manifest_store
from danqing.trust.authority import Authority
from danqing.trust.declaration import Declaration
from tests.trust import jumbf
from tests.trust.certificates_of_others import Issuer
from tests.trust.pictures import FORMATS, picture

OURS = Issuer.root()
ROOT = certificates.certificate_pem(OURS.certificate)


def signed_by(authority: Authority, format: str = "png") -> bytes:
    return credentials.sign(picture(format), format, Declaration(), authority=authority)


def read(file: bytes, **options: bytes) -> credentials.Credentials:
    found = credentials.read(file, roots=[ROOT], **options)
    assert found is not None
    return found


def test_a_root_with_our_name_is_not_ours() -> None:
    impostor = Issuer.root()
    assert impostor.certificate.subject == OURS.certificate.subject
    for chain in ((), (impostor.certificate,), (OURS.certificate,), (OURS.certificate,) * 30):
        found = read(signed_by(impostor.leaf(chain=chain)))
        assert not found.trusted
        assert found.failures == ()  # valid, by someone else
    assert read(signed_by(OURS.leaf())).trusted


def test_a_leaf_cannot_issue_certificates() -> None:
    key = certificates.new_key()
    leaf = OURS.issue(key)
    below = Issuer(key, leaf)
    for chain in ((leaf,), (leaf, OURS.certificate)):
        assert not read(signed_by(below.leaf(chain=chain))).trusted


def test_our_certificate_does_not_help_another_key() -> None:
    ours, other = OURS.leaf(), Issuer.root().leaf()
    stolen = Authority(ours.certificate, ROOT, ours.expires, other.sign)
    found = read(signed_by(stolen))
    assert {code for code, _ in found.failures} == {"claimSignature.mismatch"}


def test_an_image_stays_ours_when_the_certificate_has_expired() -> None:
    serial = 4711
    short = OURS.leaf(seconds=2, serial=serial)
    impostor = Issuer.root().leaf(seconds=2, serial=serial, chain=())
    # Its chain also has our leaf, so that the bytes of our certificate are in the file.
    leaf = certificates.read_certificates(short.certificate.encode(), "")[0]
    with_ours = Issuer.root().leaf(seconds=2, serial=serial, chain=(leaf,))
    files = {format: signed_by(short, format) for format in FORMATS}
    below = credentials.sidecar(picture("webp"), "webp", Declaration(), authority=short)
    edit = files["jpeg"]
    for _ in range(5):  # until the manifests fill several segments of the jpeg
        edit = credentials.sign(picture("jpeg"), "jpeg", Declaration(), authority=short, parent=edit)
    assert len(edit) > 80_000
    of_others = [signed_by(impostor), signed_by(with_ours)]
    time.sleep(max(0.0, short.expires.timestamp() + 1.2 - time.time()))
    for file in [*files.values(), edit]:
        found = read(file)
        assert found.trusted
        assert found.expired == short.expires
        assert found.failures == ()
        alone = credentials.read(file)
        assert alone is not None
        assert not alone.trusted
    assert read(picture("webp"), sidecar=below).trusted
    for file in of_others:
        found = read(file)
        assert not found.trusted
        assert found.failures[0][0] == "signingCredential.expired"
    changed = bytearray(files["png"])
    changed[-100] ^= 1
    assert not read(bytes(changed)).trusted


def test_a_second_store_in_a_file_does_not_lend_its_signer() -> None:
    image_id, serial = uuid.uuid4().hex, 4712
    short, impostor = OURS.leaf(seconds=2, serial=serial), Issuer.root().leaf(seconds=2, serial=serial)
    ours = credentials.sidecar(picture(), "png", Declaration(), authority=short, image_id=image_id)
    hidden = ours[:16] + b"c2pb" + ours[20:]  # the library takes this for boxes of another kind
    segment = b"JP" + struct.pack(">HI", 7, 1) + hidden
    jpeg = picture("jpeg", seed=9)
    jpeg = jpeg[:2] + b"\xff\xeb" + struct.pack(">H", 2 + len(segment)) + segment + jpeg[2:]
    forged = credentials.sign(jpeg, "jpeg", Declaration(), authority=impostor, image_id=image_id)
    theirs = credentials.sidecar(picture(), "png", Declaration(), authority=impostor, image_id=image_id)
    time.sleep(max(0.0, short.expires.timestamp() + 1.2 - time.time()))
    assert read(picture(), sidecar=ours).trusted
    assert not read(forged).trusted
    for both in (theirs, hidden + theirs, theirs + ours, theirs + hidden):
        assert not read(picture(), sidecar=both).trusted
        assert not read(jumbf.into(picture(), both)).trusted


def test_a_serial_number_of_any_length_raises_nothing() -> None:
    for text, expected in (("4711", 4711), ("9" * 5000, None), ("", None)):
        found = credentials.Credentials({"signature_info": {"cert_serial_number": text}})
        assert found.serial == expected


def test_the_signer_is_found_only_for_an_intact_claim() -> None:
    authority = OURS.leaf()
    store = credentials.sidecar(picture(), "png", Declaration(), authority=authority)
    label = read(picture(), sidecar=store).manifest["label"]
    signer = manifest_store.signer_of(store, label)
    assert signer is not None
    assert certificates.is_issued_by(signer, OURS.certificate)
    claim = store.index(b"claim_generator_info")
    changed = bytearray(store)
    changed[claim + 40] ^= 1
    assert manifest_store.signer_of(bytes(changed), label) is None
    assert manifest_store.signer_of(store, label + "0") is None
    for added in (store, b"\0", b"\0\0\0\1jumb" + bytes(8)):
        assert manifest_store.signer_of(store + added, label) is None  # there is one way to read a store


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_stores_have_no_signer_and_raise_nothing(format: str) -> None:
    file = signed_by(OURS.leaf(), format)
    store = manifest_store.store_in(file)
    label = read(file).manifest["label"]
    assert manifest_store.signer_of(store, label) is not None
    for cut in range(0, len(store) - 1, 97):
        assert manifest_store.signer_of(store[:cut], label) is None
        manifest_store.store_in(file[:cut])
    assert manifest_store.store_in(b"") == b""
    assert manifest_store.store_in(picture(format)) == b""
