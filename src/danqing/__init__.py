"""Train a generative model on a folder of images: `train`, `load`, and a model's `sample`.

>>> import danqing as dq
>>> run = dq.train("photos/", preset="vae-32", minutes=5)  # doctest: +SKIP
>>> dq.load(run).sample(16, seed=1).to_pil()  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

from danqing import threads
from danqing.version import __version__

if TYPE_CHECKING:
    from danqing.compress.distill import distill
    from danqing.compress.export import export
    from danqing.compress.shrink import Shrinkage, shrink
    from danqing.data import open_dataset
    from danqing.editing.enhance import enhance
    from danqing.editing.fill import fill
    from danqing.editing.stylize import stylize
    from danqing.editing.translate import translate
    from danqing.editing.upscale import upscale
    from danqing.editing.vary import vary
    from danqing.errors import DanqingError
    from danqing.evaluation.evaluate import Evaluation, evaluate
    from danqing.evaluation.scores import Score
    from danqing.images import Images
    from danqing.judging.contest import Contest, contest
    from danqing.model.loading import load
    from danqing.model.model import Model
    from danqing.model.protection import seal, sign, unseal
    from danqing.model.recognizer import Recognizer, load_recognizer
    from danqing.recognition.adapt import adapt
    from danqing.recognition.clean import clean
    from danqing.recognition.cleaning.result import Cleaning
    from danqing.recognition.encode import encode
    from danqing.recognition.explain.explain import explain
    from danqing.recognition.explain.findings import Explanation
    from danqing.recognition.image_index import ImageIndex, index, search
    from danqing.recognition.predict import Predictions, predict
    from danqing.recognition.robustness import Robustness, attack
    from danqing.recognition.verify import Verification, verify_pairs
    from danqing.service.judging.judge import Judging, judge
    from danqing.studies.compare import compare
    from danqing.studies.results import Comparison
    from danqing.studies.tune import Tuning, tune
    from danqing.training.listener import Listener
    from danqing.training.outcome import Run
    from danqing.training.rebuild import Rebuilt, rebuild_ema
    from danqing.training.report.document import report
    from danqing.training.run import train
    from danqing.training.sharding import shard
    from danqing.trust.verify import Provenance, verify

__all__ = [
    "Cleaning",
    "Comparison",
    "Contest",
    "DanqingError",
    "Evaluation",
    "Explanation",
    "ImageIndex",
    "Images",
    "Judging",
    "Listener",
    "Model",
    "Predictions",
    "Provenance",
    "Rebuilt",
    "Recognizer",
    "Robustness",
    "Run",
    "Score",
    "Shrinkage",
    "Tuning",
    "Verification",
    "__version__",
    "adapt",
    "attack",
    "clean",
    "compare",
    "contest",
    "distill",
    "encode",
    "enhance",
    "evaluate",
    "explain",
    "export",
    "fill",
    "index",
    "judge",
    "load",
    "load_recognizer",
    "open_dataset",
    "predict",
    "rebuild_ema",
    "report",
    "seal",
    "search",
    "shard",
    "shrink",
    "sign",
    "stylize",
    "train",
    "translate",
    "tune",
    "unseal",
    "upscale",
    "vary",
    "verify",
    "verify_pairs",
]

_HOMES = {
    "Cleaning": "danqing.recognition.cleaning.result",
    "Comparison": "danqing.studies.results",
    "Contest": "danqing.judging.contest",
    "DanqingError": "danqing.errors",
    "Evaluation": "danqing.evaluation.evaluate",
    "Explanation": "danqing.recognition.explain.findings",
    "ImageIndex": "danqing.recognition.image_index",
    "Images": "danqing.images",
    "Judging": "danqing.service.judging.judge",
    "Listener": "danqing.training.listener",
    "Model": "danqing.model.model",
    "Predictions": "danqing.recognition.predict",
    "Provenance": "danqing.trust.verify",
    "Rebuilt": "danqing.training.rebuild",
    "Recognizer": "danqing.model.recognizer",
    "Robustness": "danqing.recognition.robustness",
    "Run": "danqing.training.outcome",
    "Score": "danqing.evaluation.scores",
    "Shrinkage": "danqing.compress.shrink",
    "Tuning": "danqing.studies.tune",
    "Verification": "danqing.recognition.verify",
    "adapt": "danqing.recognition.adapt",
    "attack": "danqing.recognition.robustness",
    "clean": "danqing.recognition.clean",
    "compare": "danqing.studies.compare",
    "contest": "danqing.judging.contest",
    "distill": "danqing.compress.distill",
    "encode": "danqing.recognition.encode",
    "enhance": "danqing.editing.enhance",
    "evaluate": "danqing.evaluation.evaluate",
    "explain": "danqing.recognition.explain.explain",
    "export": "danqing.compress.export",
    "fill": "danqing.editing.fill",
    "index": "danqing.recognition.image_index",
    "judge": "danqing.service.judging.judge",
    "load": "danqing.model.loading",
    "load_recognizer": "danqing.model.recognizer",
    "open_dataset": "danqing.data",
    "predict": "danqing.recognition.predict",
    "rebuild_ema": "danqing.training.rebuild",
    "report": "danqing.training.report.document",
    "seal": "danqing.model.protection",
    "search": "danqing.recognition.image_index",
    "shard": "danqing.training.sharding",
    "shrink": "danqing.compress.shrink",
    "sign": "danqing.model.protection",
    "stylize": "danqing.editing.stylize",
    "train": "danqing.training.run",
    "translate": "danqing.editing.translate",
    "tune": "danqing.studies.tune",
    "unseal": "danqing.model.protection",
    "upscale": "danqing.editing.upscale",
    "vary": "danqing.editing.vary",
    "verify": "danqing.trust.verify",
    "verify_pairs": "danqing.recognition.verify",
}

threads.configure()


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `danqing --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'danqing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
