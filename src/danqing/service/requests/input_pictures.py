"""Reads the pictures of a request, and converts them to the size and channels of its model.

Only decoded pixels are passed on. A picture is kept as it was sent while its request waits, and decoded again
when the result is put into it: a small file may decode to many pixels.
"""

import asyncio
import base64
import binascii
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from danqing import image_files, images
from danqing.editing import files, windows
from danqing.editing.contract import Values
from danqing.editing.masks import grown
from danqing.errors import DataError
from danqing.image_files import Range
from danqing.options import Verb
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import NO_BORDERS, WHOLE, Painting, Pixels, WholeImage, pack
from danqing.service.errors import ApiError, invalid
from danqing.service.pictures.encoding import Format
from danqing.service.requests import archives, masks, outbound, schemas
from danqing.service.requests.forms import Uploads
from danqing.service.requests.masks import Mask
from danqing.service.settings import Limits, Settings

FORMATS = ("PNG", "JPEG", "WEBP")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
_SLICE = 1024**2  # characters of base64 that are decoded at once


@dataclass(frozen=True, slots=True)
class PreparedPictures:
    """The pictures of a request in the form that its model takes.

    images: uint8 `[n, h, w, c]`, at the model's size; None for a picture that is edited at its own size.
    masks: bool `[n, h, w]`, true where to paint; None for variations.
    whole: the picture that is edited at its own size.
    size: (width, height) of the answer by default; None for the model's own.
    compose: makes the pictures to return from those that were painted; None if they are the same.
    pictures: how many were sent.
    alpha: whether the pictures of the answer have an alpha channel.
    """

    images: Pixels | None
    masks: Mask | None
    size: tuple[int, int] | None
    compose: Callable[[Painting], Sequence[Painting]] | None
    pictures: int
    alpha: bool
    whole: WholeImage | None = None


def check_count(fields: schemas.Edit | schemas.Variation, offer: Offer, count: int) -> None:
    """Raise ApiError unless there is one picture, and any required label."""
    if isinstance(fields, schemas.Variation) and offer.labels and fields.label is None:
        message = f"{offer.name} was trained with labels: say by label what the picture shows."
        raise invalid(message, "label", "missing_required_parameter")
    if not count:
        raise invalid("image is missing: send the picture.", "image", "missing_required_parameter")
    if count > 1:
        message = f"{offer.name} works on one picture at a time: send one, not {count}."
        raise invalid(message, "image")


async def read(fields: schemas.Edit | schemas.Variation, settings: Settings, held: HeldBytes) -> Uploads:
    """Read the pictures that a JSON request holds or points to.

    Raises ApiError.
    """
    found = [
        await read_one(reference, f"images.{number}", settings, held)
        for number, reference in enumerate(fields.images or ())
    ]
    reference = fields.mask if isinstance(fields, schemas.Edit) else None
    mask = None if reference is None else await read_one(reference, "mask", settings, held)
    return Uploads(tuple(found), mask)


def prepare(
    fields: schemas.Edit | schemas.Variation, verb: Verb, offer: Offer, sent: Uploads, limits: Limits
) -> PreparedPictures:
    """Decode the pictures of a request, and resize them for the model.

    A picture that is edited at its own size is only checked. Raises ApiError.
    """
    content, mask, n = sent.images[0], sent.mask, fields.n or 1
    if verb == "fill":
        return _filled(content, mask, offer, n, limits, fields)
    if mask is not None:
        where = "Variations take" if verb == "vary" else f"{offer.name} edits whole pictures, and takes"
        advice = ": send it to /v1/images/edits" if verb == "vary" else ": leave it out"
        raise invalid(f"{where} no mask{advice}.", "mask")
    for name in ("expand", "grow", "feather"):
        if getattr(fields, name, None) is not None:
            message = f"{offer.name} edits whole pictures, and has no {name}: leave it out."
            raise invalid(message, name, "unsupported_parameter")
    if verb in WHOLE or fields.size == "input" or fields.output_format == "input":
        return _whole(content, verb, offer, n, limits, fields)
    return _varied(content, offer, n, limits)


def format_of(content: bytes) -> Format:
    """Return the format of a file that `check` has accepted."""
    return "png" if content[:1] == b"\x89" else "jpeg" if content[:1] == b"\xff" else "webp"


