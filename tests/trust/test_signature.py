"""Signatures are those of model-signing, in both directions; each unmet requirement has its own error."""

import base64
import hashlib
import json
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from model_signing import hashing, signing, verifying

from danqing.errors import ModelError, TrustError
from danqing.model.files import Access, open_files
from danqing.trust import keys, signature
from danqing.trust.signature import (
    BadSignatureError,
    ChangedFileError,
    ExtraFileError,
    MissingFileError,
    OtherSignerError,
    UnsignedError,
)

CURVES = {"P-256": "prime256v1", "P-384": "secp384r1", "P-521": "secp521r1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cats"
    (folder / "notes").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "notes/猫.md", "notes.txt"):
        (folder / name).write_text(f"This is {name}.", encoding="utf-8")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    return folder


@pytest.fixture
def signer(tmp_path: Path) -> Path:
    keys.create_signing_key(tmp_path / "release.key")
    return tmp_path / "release.key"


def sign(folder: Path, key: Path) -> Path:
    bundle = signature.sign(folder.name, open_files(folder).digests(), keys.read_signing_key(key))
    (folder / "model.sig").write_bytes(bundle)
    return key.with_suffix(".pub")


def check(folder: Path, *signers: Path) -> None:
    open_files(folder, access=Access(require=signers))


def theirs(folder: Path, key: Path) -> None:
    signing.Config().use_elliptic_key_signer(private_key=key).sign(folder, folder / "model.sig")


@pytest.mark.parametrize("curve", CURVES)
def test_model_signing_and_these_bundles_verify_each_other(folder: Path, tmp_path: Path, curve: str) -> None:
    key, public = tmp_path / "openssl.key", tmp_path / "openssl.pub"
    make = ("openssl", "ecparam", "-name", CURVES[curve], "-genkey", "-noout", "-out", str(key))
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(
        ("openssl", "ec", "-in", str(key), "-pubout", "-out", str(public)), check=True, capture_output=True
    )
    sign(folder, key)
    judge = verifying.Config().use_elliptic_key_verifier(public_key=public)
    judge.verify(folder, folder / "model.sig")
    (folder / "notes.txt").write_text("changed")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        judge.verify(folder, folder / "model.sig")
    (folder / "model.sig").unlink()
    theirs(folder, key)
    check(folder, public)
    (folder / "notes.txt").write_text("changed again")
    with pytest.raises(ChangedFileError, match=r"notes\.txt was changed"):
        check(folder, public)


def test_each_difference_from_the_signed_files_has_its_own_error(folder: Path, signer: Path) -> None:
    public = sign(folder, signer)
    check(folder, public)
    content = (folder / "notes.txt").read_bytes()
    (folder / "notes.txt").unlink()
    with pytest.raises(MissingFileError, match=r"notes\.txt was signed and is missing"):
        check(folder, public)
    (folder / "notes.txt").write_bytes(content)
    (folder / "notes" / "more.bin").touch()
    with pytest.raises(ExtraFileError, match=r"notes/more\.bin was not signed"):
        check(folder, public)
    (folder / "notes" / "more.bin").unlink()
    (folder / "model.sig").unlink()
    with pytest.raises(UnsignedError, match="is not signed"):
        check(folder, public)


def test_any_of_the_required_keys_may_have_signed(folder: Path, signer: Path, tmp_path: Path) -> None:
    other = keys.create_signing_key(tmp_path / "other.key")
    public = sign(folder, signer)
    check(folder, other, public)
    with pytest.raises(OtherSignerError, match=r"not signed by the key in other\.pub"):
        check(folder, other)


