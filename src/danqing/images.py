"""Pixels: 8 or 16 bits at every edge, `float32` in [-1, 1] inside. Only this module converts."""

import io
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor
from PIL.PngImagePlugin import PngInfo

from danqing import atomic
from danqing.errors import ConfigError, DataError, MarkWarning
from danqing.marks import Marked, Marks, write_sidecar
from danqing.sizes import Fit, resized

if TYPE_CHECKING:  # torch is imported where it is used: the processes that decode need none
    from torch import Tensor

Pixels = NDArray[np.uint8]
Alpha = Literal["flatten", "keep"]

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_CHECKER = 8
"""The side of a square of the board that is shown behind transparent images, in pixels."""
_SAVED = {"png": "PNG", "webp": "WEBP", "jpeg": "JPEG", "jpg": "JPEG"}


def to_float(images: "Tensor") -> "Tensor":
    """Convert images to float32 `[n, c, h, w]` in [-1, 1], channels-last.

    images: uint8 or uint16, `[n, h, w, c]` or `[n, c, h, w]`; a shape that could be either is read as the
    former. 0 becomes -1, and 255 or 65,535 becomes 1, exactly.
    """
    import torch

    half = {torch.uint8: 127.5, torch.uint16: 32767.5}.get(images.dtype)
    if half is None or images.ndim != 4:
        raise ValueError(f"expected uint8 or uint16 [n, h, w, c], got {images.dtype} {list(images.shape)}")
    if images.shape[-1] > 4:
        if images.shape[1] > 4:
            raise ValueError(f"expected 1 to 4 channels, got images of shape {list(images.shape)}")
        images = images.permute(0, 2, 3, 1).contiguous()
    return images.float().div_(half).sub_(1).permute(0, 3, 1, 2)


def to_uint8(images: "Tensor") -> "Tensor":
    """Turn floats in [-1, 1] into uint8 `[n, h, w, c]`.

    images: `[n, c, h, w]`. They are rounded, and values outside of the range are clamped.
    """
    import torch

    return _rounded(images, 127.5).to(torch.uint8).contiguous()


def pixels_of_floats(images: NDArray[np.float32]) -> Pixels:
    """Turn floats in [-1, 1] into uint8 `[n, h, w, c]`, without PyTorch.

    images: `[n, c, h, w]`, as of `to_uint8`.
    """
    levels = (images.transpose(0, 2, 3, 1).astype(np.float32) + np.float32(1)) * np.float32(127.5)
    pixels: Pixels = np.clip(np.nan_to_num(levels, nan=0.0) + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def floats_of_pixels(images: NDArray[Any], half: float = 127.5) -> NDArray[np.float32]:
    """Turn uint8 `[n, h, w, c]` into floats `[n, c, h, w]`, as `to_float` does without PyTorch.

    half: half of the highest value, 32767.5 for uint16.
    """
    floats = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(half) - np.float32(1)
    return np.ascontiguousarray(floats, dtype=np.float32)


def to_uint16(images: "Tensor") -> "Tensor":
    """Turn floats in [-1, 1] into uint16 `[n, h, w, c]`, as `to_uint8` does."""
    import torch

    return _rounded(images, 32767.5).to(torch.int32).to(torch.uint16).contiguous()


def _rounded(images: "Tensor", half: float) -> "Tensor":
    """Round to levels from 0 to twice `half`, as floats `[n, h, w, c]`; NaN becomes 0."""
    # A half is added and the rest cut off: round_ wakes all cores, however few the numbers, and then waits
    # for whichever is busy.
    levels = images.detach().float().permute(0, 2, 3, 1).add(1).mul_(half)
    return levels.nan_to_num_(0).add_(0.5).clamp_(0, 2 * half)


def eight_bits(values: NDArray[np.uint8] | NDArray[np.uint16]) -> Pixels:
    """Turn levels of 16 bits into 8 bits; keep those of 8."""
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint8, copy=False)