def check(content: bytes, limits: Limits, param: str) -> tuple[int, int]:
    """Return the (width, height) of a picture.

    Raises ApiError unless it is a still picture within the limits. Only its header is read.
    """
    if not content:
        raise ApiError(400, "The file is empty.", param=param, code="empty_image_file")
    if len(content) > limits.file_bytes:
        message = f"The file has over {limits.file_bytes:,} bytes: shrink the picture first."
        raise ApiError(400, message, param=param, code="image_file_too_large")
    if content.startswith(archives.SIGNATURE):
        message = "A zip of pictures is edited as a job: send it to /v1/jobs."
        raise ApiError(400, message, param=param, code="invalid_image_format")
    known = content.startswith(_SIGNATURES) and (content[:4] != b"RIFF" or content[8:12] == b"WEBP")
    if not known:
        message = "The file is not a png, jpeg or webp: convert it to one of them."
        raise ApiError(400, message, param=param, code="invalid_image_format")
    try:
        with image_files.opened(content, max_pixels=None, formats=FORMATS) as picture:
            width, height = picture.size
            frames = 1 if picture.format in ("JPEG", "MPO") else getattr(picture, "n_frames", 1)
    except DataError as error:
        raise ApiError(400, str(error), param=param, code="image_parse_error") from None
    except Exception:  # counting frames, Pillow's decoders raise anything on hostile input
        message = "The picture cannot be read: send a complete file."
        raise ApiError(400, message, param=param, code="image_parse_error") from None
    if width > limits.side or height > limits.side or width * height > limits.pixels:
        message = (
            f"The picture has {width}x{height} pixels: a side may have {limits.side}, and all together "
            f"{limits.pixels:,}."
        )
        raise ApiError(400, message, param=param, code="image_too_large")
    if frames > 1:
        message = f"The picture has {frames} frames: send a still picture."
        raise ApiError(400, message, param=param, code="invalid_image")
    return width, height


def decoded(content: bytes, limits: Limits, param: str, range: Range | None) -> Pixels:
    """Decode a picture as uint8 `[h, w, c]` with its own channels.

    range: that of the model.
    """
    check(content, limits, param)
    try:
        return image_files.decode(
            content, alpha="keep", range=range, max_pixels=limits.pixels, max_bytes=limits.file_bytes
        )
    except DataError as error:
        raise ApiError(400, str(error), param=param, code="image_parse_error") from None


def _values(content: bytes, limits: Limits, offer: Offer, *, keeps_file: bool) -> Values:
    """Decode a picture `[h, w, c]`, as its own file has it or as uint8 in sRGB."""
    if not keeps_file:
        return decoded(content, limits, "image", offer.range)
    check(content, limits, "image")
    try:
        return files.read(content)[0]
    except DataError as error:
        raise ApiError(400, str(error), param="image", code="image_parse_error") from None


def _whole(
    content: bytes,
    verb: Verb,
    offer: Offer,
    n: int,
    limits: Limits,
    fields: schemas.Edit | schemas.Variation,
) -> PreparedPictures:
    """Prepare a picture that is edited at its own size, without a mask."""
    keeps_file = fields.output_format == "input"
    picture = _values(content, limits, offer, keeps_file=keeps_file)
    height, width = picture.shape[:2]
    scale = offer.scale if verb == "translate" else 1
    _check_size(fields, (width, height), scale)
    _check_pixels(n, width * scale, height * scale, limits)
    if verb in ("vary", "relabel") or (
        verb == "translate" and scale == 1 and offer.task != "enhance" and not _is_fine(fields)
    ):
        rows = windows.grid((width, height), (offer.width, offer.height))
        masks.check_windows(len(rows) * len(rows[0]), offer, "image")
    alpha = offer.channels in (2, 4) if verb in WHOLE else False
    return PreparedPictures(
        images=None,
        masks=None,
        size=(width, height) if fields.size == "input" else (width * scale, height * scale),
        compose=None,
        pictures=1,
        alpha=alpha or picture.shape[2] in (2, 4),
        whole=WholeImage(content, (width, height), None, keeps_file, _is_fine(fields)),
    )


def _is_fine(fields: schemas.Edit | schemas.Variation) -> bool:
    return isinstance(fields, schemas.Edit) and fields.input_fidelity == "high"


def _check_size(fields: schemas.Edit | schemas.Variation, sent: tuple[int, int], scale: int = 1) -> None:
    """Raise ApiError if a file that is returned in its own format has to be resized."""
    own = f"{sent[0] * scale}x{sent[1] * scale}"
    same = (None, "auto", own, *(["input"] if scale == 1 else []))
    if fields.output_format == "input" and fields.size not in same:
        message = f"A file that is returned in its own format has {own} pixels: leave size out."
        raise invalid(message, "size")


