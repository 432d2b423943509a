"""Data sets of images, packed once and read fast: `open_dataset`, then `Batches`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danqing.data.augment import Augment
    from danqing.data.batches import Batches
    from danqing.data.dataset import Dataset
    from danqing.data.records import DataReport, DatasetInfo
    from danqing.data.sources import open_dataset

__all__ = ["Augment", "Batches", "DataReport", "Dataset", "DatasetInfo", "open_dataset"]

_HOMES = {
    "Augment": "danqing.data.augment",
    "Batches": "danqing.data.batches",
    "DataReport": "danqing.data.records",
    "Dataset": "danqing.data.dataset",
    "DatasetInfo": "danqing.data.records",
    "open_dataset": "danqing.data.sources",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the processes that decode do not need torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'danqing.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
