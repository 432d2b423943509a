"""What recognizers and indexes answer with PyTorch, for the worker: the same as the commands and Python."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.evaluation.mask_overlays import to_png
from danqing.families.base import Learner
from danqing.image_files import decode
from danqing.learners.abilities import Classifies, Detects, Embeds, Segments
from danqing.model.recognizer import Recognizer
from danqing.model.scorer import ClassScorer
from danqing.recognition.image_index import ImageIndex
from danqing.recognition.predict import predict_contents
from danqing.service.engine.orders import Ability, Finding, Query, unpack_pixels
from danqing.service.engine.served import QUERIES

_ABILITIES: Mapping[Ability, type] = {
    "classify": Classifies,
    "detect": Detects,
    "segment": Segments,
    "embed": Embeds,
}


def abilities_of(learner: Learner) -> tuple[Ability, ...]:
    """Return what a learner of recognition does, its purpose first."""
    found = [ability for ability, kind in _ABILITIES.items() if isinstance(learner, kind)]
    return (*found, "attribute") if isinstance(learner, Classifies | Segments) else tuple(found)


def chunk_of(model: Recognizer | ImageIndex) -> int:
    """Return how many queries are computed at once."""
    return 1 if isinstance(model, Recognizer) and isinstance(model.learner, Segments) else QUERIES


def recognize(
    model: Recognizer | ImageIndex, ability: Ability, queries: Sequence[Query], options: Mapping[str, Any]
) -> list[Finding]:
    """Return the finding for each query.

    options: of the ability, with plain values.
    Raises DataError where a picture cannot be read, and SearchError where the index has no such entries.
    """
    if isinstance(model, ImageIndex):
        if ability == "embed":
            return _vectors(_of_index(model, queries))
        return _matches(model, queries, options)
    contents = [query.content for query in queries]
    if ability == "judge":
        inputs = torch.cat([model.inputs(unpack_pixels(one)) for one in contents])
        scores = ClassScorer(model, options["classes"])(inputs)
        return [Finding({"score": score}) for score in scores.tolist()]
    if ability == "embed":
        return _vectors(model.embed(np.stack([decode(one, **model.reading()) for one in contents])))
    findings = list[Finding]()
    for found in predict_contents(model, contents, **options):
        values = {name: value for name, value in found.plain().items() if name != "name"}
        content = b"" if found.mask is None else to_png(found.mask, len(model.classes))
        findings.append(Finding(values, content))
    return findings


def _vectors(vectors: Tensor) -> list[Finding]:
    """Return vectors `[n, d]` divided by their lengths, as clients of embeddings expect."""
    rows = F.normalize(vectors.float(), dim=1).cpu().numpy().astype("<f4")
    return [Finding({}, row.tobytes()) for row in rows]


def _of_index(index: ImageIndex, queries: Sequence[Query]) -> Tensor:
    """Return the vector of each query, in the space of the index's words if it reads any."""
    vectors = torch.empty(len(queries), index.embedding_size)
    for is_text, places in _by_kind(queries):
        chosen = [queries[place] for place in places]
        vectors[places] = (
            index.vectors_of_texts(_texts(chosen))
            if is_text
            else index.vectors_of_images(_prepared(index, chosen))
        ).cpu()
    return vectors


def _matches(index: ImageIndex, queries: Sequence[Query], options: Mapping[str, Any]) -> list[Finding]:
    """Return the entries that are most similar to each query."""
    found: dict[int, Finding] = {}
    for is_text, places in _by_kind(queries):
        chosen = [queries[place] for place in places]
        if is_text:
            rows = index.search_text(_texts(chosen), **options)
        else:
            rows = index.looks.search(index.encode(_prepared(index, chosen)), **options)
        for place, matches in zip(places, rows, strict=True):
            found[place] = Finding({"matches": [match._asdict() for match in matches]})
    return [found[place] for place in range(len(queries))]


def _by_kind(queries: Sequence[Query]) -> list[tuple[bool, list[int]]]:
    """Return the places of the pictures and those of the texts, if there are any."""
    kinds = ((kind, [n for n, one in enumerate(queries) if one.is_text == kind]) for kind in (False, True))
    return [(kind, places) for kind, places in kinds if places]


def _texts(queries: Sequence[Query]) -> list[str]:
    return [query.content.decode() for query in queries]


def _prepared(index: ImageIndex, queries: Sequence[Query]) -> Tensor:
    return torch.from_numpy(np.stack([index.facts.spec.prepared(query.content) for query in queries]))
