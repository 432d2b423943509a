"""The geometry of masks: which part of a picture a model sees, and how the result is put back."""

from danqing import images
from danqing.editing import windows
from danqing.editing.windows import Mask as Mask
from danqing.editing.windows import resize_mask as resize_mask
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import Pixels
from danqing.service.errors import invalid

MOST_WINDOWS = 256
"""Windows of one edit; extreme shapes of pictures and scattered masks would take thousands."""


def window_of(where: Mask, offer: Offer) -> tuple[slice, slice] | None:
    """Return the largest window with the model's aspect ratio around a mask.

    where: bool `[h, w]`, true where to fill. The window is the whole picture if that is nearly the same.
    None if no such window contains the mask.
    """
    width, height = windows.largest_window((where.shape[1], where.shape[0]), (offer.width, offer.height))
    window = windows.around(where, (width, height))
    return None if window is None else window.slices


def check_windows(count: int, offer: Offer, param: str) -> None:
    """Raise ApiError if an edit takes too many windows.

    count: how many there are; beyond `MOST_WINDOWS` they need not be counted.
    """
    if count > MOST_WINDOWS:
        message = (
            f"{offer.name} sees windows of the shape {offer.width}x{offer.height}, and would need over "
            f"{MOST_WINDOWS} here: crop the picture, or send a mask in fewer parts."
        )
        raise invalid(message, param)


def lay_into(picture: Pixels, where: Mask, window: tuple[slice, slice], painted: Pixels) -> list[Pixels]:
    """Put painted pictures into the sent picture, at its size.

    picture: uint8 `[h, w, c]`.
    where: bool `[h, w]`; every pixel outside it stays unchanged.
    window: the part of the picture that was painted.
    painted: uint8 `[n, h, w, c]`, at the model's size.
    """
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
