"""The authority: its certificates, who may read its keys, rotation, and keys that are elsewhere."""

import dataclasses
import datetime
import functools
import json
import os
import stat
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from danqing.errors import MarkWarning, TrustError
from danqing.trust import authority, certificates, credentials
from danqing.trust.declaration import Declaration
from tests.trust.pictures import picture

TODAY = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "authority"


def leaf_of(owner: authority.Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(owner.certificate.encode())


def is_trusted(owner: authority.Authority, root: str) -> bool:
    signed = credentials.sign(picture(), "png", Declaration(), authority=owner)
    found = credentials.read(signed, roots=[root])
    assert found is not None
    return found.trusted and not found.failures


def at(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Make the authority believe that it is some days later."""

    monkeypatch.setattr(authority, "_now", lambda: TODAY + datetime.timedelta(days=days))


def test_an_authority_has_the_certificates_that_readers_accept(folder: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    owner = authority.create(folder, "Studio 丹")
    leaf, root = leaf_of(owner), x509.load_pem_x509_certificate(owner.root.encode())
    leaf.verify_directly_issued_by(root)
    assert abs(owner.expires - now - datetime.timedelta(days=90)) < datetime.timedelta(minutes=10)
    assert [leaf.subject.get_attributes_for_oid(name)[0].value for name in (NameOID.ORGANIZATION_NAME,)] == [
        "Studio 丹"
    ]
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    extension = leaf.extensions.get_extension_for_class
    assert list(extension(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.EMAIL_PROTECTION]
    assert not extension(x509.BasicConstraints).value.ca
    assert extension(x509.KeyUsage).critical
    assert is_trusted(owner, authority.export(folder))


def test_only_the_owner_can_read_the_files_and_no_text_shows_a_key(folder: Path) -> None:
    old = os.umask(0)
    try:
        with pytest.warns(MarkWarning, match="Created an authority") as told:
            owner = authority.load(folder)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes.keys() == {"root.pem", "root.key", "leaf.json", "issued.json", "lock"}
    assert set(modes.values()) == {0o600}
    assert len(told) == 1
    assert "PRIVATE" not in str(told[0].message) + repr(owner) + authority.export(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        authority.load(folder)


def test_an_authority_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    authority.create(folder)
    with pytest.raises(TrustError, match="rotate"):
        authority.create(folder)
    kept = tmp_path / "kept.key"
    kept.write_text("another key")
    with pytest.raises(TrustError, match="choose another file"):
        authority.create(tmp_path / "second", root_key=kept)
    assert kept.read_text() == "another key"


def test_threads_that_need_an_authority_at_once_get_the_same(folder: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(authority.load(folder).root)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_rotation_replaces_the_key_and_images_of_both_leaves_are_trusted(folder: Path) -> None:
    first = authority.create(folder)
    second = authority.rotate(folder)
    assert leaf_of(first).public_key() != leaf_of(second).public_key()
    assert authority.load(folder) is second
    root = authority.export(folder)
    assert is_trusted(first, root)
    assert is_trusted(second, root)
    assert authority.revoked(folder) == frozenset()
    authority.rotate(folder, revoke=True)
    assert authority.revoked(folder) == {leaf_of(second).serial_number}


def test_a_revocation_is_of_the_leaf_that_has_signed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, write = authority.create(folder), authority._write

    def stopped(file: Path, content: str) -> None:
        if file.name == authority.LEAF:
            raise KeyboardInterrupt
        write(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(authority, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            authority.rotate(folder)
    assert authority.load(folder).certificate == owner.certificate
    authority.rotate(folder, revoke=True)
    assert authority.revoked(folder) == {leaf_of(owner).serial_number}


def test_a_folder_that_cannot_be_locked_is_reported(folder: Path) -> None:
    (folder / "lock").mkdir(parents=True)
    with pytest.raises(TrustError, match="cannot be written"):
        authority.create(folder)


def test_a_leaf_is_renewed_in_its_last_two_weeks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = authority.create(folder)
    at(monkeypatch, 75)
    assert authority.load(folder) is first
    at(monkeypatch, 77)
    second = authority.load(folder)
    assert second.certificate != first.certificate
    assert second.root == first.root


def test_threads_that_wait_for_each_other_renew_a_leaf_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as past:
        past.setattr(certificates, "new_leaf", functools.partial(certificates.new_leaf, days=10))
        authority.create(folder)
    before = len(json.loads((folder / "issued.json").read_text()))
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(authority.load(folder).certificate)) for _ in range(4)
    ]
    with FileLock(folder / "lock"):
        for thread in threads:
            thread.start()
        time.sleep(0.3)  # all of them find the old leaf
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(json.loads((folder / "issued.json").read_text())) == before + 1


def test_a_leaf_that_cannot_be_renewed_signs_until_it_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = authority.create(folder)

    def rejected(file: Path, content: str) -> None:
        raise TrustError(f"{file.name} cannot be written (Read-only file system).")

    monkeypatch.setattr(authority, "_write", rejected)
    at(monkeypatch, 80)
    with pytest.warns(MarkWarning, match=r"expires on .*Read-only"):
        assert authority.load(folder) is owner
    at(monkeypatch, 91)
    with pytest.raises(TrustError, match=r"expired on .*Read-only"):
        authority.load(folder)


def test_the_key_of_the_root_can_be_kept_offline(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = tmp_path / "disk" / "root.key"
    offline.parent.mkdir()
    first = authority.create(folder, root_key=offline)
    assert not (folder / "root.key").exists()
    assert stat.S_IMODE(offline.stat().st_mode) == 0o600
    at(monkeypatch, 80)
    with pytest.warns(MarkWarning, match="rotate --root-key"):
        assert authority.load(folder) is first
    at(monkeypatch, 91)
    with pytest.raises(TrustError, match=r"expired on .*--root-key FILE"):
        authority.load(folder)
    with pytest.raises(TrustError, match="--root-key"):
        authority.rotate(folder)
    other = tmp_path / "other"
    authority.create(other)
    with pytest.raises(TrustError, match="does not belong to the root"):
        authority.rotate(folder, root_key=other / "root.key")
    renewed = authority.rotate(folder, root_key=offline)
    assert is_trusted(renewed, authority.export(folder))


def test_a_function_can_sign_in_place_of_a_key_in_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = certificates.new_key()
    public = tmp_path / "kms.pub.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    module: Any = type(sys)("kms_of_the_test")
    calls: list[bytes] = []

    def sign(data: bytes) -> bytes:
        calls.append(data)
        return certificates.sign_with(key, data)

    module.sign, module.wrong = sign, lambda data: certificates.sign_with(certificates.new_key(), data)
    monkeypatch.setitem(sys.modules, "kms_of_the_test", module)
    with pytest.raises(TrustError, match="give both"):
        authority.create(folder, signer="kms_of_the_test:sign")
    for signer, message in [
        ("kms_of_the_test:wrong", "does not belong"),
        ("kms_of_the_test:none", "imported"),
    ]:
        with pytest.raises(TrustError, match=message):
            authority.create(folder, signer=signer, public_key=public)
    owner = authority.create(folder, signer="kms_of_the_test:sign", public_key=public)
    assert is_trusted(owner, authority.export(folder))
    assert len(calls) >= 2
    assert "PRIVATE" not in (folder / "leaf.json").read_text()
    renewed = authority.rotate(folder)
    assert leaf_of(renewed).public_key() == key.public_key()
    assert is_trusted(renewed, authority.export(folder))


SIGNERS = """
import sys
def fails(data): raise RuntimeError("the PIN is 1234")
def text(data): return "signature"
def nothing(data): return b""
value = 5
"""


@pytest.mark.parametrize(
    ("signer", "sentence"),
    [
        ("signers_of_the_test:fails", r"signer of the authority failed \(RuntimeError\)"),
        ("signers_of_the_test:text", "returned str instead of a signature: it must return bytes"),
        ("signers_of_the_test:nothing", "returned nothing instead of a signature"),
        ("signers_of_the_test:value", "is not a function"),
        ("signers_of_the_test", "write it as package.module:function"),
        ("none_of_the_test:sign", "No module named 'none_of_the_test'"),
        (":sign", "write it as package.module:function"),
        (".relative:sign", "write it as package.module:function"),
        ("broken_of_the_test:sign", r"cannot be imported \(SyntaxError\)"),
        ("raises_of_the_test:sign", r"cannot be imported \(RuntimeError\)"),
        ("exits_of_the_test:sign", r"cannot be imported \(SystemExit\)"),
    ],
)
def test_a_signer_that_cannot_sign_is_rejected_with_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signer: str, sentence: str
) -> None:
    (tmp_path / "signers_of_the_test.py").write_text(SIGNERS)
    (tmp_path / "broken_of_the_test.py").write_text("def sign(:")
    (tmp_path / "raises_of_the_test.py").write_text("raise RuntimeError('the PIN is 1234')")
    (tmp_path / "exits_of_the_test.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    public = tmp_path / "kms.pub.pem"
    key = certificates.new_key().public_key()
    public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(TrustError, match=sentence) as told:
        authority.create(folder, signer=signer, public_key=public)
    assert "1234" not in str(told.value)
    assert not (folder / "root.pem").exists()


def test_a_signer_that_fails_later_is_named_as_the_reason(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner, answers = authority.create(folder), list[Any]()
    broken = dataclasses.replace(owner, sign=lambda data: answers.pop()(data))
    for answer, sentence in (
        (lambda data: 1 / 0, r"failed \(ZeroDivisionError\): check that it reaches its key"),
        (lambda data: "text", "returned str instead of a signature"),
        (lambda data: None, "returned NoneType instead of a signature"),
    ):
        answers.append(answer)
        with pytest.raises(TrustError, match=sentence):
            credentials.sign(picture(), "png", Declaration(), authority=broken)
    answers.append(owner.sign)
    assert credentials.sign(picture(), "png", Declaration(), authority=broken)
    assert not caplog.records


@pytest.mark.parametrize("content", ["[]", "{}", '{"key": 5}', "5", '[{"serial": "x"}]', "[" * 100_000])
def test_files_of_another_form_are_reported_as_damaged(folder: Path, content: str) -> None:
    authority.create(folder)
    for name in ("leaf.json", "issued.json"):
        if (name, content) != ("issued.json", "[]"):
            whole = (folder / name).read_text()
            (folder / name).write_text(content)
            with pytest.raises(TrustError, match=f"{name} is damaged: restore it"):
                authority.rotate(folder, revoke=True)
            (folder / name).write_text(whole)


def test_two_authorities_never_share_a_file_for_the_key_of_their_roots(tmp_path: Path) -> None:
    authority.create(tmp_path / "one", root_key=tmp_path / "root.key")
    with pytest.raises(TrustError, match=r"root\.key exists: choose another file"):
        authority.create(tmp_path / "two", root_key=tmp_path / "root.key")
    assert not (tmp_path / "two" / "root.pem").exists()


@pytest.mark.parametrize("name", ["leaf.json", "root.pem"])
def test_a_damaged_authority_is_reported_without_its_keys(folder: Path, name: str, tmp_path: Path) -> None:
    authority.create(folder)
    other = tmp_path / "other"
    authority.create(other)
    (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(TrustError, match="did not issue"):
        authority.load(folder)
    (folder / name).write_bytes(b'{"key": "-----BEGIN PRIVATE KEY-----"')
    with pytest.raises(TrustError) as caught:
        authority.load(folder)
    assert "BEGIN" not in str(caught.value)
