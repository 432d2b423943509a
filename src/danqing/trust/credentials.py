"""Content Credentials (C2PA 2.4): signed statements of how an image was made, in its file or beside it."""

import contextlib
import datetime
import functools
import hashlib
import importlib.util
import io
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from danqing.errors import ConfigError, TrustError
from danqing.image_files.formats import recognised
from danqing.trust.declaration import Declaration
from danqing.version import __version__

if TYPE_CHECKING:  # needs the extra `trust`, without which `is_installed` still works
    from danqing.trust.authority import Authority

GENERATOR = "Danqing"
TERMS = "danqing"
"""The key of our own fields in the parameters of an action."""
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_SIGNED = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg", "webp": "image/webp"}
_READ = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heif",
    "JPEG XL": "image/jxl",
}
_OPAQUE = "application/octet-stream"
"""As a type of a parent: its content is not parsed."""
_EXPIRED, _UNTRUSTED = "signingCredential.expired", "signingCredential.untrusted"
_UNREADABLE = "manifest.unreadable"
_LONGEST_NAME = 200
_MOST_MANIFEST_MB, _MOST_COMPRESSED = 16, 8
"""How large a compressed manifest may be, and how many a file may have, because 2 kB can become 16 MB. Ours
have 12 kB and are not compressed."""
_MOST_MANIFESTS = 200
"""How many manifests a file may have. The library needs up to 5 kB of the stack for each edit before the
last, and a stack that is full ends the process."""


@dataclass(frozen=True, slots=True)
class Parent:
    """An image that another one was made from.

    description: its format and the hash of its file, as far as the manifest names them.
    failures: codes of what was wrong with its own credentials when it was edited.
    """

    description: str
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the Content Credentials of a file say, and their faults.

    manifest: the active manifest, as the C2PA library presents it; {} if it cannot be read.
    trusted: whether one of the roots stands behind the signature.
    expired: when the certificate of the signer ended, if it has. A root still stands behind it if
        the key of a certificate that the root issued has signed: its owner deletes it after 90 days.
    failures: codes of the C2PA specification with their explanations, without those of trust.
    parents: the images that it was made from.
    is_remote: whether the file only names an address of its credentials, which is never fetched.
    """

    manifest: dict[str, Any] = field(default_factory=dict)
    trusted: bool = False
    expired: datetime.datetime | None = None
    failures: tuple[tuple[str, str], ...] = ()
    parents: tuple[Parent, ...] = ()
    is_remote: bool = False

    @property
    def serial(self) -> int | None:
        """Return the serial number of the signer's certificate."""
        text = str(self.manifest.get("signature_info", {}).get("cert_serial_number", ""))
        return int(text) if text.isdecimal() and len(text) <= _LONGEST_NAME else None

    @property
    def signer(self) -> str:
        """Return the name in the signer's certificate; anyone can choose any name."""
        signature = self.manifest.get("signature_info", {})
        names = (str(signature.get(name, "")) for name in ("common_name", "issuer"))
        return next(filter(None, names), "someone without a name")[:_LONGEST_NAME]


