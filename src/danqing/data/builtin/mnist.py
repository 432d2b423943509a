"""MNIST: handwritten digits, 28x28 grey."""

from pathlib import Path

from danqing.data.augment import Augment
from danqing.data.download import Published, idx_source
from danqing.data.records import About, Source
from danqing.progress import ProgressCallback

SUMMARY = "70,000 handwritten digits, 28x28 grey, 10 labels (downloads 12 MB)"
ABOUT = About(
    "mnist",
    "CC BY-SA 3.0",
    "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner: Gradient-based learning applied to document recognition. "
    "Proceedings of the IEEE 86(11), 1998.",
    Augment(),
)
PUBLISHED = Published(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)


def fetch(on_progress: ProgressCallback | None = None) -> Path:
    """Return the folder of the files; download them if they are missing."""
    return PUBLISHED.folder(on_progress)


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the training or test digits; `part` names those to select."""
    return idx_source(PUBLISHED, ABOUT, tuple("0123456789"), split, on_progress), part
