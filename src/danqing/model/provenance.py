"""What the images of a model declare of themselves."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from danqing.data.consent import declared
from danqing.errors import ConfigError
from danqing.families.abilities import MarksCodes
from danqing.families.base import Family
from danqing.images import Pixels, conform, to_float
from danqing.trust.codes_mark import CodesDetection, CodesMark
from danqing.trust.declaration import Declaration, SourceType
from danqing.trust.marking import Marking, marking
from danqing.trust.settings import MarkSettings, trust_folder, trust_path
from danqing.trust.watermark_key import WatermarkKey


class Provenance:
    """The part of a `Model` that says what its images declare.

    name: of the model, as its images declare it; "" means the name of its folder or family.
    marks: which marks its images get, such as "eu,cn" or "none"; None reads `DANQING_MARKS`.
    marks_codes: whether a transformer marks the codes that it samples, if its images get a watermark. It
        changes what a seed gives, so only `load` sets it: training samples without it.
    """

    family: Family
    facts: dict[str, Any]
    origin: Path | None = None
    name: str = ""
    marks: str | MarkSettings | None = None
    marks_codes: bool = False

    def unmarked(self) -> Self:
        """Return the same model without marks, for measuring and training."""
        model = copy.copy(self)
        model.marks = "none"
        return model

    def declaration(self, action: str, prompt: str = "") -> Declaration:
        """Return what an image declares.

        action: the verb that made it. prompt: what was requested of it.
        """
        terms = declared(self.facts.get("data") or {})
        return Declaration(
            source=SourceType.of(action),
            action=action,
            model=self.name or _name_of(self.origin) or self.family.config.family,
            model_digest=self.family.digest(),
            prompt=prompt,
            licence=terms.licence or str(self.facts.get("licence") or ""),
            creator=terms.creator,
            reservations=terms.reservations,
        )

    def marking(self, action: str, prompt: str = "", *, overview: bool = False) -> Marking | None:
        """Return the marks of images; None where they get none.

        overview: whether the image is an overview of the model, such as the samples of its card, which has
            metadata labels alone. Other arguments are those of `declaration`.
        Raises ConfigError for settings that cannot be read.
        """
        settings = MarkSettings.of(self.marks)
        if overview:
            settings = settings.metadata_only()
        return marking(settings, lambda: self.declaration(action, prompt))

    def codes_mark(self) -> CodesMark | None:
        """Return the mark of sampled codes; None if they get none.

        Raises ConfigError as `marking`, and TrustError if the watermark's key cannot be read or created.
        """
        if not self.marks_codes or not isinstance(self.family, MarksCodes):
            return None
        settings = MarkSettings.of(self.marks)
        if not settings.regimes or not settings.codes:
            return None
        return CodesMark(WatermarkKey.of(trust_folder()).secret)

    def detect_mark(self, images: Sequence[Pixels], folder: Path | None = None) -> list[CodesDetection]:
        """Find the mark in the codes of images.

        Only their pixels are needed.

        images: uint8 `[h, w, c]` each; they are resized to the size of the model.
        folder: with the watermark's key; by default `$DANQING_TRUST`.
        Raises ConfigError if the model marks no codes, or if there is no key.
        """
        family, config = self.family, self.family.config
        if not isinstance(family, MarksCodes):
            raise ConfigError(
                f"A {config.family} model samples no codes, so its images have no mark in them."
            )
        key = WatermarkKey.existing(trust_path() if folder is None else folder)
        if key is None:
            raise ConfigError("There is no key of a watermark here, so no image can have its mark.")
        size = (config.width, config.height)
        pixels = [conform(image, size=size, channels=config.channels, fit="stretch") for image in images]
        floats = to_float(torch.from_numpy(np.stack(pixels))).to(next(family.parameters()).device)
        with torch.inference_mode():
            return family.detect_mark(floats, CodesMark(key.secret))


def _name_of(folder: Path | None) -> str:
    """Return the name of a model folder, or of the run that it belongs to."""
    if folder is None:
        return ""
    return folder.parent.name if folder.name == "model" else folder.name
