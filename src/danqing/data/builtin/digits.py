"""Handwritten digits, 8x8 grey: scikit-learn's copy of the UCI test set."""

import functools
from collections.abc import Iterator

import numpy as np

from danqing.data.augment import Augment
from danqing.data.builtin import only_train
from danqing.data.records import About, ImageSpec, Natural, Record, Source, digest
from danqing.data.survey import Survey
from danqing.errors import DataError
from danqing.progress import ProgressCallback

SUMMARY = "1,797 handwritten digits, 8x8 grey, 10 labels (needs danqing[digits])"
ABOUT = About(
    "digits",
    "CC BY 4.0",
    "E. Alpaydin and C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, "
    "1998, doi:10.24432/C50P49.",
    Augment(),
)


def fetch(on_progress: ProgressCallback | None = None) -> None:
    """Download nothing: the images come with scikit-learn."""
    DigitsSource()


def open(
    split: str, part: tuple[str, ...], on_progress: ProgressCallback | None
) -> tuple[Source, tuple[str, ...]]:
    """Open the digits; `part` names those to select."""
    only_train("digits", split)
    return DigitsSource(), part


class DigitsSource:
    """The digits as grey images.

    Their 17 levels of ink are spread over 0 to 255.
    """

    about = ABOUT
    label_names: tuple[str, ...] = tuple("0123456789")
    attributes: tuple[str, ...] = ()
    natural: Natural | None = Natural((8, 8), False, False)

    def __init__(self) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError("The digits need scikit-learn: pip install 'danqing[digits]'.") from error
        data = load_digits()
        self._images = np.round(data.images * (255 / 16)).astype(np.uint8)[:, :, :, None]
        self._labels = data.target

    def key(self) -> str:
        return digest("digits", self._images.tobytes())

    def count(self) -> int:
        return len(self._images)

    def survey(self) -> Survey:
        return Survey()

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        for number in range(start, len(self._images)):
            load = functools.partial(self._images.__getitem__, number)
            yield Record(f"digits#{number}", load, str(self._labels[number]))
