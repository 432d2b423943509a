"""`explain`: why a model answers as it does, or what a generator has learned, on one page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.editing import inputs
from danqing.editing.outputs import make_folder
from danqing.errors import ConfigError, DataError
from danqing.families import display_name
from danqing.image_files import decode
from danqing.images import Images, to_uint8
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.model.recognizer import Pixels, Recognizer, load_recognizer, open_trained
from danqing.progress import ProgressCallback
from danqing.recognition.explain import of_generator
from danqing.recognition.explain.findings import Explanation, Figure, Section
from danqing.recognition.explain.of_recognizer import HOW_TO_READ, explain_images
from danqing.recognition.image_index import ImageIndex

MOST_IMAGES = 32
_NEAREST = 6


def explain(
    model: Model | Recognizer | HasModel | str | Path,
    images: Pixels | str | Path | list[str] | None = None,
    *,
    label: str | None = None,
    prompt: str | None = None,
    classifier: Recognizer | str | Path | None = None,
    segmenter: Recognizer | str | Path | None = None,
    layer: str | None = None,
    index: ImageIndex | str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Explanation:
    """Explain what a model recognizes in images, or what a generator has learned.

    images: for a model that recognizes, at most `MOST_IMAGES`: files, a folder or arrays, as `predict` takes
        them.
    label: explain this label besides the most probable one.
    prompt: for a generator that reads text: show where its samples attend to each word.
    classifier, segmenter: for a GAN or a VAE: models that name directions, and units of `layer`, a name of
        one of its layers; by default the one in the middle.
    index: an index of the training images (`danqing.index`), to show those nearest to each image or sample.
    out: where to write the page.

    Raises ConfigError for what the model cannot explain, DataError, ModelError, and DanqingError where `out`
    cannot be written.
    """
    if out is not None:
        make_folder(Path(out).parent)  # before the work, not after it
    opened = model if isinstance(model, Model | Recognizer) else open_trained(model, device=device)
    tell = on_progress or _silent
    if isinstance(opened, Model):
        found = _of_generator(opened, images, label, prompt, classifier, segmenter, layer, seed, tell)
        if not found.sections and index is None:
            raise _nothing_to_show(opened)
        shown: NDArray[np.uint8] | None = None if index is None else opened.sample(4, seed=seed).array
        names = [f"sample {number}" for number in range(4)]
    else:
        if prompt is not None or classifier is not None or segmenter is not None or layer is not None:
            raise ConfigError(
                "A prompt, a classifier, a segmenter and a layer are for generators: leave them out."
            )
        inner, names = _read(opened, images)
        tell(0, 1, "Explaining")
        sections, notes = explain_images(opened, inner, names, label)
        found = Explanation(_name(opened), _lead(opened), tuple(sections), tuple(notes))
        shown = to_uint8(inner.cpu()).numpy()
    if index is not None and shown is not None:
        found = _with(found, _nearest(index, shown, names))
    if out is not None:
        found.save(out)
    return found


def _silent(done: int, total: int, what: str) -> None:
    """Report nothing."""


def _of_generator(
    model: Model,
    images: object,
    label: str | None,
    prompt: str | None,
    classifier: Recognizer | str | Path | None,
    segmenter: Recognizer | str | Path | None,
    layer: str | None,
    seed: int,
    tell: ProgressCallback,
) -> Explanation:
    if images is not None or label is not None:
        raise ConfigError(
            "This model generates images, and explains no given ones: leave images and label out, or use a "
            "model trained with --task classify."
        )
    if layer is not None and segmenter is None:
        raise ConfigError("A layer is compared with masks: give a segmenter too.")
    sections = list[Section]()
    if prompt is not None:
        tell(0, 1, "Words")
        sections.append(of_generator.words_over(model, prompt, seed))
    walks = of_generator.can_walk(model)
    if walks:
        tell(0, 1, "Directions")
        sections.append(of_generator.strongest(model, seed))
    if classifier is not None:
        sections.append(of_generator.labelled(model, _recognizer(classifier), seed))
    if segmenter is not None:
        tell(0, 1, "Units")
        sections.append(of_generator.units(model, _recognizer(segmenter), layer, seed))
    marks = model.marking("sample", overview=True)
    shown = tuple(replace(section, marks=marks) for section in sections)
    return Explanation(_name(model), "What the generator has learned.", shown)


def _nothing_to_show(model: Model) -> ConfigError:
    if model.family.config.reads_text:
        return ConfigError("Give a prompt (--prompt), whose words are shown over the images.")
    return ConfigError(
        f"A {display_name(model.family.config.family)} has no directions or units to show: give an index "
        "(danqing index), or explain a GAN or a VAE."
    )


def _recognizer(model: Recognizer | str | Path) -> Recognizer:
    return model if isinstance(model, Recognizer) else load_recognizer(model)


def _read(
    recognizer: Recognizer, images: Pixels | str | Path | list[str] | None
) -> tuple[torch.Tensor, list[str]]:
    """Return images as the model sees them, and their names."""
    if images is None:
        raise ConfigError("Give the images whose labels are explained.")
    if isinstance(images, Images | np.ndarray | torch.Tensor):
        prepared = recognizer.inputs(images)
        names = [f"image {number}" for number in range(len(prepared))]
    else:
        files = inputs.find(images)
        names = list(files.names[: MOST_IMAGES + 1])
        prepared = torch.cat([_decoded(recognizer, files, name) for name in names[:MOST_IMAGES]])
    if len(names) > MOST_IMAGES:
        raise ConfigError(f"At most {MOST_IMAGES} images are explained on a page: give fewer.")
    return prepared, names


def _decoded(recognizer: Recognizer, files: inputs.Inputs, name: str) -> torch.Tensor:
    try:
        pixels = decode(files.read(name), **recognizer.reading())
    except DataError as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    return recognizer.inputs(pixels[None].copy())  # a decoded image may be read-only


def _nearest(index: ImageIndex | str | Path, shown: NDArray[np.uint8], names: list[str]) -> Section:
    """Show the images of an index that are nearest to some others."""
    opened = index if isinstance(index, ImageIndex) else ImageIndex.load(index)
    found = opened.search(shown, _NEAREST)
    pictures = opened.pictures({match.id for matches in found for match in matches})
    rows = [
        [
            Figure(image, name),
            *(
                Figure(pictures[match.id], f"{match.id} {match.similarity:.2f}")
                for match in matches
                if match.id in pictures
            ),
        ]
        for image, name, matches in zip(shown, names, found, strict=True)
    ]
    values = {
        name: [{"id": match.id, "similarity": round(match.similarity, 4)} for match in matches]
        for name, matches in zip(names, found, strict=True)
    }
    words = f"The nearest of {len(opened):,} images of {opened.facts.data}, by {opened.facts.encoder}."
    return Section("Nearest images", words, rows, values)


def _with(found: Explanation, section: Section) -> Explanation:
    return Explanation(found.name, found.lead, (*found.sections, section), found.notes)


def _name(model: Model | Recognizer) -> str:
    config = model.family.config if isinstance(model, Model) else model.learner.config
    name = display_name(config.family)
    return f"{name[0].upper()}{name[1:]}{f' {model.origin.parent.name}' if model.origin else ''}"


def _lead(recognizer: Recognizer) -> str:
    width, height = recognizer.size
    seen = f"it sees them at {width}×{height} pixels"
    return f"Why the model gives these images their labels; {seen}. {HOW_TO_READ}"
