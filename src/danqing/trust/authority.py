"""The authority of an installation: its root certificate, and the leaf certificate that signs images."""

import contextlib
import datetime
import importlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from danqing import atomic
from danqing.errors import MarkWarning, TrustError
from danqing.trust import certificates

Sign = Callable[[bytes], bytes]
"""Signs data by ECDSA with P-256 and SHA-256.

It returns the signature as DER, or as its two numbers of 32 bytes. It may call a KMS or a PKCS#11 token.
"""

ROOT, ROOT_KEY, LEAF, ISSUED = "root.pem", "root.key", "leaf.json", "issued.json"
_RENEWED_BEFORE = datetime.timedelta(days=14)
_PROBE = b"danqing: does this key belong to its certificate?"


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs images now.

    certificate: the leaf as PEM. root: the certificate that issued it, as PEM.
    expires: when the leaf ends.
    sign: signs with the key of the leaf.
    timestamps: the address of an RFC 3161 service that is called for each signature, "" for none.
    """

    certificate: str
    root: str
    expires: datetime.datetime
    sign: Sign = field(repr=False)
    timestamps: str = ""

    def signature(self, data: bytes) -> bytes:
        """Sign data; raise TrustError if the signer fails."""
        try:
            signature = self.sign(data)
        except Exception as error:  # a signer of the user may raise anything, with secrets in it
            raise TrustError(
                f"The signer of the authority failed ({type(error).__name__}): check that it reaches its key."
            ) from error
        if not isinstance(signature, bytes) or not signature:
            kind = type(signature).__name__ if signature != b"" else "nothing"
            raise TrustError(
                f"The signer of the authority returned {kind} instead of a signature: it must return bytes, "
                "as DER or as two numbers of 32 bytes."
            )
        return signature


def create(
    folder: Path,
    organization: str = "Danqing",
    *,
    root_key: Path | None = None,
    signer: str = "",
    public_key: Path | None = None,
    timestamps: str = "",
) -> Authority:
    """Create an authority in a folder.

    It has a root certificate, and a leaf certificate for 90 days.

    organization: the name in its certificates, which everyone who reads an image can see.
    root_key: where the key of the root goes instead of the folder, such as a disk that is kept offline.
    signer: a function of the type `Sign` as `package.module:function`, which signs instead of a key in the
        folder. public_key: the file with its public key in PEM.
    timestamps: the address of an RFC 3161 service.
    Raises TrustError if there is one already, or for arguments that do not fit.
    """
    if bool(signer) != bool(public_key):
        raise TrustError("A signer needs its public key, and a public key its signer: give both.")
    if timestamps and not timestamps.startswith(("http://", "https://")):
        raise TrustError(f"{timestamps} is not the address of a time stamp service: begin with https://.")
    with _locked(folder):
        if exists(folder):
            raise TrustError(
                f"There is an authority in {folder}: 'danqing authority rotate' renews its leaf."
            )
        key_file = root_key or folder / ROOT_KEY
        key = certificates.new_key()
        root = certificates.new_root(key, organization)
        leaf = _new_leaf(root, key, public_key)
        terms = {"signer": signer, "timestamps": timestamps}
        _checked(_snapshot(root, leaf | terms), folder)
        # In the folder, a process that was killed may have left a key without a certificate.
        _write(key_file, certificates.key_pem(key), is_new=root_key is not None)
        _write(folder / LEAF, json.dumps(leaf | terms))
        _write(folder / ISSUED, json.dumps([_entry(leaf)]))
        _write(
            folder / ROOT, certificates.certificate_pem(root)
        )  # last: its presence means a whole authority
    return load(folder)


def rotate(
    folder: Path, *, root_key: Path | None = None, revoke: bool = False, public_key: Path | None = None
) -> Authority:
    """Replace the leaf by a new one for 90 days.

    The key of the former leaf is deleted.

    root_key: the file with the key of the root, where it is not in the folder.
    revoke: whether images that the former leaf signed are no longer trusted, because its key was stolen.
    public_key: the file with the next public key of an external signer; None keeps its key.
    Raises TrustError.
    """
    _check_exists(folder)
    with _locked(folder):
        return _rotated(folder, root_key or folder / ROOT_KEY, revoke=revoke, public_key=public_key)


def exists(folder: Path) -> bool:
    """Return whether there is an authority in a folder.

    Raises TrustError if the folder cannot be read.
    """
    try:
        os.stat(folder / ROOT)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(folder, error) from error
    return True


def export(folder: Path) -> str:
    """Return the root certificate as PEM, which others need to verify images."""
    _check_exists(folder)
    return _read(folder / ROOT).decode()


def revoked(folder: Path) -> frozenset[int]:
    """Return the serial numbers of the leaves that are no longer trusted.

    Raises TrustError if the list of leaves is damaged.
    """
    if not (folder / ISSUED).exists():
        return frozenset()
    return frozenset(int(entry["serial"]) for entry in _read_issued(folder) if entry.get("revoked"))


def load(folder: Path) -> Authority:
    """Return the authority in a folder.

    It is created if there is none, and its leaf is renewed in its last 14 days if the key of the root is
    there. Reading it again costs two looks at its files.
    Raises TrustError if it is damaged, or if its leaf has expired and the key of the root is elsewhere.
    """
    if not exists(folder):
        return _created_once(folder)
    state = _state(folder)
    known = _loaded.get(folder)
    if known is None or known[0] != state:
        root = certificates.read_certificates(_read(folder / ROOT), folder / ROOT)[0]
        known = (state, _checked(_snapshot(root, _read_leaf(folder)), folder))
        _loaded[folder] = known
    left = known[1].expires - _now()
    return known[1] if left > _RENEWED_BEFORE else _renewed(folder, *known, left)


_loaded: dict[Path, tuple[tuple[int, ...], Authority]] = {}
_warned: set[Path] = set()


def _created_once(folder: Path) -> Authority:
    """Create an authority unless another process does so meanwhile."""
    try:
        authority = create(folder)
    except TrustError:
        if not exists(folder):
            raise
        return load(folder)
    warnings.warn(
        f"Created an authority in {folder}, which signs the images that this installation generates. "
        "'danqing authority export' gives its root certificate to those who verify them.",
        MarkWarning,
        stacklevel=2,
    )
    return authority


def _renewed(
    folder: Path, state: tuple[int, ...], authority: Authority, left: datetime.timedelta
) -> Authority:
    """Rotate a leaf that ends soon; where that is not possible, warn and go on until it ends.

    state: of the folder when the authority was read.
    """
    remedy = "run 'danqing authority rotate --root-key FILE'."
    if (folder / ROOT_KEY).exists():
        try:
            with _locked(folder):
                if state == _state(folder):
                    return _rotated(folder, folder / ROOT_KEY)
            return load(folder)  # another thread or process has renewed it
        except TrustError as error:  # such as of a folder that is mounted to be read only
            remedy = str(error)
    if left.total_seconds() <= 0:
        raise TrustError(
            f"The certificate that signs images expired on {authority.expires:%Y-%m-%d}: {remedy}"
        )
    if folder not in _warned:
        _warned.add(folder)
        warnings.warn(
            f"The certificate that signs images expires on {authority.expires:%Y-%m-%d}: {remedy}",
            MarkWarning,
            stacklevel=2,
        )
    return authority


def _rotated(
    folder: Path, key_file: Path, *, revoke: bool = False, public_key: Path | None = None
) -> Authority:
    former = _read_leaf(folder)
    if public_key is not None and not former["signer"]:
        raise TrustError("The key of the leaf is in the folder: leave the public key out.")
    root = certificates.read_certificates(_read(folder / ROOT), folder / ROOT)[0]
    if not key_file.exists():
        raise TrustError(f"The key of the root is not in {key_file}: give its file with --root-key.")
    key = certificates.read_key(_read(key_file), key_file)
    if key.public_key() != certificates.public_key_of(root):
        raise TrustError(f"The key in {key_file} does not belong to the root certificate in {folder}.")
    leaf = _new_leaf(root, key, public_key, former if former["signer"] else None)
    leaf |= {"signer": former["signer"], "timestamps": former["timestamps"]}
    renewed = _checked(_snapshot(root, leaf), folder)
    issued = _read_issued(folder)
    for entry in issued if revoke else ():
        # The last one may never have signed: the process could end before it wrote the leaf.
        if entry["certificate"] == former["certificate"]:
            entry["revoked"] = f"{_now():%Y-%m-%dT%H:%M:%SZ}"
    _write(folder / ISSUED, json.dumps([*issued, _entry(leaf)]))
    _write(folder / LEAF, json.dumps(leaf))
    _loaded[folder] = (_state(folder), renewed)
    return renewed


def _new_leaf(
    root: certificates.Certificate,
    root_key: certificates.PrivateKey,
    public_key: Path | None,
    former: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Issue a leaf for a public key, for the key of the `former` leaf, or for a new key."""
    own: certificates.PrivateKey | None = None
    if public_key is not None:
        signs = certificates.read_public_key(_read(public_key), public_key)
    elif former is not None:
        certificate = certificates.read_certificates(former["certificate"].encode(), LEAF)[0]
        signs = certificates.public_key_of(certificate)
    else:
        own = certificates.new_key()
        signs = own.public_key()
    leaf = certificates.new_leaf(signs, certificates.organization_of(root), root, root_key)
    return {
        "format": 1,
        "certificate": certificates.certificate_pem(leaf),
        "key": certificates.key_pem(own) if own is not None else "",
    }


