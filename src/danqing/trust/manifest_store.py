"""Who signed the claim of an image, also when the certificate of the signer has expired.

The C2PA library checks everything else. It does not say who signed if the certificate has expired, and ours
last 90 days. The formats are those of C2PA 2.4 (JUMBF in appendix A) and of COSE (RFC 9052 and 9360).
"""

import re
from collections.abc import Iterator

from danqing.errors import TrustError
from danqing.trust import certificates
from danqing.trust.certificates import Certificate

_TAGGED_ARRAY = b"\xd2\x84"
"""How a COSE message with one signature begins in CBOR."""
_NO_PAYLOAD = b"\xf6\x58\x40"
"""What is before a signature of 64 bytes: no payload, and the start of a byte string."""
_CERTIFICATES = b"\x18\x21"
"""The key of the chain of certificates in a protected header."""
_ARRAYS = b"\x81\x82\x83\x84\x85"
_MANIFEST = re.compile(rb"c.?2.?[cmu].?[am].?\0.?\x11.?\0.?\x10", re.DOTALL)
"""How the type of a manifest begins: c2ma, c2um (of an update) or c2cm (compressed)."""
_COMPRESSED = re.compile(b"b.?r.?o.?b", re.DOTALL)
"""The kind of a box whose content is compressed with Brotli."""


def signer_of(store: bytes, label: str) -> Certificate | None:
    """Return the certificate whose key signed the claim of a manifest.

    store: a manifest store that the library has read, byte for byte. label: of the manifest.
    Returns None unless there is one signature by ECDSA with P-256 and SHA-256, and it is valid. Boxes must
    fill the store without gaps, so that there is one way to read it.
    """
    tops = list(_superboxes(store))
    manifests = [data for name, data in _superboxes(tops[0][1]) if name == label] if len(tops) == 1 else []
    parts = list(_superboxes(manifests[0])) if len(manifests) == 1 else []
    claims = [data for name, data in parts if name.startswith("c2pa.claim")]
    signatures = [data for name, data in parts if name == "c2pa.signature"]
    if len(claims) != 1 or len(signatures) != 1:  # the library might have read another one
        return None
    return _cose_signer(_content(signatures[0]), _content(claims[0]))


def store_in(file: bytes) -> bytes:
    """Return the manifest store of a png, jpeg or webp file.

    Returns b"" if there is none.
    """
    if file.startswith(b"\x89PNG\r\n\x1a\n"):
        return next((data for kind, data in _png_chunks(file) if kind == b"caBX"), b"")
    if file.startswith(b"RIFF") and file[8:12] == b"WEBP":
        return next((data for kind, data in _riff_chunks(file) if kind == b"C2PA"), b"")
    return b"".join(_jpeg_parts(file)) if file.startswith(b"\xff\xd8") else b""


def manifests_in(file: bytes) -> tuple[int, int]:
    """Count the manifests in an image file or a manifest store.

    The second number is that of the compressed ones among them.
    """
    # A GIF may have the length of a block between any two bytes, and a JPEG divides its store into segments.
    parts = (file, store_in(file))
    manifests, compressed = (
        max(len(kind.findall(part)) for part in parts) for kind in (_MANIFEST, _COMPRESSED)
    )
    return manifests, compressed


def _cose_signer(message: bytes, claim: bytes) -> Certificate | None:
    protected = _byte_string(message[2:])
    if not message.startswith(_TAGGED_ARRAY) or message[-67:-64] != _NO_PAYLOAD or protected is None:
        return None
    header, encoded = protected
    chain = header.partition(_CERTIFICATES)[2]
    leaf = _byte_string(chain[1:] if chain[:1] in _ARRAYS else chain)
    if not chain or leaf is None:
        return None
    try:
        certificate = certificates.read_der(leaf[0])
        key = certificates.public_key_of(certificate)
    except TrustError:
        return None
    signed = b"\x84\x6aSignature1" + encoded + b"\x40" + _head(len(claim)) + claim
    return certificate if certificates.is_signature(key, message[-64:], signed) else None


def _byte_string(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the content of the byte string of CBOR at the start of `data`, and its encoded form."""
    kind = data[0] if data else 0
    if 0x40 <= kind < 0x58:
        begin, length = 1, kind - 0x40
    elif kind in (0x58, 0x59, 0x5A):
        begin = 1 + 2 ** (kind - 0x58)
        length = int.from_bytes(data[1:begin])
    else:
        return None
    end = begin + length
    return (data[begin:end], data[:end]) if end <= len(data) else None


def _head(length: int) -> bytes:
    """Return the start of a byte string of CBOR in its shortest form."""
    if length < 24:
        return bytes([0x40 + length])
    size = 1 if length < 2**8 else 2 if length < 2**16 else 4
    return bytes([0x57 + size.bit_length()]) + length.to_bytes(size)


def _superboxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """List the superboxes among boxes, with their labels."""
    for kind, inside in _boxes(data):
        if kind == b"jumb":
            description = next((own for name, own in _boxes(inside) if name == b"jumd"), b"")
            yield description[17:].partition(b"\0")[0].decode("utf-8", "replace"), inside


def _content(data: bytes) -> bytes:
    """Return the CBOR of a superbox that has nothing else; b"" otherwise."""
    boxes = _boxes(data)
    return boxes[1][1] if [kind for kind, _ in boxes] == [b"jumd", b"cbor"] else b""


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """List the kinds and contents of boxes; there are none unless they fill the data."""
    found, place = list[tuple[bytes, bytes]](), 0
    while 8 <= (length := int.from_bytes(data[place : place + 4])) <= len(data) - place:
        found.append((data[place + 4 : place + 8], data[place + 8 : place + length]))
        place += length
    return found if place == len(data) else []


def _png_chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 12 <= len(file):
        length = int.from_bytes(file[place : place + 4])
        yield file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        place += 12 + length


def _riff_chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(file):
        length = int.from_bytes(file[place + 4 : place + 8], "little")
        yield file[place : place + 4], file[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def _jpeg_parts(file: bytes) -> Iterator[bytes]:
    """List the parts of the manifest store in segments APP11, which all repeat the start of its box."""
    place = 2
    while place + 4 <= len(file) and file[place] == 0xFF and file[place + 1] != 0xDA:
        length = int.from_bytes(file[place + 2 : place + 4])
        data = file[place + 4 : place + 2 + length]
        if file[place + 1] == 0xEB and data.startswith(b"JP"):
            is_first = int.from_bytes(data[4:8]) == 1
            yield data[8:] if is_first else data[16:]
        place += 2 + length
