"""The result of a cleaning."""

from dataclasses import dataclass, field
from pathlib import Path

from danqing.data.clean_list import CleanRow
from danqing.recognition.cleaning.findings import Finding, Kind


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What was found in a data set.

    name: of the data. names: of all images, by the row of a finding. images: how many were looked at.
    splits: how many in each. unreadable: names and reasons of images that cannot be read.
    findings: all, the most misleading kind first and the worst of each kind first.
    rows: what is proposed for each image with a finding, as in the list.
    features: the network that images were compared by. counts: findings of each kind.
    accuracy: the share of labels that the model which judges them agrees with; None without labels.
    page, clean_list: the files that were written; None if `out` was not given.
    """

    name: str
    names: list[str]
    images: int
    splits: dict[str, int]
    unreadable: list[tuple[str, str]]
    findings: list[Finding]
    rows: list[CleanRow]
    features: str
    accuracy: float | None = None
    page: Path | None = None
    clean_list: Path | None = None
    counts: dict[Kind, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Return how many images the list drops."""
        return sum(row.decision == "drop" for row in self.rows)
