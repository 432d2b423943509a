"""Sealed files open for their recipients alone, and each way to damage or forge one has its own error."""

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from danqing.errors import TrustError
from danqing.trust import keys, recipients, seal, sealed_file
from danqing.trust.recipients import Keyring
from danqing.trust.sealed_file import (
    MAC_BYTES,
    PREFIX_BYTES,
    TAG_BYTES,
    ChangedError,
    ContentsError,
    HeaderError,
    ReorderedError,
    SealError,
    SplicedError,
    TrailingDataError,
    TruncatedError,
    WrongKeyError,
)

CHUNK = 1024
LENGTH = PREFIX_BYTES + CHUNK + TAG_BYTES
FILES = {"config.json": b"{}" * 700, "model.safetensors": bytes(range(256)) * 13, "empty": b"", "a/b": b"x"}
OWN, OTHER = X25519PrivateKey.generate(), X25519PrivateKey.generate()


def keyring(*private: X25519PrivateKey, passphrase: str | None = None) -> Keyring:
    return Keyring({keys.recipient_id(one.public_key()): one for one in private}, passphrase)


def sealed(path: Path, files: dict[str, bytes] = FILES, **how) -> bytes:
    seal.seal(path, files, **{"to": [OWN.public_key()], "chunk_bytes": CHUNK, **how})
    return path.read_bytes()


def body_of(content: bytes) -> int:
    return len(sealed_file.read_header("it", content)[1]) + MAC_BYTES


def with_header(content: bytes, change: Callable[[dict], None]) -> bytes:
    """The file with another header and its old MAC."""
    _, start, mac = sealed_file.read_header("it", content)
    values = json.loads(start[len(sealed_file.MAGIC) + 4 :])
    change(values)
    text = json.dumps(values).encode()
    rest = content[len(start) :]
    assert rest.startswith(mac)
    return sealed_file.MAGIC + len(text).to_bytes(4, "big") + text + rest


def opened(path: Path, content: bytes, ring: Keyring | None = None) -> dict[str, memoryview]:
    path.write_bytes(content)
    return seal.unseal(path, ring or keyring(OWN))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 30, CHUNK, 3 * CHUNK, 3 * CHUNK + 1])
def test_files_come_back_whatever_their_size(tmp_path: Path, size: int) -> None:
    files = {"weights": bytes(size), **FILES}
    content = sealed(tmp_path / "it", files)
    assert seal.unseal(tmp_path / "it", keyring(OWN)) == files
    assert b"config.json" not in content
    assert sealed(tmp_path / "it", files) != content  # a new key each time


def test_each_recipient_opens_it_alone_and_nobody_else(tmp_path: Path) -> None:
    sealed(tmp_path / "it", to=[OWN.public_key(), OTHER.public_key()], passphrase="caf\u00e9 noir")
    for ring in (keyring(OWN), keyring(OTHER), keyring(passphrase="cafe\u0301 noir")):
        assert seal.unseal(tmp_path / "it", ring) == FILES
    stranger = X25519PrivateKey.generate()
    with pytest.raises(WrongKeyError, match=keys.recipient_id(stranger.public_key())):
        seal.unseal(tmp_path / "it", keyring(stranger))
    with pytest.raises(WrongKeyError, match="not sealed by this passphrase") as told:
        seal.unseal(tmp_path / "it", keyring(passphrase="cafe noir"))
    assert "noir" not in str(told.value)
    with pytest.raises(WrongKeyError, match="DANQING_SEAL_KEY"):
        seal.unseal(tmp_path / "it", keyring())


@pytest.mark.parametrize(
    "content", [b"caf\xc3\xa9\n", b"caf\xc3\xa9", b"\xef\xbb\xbfcaf\xc3\xa9\r\nmore", b"caf\xc3\xa9\rmore"]
)
def test_a_passphrase_is_the_first_line_of_a_file_of_any_editor(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "words").write_bytes(content)
    assert recipients.read_passphrase(tmp_path / "words") == "café"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("é".encode() * 4000, "too long"),
        (b"\xef\xbb\xbf\r\nx", "is empty"),
        ("é".encode("utf-16"), "cannot be read"),
    ],
)
def test_a_file_without_a_passphrase_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "words").write_bytes(content)
    with pytest.raises(TrustError, match=reason):
        recipients.read_passphrase(tmp_path / "words")


