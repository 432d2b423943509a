"""What a generated or edited image declares about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class SourceType(StrEnum):
    """How the pixels came to be.

    The values are terms of IPTC's digital source type vocabulary.
    """

    GENERATED = "trainedAlgorithmicMedia"
    PARTLY_GENERATED = "compositeWithTrainedAlgorithmicMedia"
    ENHANCED = "algorithmicallyEnhanced"

    @classmethod
    def of(cls, action: str) -> "SourceType":
        """Return the term for the results of a verb, such as `sample`."""
        return _BY_ACTION.get(action, cls.PARTLY_GENERATED)


_BY_ACTION = dict.fromkeys(("sample", "decode", "interpolate", "traverse"), SourceType.GENERATED)
_BY_ACTION |= dict.fromkeys(("upscale", "enhance"), SourceType.ENHANCED)
"""Other verbs make something new of an image."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What an image declares: how it was made, and by what.

    source: how its pixels came to be.
    action: the verb that made it, such as `sample` or `fill`.
    model: the name of the model. model_digest: SHA-256 of its weights, "" if unknown.
    prompt: only where the user requested that files contain it.
    licence, creator: of the training data as the model card names them.
    reservations: what the training data's owners reserved, as the data card lists it.
    """

    source: SourceType = SourceType.GENERATED
    action: str = "sample"
    model: str = ""
    model_digest: str = ""
    prompt: str = ""
    licence: str = ""
    creator: str = ""
    reservations: Mapping[str, Any] = field(default_factory=dict)
