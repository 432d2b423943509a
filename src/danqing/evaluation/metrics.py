"""Every metric by its name: what it needs, when it is worth its cost, and how it is measured."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.evaluation import membership, memorisation, model_metrics, roc, text_metrics
from danqing.evaluation.classification import macro_f1
from danqing.evaluation.classifier_score import classifier_score
from danqing.evaluation.contract import Classifies
from danqing.evaluation.diversity import relative_diversity
from danqing.evaluation.estimate import Estimate, mean_of
from danqing.evaluation.feature_rows import Mapped
from danqing.evaluation.frechet import (
    extrapolated_frechet_distance,
    frechet_distance,
    frechet_distance_per_class,
)
from danqing.evaluation.kernel import kernel_distance
from danqing.evaluation.metric_inputs import MetricInputs
from danqing.evaluation.scores import Score
from danqing.families.abilities import Encodes, HasLikelihood, HasTokenLikelihood, Translates

Check = Callable[[MetricInputs], str | None]
_FEW_PER_CLASS = 500
_MOST_CLASSES = 20
_FEW_TO_TEACH = 500
_MANY_IMAGES = 100_000
_UNEVEN = 2


@dataclass(frozen=True)
class Metric:
    """How a metric is measured: all the scores that come of it.

    lacks: what is missing, as the end of "because"; None if it can be measured.
    unwise: why it is measured only on request.
    """

    measure: Callable[[MetricInputs], Iterable[Score]]
    lacks: tuple[Check, ...] = ()
    unwise: tuple[Check, ...] = ()


def distance_name(kind: str, network: str) -> str:
    """Return the name of a distance; FID and KID mean Inception alone."""
    inception = {"FD": "FID", "FD∞": "FID∞", "KD": "KID", "CS": "IS"}
    return inception[kind] if network == "inception" else f"{kind}-{network}"


def frechet(c: MetricInputs) -> Iterable[Score]:
    c.tell("Measuring the Fréchet distance")
    yield _distance(c, "frechet", "FD", frechet_distance(c.generated_features, c.reference_features))


def frechet_infinity(c: MetricInputs) -> Iterable[Score]:
    c.tell("Extrapolating the Fréchet distance")
    estimate = extrapolated_frechet_distance(c.generated_features, c.reference_features, seed=c.seed)
    yield _distance(c, "frechet-infinity", "FD∞", estimate)


def frechet_per_class(c: MetricInputs) -> Iterable[Score]:
    c.tell("Measuring the Fréchet distance per class")
    ours, real = c.labels(c.generated), c.labels(c.reference.images)
    by_label = frechet_distance_per_class(c.generated_features, ours, c.reference_features, real)
    counts = _counts(c)
    for label, estimate in by_label.items():
        settings = {"reference_of_class": int((real == label).sum())}
        score = _distance(c, f"frechet/{c.shared_labels[label]}", "FD", estimate, settings=settings)
        yield score.model_copy(
            update={"name": f"{score.name} of {c.shared_labels[label]}", "images": int(counts[0][label])}
        )


def kernel(c: MetricInputs) -> Iterable[Score]:
    c.tell("Measuring the kernel distance")
    yield _distance(c, "kernel", "KD", kernel_distance(c.generated_features, c.reference_features))


def classifier(c: MetricInputs) -> Iterable[Score]:
    assert isinstance(c.network, Classifies)
    classes = c.network.probabilities(c.generated_features[0:1]).shape[1]
    estimate = classifier_score(Mapped(c.generated_features, c.network.probabilities, classes))
    yield _distance(c, "classifier-score", "CS", estimate, better=True)


def of_manifold(name: str) -> Metric:
    def measure(c: MetricInputs) -> Iterable[Score]:
        n, m = c.n, c.reference.info.count
        uneven = f"it depends on the counts, which are uneven: compare at {n:,} against {m:,} alone"
        note = uneven if max(n, m) > _UNEVEN * min(n, m) else ""
        yield c.score(name, name, c.manifold[name], better=True, features=c.feature_info, note=note)

    return Metric(measure, (_too_few_for_balls,))


def diversity(c: MetricInputs) -> Iterable[Score]:
    """Measure the diversity of generated images beside that of real ones."""
    conditional = len(c.shared_labels) > 1
    ours, real = (c.labels(c.generated), c.labels(c.reference.images)) if conditional else (None, None)
    yield c.score(
        "diversity",
        "diversity within labels" if conditional else "diversity",
        relative_diversity(c.generated_features, ours, c.reference_features, real),
        features=c.feature_info,
        settings={"labels": len(c.shared_labels)} if conditional else None,
        note=f"1 is as diverse as real images{' of the same label' if conditional else ''}",
    )


def classification(c: MetricInputs) -> Iterable[Score]:
    """Ravuri and Vinyals 2019, "Classification accuracy score for conditional generative models"."""
    rows = np.flatnonzero(c.labels(c.reference.images) >= 0)
    true = c.labels(c.reference.images)[rows]
    taught = c.classifier_of_generated.predict(c.reference.images, rows)
    real = c.classifier_of_real.predict(c.reference.images, rows)
    accuracy, f1 = float((real == true).mean()), macro_f1(true, real).value
    settings = {"taught_by": c.taught_images, "tested_on": len(rows)}
    yield c.score(
        "classification-accuracy",
        "classification accuracy",
        mean_of(torch.from_numpy(taught == true)),
        better=True,
        settings=settings | {"taught_by_real_images": round(accuracy, 4)},
        note=f"taught by as many real images, the same classifier reaches {accuracy:.3f}",
    )
    yield c.score(
        "classification-f1",
        "classification F1",
        macro_f1(true, taught),
        better=True,
        settings=settings | {"taught_by_real_images": round(f1, 4)},
        note=f"taught by as many real images, the same classifier reaches {f1:.3f}",
    )


def label_agreement(c: MetricInputs) -> Iterable[Score]:
    asked = c.labels(c.generated)
    rows = np.flatnonzero(asked >= 0)
    agrees = c.classifier_of_real.predict(c.generated, rows) == asked[rows]
    real = c.labels(c.reference.images)
    real_rows = np.flatnonzero(real >= 0)
    own = float((c.classifier_of_real.predict(c.reference.images, real_rows) == real[real_rows]).mean())
    per_class = {
        name: round(float(agrees[asked[rows] == label].mean()), 3)
        for label, name in enumerate(c.shared_labels)
        if (asked == label).any()
    }
    yield c.score(
        "label-agreement",
        "label agreement",
        mean_of(torch.from_numpy(agrees)),
        better=True,
        settings={"taught_by": c.taught_images, "on_real_images": round(own, 4), "per_class": per_class},
        note=f"the classifier that judges is right on {own:.3f} of the real images",
    )


def memorised(c: MetricInputs) -> Iterable[Score]:
    judged = {"generated_judged": len(c.judged), "reference_judged": len(c.judged_reference)}
    for space, ours in c.near_generated.items():
        searched = len(c.searched) if space == "features" else len(c.training)
        taught = {"training_images": len(c.training), "searched": searched, **judged}
        real, suffix = c.near_reference[space], "" if space == "features" else "/pixels"
        expected = float(f"{roc.expected_rate(len(c.judged_reference)):.2g}")
        features = c.feature_info if space == "features" else None
        yield c.score(
            f"memorised{suffix}",
            f"closer to training than real, by {space}",
            memorisation.closer(ours.closest, real.closest),
            better=False,
            features=features,
            settings=taught,
            note=_expected("0.5", c),
        )
        yield c.score(
            f"memorised/copies{suffix}",
            f"copies of training, by {space}",
            roc.rate_at(-ours.isolation, -real.isolation),
            better=False,
            features=features,
            settings=taught | {"expected": expected},
            note=_expected(str(expected), c),
        )


def duplicates(c: MetricInputs) -> Iterable[Score]:
    c.tell("Looking for duplicates")
    yield c.score(
        "duplicates", "duplicates among samples", memorisation.repeats(c.generated_keys), better=False
    )
    ours, real = c.crowds
    rare = roc.expected_rate(len(real))
    yield c.score(
        "duplicates/near",
        "near duplicates",
        roc.rate_at(-ours, -real),
        better=False,
        features=c.feature_info,
        settings={"judged": len(ours)},
        note=f"closer by features than all but {rare:.1%} of real images are to one another",
    )
    if c.knows_training:
        yield c.score(
            "duplicates/training",
            "duplicates of training",
            memorisation.contained(c.generated_keys, c.training_keys),
            better=False,
            settings={"training_images": len(c.training)},
        )


def _distance(
    c: MetricInputs,
    metric: str,
    kind: str,
    estimate: Estimate,
    *,
    better: bool = False,
    settings: dict[str, int] | None = None,
) -> Score:
    name = distance_name(kind, c.network.name)
    return c.score(metric, name, estimate, better=better, features=c.feature_info, settings=settings)


def _expected(value: str, c: MetricInputs) -> str:
    expected = f"{value} is expected where nothing is memorised"
    return f"{expected}; {c.doubt}" if c.doubt else expected


def _counts(c: MetricInputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many images of each shared label either side has."""
    first, second = (
        np.bincount(labels[labels >= 0], minlength=len(c.shared_labels))
        for labels in (c.labels(c.generated), c.labels(c.reference.images))
    )
    return first, second


