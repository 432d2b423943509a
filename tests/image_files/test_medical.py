"""DICOM and NIfTI: values in their units, every frame and slice, the right way up."""

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from danqing.errors import DataError
from danqing.image_files import Frame, decode, deep_values, frames, inspect, reasons
from danqing.image_files.formats import is_dicom

RNG = np.random.default_rng(0)


def dicom(values: np.ndarray, compress: bool = False, **tags: Any) -> bytes:
    """A DICOM file of `[h, w]`, `[frames, h, w]` or `[h, w, 3]` values."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    colour = values.ndim == 3 and values.shape[-1] == 3
    data.Rows, data.Columns = values.shape[:2] if colour else values.shape[-2:]
    if values.ndim == 3 and not colour:
        data.NumberOfFrames = len(values)
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * values.dtype.itemsize
    data.BitsStored = data.BitsAllocated
    data.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    data.PixelData = values.tobytes()
    if compress:
        data.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def nifti(values: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine).to_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_ct_slices_come_in_hounsfield_units(compress: bool) -> None:
    raw = RNG.integers(0, 4096, (8, 6), dtype=np.uint16)
    content = dicom(raw, compress, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024)
    assert is_dicom(content[:132])
    assert inspect(content) == ((6, 8), False, False, 16, "")
    deep = deep_values(content)
    assert deep is not None
    assert np.array_equal(deep.values[:, :, 0], raw.astype(int) - 1024)
    window = decode(content, range=(-1024, 3071), depth=16)[:, :, 0]
    assert np.array_equal(window, np.round(raw / 4095 * 65535))


def test_signed_values_without_a_rescale_are_read_as_they_are() -> None:
    raw = np.array([[-1000, 0], [400, 2000]], np.int16)
    deep = deep_values(dicom(raw))
    assert deep is not None
    assert np.array_equal(deep.values[:, :, 0], raw)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_inverted_radiograph_is_turned_the_right_way(dtype: type) -> None:
    top = np.iinfo(dtype).max
    raw = np.array([[0, top // 2], [top - 1, top]], dtype)
    content = dicom(raw, PhotometricInterpretation="MONOCHROME1")
    pixels = decode(content, range=(0, top))
    assert pixels.ravel().tolist() == [255, 128, 1 if top == 255 else 0, 0]


def test_colour_and_palettes_are_read() -> None:
    raw = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)
    assert np.array_equal(decode(dicom(raw)), raw)
    assert inspect(dicom(raw)) == ((6, 8), True, False, 8, "")


def test_every_frame_of_a_dicom_file_can_be_read_and_the_middle_one_is_shown() -> None:
    raw = np.stack([np.full((4, 4), 10 * number, np.uint8) for number in range(5)])
    content = dicom(raw)
    assert frames(content) == 5
    assert [int(decode(Frame(content, number))[0, 0, 0]) for number in range(5)] == [0, 10, 20, 30, 40]
    assert decode(content)[0, 0, 0] == 20


def test_what_dicom_files_lack_is_said() -> None:
    raw = np.zeros((4, 4), np.uint16)
    with pytest.raises(DataError, match="has no image"):
        decode(dicom(raw, Rows=None))
    with pytest.raises(DataError, match="shrink it first"):
        decode(dicom(raw, Rows=60_000, Columns=60_000))
    for cut in (140, 300, len(dicom(raw)) - 8):
        with pytest.raises(DataError):
            decode(dicom(raw)[:cut])


def test_slices_of_a_volume_are_axial_with_the_front_up(tmp_path: Path) -> None:
    volume = np.zeros((6, 5, 4), np.int16)
    volume[0, :, :] = 100  # the patient's left
    volume[:, 4, 2] = 300  # the front, in the third slice from below
    for content in (nifti(volume), gzip.compress(nifti(volume))):
        assert frames(content) == 4
        assert inspect(content) == ((6, 5), False, False, 16, "")
        image = decode(Frame(content, 2), range=(0, 300))[:, :, 0]
        assert image.shape == (5, 6)
        assert image[0].tolist() == [255] * 6
        assert image[1:, 0].tolist() == [85] * 4
        assert decode(Frame(content, 1), range=(0, 300))[0, 1:].max() == 0
    path = tmp_path / "brain.nii.gz"
    path.write_bytes(gzip.compress(nifti(volume)))
    assert frames(path) == 4
    assert np.array_equal(decode(Frame(path, 2), range=(0, 300))[:, :, 0], image)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_the_way_a_volume_is_stored_does_not_matter(
    order: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    volume = RNG.integers(0, 1000, (6, 5, 4), dtype=np.int16)
    expected = [decode(Frame(nifti(volume), number), range=(0, 1000)) for number in range(4)]
    stored = volume[:: signs[0], :: signs[1], :: signs[2]].transpose(order)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, place in enumerate(order):
        affine[place, axis] = signs[place]
    found = [decode(Frame(nifti(stored, affine), number), range=(0, 1000)) for number in range(4)]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_thick_slices_are_images_whichever_way_they_lie() -> None:
    volume = RNG.integers(0, 1000, (3, 20, 30), dtype=np.int16)
    sagittal = nifti(volume, np.diag([5.0, 1, 1, 1]))
    assert frames(sagittal) == 3
    assert inspect(sagittal).size == (20, 30)
    expected = np.flipud(volume[1].T)
    assert np.array_equal(decode(Frame(sagittal, 1), range=(0, 65535), depth=16)[:, :, 0], expected)


def test_series_and_flat_images_are_counted() -> None:
    series = RNG.integers(0, 1000, (6, 5, 4, 3), dtype=np.int16)
    assert frames(nifti(series)) == 12
    last = decode(Frame(nifti(series), 11), range=(0, 65535), depth=16)[:, :, 0]
    assert np.array_equal(last, np.flipud(series[:, :, 3, 2].T))
    assert frames(nifti(series[:, :, 0, 0])) == 1
    assert np.array_equal(
        decode(nifti(series[:, :, 0, 0]), range=(0, 65535), depth=16)[:, :, 0],
        np.flipud(series[:, :, 0, 0].T),
    )


def test_truncated_and_huge_volumes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = RNG.integers(0, 1000, (16, 16, 16), dtype=np.int16)
    for content in (nifti(volume)[:-100], gzip.compress(nifti(volume))[:-100]):
        with pytest.raises(DataError, match="truncated"):
            decode(content)
    monkeypatch.setattr("danqing.image_files.medical.MAX_VOLUME", 4096)
    with pytest.raises(DataError, match="unpacks to over"):
        decode(gzip.compress(nifti(volume + 1)))


def test_without_the_packages_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in ("pydicom", "nibabel"):
            raise ImportError(name)
        return real(name, *rest, **more)

    contents = dicom(np.zeros((4, 4), np.uint16)), nifti(RNG.integers(0, 9, (4, 4, 4), dtype=np.int16))
    monkeypatch.setattr(builtins, "__import__", without)
    for content in contents:
        with pytest.raises(DataError) as refused:
            decode(content)
        assert str(refused.value) == reasons.missing("medical")
