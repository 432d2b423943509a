"""The labels and attributes of real images, as the conditions of a model."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danqing.attributes import Attribute
from danqing.data.dataset import Dataset
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.image_sets import map_labels
from danqing.model.model import Model


def labels_for(model: Model, images: ImageSet, rows: NDArray[np.int64]) -> list[int] | None:
    """Return the labels of the images at `rows` as the model knows them; None where it knows none."""
    return map_labels(images, model.labels)[rows].tolist() if model.labels else None


def attributes_for(model: Model, images: ImageSet, rows: NDArray[np.int64]) -> list[dict[str, Any]] | None:
    """Return the attributes of the images at `rows` that the model reads.

    What an image lacks, and a category that the model does not know, is left out. None where the model reads
    no attributes, or the images have none.
    """
    read = {column.name: column for column in model.family.config.attributes}
    if not read or not isinstance(images, Dataset) or not images.attributes:
        return None
    ends = np.cumsum([column.width for column in images.attributes])
    requests = []
    for values in images.attributes_at(rows):
        parts = zip(images.attributes, np.split(values, ends[:-1]), strict=True)
        told = {column.name: _told(column, part.tolist(), read.get(column.name)) for column, part in parts}
        requests.append({name: value for name, value in told.items() if value is not None})
    return requests


def _told(column: Attribute, values: list[float], known: Attribute | None) -> Any:
    """Return the value of one attribute; None where it is missing or the model does not know it."""
    if known is None or any(map(math.isnan, values)):
        return None
    if column.kind == "category":
        category = column.categories[int(values[0])]
        return category if category in known.categories else None
    return values if known.kind == "vector" else values[0]
