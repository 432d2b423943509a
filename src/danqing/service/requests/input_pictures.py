"""The pictures that a request brings: from a form, in JSON or from an allowed address, to what a model takes.

Only decoded pixels go on from here. A picture that waits for its painting is kept as it was sent, and decoded
once more when the painting is laid into it: what a small file may unfold to is not held meanwhile.
"""

import asyncio
import base64
import binascii
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing import images
from danqing.errors import DataError
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.engine.orders import Offer, Pixels
from danqing.service.errors import ApiError, invalid
from danqing.service.requests import outbound as fetch
from danqing.service.requests import schemas as wire
from danqing.service.requests.json_bodies import Uploads
from danqing.service.settings import Limits, Settings

FORMATS = ("PNG", "JPEG", "WEBP")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
_SLICE = 1024**2  # characters of base64 that are read at once, a multiple of four
_NEARLY_WHOLE = 0.98

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Given:
    """What a request brings, one row per picture to paint.

    images: at the model's size, `[n, h, w, c]`. masks: where to paint, `[n, h, w]`. size: (width, height) of
    the answer where the request leaves it open; None is the model's own. compose: lays what was painted into
    the picture that was sent, at its size; None where there is nothing to lay it into. pictures: how many
    were sent. alpha: whether those of the answer have an alpha channel.
    """

    images: Pixels
    masks: Mask | None
    size: tuple[int, int] | None
    compose: Callable[[Pixels], Sequence[Pixels]] | None
    pictures: int
    alpha: bool


def check_count(fields: wire.Edit | wire.Variation, offer: Offer, count: int) -> None:
    """Raise ApiError where a request to edit or vary does not bring one picture, with its label if needed."""
    if isinstance(fields, wire.Variation) and offer.labels and fields.label is None:
        message = f"{offer.name} was trained with labels: say by label what the picture shows."
        raise invalid(message, "label", "missing_required_parameter")
    if not count:
        raise invalid("image is missing: send the picture.", "image", "missing_required_parameter")
    if count > 1:
        message = f"{offer.name} works on one picture at a time: send one, not {count}."
        raise invalid(message, "image")


async def read(fields: wire.Edit | wire.Variation, settings: Settings, held: HeldBytes) -> Uploads:
    """Read the pictures that a JSON request holds or points to; raises ApiError."""
    found = [
        await _content(reference, f"images.{number}", settings, held)
        for number, reference in enumerate(fields.images or ())
    ]
    reference = fields.mask if isinstance(fields, wire.Edit) else None
    mask = None if reference is None else await _content(reference, "mask", settings, held)
    return Uploads(tuple(found), mask)


def prepare(fields: wire.Edit | wire.Variation, offer: Offer, sent: Uploads, limits: Limits) -> Given:
    """Decode the pictures of a request and bring them to the model's size; raises ApiError."""
    make = _varied if isinstance(fields, wire.Variation) else _edited
    return make(sent.images[0], sent.mask, offer, fields.n or 1, limits)


def check(content: bytes, limits: Limits, param: str) -> None:
    """Raise ApiError for what is no still picture under the limits, by its first bytes and its header."""
    if not content:
        raise ApiError(400, "The file is empty.", param=param, code="empty_image_file")
    if len(content) > limits.file_bytes:
        message = f"The file has over {limits.file_bytes:,} bytes: shrink the picture first."
        raise ApiError(400, message, param=param, code="image_file_too_large")
    known = content.startswith(_SIGNATURES) and (content[:4] != b"RIFF" or content[8:12] == b"WEBP")
    if not known:
        message = "The file is none of png, jpeg and webp: convert it to one of them."
        raise ApiError(400, message, param=param, code="invalid_image_format")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            frames = 1 if picture.format in ("JPEG", "MPO") else getattr(picture, "n_frames", 1)
    except Exception:  # Pillow's decoders raise whatever they like on hostile input
        message = "The picture cannot be read: send a whole file."
        raise ApiError(400, message, param=param, code="image_parse_error") from None
    if width > limits.side or height > limits.side or width * height > limits.pixels:
        message = (
            f"The picture has {width}x{height} pixels: a side may have {limits.side}, and all together "
            f"{limits.pixels:,}."
        )
        raise ApiError(400, message, param=param, code="image_too_large")
    if frames > 1:
        message = f"The picture has {frames} frames: send a still one."
        raise ApiError(400, message, param=param, code="invalid_image")


