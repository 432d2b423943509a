"""What reads bytes of others: each parser, with small valid files that fuzzing begins with.

A parser may raise `DanqingError` and nothing else. `PARSERS` names the functions that set one up in an empty
folder; `benchmarks/file_fuzz.py` fuzzes them.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from danqing import image_files, weights
from danqing.errors import DanqingError

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SIZE = 12
"""Sides of the images in the samples."""
_XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b"<rdf:Description rdf:about='' xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:title><rdf:Alt>"
    b"<rdf:li>A cat</rdf:li></rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
)
SMALL = 2**20
"""Pixels of an image that is decoded whole; larger ones are valid and slow."""


class Parser(NamedTuple):
    """What reads bytes, and valid bytes to begin with.

    read: raises DanqingError for what cannot be read. samples: what it reads without an error.
    """

    read: Callable[[bytes], object]
    samples: Sequence[bytes]


def picture(mode: str = "RGB") -> Image.Image:
    """Return a small picture of a mode of Pillow."""
    values = np.linspace(0, 255, SIZE * SIZE * 4).reshape(SIZE, SIZE, 4).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def file_of(image: Image.Image, form: str, **options: Any) -> bytes:
    """Return an image file in a format of Pillow."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def plain_files() -> list[bytes]:
    """Return pictures in the formats that Pillow reads, with metadata where they can have some."""
    turned, text = Image.Exif(), PngInfo()
    turned[0x0112], turned[0x010E] = 6, "a picture"
    text.add_itxt("XML:com.adobe.xmp", _XMP.decode())
    text.add_text("danqing", '{"request": {}}', zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames: dict[str, Any] = {"save_all": True, "append_images": [picture().rotate(180)]}
    grey16 = Image.fromarray(np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16))
    return [
        file_of(picture("RGBA"), "PNG", pnginfo=text, exif=turned, icc_profile=profile),
        file_of(picture("P"), "PNG", transparency=0),
        file_of(grey16, "PNG"),
        file_of(picture(), "JPEG", exif=turned, dpi=(72, 72), comment=b"made by hand"),
        file_of(picture("CMYK"), "JPEG", progressive=True),
        file_of(picture("RGBA"), "WEBP", exif=turned.tobytes(), xmp=_XMP),
        file_of(picture(), "WEBP", lossless=True),
        file_of(picture("P"), "GIF", **frames),
        file_of(picture(), "TIFF", compression="tiff_lzw", exif=turned),
        file_of(picture("1"), "TIFF", compression="group4"),
        file_of(grey16, "TIFF", compression="tiff_deflate"),
        *(file_of(picture(), form) for form in ("BMP", "TGA", "PPM", "ICO", "AVIF", "JPEG2000")),
    ]


