"""The solution of a flow: where a point at time t will be at time s, in one evaluation of a network.

A network that is told both times predicts the average velocity u between them, so that z + (s - t) u is the
point at time s (Frans et al. 2025; Geng et al. 2025). At s = t it is the velocity of the flow itself.

`average_velocity` is the target of learning it from images alone (Luo et al. 2025, "SoFlow", the solution
consistency loss): the way from t to s is the way from t to a time l in between, along the straight path, and
the way from l to s, which the network itself predicts. No derivative of the network is needed. With s = 1 it
is consistency training (Song et al. 2023, algorithm 3).
"""

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

HUBER = 0.00054
"""Times √d: where the pseudo-Huber distance turns from square to straight (Song and Dhariwal 2024)."""


class SolutionConfig(BaseModel):
    """Settings of learning the solution of a flow.

    All starts are shares of the run.
    flow_share: of each batch, for the velocity of the flow itself (s = t), where there is no teacher.
    gap, final_gap: how far l is on the way from t to s, when the run begins and when it ends.
    trajectories: how many of a teacher's are learned, and computed before; none without a teacher.
    trajectory_steps: of the teacher on each of them.
    trajectory_guidance: the guidance scale of the teacher; None is its own.
    trajectory_weight: of the distance to their ends, after consistency has begun.
    consistency_start: when it begins to learn consistency; trajectories alone are learned before.
    adversarial_start: when the discriminator begins; 1 is never.
    adversarial: the weight of its verdict, relative to the gradient of the other terms.
    discriminator_features, discriminator_learning_rate_scale, r1: of the discriminator; r1 weighs the
        penalties at real and at generated images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow_share: float = Field(0.75, ge=0, le=1)
    gap: float = Field(0.5, gt=0, le=1)
    final_gap: float = Field(0.05, gt=0, le=1)
    trajectories: int = Field(0, ge=0, le=10_000_000)
    trajectory_steps: int = Field(12, ge=1, le=1000)
    trajectory_guidance: float | None = Field(None, ge=0, le=100)
    trajectory_weight: float = Field(1.0, ge=0, le=1000)
    consistency_start: float = Field(0.0, ge=0, le=1)
    adversarial_start: float = Field(1.0, ge=0, le=1)
    adversarial: float = Field(1.0, gt=0, le=1000)
    discriminator_features: int = Field(48, ge=4, le=1024)
    discriminator_learning_rate_scale: float = Field(0.2, gt=0, le=1000)
    r1: float = Field(0.1, ge=0, le=1000)

    @property
    def has_finish(self) -> bool:
        """Return whether there is an adversarial finish."""
        return self.adversarial_start < 1

    def gap_at(self, share: float) -> float:
        """Return how far l is from t, which shrinks exponentially."""
        return float(self.gap * (self.final_gap / self.gap) ** share)


def average_velocity(velocity: Tensor, rest: Tensor, gap: float) -> Tensor:
    """Return the target of the average velocity from t to s.

    velocity: of the path at t. rest: the average velocity from l to s. gap: (l - t) / (s - t).
    """
    return torch.lerp(rest, velocity, gap)


def distance(images: Tensor, others: Tensor) -> Tensor:
    """Compute the mean pseudo-Huber distance of images, a scalar.

    It is divided by √d, so that it does not grow with the size of the images (Song and Dhariwal 2024).
    """
    difference = (images - others).flatten(1)
    root = math.sqrt(difference.shape[1])
    edge = HUBER * root
    lengths = (difference.square().sum(1) + edge**2).sqrt() - edge
    return lengths.mean() / root
