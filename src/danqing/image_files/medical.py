"""DICOM and NIfTI files: values in their units (such as Hounsfield), by frame and by slice."""

import functools
import gzip
import io
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danqing.errors import DataError
from danqing.image_files import reasons
from danqing.image_files.levels import Deep
from danqing.images import to_pil
from danqing.sizes import too_large

MAX_VOLUME = 2**30
"""The maximum bytes of an unpacked NIfTI file."""
_IDENTIFYING = ("PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "OtherPatientNames")
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def dicom_shape(content: bytes, max_pixels: int) -> tuple[tuple[int, int], bool, int, int]:
    """Read the header of a DICOM file.

    (width, height), whether it has colour, its bits and its frames.
    """
    header = _dicom(content, max_pixels, stop_before_pixels=True)
    colour = int(header.SamplesPerPixel) > 1 or "PALETTE" in str(header.PhotometricInterpretation)
    deep = not colour and not _is_plain(header)
    size = (int(header.Columns), int(header.Rows))
    return size, colour, 16 if deep else 8, int(header.get("NumberOfFrames") or 1)


def read_dicom(content: bytes, frame: int | None, max_pixels: int) -> Image.Image | Deep:
    """Read one frame of a DICOM file, with rescaled values.

    By default the middle one. Raises DataError.

    If large values mean dark (MONOCHROME1), they are inverted.
    """
    header = _dicom(content, max_pixels)

    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    if "PixelData" not in header:
        raise DataError("This DICOM file has no image: leave it out.")
    count = int(header.get("NumberOfFrames") or 1)
    number = count // 2 if frame is None else frame
    try:
        values: NDArray[Any] = pixel_array(header, index=number)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        name = header.file_meta.TransferSyntaxUID.name
        raise DataError(
            f"The compression of this DICOM file ({name}) cannot be decoded here: convert it to uncompressed "
            "DICOM, for example with gdcmconv --raw."
        ) from error
    kind, bits = str(header.PhotometricInterpretation), int(header.BitsStored)
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, header)
    if values.ndim == 3:
        return to_pil(_eight_bits(values, values.dtype.itemsize * 8 if kind == "PALETTE COLOR" else bits))
    if kind == "MONOCHROME1":
        values = (-1 if header.PixelRepresentation else 2**bits - 1) - values.astype(np.int32)
    if _is_plain(header):
        return to_pil(_eight_bits(values, bits)[:, :, np.newaxis])
    for holder in _functional_groups(header, number):
        slope, intercept = float(holder.RescaleSlope), float(holder.RescaleIntercept)
        values = values.astype(np.float64) * slope + intercept
        break
    else:
        values = apply_modality_lut(values, header)
    return Deep(np.asarray(values)[:, :, np.newaxis])


def nifti_shape(source: bytes | Path) -> tuple[tuple[int, int], bool, int]:
    """Read the header of a NIfTI file.

    (width, height) of a slice, whether it has colour, its slices.
    """
    volume = _volume_of(source)
    cut = _cut_of(volume)
    sides = volume.shape[cut.across], volume.shape[cut.up]
    return sides, volume.get_data_dtype().names is not None, _slices(volume.shape, cut)


def names_patient(content: bytes) -> bool:
    """Return whether a DICOM file names or numbers its patient. Raises DataError."""
    header = _dicom(content, sys.maxsize, stop_before_pixels=True)
    return any(str(header.get(name, "")).strip() for name in _IDENTIFYING)


def read_nifti(source: bytes | Path, frame: int | None, max_pixels: int) -> Image.Image | Deep:
    """Read one slice of a NIfTI file, by default the middle one.

    Raises DataError.

    Slices are axial, unless the volume is flat or its voxels are more than twice as long along another axis:
    then slices are cut across that axis. Front or head is up, and the patient's left is on the left. The
    slices of several volumes follow one another.
    """
    volume = _volume_of(source)
    cut, shape = _cut_of(volume), volume.shape
    if shape[cut.across] * shape[cut.up] > max_pixels:
        raise DataError(too_large((shape[cut.across], shape[cut.up]), max_pixels))
    depth = shape[cut.along]
    number = depth // 2 if frame is None else frame
    if number >= _slices(shape, cut):
        raise DataError(f"This NIfTI file has no slice {number}.")
    later = np.unravel_index(number // depth, shape[3:], order="F") if len(shape) > 3 else ()
    place = number % depth
    index: list[Any] = [slice(None)] * 3
    index[cut.along] = depth - 1 - place if cut.along in cut.reversed else place
    values = np.asarray(volume.dataobj[(*index, *map(int, later))])
    if cut.across < cut.up:  # the other two axes keep the order of the file
        values = values.swapaxes(0, 1)
    values = values[:: 1 if cut.up in cut.reversed else -1, :: -1 if cut.across in cut.reversed else 1]
    if values.dtype.names is not None:
        return to_pil(np.stack([values[name] for name in values.dtype.names[:3]], axis=2))
    if values.dtype.kind not in "uif":
        raise DataError(f"Values of type {values.dtype} are not supported: convert them to floating point.")
    return Deep(values[:, :, np.newaxis])


def _eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    top = 2.0**bits - 1
    return np.asarray(values if bits == 8 else np.round(values / top * 255)).astype(np.uint8)


def _is_plain(header: Any) -> bool:
    """Return whether values are 8-bit levels without a unit, as in an ordinary image."""
    rescaled = (header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)) != (1, 0)
    signed = bool(header.get("PixelRepresentation", 0))
    lookup = "ModalityLUTSequence" in header or next(_functional_groups(header, 0), None) is not None
    return int(header.BitsStored) <= 8 and not rescaled and not signed and not lookup


