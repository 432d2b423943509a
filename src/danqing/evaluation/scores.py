"""A score with a record of what was measured, on which images, against which, and with what."""

import json
import math
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danqing import atomic
from danqing.errors import DataError
from danqing.quantities import number as number
from danqing.version import __version__

FLATTERED = "trained with this network: flattering"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReferenceInfo(_Record):
    """The real images that a score compares with."""

    name: str
    split: str
    count: int
    fingerprint: str


class FeatureInfo(_Record):
    """The network that images were compared by.

    sha256: of its weights. resizer: how images reach its size, and whether they are clamped then.
    normalization: what it makes of a level x in [0, 255], as a formula; empty in scores of Danqing 0.1.0,
    which did not name it.
    """

    name: str
    sha256: str
    resizer: str
    normalization: str = ""
    precision: str


def library_versions() -> dict[str, str]:
    """Return the versions of libraries that a score may depend on."""
    return {
        "danqing": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


class Score(_Record):
    """One measured number; `str(score)` says how it was measured.

    metric: the name that `--metrics` takes, or a part of it (`frechet/cat` is the class cat's). name: what
    people call it: "FID" for the FID Inception network alone, "FD-<network>" otherwise. interval: a bootstrap
    interval at `level`, None where nothing was sampled. images: how many were generated, or read from a
    folder. candidate: what was scored. flattered: whether it is computed on a network that the model was
    trained with. headline: whether it is the one number to quote. note: a sentence on what to keep in mind.
    """

    metric: str
    name: str
    value: float
    interval: tuple[float, float] | None = None
    level: float = 0.95
    unit: str = ""
    higher_is_better: bool | None = None
    images: int
    candidate: str
    reference: ReferenceInfo | None = None
    features: FeatureInfo | None = None
    seed: int = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=library_versions)
    flattered: bool = False
    headline: bool = False
    note: str = ""

    def __str__(self) -> str:
        value = f"{self.name} {number(self.value)}{self.unit and f' {self.unit}'}"
        if self.interval is not None:
            low, high = map(number, self.interval)
            value += f" ({self.level:.0%} interval {low} to {high})"
        parts = [f"{self.images:,} images of {self.candidate}, seed {self.seed}"]
        if self.reference is not None:
            r = self.reference
            parts.append(f"against {r.count:,} of {r.name}, split {r.split}, {r.fingerprint[:12]}")
        if self.features is not None:
            f = self.features
            preparation = ", ".join(filter(None, (f.resizer, f.normalization, f.precision)))
            parts.append(f"features {f.name} {f.sha256[:12]}, {preparation}")
        if self.flattered:
            parts.append(FLATTERED)
        plain = {key: value for key, value in self.settings.items() if not isinstance(value, dict | list)}
        parts += [f"{key} {value}" for key, value in plain.items()]
        parts.append(", ".join(f"{library} {version}" for library, version in self.versions.items()))
        return f"{value}: {'; '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Return the score as plain values, with its line as `text`.

        Numbers that are not finite become None.
        """
        values: dict[str, Any] = json.loads(self.model_dump_json())
        return values | {"text": str(self)}


def write(path: Path, scores: Iterable[Score]) -> None:
    """Write `scores.json`: a list of objects, atomically."""
    atomic.write_json(path, [score.to_json() for score in scores])


def read(path: Path) -> list[Score]:
    """Read a `scores.json`; returns no scores if it is missing.

    Raises DataError if it is damaged.
    """
    if not path.exists():
        return []
    try:
        found: Sequence[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [Score.model_validate(_finite_or_nan(one)) for one in found]
    except (OSError, ValueError, AttributeError, TypeError, ValidationError, RecursionError) as error:
        raise DataError(
            f"{path} does not hold scores that this version can read: move it away, and evaluate again."
        ) from error


def _finite_or_nan(score: dict[str, Any]) -> dict[str, Any]:
    """The fields of a score, where null stands for a number that was not finite."""
    fields = {key: value for key, value in score.items() if key != "text"}
    if fields.get("value", 0) is None:
        fields["value"] = math.nan
    if None in (fields.get("interval") or ()):
        fields["interval"] = None
    return fields