def _too_few_for_balls(c: MetricInputs) -> str | None:
    few = min(c.n, c.reference.info.count)
    return f"it takes at least 10 images on either side, and there are {few}" if few < 10 else None


def _too_few(c: MetricInputs) -> str | None:
    few = min(c.n, c.reference.info.count)
    return f"it takes at least 2 images on either side, and there are {few}" if few < 2 else None


def _no_shared_labels(c: MetricInputs) -> str | None:
    if not c.candidate.label_names:
        return "the images that are scored have no labels"
    if not c.reference.images.label_names:
        return "the data has no labels"
    return None if len(c.shared_labels) > 1 else "the two sides do not share two labels by name"


def _no_training_labels(c: MetricInputs) -> str | None:
    return None if c.training.label_names else "the training images have no labels"


def _few_per_class(c: MetricInputs) -> str | None:
    if len(c.shared_labels) > _MOST_CLASSES:
        return f"there are {len(c.shared_labels)} labels, each of which takes as long as the whole distance"
    few = min(c.n, c.reference.info.count) / max(1, len(c.shared_labels))
    return f"there are only about {few:.0f} images of each label" if few < _FEW_PER_CLASS else None


def _few_to_teach(c: MetricInputs) -> str | None:
    few = min(c.n, int((c.labels(c.training) >= 0).sum()))
    return f"{few} images teach a classifier little" if few < _FEW_TO_TEACH else None


