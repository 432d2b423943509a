"""Describes models for clients, from their folders."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from danqing.errors import DanqingError
from danqing.families.abilities import Fills, HasTokenizer, PaintsInSteps, Tokenizes, Translates, Varies
from danqing.families.base import Family
from danqing.model import folder as model_folder
from danqing.model.model import Model
from danqing.options import Verb
from danqing.service.engine.offers import Offer

LOAD_ERRORS = (DanqingError, OSError, RuntimeError, MemoryError, ValueError)
"""The errors that reading a model may raise."""
MOST_CARD = 200_000
"""Characters of a model card that are shown."""


def describe(name: str, source: str) -> Offer:
    """Describe a model without loading its weights.

    The offer has a `fault` if it cannot be used.
    """
    try:
        folder, within = locate(source)
        family, facts = model_folder.examine(folder, within=within)
        return _offer(name, source, folder, within, Model(family, facts))
    except LOAD_ERRORS as error:
        return Offer(name=name, path=source, fault=str(error) or type(error).__name__)


def locate(source: str) -> tuple[Path, Path]:
    """Return the model folder of a path or a hub repository.

    Also the folder that its links may lead into.
    """
    if model_folder.is_hub_id(source):
        return model_folder.fetch(source)
    folder = model_folder.find(Path(source))
    return folder, folder


def _offer(name: str, source: str, folder: Path, within: Path, model: Model) -> Offer:
    family, config, info = model.family, model.family.config, model.info()
    reads: Literal["text", "label", "none"] = "none"
    captions: Sequence[str] = ()
    if config.reads_text:
        reads, captions = "text", info["text"]["captions"]
    elif config.reads_labels and config.labels:
        reads, captions = "label", config.label_captions
    translates = isinstance(family, Translates)
    verbs: dict[Verb, type] = {"sample": Family, "fill": Fills, "vary": Varies, "translate": Translates}
    if translates:  # without a source image it has nothing to begin from
        del verbs["sample"]
    return Offer(
        name=name,
        path=source,
        family=config.family,
        width=config.width,
        height=config.height,
        channels=config.channels,
        sizes=model.sizes,
        range=model.value_range,
        task=model.facts.get("task") or ("translate" if translates else ""),
        scale=config.source_scale,
        reads=reads,
        labels=config.labels if reads == "label" else (),
        captions=tuple(captions),
        attributes=tuple(info["attributes"]),
        options={verb: model.options_of(verb) for verb, kind in verbs.items() if isinstance(family, kind)},
        guides=config.can_guide,
        steps=isinstance(family, PaintsInSteps),
        tokens=_tokens(family),
        prompt_tokens=info["text"]["length"] if info["text"] else 0,
        resamples=info["other_sizes"],
        chunk=family.chunk,
        parameters=info["parameters"],
        created=int((folder / "config.json").stat().st_mtime),
        card=_card(folder, within),
    )


def _card(folder: Path, within: Path) -> str:
    path = folder / "README.md"
    if not path.is_file() or not path.resolve().is_relative_to(within.resolve()):
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MOST_CARD)


def _tokens(family: Family) -> int:
    """Return how many codes a picture is written in; 0 for families without codes."""
    writes = family.tokenizer if isinstance(family, HasTokenizer) else family
    return math.prod(writes.code_shape) if isinstance(writes, Tokenizes) else 0