def other_files() -> list[bytes]:
    """Return pictures in the formats that extras read."""
    import imagecodecs
    import nibabel
    import pillow_heif
    import pydicom
    import tifffile
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    ramp = np.linspace(0, 4095, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    scan = pydicom.Dataset()
    volume: Any = nibabel.Nifti1Image(np.stack([ramp] * 3, 2).astype(np.int16), np.eye(4))  # type: ignore[no-untyped-call]
    scan.file_meta = FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan.file_meta.MediaStorageSOPClassUID = scan.SOPClassUID = CTImageStorage
    scan.file_meta.MediaStorageSOPInstanceUID = scan.SOPInstanceUID = generate_uid()
    scan.Rows, scan.Columns, scan.SamplesPerPixel, scan.PatientName = SIZE, SIZE, 1, "A^B"
    scan.PhotometricInterpretation, scan.PixelRepresentation = "MONOCHROME2", 0
    scan.BitsAllocated, scan.BitsStored, scan.HighBit = 16, 12, 11
    scan.RescaleSlope, scan.RescaleIntercept, scan.PixelData = 1, -1024, ramp.tobytes()
    dicom, heif = io.BytesIO(), io.BytesIO()
    pydicom.dcmwrite(dicom, scan, enforce_file_format=True)
    pillow_heif.from_pillow(picture()).save(heif)
    colour = np.stack([ramp] * 3, 2)

    def tiff(values: NDArray[Any], **options: Any) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(file, values, **options)
        return file.getvalue()

    return [
        dicom.getvalue(),
        volume.to_bytes(),
        gzip.compress(volume.to_bytes()),
        heif.getvalue(),
        bytes(imagecodecs.jpegxl_encode(np.asarray(picture()))),
        bytes(imagecodecs.jpegxl_encode(colour)),
        bytes(imagecodecs.png_encode(colour)),
        tiff(colour, photometric="rgb", compression="deflate", tile=(16, 16)),
        tiff(colour, photometric="rgb", predictor=True, compression="zstd", bigtiff=True),
        tiff(ramp.astype(np.float32)),
    ]


def images(folder: Path) -> Parser:
    """Decode image files, describe them and count their frames."""
    from danqing.data.headers import described

    def read(content: bytes) -> None:
        described(content)
        _tried(image_files.frames, content)
        (width, height), *_ = image_files.inspect(content)
        if width * height <= SMALL:
            image_files.decode(content, size=(8, 8), alpha="keep")

    return Parser(read, [*plain_files(), *other_files()])


def masks(folder: Path) -> Parser:
    """Read image files as masks of classes."""
    from danqing.data.masks import read_mask

    def read(content: bytes) -> None:
        (width, height), *_ = image_files.inspect(content)
        if width * height <= SMALL:
            read_mask(content)

    return Parser(read, [one for one in plain_files() if not one.startswith(b"\xff\xd8")])


def edited_files(folder: Path) -> Parser:
    """Read image files with all that is in them, and write them again."""
    from danqing.editing import files

    def read(content: bytes) -> None:
        (width, height), *_ = image_files.inspect(content)
        if width * height <= SMALL:
            values, style = files.read(content)
            files.write(values, style)
            files.write(values[::2], files.stripped(style))

    readable = []
    for one in [*plain_files(), *other_files()]:
        with contextlib.suppress(DanqingError):  # films and scans are not edited
            read(one)
            readable.append(one)
    return Parser(read, readable)


def marks(folder: Path) -> Parser:
    """Look for marks, settings and terms in image files."""
    from danqing.data.terms import terms_of
    from danqing.image_files import embedded, metadata
    from danqing.service.pictures.picture_settings import settings_in
    from danqing.trust import credentials, manifest_store, xmp
    from danqing.trust.found_labels import find_labels

    def read(content: bytes) -> None:
        found = embedded.embedded(content)
        for packet in found.xmp:
            _tried(xmp.parse, packet)
        metadata.without(content)
        find_labels(content)
        settings_in(content)
        manifest_store.manifests_in(content)
        credentials.read(content)
        with image_files.reading.opened(content) as image:
            terms_of(image)

    return Parser(read, [*_marked(folder), *plain_files()])


def xmp_packets(folder: Path) -> Parser:
    """Read XMP packets, and write into them."""
    from danqing.editing import exif
    from danqing.trust import labels, xmp

    def read(content: bytes) -> None:
        xmp.parse(content)
        xmp.properties_of(content)
        exif.renewed_xmp(content)
        labels.only_labels(content)
        xmp.write({"{urn:danqing:settings:}settings": "{}"}, content)

    packet = xmp.write({"{urn:danqing:settings:}settings": "{}", "{http://purl.org/dc/terms/}a": "b"})
    return Parser(read, [packet, _XMP])


def credential_files(folder: Path) -> Parser:
    """Read Content Credentials beside an image."""
    from danqing.trust import credentials, manifest_store

    png, *_ = _marked(folder)

    def read(content: bytes) -> None:
        manifest_store.signer_of(content, "urn:c2pa:0")
        credentials.read(png, sidecar=content)

    return Parser(read, [manifest_store.store_in(png)])


def zips(folder: Path) -> Parser:
    """Read the images and words in a zip."""

    def sample(form: int) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", form) as archive:
            for name, content in _tree().items():
                archive.writestr(name, content)
        return file.getvalue()

    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return Parser(_data_reader(folder / "a.zip"), [sample(kind) for kind in kinds])


def uploads(folder: Path) -> Parser:
    """Read a zip that a client sends as a data set, and as pictures to edit."""
    from danqing.service.errors import ApiError
    from danqing.service.requests import archives
    from danqing.service.settings import Limits
    from danqing.service.training.upload import read_about, read_upload, unpacked_bytes

    samples, limits = zips(folder).samples, Limits()

    def read(content: bytes) -> None:
        try:
            if content.startswith(b"{"):
                read_about(content.decode("utf-8", "replace"))
                return
            unpacked_bytes([content], limits)
            read_upload([content], [], limits)
            for name in archives.contents(content, limits).pictures:
                archives.mask_of(content, name)
        except ApiError as error:
            if error.status >= 500:
                raise

    return Parser(read, [*samples, b'{"files": [{"name": "a.png"}]}'])


def tars(folder: Path) -> Parser:
    """Read the images and words in a tar."""
    from danqing.data import tar_shards

    def sample(mode: Any, form: int) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode, format=form) as archive:
            for name, content in _tree().items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return file.getvalue()

    forms = (("w", tarfile.GNU_FORMAT), ("w", tarfile.PAX_FORMAT), ("w:gz", tarfile.USTAR_FORMAT))
    read_data = _data_reader(folder / "a.tar")

    def read(content: bytes) -> None:
        tar_shards._is_compressed.cache_clear()  # of the file that this one replaces
        read_data(content)

    return Parser(read, [sample(*form) for form in forms])