def _check_pixels(n: int, width: int, height: int, limits: Limits) -> None:
    """Raise ApiError unless so many pictures of a size are within the limits."""
    if n * width * height > limits.pixels:
        message = (
            f"{n} pictures of {width}x{height} are more than {limits.pixels:,} pixels: request fewer, or "
            "send a smaller one."
        )
        raise invalid(message, "n")


def _varied(content: bytes, offer: Offer, n: int, limits: Limits) -> PreparedPictures:
    """Prepare the centre of a picture, cropped to the model's aspect ratio."""
    picture = decoded(content, limits, "image", offer.range)
    size = (offer.width, offer.height)
    pixels = images.conform(picture, size=size, channels=offer.channels, fit="crop")
    return PreparedPictures(np.repeat(pixels[None], n, axis=0), None, None, None, 1, offer.channels in (2, 4))


def _filled(
    content: bytes,
    mask: bytes | None,
    offer: Offer,
    n: int,
    limits: Limits,
    fields: schemas.Edit | schemas.Variation,
) -> PreparedPictures:
    """Prepare a picture as the model sees it, the part to fill, and how to put the result back.

    With `input_fidelity` high, in the form of its own file, or where one window does not show the whole mask,
    the model fills it at its own size.
    """
    keeps_file = fields.output_format == "input"
    is_fine = _is_fine(fields)
    borders, feather = _borders(fields)
    picture, own = _to_edit(
        content, mask, offer, limits, keeps_file=keeps_file, may_be_empty=borders != NO_BORDERS
    )
    left, top, right, bottom = borders
    height, width = own.shape[0] + top + bottom, own.shape[1] + left + right
    if max(height, width) > limits.side:
        message = f"The result would have {width}x{height} pixels: a side may have {limits.side}."
        raise invalid(message, "expand")
    _check_pixels(n, width, height, limits)
    where = np.pad(own, ((top, bottom), (left, right)), constant_values=True)
    if grow := (fields.grow or 0) if isinstance(fields, schemas.Edit) else 0:
        where = grown(where, grow)
        own = where[top : height - bottom, left : width - right]
    window = masks.window_of(where, offer)
    if keeps_file or is_fine or window is None or grow or feather or borders != NO_BORDERS:
        _check_size(fields, (width, height))
        steps = windows.plan(where, (offer.width, offer.height))
        count = sum(1 for _ in itertools.islice(steps, masks.MOST_WINDOWS + 1))
        masks.check_windows(count, offer, "image" if mask is None else "mask")
        has_alpha = picture.shape[2] in (2, 4)
        alpha = has_alpha and (
            offer.channels in (2, 4) or bool((picture[:, :, -1][~own] < np.iinfo(picture.dtype).max).any())
        )
        return PreparedPictures(
            images=None,
            masks=None,
            size=(width, height),
            compose=None if keeps_file or alpha or not has_alpha else _without_alpha,
            pictures=1,
            alpha=alpha or (has_alpha and keeps_file),
            whole=WholeImage(content, own.shape[::-1], pack(own), keeps_file, is_fine, borders, feather),
        )
    assert picture.dtype == np.uint8
    seen, covered = cast(Pixels, picture[window]), where[window]
    if mask is None and not covered.all():  # colours that an editor left under transparency have no meaning
        seen = seen.copy()
        seen[covered] = seen[~covered].mean(axis=0).round().astype(np.uint8)
    size = (offer.width, offer.height)
    pixels = images.conform(seen, size=size, channels=offer.channels, fit="stretch")
    transparent = picture.shape[2] in (2, 4) and bool((picture[:, :, -1][~where] < 255).any())
    return PreparedPictures(
        images=np.repeat(pixels[None], n, axis=0),
        masks=np.repeat(masks.resize_mask(covered, size)[None], n, axis=0),
        size=(width, height),
        compose=functools.partial(_composed, content, mask, window, offer, limits),
        pictures=1,
        alpha=transparent or offer.channels in (2, 4),
    )


def _borders(fields: schemas.Edit | schemas.Variation) -> tuple[tuple[int, int, int, int], int]:
    """Return the pixels to add on each side, and those over which the fill becomes visible."""
    if not isinstance(fields, schemas.Edit):
        return NO_BORDERS, 0
    if fields.borders != NO_BORDERS and fields.size == "input":
        raise invalid("expand makes the picture larger than the one that is sent: leave size out.", "size")
    return fields.borders, fields.feather or 0


def _without_alpha(painted: Painting) -> list[Painting]:
    """Return pictures `[n, h, w, c]` in which nothing is transparent without their alpha channel."""
    return [one[:, :, :-1] for one in painted]