def test_what_nothing_would_open_is_not_sealed(tmp_path: Path) -> None:
    for how, sentence in (({"to": ()}, "Nothing would open"), ({"passphrase": ""}, "empty")):
        with pytest.raises(TrustError, match=sentence):
            sealed(tmp_path / "it", **how)
    with pytest.raises(TrustError, match="rename the file"):
        sealed(tmp_path / "it", {"../it": b""})
    assert not (tmp_path / "it").exists()


def test_files_that_some_systems_cannot_tell_apart_are_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"README\.md and readme\.md are the same file on some systems"):
        sealed(tmp_path / "it", {"README.md": b"1", "readme.md": b"2"})
    assert not (tmp_path / "it").exists()


def test_more_recipients_than_a_header_holds_are_rejected(tmp_path: Path) -> None:
    most = sealed_file.MOST_ENTRIES
    sealed(tmp_path / "it", to=[OWN.public_key()] * most)
    with pytest.raises(TrustError, match="at most 64 recipients"):
        sealed(tmp_path / "more", to=[OWN.public_key()] * most, passphrase="one more")
    assert not (tmp_path / "more").exists()


def test_a_file_that_is_cut_anywhere_is_truncated(tmp_path: Path) -> None:
    content = sealed(tmp_path / "it")
    body = body_of(content)
    cuts = [*range(20, body, 7), body, body + 1, body + LENGTH, len(content) - LENGTH, len(content) - 1]
    for cut in cuts:
        with pytest.raises(TruncatedError):
            opened(tmp_path / "cut", content[:cut])


def test_chunks_that_are_moved_repeated_or_taken_from_elsewhere_are_found(tmp_path: Path) -> None:
    content = sealed(tmp_path / "it")
    body = body_of(content)
    first, second, third = (content[body + n * LENGTH : body + (n + 1) * LENGTH] for n in range(3))
    start, rest = content[:body], content[body + 3 * LENGTH :]
    for chunks, number in (
        ((second, first, third), 2),
        ((first, first, third), 1),
        ((first, third, third), 3),
    ):
        with pytest.raises(ReorderedError, match=f"is its chunk {number}, moved"):
            opened(tmp_path / "moved", start + b"".join(chunks) + rest)
    other = sealed(tmp_path / "other")
    spliced = other[body_of(other) + LENGTH : body_of(other) + 2 * LENGTH]
    with pytest.raises(SplicedError, match="Chunk 2 of 5"):
        opened(tmp_path / "spliced", start + first + spliced + third + rest)
    with pytest.raises(SplicedError, match="Chunk 1 of 5"):
        opened(tmp_path / "spliced", start + other[body_of(other) :])
    # A forger also writes the right number, or the right file, before a chunk: its tag does not fit.
    for forged in (
        second[:PREFIX_BYTES] + third[PREFIX_BYTES:],
        second[:PREFIX_BYTES] + spliced[PREFIX_BYTES:],
    ):
        with pytest.raises(ChangedError, match="Chunk 2 of 5"):
            opened(tmp_path / "forged", start + first + forged + third + rest)
    with pytest.raises(TrailingDataError, match="1 bytes after its end"):
        opened(tmp_path / "longer", content + b"\0")
    with pytest.raises(TrailingDataError):
        opened(tmp_path / "longer", content + second)