def _few_to_learn_from(c: MetricInputs) -> str | None:
    few = len(c.training)
    return f"{few} images teach little of captions" if few < _FEW_TO_TEACH else None


def _few_to_extrapolate(c: MetricInputs) -> str | None:
    needed = 4 * c.network.dimensions
    return f"it takes {needed:,} images of features this wide" if c.n < needed else None


def _classifies_nothing(c: MetricInputs) -> str | None:
    known = isinstance(c.network, Classifies)
    return None if known else f"{c.network.name} ends in no classifier"


def _nothing_held_out(c: MetricInputs) -> str | None:
    return None if c.is_held_out else "there are no real images that were not learnt from to compare with"


def _much_to_search(c: MetricInputs) -> str | None:
    many = len(c.training)
    return f"there are {many:,} training images to search" if many > _MANY_IMAGES else None


def _no_likelihood(c: MetricInputs) -> str | None:
    if c.candidate.model is None:
        return "only a model has a likelihood"
    family = c.candidate.model.family
    if not isinstance(family, HasLikelihood):
        return f"a {family.config.family} cannot say how likely an image is"
    return model_metrics.unlabelled(c)


def _no_token_likelihood(c: MetricInputs) -> str | None:
    if c.candidate.model is None:
        return "only a model writes tokens"
    family = c.candidate.model.family
    if not isinstance(family, HasTokenLikelihood) or c.on_real_images.tokenizer is None:
        return f"this {family.config.family} cannot say how likely tokens are"
    return model_metrics.unlabelled(c)


def _has_no_samples(c: MetricInputs) -> str | None:
    if not c.remakes_reference:
        return None
    translates = isinstance(c.on_real_images.model.family, Translates)
    return f"a {'model that translates' if translates else 'first stage'} has no samples of its own"