def _decoded(content: bytes, limits: Limits, param: str) -> Pixels:
    """A picture uint8 `[h, w, c]` with the channels that it has."""
    check(content, limits, param)
    try:
        return images.decode(content, alpha="keep", max_pixels=limits.pixels, max_bytes=limits.file_bytes)
    except DataError:
        message = "The picture cannot be decoded: send a whole file."
        raise ApiError(400, message, param=param, code="image_parse_error") from None


def _varied(content: bytes, mask: bytes | None, offer: Offer, n: int, limits: Limits) -> Given:
    """The middle of a picture, in the shape that the model paints."""
    if mask is not None:
        raise invalid("There is no mask in variations: /v1/images/edits takes one.", "mask")
    picture = _decoded(content, limits, "image")
    size = (offer.width, offer.height)
    pixels = images.conform(picture, size=size, channels=offer.channels, fit="crop")
    return Given(np.repeat(pixels[None], n, axis=0), None, None, None, 1, offer.channels in (2, 4))


def _edited(content: bytes, mask: bytes | None, offer: Offer, n: int, limits: Limits) -> Given:
    """A picture as the model sees it, the part of it to paint anew, and the way back."""
    picture, where = _to_edit(content, mask, limits)
    height, width = where.shape
    if n * width * height > limits.pixels:
        message = (
            f"{n} pictures of {width}x{height} are more than {limits.pixels:,} pixels: ask for fewer, or "
            "send a smaller one."
        )
        raise invalid(message, "n")
    window = _window(where, offer)
    seen, covered = picture[window], where[window]
    if mask is None and not covered.all():  # what an editor left under the transparent part is no picture
        seen = seen.copy()
        seen[covered] = seen[~covered].mean(axis=0).round().astype(np.uint8)
    size = (offer.width, offer.height)
    pixels = images.conform(seen, size=size, channels=offer.channels, fit="stretch")
    transparent = picture.shape[2] in (2, 4) and bool((picture[:, :, -1][~where] < 255).any())
    return Given(
        images=np.repeat(pixels[None], n, axis=0),
        masks=np.repeat(_touched(covered, size)[None], n, axis=0),
        size=(width, height),
        compose=functools.partial(_composed, content, mask, window, limits),
        pictures=1,
        alpha=transparent or offer.channels in (2, 4),
    )


def _to_edit(content: bytes, mask: bytes | None, limits: Limits) -> tuple[Pixels, Mask]:
    """A picture `[h, w, c]`, and where to paint, `[h, w]`: where the mask, or else the picture, is fully
    transparent.
    """
    picture = _decoded(content, limits, "image")
    sheet, param = (picture, "image") if mask is None else (_decoded(mask, limits, "mask"), "mask")
    if sheet.shape[:2] != picture.shape[:2]:
        sizes = [f"{one.shape[1]}x{one.shape[0]}" for one in (sheet, picture)]
        raise invalid(f"The mask has {sizes[0]} pixels and the picture {sizes[1]}: make them equal.", "mask")
    if sheet.shape[2] in (1, 3):
        message = "The mask has no alpha channel: make it transparent where to paint."
        if mask is None:
            message = "Say where to paint: send a mask that is transparent there, or a picture that is."
        raise ApiError(400, message, param="mask", code="invalid_image_mode")
    where = sheet[:, :, -1] == 0
    if not where.any():
        raise invalid("Nothing is fully transparent: nothing would be painted.", param)
    return picture, where


def _window(where: Mask, offer: Offer) -> tuple[slice, slice]:
    """The largest part of a picture that has the shape of the model's and holds all that is to be painted;
    the whole where that is nearly the same.
    """
    height, width = where.shape
    part_width = min(width, max(1, round(height * offer.width / offer.height)))
    part_height = min(height, max(1, round(width * offer.height / offer.width)))
    if part_width >= _NEARLY_WHOLE * width and part_height >= _NEARLY_WHOLE * height:
        return slice(0, height), slice(0, width)
    rows = _around(np.asarray(where.any(axis=1)), part_height)
    columns = _around(np.asarray(where.any(axis=0)), part_width)
    if rows is None or columns is None:
        message = (
            f"{offer.name} paints pictures of {offer.width}x{offer.height}, and the mask reaches over more "
            f"than {part_width}x{part_height} of this one: crop the picture to that shape."
        )
        raise invalid(message, "mask")
    return rows, columns


