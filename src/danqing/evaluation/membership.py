"""Membership: how well an attacker tells which real images a model learnt from.

An attack gives every real image one number, which is high where the image looks learnt. Three figures say how
well the number works: the area under the ROC curve, the share of members that are found at few false alarms,
and a lower bound on the ε of differential privacy.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from danqing.data.dataset import Dataset
from danqing.evaluation import roc
from danqing.evaluation.features import extract
from danqing.evaluation.generated_images import reconstruct
from danqing.evaluation.image_sets import batch_size_for, draw_rows, index_batches
from danqing.evaluation.metric_inputs import MetricInputs
from danqing.evaluation.model_metrics import unlabelled
from danqing.evaluation.neighbours import nearest
from danqing.evaluation.real_image_results import MOST_AUDITED
from danqing.evaluation.reconstruction import squared_error
from danqing.evaluation.scores import FeatureInfo, Score
from danqing.families.abilities import Encodes, HasLikelihood, Translates, WeighsConditions
from danqing.model.model import Model
from danqing.randomness import generator

DELTA = 1e-5
"""The δ at which ε is bounded: the chance with which the guarantee of ε may fail."""
CONFIDENCE = 0.95
_LEAST_FOR_RATE = 100
_LEAST_AUDITED = 16
_GUESSED = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
_LARGEST_EPSILON = 30.0


@dataclass(frozen=True)
class Attack:
    """What an attack says of each image, high where it looks learnt.

    metric: of the scores. by: what it goes by, in words. members, others: `[n]` and `[m]`, of images that the
    model learnt from, and of images that it did not. features: the network that it uses, if any.
    """

    metric: str
    by: str
    members: Tensor
    others: Tensor
    features: FeatureInfo | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Audit:
    """A lower bound on ε, and what it follows from.

    epsilon: 0 where nothing is proved. images: how many were audited. guesses, right: those of the best rule.
    """

    epsilon: float
    images: int
    guesses: int
    right: int


def membership(c: MetricInputs) -> Iterable[Score]:
    """Measure how well each attack works that the candidate allows."""
    for attack in _attacks(c):
        learnt, fresh = attack.members, attack.others
        settings = {"training_judged": len(learnt), "reference_judged": len(fresh)}
        yield c.score(
            attack.metric,
            f"membership by {attack.by}",
            roc.roc_area(learnt, fresh),
            better=False,
            features=attack.features,
            settings=settings,
            images=len(learnt),
            note=_noted("the area below the ROC curve, 0.5 where nothing is memorised", c),
        )
        if len(fresh) >= _LEAST_FOR_RATE:
            yield c.score(
                f"{attack.metric}/tpr",
                f"membership by {attack.by} at {roc.RARE:.0%} false alarms",
                roc.rate_at(learnt, fresh),
                better=False,
                features=attack.features,
                settings=settings,
                images=len(learnt),
                note=_noted(f"{roc.expected_rate(len(fresh)):.2g} is expected where nothing is memorised", c),
            )
        found = audit(learnt, fresh, seed=c.seed)
        if found.images:
            yield c.score(
                f"{attack.metric}/epsilon",
                f"lower bound on ε by {attack.by}",
                found.epsilon,
                better=False,
                features=attack.features,
                settings={"delta": DELTA, "guesses": found.guesses, "right": found.right},
                images=found.images,
                note=_noted(
                    f"with {CONFIDENCE:.0%} confidence, training satisfies no differential privacy with a "
                    "smaller ε; 0 proves nothing",
                    c,
                ),
            )


def cannot_attack(c: MetricInputs) -> str | None:
    """Return why no attack is possible; None if one is."""
    if c.candidate.model is None or c.candidate.model.family.has_prior:
        return None  # its samples can be compared with the images
    family = c.candidate.model.family
    if family.config.reads_domains:
        return "the source images have no true targets"
    if not isinstance(family, Encodes | Translates):
        return "it neither samples nor reconstructs images"
    return unlabelled(c)


def audit(members: Tensor, others: Tensor, *, seed: int, delta: float = DELTA) -> Audit:
    """Bound ε from below by how well one training run can be guessed.

    Steinke, Nasr and Jagielski 2023, "Privacy auditing with one (1) training run", theorem 5.2: coins decide
    which images are learnt, and an attacker who abstains where unsure cannot be right more often about an
    (ε, δ)-private model than the theorem says. Here a coin decides for each audited image whether it is drawn
    from the members or from the others. That is the same where the others were held out at random.

    members, others: `[n]` and `[m]`, high where an image looks learnt.

    Several rules guess that the highest are members, and, in half of the rules, that the lowest are not. The
    bound is the best of them, at a confidence that is corrected for their number (Bonferroni).
    """
    rng, fewest = generator(seed, "audit"), min(len(members), len(others))
    count = math.floor(2 * fewest - 4 * math.sqrt(2 * fewest))  # so that neither side runs out
    if count < _LEAST_AUDITED:
        return Audit(0.0, 0, 0, 0)
    learnt = torch.rand(count, generator=rng) < 0.5
    while max(int(learnt.sum()), count - int(learnt.sum())) > fewest:
        learnt = torch.rand(count, generator=rng) < 0.5
    values = torch.empty(count, dtype=torch.float64)
    values[learnt] = _drawn(members, int(learnt.sum()), rng)
    values[~learnt] = _drawn(others, count - int(learnt.sum()), rng)
    places = torch.randperm(count, generator=rng)  # equal values must not keep the order of the sides
    learnt = learnt[places][values[places].argsort(descending=True, stable=True)]
    found = []
    for share in _GUESSED:
        half = max(1, int(share * count / 2))
        high, low = int(learnt[:half].sum()), int((~learnt[-half:]).sum())
        found += [(half, high), (2 * half, high + low)]
    error = (1 - CONFIDENCE) / len(found)
    bounds = [epsilon_bound(count, *guessed, error=error, delta=delta) for guessed in found]
    best = max(range(len(found)), key=bounds.__getitem__)
    return Audit(bounds[best], count, *found[best])


def epsilon_bound(count: int, guesses: int, right: int, *, error: float, delta: float) -> float:
    """Return the largest ε that this many right guesses exclude, 0 if they exclude none.

    count: audited images. guesses: how many of them the attacker guessed. error: the chance that the bound
    is too high, in (0, 1).
    """
    low, high = 0.0, _LARGEST_EPSILON
    if _chance(count, guesses, right, 0.0, delta) > error:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        is_excluded = _chance(count, guesses, right, middle, delta) <= error
        low, high = (middle, high) if is_excluded else (low, middle)
    return low


def _chance(count: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The chance of so many right guesses about an (ε, δ)-private model, at most."""
    exact = _binomial(guesses, 1 / (1 + math.exp(-epsilon)))
    tail = float(exact[right:].sum())
    below = exact[:right].flip(0).cumsum(0)  # of at least right - i and fewer than right, for i = 1, 2, ...
    alpha = float((below / torch.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, tail + 2 * count * delta * alpha)


def _binomial(count: int, share: float) -> Tensor:
    """The probabilities of 0 to `count` successes, float64 `[count + 1]`."""
    k = torch.arange(count + 1, dtype=torch.float64)
    ways = math.lgamma(count + 1) - torch.lgamma(k + 1) - torch.lgamma(count - k + 1)
    return (ways + k * math.log(share) + (count - k) * math.log1p(-share)).exp()


def _drawn(values: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return values.double()[torch.randperm(len(values), generator=rng)[:count]]


def _attacks(c: MetricInputs) -> Iterator[Attack]:
    """Yield the attacks that the candidate allows, each with both sides."""
    model = c.candidate.model
    if model is not None and unlabelled(c) is None:
        yield from _by_verdicts(c, model)
    if model is None or model.family.has_prior:
        yield _by_samples(c)


def _by_verdicts(c: MetricInputs, model: Model) -> Iterator[Attack]:
    """Yield the attacks by what the model itself says of real images."""
    results, sides = c.on_real_images, (c.training, c.reference.images)
    if isinstance(model.family, WeighsConditions):
        yield Attack("membership", "loss", *map(results.log_evidence, sides))
    elif isinstance(model.family, HasLikelihood):
        yield Attack("membership", "likelihood", *(-results.bits_per_dim(images) for images in sides))
    elif not model.family.has_prior:
        yield Attack("membership", "reconstruction", *(_likeness(c, images) for images in sides))
    if results.judge is not None:
        yield Attack("membership/discriminator", "discriminator", *map(results.realness, sides))


def _by_samples(c: MetricInputs) -> Attack:
    """The distance to the nearest sample (Chen et al. 2020, "GAN-Leaks", section 4.2)."""
    c.tell("Comparing real images with their nearest samples")
    sides = []
    for images in (c.training, c.reference.images):
        rows = draw_rows(len(images), MOST_AUDITED, c.seed, "audited")
        features = extract(images.subset(rows), c.network, keep=True, on_progress=c.on_progress)
        sides.append(-nearest(features, c.generated_features, 1)[0][:, 0].double())
    return Attack("membership/samples", "nearest sample", *sides, features=c.feature_info)


def _likeness(c: MetricInputs, images: Dataset) -> Tensor:
    """How well the model makes real images again, or translates their sources, `[n]`."""
    results = c.on_real_images
    rows = results.audited(images)
    again = reconstruct(results.model, images, rows, on_progress=c.on_progress)
    parts = index_batches(len(rows), batch_size_for(images.size))
    return -torch.cat([squared_error(again.images(part), images.images(rows[part])) for part in parts])


def _noted(note: str, c: MetricInputs) -> str:
    return f"{note}; {c.doubt}" if c.doubt else note
