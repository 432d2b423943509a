"""Estimates of painting times, from earlier measurements."""

from danqing.service.engine.batching import BatchKind

FIRST_GUESS = 0.05
"""The estimate for a chunk in seconds before anything was measured."""
_MOST = 512
_Which = tuple[str, str, tuple[int, int] | None]


class Timings:
    """Seconds of a chunk of pictures, by model, verb, size and options."""

    def __init__(self) -> None:
        self._by_options: dict[tuple[_Which, str], float] = {}
        self._by_verb: dict[_Which, float] = {}

    def estimate(self, kind: BatchKind) -> float:
        """Return the seconds of a chunk.

        For new options, those of the model's other options.
        """
        which = _which(kind)
        known = self._by_options.get((which, kind.options))
        return self._by_verb.get(which, FIRST_GUESS) if known is None else known

    def has(self, kind: BatchKind) -> bool:
        """Return whether the model has been timed for this verb and size.

        With any options.
        """
        return _which(kind) in self._by_verb

    def add(self, kind: BatchKind, seconds: float) -> None:
        """Add a measurement of a chunk."""
        for times in (self._by_options, self._by_verb):
            if len(times) > _MOST:  # clients choose the options and the sizes of pictures
                times.clear()
        which = _which(kind)
        known = self._by_options.get((which, kind.options), seconds)
        self._by_options[which, kind.options] = _smooth(known, seconds)
        self._by_verb[which] = _smooth(self._by_verb.get(which, seconds), seconds)


def _which(kind: BatchKind) -> _Which:
    return kind.model, kind.verb, kind.size


def _smooth(before: float, latest: float) -> float:
    """Follow faster times quickly: the first chunk of a model takes longest by far."""
    return before + (0.3 if latest > before else 0.7) * (latest - before)
