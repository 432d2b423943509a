"""Which places of a picture count for a label or a word, as `danqing explain` shows them, for the worker."""

from collections.abc import Sequence

import torch

from danqing.image_files import decode
from danqing.images import Pixels, encode, to_float, to_pil, to_uint8
from danqing.model.model import Model
from danqing.model.reading import reading
from danqing.model.recognizer import Recognizer
from danqing.recognition.explain.heat import Heat, overlay
from danqing.recognition.explain.of_generator import word_heats
from danqing.recognition.explain.of_recognizer import label_heats
from danqing.requested import image_seeds
from danqing.service.engine.orders import Finding, Query


def of_label(recognizer: Recognizer, query: Query, label: str | None) -> Finding:
    """Show what speaks for the most probable label of a picture.

    label: another one, which is shown too.
    """
    image = recognizer.inputs(decode(query.content, **recognizer.reading())[None].copy())
    heats = label_heats(recognizer, image, label)
    return _finding(to_uint8(image.cpu()).numpy()[0], heats, "probability")


def of_words(model: Model, query: Query, prompt: str) -> Finding:
    """Show where a picture attends to the words of its prompt."""
    config = model.family.config
    options = reading(model.facts, (config.width, config.height), config.channels)
    pixels = decode(query.content, **options)
    image = to_float(torch.from_numpy(pixels[None].copy())).to(model.device)
    (heats,) = word_heats(model, image, prompt, image_seeds(1, 0, None))
    return _finding(pixels, heats, "share")


def _finding(pixels: Pixels, heats: Sequence[Heat], measure: str) -> Finding:
    """Draw each heat over the picture as the model sees it, `[h, w, c]`."""
    files = [encode(to_pil(overlay(pixels, heat.values)), "png") for heat in heats]
    maps = [
        {"name": heat.name, measure: round(heat.share, 6), "bytes": len(file)}
        for heat, file in zip(heats, files, strict=True)
    ]
    return Finding({"maps": maps}, b"".join(files))
