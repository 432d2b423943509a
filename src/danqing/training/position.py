"""The position of a run: what it has seen and used so far."""

from dataclasses import dataclass


@dataclass
class Position:
    """What a run has seen and used so far.

    seconds: of training alone.
    learning_rate_scale: 1, or less after a rollback.
    evaluation_seconds: of scoring.
    peak_memory_bytes: 0 if the system does not report it.
    micro_batch: how many images are computed at once; 0 before the first step.
    """

    images: int = 0
    step: int = 0
    seconds: float = 0.0
    learning_rate_scale: float = 1.0
    rollbacks: int = 0
    evaluation_seconds: float = 0.0
    energy_joules: float = 0.0
    peak_memory_bytes: int = 0
    micro_batch: int = 0

    def facts(self) -> dict[str, float]:
        """Return what `run.json` and `timing.jsonl` say of it."""
        return {
            "images": self.images,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds if self.seconds else 0.0,
            "evaluation_seconds": self.evaluation_seconds,
        }
