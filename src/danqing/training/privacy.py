"""The privacy of a run: its key, its noise, and the epsilon that it has spent, by the accountant of Opacus.

The guarantee is (epsilon, delta)-differential privacy for adding or removing one training image. It covers
the weights and what follows from them. `private_rules.py` rejects what would leak beside them.
"""

import functools
import hashlib
import json
import math
import secrets
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from danqing import atomic
from danqing.errors import ConfigError, TrainingError
from danqing.families.base import Phase
from danqing.training.config import RunConfig
from danqing.training.config_sections import PrivateConfig
from danqing.training.private_gradients import Noise
from danqing.training.run_folder import RunFolder

KEY_BYTES = 32
_ROUGH_ERROR, _EPSILON_ERROR, _PRECISION = 1.0, 0.01, 1e-3
"""How exactly epsilon is computed: roughly at first, then absolutely, or relatively where it is large."""


class Mechanism(BaseModel):
    """What is decided before the first step of a private run, and never changes.

    noise_multiplier: the standard deviation of the noise, in units of the clipping length.
    sample_rate: the probability with which a batch holds an image.
    per_step: noisy sums in each step.
    most_steps: after so many steps the requested epsilon is spent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    delta: float
    noise_multiplier: float
    sample_rate: float
    per_step: int
    most_steps: int

    @classmethod
    def settle(cls, config: RunConfig, images: int, phases: tuple[Phase, ...], steps: int) -> Self:
        """Choose the least noise with which some steps spend the requested epsilon.

        images: in the data.
        Raises ConfigError if no noise is large enough, or if Opacus is not installed.
        """
        assert config.private is not None
        per_step = sum(phase.repeats for phase in phases if phase.sees_data)
        epsilon, delta, rate = config.private.epsilon, config.private.delta, config.batch_size / images
        multiplier = _noise_multiplier(epsilon, delta, rate, steps * per_step)
        return cls(
            delta=delta, noise_multiplier=multiplier, sample_rate=rate, per_step=per_step, most_steps=steps
        )

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        """Return what a run has decided; raises TrainingError if the file is missing or damaged."""
        try:
            return cls.model_validate(json.loads(folder.privacy_file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{folder.privacy_file} is missing or damaged, so this private run cannot be resumed: "
                "restore it, or choose another --out."
            ) from error

    def write(self, folder: RunFolder) -> None:
        """Write what a run has decided."""
        atomic.write_json(folder.privacy_file, self.model_dump())

    def spent(self, steps: int) -> float:
        """Return the epsilon that so many steps have spent."""
        if not steps:
            return 0.0
        return _epsilon(self.noise_multiplier, self.sample_rate, steps * self.per_step, self.delta)


def facts(config: PrivateConfig, mechanism: Mechanism | None, steps: int) -> dict[str, Any]:
    """Return what the model folder and `run.json` say of the privacy so far.

    mechanism: None before it is settled, when nothing has been learned.
    """
    own = {"epsilon": 0.0, "steps": 0} if mechanism is None else _of_steps(mechanism, steps)
    return {
        **own,
        "delta": config.delta,
        "clip": config.clip,
        "draws": config.draws,
        "unit": "image",
        "secret": config.secure,
    }


def _of_steps(mechanism: Mechanism, steps: int) -> dict[str, Any]:
    return {
        "epsilon": float(f"{mechanism.spent(steps):.6g}"),  # computed to 0.01: the last bits vary
        "steps": steps,
        "noise_multiplier": mechanism.noise_multiplier,
        "sample_rate": mechanism.sample_rate,
        "sums_per_step": mechanism.per_step,
        "accountant": "PRV accountant of Opacus",
    }


def open_noise(folder: RunFolder, config: RunConfig, *, begun: bool) -> Noise:
    """Return the key of a run, with a noise multiplier of 1 until the mechanism is settled.

    A secret key is drawn for a new run and kept in its folder, readable by its owner alone.
    begun: whether training has begun here.
    Raises TrainingError if a run that has begun has lost its key.
    """
    assert config.private is not None
    if not config.private.secure:
        return Noise(1.0, hashlib.blake2b(f"private:{config.seed}".encode(), digest_size=KEY_BYTES).digest())
    file = folder.private_key_file
    if not file.exists() and not begun:
        atomic.write_bytes(file, secrets.token_hex(KEY_BYTES).encode(), private=True)
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise TrainingError(
            f"The key {file} is missing or damaged, so this private run cannot be resumed: restore it, or "
            "choose another --out."
        )
    return Noise(1.0, key)


def announcement(config: RunConfig, mechanism: Mechanism, images: int) -> str:
    """Return what a private run guarantees, and to whom."""
    assert config.private is not None
    steps, batch = _some(mechanism.most_steps, "step"), _some(config.batch_size, "image")
    text = (
        f"Private: epsilon = {config.private.epsilon:g} and delta = {config.private.delta:g} for each of "
        f"{_some(images, 'image')}, after {steps} of about {batch} with {mechanism.noise_multiplier:.3g} "
        "times as much noise as one image may contribute. This covers the model folder, not the run folder."
    )
    if not config.private.secure:
        text += (
            " Noise and batches follow from the seed, so anyone who knows or guesses it can remove them: use "
            "--secure for a model that you publish."
        )
    return text


def _some(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@functools.lru_cache(maxsize=64)
def _epsilon(noise_multiplier: float, sample_rate: float, count: int, delta: float) -> float:
    """Return the epsilon of some noisy sums, at most 0.01 or 0.1% above the least that is true."""
    accountant = accountants().PRVAccountant()
    accountant.history = [(noise_multiplier, sample_rate, count)]
    # The time grows with epsilon over its error, which is therefore fixed only for the usual values.
    try:
        least = accountant.get_epsilon(delta, eps_error=_ROUGH_ERROR) - _ROUGH_ERROR
        return float(accountant.get_epsilon(delta, eps_error=max(_EPSILON_ERROR, _PRECISION * least)))
    except (ValueError, OverflowError):  # Opacus cannot compute the epsilon of so little noise
        return math.inf


def _noise_multiplier(epsilon: float, delta: float, sample_rate: float, count: int) -> float:
    """Return the least noise multiplier, to about 0.1%, that spends at most `epsilon`."""

    def spent(multiplier: float) -> float:
        return _epsilon(multiplier, sample_rate, count, delta)

    low = high = 1.0
    while spent(high) > epsilon:
        low, high = high, 2 * high
        if high > 1e4:
            raise ConfigError(
                f"No noise gives epsilon = {epsilon:g}, which is too small: raise private.epsilon."
            )
    while low == high or spent(low) <= epsilon:
        low, high = low / 2, low
    # Few values are tried, since each takes seconds: epsilon is almost a power of the multiplier.
    while high - low > _PRECISION * high:
        most = spent(low)
        share = math.log(most / epsilon) / math.log(most / spent(high)) if math.isfinite(most) else 0.5
        root, margin = low * (high / low) ** share, _PRECISION * high / 3
        # Slightly beyond the expected place, so that the interval shrinks from its longer side.
        middle = root + margin if high - root > root - low else root - margin
        middle = float(f"{min(max(middle, low + margin), high - margin):.6g}")  # the last bits vary
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


def accountants() -> Any:
    """Return the accountants of Opacus; raises ConfigError if it is not installed."""
    try:
        from opacus import accountants as found
    except ImportError as error:
        raise ConfigError(
            "Private training needs Opacus for its accounting: pip install 'danqing[private]'."
        ) from error
    return found
