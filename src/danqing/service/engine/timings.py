"""How long painting takes, learnt from what has been painted."""

from danqing.service.engine.batching import Kind

FIRST_GUESS = 0.05
"""Seconds that a chunk takes, where none has been painted yet."""
_MOST = 512


class Prices:
    """Seconds that a chunk of pictures takes, by model, verb and options."""

    def __init__(self) -> None:
        self._of_options: dict[tuple[str, str, str], float] = {}
        self._of_verbs: dict[tuple[str, str], float] = {}

    def of(self, kind: Kind) -> float:
        """What a chunk of a kind should take; where its options are new, what others of the model took."""
        known = self._of_options.get((kind.model, kind.verb, kind.options))
        return self._of_verbs.get((kind.model, kind.verb), FIRST_GUESS) if known is None else known

    def knows(self, kind: Kind) -> bool:
        """Whether a model has painted so before, with whatever options."""
        return (kind.model, kind.verb) in self._of_verbs

    def learn(self, kind: Kind, seconds: float) -> None:
        """A chunk of a kind took so long."""
        if len(self._of_options) > _MOST:  # options are the clients' to choose
            self._of_options.clear()
        which = kind.model, kind.verb, kind.options
        self._of_options[which] = _learnt(self._of_options.get(which, seconds), seconds)
        self._of_verbs[which[:2]] = _learnt(self._of_verbs.get(which[:2], seconds), seconds)


def _learnt(before: float, latest: float) -> float:
    """Quick to believe that it goes faster: what is painted first takes longest by far."""
    return before + (0.3 if latest > before else 0.7) * (latest - before)
