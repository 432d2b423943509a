"""The geometry of masks: which part of a picture a model sees, and how the result is put back."""

from danqing import images
from danqing.editing import windows
from danqing.editing.windows import Mask as Mask
from danqing.editing.windows import resize_mask as resize_mask
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import Pixels
from danqing.service.errors import invalid


def window_of(where: Mask, offer: Offer) -> tuple[slice, slice]:
    """Return the largest window with the model's aspect ratio around a mask.

    where: bool `[h, w]`, true where to paint. The window is the whole picture if that is nearly the same.
    Raises ApiError if no such window contains the mask.
    """
    width, height = windows.largest_window((where.shape[1], where.shape[0]), (offer.width, offer.height))
    window = windows.around(where, (width, height))
    if window is None:
        message = (
            f"{offer.name} paints pictures of {offer.width}x{offer.height}, and the mask reaches over more "
            f"than {width}x{height} of this one: crop the picture to that shape."
        )
        raise invalid(message, "mask")
    return window.slices


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
