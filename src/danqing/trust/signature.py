"""Signatures of models: OpenSSF model-signing v1 bundles with elliptic-curve keys.

A bundle is JSON in the format of sigstore bundles 0.3. It holds a DSSE envelope, whose payload is an in-toto
statement that lists the SHA-256 of each file (github.com/sigstore/model-transparency; dsse/protocol.md in
github.com/secure-systems-lab). The package model-signing verifies the bundles that are made here, and these
functions verify its bundles.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from pydantic import BaseModel, Field, ValidationError

from danqing.errors import ModelError
from danqing.names import first_few
from danqing.trust import keys

SIGNATURE = "model.sig"
"""The bundle in the folder of a model."""
IGNORED = (SIGNATURE, ".git", ".gitattributes", ".github", ".gitignore")
"""What a signature does not list: the bundle, and files of git, as in model-signing. Nothing reads them."""
MAX_BUNDLE_BYTES = 10_000_000
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_HASHES: dict[int, type[SHA256] | type[SHA384] | type[SHA512]] = {256: SHA256, 384: SHA384, 521: SHA512}


class SignatureError(ModelError):
    """A model whose signature does not meet the requirement."""


class UnsignedError(SignatureError):
    """The model is not signed."""


class OtherSignerError(SignatureError):
    """The model is signed, and by none of the required keys."""


class BadSignatureError(SignatureError):
    """The signature is damaged, or not of this key."""


class ChangedFileError(SignatureError):
    """A file is not the one that was signed."""


class MissingFileError(SignatureError):
    """A signed file is missing."""


class ExtraFileError(SignatureError):
    """There is a file that was not signed."""


class _PublicKey(BaseModel):
    hint: str | None = None


class _Material(BaseModel):
    public_key: _PublicKey = Field(alias="publicKey")


class _Signature(BaseModel):
    sig: str


class _Envelope(BaseModel):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: list[_Signature] = Field(min_length=1, max_length=1)


class _Bundle(BaseModel):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")


_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Digests(BaseModel):
    sha256: _Digest


class _Subject(BaseModel):
    digest: _Digests


class _Serialization(BaseModel):
    method: Literal["files"]
    hash_type: Literal["sha256"]


class _Resource(BaseModel):
    name: str
    algorithm: Literal["sha256"]
    digest: _Digest


class _Predicate(BaseModel):
    serialization: _Serialization
    resources: list[_Resource]


class _Statement(BaseModel):
    kind: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(alias="predicateType")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicate: _Predicate


def is_listed(name: str) -> bool:
    """Return whether a signature must list a file of this relative name."""
    return name.split("/")[0] not in IGNORED


def sign(name: str, digests: Mapping[str, str], key: EllipticCurvePrivateKey) -> bytes:
    """Return a bundle that signs files.

    name: of the model, which is only for information.
    digests: the SHA-256 of each file in hexadecimal, by its relative name with `/`.
    """
    listed = sorted(digests.items(), key=lambda item: Path(item[0]))
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root(digest for _, digest in listed)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(IGNORED),
            },
            "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in listed],
        },
    }
    payload = json.dumps(statement).encode()
    public = key.public_key()
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _hint(public)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [
                {
                    "sig": base64.b64encode(key.sign(_encoded(payload), _algorithm(public))).decode(),
                    "keyid": "",
                }
            ],
        },
    }
    return json.dumps(bundle).encode() + b"\n"


def signed_files(bundle: bytes, signers: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file that a bundle signs.

    signers: files of public keys, one of which must have signed it. The result has relative names as keys.
    Raises OtherSignerError and BadSignatureError, and TrustError for a key that cannot be used.
    """
    accepted = [keys.read_signer(path) for path in signers]
    try:
        found = _Bundle.model_validate_json(bundle)
        payload = base64.b64decode(found.envelope.payload, validate=True)
        value = base64.b64decode(found.envelope.signatures[0].sig, validate=True)
    except (ValidationError, ValueError) as error:
        raise BadSignatureError(
            f"{SIGNATURE} is not a bundle of model-signing v1 with one key: sign the model again."
        ) from error
    hint = found.material.public_key.hint
    likely = [key for key in accepted if not hint or hint == _hint(key)]
    if not likely:
        names = " or ".join(path.name for path in signers)
        raise OtherSignerError(f"The model is not signed by the key in {names}: do not use it.")
    if not any(_is_signed(payload, value, key) for key in likely):
        raise BadSignatureError(f"{SIGNATURE} was changed after signing: do not use the model.")
    return _listed(payload)


def compare_names(signed: Iterable[str], present: Iterable[str]) -> None:
    """Check that the signed files are there, and no others.

    Raises MissingFileError and ExtraFileError.
    """
    expected, found = set(signed), set(present)
    if missing := sorted(expected - found):
        raise MissingFileError(
            f"{first_few(missing)} was signed and is missing: get a whole copy of the model."
        )
    if extra := sorted(found - expected):
        raise ExtraFileError(
            f"{first_few(extra)} was not signed: remove it, or sign the model again if it is yours."
        )


def compare_content(name: str, content: bytes | memoryview, digest: str) -> None:
    """Check that a file is the one that was signed; raises ChangedFileError."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise ChangedFileError(
            f"{name} was changed after signing: do not use the model, or sign it again if it is yours."
        )


def _listed(payload: bytes) -> dict[str, str]:
    """Return the digests in a statement whose signature is valid."""
    try:
        statement = _Statement.model_validate_json(payload)
    except ValidationError as error:
        raise BadSignatureError(
            f"{SIGNATURE} does not list files by SHA-256: sign the model with the defaults of model-signing."
        ) from error
    resources = statement.predicate.resources
    digests = {resource.name: resource.digest for resource in resources}
    if len(digests) != len(resources):
        raise BadSignatureError(f"{SIGNATURE} lists a file twice: sign the model again.")
    if _root(resource.digest for resource in resources) != statement.subject[0].digest.sha256:
        raise BadSignatureError(f"{SIGNATURE} contradicts itself: sign the model again.")
    return digests


def _root(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding (protocol.md)."""
    return f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode() + payload


def _is_signed(payload: bytes, signature: bytes, key: EllipticCurvePublicKey) -> bool:
    try:
        key.verify(signature, _encoded(payload), _algorithm(key))
    except InvalidSignature:
        return False
    return True


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    return ECDSA(_HASHES[key.curve.key_size]())


def _hint(key: EllipticCurvePublicKey) -> str:
    """Return the name of a key in bundles."""
    return hashlib.sha256(keys.public_pem(key)).hexdigest()