def _around(touched: NDArray[np.bool_], length: int) -> slice | None:
    """So long a part of an axis that holds all that is touched, as near to the middle as can be."""
    places = np.flatnonzero(touched)
    first, end = int(places[0]), int(places[-1]) + 1
    if end - first > length:
        return None
    start = min(max((len(touched) - length) // 2, end - length), first)
    return slice(start, start + length)


def _touched(where: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another (width, height): true where any of the pixels that a new one stands for is."""
    for axis, count in ((0, size[1]), (1, size[0])):
        length = where.shape[axis]
        places = np.arange(count)
        starts, ends = places * length // count, -(-(places + 1) * length // count)
        sums = np.cumsum(where, axis=axis, dtype=np.int32)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        where = sums.take(ends, axis) > sums.take(starts, axis)
    return where


def _composed(
    content: bytes, mask: bytes | None, window: tuple[slice, slice], limits: Limits, painted: Pixels
) -> list[Pixels]:
    """What was painted, `[n, h, w, c]`, laid into the picture at its own size: every pixel outside of the
    mask is as it was sent.
    """
    picture, where = _to_edit(content, mask, limits)
    covered = where[window]
    kinds = (picture.shape[2], painted.shape[3])
    colour, alpha = max(kinds) >= 3, any(kind in (2, 4) for kind in kinds)
    channels = (3 if colour else 1) + alpha
    ground = images.conform(picture, channels=channels)
    laid = []
    for one in painted:
        patch = images.conform(
            one, size=(covered.shape[1], covered.shape[0]), channels=channels, fit="stretch"
        )
        whole = ground.copy()
        whole[window][covered] = patch[covered]
        opaque = alpha and kinds[1] in (1, 3) and bool((whole[:, :, -1] == 255).all())
        laid.append(whole[:, :, :-1] if opaque else whole)
    return laid


async def _content(reference: wire.Reference, param: str, settings: Settings, held: HeldBytes) -> bytes:
    if reference.file_id is not None:
        message = "There are no files here: give the picture as image_url, a data URL."
        raise ApiError(400, message, param=f"{param}.file_id", code="image_file_not_found")
    url, param, limits = reference.image_url, f"{param}.image_url", settings.limits
    if url is None:
        raise invalid("Give image_url: a data URL holds the picture itself.", param)
    if is_data_url(url):
        return await _unpacked(url, limits, param, held)
    allowed, seconds = settings.outbound.pictures, settings.outbound.seconds
    try:
        if not allowed:
            raise fetch.AddressError(
                "This service calls no addresses: send the picture itself, as a data URL."
            )
        return await fetch.get(url, allowed, most=limits.file_bytes, seconds=seconds, on_bytes=held.hold)
    except fetch.AddressError as error:
        raise ApiError(400, str(error), param=param, code="invalid_image_url") from None


def is_data_url(url: str) -> bool:
    """Whether an address holds the picture itself."""
    return url[:5].lower() == "data:"


async def _unpacked(url: str, limits: Limits, param: str, held: HeldBytes) -> bytes:
    """The content of a data URL."""
    start = url.find(",", 0, 201) + 1
    if not start or not url[: start - 1].lower().endswith(";base64"):
        message = "The data URL is not of the form data:image/png;base64,..."
        raise ApiError(400, message, param=param, code="invalid_image_url")
    if len(url) - start > limits.file_bytes * 4 // 3 + 4:
        message = f"The file has over {limits.file_bytes:,} bytes: shrink the picture first."
        raise ApiError(400, message, param=param, code="image_file_too_large")
    held.hold((len(url) - start) * 3 // 4)
    parts: list[tuple[bytes, bool]] = []
    try:
        for at in range(start, len(url), _SLICE):
            if parts:
                await asyncio.sleep(0)  # others have their turn
                if parts[-1][1]:
                    raise ValueError("padding within")
            piece = url[at : at + _SLICE]
            parts.append((base64.b64decode(piece, validate=True), piece.endswith("=")))
        return b"".join(part for part, _ in parts)
    except (binascii.Error, ValueError):
        message = "What follows base64, in the data URL is no base64."
        raise ApiError(400, message, param=param, code="invalid_base64_image") from None