def with_channels(images: "Tensor", channels: int) -> "Tensor":
    """Convert floats `[n, c, h, w]` to a number of channels.

    Grey becomes each colour, and colours become their mean.
    An alpha channel is opaque where there was none.
    """
    import torch

    given = images.shape[1]
    if given == channels:
        return images
    colour = images[:, :3] if given >= 3 else images[:, :1]
    if channels <= 2:
        colour = colour.mean(1, keepdim=True)
    elif colour.shape[1] == 1:
        colour = colour.expand(-1, 3, -1, -1)
    if channels in (2, 4):
        alpha = images[:, -1:] if given in (2, 4) else torch.ones_like(images[:, :1])
        colour = torch.cat([colour, alpha], dim=1)
    return colour


def on_white(images: "Tensor") -> "Tensor":
    """Put colours with alpha on white.

    images: floats `[n, 2 or 4, h, w]` in [-1, 1]. Returns them without alpha.
    """
    opacity = (images[:, -1:] + 1) / 2
    return (images[:, :-1] - 1) * opacity + 1


def mean_outside(images: "Tensor", mask: "Tensor") -> "Tensor":
    """Return the mean of what a mask leaves of each image, `[n, c, 1, 1]`.

    images: floats `[n, c, h, w]`. mask: `[n, 1, h, w]`, 1 where pixels do not count.
    The mean of no pixels is 0.
    """
    seen = 1 - mask
    return (images * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True).clamp_min(1)


def parse_background(colour: str) -> tuple[int, int, int]:
    """Read a colour as red, green and blue; raises ConfigError.

    Examples are `#ffffff` and `white`.
    """
    try:
        red, green, blue = ImageColor.getrgb(colour)[:3]
    except ValueError as error:
        raise ConfigError(
            f"The background {colour!r} is not a colour: write it as '#rrggbb' or by an English name."
        ) from error
    return red, green, blue


