"""Where a run stands, and what it has taken so far."""

from dataclasses import dataclass


@dataclass
class Position:
    """Where a run stands; with the engine's tensors, all that a checkpoint holds.

    learning_rate_scale: 1, or less after a rollback. evaluation_seconds: spent on scoring, which `seconds`
    leave out. peak_memory_bytes: 0 where the system does not tell.
    """

    images: int = 0
    step: int = 0
    seconds: float = 0.0
    learning_rate_scale: float = 1.0
    rollbacks: int = 0
    evaluation_seconds: float = 0.0
    energy_joules: float = 0.0
    peak_memory_bytes: int = 0

    def facts(self) -> dict[str, float]:
        """What `run.json` and `timing.jsonl` say of it."""
        return {
            "images": self.images,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds if self.seconds else 0.0,
            "evaluation_seconds": self.evaluation_seconds,
        }
