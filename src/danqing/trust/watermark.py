"""The invisible watermark: a mark in the pixels that survives new encoding, other sizes and crops.

`embed` adds weak cosines whose signs follow from a secret key and from a number, which says which entry of
the registry belongs to the image. `detect` finds them with the key alone, and answers with a p-value: the
probability that an image without this key's mark looks at least as marked. `watermark_search` computes it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.trust import carriers, extractor, watermark_search
from danqing.trust.carriers import FORMATS, LARGE, SMALL, Floats, Format
from danqing.trust.watermark_key import WatermarkKey

SMALLEST_SIDE = 32
"""Images with a shorter side are not marked."""
PSNR = {SMALL: (38.12, 38.12), LARGE: (38.12, 46.0)}
"""Peak signal-to-noise ratio of the marked pixels of busy and of calm images, in dB, before rounding."""
_BUSY, _CALM = 12.0, 2.0
"""The mean local deviation of busy and of calm images, in levels."""
RELIABLE = 1e-4
"""The largest p-value at which a detection names the number."""
CERTAIN = 0.99
"""The least probability at which a detection names the number."""
_SURE = 1e-12
"""At this p-value the other format is not tried."""
_KEPT = 1e-6
"""A mark in a part of an image is kept where it is detected with at most this p-value."""
_LARGEST_GAIN = 1.4
"""How much stronger a mark may get because part of it was cut off at black or white."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SHAPE = {SMALL: (0.3, 0.4, 2.5), LARGE: (0.7, 0.25, 3.0)}
"""The mark's strength is this power of the local deviation, within limits, relative to its mean."""
_LEAST_ACTIVITY = np.float32(4)


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found in an image.

    p_value: the probability that an image without this key's mark looks at least as marked, at most 1.
    number: what the mark carries, modulo 2**bits; None where the p-value is above `RELIABLE`, or the number
        is less than `CERTAIN` to be the right one.
    bits: of the number, 24 or 48; 0 without one.
    """

    p_value: float
    number: int | None = None
    bits: int = 0


def format_of(height: int, width: int) -> Format:
    """Return the format of the mark for an image of a size.

    It has 48 bits if both sides have at least 128 pixels, and 24 bits otherwise.
    """
    return LARGE if min(height, width) >= LARGE.grid else SMALL


def embed(
    pixels: NDArray[Any], number: int, *, key: WatermarkKey, where: NDArray[np.bool_] | None = None
) -> NDArray[Any] | None:
    """Embed a number into an image, invisibly.

    pixels: uint8 or uint16 `[h, w, c]` with 1 to 4 channels. Transparency is kept, and transparent pixels are
        not changed.
    number: which entry of the registry the image has. A large image carries its lowest 48 bits, an image with
        a side below 128 pixels its lowest 24 bits.
    where: bool `[h, w]`, the pixels that may change; by default all.
    Returns the marked image. Returns None where the mark would not be detected: a side is shorter than
    `SMALLEST_SIDE`, or too few pixels may change.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise ValueError(f"expected uint8 or uint16 [h, w, 1 to 4], got {pixels.dtype} {pixels.shape}")
    height, width, channels = pixels.shape
    if where is not None and where.shape != (height, width):
        raise ValueError(f"expected a mask of {height}x{width}, got {where.shape}")
    if min(height, width) < SMALLEST_SIDE or (where is not None and not where.any()):
        return None
    form = format_of(height, width)
    unit = np.float32(np.iinfo(pixels.dtype).max / 255)
    change, activity = _change(pixels, carriers.signed(key.secret, form, number), form)
    is_whole = where is None
    if channels in (2, 4):
        opaque = pixels[:, :, -1] > 0
        is_whole = is_whole and bool(opaque.all())
        where = opaque if where is None else where & opaque
    if where is not None:
        change = change * where
    colours = pixels[:, :, : channels - 1 + channels % 2].astype(np.float32)
    if unit != 1:
        colours /= unit
    marked, share = _added(colours, change, _error(form, activity), where)
    if marked is None:
        return None
    del colours
    marked *= unit
    marked += np.float32(0.5)
    result = pixels.copy()
    result[:, :, : marked.shape[2]] = marked.astype(pixels.dtype)
    if (not is_whole or share < 0.5) and not _is_found(result, key, form, number):
        return None
    return result


def detect(pixels: NDArray[Any], key: WatermarkKey) -> Detection:
    """Find the mark of a key in an image.

    It is found in resized and cropped images too.

    pixels: uint8 or uint16 `[h, w, c]` with 1 to 4 channels. Crops are found that keep at least 50/64 of each
    side.
    """
    brightness = _brightness(np.asarray(pixels))
    if min(brightness.shape) < SMALLEST_SIDE // 4:
        return Detection(1.0)
    best = Detection(1.0)
    likely_first = sorted(FORMATS, key=lambda form: form != format_of(*brightness.shape))
    for form in likely_first:
        found = watermark_search.search(_estimate(brightness, form), key, form)
        p_value = min(1.0, len(FORMATS) * found.p_value)
        if p_value < best.p_value:
            is_reliable = p_value <= RELIABLE and found.certainty >= CERTAIN
            best = Detection(p_value, found.number if is_reliable else None, form.bits if is_reliable else 0)
        if p_value <= _SURE:
            break
    return best


