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
    from danqing.data import open_dataset
    from danqing.editing.enhance import enhance
    from danqing.editing.fill import fill
    from danqing.editing.translate import translate
    from danqing.editing.upscale import upscale
    from danqing.editing.vary import vary
    from danqing.errors import DanqingError
    from danqing.evaluation.evaluate import Evaluation, evaluate
    from danqing.evaluation.scores import Score
    from danqing.images import Images
    from danqing.model.loading import load
    from danqing.model.model import Model
    from danqing.studies.compare import compare
    from danqing.studies.results import Comparison
    from danqing.studies.tune import Tuning, tune
    from danqing.training.listener import Listener
    from danqing.training.rebuild import Rebuilt, rebuild_ema
    from danqing.training.report.document import report
    from danqing.training.run import Run, train

__all__ = [
    "Comparison",
    "DanqingError",
    "Evaluation",
    "Images",
    "Listener",
    "Model",
    "Rebuilt",
    "Run",
    "Score",
    "Tuning",
    "__version__",
    "compare",
    "enhance",
    "evaluate",
    "fill",
    "load",
    "open_dataset",
    "rebuild_ema",
    "report",
    "train",
    "translate",
    "tune",
    "upscale",
    "vary",
]

_HOMES = {
    "Comparison": "danqing.studies.results",
    "compare": "danqing.studies.compare",
    "DanqingError": "danqing.errors",
    "Evaluation": "danqing.evaluation.evaluate",
    "Images": "danqing.images",
    "Listener": "danqing.training.listener",
    "Model": "danqing.model.model",
    "Rebuilt": "danqing.training.rebuild",
    "Run": "danqing.training.run",
    "Score": "danqing.evaluation.scores",
    "Tuning": "danqing.studies.tune",
    "enhance": "danqing.editing.enhance",
    "evaluate": "danqing.evaluation.evaluate",
    "fill": "danqing.editing.fill",
    "load": "danqing.model.loading",
    "open_dataset": "danqing.data",
    "rebuild_ema": "danqing.training.rebuild",
    "report": "danqing.training.report.document",
    "train": "danqing.training.run",
    "translate": "danqing.editing.translate",
    "tune": "danqing.studies.tune",
    "upscale": "danqing.editing.upscale",
    "vary": "danqing.editing.vary",
}

threads.configure()


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `danqing --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'danqing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
