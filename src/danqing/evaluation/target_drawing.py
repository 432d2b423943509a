"""Images with their targets: masks as colours over them, and boxes with the names of their classes."""

import numpy as np

from danqing.data.dataset import Dataset, Indices
from danqing.evaluation.box_drawing import draw_boxes
from danqing.evaluation.mask_overlays import overlaid
from danqing.images import Images


def draw_targets(dataset: Dataset, indices: Indices) -> Images:
    """Draw the masks and boxes of some images onto them, if there are any."""
    images, targets = dataset.images(indices).numpy(), dataset.targets_at(indices)
    if targets.mask is not None:
        rows = zip(images, targets.mask.numpy(), strict=True)
        images = np.stack([overlaid(pixels, mask) for pixels, mask in rows])
    if targets.boxes is not None and targets.box_labels is not None:
        drawn = []
        for pixels, boxes, labels in zip(images, targets.boxes, targets.box_labels, strict=True):
            known = labels >= 0
            classes = labels[known].tolist()
            one = draw_boxes(pixels, boxes[known].tolist(), classes, dataset.target_classes.boxes)
            drawn.append(np.asarray(one))
        images = np.stack(drawn)
    return Images(images)
