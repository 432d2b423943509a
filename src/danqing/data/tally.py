"""What a pass over a source has found so far, according to the entries of its journal."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from danqing.data.consent import Consent, Counts, merge
from danqing.data.decoding import RESERVED
from danqing.data.records import DataReport, reason_kind
from danqing.data.survey import NAMED, Skipped, Survey
from danqing.image_files.reasons import missing_extras


@dataclass
class Tally:
    """The sums of the entries of a journal."""

    records: int = 0
    images: int = 0
    skipped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    skipped_files: list[Skipped] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    sizes: list[list[int]] = field(default_factory=list)
    lacking: set[str] = field(default_factory=set)
    reserved: int = 0
    reserved_files: list[Skipped] = field(default_factory=list)
    consent: Counts = field(default_factory=dict)

    def add(self, entry: dict[str, Any]) -> None:
        """Count one entry."""
        self.records += entry["records"]
        self.images += entry["images"] if "images" in entry else len(entry["labels"])
        self.skipped += len(entry["skipped"])
        self.reasons.update(reason_kind(reason) for _, reason in entry["skipped"])
        named = [Skipped(name=name, reason=reason) for name, reason in entry["skipped"]]
        self.skipped_files += named[: NAMED - len(self.skipped_files)]
        self.formats.update(entry.get("formats", {}))  # journals of earlier versions have none
        self.sizes = _range([*self.sizes, *entry.get("sizes", ())])
        self.lacking |= missing_extras(*(one.reason for one in named))
        self.reserved += len(entry["reserved"])
        left_out = [Skipped(name=name, reason=RESERVED) for name in entry["reserved"]]
        self.reserved_files += left_out[: NAMED - len(self.reserved_files)]
        merge(self.consent, entry["consent"])

    def report(self, survey: Survey, *, ignored: bool) -> DataReport:
        """Return the account of a source.

        survey: what the source left out itself. ignored: whether reservations of training are.
        """
        left_out = survey.left_out + Counter({RESERVED: self.reserved})
        return DataReport(
            found=self.records + survey.left_out.total(),
            records=self.records,
            images=self.images,
            skipped=self.skipped,
            reasons=dict(self.reasons.most_common()),
            skipped_files=tuple(self.skipped_files),
            left_out=dict(left_out.most_common()),
            left_out_files=(*survey.named, *self.reserved_files),
            understood=survey.understood,
            notes=tuple(survey.notes),
            formats=dict(self.formats.most_common()),
            source_sizes=tuple(map(tuple, self.sizes)) or None,
            consent=Consent.of(self.consent, ignored=ignored),
        )


def plain_cell(value: Any) -> Any:
    """Return a cell as a JSON value.

    NumPy numbers and dates of a Parquet file are converted.
    """
    if isinstance(value, list | tuple):
        return [plain_cell(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def count_header(entry: dict[str, Any], format: str, size: tuple[int, int] | None) -> None:
    """Write format and size of an encoded image into its entry."""
    if format:
        entry["formats"][format] = entry["formats"].get(format, 0) + 1
    if size is not None:
        entry["sizes"] = _range([*entry["sizes"], list(size)])


def _range(sizes: list[list[int]]) -> list[list[int]]:
    """Return the smallest and largest of some sizes, per side; empty if there are none."""
    return (
        [list(map(min, zip(*sizes, strict=True))), list(map(max, zip(*sizes, strict=True)))] if sizes else []
    )


def printable(text: str | None) -> str | None:
    """Return text that UTF-8 can encode, which file names need not be."""
    return None if text is None else text.encode("utf-8", "replace").decode()
