"""A reader's folder in small: the photos, tables and models that the documentation names."""

import csv
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from tests.documents import pages

RNG = np.random.default_rng(0)
CAPTIONS = ("a red heart", "two small blue stars at the top", "a large red heart on the right\n红心")
FOLDERS = {
    "photos": ("cat", "dog"),
    "more-photos": ("cat", "dog"),
    "few": ("cat", "dog"),
    "clothes": ("cat", "dog"),
    "unwanted": ("blood", "weapons"),
    "many": ("",),
    "faces": ("",),
    "stone": ("",),
    "scans": ("images", "low", "full"),
    "drawings": ("outlines", "photos", "colours"),
    "animals": ("horses", "zebras"),
}
"""What models learn from, and its folders."""
COUNTS = {"photos": 110, "clothes": 110, "faces": 210, "many": 40}
SMALL_FOLDERS = {
    "album": ".png",
    "new-photos": ".jpg",
    "new-scans": ".png",
    "new": ".jpg",
    "mistakes": ".png",
    "horses": ".png",
    "textures": ".png",
    "sprites": ".png",
    "outlines": ".png",
    "low-dose": ".png",
    "generated": ".png",
    "downloads": ".png",
}
"""What models are used on."""
FILES = {
    "photo.png": (400, 160),
    "photo.jpg": (240, 120),
    "drawing.jpg": (24, 24),
    "outline.png": (24, 24),
    "starry.jpg": (48, 48),
    "scan.tif": (24, 24),
    "picture.png": (32, 32),
    "picture.jpg": (256, 256),
    "noisy.png": (32, 32),
    "cat.png": (24, 24),
    "cat.jpg": (24, 24),
    "dog.jpg": (24, 24),
    "holiday.jpg": (24, 24),
    "garden.jpg": (24, 24),
}


def picture(width: int, height: int, *, channels: int = 3) -> Image.Image:
    """Return a picture with a bright square on a dark ground, both noisy."""
    pixels = RNG.integers(0, 80, (height, width, channels), dtype=np.uint8)
    top, left = RNG.integers(0, height // 2), RNG.integers(0, width // 2)
    colour = RNG.integers(90, 170, channels, dtype=np.uint8)
    pixels[top : top + height // 2, left : left + width // 2] += colour
    if channels == 4:
        pixels[..., 3] = 255
        pixels[:2, :, 3] = 0
    return Image.fromarray(pixels)


def size(path: Path) -> dict[str, int]:
    """Return the size of an image file as COCO names it."""
    with Image.open(path) as opened:
        return {"width": opened.width, "height": opened.height}


def write(folder: Path) -> None:
    """Write all files that a reader brings."""
    for name, parts in FOLDERS.items():
        for part in parts:
            for number in range(COUNTS.get(name, 24)):
                path = folder / name / part / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(*((24, 16) if name == "photos" and number % 2 else (16, 24))).save(path)
    for name, ending in SMALL_FOLDERS.items():
        (folder / name).mkdir()
        for number in range(16 if name == "generated" else 3):
            picture(24, 24).save(folder / name / f"{number}{ending}")
    for name, size in FILES.items():
        picture(*size).save(folder / name)
    _write_targets(folder)
    _write_tables(folder)
    (folder / "originals").mkdir()
    for path in (folder / "sprites").iterdir():
        picture(96, 96).save(folder / "originals" / path.name)
    for name in ("sprites", "new-photos"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for number in range(24):
                picture(48, 32, channels=4).save(folder / "one.png")
                archive.write(folder / "one.png", f"{number}.png")
    (folder / "one.png").unlink()


def _write_targets(folder: Path) -> None:
    """Write masks, and boxes as COCO has them."""
    for name in ("scans", "street"):
        for number in range(24):
            mask = np.zeros((24, 24), np.uint8)
            mask[4:12, 6:18] = 1
            for part, content in (("images", picture(24, 24)), ("masks", Image.fromarray(mask))):
                (folder / name / part).mkdir(parents=True, exist_ok=True)
                content.save(folder / name / part / f"{number:03d}.png")
    names = {"street": [f"images/{n:03d}.png" for n in range(24)]}
    names["photos"] = [f"{label}/{n:03d}.png" for label in FOLDERS["photos"] for n in range(110)]
    for data, files in names.items():
        images = [{"id": n, "file_name": name, **size(folder / data / name)} for n, name in enumerate(files)]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [6, 4, 8, 8]} for n in range(len(files))]
        coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "car"}]}
        (folder / data / "annotations.json").write_text(json.dumps(coco))
    whole = Image.new("L", (400, 160))
    whole.paste(255, (80, 40, 200, 100))
    whole.save(folder / "mask.png")
    (folder / "masks").mkdir()
    for path in (folder / "album").iterdir():
        whole.resize((24, 24)).save(folder / "masks" / path.name)


def _write_tables(folder: Path) -> None:
    """Write tables, lists and settings; those that a page shows are the page's."""
    files = [path.relative_to(folder / "photos") for path in sorted((folder / "photos").rglob("*.png"))]
    rows = [[str(path), CAPTIONS[n % 3], "indoors;small"[: 7 + 6 * (n % 2)]] for n, path in enumerate(files)]
    _write_table(folder / "photos/metadata.csv", [["file_name", "text", "tags"], *rows])
    faces = [[f"{n:03d}.png", str(20 + n), ("yes", "no")[n % 2]] for n in range(COUNTS["faces"])]
    _write_table(folder / "faces/metadata.csv", [["file_name", "age", "glasses"], *faces])
    (folder / "passphrase.txt").write_text("open sesame\n")
    (folder / "prompts.txt").write_text("a red apple\na cat\n")
    (folder / "phrases").mkdir()
    for name in ("en", "zh", "strict"):
        (folder / "phrases" / f"{name}.txt").write_text("something forbidden\n")
    (folder / "prompts.csv").write_text(_block("text-to-image", "", "prompt,n,seed"))
    (folder / "space.toml").write_text(_block("comparing", "toml", "[optimizer.learning_rate]"))
    (folder / "filters.toml").write_text(_block("trust", "toml", "# filters.toml"))
    (folder / "service.toml").write_text(_block("trust", "toml", "# service.toml"))
    _write_signer(folder)


def _write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def _block(page: str, language: str, start: str) -> str:
    """Return the block of a page that starts so."""
    found = pages.blocks(pages.ROOT / "docs" / f"{page}.md", language)
    return next(block for block in found if block.startswith(start))


SIGNER = '''"""A key of the reader's own, in place of one in a cloud."""

from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

KEY = serialization.load_pem_private_key(Path(__file__).with_name("leaf.key.pem").read_bytes(), None)


def sign(data: bytes) -> bytes:
    return KEY.sign(data, ec.ECDSA(hashes.SHA256()))
'''


def _write_signer(folder: Path) -> None:
    """Write a key, its public half and the function that signs with it."""
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    kind, public = serialization.PrivateFormat.PKCS8, serialization.PublicFormat.SubjectPublicKeyInfo
    secret = key.private_bytes(pem, kind, serialization.NoEncryption())
    (folder / "leaf.key.pem").write_bytes(secret)
    (folder / "leaf.pub.pem").write_bytes(key.public_key().public_bytes(pem, public))
    (folder / "my_kms.py").write_text(SIGNER)


def clear(folder: Path, kept: frozenset[str]) -> None:
    """Delete what commands have written, apart from some entries of the folder."""
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
