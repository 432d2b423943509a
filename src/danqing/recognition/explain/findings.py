"""What an explanation holds: sections of pictures with words, for a page or for a program."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.editing.outputs import write_file
from danqing.marks import Marks
from danqing.recognition.explain import page


class Figure(NamedTuple):
    """A picture uint8 `[h, w, c]` and the words below it."""

    pixels: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True)
class Section:
    """One finding.

    title: a few words. words: what the pictures show, in one or two sentences. rows: of figures. values: the
    same as numbers, plain values for JSON. marks: of pictures that a model generated.
    """

    title: str
    words: str
    rows: Sequence[Sequence[Figure]] = ()
    values: Any = field(default_factory=dict)
    marks: Marks | None = None


@dataclass(frozen=True)
class Explanation:
    """What was found about a model.

    name: of the model. lead: a sentence on it. notes: what could not be explained, and why.
    """

    name: str
    lead: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        found = {section.title: section.values for section in self.sections}
        return {"name": self.name, "found": found, "notes": list(self.notes)}

    def save(self, path: str | Path) -> Path:
        """Write one self-contained page; returns its path.

        Raises DanqingError where that fails.
        """
        sections = [page.section(each.title, each.words, each.rows, each.marks) for each in self.sections]
        place = Path(path).expanduser()
        write_file(place, page.whole(self.name, self.lead, sections, self.notes).encode())
        return place
