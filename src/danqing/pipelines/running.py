"""Runs a pipeline: its steps are watched, and errors say what helps."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danqing import machine
from danqing.errors import ConfigError, first_line
from danqing.pipelines import placing, previews
from danqing.pipelines.options import LoadOptions

OnStep = Callable[[int, int, Callable[[], Tensor]], None]
"""As of `families.abilities.OnStep`."""


@dataclass(frozen=True)
class Placed:
    """A pipeline on a device.

    options, offload: how it was loaded and placed.
    """

    pipe: Any
    options: LoadOptions
    device: torch.device
    offload: str


def images(
    placed: Placed,
    given: Mapping[str, Any],
    taken: Mapping[str, Any],
    size: tuple[int, int],
    on_step: OnStep | None,
) -> Tensor:
    """Run a pipeline; returns images `[n, 3, h, w]`, float32 in [0, 1].

    given: its arguments. taken: all that it takes. size: (width, height) of the images.
    Raises ConfigError for arguments that it rejects and where memory runs out, and what `on_step` raises.
    """
    pipe = placed.pipe
    watch = _Watch(pipe, size, on_step)
    try:
        with (
            explained(placed.options, placed.device, placed.offload),
            torch.inference_mode(False),  # weights that move within it could not be used outside
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", FutureWarning)  # of interfaces within the library
            warnings.simplefilter("ignore", DeprecationWarning)
            made: Tensor = pipe(**given, **watch.arguments(taken), output_type="pt").images
    except BaseException as error:
        pipe.maybe_free_model_hooks()
        if isinstance(error, ValueError) and error is not watch.raised:
            raise ConfigError(f"The pipeline rejects this: {first_line(error)}") from error
        raise
    return made.float()


@contextlib.contextmanager
def explained(options: LoadOptions, device: torch.device, offload: str) -> Iterator[None]:
    """Raise ConfigError with what helps where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or machine.is_out_of_memory(error)):
            raise
        helps = placing.advice(options, device, offload)
        raise ConfigError(f"The memory of {device} ran out: {helps}, or make smaller images.") from error


class _Watch:
    """Calls a function after each step of a pipeline.

    raised: what the function has raised.
    """

    def __init__(self, pipe: Any, size: tuple[int, int], on_step: OnStep | None) -> None:
        self._pipe, self._size, self._on_step = pipe, size, on_step
        self.raised: BaseException | None = None

    def arguments(self, taken: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by which a pipeline calls this."""
        if self._on_step is None:
            return {}
        if "callback_on_step_end" in taken:
            return {
                "callback_on_step_end": self._after_step,
                "callback_on_step_end_tensor_inputs": ["latents"],
            }
        if "callback" in taken:  # an older interface
            return {"callback": lambda step, _, latents: self._report(self._pipe, step, latents)}
        return {}

    def _after_step(self, pipe: Any, step: int, _: object, values: dict[str, Any]) -> dict[str, Any]:
        self._report(pipe, step, values["latents"])
        return values

    def _report(self, pipe: Any, step: int, latents: Tensor) -> None:
        total = int(getattr(pipe, "_num_timesteps", None) or len(pipe.scheduler.timesteps))
        shown = functools.partial(previews.decoded, pipe, latents, self._size)
        assert self._on_step is not None
        try:
            self._on_step(min(step + 1, total), total, shown)
        except BaseException as error:
            self.raised = error
            raise
