"""What vectors of images know about labels: votes of the nearest neighbours, and a linear classifier."""

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate, share_of
from danqing.evaluation.neighbours import nearest

NEIGHBOURS = 20
_SHARPNESS = 0.07
_STEPS = 100
_LEAST_SPREAD = 1e-6


def neighbour_votes(
    vectors: Tensor,
    known: Tensor,
    labels: Tensor,
    *,
    k: int = NEIGHBOURS,
    skip_self: bool = False,
) -> Tensor:
    """Predict the label of each vector from those of its nearest neighbours, int64 `[n]`.

    vectors: `[n, d]`. known: `[m, d]`, with their labels from 0 on, `[m]`.
    k: of fewer vectors, all vote. A neighbour at the cosine s has exp(s / 0.07) votes (Wu et al. 2018,
        section 3.4).
    skip_self: leave out the neighbour of the same number, for the votes within one set.
    Raises EvaluationError where there is no neighbour.
    """
    k = min(k, len(known) - skip_self)
    if k < 1:
        raise EvaluationError("Neighbours cannot vote without labelled images: give at least two.")
    units, support = F.normalize(vectors.float(), dim=1), F.normalize(known.float(), dim=1)
    distances, rows = nearest(units, support, k, skip_self=skip_self)
    cosines = 1 - distances.square() / 2
    votes = torch.zeros(len(vectors), int(labels.max()) + 1)
    return votes.scatter_add_(1, labels[rows], (cosines / _SHARPNESS).exp()).argmax(1)


def neighbour_accuracy(vectors: Tensor, labels: Tensor, *, k: int = NEIGHBOURS) -> Estimate:
    """Return the share of vectors whose label their nearest neighbours in the same set predict.

    vectors: `[n, d]`. labels: `[n]`, from 0 on. Errors are those of `neighbour_votes`.
    """
    return share_of(neighbour_votes(vectors, vectors, labels, k=k, skip_self=True) == labels)


def partner_accuracy(first: Rows, second: Rows) -> Estimate:
    """Return the share of vectors `[n, d]` whose partner is the nearest of `n` others."""
    rows = nearest(first, second, 1)[1][:, 0]
    return share_of(rows == torch.arange(len(rows)))


class LinearProbe:
    """A linear classifier of vectors.

    weight: `[d, k]`. bias: `[k]`.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def logits(self, vectors: Tensor) -> Tensor:
        """Compute the logits of each label, `[n, k]` float32."""
        return (vectors.double() @ self.weight + self.bias).float()

    def accuracy(self, vectors: Tensor, labels: Tensor) -> Estimate:
        """Return the share of vectors `[n, d]` whose label `[n]` has the largest logit."""
        return share_of(self.logits(vectors).argmax(1) == labels)


def fit_linear(vectors: Tensor, labels: Tensor, *, strength: float = 1e-3) -> LinearProbe:
    """Fit a linear classifier by multinomial logistic regression.

    vectors: `[n, d]`; each of their numbers is standardized first. labels: `[n]`, from 0 on.
    strength: the squared weights of standardized numbers are added to the mean loss, times half of this.
    Nothing is random. Raises EvaluationError where there are not at least two labels.
    """
    if len(labels.unique()) < 2:
        raise EvaluationError("A linear probe needs images of at least two labels: give more images.")
    middle = vectors.double().mean(0)
    spread = vectors.double().std(0, correction=0).clamp_min(_LEAST_SPREAD)
    x = (vectors.double() - middle) / spread
    classes = int(labels.max()) + 1
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        found = F.cross_entropy(x @ weight + bias, labels) + strength / 2 * weight.square().sum()
        found.backward()
        return float(found.detach())

    optimizer.step(loss)
    scaled = weight.detach() / spread[:, None]
    return LinearProbe(scaled, bias.detach() - middle @ scaled)
