"""Describes models and indexes for clients, from their folders."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from danqing import weights
from danqing.errors import ModelError
from danqing.families.abilities import (
    Fills,
    HasTokenizer,
    PaintsInSteps,
    Relabels,
    Tokenizes,
    Translates,
    Varies,
)
from danqing.families.base import Family, Learner
from danqing.families.style import Style
from danqing.learners.abilities import Embeds
from danqing.model import adapted
from danqing.model.adapter_files import is_adapter
from danqing.model.files import CARD, Access, ModelFiles
from danqing.model.loading import open_source
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.options import Verb
from danqing.recognition import index_files
from danqing.recognition.explain.model_directions import direction_count
from danqing.recognition.explain.of_generator import reads_words
from danqing.recognition.image_index import ImageIndex
from danqing.service.engine import recognition
from danqing.service.engine.edits import is_enhancer
from danqing.service.engine.offers import Offer
from danqing.service.engine.served import LOAD_ERRORS, MOST_CARD
from danqing.sizes import SizeRange


def describe(name: str, source: str, access: Access) -> Offer:
    """Describe a model without loading its weights, or an index.

    access: what a model must satisfy. The offer has a `fault` if it cannot be used.
    """
    try:
        if is_index(source):
            check_index(access)
            return _offer_of_index(name, source)
        files = open_source(source, access=access)
        learner, facts = adapted.examine_learner(files, access)
        if isinstance(learner, Family):
            return _offer(name, source, files, Model(learner, facts))
        if isinstance(learner, Style):
            return _offer_of_style(name, source, files, learner)
        return _offer_of_recognizer(name, source, files, Recognizer(learner, facts))
    except LOAD_ERRORS as error:
        return Offer(name=name, path=source, fault=str(error) or type(error).__name__)


def is_index(source: str) -> bool:
    """Return whether a path leads to an index of images."""
    return index_files.exists(Path(source))


def check_index(access: Access) -> None:
    """Check that an index may be served; raises ModelError."""
    if access.require:
        raise ModelError(
            "An index of images grows and is not signed: serve it from a service without require_signature."
        )


def _offer_of_style(name: str, source: str, files: ModelFiles, style: Style) -> Offer:
    config = style.config
    return Offer(
        name=name,
        path=source,
        family=config.family,
        width=config.width,
        height=config.height,
        channels=config.channels,
        sizes=SizeRange(((config.width, config.height),)),
        task="stylize",
        options={"stylize": {"strength": 1.0, "keep_colors": False}},
        guides=False,
        resamples=False,
        parameters=sum(one.numel() for one in style.parameters()),
        digest=_digest(files, style),
        created=files.written,
        card=_card(files),
    )


def _offer_of_index(name: str, source: str) -> Offer:
    index = ImageIndex.load(source)
    width, height = index.facts.spec.size or (0, 0)
    return Offer(
        name=name,
        path=source,
        family="index",
        width=width,
        height=height,
        channels=index.facts.spec.channels,
        labels=tuple(sorted({*index.looks.labels} - {""})),
        options={},
        guides=False,
        resamples=False,
        recognizes=("search", "embed"),
        reads_text=index.reads_words,
        embedding_size=index.embedding_size,
        entries=len(index),
        chunk=recognition.chunk_of(index),
        created=int((Path(source) / "index.json").stat().st_mtime),
    )


def _offer_of_recognizer(name: str, source: str, files: ModelFiles, model: Recognizer) -> Offer:
    learner, config = model.learner, model.learner.config
    abilities = recognition.abilities_of(learner)
    return Offer(
        name=name,
        path=source,
        family=config.family,
        width=config.width,
        height=config.height,
        channels=config.channels,
        sizes=SizeRange(((config.width, config.height),)),
        range=model.value_range,
        labels=() if abilities == ("embed",) else model.classes,
        options={},
        guides=False,
        resamples=False,
        recognizes=abilities,
        calibrated="temperature" in model.facts,
        embedding_size=_embedding_size(learner),
        chunk=recognition.chunk_of(model),
        parameters=model.info()["parameters"],
        created=files.written,
        card=_card(files),
    )


def _embedding_size(learner: Learner) -> int:
    return learner.embedding_size if isinstance(learner, Embeds) else 0


def _offer(name: str, source: str, files: ModelFiles, model: Model) -> Offer:
    family, config, info = model.family, model.family.config, model.info()
    data = model.facts.get("data") or {}
    reads: Literal["text", "label", "none"] = "none"
    captions: Sequence[str] = ()
    if config.reads_text:
        reads, captions = "text", info["text"]["captions"]
    elif config.reads_labels and config.labels:
        reads, captions = "label", config.label_captions
    translates = isinstance(family, Translates)
    verbs: dict[Verb, type] = {"sample": Family, "fill": Fills, "vary": Varies, "translate": Translates}
    if model.labels and not translates:
        verbs["relabel"] = Relabels
    if translates:  # without a source image it has nothing to begin from
        del verbs["sample"]
    options = {verb: model.options_of(verb) for verb, kind in verbs.items() if isinstance(family, kind)}
    if is_enhancer(model):
        options["translate"] = {"strength": 1.0, **options["translate"]}
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
        recognizes=("attribute",) if reads_words(model) else (),
        options=options,
        guides=config.can_guide,
        directions=direction_count(family) if "sample" in verbs else 0,
        steps=isinstance(family, PaintsInSteps),
        tokens=_tokens(family),
        prompt_tokens=info["text"]["length"] if info["text"] else 0,
        resamples=info["other_sizes"],
        chunk=family.chunk,
        parameters=info["parameters"],
        digest=family.digest() if files.is_pipeline else _digest(files, family),
        licence=str(data.get("licence") or model.facts.get("licence") or ""),
        creator=str(data.get("creator") or ""),
        created=files.written,
        card=_card(files),
    )


def _digest(files: ModelFiles, learner: Learner) -> str:
    """Return the digest of the weights, "" for a file that cannot be loaded."""
    try:
        if is_adapter(files):
            return adapted.read_learner(files)[0].digest()
        return weights.digest(weights.read(files.weights, learner.state_dict()))
    except LOAD_ERRORS:
        return ""


def _card(files: ModelFiles) -> str:
    try:
        content = files.read(CARD, 4 * MOST_CARD)  # a character takes up to four bytes
    except (OSError, ModelError):
        return ""
    return content.decode("utf-8", errors="replace")[:MOST_CARD]


def _tokens(family: Family) -> int:
    """Return how many codes a picture is written in; 0 for families without codes."""
    writes = family.tokenizer if isinstance(family, HasTokenizer) else family
    return math.prod(writes.code_shape) if isinstance(writes, Tokenizes) else 0