def conform(
    image: Image.Image | Pixels,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
) -> Pixels:
    """Bring an image of 8 bits to a size and channels.

    The image is Pillow's or uint8 `[h, w, c]`. The arguments are those of `danqing.image_files.decode`.
    """
    if not isinstance(image, Image.Image):
        image = to_pil(image)
    transparent = image.has_transparency_data
    grey = image.mode in ("1", "L", "LA", "La")
    if channels == 0:
        channels = (1 if grey else 3) + (transparent and alpha == "keep")
    mode = MODES[channels]
    if transparent and channels in (1, 3):
        image = _on_background(image, background)
    if image.mode != mode:
        if mode == "LA" and image.mode not in ("1", "L"):
            image = image.convert("RGBA")
        image = image.convert(mode)
    if size is not None and image.size != size:
        image = resized(image, size, fit, _fill(image.mode, background))
    pixels: Pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def to_pil(pixels: Pixels) -> Image.Image:
    """Turn an image uint8 `[h, w, c]` into one of Pillow.

    Its mode is L, LA, RGB or RGBA.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in MODES:
        raise ValueError(f"expected uint8 [h, w, c] with 1 to 4 channels, got {pixels.dtype} {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def encode(
    image: Image.Image | Pixels,
    format: str = "png",
    *,
    quality: int = 90,
    background: str = "#ffffff",
    marks: Marks | None = None,
) -> bytes:
    """Encode an image as a png, webp or jpeg file.

    quality: of webp and jpeg, 1 to 100.
    background: what is put behind the image in jpeg, which has no transparency.
    marks: what the file says of the image; by default nothing. Warns of marks that it cannot have.
    """
    made = encode_marked(image, format, quality=quality, background=background, marks=marks)
    return _warned(made).content


def save(
    image: Image.Image | Pixels,
    path: Path,
    format: str = "",
    *,
    quality: int = 90,
    marks: Marks | None = None,
    where: NDArray[np.bool_] | None = None,
) -> None:
    """Write an image to a file atomically.

    Credentials that belong beside it are written to a file that ends in `.c2pa`; those of an image that is
    replaced are removed.

    format: by default as the ending of the path says, or png. where: as of `Marks.write`. Other arguments are
    those of `encode`.
    """
    chosen = format or path.suffix or "png"
    made = _warned(encode_marked(image, chosen, quality=quality, marks=marks, where=where))
    atomic.write_bytes(path, made.content)
    write_sidecar(path, made.sidecar)


def _warned(made: Marked) -> Marked:
    """Warn of the marks that a file does not have."""
    for note in made.notes:
        warnings.warn(note, MarkWarning, stacklevel=3)
    return made


def encode_marked(
    image: Image.Image | Pixels,
    format: str = "png",
    *,
    quality: int = 90,
    background: str = "#ffffff",
    marks: Marks | None = None,
    where: NDArray[np.bool_] | None = None,
    parent: bytes | None = None,
    xmp: bytes = b"",
    texts: Mapping[str, str] | None = None,
) -> Marked:
    """Encode an image with its marks.

    Returns also what belongs beside the file.

    where, parent: as of `Marks.write`. xmp: a packet for the file. texts: of a PNG file, by keyword. Other
    arguments are those of `encode`.
    """
    name = _SAVED.get(format.lower().lstrip("."))
    if name is None:
        raise ConfigError(f"Pictures cannot be saved as {format!r}: choose png, webp or jpeg.")
    if not isinstance(image, Image.Image):
        image = to_pil(image)
    if name == "JPEG" and image.has_transparency_data:
        image = _on_background(image, background)
    options: dict[str, Any] = {"PNG": {}, "WEBP": {"quality": quality}}.get(
        name, {"quality": quality, "subsampling": 0}
    )
    if marks is None:
        return Marked(_file(image, name, options, xmp, texts))
    pixels = conform(image, alpha="keep")

    def encoded(own: Pixels, packet: bytes) -> bytes:
        return _file(to_pil(own), name, options, packet, texts)

    return marks.write(pixels, encoded, xmp=xmp, where=where, parent=parent)


def _file(
    image: Image.Image,
    name: str,
    options: dict[str, Any],
    xmp: bytes = b"",
    texts: Mapping[str, str] | None = None,
) -> bytes:
    """Write an image as a file with an XMP packet and, in PNG, texts."""
    buffer = io.BytesIO()
    if name == "PNG" and (xmp or texts):
        chunks = PngInfo()
        if xmp:
            chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
        for keyword, text in (texts or {}).items():
            chunks.add_itxt(keyword, text)
        options = options | {"pnginfo": chunks}
    elif xmp:
        options = options | {"xmp": xmp}
    image.save(buffer, name, **options)
    return buffer.getvalue()


def grid_columns(count: int, width: int, height: int) -> int:
    """Return how many columns make a grid of images about square."""
    return min(count, max(1, round(math.sqrt(count * height / width))))


class Images:
    """Images of one size, uint8 `[n, h, w, c]`.

    They can be indexed, saved and shown.

    marks: what their files say of them; None for images that no model made.
    changed: bool `[n, h, w]`, the pixels that an edit has made; marks keep the others. None means all.
    """

    def __init__(
        self,
        array: "Pixels | Tensor",
        marks: Marks | None = None,
        changed: NDArray[np.bool_] | None = None,
    ) -> None:
        pixels = array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in MODES:
            raise ValueError(f"expected uint8 [n, h, w, c], got {pixels.dtype} {list(pixels.shape)}")
        self.array: Pixels = pixels
        self.marks, self.changed = marks, changed

    def __len__(self) -> int:
        return int(self.array.shape[0])

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice | list[int] | NDArray[np.int64]) -> "Images": ...
    def __getitem__(self, index: int | slice | list[int] | NDArray[np.int64]) -> "Pixels | Images":
        """One picture `[h, w, c]` by its number; several, as Images, by a slice or a list."""
        chosen = self.array[index]
        if chosen.ndim == 3:
            return chosen
        return Images(chosen, self.marks, None if self.changed is None else self.changed[index])

    def __iter__(self) -> Iterator[Pixels]:
        return iter(self.array)

    def __repr__(self) -> str:
        n, height, width, channels = self.array.shape
        return f"Images({n} of {width}x{height}, {MODES[channels]})"

    def to_pil(self) -> list[Image.Image]:
        """Return each image as a Pillow image."""
        return [to_pil(pixels) for pixels in self.array]

    def grid(
        self,
        columns: int | None = None,
        *,
        gap: int | None = None,
        scale: int | None = None,
        checker: bool = False,
    ) -> Image.Image:
        """Draw all images on one sheet.

        columns: images in a row; by default the sheet is about square.
        scale: the side of the square that each pixel becomes; by default an image is about 96 pixels tall,
            and the sheet at most about 2,000.
        gap: pixels between images.
        checker: whether transparency is shown over a checkerboard; otherwise it is kept.
        """
        n, height, width, channels = self.array.shape
        if n == 0:
            raise DataError("There are no pictures to show: ask for at least one.")
        columns = min(n, columns or grid_columns(n, width, height))
        rows = -(-n // columns)
        if scale is None:
            scale = max(1, min(96 // max(width, height), 2000 // max(columns * width, rows * height)))
        gap = max(1, scale) if gap is None else gap
        cell_w, cell_h = width * scale + gap, height * scale + gap
        transparent = channels in (2, 4)
        sheet = np.full(
            (rows * cell_h + gap, columns * cell_w + gap, channels), 0 if transparent else 255, np.uint8
        )
        for number, pixels in enumerate(self.array):
            top, left = gap + number // columns * cell_h, gap + number % columns * cell_w
            enlarged = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top : top + height * scale, left : left + width * scale] = enlarged
        picture = to_pil(sheet)
        return _over_checker(picture) if transparent and checker else picture

    def save(
        self, path: str | Path, format: str | None = None, *, quality: int = 90, columns: int | None = None
    ) -> Path:
        """Write the grid atomically; the ending is the format.

        A single image is written itself, without scaling.
        """
        path = Path(path).expanduser()
        is_single = len(self) == 1
        picture = to_pil(self.array[0]) if is_single else self.grid(columns)
        where = self.changed[0] if is_single and self.changed is not None else None
        save(picture, path, format or "", quality=quality, marks=self.marks, where=where)
        return path

    def save_each(
        self, folder: str | Path, format: str = "png", *, quality: int = 90, name: str = ""
    ) -> list[Path]:
        """Write each image to a file in a folder, `00.png` to `63.png`.

        The folder is created where it is missing.

        format: png, webp, jpeg or jpg; also the ending of the names.
        name: the beginning of the names.
        Raises ConfigError for another format, and OSError.
        """
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        digits, ending = len(str(len(self) - 1)), format.lower().lstrip(".")
        paths = [folder / f"{name}{number:0{digits}d}.{ending}" for number in range(len(self))]
        for number, (path, pixels) in enumerate(zip(paths, self.array, strict=True)):
            where = None if self.changed is None else self.changed[number]
            save(pixels, path, format, quality=quality, marks=self.marks, where=where)
        return paths

    def _repr_png_(self) -> bytes:
        return encode(self.grid(checker=True), "png")


def _on_background(image: Image.Image, background: str) -> Image.Image:
    """What is transparent shows `background`; a grey picture on a grey background stays grey."""
    red, green, blue = parse_background(background)
    grey = image.mode in ("1", "L", "LA", "La") and red == green == blue
    cover = image.convert("RGBA")
    sheet = Image.new("RGBA", image.size, (red, green, blue, 255))
    flat = Image.alpha_composite(sheet, cover).convert("RGB")
    return flat.getchannel(0) if grey else flat


def _fill(mode: str, background: str) -> float | tuple[int, ...]:
    """A background in a mode, clear where the mode has alpha."""
    colour = parse_background(background)
    one = (
        Image.new("RGBA", (1, 1), (*colour, 0))
        if mode in ("LA", "RGBA")
        else Image.new("RGB", (1, 1), colour)
    )
    return cast("float | tuple[int, ...]", one.convert(mode).getpixel((0, 0)))


def _over_checker(image: Image.Image) -> Image.Image:
    rows, columns = np.indices((image.height, image.width)) // _CHECKER
    board = np.where((rows + columns) % 2, 204, 238).astype(np.uint8)
    sheet = Image.fromarray(board).convert("RGBA")
    return Image.alpha_composite(sheet, image.convert("RGBA")).convert("RGB")
