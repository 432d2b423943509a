"""The pixels of an image as its codes: a tokenizer that has nothing to learn and loses nothing."""

from torch import Tensor, nn

from danqing.images import to_float, to_uint8

LEVELS = 256


class PixelCodes(nn.Module):
    """Each 8-bit value of an image is a code, the channels of a pixel one after another: a `Tokenizes`.

    What is made of images of other values than 8-bit ones is of the nearest.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.code_shape = (height, width, channels)
        self.vocabulary = LEVELS

    def tokenize(self, images: Tensor) -> Tensor:
        """Images `[n, c, h, w]` in [-1, 1] to codes int64 `[n, h, w, c]` in [0, 256)."""
        return to_uint8(images).long()

    def detokenize(self, codes: Tensor) -> Tensor:
        """Codes back to images, exactly."""
        return to_float(codes.byte())