def is_installed() -> bool:
    """Return whether the packages of the extra `trust` are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("c2pa", "cryptography"))


def sign(
    file: bytes,
    format: str,
    declaration: Declaration,
    *,
    authority: "Authority",
    parent: bytes | None = None,
    image_id: str = "",
) -> bytes:
    """Return an image file with Content Credentials in it.

    file: a finished file, as each later change breaks its signature. format: png, jpeg or webp.
    parent: the file before an edit. It becomes an ingredient with its own credentials, which are checked.
    image_id: the UUID that names the manifest, as `manifest_id` says; a new one by default.
    Raises TrustError.
    """
    signed = io.BytesIO()
    _sign(file, format, _builder(declaration, authority, parent, image_id), authority, signed)
    return signed.getvalue()


def sidecar(
    file: bytes,
    format: str,
    declaration: Declaration,
    *,
    authority: "Authority",
    parent: bytes | None = None,
    image_id: str = "",
) -> bytes:
    """Return Content Credentials as a file of their own, usually `NAME.c2pa`.

    The arguments are those of `sign`. The image file stays as it is.
    """
    builder = _builder(declaration, authority, parent, image_id)
    builder.set_no_embed()
    return _sign(file, format, builder, authority, None)


def manifest_id(image_id: str) -> str:
    """Return the id of the manifest of an image.

    image_id: the UUID of the image.
    """
    return f"urn:c2pa:{uuid.UUID(image_id)}"


def read(file: bytes, *, roots: Sequence[str] = (), sidecar: bytes | None = None) -> Credentials | None:
    """Read and check the Content Credentials of an image file.

    The network is never used.

    roots: trusted root certificates as PEM. sidecar: credentials from a file beside the image.
    Returns None if there are none.
    """
    c2pa = _library()
    context = _reading_context(tuple(roots), os.getpid())
    media_type = _READ.get(recognised(file), "")
    if not media_type:
        return None
    if excess := _excess(file) or _excess(sidecar or b""):
        return Credentials(failures=(("manifest.limit", excess),))
    try:
        reader = c2pa.Reader(media_type, io.BytesIO(file), sidecar, context=context)
        content = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        return _unreadable(file, sidecar, str(error))
    except (ValueError, RecursionError) as error:
        return _unreadable(file, sidecar, type(error).__name__)
    found = _understood(content)
    if {code for code, _ in found.failures} == {_EXPIRED}:
        return _after_expiry(found, roots, file, sidecar)
    return found


def _after_expiry(
    found: Credentials, roots: Sequence[str], file: bytes, sidecar: bytes | None
) -> Credentials:
    """Decide whether a root stands behind a signature whose certificate has expired."""
    from danqing.trust import certificates, manifest_store

    if sidecar is None:
        # The library reads again what is found here: it could have read another store in the same file.
        again = read(file, roots=roots, sidecar=manifest_store.store_in(file))
        return again if again is not None and again.trusted else found
    signer = manifest_store.signer_of(sidecar, found.manifest.get("label", ""))
    if signer is None or signer.serial_number != found.serial:
        return found
    issuers = [each for pem in roots for each in certificates.read_certificates(pem.encode(), "A root")]
    if not any(certificates.is_issued_by(signer, issuer) for issuer in issuers):
        return found
    return replace(found, trusted=True, expired=signer.not_valid_after_utc, failures=())


def _sign(file: bytes, format: str, builder: Any, authority: "Authority", signed: io.BytesIO | None) -> bytes:
    """Write the signed file to `signed`; return the manifest alone."""
    media_type = _SIGNED.get(format.lower())
    if media_type is None:
        raise ConfigError(f"Files of the format {format!r} cannot be signed: choose png, webp or jpeg.")
    signer, callback = _signer(authority, os.getpid())
    callback.error = None
    try:
        return builder.sign(signer, media_type, io.BytesIO(file), signed)  # type: ignore[no-any-return]
    except _library().C2paError as error:
        if callback.error is not None:
            raise callback.error from error
        raise TrustError(
            f"The image cannot be signed ({error}): create another authority, or turn credentials off."
        ) from error


def _builder(declaration: Declaration, authority: "Authority", parent: bytes | None, image_id: str) -> Any:
    """Return the library's builder of a manifest."""
    agent = {"name": GENERATOR, "version": __version__}
    action = {
        "action": "c2pa.created" if parent is None else "c2pa.edited",
        "when": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
        "softwareAgent": agent,
        "digitalSourceType": _SOURCE_TYPES + declaration.source,
        "parameters": {TERMS: _terms(declaration)},
    }
    definition: dict[str, Any] = {"claim_generator_info": [agent]}
    if image_id:
        definition["label"] = manifest_id(image_id)
    if parent is not None:
        builder = _with_parent(definition, authority, parent)
        builder.add_action(action)
        return builder
    definition["assertions"] = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}, "created": True}]
    return _library().Builder(json.dumps(definition), _signing_context(authority.root, os.getpid()))


def _with_parent(definition: dict[str, Any], authority: "Authority", parent: bytes) -> Any:
    """Return a builder with the parent of an edit, without its credentials where they cannot be read."""
    c2pa = _library()
    context = _signing_context(authority.root, os.getpid())
    ingredient = {
        "title": "parent",
        "relationship": "parentOf",
        "description": f"SHA-256 of the file: {hashlib.sha256(parent).hexdigest()}",
    }
    known = _OPAQUE if _excess(parent) else _READ.get(recognised(parent), _OPAQUE)
    for media_type in (known, _OPAQUE):
        builder = c2pa.Builder(json.dumps(definition), context)
        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
        with contextlib.suppress(c2pa.C2paError):
            builder.add_ingredient(ingredient, media_type, io.BytesIO(parent))
            return builder
    raise TrustError("The image before the edit cannot be named in the credentials: turn credentials off.")


def _terms(declaration: Declaration) -> dict[str, Any]:
    """Return what a declaration says beyond the fields of the specification, without what is empty."""
    training = {
        "licence": declaration.licence,
        "creator": declaration.creator,
        "reservations": dict(declaration.reservations),
    }
    terms = {
        "operation": declaration.action,
        "model": declaration.model,
        "model_sha256": declaration.model_digest,
        "prompt": declaration.prompt,
        "training_data": {name: value for name, value in training.items() if value},
    }
    return {name: value for name, value in terms.items() if value}


