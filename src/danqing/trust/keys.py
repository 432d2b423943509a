"""Key pairs in PEM files: elliptic curves sign models, and X25519 opens models that are sealed for it.

Files that OpenSSL writes are read too: `openssl genpkey -algorithm X25519`, or `-algorithm EC -pkeyopt
ec_paramgen_curve:P-256`.
"""

import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from danqing import atomic
from danqing.errors import TrustError

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""The curves that model-signing accepts: P-256, P-384 and P-521."""
_MAX_BYTES = 65_536
_SIGNS = "signs models (danqing sign --new-key)"
_OPENS = "opens sealed models (danqing seal --new-key)"


def create_signing_key(path: Path) -> Path:
    """Create a P-256 key pair for signing; returns the public key.

    path: of the private key, mode 0600. The public key lies beside it and ends in `.pub`.
    Raises TrustError where one of the files exists or cannot be written.
    """
    return _write_pair(path, generate_private_key(SECP256R1()))


def create_sealing_key(path: Path) -> Path:
    """Create an X25519 key pair for sealed models; returns the public key.

    path: as of `create_signing_key`, with the same errors.
    """
    return _write_pair(path, X25519PrivateKey.generate())


def read_signing_key(path: Path) -> EllipticCurvePrivateKey:
    """Read a private key that signs; raises TrustError."""
    key = _read_private(path, _SIGNS)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise _of_another_kind(path, _SIGNS)
    _check_curve(path, key.curve.name)
    return key


def read_signer(path: Path) -> EllipticCurvePublicKey:
    """Read the public key of a signer; raises TrustError."""
    key = _read_public(path, _SIGNS)
    if not isinstance(key, EllipticCurvePublicKey):
        raise _of_another_kind(path, _SIGNS)
    _check_curve(path, key.curve.name)
    return key


def read_sealing_key(path: Path) -> X25519PrivateKey:
    """Read a private key that opens sealed models; raises TrustError."""
    key = _read_private(path, _OPENS)
    if not isinstance(key, X25519PrivateKey):
        raise _of_another_kind(path, _OPENS)
    return key


def read_recipient(path: Path) -> X25519PublicKey:
    """Read the public key of a recipient of sealed models; raises TrustError."""
    key = _read_public(path, _OPENS)
    if not isinstance(key, X25519PublicKey):
        raise _of_another_kind(path, _OPENS)
    return key


def recipient_id(key: X25519PublicKey) -> str:
    """Return the name of a key in sealed files: 16 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def public_pem(key: EllipticCurvePublicKey | X25519PublicKey) -> bytes:
    """Return a public key as PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _write_pair(path: Path, key: EllipticCurvePrivateKey | X25519PrivateKey) -> Path:
    public = path.with_name(f"{path.stem}.pub")
    if path == public:
        raise TrustError(f"{path} is the name of the public key: choose a name that does not end in .pub.")
    if public.exists():
        raise _taken(public)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_new(path, secret, private=True)
    try:
        _write_new(public, public_pem(key.public_key()))
    except TrustError:  # without its public key, nobody can use the private one
        path.unlink()
        raise
    return public


def _write_new(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file that must not exist yet, also if another process creates it at the same time."""
    try:
        atomic.write_bytes(path, content, private=private, is_new=True)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise TrustError(f"{path} cannot be written ({error.strerror}): choose another place.") from error


def _taken(path: Path) -> TrustError:
    return TrustError(f"{path} exists, and a lost key cannot be made again: choose another name.")


def _read_private(path: Path, purpose: str) -> PrivateKeyTypes:
    content = _read(path)
    try:
        return load_pem_private_key(content, None)
    except TypeError as error:
        raise TrustError(
            f"{path} is protected by a passphrase: write it without one, with openssl pkey -in {path.name}, "
            "to a file that only you can read."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path} is not a private key in PEM: give one that {purpose}.") from error


def _read_public(path: Path, purpose: str) -> PublicKeyTypes:
    content = _read(path)
    if b"PRIVATE KEY-----" in content:
        raise TrustError(f"{path} is a private key: keep it to yourself, and give the public key (.pub).")
    try:
        return load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path} is not a public key in PEM: give that of a key which {purpose}.") from error


def _of_another_kind(path: Path, purpose: str) -> TrustError:
    return TrustError(f"{path} is a key of another kind: give one that {purpose}.")


def _check_curve(path: Path, name: str) -> None:
    if name not in CURVES:
        raise TrustError(f"{path} is a key on the curve {name}: use P-256, P-384 or P-521.")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except FileNotFoundError as error:
        raise TrustError(
            f"There is no key at {path}: correct the path, or create a key with --new-key."
        ) from error
    except OSError as error:
        raise TrustError(
            f"The key {path} cannot be read ({error.strerror}): check the file and its permissions."
        ) from error
