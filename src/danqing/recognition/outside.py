"""Images outside of a domain: how unlike the training images an image is, by several measures.

Larger always means more unlike. The distance to the nearest training images is the measure to use
(`benchmarks/out_of_domain.py`); the others need no training images, or are there for comparison.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation.neighbours import nearest

_LEAST_PER_CLASS = 2
_LEAST_SCALE = 0.01
"""The least standard deviation of a feature, beside the mean: some features are constant in training."""


@dataclass(frozen=True, eq=False)
class ClassDistance:
    """The Mahalanobis distance to the nearest class.

    All classes share one covariance. (Lee et al. 2018, equation 2.)
    means: `[k, d]`. factor: `[d, d]`, the lower Cholesky factor of the covariance.
    """

    means: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor | None = None) -> "ClassDistance":
        """Fit the distance to the features of training images, `[n, d]`.

        labels: int64 `[n]`, -1 for none; without any, all images are one class. Raises EvaluationError where
        there are too few.
        """
        features = features.double()
        labels = torch.zeros(len(features), dtype=torch.int64) if labels is None else labels
        classes = [label for label in labels.unique().tolist() if label >= 0]
        classes = [label for label in classes if int((labels == label).sum()) >= _LEAST_PER_CLASS]
        if not classes:
            raise EvaluationError("A domain needs at least two training images of a class: add images.")
        means = torch.stack([features[labels == label].mean(0) for label in classes])
        apart = torch.cat(
            [features[labels == label] - mean for label, mean in zip(classes, means, strict=True)]
        )
        scale = apart.square().mean(0).sqrt()
        scale = scale.clamp_min(_LEAST_SCALE * float(scale.mean())).clamp_min(1e-12)
        return cls(means, scale[:, None] * torch.linalg.cholesky(shrunk_covariance(apart / scale)))

    def __call__(self, features: Tensor) -> Tensor:
        """Return the distance of features `[n, d]` to the nearest class, `[n]` float64."""
        apart, means = (
            torch.linalg.solve_triangular(self.factor, rows.double().T, upper=False).T
            for rows in (features, self.means)
        )
        return torch.cdist(apart, means).amin(1)


def root_normalized(features: Tensor) -> Tensor:
    """Return the signed square roots of features `[n, d]`, at length 1.

    A few strong features then do not hide the others. (Arandjelović and Zisserman 2012, section 3.)
    """
    return F.normalize(features.float().sign() * features.float().abs().sqrt())


def neighbour_distance(features: Tensor, training: Tensor, *, k: int = 10) -> Tensor:
    """Return the distance to the k-th nearest training image, `[n]`.

    features, training: `[n, d]` and `[m, d]`, normalized. Raises EvaluationError where m is less than k.
    (Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors".)
    """
    return nearest(features.float(), training.float(), k)[0][:, -1]


def energy(logits: Tensor) -> Tensor:
    """Return the energy of logits `[n, k]`.

    It is minus the logarithm of the sum of their exponentials. (Liu et al. 2020, "Energy-based
    Out-of-distribution Detection", equation 4.)
    """
    return -logits.double().logsumexp(1)


def uncertainty(logits: Tensor) -> Tensor:
    """Return one minus the highest probability (Hendrycks and Gimpel 2017)."""
    return 1 - logits.double().softmax(1).amax(1)


def typicality(nll: Tensor, training_nll: Tensor) -> Tensor:
    """Return how far likelihoods are from those of the training images.

    nll, training_nll: negative log-likelihoods `[n]` and `[m]`, in the same unit.
    The likelihood itself misleads: a generator finds simpler images likelier than those it was trained on.
    Both ends are therefore unlike. (Nalisnick et al. 2019, "Detecting Out-of-Distribution Inputs to Deep
    Generative Models Using Typicality", for sets of one image.)
    """
    return (nll.double() - training_nll.double().mean()).abs()


def shrunk_covariance(apart: Tensor) -> Tensor:
    """Return the covariance of centred rows `[n, d]`, shrunk towards equal variances.

    (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".)
    """
    count, dimensions = apart.shape
    sample = apart.T @ apart / count
    target = sample.diagonal().mean() * torch.eye(dimensions, dtype=apart.dtype)
    distance = (sample - target).square().sum()
    noise = (apart.square().sum(1).square().mean() - sample.square().sum()) / count
    share = (noise / distance.clamp_min(1e-30)).clamp(0, 1)
    tiny = 1e-9 * sample.diagonal().mean().clamp_min(1e-9)
    return share * target + (1 - share) * sample + tiny * torch.eye(dimensions, dtype=apart.dtype)
