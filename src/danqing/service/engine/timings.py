"""Estimates of painting times, from earlier measurements."""

from danqing.service.engine.batching import BatchKind

FIRST_GUESS = 0.05
"""The estimate for a chunk in seconds before anything was measured."""
_MOST = 512


class Timings:
    """Seconds that a chunk of pictures takes, by model, verb and options."""

    def __init__(self) -> None:
        self._by_options: dict[tuple[str, str, str], float] = {}
        self._by_verb: dict[tuple[str, str], float] = {}

    def estimate(self, kind: BatchKind) -> float:
        """Return the seconds of a chunk.

        For new options, those of the model's other options.
        """
        known = self._by_options.get((kind.model, kind.verb, kind.options))
        return self._by_verb.get((kind.model, kind.verb), FIRST_GUESS) if known is None else known

    def has(self, kind: BatchKind) -> bool:
        """Return whether the model has been timed for this verb.

        With any options.
        """
        return (kind.model, kind.verb) in self._by_verb

    def add(self, kind: BatchKind, seconds: float) -> None:
        """Add a measurement of a chunk."""
        if len(self._by_options) > _MOST:  # clients choose the options
            self._by_options.clear()
        which = kind.model, kind.verb, kind.options
        self._by_options[which] = _smooth(self._by_options.get(which, seconds), seconds)
        self._by_verb[which[:2]] = _smooth(self._by_verb.get(which[:2], seconds), seconds)


def _smooth(before: float, latest: float) -> float:
    """Follow faster times quickly: the first chunk of a model takes longest by far."""
    return before + (0.3 if latest > before else 0.7) * (latest - before)
