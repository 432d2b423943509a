"""Marks of edited images: what is marked, what stays, and what an edit carries on."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from danqing import image_files
from danqing.editing import files
from danqing.editing.arrays import edit_array
from danqing.editing.batch import edit_files
from danqing.editing.contract import ImageToEdit, Values
from danqing.errors import ConfigError, MarkWarning
from danqing.images import Images, encode
from danqing.trust import credentials, labels, xmp
from danqing.trust.declaration import Declaration
from danqing.trust.marking import Marking
from danqing.trust.registry import Registry
from danqing.trust.settings import MarkSettings, trust_folder
from danqing.trust.verify import Verdict, verify
from tests.editing.edits import Invert, Nothing
from tests.image_files.files import file_of, photo

SOURCE = "{http://purl.org/dc/elements/1.1/}source"
SPECIAL = xmp.write({SOURCE: "a camera"})


@pytest.fixture(autouse=True)
def _own_trust_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "trust"))


@dataclasses.dataclass(frozen=True)
class InvertBox(Invert):
    """Inverts a square at the left upper corner, and keeps all else; adds `border` pixels on the left."""

    side: int = 100
    border: int = 0

    @property
    def settings(self) -> dict[str, object]:
        return {"side": self.side, "expand": [self.border, 0, 0, 0]}

    def kept(self, image: ImageToEdit) -> NDArray[np.bool_]:
        kept = np.ones(image.values.shape[:2], bool)
        kept[: self.side, : self.side] = False
        return kept

    def apply(self, image: ImageToEdit) -> Values:
        result = np.where(self.kept(image)[..., None], image.values, np.iinfo(image.values.dtype).max // 2)
        return np.pad(result.astype(image.values.dtype), ((0, 0), (self.border, 0), (0, 0)))


def large(seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(60, 200, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((192, 144), Image.Resampling.BICUBIC)


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_edited_files_carry_their_parent_and_what_they_stated(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for suffix, options in (("png", {}), ("jpg", {"xmp": SPECIAL}), ("webp", {"xmp": SPECIAL})):
        name = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        (given / f"{suffix}.{suffix}").write_bytes(file_of(large(), name, **options))
    (given / "deep.tif").write_bytes(file_of(Image.fromarray(np.zeros((64, 64), np.uint16)), "TIFF"))
    result = edit_files(Invert(), given, tmp_path / "out", seed=1, marks="eu")
    assert not result.failed
    for name in ("png.png", "jpg.jpg", "webp.webp"):
        content = (tmp_path / "out" / name).read_bytes()
        found = credentials.read(content)
        assert found is not None
        assert len(found.parents) == 1
        assert verify(content).verdict is Verdict.OURS
        stated = xmp.properties_of(files.read(content)[1].xmp)
        assert stated[labels.SOURCE_TYPE][0].endswith("trainedAlgorithmicMedia")
        assert name == "png.png" or stated[SOURCE] == ("a camera",)
    assert "hold no Content Credentials" in " ".join(result.notes["deep.tif"])
    assert labels.AIGC in xmp.properties_of(files.read((tmp_path / "out/deep.tif").read_bytes())[1].xmp)

    # An edit of a signed image has its credentials, and names who made it first.
    again = edit_files(Invert(), tmp_path / "out/png.png", tmp_path / "again.png", seed=1, marks="eu")
    assert not any("left out" in note for notes in again.notes.values() for note in notes)
    second = credentials.read((tmp_path / "again.png").read_bytes())
    assert second is not None
    assert not second.failures
    assert [parent.failures for parent in second.parents] == [()]


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
@pytest.mark.parametrize("border", [0, 7])
def test_pixels_outside_of_the_mask_stay_and_only_the_others_have_marks(tmp_path: Path, border: int) -> None:
    before = np.asarray(large())
    Image.fromarray(before).save(tmp_path / "a.png")
    edit = InvertBox(side=140, border=border)
    edit_files(edit, tmp_path / "a.png", tmp_path / "out.png", seed=1, marks="eu,cn")
    after, plain = np.asarray(Image.open(tmp_path / "out.png")), edit.apply(ImageToEdit(before, 1))
    where = np.zeros(after.shape[:2], bool)
    where[:140, : 140 + border] = True
    if border:
        where[:, :border] = True
    assert np.array_equal(after[~where], plain[~where])
    assert not np.array_equal(after[where], plain[where])


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_a_part_that_is_too_small_has_no_watermark_and_a_note_says_so(tmp_path: Path) -> None:
    Image.fromarray(np.asarray(large())).save(tmp_path / "a.png")
    edit = InvertBox(side=9)
    result = edit_files(edit, tmp_path / "a.png", tmp_path / "out.png", seed=1, marks="eu,cn")
    notes = " ".join(result.notes["a.png"])
    assert "invisible watermark" in notes
    assert "visible label" in notes
    after = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(after, edit.apply(ImageToEdit(np.asarray(large()), 1)))
    assert verify(tmp_path / "out.png").verdict is Verdict.OURS


@pytest.mark.parametrize("edit", [Invert(strength=0), Nothing()])
def test_an_unchanged_input_is_returned_byte_for_byte(edit: Invert | Nothing, tmp_path: Path) -> None:
    content = file_of(photo(), "JPEG", quality=80, xmp=SPECIAL)
    (tmp_path / "a.jpg").write_bytes(content)
    edit_files(edit, tmp_path / "a.jpg", tmp_path / "out.jpg", seed=1, marks="eu,cn")
    assert (tmp_path / "out.jpg").read_bytes() == content
    assert not (tmp_path / "trust").exists()


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_stripping_keeps_what_says_that_an_image_was_generated(tmp_path: Path) -> None:
    stated = xmp.write({SOURCE: "a camera", labels.AIGC: '{"Label":"1","ContentProducer":"Someone"}'})
    (tmp_path / "a.webp").write_bytes(file_of(photo(), "WEBP", xmp=stated, lossless=True))
    for marks in ("none", "eu"):
        edit_files(Invert(), tmp_path / "a.webp", tmp_path / f"{marks}.webp", seed=1, strip=True, marks=marks)
        found = xmp.properties_of(files.read((tmp_path / f"{marks}.webp").read_bytes())[1].xmp)
        assert SOURCE not in found
        assert labels.read_aigc(found[labels.AIGC][0])["ContentProducer"] == "Someone"


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_credentials_may_lie_beside_the_results(tmp_path: Path) -> None:
    for name in ("b.png", "b.webp"):
        (tmp_path / "given").mkdir(exist_ok=True)
        (tmp_path / "given" / name).write_bytes(file_of(photo(), name[2:].upper()))
    out = tmp_path / "out"
    result = edit_files(Invert(), tmp_path / "given", out, seed=1, marks="eu,credentials=sidecar")
    assert list(result.written) == ["b.png"]
    assert "same sidecar" in result.failed["b.webp"]
    assert b"c2pa" not in (out / "b.png").read_bytes()
    found = credentials.read((out / "b.png").read_bytes(), sidecar=(out / "b.c2pa").read_bytes())
    assert found is not None
    assert not found.failures
    assert verify(out / "b.png").verdict is Verdict.OURS


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_a_batch_resumes_with_the_same_marks_only(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    for name in ("a", "b"):
        large(ord(name)).save(tmp_path / "given" / f"{name}.png")
    out = tmp_path / "out"
    edit_files(Invert(), tmp_path / "given", out, seed=1, marks="eu")
    pixels = {path.name: np.asarray(Image.open(path)) for path in out.glob("*.png")}
    (out / "b.png").unlink()
    with pytest.raises(ConfigError, match="marks was eu"):
        edit_files(Invert(), tmp_path / "given", out, seed=1, marks="none")
    again = edit_files(Invert(), tmp_path / "given", out, seed=1, marks="eu")
    assert list(again.skipped) == ["a.png"]
    assert np.array_equal(np.asarray(Image.open(out / "b.png")), pixels["b.png"])
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {record["edit"]["marks"] for record in records} == {"eu"}


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_images_in_memory_carry_the_marks_of_an_edit_to_their_files(tmp_path: Path) -> None:
    pixels = np.stack([np.asarray(large(seed)) for seed in range(2)])
    edited = edit_array(InvertBox(side=140), Images(pixels), 1, marks="eu")
    paths = edited.save_each(tmp_path)
    for path, before in zip(paths, pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(path))[:, 140:], before[:, 140:])
        assert verify(path).verdict is Verdict.OURS
    marks = Marking(MarkSettings(), Declaration())
    unchanged = edit_array(Nothing(), Images(pixels, marks), 1, marks="none")
    assert unchanged.marks is marks
    assert edit_array(Invert(), Images(pixels, marks), 1, marks="none").marks is None
    assert isinstance(edit_array(Invert(), pixels, 1), np.ndarray)


def test_without_marks_nothing_is_written_into_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file_of(photo()))
    edit_files(Invert(), tmp_path / "a.png", tmp_path / "out.png", seed=1)
    with Image.open(io.BytesIO((tmp_path / "out.png").read_bytes())) as image:
        assert not image.info.get("xmp")
    assert not (tmp_path / "trust").exists()


@dataclasses.dataclass(frozen=True)
class Enlarge(Invert):
    """An edit whose results average exactly to their inputs."""

    keeps_averages: bool = True


def test_results_that_average_to_their_inputs_have_no_watermark(tmp_path: Path) -> None:
    large().save(tmp_path / "a.png")
    with pytest.warns(MarkWarning, match="average exactly"):
        edit_files(Enlarge(), tmp_path / "a.png", tmp_path / "out.png", seed=1, marks="eu")
    plain = Invert().apply(ImageToEdit(np.asarray(large()), 1))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), plain)
    assert encode(plain) != (tmp_path / "out.png").read_bytes()


@pytest.mark.filterwarnings("ignore::danqing.errors.MarkWarning")
def test_an_image_that_is_too_large_to_be_read_again_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large().save(tmp_path / "a.jpg", quality=95)
    for most, is_exact in ((1000, False), (10**6, True)):
        monkeypatch.setattr(image_files, "MAX_PIXELS", most)
        out = tmp_path / f"{most}.jpg"
        edit_files(Invert(), tmp_path / "a.jpg", out, seed=1, marks="eu")
        found = Registry(trust_folder() / "registry.sqlite").find(image_files.decode(out))
        assert found[0].exact == is_exact, "without reading it, the pixels before compression are registered"
        assert verify(out).verdict is Verdict.OURS
