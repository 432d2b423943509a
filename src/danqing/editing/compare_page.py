"""The page of a batch of edits: each image before and after under a slider, in one HTML file."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from danqing import atomic, image_files, images, page
from danqing.editing import files
from danqing.editing.batch import BatchResult
from danqing.editing.contract import Edit, ImageToEdit, Keeps, Values
from danqing.editing.inputs import Source, find
from danqing.editing.manifest import Manifest
from danqing.editing.marks import marking_of
from danqing.errors import DataError
from danqing.image_files import Deep, Range
from danqing.image_files.levels import sample
from danqing.images import Pixels
from danqing.marks import Marks
from danqing.quantities import duration, memory
from danqing.trust.settings import MarkSettings

MOST_SHOWN = 200
"""Images on a page; of a larger batch, that many are shown, evenly spread."""
FEW = 24
SIDES = 640, 1440
"""Pixels of the longer side of the copies on a page, and on a page of no more than FEW images."""

_EXACT = 256 * 256
"""Images of up to so many pixels are embedded without loss."""
_ROWS = 256
"""Rows that are compared at once."""
_STYLE = Path(__file__).with_name("compare_page.css")
_SCRIPT = Path(__file__).with_name("compare_page.js")


class Measures(NamedTuple):
    """How far an edited image is from its input.

    change: the mean absolute difference, in levels of 8 bits. changed: the share of pixels that differ.
    psnr: in dB, infinite where all values are equal; None without anything to compare with.
    against: what `psnr` compares the image with.
    """

    change: float
    changed: float
    psnr: float | None = None
    against: Literal["", "reference", "kept region"] = ""


class ComparedImage(NamedTuple):
    """An image of a batch.

    sizes: its (width, height), before and after. file_sizes: bytes, before and after.
    seconds: that the edit took, None if that is not known.
    shown: small copies as data URLs, before and after; None where the page does not show the image.
    """

    name: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    file_sizes: tuple[int, int]
    seconds: float | None
    measures: Measures
    shown: tuple[str, str] | None


class CompareResults:
    """The contents of the page, collected one image at a time.

    It keeps small copies of at most MOST_SHOWN images, so a large batch needs little memory.

    verb, settings: of the edit. total: the number of images in the batch.
    marks: of the copies of results on the page.
    """

    def __init__(
        self, verb: str, settings: Mapping[str, Any], total: int, marks: Marks | None = None
    ) -> None:
        self.verb, self.settings, self.total, self.marks = verb, dict(settings), total, marks
        self.images: list[ComparedImage] = []
        self.failed: dict[str, str] = {}
        self.unread: dict[str, str] = {}

    def add(
        self,
        name: str,
        before: Values,
        after: Values,
        *,
        file_sizes: tuple[int, int],
        seconds: float | None = None,
        offset: tuple[int, int] | None = None,
        kept: NDArray[np.bool_] | None = None,
        reference: Values | None = None,
    ) -> None:
        """Add an edited image.

        name: of its file. file_sizes: bytes of the input file and of the output file. seconds: that the edit
            took.
        offset: the (left, top) of the input within an output that has more pixels around it.
        kept: bool `[h, w]`, the pixels of the input that the edit keeps.
        reference: the true image, of the size of `after`.
        """
        is_shown = self._is_next_shown()
        sizes = (before.shape[1], before.shape[0]), (after.shape[1], after.shape[0])
        measures = measure(before, after, offset=offset, kept=kept, reference=reference)
        shown = self._copies(before, after, offset) if is_shown else None
        self.images.append(ComparedImage(name, sizes, file_sizes, seconds, measures, shown))

    def fail(self, name: str, reason: str) -> None:
        """Add an image that could not be edited, with the reason."""
        self.failed[name] = reason

    def leave_out(self, name: str, reason: str) -> None:
        """Add an edited image that cannot be compared, with the reason."""
        self.unread[name] = reason

    def _is_next_shown(self) -> bool:
        place = len(self.images) + len(self.failed) + len(self.unread)
        total = max(self.total, place + 1)
        return total <= MOST_SHOWN or (place + 1) * MOST_SHOWN // total > place * MOST_SHOWN // total

    def _copies(self, before: Values, after: Values, offset: tuple[int, int] | None) -> tuple[str, str]:
        bounds = image_files.value_range(sample(Deep(before))) if before.dtype == np.uint16 else None
        if offset is not None:
            before = _placed(before, after.shape[:2], offset)
        most = SIDES[self.total <= FEW]
        made = _data_url(_small(after, bounds, most), self.marks)
        return _data_url(_small(before, bounds, most)), made


def compare(
    edit: Edit,
    result: BatchResult,
    references: Source | None = None,
    *,
    marks: str | MarkSettings | None = None,
) -> CompareResults:
    """Compare the input files of a batch with the results.

    Results of earlier runs are included.

    references: the true images, with the names of the inputs and any suffix.
    marks: as of `edit_files`; the copies of results on the page have metadata labels alone.
    Raises ConfigError or DataError if there are none, and DataError for one that cannot be read. Edited files
    that cannot be read are listed.
    """
    known = None if references is None else find(references)
    true = {PurePosixPath(name).with_suffix(""): name for name in (known.names if known else ())}
    on_page = marking_of(edit, MarkSettings.of(marks).metadata_only())
    total = len(result.written) + len(result.skipped)
    results = CompareResults(edit.verb, edit.settings, total, on_page)
    seconds = {} if result.manifest is None else _seconds(result)
    left, top, *_ = edit.settings.get("expand", (0, 0, 0, 0))
    extends = any(edit.settings.get("expand", ()))
    for key, before, after in result.pairs():
        try:
            values, made = files.read(before)[0], files.read(after)[0]
        except DataError as error:  # an enlarged image may be too large to be read
            results.leave_out(key, str(error))
            continue
        name = key.partition("/")[2] if result.versions > 1 else key
        reference = true.get(PurePosixPath(name).with_suffix(""))
        results.add(
            key,
            values,
            made,
            file_sizes=(len(before), len(after)),
            seconds=seconds.get(key),
            offset=(left, top) if extends else None,
            kept=edit.kept(ImageToEdit(values, 0, name)) if isinstance(edit, Keeps) else None,
            reference=files.read(known.read(reference))[0] if known and reference else None,
        )
    for name, reason in result.failed.items():
        results.fail(name, reason)
    return results


def _seconds(result: BatchResult) -> dict[str, float]:
    """Return how long each image took, by the keys of the result."""
    assert result.manifest is not None
    records = Manifest(result.manifest.parent).records() if result.manifest.exists() else ()
    return {result.key(record.name, record.version): record.seconds for record in records}


def measure(
    before: Values,
    after: Values,
    *,
    offset: tuple[int, int] | None = None,
    kept: NDArray[np.bool_] | None = None,
    reference: Values | None = None,
) -> Measures:
    """Measure how an edit changed an image.

    An output of another size is compared at the size of the input, or in the part that shows the input.
    The arguments are those of `CompareResults.add`.
    """
    height, width = before.shape[:2]
    seen = after
    if offset is not None:
        seen = after[offset[1] : offset[1] + height, offset[0] : offset[0] + width]
    elif seen.shape[:2] != (height, width):
        before = _eight_bits(before)
        seen = images.conform(_eight_bits(after), size=(width, height), alpha="keep", fit="stretch")
    total, differing, squares, count = 0.0, 0, 0.0, 0
    for rows, difference in _differences(before, seen):
        total += float(np.abs(difference).mean(axis=2, dtype=np.float64).sum())
        differing += int(difference.any(axis=2).sum())
        if kept is not None:
            squares += float(np.square(difference[kept[rows]], dtype=np.float64).sum())
            count += int(kept[rows].sum()) * difference.shape[2]
    change, changed = 255 * total / (width * height), differing / (width * height)
    if reference is not None and reference.shape[:2] == after.shape[:2]:
        errors = [
            np.square(one, dtype=np.float64).mean(axis=(1, 2)) for _, one in _differences(reference, after)
        ]
        return Measures(change, changed, _psnr(float(np.concatenate(errors).mean())), "reference")
    if count:
        return Measures(change, changed, _psnr(squares / count), "kept region")
    return Measures(change, changed)


def write_page(results: CompareResults, out: Path) -> Path:
    """Write the page atomically; returns its path.

    All text is escaped. Raises OSError.
    """
    shown = [one for one in results.images if one.shown is not None]
    content = page.render(
        kind="before and after",
        name=f"danqing {results.verb}",
        lead=_lead(results, len(shown)),
        head=page.tiles(_tiles(results)),
        sections=[
            _left_out(results.failed, "not edited"),
            _left_out(results.unread, "edited and cannot be shown"),
            _images(shown),
            _settings(results),
        ],
        style=_STYLE.read_text(encoding="utf-8"),
        script=_SCRIPT.read_text(encoding="utf-8"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out, content)
    return out


def _lead(results: CompareResults, shown: int) -> str:
    words = ["Move the line in an image to see it before and after."]
    if left := len(results.images) - shown:
        words.append(
            f"{shown:,} of {len(results.images):,} edited images are shown, evenly spread over the batch, "
            f"and {left:,} are left out. The numbers above the images are of all."
        )
    if any(one.measures.against == "kept region" for one in results.images):
        words.append("The kept region is what the edit must not change.")
    if any(before != after for before, after in (one.sizes for one in results.images)):
        words.append("An image whose size has changed is measured at its former size.")
    return " ".join(words)


def _tiles(results: CompareResults) -> Iterator[tuple[str, str]]:
    done = results.images
    yield "Edited", f"{len(done) + len(results.unread):,}"
    if results.failed:
        yield "Failed", f"{len(results.failed):,}"
    if not done:
        return
    yield "Mean change", _levels(float(np.mean([one.measures.change for one in done])))
    yield "Changed pixels", _share(float(np.mean([one.measures.changed for one in done])))
    against = {one.measures.against for one in done}
    found = [one.measures.psnr for one in done if one.measures.psnr is not None]
    if found and len(against) == 1:
        yield f"Mean PSNR, {against.pop()}", _decibels(float(np.mean(found)))
    before, after = (sum(one.file_sizes[place] for one in done) for place in (0, 1))
    yield "Files", f"{memory(before)} → {memory(after)}"
    if seconds := [one.seconds for one in done if one.seconds is not None]:
        yield "Time", duration(sum(seconds))


def _images(shown: Sequence[ComparedImage]) -> str:
    if not shown:
        return ""
    is_small = max(max(one.sizes[1]) for one in shown) <= 256
    kind = " few" if len(shown) == 1 else " small" if is_small else ""
    return (
        f'<section><h2>Images</h2><div class="compared{kind}">{"".join(map(_image, shown))}</div></section>'
    )


def _image(one: ComparedImage) -> str:
    """Return an image before and after; the script puts one over the other."""
    assert one.shown is not None
    name, (before, after) = escape(one.name), one.shown
    width, height = one.sizes[1]
    crisp = " crisp" if max(width, height) <= 128 else ""
    pictures = "".join(
        f'<div class="{side.lower()}"><img loading="lazy" decoding="async" width="{width}" height="{height}" '
        f'alt="{name}, {side.lower()}" src="{source}"><span aria-hidden="true">{side}</span></div>'
        for side, source in (("After", after), ("Before", before))
    )
    numbers = "".join(f"<div><dt>{what}</dt><dd>{value}</dd></div>" for what, value in _numbers(one))
    return (
        f'<figure class="card"><div class="stage{crisp}" style="--ratio:{width / height:.4f}">{pictures}'
        f'<input type="range" min="0" max="100" value="50" aria-label="Before and after: {name}" '
        "hidden></div>"
        f"<figcaption><h3>{name}</h3><dl>{numbers}</dl></figcaption></figure>"
    )


def _numbers(one: ComparedImage) -> Iterator[tuple[str, str]]:
    measures, (before, after) = one.measures, [f"{width:,}×{height:,}" for width, height in one.sizes]
    yield "Mean change", _levels(measures.change)
    yield "Changed pixels", _share(measures.changed)
    if measures.psnr is not None:
        yield f"PSNR, {measures.against}", _decibels(measures.psnr)
    yield "Size", before if before == after else f"{before} → {after}"
    yield "File", " → ".join(memory(size) for size in one.file_sizes)
    if one.seconds is not None:
        yield "Time", duration(one.seconds) if one.seconds >= 0.1 else f"{1000 * one.seconds:.0f} ms"


def _left_out(reasons: Mapping[str, str], what: str) -> str:
    """Return a note on images that the page does not show, with their reasons."""
    if not reasons:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(reason)}</td></tr>'
        for name, reason in reasons.items()
    )
    files = "1 image was" if len(reasons) == 1 else f"{len(reasons):,} images were"
    table = f"<details><summary>Which, and why</summary><table><tbody>{rows}</tbody></table></details>"
    return f'<div class="note failed"><p><strong>{files} {what}.</strong></p>{table}</div>'


def _settings(results: CompareResults) -> str:
    rows = {name.replace("_", " ").capitalize(): _plain(value) for name, value in results.settings.items()}
    return f'<section><h2>Settings</h2><div class="card">{page.facts(rows)}</div></section>' if rows else ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _levels(change: float) -> str:
    return f"{change:.3g} of 255"


def _share(changed: float) -> str:
    return "none" if changed == 0 else f"{changed:.0%}" if changed >= 0.01 else "under 1%"


def _decibels(psnr: float) -> str:
    return f"{psnr:.1f} dB" if math.isfinite(psnr) else "identical"


def _psnr(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


def _differences(first: Values, second: Values) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield some rows at a time, and the differences of their values, with 1 from black to white."""
    channels = first.shape[2] if first.shape[2] == second.shape[2] else 4
    for top in range(0, len(first), _ROWS):
        rows = slice(top, top + _ROWS)
        yield rows, _unit(second[rows], channels) - _unit(first[rows], channels)


