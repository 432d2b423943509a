"""Images from anywhere, packed once and read fast: `open_dataset`, then `Batches`."""

from danqing.data.augment import Augment
from danqing.data.batches import Batches
from danqing.data.dataset import Dataset
from danqing.data.records import DataReport, DatasetInfo
from danqing.data.sources import open_dataset

__all__ = ["Augment", "Batches", "DataReport", "Dataset", "DatasetInfo", "open_dataset"]
