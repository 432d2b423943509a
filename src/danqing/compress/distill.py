"""`distill`: a flow model that samples in one to a few steps, from one that needs many."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danqing.compress.student import held_out
from danqing.errors import ConfigError
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.training.listener import Listener
from danqing.training.outcome import Run
from danqing.training.request import model_path
from danqing.training.run import train
from danqing.training.trajectories import check_teacher
from danqing.training.transfer import Source, decided

SHARE = 0.4
"""Of the teacher's time, that distillation takes by default."""
STEPS = (1, 2, 4)
_OF_MODEL: Mapping[str, Any] = {
    "objective": "solution",
    "sampler": "consistency",
    "time_shift": 1.0,
    "guide": False,
    "guidance": "condition",
    "guidance_scale": 1.0,
    "transport": "none",
}
"""Settings of a student that may not be those of its teacher."""
_SOLUTION: Mapping[str, Any] = {
    "trajectories": 8192,
    "trajectory_steps": 8,
    "consistency_start": 0.5,
    "adversarial_start": 0.6,
    "adversarial": 0.5,
    "discriminator_learning_rate_scale": 0.3,
    "gap": 0.25,
}
_OPTIMIZER: Mapping[str, Any] = {"learning_rate": 3e-3, "betas": [0.5, 0.99]}


def distill(
    teacher: str | Path | HasModel | Model,
    data: str | Path,
    *,
    steps: int,
    out: str | Path | None = None,
    minutes: float | None = None,
    images: int | None = None,
    guidance_scale: float | None = None,
    trajectories: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    track: str | None = None,
    device: str = "auto",
    listener: Listener | None = None,
) -> Run:
    """Turn a flow model into one that samples in few steps.

    The run is an ordinary one: the same call resumes it, and its model folder is like any other.
    teacher: a flow model of pixels or latents, its folder, a run or a hub id. data: images like those that it
        learned from, as `train` takes them.
    steps: 1, 2 or 4, in which the model will sample.
    out: the run folder, by default `runs/<data>-<steps>-steps`.
    minutes, images: the budget, one of the two; by default, 40% of the time that the teacher was trained for.
        The teacher's trajectories, which are computed first and cached, are paid from it.
    guidance_scale: of the teacher; the student needs no guidance. By default, the teacher's own.
    trajectories: how many of the teacher's are computed, by default 8192.
    settings: of the run, as `train` takes them.
    Other arguments are those of `train`. Ctrl-C saves the run and ends it. Raises DanqingError.
    """
    if steps not in STEPS:
        raise ConfigError(f"A model of {steps} steps cannot be distilled: choose 1, 2 or 4 steps.", "steps")
    model = model_path(teacher)
    source = Source(str(Path(model).resolve()) if Path(model).exists() else model)
    check_teacher(source)
    if minutes is None and images is None:
        minutes = default_minutes(source)
    asked = {"trajectories": trajectories, "trajectory_guidance": guidance_scale}
    solution = {**_SOLUTION, **{name: value for name, value in asked.items() if value is not None}}
    sizes, own_size = source.learner.config.sizes, (source.learner.config.width, source.learner.config.height)
    given: dict[str, Any] = {
        **({"data.buckets": False} if sizes else {}),  # a model of few steps has one size, the first of them
        **{f"model.{name}": value for name, value in _OF_MODEL.items()},
        **{f"model.solution.{name}": value for name, value in solution.items()},
        **{f"optimizer.{name}": value for name, value in _OPTIMIZER.items()},
        **held_out(source),
        "model.num_steps": steps,
        "description": f"Flow matching in {steps} step{'s' * (steps > 1)}, distilled from a model of many",
        "teacher": json.dumps(source.model, ensure_ascii=False),
        **(settings or {}),
    }
    folder = Path(source.model)
    run = next((file for each in (folder, folder.parent) if (file := each / "config.toml").is_file()), None)
    chosen: dict[str, Any] = {"preset": source.preset()} if run is None else {"config": run}
    size, given = decided(source, given, **{"preset": None, "config": None, **chosen}, size=None)
    name = Path(str(data).replace(":", "-")).stem or "images"
    return train(
        data,
        **chosen,
        out=Path("runs") / f"{name}-{steps}-steps" if out is None else out,
        size=own_size if sizes else size,
        settings=given,
        minutes=minutes,
        images=images,
        seed=seed,
        init=source.model,
        track=track,
        device=device,
        listener=listener,
    )


def default_minutes(source: Source) -> float:
    """Return 40% of the teacher's minutes; raises ConfigError where unknown."""
    seconds = source.facts.get("seconds")
    if not seconds:
        raise ConfigError(f"{source.name} does not say how long it was trained: give --minutes or --images.")
    return float(f"{SHARE * seconds / 60:.3g}")
