"""Images with what was recognized drawn on them, as files."""

from pathlib import Path, PurePosixPath

from danqing import atomic
from danqing.editing import inputs
from danqing.editing.inputs import Source
from danqing.errors import ConfigError, DataError
from danqing.evaluation.box_drawing import draw_boxes
from danqing.image_files import decode
from danqing.images import encode
from danqing.recognition.predict import Predictions


def write_drawings(found: Predictions, images: Source, folder: Path) -> dict[str, str]:
    """Write each image with its boxes as a PNG file.

    Returns the images that can no longer be read, and why.
    images: the files that `found` was predicted from. folder: is created if necessary.
    Raises ConfigError if the predictions have no objects, and OSError.
    """
    if any(item.objects is None for item in found):
        raise ConfigError("This model finds no objects, so there is nothing to draw: leave --drawn out.")
    files, numbers = inputs.find(images), {name: number for number, name in enumerate(found.classes)}
    failed = dict[str, str]()
    for item in found:
        try:
            pixels = decode(files.read(item.name), channels=3)
        except DataError as error:  # it could be read when `found` was predicted
            failed[item.name] = str(error)
            continue
        objects = item.objects or ()
        drawn = draw_boxes(
            pixels,
            [each.box for each in objects],
            [numbers[each.name] for each in objects],
            found.classes,
            [each.score for each in objects],
        )
        ending = "" if PurePosixPath(item.name).suffix.lower() == ".png" else ".png"
        path = folder / f"{item.name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, encode(drawn))
    return failed
