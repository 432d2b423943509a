"""Where an image comes from: its credentials, labels, watermark and registry, each checked on its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from danqing.errors import DanqingError, DataError
from danqing.image_files.levels import DeepPixels
from danqing.image_files.reading import MAX_BYTES, decode, inspect
from danqing.images import Pixels, eight_bits
from danqing.marks import SIDECAR
from danqing.trust import credentials, registry, watermark
from danqing.trust.codes_mark import CodesDetection
from danqing.trust.credentials import Credentials
from danqing.trust.declaration import SourceType
from danqing.trust.found_labels import FoundLabels, find_labels
from danqing.trust.settings import trust_path
from danqing.trust.watermark_key import WatermarkKey

_CERTIFICATE, _CONTENT = "signingCredential.", "assertion."
_MEANINGS = {
    "assertion.dataHash.mismatch": "the file was changed after it was signed",
    "claimSignature.mismatch": "the signature does not fit",
    "signingCredential.expired": "its certificate has expired",
    "manifest.unreadable": "they are damaged",
}


class Verdict(StrEnum):
    """Where an image comes from, as far as its marks prove it."""

    OURS = "ours"
    """A signature under a root that is trusted here, our watermark or our registry proves it."""
    OTHER = "other"
    """It has credentials of someone else, or labels that anyone could have written."""
    NONE = "none"
    """It has no mark. It may still be generated."""
    BROKEN = "broken"
    """It has credentials that do not fit it: the file or its credentials were changed."""


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    ABSENT = "not present"
    SKIPPED = "not checked"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of an image: its name, how it ended, and why."""

    name: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of where an image comes from.

    summary: the verdict as a sentence. checks: all that were made.
    manifest: the active manifest of its Content Credentials, {} if there is none. Its signer wrote it.
    """

    verdict: Verdict
    summary: str
    checks: tuple[Check, ...]
    manifest: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return everything as values of JSON."""
        return asdict(self)


class DetectsMark(Protocol):
    """A model that finds the mark in the codes of its images.

    `danqing.load` returns such models.
    """

    def detect_mark(self, images: Sequence[Pixels], folder: Path | None = None) -> list[CodesDetection]: ...


def verify(
    image: bytes | str | Path,
    *,
    roots: Sequence[str | Path] = (),
    sidecar: bytes | str | Path | None = None,
    folder: Path | None = None,
    model: DetectsMark | None = None,
) -> Provenance:
    """Verify where an image comes from, without network access.

    image: the bytes or the path of an image file.
    roots: files with root certificates in PEM that are trusted besides the one of this installation.
    sidecar: credentials beside the image; by default the file with its name and the suffix `.c2pa`, if the
        image has none inside.
    folder: with the authority, the watermark's key and the registry; by default `$DANQING_TRUST`.
    model: a transformer, to look for the mark in the codes that it samples.
    Raises DataError if a file cannot be read, and TrustError for roots that are not certificates.
    """
    content = image if isinstance(image, bytes) else _read(Path(image))
    # At its own depth: the registry knows an image of 16 bits by all of them.
    pixels = decode(content, alpha="keep", depth=inspect(content).depth)
    if sidecar is None and not isinstance(image, bytes):
        sidecar = _beside(Path(image), content)
    if sidecar is not None and not isinstance(sidecar, bytes):
        sidecar = _read(Path(sidecar))
    folder = trust_path() if folder is None else folder
    found, is_revoked, signed = _credentials(content, sidecar, roots, folder)
    labels, labelled = _labels(content)
    marks: tuple[Check, ...] = _pixel_marks(pixels, folder)
    if model is not None:
        marks = (*marks, _codes(pixels, model, folder))
    proofs = [check for check in marks if check.outcome is Outcome.PASSED]
    verdict, summary = _judged(found, is_revoked, labels, proofs)
    if verdict is Verdict.NONE and any(check.outcome is Outcome.UNSURE for check in marks):
        summary = (
            "It has no mark. It is like an image that was edited here, or is the image before that edit."
        )
    manifest = {} if found is None else found.manifest
    return Provenance(verdict, summary, (*signed, labelled, *marks), manifest)


def _beside(path: Path, content: bytes) -> Path | None:
    """Return the sidecar of a file without credentials of its own; None if there is none.

    A sidecar beside credentials in the file belongs to an earlier file of the same name.
    """
    beside = path.with_suffix(SIDECAR)
    if not credentials.is_installed() or not beside.is_file():
        return None
    from danqing.trust import manifest_store  # needs the extra `trust`

    return None if manifest_store.store_in(content) else beside


def _judged(
    found: Credentials | None, is_revoked: bool, labels: FoundLabels, proofs: Sequence[Check]
) -> tuple[Verdict, str]:
    """Decide by the strongest mark: signatures first, then the pixels, then labels."""
    pixels = f"It was generated here, by the {' and the '.join(check.name for check in proofs)}."
    if found is not None and (wrong := list(_wrong(found))):
        trace = " Its pixels still come from here." if proofs else ""
        return Verdict.BROKEN, f"Its Content Credentials are broken: {_meaning(*wrong[0])}.{trace}"
    if found is not None and found.trusted and not is_revoked:
        return Verdict.OURS, "It was signed here or under a root that is trusted here."
    signer = found.signer if found is not None and found.manifest else ""
    if proofs:
        return Verdict.OURS, pixels + (f" It was signed again by {signer}." if signer else "")
    if signer and is_revoked:
        return Verdict.OTHER, f"It was signed by {signer}, with a certificate that is revoked here."
    if signer:
        return Verdict.OTHER, f"It was signed by {signer}, under a root that is not trusted here."
    if labels:
        return Verdict.OTHER, "It has labels that anyone could have written, and no proof of its origin."
    return Verdict.NONE, "It has no mark. It may still be generated."