def _no_encoder(c: MetricInputs) -> str | None:
    if c.candidate.model is None:
        return "only a model can reconstruct images"
    family = c.candidate.model.family
    if not isinstance(family, Encodes | Translates):
        return f"a {family.config.family} cannot encode images"
    return model_metrics.unlabelled(c)


def _reconstruction(name: str) -> Metric:
    def measure(c: MetricInputs) -> Iterable[Score]:
        yield model_metrics.reconstruction(c, name)

    def lacks(c: MetricInputs) -> str | None:
        return model_metrics.cannot_compare(c, name)

    return Metric(measure, (_no_encoder, lacks))


_LABELS = (_too_few, _no_shared_labels)
_TAUGHT = (*_LABELS, _no_training_labels, _nothing_held_out)

METRICS: Mapping[str, Metric] = {
    "kernel": Metric(kernel, (_too_few,)),
    "frechet": Metric(frechet, (_too_few,)),
    "frechet-infinity": Metric(frechet_infinity, (_too_few_for_balls,), (_few_to_extrapolate,)),
    "frechet-per-class": Metric(frechet_per_class, _LABELS, (_few_per_class,)),
    "classifier-score": Metric(classifier, (_classifies_nothing,)),
    **{name: of_manifold(name) for name in ("precision", "recall", "density", "coverage")},
    "diversity": Metric(diversity, (_too_few,)),
    "classification-accuracy": Metric(classification, _TAUGHT, (_few_to_teach,)),
    "label-agreement": Metric(label_agreement, _TAUGHT, (_few_to_teach,)),
    **{name: _reconstruction(name) for name in model_metrics.RECONSTRUCTIONS},
    "bits-per-dim": Metric(model_metrics.bits_per_dim, (_no_likelihood,)),
    "token-nll": Metric(model_metrics.token_nll, (_no_token_likelihood,)),
    "composition": Metric(text_metrics.composition, (text_metrics.no_shapes, text_metrics.no_prompts)),
    "prompt-agreement": Metric(
        text_metrics.prompt_agreement,
        (text_metrics.no_prompts, text_metrics.nothing_to_tell_apart, _nothing_held_out),
        (_few_to_learn_from,),
    ),
    "memorised": Metric(memorised, (_has_no_samples, _too_few, _nothing_held_out), (_much_to_search,)),
    "duplicates": Metric(duplicates, (_has_no_samples, _too_few), (_much_to_search,)),
    "membership": Metric(membership.membership, (_too_few, membership.cannot_attack, _nothing_held_out)),
}
ALIASES = {
    "classification-f1": "classification-accuracy",
    "composition-all": "composition",
    "prompt-agreement-top5": "prompt-agreement",
}
"""Parts of a metric by their own names, each with the metric that measures it."""
OTHER_NAMES = {
    **dict.fromkeys(("fd", "fid", "frechet-distance", "rfid"), "frechet"),
    **dict.fromkeys(("kd", "kid", "mmd", "cmmd", "kernel-distance"), "kernel"),
    **dict.fromkeys(("is", "inception-score"), "classifier-score"),
    **dict.fromkeys(("lpips", "pd"), "perceptual"),
    **dict.fromkeys(("mse", "l2"), "reconstruction-error"),
    **dict.fromkeys(("mae", "l1"), "absolute-error"),
    **dict.fromkeys(("bpd", "nll", "likelihood"), "bits-per-dim"),
    **dict.fromkeys(("cas", "accuracy"), "classification-accuracy"),
    **dict.fromkeys(("clip-score", "clipscore"), "prompt-agreement"),
    **dict.fromkeys(("memorization", "memorized", "authenticity"), "memorised"),
    **dict.fromkeys(("mia", "privacy", "epsilon"), "membership"),
}
"""Names that other tools use for something alike: suggested, and never taken for ours."""


def nearest(name: str) -> str:
    """Return the metric that `name` may be a misspelling of.

    Empty if none is near.
    """
    plain = name.lower().replace("_", "-").replace(" ", "-")
    if plain in OTHER_NAMES:
        return OTHER_NAMES[plain]
    found = difflib.get_close_matches(plain, [*METRICS, *ALIASES, *OTHER_NAMES], n=1, cutoff=0.7)
    return OTHER_NAMES.get(found[0], found[0]) if found else ""
