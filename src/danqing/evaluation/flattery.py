"""Whether a score flatters a model because the model was trained with the network that scores it."""

from danqing.evaluation.scores import FeatureInfo
from danqing.families.abilities import HasTokenizer, Perceives
from danqing.model.model import Model


def was_trained_with(model: Model, network: FeatureInfo) -> bool:
    """Return whether a model was trained with a network.

    The first stage of the model counts as well.

    Networks are compared by the sha256 of their weights, which a model records when it is trained. A model of
    an earlier version recorded none: for such a model the name in its configuration decides.
    """
    recorded = [*model.facts.get("networks", []), *model.facts.get("tokenizer", {}).get("networks", [])]
    if network.sha256 in [one["sha256"] for one in recorded]:
        return True
    family = model.family
    stages = [family, family.tokenizer] if isinstance(family, HasTokenizer) else [family]
    return network.name in [stage.perceptual_network for stage in stages if isinstance(stage, Perceives)]
