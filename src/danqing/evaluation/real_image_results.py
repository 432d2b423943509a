"""What a model makes of real images: reconstructions and likelihoods, each measured once."""

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danqing.data import captions
from danqing.data.dataset import Dataset
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.generated_images import reconstruct
from danqing.evaluation.image_sets import batch_size_for, draw_rows, index_batches, map_labels
from danqing.evaluation.real_conditions import attributes_for, labels_for
from danqing.families.abilities import Tokenizes
from danqing.images import Images
from danqing.model.model import Model
from danqing.model.training_only import with_discriminator
from danqing.precision import exact
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed
from danqing.requested_attributes import OutsideTrainingWarning

MOST_SHOWN = 2000
"""Likelihoods and reconstructions are measured on at most this many real images."""
MOST_AUDITED = 1000
"""Attacks guess of at most this many training images, and of as many others, whether they were learnt."""
_ATTACKS = ("evidence", "realness")


class RealImageResults:
    """Results of passing real images through a model, each computed once.

    reference: the images whose reconstructions `reconstructed` holds.
    """

    def __init__(
        self, model: Model, reference: Dataset, *, seed: int, on_progress: ProgressCallback | None = None
    ) -> None:
        self.model, self._reference, self._seed, self._on_progress = model, reference, seed, on_progress
        self._likelihoods: dict[tuple[str, str], Tensor] = {}

    @functools.cached_property
    def reconstructed(self) -> ImageSet:
        """The reconstructions of the real images `shown(reference)`, in their order."""
        rows = self.shown(self._reference)
        return reconstruct(self.model, self._reference, rows, on_progress=self._on_progress)

    def bits_per_dim(self, images: Dataset) -> Tensor:
        """Return the bits per dimension of the real images `shown(images)`, `[n]`."""
        return self._likelihood("bits per dim", images)

    def token_nll(self, images: Dataset) -> Tensor:
        """Return what their codes cost the model, in nats per image, `[n]`."""
        return self._likelihood("token nll", images)

    def log_evidence(self, images: Dataset) -> Tensor:
        """Return how well the model explains the real images `audited(images)`, in nats, `[n]`."""
        return self._likelihood("evidence", images)

    def realness(self, images: Dataset) -> Tensor:
        """Return how real the discriminator finds the images `audited(images)`, `[n]`."""
        return self._likelihood("realness", images)

    @functools.cached_property
    def judge(self) -> Model | None:
        """The model beside its discriminator; None without one."""
        return with_discriminator(self.model)

    @property
    def tokens_per_image(self) -> int:
        """How many codes a model of two stages writes for an image."""
        tokenizer = self.tokenizer
        assert tokenizer is not None
        return math.prod(tokenizer.code_shape)

    @property
    def tokenizer(self) -> Tokenizes | None:
        """What turns images into the codes of the model; None without codes."""
        child = getattr(self.model.family, "tokenizer", None)
        return child if isinstance(child, Tokenizes) else None

    def shown(self, images: Dataset) -> NDArray[np.int64]:
        """Return the rows of the real images that the model is shown.

        They are drawn by the seed from those whose label it knows.
        """
        known = self.known(images)
        return known[draw_rows(len(known), MOST_SHOWN, self._seed, "shown")]

    def audited(self, images: Dataset) -> NDArray[np.int64]:
        """Return the rows of the real images of which an attack guesses whether the model learnt them."""
        known = self.known(images)
        return known[draw_rows(len(known), MOST_AUDITED, self._seed, "audited")]

    def known(self, images: Dataset) -> NDArray[np.int64]:
        """Return the rows whose label the model knows.

        Without labels, these are all rows.
        """
        if not self.model.labels:
            return np.arange(len(images))
        return np.flatnonzero(map_labels(images, self.model.labels) >= 0)

    def _likelihood(self, kind: str, images: Dataset) -> Tensor:
        key = (kind, images.fingerprint)
        if key not in self._likelihoods:
            rows = self.audited(images) if kind in _ATTACKS else self.shown(images)
            found = []
            for part in index_batches(len(rows), batch_size_for(images.size, self.model.family.chunk)):
                if self._on_progress is not None:
                    self._on_progress(int(part[0]), len(rows), "Measuring likelihoods")
                pictures = Images(images.images(rows[part]))
                known: dict[str, Any] = {
                    "label": labels_for(self.model, images, rows[part]),
                    "prompt": self._prompts(images, rows[part], int(part[0])),
                    "attributes": attributes_for(self.model, images, rows[part]),
                }
                seed = derived_seed(self._seed, kind, int(part[0]))
                with exact(), warnings.catch_warnings():
                    warnings.simplefilter("ignore", OutsideTrainingWarning)  # these images are as they are
                    found.append(self._of(kind, pictures, known, seed))
            self._likelihoods[key] = torch.cat(found)
        return self._likelihoods[key]

    def _of(self, kind: str, pictures: Images, known: dict[str, Any], seed: int) -> Tensor:
        """Compute one of the kinds of likelihood of some images, `[n]`."""
        if kind == "bits per dim":
            return self.model.bits_per_dim(pictures, **known, seed=seed)
        if kind == "evidence":  # the same noise for all images, which are compared with one another
            return self.model.log_evidence(pictures, **known, seed=derived_seed(self._seed, kind))
        if kind == "realness":
            assert self.judge is not None
            return self.judge.realness(pictures, **known)
        return self.model.token_nll(pictures, **known)

    def _prompts(self, images: Dataset, rows: NDArray[np.int64], first: int) -> Sequence[str] | None:
        """The captions of real images; None where the model reads none, or they have none."""
        return draw_captions(images, rows, self._seed, first) if self.model.family.config.reads_text else None


def draw_captions(
    images: Dataset, rows: NDArray[np.int64], seed: int, first: int = 0
) -> tuple[str, ...] | None:
    """Draw one caption for each of the images at `rows`; None without captions.

    first: the position of the first of them, where they are a part of more.
    """
    texts = images.texts(rows)
    return None if texts is None else captions.chosen(texts, seed, first)