def _credentials(
    content: bytes, sidecar: bytes | None, roots: Sequence[str | Path], folder: Path
) -> tuple[Credentials | None, bool, list[Check]]:
    """Return the Content Credentials, whether their certificate is revoked, and their checks."""
    if not credentials.is_installed():
        detail = "this needs a package: pip install 'danqing[trust]'"
        return None, False, [Check("credentials", Outcome.SKIPPED, detail)]
    from danqing.trust import authority, certificates

    home = folder / "authority"
    trusted = [authority.export(home)] if authority.exists(home) else []
    for root in roots:
        given = certificates.read_certificates(_read(Path(root)), root)
        trusted += [certificates.certificate_pem(each) for each in given]
    found = credentials.read(content, roots=trusted, sidecar=sidecar)
    if found is None or found.is_remote:
        detail = "the file names an address of credentials, which is never fetched" if found else ""
        return None, False, [Check("credentials", Outcome.ABSENT, detail)]
    is_revoked = found.trusted and found.serial in authority.revoked(home)
    return found, is_revoked, list(_checks(found, is_revoked))


def _checks(found: Credentials, is_revoked: bool) -> Iterator[Check]:
    wrong = list(_wrong(found))
    for name, failures in (
        ("signature", [each for each in wrong if not each[0].startswith(_CONTENT)]),
        ("content", [each for each in wrong if each[0].startswith(_CONTENT)]),
    ):
        passed = f"by {found.signer}" if name == "signature" else "the file is as it was signed"
        outcome = Outcome.FAILED if failures else Outcome.PASSED
        yield Check(name, outcome, "; ".join(_meaning(*each) for each in failures) or passed)
    certificate = [each for each in found.failures if each[0].startswith(_CERTIFICATE)]
    if is_revoked:
        yield Check("certificate", Outcome.FAILED, "this installation has revoked it")
    elif certificate or not found.trusted:
        detail = "; ".join(_meaning(*each) for each in certificate) or "its root is not trusted here"
        yield Check("certificate", Outcome.FAILED, detail)
    else:
        ended = f"; it expired on {found.expired:%Y-%m-%d}" if found.expired else ""
        yield Check("certificate", Outcome.PASSED, f"its root is trusted here{ended}")
    for parent in found.parents:
        detail = "; ".join(map(_meaning, parent.failures)) if parent.failures else parent.description
        outcome = Outcome.FAILED if parent.failures else Outcome.PASSED
        yield Check("parent", outcome, f"the image before the edit: {detail}")


def _wrong(found: Credentials) -> Iterator[tuple[str, str]]:
    """List the failures that mean a change, not a stranger."""
    return (each for each in found.failures if not each[0].startswith(_CERTIFICATE))


def _meaning(code: str, explanation: str = "") -> str:
    return f"{_MEANINGS.get(code, explanation or 'C2PA reports a failure')} ({code})"


def _labels(content: bytes) -> tuple[FoundLabels, Check]:
    try:
        found = find_labels(content)
    except DataError as error:
        return FoundLabels(), Check("labels", Outcome.FAILED, str(error))
    if not found:
        return found, Check("labels", Outcome.ABSENT)
    return found, Check("labels", Outcome.PASSED, f"{found.sentence()}; anyone can write labels")


def _pixel_marks(pixels: Pixels | DeepPixels, folder: Path) -> tuple[Check, Check]:
    """Look for the watermark, and for the image itself in the registry."""
    store = registry.shared(folder / "registry.sqlite")
    try:
        key = WatermarkKey.existing(folder)
        found = watermark.detect(pixels, key) if key is not None else watermark.Detection(1.0)
        named = [] if found.number is None else store.numbered(found.number, found.bits)
        marked = _watermarked(found, named)
    except DanqingError as error:
        marked = Check("watermark", Outcome.SKIPPED, str(error))
    try:
        matches = store.find(pixels, limit=1)
    except DanqingError as error:
        return marked, Check("registry", Outcome.SKIPPED, str(error))
    if not matches:
        return marked, Check("registry", Outcome.ABSENT)
    entry, exact, similarity = matches[0]
    if not exact and SourceType.of(entry.action) is not SourceType.GENERATED:
        like = f"an image with a similarity of {similarity:.2f}, or that before the edit, {_described(entry)}"
        return marked, Check("registry", Outcome.UNSURE, like)
    same = "these pixels" if exact else f"an image with a similarity of {similarity:.2f}"
    return marked, Check("registry", Outcome.PASSED, f"{same}, {_described(entry)}")


def _codes(pixels: Pixels | DeepPixels, model: DetectsMark, folder: Path) -> Check:
    try:
        (found,) = model.detect_mark([eight_bits(pixels)], folder)
    except DanqingError as error:
        return Check("codes", Outcome.SKIPPED, str(error))
    outcome = Outcome.PASSED if found.p_value <= watermark.RELIABLE else Outcome.ABSENT
    detail = f"p = {found.p_value:.1e}, {found.favoured} of {found.count} places are favoured by the key"
    return Check("codes", outcome, detail)


def _watermarked(found: watermark.Detection, named: Sequence[registry.Entry]) -> Check:
    p_value = f"p = {found.p_value:.1e}"
    if found.number is None:
        return Check("watermark", Outcome.ABSENT, p_value)
    entry = f"; {_described(named[0])}" if len(named) == 1 else ""
    return Check("watermark", Outcome.PASSED, p_value + entry)


def _described(entry: registry.Entry) -> str:
    made = f"{entry.action} with {entry.model}" if entry.model else entry.action
    return f"made by {made} on {entry.time}, id {entry.id}"


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} has over {MAX_BYTES / 2**20:.0f} MiB: shrink it first.")
    return content
