"""Sealed models: files encrypted with AES-256-GCM, and decrypted in memory only.

Each file has a data key of its own. Keys for the header's MAC and for the chunks are derived from it by
HKDF-SHA256. The nonce of a chunk is its number, and its associated data is the digest of the header. So no
chunk can be changed, moved, left out or taken from elsewhere, and no other key opens the same bytes: the MAC
commits to the data key, which AES-GCM alone does not (Albertini et al., "How to Abuse and Fix Authenticated
Encryption Without Key Commitment", USENIX Security 2022).
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from danqing import atomic
from danqing.errors import TrustError
from danqing.trust import recipients
from danqing.trust.recipients import Keyring
from danqing.trust.sealed_file import (
    CHUNK_BYTES,
    ID_BYTES,
    MAC_BYTES,
    MOST_ENTRIES,
    MOST_START_BYTES,
    PREFIX_BYTES,
    TAG_BYTES,
    ChangedError,
    ContentsError,
    Header,
    HeaderError,
    KeyEntry,
    PassphraseEntry,
    ReorderedError,
    SealError,
    SplicedError,
    TrailingDataError,
    TruncatedError,
    read_header,
    write_header,
)

_ALIGNED = 64
_INDEX_BYTES = 4
_MAX_INDEX_BYTES = 2**20
_MAX_FILES = 10_000
_MAX_NAME = 255
_FORBIDDEN = frozenset('\\:<>"|?*')


def seal(
    path: Path,
    contents: Mapping[str, bytes],
    to: Sequence[X25519PublicKey] = (),
    passphrase: str | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Write files as one sealed file, atomically.

    contents: by relative name, with `/` between folders.
    to: the keys of the recipients, each of whom can open it alone. passphrase: opens it too.
    chunk_bytes: 1 KiB to 16 MiB.
    Raises TrustError where nothing would open it, and for names that some systems cannot store or tell apart.
    """
    folded = {name.casefold(): name for name in contents}
    for name in contents:
        if not _is_plain(name):
            raise TrustError(f"The name {name!r} is not valid on every system: rename the file.")
        if (other := folded[name.casefold()]) != name:
            raise TrustError(f"{name} and {other} are the same file on some systems: rename one of them.")
    data_key = secrets.token_bytes(32)
    entries: list[KeyEntry | PassphraseEntry] = [recipients.wrap_for_key(data_key, key) for key in to]
    if passphrase is not None:
        entries.append(recipients.wrap_with_passphrase(data_key, passphrase))
    if not entries:
        raise TrustError("Nothing would open the sealed model: give a recipient's key or a passphrase.")
    if len(entries) > MOST_ENTRIES:
        raise TrustError(f"A sealed model has at most {MOST_ENTRIES} recipients: seal it for fewer.")
    plain = _pack(contents)
    file_id = secrets.token_bytes(ID_BYTES)
    header = Header(id=file_id.hex(), size=len(plain), chunk_bytes=chunk_bytes, recipients=entries)
    start = write_header(header)
    cipher, bound = AESGCM(_derived(data_key, b"chunks")), hashlib.sha256(start).digest()
    with atomic.replacing(path) as file:
        file.write(start + _mac(data_key, start))
        for number in range(header.chunks):
            part = plain[number * chunk_bytes : (number + 1) * chunk_bytes]
            file.write(file_id + number.to_bytes(8, "big") + cipher.encrypt(_nonce(number), part, bound))


def unseal(path: Path, keyring: Keyring) -> dict[str, memoryview]:
    """Return the files in a sealed file by name, decrypted in memory.

    The memory is writable, and begins at a multiple of 64 bytes from that of the first file.
    Raises an error of its own for each damage (`sealed_file`): WrongKeyError, HeaderError, TruncatedError,
    TrailingDataError, ReorderedError, SplicedError, ChangedError and ContentsError.
    """
    try:
        with path.open("rb") as file:
            plain = _decrypted(path.name, file, keyring)
    except OSError as error:
        raise SealError(f"{path} cannot be read ({error.strerror}).") from error
    return _unpack(path.name, memoryview(plain))


