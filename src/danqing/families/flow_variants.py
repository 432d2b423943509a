"""The variants of a flow model: of pixels, of latents, of pairs and of few steps."""

from collections.abc import Mapping

from danqing.families.base import Learner
from danqing.families.few_steps import FewStepFlow, FewStepLatentFlow
from danqing.families.flow import FlowConfig as FlowConfig
from danqing.families.flow_sampling import Flow, FlowSampler, FlowTranslator, LatentFlow


class FlowFamily(FlowSampler):
    """A flow model of any variant."""

    @classmethod
    def variants(cls) -> Mapping[str, type[Learner]]:
        return {
            "flow model of pairs": FlowTranslator,
            "flow model of few steps": FewStepFlow,
            "latent flow model of few steps": FewStepLatentFlow,
            "": Flow,
            "latent flow model": LatentFlow,
        }

    @classmethod
    def variant(cls, config: FlowConfig) -> type[Learner]:
        if config.pairs:
            return FlowTranslator
        if config.objective == "solution":
            return FewStepFlow if config.tokenizer is None else FewStepLatentFlow
        return Flow if config.tokenizer is None else LatentFlow