def _to_edit(
    content: bytes,
    mask: bytes | None,
    offer: Offer,
    limits: Limits,
    *,
    keeps_file: bool = False,
    may_be_empty: bool = False,
) -> tuple[Values, Mask]:
    """Return a picture `[h, w, c]` and where to paint, `[h, w]`.

    That is where the mask, or else the picture, is fully transparent.

    may_be_empty: whether nothing of the picture itself need be painted.
    """
    picture = _values(content, limits, offer, keeps_file=keeps_file)
    sheet, param = (picture, "image") if mask is None else (decoded(mask, limits, "mask", None), "mask")
    if sheet.shape[:2] != picture.shape[:2]:
        sizes = [f"{one.shape[1]}x{one.shape[0]}" for one in (sheet, picture)]
        raise invalid(f"The mask has {sizes[0]} pixels and the picture {sizes[1]}: make them equal.", "mask")
    if sheet.shape[2] in (1, 3):
        if mask is None and may_be_empty:
            return picture, np.zeros(picture.shape[:2], np.bool_)
        message = "The mask has no alpha channel: make it transparent where the model should paint."
        if mask is None:
            message = "Send a mask, or a picture, that is transparent where the model should paint."
        raise ApiError(400, message, param="mask", code="invalid_image_mode")
    where = sheet[:, :, -1] == 0
    if not where.any() and not may_be_empty:
        raise invalid("No pixel is fully transparent: nothing would be painted.", param)
    return picture, where


def _composed(
    content: bytes,
    mask: bytes | None,
    window: tuple[slice, slice],
    offer: Offer,
    limits: Limits,
    painted: Painting,
) -> list[Pixels]:
    """Put painted pictures into the picture that was sent, decoded again."""
    picture, where = _to_edit(content, mask, offer, limits)
    assert picture.dtype == painted.dtype == np.uint8
    return masks.lay_into(cast(Pixels, picture), where, window, cast(Pixels, painted))


async def read_one(reference: schemas.Reference, param: str, settings: Settings, held: HeldBytes) -> bytes:
    """Read a picture that a JSON request holds or points to.

    Raises ApiError.
    """
    if reference.file_id is not None:
        message = "This service stores no files: send the picture as image_url, a data URL."
        raise ApiError(400, message, param=f"{param}.file_id", code="image_file_not_found")
    url, param, limits = reference.image_url, f"{param}.image_url", settings.limits
    if url is None:
        raise invalid("image_url is missing: send a data URL with the picture.", param)
    if is_data_url(url):
        return await _unpacked(url, limits, param, held)
    allowed, seconds = settings.outbound.pictures, settings.outbound.seconds
    try:
        if not allowed:
            raise outbound.AddressError(
                "This service does not fetch pictures: send the picture as a data URL."
            )
        return await outbound.get(url, allowed, most=limits.file_bytes, seconds=seconds, on_bytes=held.hold)
    except outbound.AddressError as error:
        raise ApiError(400, str(error), param=param, code="invalid_image_url") from None


def is_data_url(url: str) -> bool:
    """Return whether an address is a data URL."""
    return url[:5].lower() == "data:"


async def _unpacked(url: str, limits: Limits, param: str, held: HeldBytes) -> bytes:
    """Decode a data URL."""
    start = url.find(",", 0, 201) + 1
    if not start or not url[: start - 1].lower().endswith(";base64"):
        message = "The data URL is not of the form data:image/png;base64,..."
        raise ApiError(400, message, param=param, code="invalid_image_url")
    if len(url) - start > limits.file_bytes * 4 // 3 + 4:
        message = f"The file has over {limits.file_bytes:,} bytes: shrink the picture first."
        raise ApiError(400, message, param=param, code="image_file_too_large")
    held.hold((len(url) - start) * 3 // 4)
    parts: list[tuple[bytes, bool]] = []
    rest = ""
    try:
        for at in range(start, len(url), _SLICE):
            if parts:
                await asyncio.sleep(0)  # let other requests run
            piece = rest + "".join(url[at : at + _SLICE].split())  # many encoders break lines
            whole = len(piece) if at + _SLICE >= len(url) else len(piece) // 4 * 4
            piece, rest = piece[:whole], piece[whole:]
            if piece and parts and parts[-1][1]:
                raise ValueError("padding within")
            parts.append((base64.b64decode(piece, validate=True), piece.endswith("=")))
        return b"".join(part for part, _ in parts)
    except (binascii.Error, ValueError):
        message = "The data URL does not hold valid base64."
        raise ApiError(400, message, param=param, code="invalid_base64_image") from None