def test_a_bundle_that_claims_another_signer_or_other_files_is_rejected(
    folder: Path, signer: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.key"
    keys.create_signing_key(other)
    public, bundle = sign(folder, signer), json.loads((folder / "model.sig").read_text())
    sign(folder, other)
    forged = json.loads((folder / "model.sig").read_text())
    forged["verificationMaterial"] = bundle["verificationMaterial"]  # the name of the required key
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"].pop()
    altered = json.loads(json.dumps(bundle))
    altered["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    twice = json.loads(json.dumps(bundle))
    twice["dsseEnvelope"]["signatures"] *= 2
    hostile = [forged, altered, twice, [], {"mediaType": 1}, {**bundle, "mediaType": "text/plain"}]
    texts = [json.dumps(one).encode() for one in hostile]
    texts += [b"", b"{", b"\xff", b"[" * 100_000, json.dumps(bundle).encode()[:-9]]
    for text in texts:
        (folder / "model.sig").write_bytes(text)
        with pytest.raises(BadSignatureError):
            check(folder, public)
    (folder / "model.sig").write_text(json.dumps(bundle))
    check(folder, public)


@pytest.mark.parametrize("change", ["root", "twice", "shards", "blake3", "predicate"])
def test_a_signed_statement_that_is_not_understood_is_rejected(
    folder: Path, signer: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    dumps = json.dumps

    def altered(value, **options):
        if "predicate" in value:
            predicate, resources = value["predicate"], value["predicate"]["resources"]
            if change == "root":
                value["subject"][0]["digest"]["sha256"] = hashlib.sha256().hexdigest()
            if change == "twice":
                resources.append(resources[0])
            if change == "shards":
                predicate["serialization"]["method"] = "shards"
            if change == "blake3":
                predicate["serialization"]["hash_type"] = "blake3"
            if change == "predicate":
                value["predicateType"] = "https://slsa.dev/provenance/v1"
        return dumps(value, **options)

    monkeypatch.setattr(json, "dumps", altered)
    public = sign(folder, signer)
    with pytest.raises(BadSignatureError):
        check(folder, public)


def test_a_signer_cannot_exempt_files_from_the_signature(folder: Path, signer: Path) -> None:
    config = signing.Config().use_elliptic_key_signer(private_key=signer)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.safetensors", "model.sig"]))
    config.sign(folder, folder / "model.sig")
    with pytest.raises(ExtraFileError, match=r"model\.safetensors was not signed"):
        check(folder, signer.with_suffix(".pub"))


def test_links_and_pipes_are_never_read(folder: Path, signer: Path, tmp_path: Path) -> None:
    public = sign(folder, signer)
    (folder / "notes.txt").rename(tmp_path / "notes.txt")
    (folder / "notes.txt").symlink_to(tmp_path / "notes.txt")
    with pytest.raises(ModelError, match="link that leads out"):
        check(folder, public)
    (folder / "notes.txt").unlink()
    os.mkfifo(folder / "notes.txt")
    with pytest.raises(ModelError, match="not a regular file"):
        check(folder, public)
    (folder / "notes.txt").unlink()
    (tmp_path / "notes.txt").rename(folder / "notes.txt")
    (folder / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(ExtraFileError, match="elsewhere was not signed"):
        check(folder, public)


def test_a_private_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    for create in (keys.create_signing_key, keys.create_sealing_key):
        path = tmp_path / f"{create.__name__}.key"
        public = create(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before = path.read_bytes(), public.read_bytes()
        with pytest.raises(TrustError, match="cannot be made again"):
            create(path)
        path.unlink()
        with pytest.raises(TrustError, match="cannot be made again"):
            create(path)
        assert public.read_bytes() == before[1]
        assert b"PRIVATE" not in before[1]


def test_of_many_keys_with_one_name_one_pair_is_written_whole(tmp_path: Path) -> None:
    barrier, refused = threading.Barrier(8), list[str]()

    def create(number: int) -> None:
        barrier.wait()
        try:
            keys.create_signing_key(tmp_path / ("release.key" if number % 2 else "release.pem"))
        except TrustError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    private, public = sorted(tmp_path.iterdir(), key=lambda path: path.suffix == ".pub")
    assert public == tmp_path / "release.pub"
    assert keys.public_pem(keys.read_signing_key(private).public_key()) == public.read_bytes()
    assert len(refused) == 7
    assert all("exists, and a lost key cannot be made again" in sentence for sentence in refused)


def test_a_key_that_cannot_be_used_is_rejected_with_a_sentence(tmp_path: Path) -> None:
    signs, opens = tmp_path / "signs.key", tmp_path / "opens.key"
    keys.create_signing_key(signs)
    keys.create_sealing_key(opens)
    weak, locked, text = tmp_path / "weak.key", tmp_path / "locked.key", tmp_path / "text.key"
    text.write_text("not a key")
    for command in (
        ["ecparam", "-name", "secp256k1", "-genkey", "-noout", "-out", weak],
        ["pkey", "-in", signs, "-aes128", "-passout", "pass:secret", "-out", locked],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    for read, path, sentence in (
        (keys.read_signing_key, opens, "another kind"),
        (keys.read_sealing_key, signs, "another kind"),
        (keys.read_signer, signs, "is a private key: keep it"),
        (keys.read_recipient, signs.with_suffix(".pub"), "another kind"),
        (keys.read_signing_key, weak, "on the curve secp256k1"),
        (keys.read_signing_key, locked, "protected by a passphrase"),
        (keys.read_signing_key, text, "not a private key"),
        (keys.read_signer, text, "not a public key"),
        (keys.read_signer, tmp_path / "none.pub", "There is no key"),
        (keys.read_signer, tmp_path, "cannot be read"),
    ):
        with pytest.raises(TrustError, match=sentence) as told:
            read(path)
        assert "secret" not in str(told.value)
