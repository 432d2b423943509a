"""Fashion-MNIST: items of clothing, 28x28 grey."""

from pathlib import Path

from danqing.data.augment import Augment
from danqing.data.download import Published, idx_source
from danqing.data.records import About, Source
from danqing.progress import ProgressCallback

SUMMARY = (
    "70,000 items of clothing, 28x28 grey, 10 labels (Debian's dataset-fashion-mnist, or downloads 31 MB)"
)
ABOUT = About(
    "fashion-mnist",
    "MIT",
    "H. Xiao, K. Rasul and R. Vollgraf: Fashion-MNIST: a novel image dataset for benchmarking machine "
    "learning algorithms. arXiv:1708.07747, 2017.",
    Augment(),  # every shoe points left: a mirrored one does not belong to this set
)
LABELS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PUBLISHED = Published(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    (Path("/usr/share/datasets/fashion-mnist"),),
)


def fetch(on_progress: ProgressCallback | None = None) -> Path:
    """Return the folder of the files; download them if they are missing."""
    return PUBLISHED.folder(on_progress)


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the training or test clothes; `part` names those to select."""
    return idx_source(PUBLISHED, ABOUT, LABELS, split, on_progress), part