def _entry(leaf: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a leaf when its key is gone: enough to recognize and to revoke it."""
    certificate = certificates.read_certificates(leaf["certificate"].encode(), LEAF)[0]
    return {"serial": str(certificate.serial_number), "certificate": leaf["certificate"]}


def _snapshot(root: certificates.Certificate, leaf: dict[str, Any]) -> Authority:
    certificate = certificates.read_certificates(leaf["certificate"].encode(), LEAF)[0]
    if leaf["signer"]:
        sign = _imported(leaf["signer"])
    else:
        key = certificates.read_key(leaf["key"].encode(), LEAF)

        def sign(data: bytes) -> bytes:
            return certificates.sign_with(key, data)

    return Authority(
        certificate=leaf["certificate"],
        root=certificates.certificate_pem(root),
        expires=certificate.not_valid_after_utc,
        sign=sign,
        timestamps=leaf["timestamps"],
    )


def _imported(signer: str) -> Sign:
    module, _, name = signer.partition(":")
    try:
        sign = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a module of the user may raise anything, with secrets in it
        why = error if isinstance(error, ImportError | AttributeError) else type(error).__name__
        raise TrustError(
            f"The signer {signer!r} cannot be imported ({why}): write it as package.module:function."
        ) from error
    if not callable(sign):
        raise TrustError(f"The signer {signer!r} is not a function: write it as package.module:function.")
    return sign  # type: ignore[no-any-return]


def _checked(authority: Authority, folder: Path) -> Authority:
    """Return an authority whose key, leaf and root belong together; raise TrustError."""
    leaf = certificates.read_certificates(authority.certificate.encode(), folder / LEAF)[0]
    root = certificates.read_certificates(authority.root.encode(), folder / ROOT)[0]
    if not certificates.is_issued_by(leaf, root):
        raise TrustError(
            f"The root in {folder} did not issue its leaf: 'danqing authority rotate' renews it."
        )
    if not certificates.is_signature(certificates.public_key_of(leaf), authority.signature(_PROBE), _PROBE):
        raise TrustError(
            f"The key that signs does not belong to the certificate in {folder / LEAF}: "
            "'danqing authority rotate' issues another certificate."
        )
    return authority


def _check_exists(folder: Path) -> None:
    if not exists(folder):
        raise TrustError(f"There is no authority in {folder}: 'danqing authority create' creates one.")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create the folder, and keep other threads and processes from changing it."""
    lock = FileLock(folder / "lock", mode=0o600)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise TrustError(
            f"The folder {folder} cannot be written ({error.strerror or error}): check its permissions."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _state(folder: Path) -> tuple[int, ...]:
    """Return what changes when the leaf or the root is replaced."""
    try:
        found = os.stat(folder / LEAF), os.stat(folder / ROOT)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return tuple(number for file in found for number in (file.st_ino, file.st_mtime_ns))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: OSError) -> TrustError:
    return TrustError(
        f"{path} cannot be read ({error.strerror or error}): check its permissions, or restore it from a "
        "copy."
    )


def _read_leaf(folder: Path) -> dict[str, Any]:
    leaf = _read_json(folder / LEAF)
    if not _has_texts(leaf, "certificate", "key", "signer", "timestamps"):
        raise _damaged(folder / LEAF)
    return leaf  # type: ignore[no-any-return]


def _read_issued(folder: Path) -> list[dict[str, Any]]:
    issued = _read_json(folder / ISSUED)
    is_whole = isinstance(issued, list) and all(
        _has_texts(entry, "serial", "certificate") and entry["serial"].isdecimal() for entry in issued
    )
    if not is_whole:
        raise _damaged(folder / ISSUED)
    return issued  # type: ignore[no-any-return]


def _has_texts(found: object, *names: str) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(name), str) for name in names)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(_read(file))
    except (ValueError, RecursionError):  # the error would quote the file, which may have a key
        raise _damaged(file) from None


def _damaged(file: Path) -> TrustError:
    return TrustError(f"{file} is damaged: restore it from a copy.")


def _write(file: Path, content: str, *, is_new: bool = False) -> None:
    try:
        atomic.write_bytes(file, content.encode(), private=True, is_new=is_new)
    except FileExistsError as error:
        raise TrustError(f"{file} exists: choose another file for the key of the root.") from error
    except OSError as error:
        raise TrustError(
            f"{file} cannot be written ({error.strerror or error}): check the folder's permissions."
        ) from error