def _excess(file: bytes) -> str:
    """Return which limit the manifests of a file exceed, "" for none; the library has no such limits."""
    from danqing.trust import manifest_store

    manifests, compressed = manifest_store.manifests_in(file)
    if compressed > _MOST_COMPRESSED:
        return f"they have {compressed} compressed manifests, over {_MOST_COMPRESSED}"
    return f"they have {manifests} manifests, over {_MOST_MANIFESTS}" if manifests > _MOST_MANIFESTS else ""


def _unreadable(file: bytes, sidecar: bytes | None, why: str) -> Credentials | None:
    """Tell broken credentials from a file that has none and that the library cannot parse."""
    from danqing.trust import manifest_store

    if why.startswith("Remote"):
        return Credentials(is_remote=True)
    if sidecar is None and b"c2pa" not in file and not manifest_store.store_in(file):
        return None
    return Credentials(failures=((_UNREADABLE, why[:200]),))


def _understood(content: dict[str, Any]) -> Credentials:
    active = content.get("validation_results", {}).get("activeManifest", {})
    passed = {str(each.get("code")) for each in active.get("success", ())}
    failures = tuple(
        (str(each.get("code")), str(each.get("explanation", ""))) for each in active.get("failure", ())
    )
    manifest = content.get("manifests", {}).get(content.get("active_manifest"))
    if manifest is None:
        return Credentials(failures=((_UNREADABLE, "there is no active manifest"), *failures))
    return Credentials(
        manifest=manifest,
        trusted="signingCredential.trusted" in passed,
        failures=tuple(each for each in failures if each[0] != _UNTRUSTED) + tuple(_later(content)),
        parents=tuple(_parent(each) for each in manifest.get("ingredients", ())),
    )


def _later(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """List what is wrong with ingredients and was not so when they were added."""
    for delta in content.get("validation_results", {}).get("ingredientDeltas", ()):
        for each in delta.get("validationDeltas", {}).get("failure", ()):
            if not str(each.get("code")).startswith("signingCredential."):  # certificates expire
                yield str(each.get("code")), str(each.get("explanation", ""))


def _parent(ingredient: dict[str, Any]) -> Parent:
    results = ingredient.get("validation_results", {}).get("activeManifest", {})
    codes = (str(each.get("code")) for each in results.get("failure", ()))
    words = (str(ingredient.get(name, "")) for name in ("format", "description"))
    return Parent(
        description=", ".join(word[:_LONGEST_NAME] for word in words if word),
        failures=tuple(code for code in codes if code != _UNTRUSTED),
    )


class _Callback(threading.local):
    """Signs for the library, which reports that its callback failed but not why.

    error: why it failed last in this thread.
    """

    error: TrustError | None = None

    def __init__(self, authority: "Authority") -> None:
        self._authority = authority

    def __call__(self, data: bytes) -> bytes:
        try:
            return self._authority.signature(data)
        except TrustError as error:
            self.error = error
            return b""  # which the library takes for a failure


@functools.lru_cache(maxsize=8)
def _signer(authority: "Authority", process: int) -> tuple[Any, _Callback]:
    """Return the library's signer; like a context, it cannot be used in a forked process."""
    c2pa, callback = _library(), _Callback(authority)
    timestamps = authority.timestamps or None
    signer = c2pa.Signer.from_callback(callback, c2pa.C2paSigningAlg.ES256, authority.certificate, timestamps)
    return signer, callback


@functools.lru_cache(maxsize=8)
def _signing_context(root: str, process: int) -> Any:
    builder = {
        "thumbnail": {"enabled": False},
        "created_assertion_labels": ["c2pa.actions", "c2pa.ingredient"],
    }
    # A manifest is not read again after signing: the authority has checked that its key and leaf fit.
    settings = _settings((root,))
    return _library().Context.from_dict(
        settings | {"verify": settings["verify"] | {"verify_after_sign": False}, "builder": builder}
    )


@functools.lru_cache(maxsize=8)
def _reading_context(roots: tuple[str, ...], process: int) -> Any:
    return _library().Context.from_dict(_settings(roots))


def _settings(roots: tuple[str, ...]) -> dict[str, Any]:
    """Return settings without any network access: the library's defaults fetch remote manifests."""
    settings: dict[str, Any] = {
        "core": {
            "allowed_network_hosts": [],
            "allow_redirects": False,
            "max_decompressed_manifest_size_in_mb": _MOST_MANIFEST_MB,
        },
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    }
    if roots:
        settings["trust"] = {"user_anchors": "".join(roots)}
    return settings


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise TrustError("Content Credentials need a package: pip install 'danqing[trust]'.") from error
    return c2pa