def _functional_groups(header: Any, frame: int) -> Any:
    """Return the part of an enhanced multi-frame file that says how to rescale a frame's values."""
    each = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for group in (*each[frame : frame + 1], *shared[:1]):
        yield from group.get("PixelValueTransformationSequence") or []


def _dicom(content: bytes, max_pixels: int, *, stop_before_pixels: bool = False) -> Any:
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise DataError(reasons.missing("medical")) from error
    if _DEFLATED in content:  # its unpacked size would have no limit
        raise DataError("Deflated DICOM files are not supported: convert them to uncompressed DICOM.")
    _silence_gdcm()
    header = dcmread(io.BytesIO(content), stop_before_pixels=stop_before_pixels)
    if not header.get("Rows") or not header.get("Columns"):
        raise DataError("This DICOM file has no image: leave it out.")
    size = (int(header.Columns), int(header.Rows))
    if math.prod(size) > max_pixels or int(header.get("SamplesPerPixel", 1)) > 4:
        raise DataError(too_large(size, max_pixels))
    return header


@functools.cache
def _silence_gdcm() -> None:
    try:
        import gdcm
    except ImportError:
        return
    for name in ("WarningOff", "ErrorOff"):
        getattr(gdcm.Trace, name)()


def _volume_of(source: bytes | Path) -> Any:
    if isinstance(source, bytes):
        return _volume_in(source)
    try:
        status = source.stat()
        return _volume_at(source, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror or error}).") from error


@functools.lru_cache(maxsize=1)
def _volume_at(path: Path, length: int, changed: int) -> Any:
    if length > MAX_VOLUME:
        raise DataError(f"The file has over {MAX_VOLUME / 2**20:.0f} MiB: split it first.")
    return _volume(path.read_bytes())


@functools.lru_cache(maxsize=1)
def _volume_in(content: bytes) -> Any:
    return _volume(content)


def _volume(content: bytes) -> Any:
    """Open the volume in a file; its slices are converted when they are read."""
    try:
        from nibabel import Nifti1Image, Nifti2Image
    except ImportError as error:
        raise DataError(reasons.missing("medical")) from error
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_VOLUME + 1)
        except EOFError as error:
            raise DataError(reasons.TRUNCATED) from error
        if len(content) > MAX_VOLUME:
            raise DataError(f"The file unpacks to over {MAX_VOLUME / 2**20:.0f} MiB: split it first.")
    kind = Nifti2Image if content[4:8] == b"n+2\0" else Nifti1Image
    volume = kind.from_bytes(content)
    shape = volume.shape
    if not 2 <= len(shape) <= 5 or 0 in shape:
        raise DataError(f"A NIfTI file of shape {list(shape)} holds no images.")
    data: Any = volume.dataobj
    if data.offset + math.prod(shape) * data.dtype.itemsize > len(content):
        raise DataError(reasons.TRUNCATED)
    return _ThreeAxes(volume) if len(shape) == 2 else volume


class _ThreeAxes:
    """Return a flat NIfTI image as a volume of one slice."""

    def __init__(self, flat: Any) -> None:
        self.affine, self.dataobj, self.shape = flat.affine, self, (*flat.shape, 1)
        self._flat = flat

    def __getitem__(self, index: Any) -> Any:
        return self._flat.dataobj[index[:2]]

    def get_data_dtype(self) -> Any:
        """Return the number type of the values."""
        return self._flat.get_data_dtype()


class _Cut(NamedTuple):
    """Return the file's axes for slices, width and height, and which of them are reversed."""

    along: int
    across: int
    up: int
    reversed: tuple[int, ...]


def _cut_of(volume: Any) -> _Cut:
    from nibabel import orientations

    with np.errstate(all="ignore"):
        found = cast(Any, orientations).io_orientation(volume.affine)
        lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if np.isnan(found).any():  # an affine map without information
        return _Cut(2, 0, 1, ())
    axes = [int(np.flatnonzero(found[:, 0] == number)[0]) for number in range(3)]  # right, front, head
    flat = [axis for axis in range(3) if volume.shape[axis] == 1]
    longest = int(np.argmax(lengths))
    if len(flat) == 1:
        along = flat[0]
    elif lengths[longest] > 2 * np.delete(lengths, longest).max():
        along = longest
    else:
        along = axes[2]
    across, up = (axis for axis in axes if axis != along)
    return _Cut(along, across, up, tuple(axis for axis in range(3) if found[axis, 1] < 0))


def _slices(shape: tuple[int, ...], cut: _Cut) -> int:
    return int(shape[cut.along] * math.prod(shape[3:]))