def _unit(values: Values, channels: int) -> NDArray[np.float32]:
    """Return values from 0 to 1, as RGBA where two images have different channels."""
    unit = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    if values.shape[2] == channels:
        return unit
    grey, has_alpha = values.shape[2] < 3, values.shape[2] in (2, 4)
    colours = unit[:, :, :1].repeat(3, axis=2) if grey else unit[:, :, :3]
    return np.concatenate([colours, unit[:, :, -1:] if has_alpha else np.ones_like(unit[:, :, :1])], axis=2)


def _placed(before: Values, shape: tuple[int, ...], offset: tuple[int, int]) -> Values:
    """Return an image on a transparent sheet, of the size of an output with more pixels around it."""
    (height, width), (left, top), most = before.shape[:2], offset, np.iinfo(before.dtype).max
    colour = before.shape[2] >= 3
    sheet = np.zeros((*shape, 4 if colour else 2), before.dtype)
    part = sheet[top : top + height, left : left + width]
    part[:, :, -1] = most
    part[:, :, : before.shape[2]] = before
    return sheet


def _eight_bits(
    values: Values, bounds: Range | None = (0.0, 65535.0), size: tuple[int, int] | None = None
) -> Pixels:
    if values.dtype == np.uint8:
        return images.conform(cast(Pixels, values), size=size, alpha="keep", fit="stretch")
    deep = image_files.convert(Deep(values), size=size, alpha="keep", fit="stretch", range=bounds)
    return cast(Pixels, deep)


def _small(values: Values, bounds: Range | None, most: int) -> Pixels:
    """Return a copy for the page, scaled down where it is larger than `most`."""
    height, width = values.shape[:2]
    scale = most / max(height, width, most)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return _eight_bits(values, bounds, size)


def _data_url(pixels: Pixels, marks: Marks | None = None) -> str:
    format = "png" if pixels.shape[0] * pixels.shape[1] <= _EXACT else "webp"
    content = images.encode(pixels, format, quality=86, marks=marks)
    return page.data_url(content, format)