def test_no_field_of_the_header_can_be_changed(tmp_path: Path) -> None:
    content = sealed(tmp_path / "it", to=[OWN.public_key(), OTHER.public_key()])
    other, _, _ = sealed_file.read_header("it", sealed(tmp_path / "other"))

    def set_to(name: str, value: object) -> Callable[[dict], None]:
        return lambda values: values.update({name: value})

    whole, _, _ = sealed_file.read_header("it", content)
    changes = [
        lambda values: None,  # the same values with other spaces
        set_to("size", whole.size - CHUNK),
        set_to("chunk_bytes", 2 * CHUNK),
        set_to("id", other.id),
        lambda values: values["recipients"].pop(),
        lambda values: values["recipients"].reverse(),
        lambda values: values.update(recipients=[other.recipients[0].model_dump()]),
        lambda values: values["recipients"][0].update(wrapped=other.recipients[0].wrapped),
        lambda values: values["recipients"][0].update(ephemeral="00" * 32),  # of low order
        set_to("size", -1),
        set_to("size", 2**60),
        set_to("chunk_bytes", 1),
        set_to("cipher", "none"),
        set_to("extra", 1),
        set_to("recipients", []),
        set_to("recipients", [{"kind": "rot13"}]),
        set_to("format", 0),
    ]
    for change in changes:
        with pytest.raises(HeaderError):
            opened(tmp_path / "changed", with_header(content, change))
    with pytest.raises(SealError, match="pip install --upgrade danqing"):
        opened(tmp_path / "newer", with_header(content, set_to("format", 2)))


def test_a_hostile_header_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    content = sealed(tmp_path / "it")
    magic = sealed_file.MAGIC
    for text in (b"[" * 60_000, b"{", b"\xff", b"null", b'{"format": 1}'):
        with pytest.raises(HeaderError):
            opened(tmp_path / "hostile", magic + len(text).to_bytes(4, "big") + text + bytes(99))
    with pytest.raises(HeaderError, match="4,294,967,295 bytes"):
        opened(tmp_path / "hostile", magic + b"\xff" * 4 + bytes(99))
    slow = {"kind": "passphrase", "salt": "00" * 16, "scrypt_log2_n": 40, "wrapped": "00" * 48}
    expensive = with_header(content, lambda values: values.update(recipients=[slow]))
    with pytest.raises(HeaderError):  # 2^40 steps would take 1 PiB
        opened(tmp_path / "hostile", expensive, keyring(passphrase="x"))
    with pytest.raises(SealError, match="not a sealed model"):
        opened(tmp_path / "hostile", b"PK\x03\x04" + bytes(99))


def test_two_recipients_cannot_be_given_different_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([b"a" * 32, b"b" * 32])
    wrap = recipients.wrap_for_key
    monkeypatch.setattr(recipients, "wrap_for_key", lambda _, recipient: wrap(next(given), recipient))
    monkeypatch.setattr(secrets, "token_bytes", lambda count: b"a" * count)
    sealed(tmp_path / "it", to=[OWN.public_key(), OTHER.public_key()])
    assert seal.unseal(tmp_path / "it", keyring(OWN)) == FILES
    with pytest.raises(HeaderError):  # although AES-GCM alone could open bytes with two keys
        seal.unseal(tmp_path / "it", keyring(OTHER))


def listed(*index: object) -> bytes:
    text = json.dumps(index).encode()
    return len(text).to_bytes(4, "big") + text + b"abc"


@pytest.mark.parametrize(
    "plain",
    [
        listed(["../../etc/cron.d/x", 3]),
        listed(["/etc/passwd", 3]),
        listed(["a\\..\\b", 3]),
        listed(["C:x", 3]),
        listed(["..", 3]),
        listed(["a//b", 3]),
        listed(["a\x00b", 3]),
        listed(["a" * 300, 3]),
        listed(["A", 1], ["a", 2]),
        listed(["a", 2]),
        listed(["a", 4]),
        listed(["a", -1], ["b", 4]),
        listed(["a", 3.0]),
        listed(["a", True], ["b", 2]),
        listed("ab"),
        listed(["a"]),
        listed([["a"], 3]),
        listed(*[[str(n), 0] for n in range(20_000)], ["a", 3]),
        b"\xff" * 9,
        b"\0",
        b"\0\0\0\x02[[",
    ],
)
def test_a_hostile_archive_that_anyone_could_seal_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bytes
) -> None:
    monkeypatch.setattr(seal, "_pack", lambda contents: plain)
    sealed(tmp_path / "it")
    with pytest.raises(ContentsError, match="ask who sealed it"):
        seal.unseal(tmp_path / "it", keyring(OWN))


def test_secrets_are_not_in_representations() -> None:
    ring = keyring(OWN, passphrase="open sesame")
    assert "sesame" not in repr(ring)
    assert "X25519" not in repr(ring)
