"""What a generator has learned: directions, units, and which words it looks at where."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.abilities import AttendsToWords, DrawsFromNoise
from danqing.families.base import FamilyConfig, ReadsText
from danqing.images import to_float, to_uint8
from danqing.model.conditions import drawn_condition
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.recognition.explain.directions import Draw, direction_of_score, walk
from danqing.recognition.explain.findings import Figure, Section
from danqing.recognition.explain.heat import Heat, overlay
from danqing.recognition.explain.model_directions import (
    MOST_DIRECTIONS,
    ModelDirections,
    draw_of,
    noise_of,
)
from danqing.recognition.explain.units import dissect, layers_with_maps, maps_of
from danqing.requested import image_seeds
from danqing.text.bpe import BytePairs
from danqing.text.pretrained import Pretrained

UNITS = 8
_DISTANCES = (-3.0, -1.5, 0.0, 1.5, 3.0)
_SHOWN = 2
"""Images that are moved along each direction."""
_SCORED, _DISSECTED = 512, 128
"""Images that a classifier scores, and whose units are compared with masks."""
_AT_ONCE = 64
_LEAST_EXPLAINED = 0.05


def strongest(model: Model, seed: int) -> Section:
    """Show the directions along which images change most."""
    draw = draw_of(model, seed)
    found, shares = ModelDirections(model, seed).find()
    rows, noise = [], noise_of(model, seed, _SHOWN, "shown")
    for number, (direction, share) in enumerate(zip(found, shares.tolist(), strict=True), 1):
        rows += _walks(draw, noise, direction, f"direction {number}, {share:.0%} of all change")
    values = [
        {"share": round(share, 4), "direction": _rounded(direction)}
        for direction, share in zip(found, shares.tolist(), strict=True)
    ]
    words = (
        "Images change most along these directions of their noise, found without labels. The image in the "
        "middle of a row is a sample; the others are 1.5 and 3 standard deviations away."
    )
    return Section("Strongest directions", words, rows, values)


def labelled(model: Model, classifier: Recognizer, seed: int) -> Section:
    """Show the directions along which the logits of a classifier rise."""
    draw, noise = draw_of(model, seed), noise_of(model, seed, _SCORED, "scored")
    with torch.no_grad():
        logits = torch.cat(
            [classifier.logits(to_uint8(draw(part)).numpy()) for part in noise.split(_AT_ONCE)]
        )
    scores = logits - logits.logsumexp(1, keepdim=True) if not classifier.is_multi_label else logits
    found = [
        (name, *direction_of_score(noise, scores[:, column]))
        for column, name in enumerate(classifier.classes)
    ]
    found = sorted((each for each in found if each[2] > _LEAST_EXPLAINED), key=lambda each: -each[2])
    shown = noise_of(model, seed, _SHOWN, "shown")
    rows = []
    for name, direction, explained in found[:MOST_DIRECTIONS]:
        rows += _walks(draw, shown, direction, f"{name}, explains {explained:.0%}")
    words = (
        "Along each direction the classifier's score of a label rises. The share says how much of the "
        "variance of the score over images the direction explains."
    )
    if not found:
        words = "No direction explains the score of a label: the images hardly differ in their labels."
    values = {
        name: {
            "explained": round(explained, 4),
            "direction": _rounded(direction),
        }
        for name, direction, explained in found
    }
    return Section("Directions of labels", words, rows, values)


def units(model: Model, segmenter: Recognizer, layer: str | None, seed: int) -> Section:
    """Show the units of a layer that are active where a segmenter finds a class."""
    draw, noise = draw_of(model, seed), noise_of(model, seed, _DISSECTED, "dissected")
    first = noise[:1]
    layers = layers_with_maps(model.family, lambda: draw(first))
    name = _chosen_layer(layers, layer)
    module = dict(model.family.named_modules())[name]
    parts = []
    for part in noise.split(_AT_ONCE):
        maps, images = maps_of(module, functools.partial(draw, part))
        parts.append((maps, segmenter.masks(to_uint8(images).numpy())))
    found = dissect(parts, dict(enumerate(segmenter.classes)))
    maps, images = maps_of(module, functools.partial(draw, noise_of(model, seed, 4, "shown")))
    pixels, rows = to_uint8(images).numpy(), []
    for each in found[:UNITS]:
        caption, heats = f"unit {each.unit}: {each.name} {each.iou:.2f}", maps[:, each.unit].relu()
        rows.append([Figure(overlay(*pair), caption) for pair in zip(pixels, heats, strict=True)])
    words = (
        f"Units of the layer {name}, each with the class whose masks fit the places where it is active, and "
        "how well (intersection over union, 1 is perfect). Red is where the unit is active."
    )
    values = {"layer": name, "units": [each._asdict() for each in found]}
    return Section("Units of the network", words, rows, values)


def words_over(model: Model, prompt: str, seed: int, count: int = 4) -> Section:
    """Show where samples of a prompt attend to each of its words."""
    _reader(model)
    seeds = image_seeds(count, seed, None)
    samples = model.sample(count, prompt=prompt, seed=seed)
    images = to_float(torch.from_numpy(samples.array)).to(model.device)
    rows = []
    found = word_heats(model, images, prompt, seeds)
    for pixels, heats in zip(samples.array, found, strict=True):
        figures = [Figure(overlay(pixels, heat.values), heat.name) for heat in heats]
        rows.append([Figure(pixels, "the sample"), *figures])
    means = [(each[0].name, sum(heat.share for heat in each) / count) for each in zip(*found, strict=True)]
    shares = {word: round(share, 6) for word, share in means}
    text = (
        "Red is where the image attends to the word more than elsewhere, as a mean over all layers and "
        "heads. Attention says where a network looks, not what would change without the word."
    )
    return Section(f"Words of “{prompt}”", text, rows, {"attention": shares})


def word_heats(model: Model, images: Tensor, prompt: str, seeds: Sequence[int]) -> list[list[Heat]]:
    """Return where images of a prompt attend to each of its words, as a mean over layers and heads.

    images: `[n, c, h, w]` in [-1, 1]. seeds: of noise that is added to them, where the family needs it.
    Raises ConfigError for a model that reads no words.
    """
    family, words = _reader(model), _words_of(model.family.config, prompt)
    condition = drawn_condition(model.family.config, seeds, None, prompt, None, None).to(model.device)
    with torch.no_grad():
        attention = family.word_attention(images, condition, seeds=seeds).cpu()
    sums = [[(word, row[tokens].sum(0)) for word, tokens in words] for row in attention]
    return [[Heat(word, float(heat.mean()), heat - heat.min()) for word, heat in row] for row in sums]


def reads_words(model: Model) -> bool:
    """Return whether `word_heats` shows the words of prompts over images."""
    family, config = model.family, model.family.config
    if not isinstance(family, AttendsToWords) or not isinstance(config, ReadsText) or not config.reads_text:
        return False
    return config.text_facts is not None


def _reader(model: Model) -> AttendsToWords:
    """Return the family of a model that reads text; raises ConfigError."""
    family, config = model.family, model.family.config
    if not isinstance(family, AttendsToWords) or not config.reads_text:
        raise ConfigError("This model reads no text: leave the prompt out.")
    return family


def can_walk(model: Model) -> bool:
    """Return whether one vector of noise stands for an image of the model."""
    return isinstance(model.family, DrawsFromNoise)


def _walks(draw: Draw, noise: Tensor, direction: Tensor, caption: str) -> list[list[Figure]]:
    moved = to_uint8(walk(draw, noise, direction, _DISTANCES).flatten(0, 1)).numpy()
    rows = np.split(moved, len(noise))
    return [
        [
            Figure(pixels, caption if not (row or place) else f"{distance:+g}" if distance else "sample")
            for place, (pixels, distance) in enumerate(zip(images, _DISTANCES, strict=True))
        ]
        for row, images in enumerate(rows)
    ]


def _rounded(direction: Tensor) -> list[float]:
    return [round(value, 5) for value in direction.tolist()]


def _chosen_layer(layers: dict[str, int], wanted: str | None) -> str:
    """Return a layer by its name, by default the one in the middle; raises ConfigError."""
    names = list(layers)
    if not names:
        raise ConfigError(
            "No layer of this model has maps, so its units have no places: leave the segmenter out."
        )
    if wanted is None:
        return names[len(names) // 2]
    if wanted not in layers:
        raise ConfigError(f"There is no layer {wanted!r} with maps: choose one of {', '.join(names)}.")
    return wanted


def _words_of(config: FamilyConfig, prompt: str) -> list[tuple[str, list[int]]]:
    """Return the words of a prompt with the places of their tokens; raises TextError."""
    assert isinstance(config, ReadsText)
    facts = config.text_facts
    assert facts is not None
    if not facts.bpe:
        return Pretrained(config.text.encoder, config.text.length, sha256=facts.sha256).words(prompt)
    found: list[tuple[str, list[int]]] = []
    for place, token in enumerate(BytePairs(facts.bpe).tokens(prompt)[: config.text.length]):
        if not found or token.startswith(" ") or not token.isascii():
            found.append((token.strip(), [place]))
        else:
            word, places = found[-1]
            found[-1] = (word + token, [*places, place])
    return found