def _is_found(pixels: NDArray[Any], key: WatermarkKey, form: Format, number: int) -> bool:
    """Whether the mark is detected in place, and its number is read."""
    found = watermark_search.in_place(estimate(pixels, form), key, form)
    return len(FORMATS) * found.p_value <= _KEPT and found.number == number % (1 << form.bits)


def estimate(pixels: NDArray[Any], form: Format) -> Floats:
    """Return the mark that an image seems to have.

    It is `[grid, grid]` and does not depend on a key. pixels: as of `detect`.
    """
    return _estimate(_brightness(np.asarray(pixels)), form)


def _estimate(brightness: Floats, form: Format) -> Floats:
    return extractor.extract(carriers.resized(brightness, form.grid, form.grid))


def _brightness(pixels: NDArray[Any]) -> Floats:
    """Return the luma of an image (BT.601, as in JPEG), on white, from 0 to 255."""
    values = pixels.astype(np.float32)
    if pixels.dtype == np.uint16:
        values /= 257
    channels = values.shape[2]
    luma = values[:, :, :3] @ _LUMA if channels >= 3 else values[:, :, 0]
    if channels in (2, 4):
        luma = 255 + (luma - 255) * (values[:, :, -1] / 255)
    return luma


def _error(form: Format, activity: float) -> float:
    """Return the root mean square error of a mark: calm images need less, and show more."""
    busy, calm = PSNR[form]
    share = math.log(max(activity, _CALM) / _CALM) / math.log(_BUSY / _CALM)
    return float(255 * 10 ** (-(calm + (busy - calm) * min(share, 1)) / 20))


def _change(pixels: NDArray[Any], signs: Floats, form: Format) -> tuple[Floats, float]:
    """Return the mark for an image, `[h, w]`, of no particular scale, and the mean local deviation.

    It is stronger where the image has details. It also weakens the image's own share of each cosine a
    little, because that disturbs the detection (M. Costa, "Writing on dirty paper", 1983: the writer knows
    the noise).
    """
    height, width, _ = pixels.shape
    place, learned = carriers.cells(form), extractor.learned()
    brightness = carriers.resized(_brightness(pixels), form.grid, form.grid)
    difference, deviation = extractor.details(brightness)
    basis = carriers.basis(form.grid, form.frequencies)
    own = (basis @ extractor.evened(difference, deviation) @ basis.T)[place.rows, place.columns]
    own /= math.sqrt(float(np.vdot(own, own)) / len(own) + 1e-3)
    spectrum = np.zeros((form.frequencies, form.frequencies), np.float32)
    spectrum[place.rows, place.columns] = (signs - learned.evasion * own) * carriers.at_cells(
        learned.amplitude, form
    )
    rows, columns = (carriers.basis(side, form.frequencies) for side in (height, width))
    change = _strength(deviation, form, height, width) * (rows.T @ (spectrum @ columns))
    return change, float(deviation.mean())


def _strength(deviation: Floats, form: Format, height: int, width: int) -> Floats:
    """Return how strong the mark may be at each pixel `[h, w]`, given the local deviation on a grid."""
    power, least, most = _SHAPE[form]
    strength = (deviation + _LEAST_ACTIVITY) ** np.float32(power)
    strength = np.clip(strength / strength.mean(), least, most)
    return np.clip(carriers.resized(strength, height, width), least, most)


def _added(
    colours: Floats, change: Floats, error: float, where: NDArray[np.bool_] | None
) -> tuple[Floats | None, float]:
    """Add a change to colours `[h, w, c]`, scaled so that `where` has a root mean square error.

    Returns the sum, and the share of the error that it reached; None if nothing may change.
    """
    count = change.size if where is None else int(where.sum())
    energy = float(np.vdot(change, change))
    if not energy:
        return None, 0.0
    change = change[:, :, None] * np.float32(error / math.sqrt(energy / count))
    marked = colours + change  # in place from here on: a photo has hundreds of megabytes as floats
    np.clip(marked, 0, 255, out=marked)
    reached = _rms(marked - colours, count) / error
    if reached < 0.99:
        gain = min(_LARGEST_GAIN, 1 / max(reached, 1e-3))
        np.add(colours, change * np.float32(gain), out=marked)
        np.clip(marked, 0, 255, out=marked)
        reached = _rms(marked - colours, count) / error
    return marked, reached


def _rms(change: Floats, count: int) -> float:
    return math.sqrt(float(np.vdot(change, change)) / (count * change.shape[2]))
