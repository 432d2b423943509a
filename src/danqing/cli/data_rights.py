"""What `danqing data check` says of the rights in images and of the people in them."""

from typing import TYPE_CHECKING, Any

from danqing.progress import ProgressCallback

if TYPE_CHECKING:
    from danqing.data.consent import Consent
    from danqing.data.faces import Faces

FACES = 100
"""How many images are searched for faces by default."""
_NAMED = 5


def rights_rows(consent: "Consent") -> dict[str, Any]:
    """Return what the files say of the rights in them and of people, by title."""
    from danqing.data.consent import in_words

    rows: dict[str, Any] = {
        "Licences in files": in_words(consent.licences),
        "Creators in files": in_words(consent.creators),
        "Copyright in files": in_words(consent.notices),
        "Reservations": in_words(consent.reservations) or "none found",
    }
    if consent.reserved:
        done = "used anyway" if consent.ignored else "left out (--ignore-reservations keeps them)"
        rows["Reservations"] += f"; {consent.reserved:,} images {done}"
    personal = in_words(consent.personal)
    rows["Personal data"] = f"{personal}; the cache does not contain it" if personal else "none found"
    unread = {"Content Credentials, pip install 'danqing[trust]'": consent.unread, "damaged": consent.damaged}
    rows["Metadata not read"] = in_words({text: count for text, count in unread.items() if count})
    return rows


def search_faces(data: str, split: str, most: int, on_progress: ProgressCallback) -> "Faces | None":
    """Search some images for faces; return None if that is not wanted or not possible."""
    from danqing.data import faces
    from danqing.data.originals import Originals

    if not most or not faces.is_installed():
        return None
    images = Originals(data, split=split, most=most, on_progress=on_progress, stage="Looking for faces")
    return faces.find_faces(images)


def faces_text(found: "Faces | None") -> str:
    """Say how many images show a face, or how to search for some."""
    if found is None:
        return "not searched for: --faces COUNT does, with pip install 'danqing[faces]'"
    if not found.images:
        return "not found: the images are too small to search"
    if not found.names:
        return f"in {found.showing:,} of {found.images:,} images"
    names = ", ".join(found.names[:_NAMED])
    return f"in {found.showing:,} of {found.images:,} images, such as {names}"
