"""Which form of a model is worth using: a rule on what was measured, and its reason in a sentence."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from danqing.errors import ConfigError
from danqing.quantities import memory

WORTH = 1.1
"""A form that is less than this many times as fast is not worth a change, unless it has to be smaller."""
EQUAL = 1.03
"""Speeds that are closer than this are called equal, and the smaller form is chosen."""
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BUDGET = re.compile(rf"(\d+(?:\.\d+)?|\.\d+) ?(x|{'|'.join(_UNITS)})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one form of a model.

    bytes: of the files that it needs. images_per_second: the median of all rounds. speedup: the median ratio
        to the original's speed in the same round. score: its distance from real images. interval: of the
        score; None where it has none.
    problem: why nothing was measured, as a sentence, or "".
    """

    name: str
    bytes: int = 0
    images_per_second: float = 0.0
    speedup: float = 0.0
    score: float = 0.0
    interval: tuple[float, float] | None = None
    problem: str = ""

    def is_as_good_as(self, other: "Measured") -> bool:
        """Return whether its score is better, or both intervals overlap."""
        if self.problem or self.interval is None or other.interval is None:
            return False
        return self.interval[0] <= other.interval[1]


def most_bytes(budget: str, original: int) -> int:
    """Return how many bytes a budget allows.

    budget: a number of bytes with its unit, such as 2MB or 500kB, or by which number those of the original
        are divided, such as 2x.
    original: the bytes of the original.
    Raises ConfigError for another text, and for a budget of nothing.
    """
    found = _BUDGET.fullmatch(budget.strip())
    number = float(found[1]) if found else 0.0
    if found is None or not number:
        raise ConfigError(
            f"The budget {budget!r} is not a size: give one such as 2MB, 500kB or 2x.", "budget"
        )
    if found[2] in "xX":
        return int(original / number)
    unit = next(size for name, size in _UNITS.items() if name.lower() == found[2].lower())
    return int(number * unit)


def choose(forms: Sequence[Measured], most: int | None = None) -> tuple[Measured | None, str]:
    """Choose the fastest form that is good and small enough.

    It is as good as the original if their scores cannot be told apart.

    forms: the original first. most: how many bytes it may have; None is any number.
    Returns None where no form is worth it or small enough, and a sentence that says why.
    """
    original = forms[0]
    good = [form for form in forms if form.is_as_good_as(original)]
    fitting = [form for form in good if most is None or form.bytes <= most]
    if most is not None and not fitting:
        return None, _too_large(original, good, most)
    fastest = max(fitting, key=lambda form: form.speedup, default=original)
    if fastest.speedup < WORTH and (original in fitting or most is None):
        rival = max(
            (form for form in fitting if form != original), key=lambda form: form.speedup, default=None
        )
        reason = "no other form has a score as good as the original's"
        if rival is not None:
            reason = (
                f"the fastest form with as good a score, {rival.name}, is {_times(rival.speedup)} as fast"
            )
        return None, f"Nothing is worth it: {reason}."
    alike = [form for form in fitting if form.speedup * EQUAL >= fastest.speedup]
    chosen = min(alike, key=lambda form: (form.bytes, -form.speedup))
    return chosen, (
        f"{chosen.name} is {_times(chosen.speedup)} as fast as {original.name} and has "
        f"{chosen.bytes / original.bytes:.2f} × its bytes, and the scores cannot be told apart."
    )


def _too_large(original: Measured, good: Sequence[Measured], most: int) -> str:
    """Say that a budget cannot be met, and what comes closest."""
    start = f"No form of at most {memory(most)} has a score as good as the original's"
    closest = min(good, key=lambda form: form.bytes, default=original)
    return f"{start}: the closest is {closest.name} with {memory(closest.bytes)}."


def _times(ratio: float) -> str:
    return f"{ratio:.2f} ×"