def _decrypted(name: str, file: BufferedReader, keyring: Keyring) -> bytearray:
    """Return what was encrypted; raise the error of the first thing that is not right."""
    header, start, mac = read_header(name, file.read(MOST_START_BYTES))
    data_key = recipients.unwrap(name, header.recipients, keyring)
    if not hmac.compare_digest(mac, _mac(data_key, start)):
        raise HeaderError(f"The header of {name} was changed: get an unchanged copy.")
    begin, size = len(start) + MAC_BYTES, file.seek(0, os.SEEK_END)
    expected = begin + header.body_bytes
    if size < expected:
        raise TruncatedError(f"{name} is cut short ({size:,} of {expected:,} bytes): get a whole copy.")
    if size > expected:
        raise TrailingDataError(f"{name} has {size - expected:,} bytes after its end: get an unchanged copy.")
    file.seek(begin)
    cipher, bound = AESGCM(_derived(data_key, b"chunks")), hashlib.sha256(start).digest()
    # Chunk by chunk into memory that is allocated once: a large model is copied as seldom as possible.
    plain = bytearray(header.size)
    buffer = memoryview(bytearray(PREFIX_BYTES + header.chunk_bytes + TAG_BYTES))
    for number in range(header.chunks):
        place = number * header.chunk_bytes
        length = PREFIX_BYTES + min(header.chunk_bytes, header.size - place) + TAG_BYTES
        chunk = buffer[: file.readinto(buffer[:length])]
        where = f"Chunk {number + 1} of {header.chunks} in {name}"
        if chunk[:ID_BYTES] != bytes.fromhex(header.id):
            raise SplicedError(f"{where} comes from another sealed file: get an unchanged copy.")
        if (found := int.from_bytes(chunk[ID_BYTES:PREFIX_BYTES], "big")) != number:
            raise ReorderedError(f"{where} is its chunk {found + 1}, moved: get an unchanged copy.")
        try:
            opened = cipher.decrypt(_nonce(number), chunk[PREFIX_BYTES:], bound)
        except InvalidTag as error:
            raise ChangedError(f"{where} was changed: get an unchanged copy.") from error
        plain[place : place + len(opened)] = opened
    return plain


def _nonce(number: int) -> bytes:
    """Return the nonce of a chunk, which is unique since no two files share a key."""
    return number.to_bytes(12, "big")


def _derived(data_key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"danqing seal 1 " + purpose).derive(data_key)


def _mac(data_key: bytes, start: bytes) -> bytes:
    return hmac.digest(_derived(data_key, b"header"), start, "sha256")


def _pack(contents: Mapping[str, bytes]) -> bytes:
    """Join files: the length of an index, the index (JSON, names and sizes), then one after the other.

    The index and the files are padded, so that weights can be used where they are decrypted.
    """
    index = json.dumps([[name, len(content)] for name, content in contents.items()]).encode()
    if len(index) > _MAX_INDEX_BYTES or len(contents) > _MAX_FILES:
        raise TrustError(f"{len(contents):,} files are too many to be sealed: leave out some.")
    parts = [len(index).to_bytes(_INDEX_BYTES, "big") + index, *contents.values()]
    return b"".join(part + bytes(_aligned(len(part)) - len(part)) for part in parts)


def _unpack(name: str, plain: memoryview) -> dict[str, memoryview]:
    """Split joined files.

    Anyone can seal anything for a public key, so the index is checked too.
    """
    length = int.from_bytes(plain[:_INDEX_BYTES], "big")
    end = _aligned(_INDEX_BYTES + length)
    contents = dict[str, memoryview]()
    try:
        index = json.loads(bytes(plain[_INDEX_BYTES:][:length])) if length <= _MAX_INDEX_BYTES else None
        if not isinstance(index, list) or len(index) > _MAX_FILES:
            raise ValueError("not a list of files")
        for entry, size in index:
            if not _is_plain(entry) or type(size) is not int or not 0 <= size <= len(plain) - end:
                raise ValueError("not a name and a size")
            contents[entry] = plain[end : end + size]
            end += _aligned(size)
        names = {entry.casefold() for entry in contents}
        if end != len(plain) or len(names) != len(index):
            raise ValueError("sizes that do not add up, or a name that is there twice")
    except (ValueError, TypeError, RecursionError) as error:
        raise ContentsError(
            f"{name} does not hold the files of a model: do not use it, and ask who sealed it."
        ) from error
    return contents


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _is_plain(name: object) -> bool:
    """Return whether a name stays within its folder and means the same file on every system."""
    if not isinstance(name, str) or len(name) > _MAX_NAME or not name.isprintable():
        return False
    parts = name.split("/")
    return not (_FORBIDDEN & set(name)) and all(part and not part.endswith((".", " ")) for part in parts)
