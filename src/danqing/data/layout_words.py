"""How files were understood, in words: labels, captions, layout, splits, and what was not read."""

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence

from danqing.data.annotations import Annotations
from danqing.data.files import Files
from danqing.data.located import Found
from danqing.data.side_files import Beside
from danqing.data.survey import Survey
from danqing.data.tables import ENDINGS, TABLES

_KINDS_NAMED = 6
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")


def counted(sources: Counter[str], total: int) -> str:
    """Return sources, with the number of images of each."""
    parts = [name if count == total else f"{name} ({count:,} images)" for name, count in sources.items()]
    if sources and sum(sources.values()) < total:
        parts.append(f"none for {total - sum(sources.values()):,} images")
    return "; ".join(parts)


def where_captions_were_sought(told: Annotations, beside: dict[str, Beside]) -> str:
    """Return where captions were looked for, if there are none."""
    looked = [f"columns of {joined(told.tables)}"] if told.tables else ["a metadata table (there is none)"]
    texts = sum(1 for one in beside.values() if one.caption)
    looked.append(
        f"text files beside the images ({texts:,}, which hold numbers alone)"
        if texts
        else "text files beside the images (there are none)"
    )
    return f"none: looked for in {' and '.join(looked)}"


def layout_in_words(images: Sequence[Found], told: Annotations) -> str:
    """Return how many images, folders and tables there are, in words."""
    folders = len({one.folders[0] for one in images if one.folders})
    parts = ["1 image" if len(images) == 1 else f"{len(images):,} images"]
    parts.append(f"in {folders:,} folders" if folders > 1 else "in one folder")
    if told.tables:
        parts.append(f"described by {joined(told.tables)}")
    return " ".join(parts)


def split_in_words(images: Sequence[Found], split: str, by_folder: bool) -> str:
    """Return which split was taken, and the sizes of all."""
    counts = Counter(one.split or "no split" for one in images)
    if set(counts) == {"no split"}:
        return "none: all images are for training"
    how = "folders" if by_folder else "a column"
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    return f"{split}, by {how} ({parts})"


def explain_others(
    files: Files,
    survey: Survey,
    others: Sequence[str],
    taken: set[str],
    told: Annotations,
    beside: dict[str, Beside],
    images: Sequence[Found],
) -> None:
    """Add files that were not read to a survey.

    taken: names of files that were read besides those in `beside`.
    """
    used = {name for one in beside.values() for name in one if name} | taken
    rest = [name for name in others if name not in used]
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without an ending" for name in rest)
    parts = [f"{count:,} {kind}" for kind, count in kinds.most_common(_KINDS_NAMED)]
    if len(kinds) > _KINDS_NAMED:
        parts.append(f"{len(rest) - sum(n for _, n in kinds.most_common(_KINDS_NAMED)):,} of other kinds")
    parts += [f"{count:,} {what}" for what, count in files.ignored.items()]
    if parts:
        survey.understood["Not read"] = ", ".join(parts)
    if rest:
        survey.notes.append(_note_on_rest(rest, kinds))
    tables = [posixpath.basename(name) for name in rest if name.lower().endswith(ENDINGS) and "." in name]
    if tables and not told.tables:
        survey.notes.append(
            f"If {tables[0]} describes these images, rename it to {TABLES[0]} or metadata.csv."
        )
    survey.notes += _note_on_texts_elsewhere(rest, images)
    survey.notes += files.notes


def _note_on_texts_elsewhere(rest: Sequence[str], images: Sequence[Found]) -> list[str]:
    """Return a note if text files have the names of images, but lie in another folder."""
    stems = {_stem(one.name) for one in images}
    texts = [name for name in rest if name.lower().endswith((".txt", ".caption")) and _stem(name) in stems]
    if not texts:
        return []
    return [
        f"{len(texts):,} text files in {posixpath.dirname(texts[0]) or 'the top folder'} have the names of "
        "images in another folder: to use them as captions, put them beside the images."
    ]


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def _note_on_rest(rest: Sequence[str], kinds: Counter[str]) -> str:
    drawings = kinds[".svg"] + kinds[".svgz"]
    advice = f" ({drawings} of them SVG drawings: convert them to PNG first)" if drawings else ""
    if len(rest) == 1:
        return f"1 file is not an image by its ending and was left out{advice}."
    return f"{len(rest):,} files are not images by their endings and were left out{advice}."


def why_no_images(files: Files, others: Sequence[str]) -> str:
    """Return why some files hold no images, and what to name instead."""
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without an ending" for name in others)
    ignored = [f"{count:,} {what}" for what, count in files.ignored.items()]
    if not others and not ignored:
        return f"{files.path} holds no files: name a folder with images."
    parts = [f"{count:,} {kind}" for kind, count in kinds.most_common(_KINDS_NAMED)] + ignored
    advice = "name a folder with png, jpeg or webp files"
    if any(kinds[ending] for ending in _ARCHIVES):
        advice = "unpack the archives in it first"
    if kinds[".svg"] or kinds[".svgz"]:
        advice = "SVG drawings are not supported: convert them to PNG first"
    return f"{files.path} holds no images ({', '.join(parts)}): {advice}."


def joined(words: Iterable[str]) -> str:
    """Return different words with "and" between them."""
    return " and ".join(dict.fromkeys(words))
