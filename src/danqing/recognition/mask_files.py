"""Masks as files: a PNG for each image, an overlay, and which classes there are."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from danqing.editing import inputs
from danqing.editing.inputs import Source
from danqing.editing.outputs import write_file
from danqing.evaluation.mask_overlays import class_colours, overlaid, to_png
from danqing.images import encode
from danqing.model.recognizer import Recognizer
from danqing.progress import ProgressCallback
from danqing.recognition.predict import Predictions, gathered
from danqing.recognition.prediction import Prediction
from danqing.recognition.segment import Scale, segment_files


def write_masks(
    recognizer: Recognizer,
    source: Source,
    out: Path,
    *,
    scale: Scale = "model",
    on_progress: ProgressCallback | None = None,
) -> Predictions:
    """Write the mask of each image file to a folder; returns the share of each class, without masks.

    A mask is `masks/NAME.png`, as large as its image. `overlays/NAME.png` shows it over the image.
    `classes.json` names the classes and their colours, `predictions.csv` has the shares. One image at a time
    is in memory.
    source: a file, a folder, a zip or a pattern, or several files. scale: as of `segment`.
    A file that cannot be read is listed with its reason. Raises DanqingError, also if none can be read.
    """
    found = inputs.find(source).outside(out)
    files, items = _names_of_masks(found.names), list[Prediction]()
    failed: dict[str, str] = {}
    for one in segment_files(recognizer, found, scale=scale, with_images=True, on_progress=on_progress):
        if one.mask is None or one.image is None:
            failed[one.name] = one.failure
            continue
        items.append(Prediction.of_mask(one.name, one.mask, recognizer.classes, keep=False))
        write_file(out / "masks" / files[one.name], to_png(one.mask, len(recognizer.classes)))
        write_file(out / "overlays" / files[one.name], encode(overlaid(one.image, one.mask)))
    predictions = gathered(recognizer, items, failed)
    colours = class_colours(len(recognizer.classes)).tolist()
    classes = [
        {"value": value, "name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour)}
        for value, (name, colour) in enumerate(zip(recognizer.classes, colours, strict=True))
    ]
    write_file(out / "classes.json", (json.dumps(classes, indent=2, ensure_ascii=False) + "\n").encode())
    write_file(out / "predictions.csv", predictions.to_csv().encode())
    return predictions


def _names_of_masks(names: Sequence[str]) -> dict[str, str]:
    """The file of each mask; images that differ only in their endings keep them."""
    plain = {name: Path(name).with_suffix(".png").as_posix() for name in names}
    counts = Counter(plain.values())
    return {name: f"{name}.png" if counts[file] > 1 else file for name, file in plain.items()}
