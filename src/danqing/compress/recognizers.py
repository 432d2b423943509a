"""The plan for models that recognize images: one graph with all of their outputs."""

import torch
from torch import Tensor, nn

from danqing.compress.plan import GraphPlan, Plan, Size, images_port, own_size
from danqing.compress.runtime.manifest import Port, Recognize
from danqing.errors import ModelError
from danqing.families.code_features import CodeFeatures
from danqing.learners.classifier import Classifier
from danqing.learners.detector import Detector
from danqing.learners.embedder import Embedder
from danqing.learners.segmenter import Segmenter
from danqing.model.recognizer import Recognizer
from danqing.sizes import SizeRange

_MOST_PIXELS = 2**26


class _Recognize(nn.Module):
    """Images in, vectors and what else the learner says of them out."""

    projection: Tensor

    def __init__(self, learner: Classifier | Detector | Embedder | Segmenter) -> None:
        super().__init__()
        self.learner = learner
        if isinstance(learner, Embedder):  # a graph cannot compute it
            self.register_buffer("projection", learner.whitening.projection(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        learner = self.learner
        if isinstance(learner, Classifier):
            return learner.embed(images), learner.logits(images)
        if isinstance(learner, Segmenter):
            return learner.embed(images), learner.mask_logits(images)
        if isinstance(learner, Detector):
            return learner.embed(images), *learner.found(images)
        return ((learner.described(images) - learner.whitening.mean) @ self.projection,)


def of_recognizer(model: Recognizer) -> Plan:
    """Return the plan of a recognizer; raises ModelError where it has none."""
    learner, config = model.learner, model.learner.config
    if not isinstance(learner, Classifier | Detector | Embedder | Segmenter):
        raise ModelError("A model that recognizes images by likelihood is not exported: export a classifier.")
    if any(isinstance(module, CodeFeatures) for module in learner.modules()):
        raise ModelError(
            "A model that reads images as a transformer's codes is not exported: train one from another "
            "model, or without --init."
        )
    sizes, multiple = own_size(config), 0
    if isinstance(learner, Segmenter) and all(side % learner.stride == 0 for side in sizes.own[0]):
        multiple = learner.stride
        sizes = SizeRange(sizes.own, multiple, multiple**2, _MOST_PIXELS)

    def examples(batch: int, size: Size, rng: torch.Generator) -> tuple[Tensor, ...]:
        width, height = size if multiple else (config.width, config.height)
        return (torch.rand(batch, config.channels, height, width, generator=rng) * 2 - 1,)

    images = images_port(config)
    if multiple:
        images = images.model_copy(update={"shape": ("n", config.channels, "h", "w")})
    outputs = (Port(name="vectors", dtype="float32", shape=("n", learner.embedding_size)), *_outputs(learner))
    graph = GraphPlan(_Recognize(learner).eval(), (images,), outputs, examples, multiple)
    classes = () if isinstance(learner, Embedder) else learner.classes
    loop = Recognize(
        ability=_ability(learner),
        classes=classes,
        is_multi_label=model.is_multi_label,
        temperature=model.temperature,
        most_overlap=learner.config.most_overlap if isinstance(learner, Detector) else 1.0,
        reach=learner.receptive_radius if isinstance(learner, Segmenter) else 0,
        reading={name: value for name, value in model.reading().items() if value is not None},
    )
    return Plan(loop, {"recognize": graph}, sizes)


def _ability(learner: nn.Module) -> str:
    if isinstance(learner, Classifier):
        return "classify"
    if isinstance(learner, Segmenter):
        return "segment"
    return "detect" if isinstance(learner, Detector) else "embed"


def _outputs(learner: nn.Module) -> tuple[Port, ...]:
    """Return the outputs besides vectors."""
    if isinstance(learner, Classifier):
        return (Port(name="logits", dtype="float32", shape=("n", len(learner.classes))),)
    if isinstance(learner, Segmenter):
        shape = ("n", len(learner.classes), "h", "w")
        return (Port(name="mask_logits", dtype="float32", shape=shape),)
    if isinstance(learner, Detector):
        logits = Port(name="logits", dtype="float32", shape=("n", "places", len(learner.classes)))
        return logits, Port(name="boxes", dtype="float32", shape=("n", "places", 4))
    return ()