def parquets(folder: Path) -> Parser:
    """Read images and words in Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    png = file_of(picture(), "PNG")
    rows = pa.table(
        {
            "image": [{"bytes": png, "path": "a.png"}, {"bytes": png, "path": "b.png"}],
            "label": [0, 1],
            "text": ["a cat", None],
            "split": ["train", "train"],
        }
    )
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    parquet.write_table(rows.replace_schema_metadata({"huggingface": json.dumps(features)}), file)
    return Parser(_data_reader(folder / "a.parquet"), [file.getvalue()])


def idx_files(folder: Path) -> Parser:
    """Read IDX files."""
    content = struct.pack(">IIII", 0x803, 2, 3, 3) + bytes(range(18))
    return Parser(_data_reader(folder / "train-images-idx3-ubyte"), [content, gzip.compress(content)])


_TABLES = (
    ("metadata.jsonl", b'{"file_name": "a.png", "text": ["a cat", "one cat"], "label": 1.0}\n'),
    ("metadata.csv", b"file_name,label,split\na.png,cat,train\n"),
    ("metadata.tsv", b"\xef\xbb\xbffile name\ttext\na.png\ta cat\n"),
    ("metadata.json", b'[{"file_name": "a.png", "label": "cat", "objects": {"bbox": [[1, 2, 3, 4]]}}]'),
    ("metadata.json", b'{"a.png": {"text": "a cat"}}'),
    ("dataset.json", b'{"labels": [["a.png", 3], ["b.png", null]]}'),
    ("dataset.json", b'{"labels": {"a.png": 3}}'),
    (
        "annotations.json",
        b'{"images": [{"id": 1, "file_name": "a.png", "width": 12, "height": 12}], "categories": [{"id": 1, '
        b'"name": "cat"}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}',
    ),
    ("a.txt", b"0 0.5 0.5 0.2 0.2\n"),
    ("classes.txt", b"cat\ndog\n"),
    ("data.yaml", b"names:\n  0: cat\n  1: dog\n"),
    ("a.json", b'{"caption": "a cat", "label": "cat"}'),
    ("a.cls", b"1"),
)


def tables(folder: Path) -> Parser:
    """Read folders of images with a table or a file beside an image; the first byte says which."""
    from danqing.data.layout import Declared

    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(file_of(picture(), "PNG"))
    declared = (
        Declared(),
        Declared(boxes="auto"),
        Declared(attributes=("price",)),
        Declared(label_sets="label"),
    )

    def read(content: bytes) -> None:
        if not content:
            return
        name = folder / "images" / _TABLES[content[0] % len(_TABLES)][0]
        name.write_bytes(content[1:])
        try:
            for each in declared:
                _tried(_records, folder / "images", each)
        finally:
            name.unlink()

    samples = [bytes([number]) + content for number, (_, content) in enumerate(_TABLES)]
    return Parser(read, samples)


def lists(folder: Path) -> Parser:
    """Read clean lists, captions, prompts and phrases; the first byte says which."""
    from danqing.cli import prompts
    from danqing.data.clean_list import read_clean_list
    from danqing.data.shards.captions import read_captions
    from danqing.trust.phrases import PhraseList

    row = prompts.PromptRow("a cat", 1, 0, {})
    kinds: tuple[tuple[str, Callable[[Path], object], bytes], ...] = (
        ("list.csv", read_clean_list, b"decision,split,name,suggested\ndrop,train,a.png,\n"),
        ("captions.jsonl", read_captions, b'{"file_name": "a.png", "text": "a cat"}\n'),
        ("captions.csv", read_captions, b"file_name,text\na.png,a cat\n"),
        ("prompts.csv", lambda path: prompts.read(path, row), b"prompt,n,seed,guidance\na cat,2,1,3.5\n"),
        ("prompts.jsonl", lambda path: prompts.read(path, row), b'{"prompt": "a cat", "n": 2}\n'),
        ("prompts.txt", lambda path: prompts.read(path, row), b"a cat\na dog\n"),
        ("phrases.txt", PhraseList.read, b"# a list\na bad word\nworse*\n"),
    )

    def read(content: bytes) -> None:
        if content:
            name, function, _ = kinds[content[0] % len(kinds)]
            (folder / name).write_bytes(content[1:])
            function(folder / name)

    return Parser(read, [bytes([number]) + kind[2] for number, kind in enumerate(kinds)])


def settings_files(folder: Path) -> Parser:
    """Read configurations in TOML; the first byte says whose."""
    from danqing.service import settings
    from danqing.training import config_reading
    from danqing.trust.filter_settings import FilterSettings

    (folder / "en.txt").write_text("a bad word\n")
    kinds: tuple[tuple[str, Callable[[Path], object], bytes], ...] = (
        ("run.toml", config_reading.from_toml, b'family = "vae"\nsource = "digits"\n[model]\nlatents = 4\n'),
        (
            "service.toml",
            lambda path: settings.checked(settings.read(path)),
            b'port = 8000\n[models]\ncats = "model"\n[limits]\nn = 4\n',
        ),
        (
            "filters.toml",
            lambda path: FilterSettings.read(path).prompt_filter(),
            b'[prompts]\nlists = ["en.txt"]\n',
        ),
    )

    def read(content: bytes) -> None:
        if content:
            name, function, _ = kinds[content[0] % len(kinds)]
            (folder / name).write_bytes(content[1:])
            function(folder / name)

    for _, _, content in kinds:
        tomllib.loads(content.decode())
    return Parser(read, [bytes([number]) + kind[2] for number, kind in enumerate(kinds)])


def model_configs(folder: Path) -> Parser:
    """Load models whose `config.json` comes from elsewhere; the first byte says beside which weights."""
    models = [GOLDEN / name for name in ("gan", "vae", "vqvae", "regression", "translation")]
    models += sorted(path for path in (GOLDEN / "transformer").iterdir() if path.is_dir())
    places = [Path(shutil.copytree(model, folder / model.name)) for model in models]

    def read(content: bytes) -> None:
        if content:
            place = places[content[0] % len(places)]
            (place / "config.json").write_bytes(content[1:])
            _load(place)

    samples = [bytes([n]) + (model / "config.json").read_bytes() for n, model in enumerate(models)]
    return Parser(read, samples)


def model_weights(folder: Path) -> Parser:
    """Load models whose weights come from elsewhere, from a file and from memory."""
    from danqing.model.folder import examine_learner

    place = Path(shutil.copytree(GOLDEN / "translation", folder / "model"))
    expected = examine_learner(place)[0].state_dict()

    def read(content: bytes) -> None:
        (place / "model.safetensors").write_bytes(content)
        source = weights.InMemory("weights", memoryview(bytearray(content)))
        _tried(weights.stand_ins, source)
        _tried(weights.views, source)
        _tried(weights.check, source, expected)
        _tried(weights.read, source, expected)
        _load(place)

    return Parser(read, [(GOLDEN / "translation" / "model.safetensors").read_bytes()])


def adapters(folder: Path) -> Parser:
    """Read adapters; the first byte says which of their files comes from elsewhere."""
    from danqing.model import adapter_files
    from danqing.model.files import open_files

    names = ("adapter_config.json", "config.json", "adapter_model.safetensors")
    tensors = {"base_model.model.a.lora_A.weight": np.zeros((2, 3), np.float32)}
    contents = (
        b'{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["a"]}',
        b'{"adapter": {"weights": "00", "trigger": "a"}, "model": {"family": "flow"}}',
        _safetensors(tensors),
    )

    def read(content: bytes) -> None:
        if content:
            for number, name in enumerate(names):
                is_foreign = number == content[0] % len(names)
                (folder / name).write_bytes(content[1:] if is_foreign else contents[number])
            adapter = adapter_files.read(open_files(folder))
            _ = adapter.settings, adapter.config

    return Parser(read, [bytes([number]) + content for number, content in enumerate(contents)])


def pipelines(folder: Path) -> Parser:
    """Read which files a pipeline of `diffusers` has; the first byte says which one is foreign."""
    from danqing.pipelines.layout import read_layout

    parts = {
        "model_index.json": b'{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}',
        "unet/config.json": b'{"_class_name": "UNet2DModel", "sample_size": 8}',
    }
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
        _safetensors({"a": np.zeros(2, np.float32)})
    )

    def read(content: bytes) -> None:
        if content:
            for number, (name, valid) in enumerate(parts.items()):
                (folder / name).write_bytes(content[1:] if number == content[0] % len(parts) else valid)
            read_layout(folder)

    return Parser(read, [bytes([number]) + content for number, content in enumerate(parts.values())])


def exports(folder: Path) -> Parser:
    """Open exports whose `export.json` comes from elsewhere."""
    import danqing as dq
    from danqing.compress.runtime import manifest, model

    place = folder / "export"
    dq.export(dq.load(GOLDEN / "gan"), place, precision="float32")
    valid = (place / "export.json").read_bytes()

    def read(content: bytes) -> None:
        (place / "export.json").write_bytes(content)
        manifest.read(place)
        model.load(place, threads=1)

    return Parser(read, [valid])


def scores(folder: Path) -> Parser:
    """Read scores, and the files of runs that pages and cards show; the first byte says which."""
    from danqing.evaluation import scores as score_files
    from danqing.training import run_files
    from danqing.training.outcome import read_run

    run = folder / "run"
    (run / "samples").mkdir(parents=True)
    (run / "config.toml").write_text('family = "vae"\nsource = "digits"\n')
    score = score_files.Score(
        metric="frechet", name="FD", value=1.5, images=10, candidate="a", interval=(1, 2)
    )
    score_files.write(folder / "scores.json", [score])
    kinds: tuple[tuple[Path, Callable[[Path], object], bytes], ...] = (
        (folder / "scores.json", score_files.read, (folder / "scores.json").read_bytes()),
        (
            run / "run.json",
            lambda path: read_run(run),
            b'{"format": 1, "status": "finished", "progress": {"images": 9, "seconds": 1, '
            b'"images_per_second": 9}}',
        ),
        (run / "log.jsonl", run_files.read_lines, b'{"images": 64, "loss": 0.5}\n'),
    )

    def read(content: bytes) -> None:
        if content:
            path, function, _ = kinds[content[0] % len(kinds)]
            path.write_bytes(content[1:])
            function(path)

    return Parser(read, [bytes([number]) + kind[2] for number, kind in enumerate(kinds)])


def checkpoints(folder: Path) -> Parser:
    """Read checkpoints; the first byte says which of their files comes from elsewhere."""
    import torch

    from danqing.training import checkpoint

    (folder / "checkpoints").mkdir()
    writer = checkpoint.Writer(folder / "checkpoints")
    writer.begin(64, {"weight": torch.zeros(3, 2), "step": torch.tensor(4)}, {"images": 64})
    writer.wait()
    (place,) = checkpoint.checkpoints(folder / "checkpoints")
    contents = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}

    def read(content: bytes) -> None:
        if content:
            for number, (path, valid) in enumerate(contents.items()):
                path.write_bytes(content[1:] if number == content[0] % len(contents) else valid)
            checkpoint.read_latest(folder / "checkpoints")

    return Parser(read, [bytes([number]) + content for number, content in enumerate(contents.values())])


def sealed_files(folder: Path) -> Parser:
    """Open sealed models; an odd first byte means that what follows was sealed by a stranger."""
    from danqing.trust import keys, recipients, seal

    keys.create_sealing_key(folder / "mine.key")
    to = [keys.read_recipient(folder / "mine.pub")]
    keyring = recipients.Keyring.of(folder / "mine.key", None)
    seal.seal(
        folder / "a.sealed", {"config.json": b"{}", "model.safetensors": bytes(100)}, to, chunk_bytes=1024
    )
    valid = (folder / "a.sealed").read_bytes()
    plain = seal._pack({"config.json": b"{}", "model.safetensors": bytes(100)})

    def read(content: bytes) -> None:
        if content[:1] == b"\1":
            seal._unpack("a.sealed", memoryview(bytearray(content[1:])))
        else:
            (folder / "a.sealed").write_bytes(content[1:])
            seal.unseal(folder / "a.sealed", keyring)

    return Parser(read, [b"\0" + valid, b"\1" + plain])


def signatures(folder: Path) -> Parser:
    """Check signatures, and read keys; the first byte says which."""
    from danqing.trust import authority, certificates, keys, signature

    keys.create_signing_key(folder / "release.key")
    keys.create_sealing_key(folder / "mine.key")
    authority.create(folder / "trust", "Someone")
    signing = keys.read_signing_key(folder / "release.key")
    digests = {"config.json": hashlib.sha256(b"{}").hexdigest()}
    pem = next(path for path in sorted((folder / "trust").rglob("*.pem")) if b"CERT" in path.read_bytes())

    def key_of(reader: Callable[[Path], object]) -> Callable[[bytes], object]:
        def read(content: bytes) -> None:
            (folder / "foreign").write_bytes(content)
            reader(folder / "foreign")

        return read

    kinds: tuple[tuple[Callable[[bytes], object], bytes], ...] = (
        (
            lambda content: signature.signed_files(content, [folder / "release.pub"]),
            signature.sign("model", digests, signing),
        ),
        (signature._listed, _payload(signature.sign("model", digests, signing))),
        (key_of(keys.read_signer), (folder / "release.pub").read_bytes()),
        (key_of(keys.read_signing_key), (folder / "release.key").read_bytes()),
        (key_of(keys.read_recipient), (folder / "mine.pub").read_bytes()),
        (key_of(keys.read_sealing_key), (folder / "mine.key").read_bytes()),
        (lambda content: certificates.read_certificates(content, "A root"), pem.read_bytes()),
    )

    def read(content: bytes) -> None:
        if content:
            kinds[content[0] % len(kinds)][0](content[1:])

    return Parser(read, [bytes([number]) + kind[1] for number, kind in enumerate(kinds)])


def shard_tables(folder: Path) -> Parser:
    """Read tables of shards, and the shards that they list."""
    from danqing.data.shards import table

    place = _shards(folder)
    valid = (place / table.NAME).read_bytes()

    def read(content: bytes) -> None:
        (place / table.NAME).write_bytes(content)
        _records(place, None)

    return Parser(read, [valid])


def shard_indexes(folder: Path) -> Parser:
    """Read indexes of shards that have the digest in their table."""
    from danqing.data.shards.shard_file import _FOOTER, FOOTER_BYTES, MAGIC, read_index

    (path,) = _shards(folder).glob("*.dqs")
    content = path.read_bytes()
    end, *_ = _FOOTER.unpack(content[-FOOTER_BYTES:])

    def read(index: bytes) -> None:
        digest = hashlib.sha256(index).digest()
        tail = index + _FOOTER.pack(end, len(index), digest, MAGIC)
        found = read_index(tail, end + len(tail), digest)
        for number in range(min(4, len(found))):
            found.span(number)
            _ = found.names[number]

    return Parser(read, [content[end:-FOOTER_BYTES]])


def indexes(folder: Path) -> Parser:
    """Load indexes of images; the first byte says which of their files comes from elsewhere."""
    import torch

    from danqing.recognition.index import VectorIndex

    place = folder / "index"
    index = VectorIndex(4, {"encoder": "pixels"})
    index.add(["a", "b", "c"], torch.eye(3, 4), ["x", "y", "x"])
    index.accelerate(above=1)
    index.save(place)
    index.add(["d"], torch.ones(1, 4))
    index.delete(["a"])
    index.save(place)
    contents = {path: path.read_bytes() for path in sorted(place.iterdir()) if path.suffix != ".lock"}

    def read(content: bytes) -> None:
        if content:
            for number, (path, valid) in enumerate(contents.items()):
                path.write_bytes(content[1:] if number == content[0] % len(contents) else valid)
            found = VectorIndex.load(place)
            if len(found):
                found.search(torch.ones(1, found.dimensions), 2)

    return Parser(read, [bytes([number]) + content for number, content in enumerate(contents.values())])


PARSERS: dict[str, Callable[[Path], Parser]] = {
    function.__name__: function
    for function in (
        *(images, masks, edited_files, marks, xmp_packets, credential_files),
        *(zips, uploads, tars, parquets, idx_files, tables, lists, settings_files),
        *(model_configs, model_weights, adapters, pipelines, exports, scores, checkpoints),
        *(sealed_files, signatures, shard_tables, shard_indexes, indexes),
    )
}


def _tried(function: Callable[..., object], *arguments: object) -> None:
    """Call what may reject its input, before other functions read the same bytes."""
    with contextlib.suppress(DanqingError):
        function(*arguments)


def _load(place: Path) -> None:
    import danqing as dq

    dq.load(place)


def _records(path: Path, declared: Any) -> None:
    """Read all that a source says of its images, and a few of these."""
    from danqing.data.layout import NOTHING_DECLARED
    from danqing.data.records import ImageSpec
    from danqing.data.sources import find_source

    source, _ = find_source(path, "train", declared=declared or NOTHING_DECLARED)
    source.count()
    source.survey()
    for number, record in enumerate(source.records(ImageSpec(size=(8, 8), channels=3))):
        if number == 4:
            break
        _tried(record.load)
        if record.targets is not None and record.targets.objects is not None:
            _tried(record.targets.objects)


def _data_reader(path: Path) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        path.write_bytes(content)
        _records(path, None)

    return read


def _tree() -> dict[str, bytes]:
    png = file_of(picture(), "PNG")
    return {
        "cat/a.png": png,
        "cat/a.txt": b"a cat",
        "dog/b.png": png,
        "metadata.jsonl": b'{"file_name": "cat/a.png", "text": "one cat"}\n',
    }


def _marked(folder: Path) -> list[bytes]:
    """Return pictures with all marks, made by an installation in the folder."""
    import danqing as dq

    os.environ["DANQING_TRUST"] = str(folder / "trust")
    images = dq.load(GOLDEN / "gan", marks="eu,cn").sample(1)
    images.save(folder / "marked.png")
    return [(folder / "marked.png").read_bytes()]


def _payload(bundle: bytes) -> bytes:
    import base64

    return base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"])


def _safetensors(tensors: dict[str, NDArray[Any]]) -> bytes:
    from safetensors.numpy import save

    return save(tensors)


def _shards(folder: Path) -> Path:
    from danqing.data.shards.writer import write_shards

    source = folder / "in"
    for name, content in _tree().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    write_shards(source, folder / "out", size=2**20)
    return folder / "out"
