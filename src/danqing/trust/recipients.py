"""The data key of a sealed file: wrapped for the keys of recipients or by a passphrase, and unwrapped.

For a key: ephemeral X25519, then HKDF-SHA256 (RFC 7748, RFC 5869), as in age (age-encryption.org/v1). For a
passphrase: scrypt (RFC 7914). What results wraps one data key and nothing else, so AES-256-GCM may use it
with a nonce of zeros.
"""

import os
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from danqing.errors import TrustError
from danqing.text_encoding import lines_of
from danqing.trust import keys
from danqing.trust.sealed_file import (
    SCRYPT_LOG2_N,
    HeaderError,
    KeyEntry,
    PassphraseEntry,
    WrongKeyError,
)

KEY_VARIABLE = "DANQING_SEAL_KEY"
"""Names the private keys that open sealed models, separated as in PATH."""
PASSPHRASE_VARIABLE = "DANQING_SEAL_PASSPHRASE_FILE"
"""Names a file with the passphrase that opens sealed models."""
_ZEROS = bytes(12)
_MAX_PASSPHRASE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Keyring:
    """What opens sealed models: private keys by name, and a passphrase."""

    keys: dict[str, X25519PrivateKey] = field(default_factory=dict, repr=False)
    passphrase: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, key: Path | None, passphrase: str | None) -> Self:
        """Return a keyring of a private key's file and a passphrase.

        Where both are None, those that the environment names. Raises TrustError where a file cannot be used.
        """
        paths = [] if key is None else [key]
        if key is None and passphrase is None:
            paths = [Path(path) for path in os.environ.get(KEY_VARIABLE, "").split(os.pathsep) if path]
            if file := os.environ.get(PASSPHRASE_VARIABLE):
                passphrase = read_passphrase(Path(file))
        found = [keys.read_sealing_key(path) for path in paths]
        return cls({keys.recipient_id(one.public_key()): one for one in found}, passphrase)


def read_passphrase(path: Path) -> str:
    """Read a passphrase from the first line of a file; raises TrustError."""
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_PASSPHRASE_BYTES + 1)
        if len(line) > _MAX_PASSPHRASE_BYTES:
            raise TrustError(
                f"The first line of {path} is too long: the limit is {_MAX_PASSPHRASE_BYTES:,} bytes."
            )
        lines = lines_of(line.decode("utf-8-sig"))  # editors on Windows write a mark before the text
    except (OSError, UnicodeDecodeError) as error:
        raise TrustError(f"The passphrase in {path} cannot be read: give a text file in UTF-8.") from error
    if not lines or not lines[0]:
        raise TrustError(f"The first line of {path} is empty: write the passphrase there.")
    return lines[0]


def wrap_for_key(data_key: bytes, recipient: X25519PublicKey) -> KeyEntry:
    """Encrypt a data key for the key of a recipient.

    Raises TrustError for a key of low order, which would keep nothing secret.
    """
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    wrapping = _agreed(ephemeral, recipient, public, recipient.public_bytes_raw())
    if wrapping is None:
        raise TrustError("The public key of a recipient is not valid: get it again.")
    wrapped = AESGCM(wrapping).encrypt(_ZEROS, data_key, None)
    return KeyEntry(key=keys.recipient_id(recipient), ephemeral=public.hex(), wrapped=wrapped.hex())


def wrap_with_passphrase(data_key: bytes, passphrase: str) -> PassphraseEntry:
    """Encrypt a data key with a passphrase.

    Raises TrustError if the passphrase is empty.
    """
    if not passphrase:
        raise TrustError("The passphrase is empty: give a long one.")
    salt = secrets.token_bytes(16)
    wrapped = AESGCM(_stretched(passphrase, salt, SCRYPT_LOG2_N)).encrypt(_ZEROS, data_key, None)
    return PassphraseEntry(salt=salt.hex(), scrypt_log2_n=SCRYPT_LOG2_N, wrapped=wrapped.hex())


def unwrap(name: str, entries: Sequence[KeyEntry | PassphraseEntry], keyring: Keyring) -> bytes:
    """Return the data key of a sealed file.

    name: of the file, for sentences.
    Raises WrongKeyError where nothing in the keyring opens it, and HeaderError where an entry was changed.
    """
    for entry in entries:
        if isinstance(entry, KeyEntry) and (own := keyring.keys.get(entry.key)) is not None:
            ephemeral = bytes.fromhex(entry.ephemeral)
            public = own.public_key().public_bytes_raw()
            wrapping = _agreed(own, X25519PublicKey.from_public_bytes(ephemeral), ephemeral, public)
            opened = None if wrapping is None else _opened(wrapping, entry.wrapped)
            if opened is None:
                raise HeaderError(
                    f"The entry of the key {entry.key} in {name} was changed: get an unchanged copy."
                )
            return opened
    by_passphrase = [entry for entry in entries if isinstance(entry, PassphraseEntry)]
    if keyring.passphrase is not None and by_passphrase:
        # One attempt, since each takes 128 MiB and a hostile file could request many.
        entry = by_passphrase[0]
        salt = bytes.fromhex(entry.salt)
        opened = _opened(_stretched(keyring.passphrase, salt, entry.scrypt_log2_n), entry.wrapped)
        if opened is None:
            raise WrongKeyError(f"{name} was not sealed by this passphrase: give another one.")
        return opened
    raise WrongKeyError(_what_opens(name, entries, keyring))


def _what_opens(name: str, entries: Sequence[KeyEntry | PassphraseEntry], keyring: Keyring) -> str:
    recipients = [entry.key for entry in entries if isinstance(entry, KeyEntry)]
    ways = [f"the private key of {' or '.join(recipients)}"] if recipients else []
    ways += ["a passphrase"] if len(recipients) < len(entries) else []
    given = f", and not by the key {' or '.join(keyring.keys)}" if keyring.keys else ""
    return (
        f"{name} is sealed, and opened by {' or '.join(ways)}{given}: give it, or name its file in "
        f"{KEY_VARIABLE} or {PASSPHRASE_VARIABLE}."
    )


def _agreed(
    own: X25519PrivateKey, other: X25519PublicKey, ephemeral: bytes, recipient: bytes
) -> bytes | None:
    """Return the wrapping key of two keys; None where the other one is of low order."""
    try:
        shared = own.exchange(other)
    except ValueError:
        return None
    return HKDF(SHA256(), 32, salt=ephemeral + recipient, info=b"danqing seal 1 recipient").derive(shared)


def _stretched(passphrase: str, salt: bytes, log2_n: int) -> bytes:
    """Return the wrapping key of a passphrase, the same for each way to type its letters."""
    text = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    return Scrypt(salt=salt, length=32, n=2**log2_n, r=8, p=1).derive(text)


def _opened(wrapping: bytes, wrapped: str) -> bytes | None:
    try:
        return AESGCM(wrapping).decrypt(_ZEROS, bytes.fromhex(wrapped), None)
    except InvalidTag:
        return None
