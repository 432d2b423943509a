"""Edits of images in memory, and the choice between images in memory and in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from danqing.editing import compare_page, files
from danqing.editing.batch import BatchResult, edit_files, edited, seed_of
from danqing.editing.contract import Edit, ImageToEdit, Values
from danqing.editing.inputs import Source, find
from danqing.editing.marks import made_by, marking_of
from danqing.errors import ConfigError, DataError
from danqing.image_files import DeepPixels, Range
from danqing.images import Images
from danqing.randomness import derived_seed
from danqing.requested import image_seeds
from danqing.trust.settings import MarkSettings

Array = NDArray[Any]

FILE_OPTIONS = (
    *("n", "strip", "dry_run", "sequence", "marks", "memory", "compare", "reference"),
    *("on_plan", "on_progress"),
)
"""The options of edits of files, besides those of the edit itself."""


def apply(
    edit: Edit,
    images: Images | Array | Source,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    value_range: Range | None = None,
    marks: str | MarkSettings | None = None,
    compare: str | Path | None = None,
    reference: Source | None = None,
    **options: Any,
) -> Images | Array | BatchResult:
    """Edit images in memory or in files.

    images: `Images`, or an array as `edit_array` takes it; otherwise files as `edit_files` takes them.
    out: the file, folder or zip for the results of files. Without it, one file becomes an array `[h, w, c]`.
    value_range: see `edit_array`.
    marks: which marks `Images` and files get; None reads `DANQING_MARKS`. An array has none.
    compare: the page to write that shows the files before and after; none after a dry run.
    reference: true images by the names of the inputs, for this page.
    options: of `edit_files`.
    Raises ConfigError if `out` or options are given with images in memory, if `out` is missing for several
    files, for a reference without a page, and for an unknown option.
    """
    image_seeds(0, seed, None)  # raises ConfigError for a negative one
    if unknown := [name for name in options if name not in (*FILE_OPTIONS, "extra")]:
        known = ", ".join(FILE_OPTIONS)
        raise ConfigError(f"{unknown[0]} is not an option: choose among {known}.", unknown[0])
    if reference is not None:
        if compare is None:
            raise ConfigError("reference is for the page of compare: name a page too.", "reference")
        find(reference)  # reports a mistake before the work
    if isinstance(images, Images | np.ndarray):
        places = {"out": out, "compare": compare}
        given = [*(name for name, place in places.items() if place is not None), *options]
        if given:
            message = f"{given[0]} is an option for files: leave it out for images in memory."
            raise ConfigError(message, given[0])
        return edit_array(edit, images, seed, value_range=value_range, marks=marks)
    if not isinstance(images, str | Path | Sequence):
        raise ConfigError(
            f"Images are arrays, Images or paths, not {type(images).__name__}: give its array, such as "
            "np.asarray(image)."
        )
    if out is not None:
        result = edit_files(edit, images, Path(out).expanduser(), seed=seed, marks=marks, **options)
        if compare is not None and not options.get("dry_run"):
            compared = compare_page.compare(edit, result, reference, marks=marks)
            compare_page.write_page(compared, Path(compare).expanduser())
        return result
    path = Path(images) if isinstance(images, str | Path) else None
    if path is None or not path.is_file() or options or compare is not None:
        raise ConfigError(
            "Say where the edited files go: out=, a file for one image or a folder for several."
        )
    values, _ = files.read(path.read_bytes())
    return edited(edit, ImageToEdit(values, seed_of(seed, path.name), path.name))


@overload
def edit_array(
    edit: Edit,
    images: Images,
    seed: int,
    *,
    value_range: Range | None = None,
    marks: str | MarkSettings | None = None,
) -> Images: ...
@overload
def edit_array(
    edit: Edit,
    images: Array,
    seed: int,
    *,
    value_range: Range | None = None,
    marks: str | MarkSettings | None = None,
) -> Array: ...
def edit_array(
    edit: Edit,
    images: Images | Array,
    seed: int,
    *,
    value_range: Range | None = None,
    marks: str | MarkSettings | None = None,
) -> Images | Array:
    """Edit images in memory.

    The result has the same kind and number type as the input. An image's own seed depends on `seed` and on
    its place.

    images: `Images`, or an array `[h, w]`, `[h, w, c]` with at most 4 channels, `[n, h, w]` or
        `[n, h, w, c]`. Values of uint8 and uint16 are used as they are. Others (floats and signed numbers, as
        readers of DICOM and NIfTI return them) are scaled to 16 bits and back; where the edit changes
        nothing, they stay exactly the same.
    value_range: the values that become black and white where values are scaled; by default the smallest and
        the largest. Values outside of it count as these ends.
    marks: as of `apply`.
    Raises DataError for another shape or type, and if the results differ in size.
    """
    if isinstance(images, Images):
        return _edited_images(edit, images, seed, marks)
    array = np.asarray(images)
    stack = _stacked(array)
    levels, bounds = (stack, None) if _are_levels(array) else _to_levels(stack, value_range)
    results = []
    for number, values in enumerate(levels):
        result: Array = edited(edit, _numbered(values, seed, number))
        results.append(result if bounds is None else _from_levels(result, values, stack[number], bounds))
    if len({result.shape for result in results}) > 1:
        raise DataError("The edited images differ in size: edit them one at a time.")
    joined = np.stack(results) if results else stack
    return _as_given(joined, array)


def _edited_images(edit: Edit, images: Images, seed: int, marks: str | MarkSettings | None) -> Images:
    """Edit images, with the marks of the edit on those that it changes."""
    array = edit_array(edit, images.array, seed)
    made = [_made(edit, _numbered(values, seed, n), array[n]) for n, values in enumerate(images.array)]
    if not any(where.any() for where in made):
        return Images(array, images.marks, images.changed)
    return Images(array, marking_of(edit, marks), np.stack(made))


def _made(edit: Edit, image: ImageToEdit, result: Values) -> NDArray[np.bool_]:
    """Return which pixels of a result the edit has made, `[h, w]`."""
    if np.array_equal(image.values, result):
        return np.zeros(result.shape[:2], np.bool_)
    where = made_by(edit, image, result)
    return np.ones(result.shape[:2], np.bool_) if where is None else where


def _numbered(values: Values, seed: int, number: int) -> ImageToEdit:
    return ImageToEdit(values, derived_seed(seed, "image", number))


def _stacked(array: Array) -> Array:
    """Return an array as `[n, h, w, c]`."""
    if array.ndim == 2:
        array = array[None, :, :, None]
    elif array.ndim == 3:
        array = array[None] if array.shape[2] <= 4 else array[:, :, :, None]
    if array.ndim != 4 or not 1 <= array.shape[3] <= 4 or array.dtype.kind not in "uif":
        raise DataError(
            f"An array of shape {list(array.shape)} and type {array.dtype} is not images: give numbers as "
            "[h, w], [h, w, c], [n, h, w] or [n, h, w, c], with 1 to 4 channels."
        )
    return array


def _as_given(stack: Array, given: Array) -> Array:
    """Remove the axes that `_stacked` has added."""
    has_channels = given.ndim == 4 or (given.ndim == 3 and given.shape[2] <= 4)
    if not has_channels and stack.shape[3] == 1:
        stack = stack[:, :, :, 0]
    return stack if given.ndim == 4 or (given.ndim == 3 and not has_channels) else stack[0]


def _are_levels(array: Array) -> bool:
    return array.dtype in (np.uint8, np.uint16)


def _to_levels(stack: Array, value_range: Range | None) -> tuple[DeepPixels, Range]:
    """Scale numbers of any type to uint16; also returns the values that became 0 and 65,535."""
    finite = stack[np.isfinite(stack)]
    low, high = value_range or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    high = high if high > low else low + 1
    unit = np.nan_to_num((stack.astype(np.float64) - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(unit.clip(0, 1) * 65535).astype(np.uint16), (low, high)


def _from_levels(result: Values, before: Values, given: Array, bounds: Range) -> Array:
    """Scale levels back; where a level has not changed, the number that was given stays."""
    low, high = bounds
    numbers = result.astype(np.float64) / 65535 * (high - low) + low
    if given.dtype.kind in "ui":
        limits = np.iinfo(given.dtype)
        numbers = np.round(numbers).clip(limits.min, limits.max)
    scaled = numbers.astype(given.dtype)
    return np.where(result == before, given, scaled) if result.shape == before.shape else scaled
