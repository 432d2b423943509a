"""Models of few steps beside their teacher, and beside plain reflow.

    python benchmarks/distillation.py TEACHER --data DIR [--steps 1 2 4] [--images NAME=COUNT ...]
        [--only NAME ...] [--set KEY=VALUE ...] [--count 5000] [--threads 2] [--out FOLDER]
    python benchmarks/distillation.py --speed [--channels 1] [--turns 5] [--threads 2]

TEACHER is the run folder of a flow model of DIR, which has a test split. Each of steps-1, steps-2 and steps-4
is distilled for 40% of the time that the teacher was trained for, its trajectories included. Prints one JSON
object: the Fréchet distance on EfficientNet-Lite0 features, precision and recall of 5,000 images of each
against the test split; the ratio of the distance to the teacher's; evaluations per image; and the time that
each took as a share of the teacher's, in core hours, which a busy machine changes less than minutes.

The control is "reflow" (Liu et al. 2023): the teacher learns the straight paths from the noise of its
trajectories to their ends, as many images as steps-1 saw, and is sampled by Euler's method in as many steps.
Its time is without the trajectories, which are those of steps-1.

--images steps-2=N distils on N images instead, so that the result is the same on a busy machine. What
each contestant generated is kept in FOLDER: the same command continues after an interruption, and --only
trains some of the contestants.

--speed: images per second of a model of two steps, 16 at once, beside diffusers 0.42.1 with DPM-Solver++ in
25 steps and in float32, in turns. "unet" and its peer have U-Nets of the same shape; "flow-32" is the network
of the preset, and its peer a U-Net with about as many parameters. Weights are random, which does not change
the speed. Both use one process, in which diffusers must be installed.
"""

import argparse
import functools
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flow_evaluations
import numpy as np
import scoring
import torch
from flow_peers import SOLVER_STEPS, parameters_of
from flow_speed import CHUNK, CPU, SAME_UNET, SIZE, Work, in_turns

import danqing as dq
from danqing import families
from danqing.data import open_dataset
from danqing.data.batch import Batch
from danqing.model.model import Model
from danqing.precision import candidates
from danqing.training.config_reading import from_toml, resolve
from danqing.training.engine import Engine
from danqing.training.trajectories import TaughtBatches, ensure
from danqing.training.transfer import Source, carry

Contestant = tuple[np.ndarray, dict[str, Any]]
UNET: Any = SAME_UNET["model"]
WIDTHS, SMALL_WIDTHS = (64, 128, 128), (32, 48, 56)
"""Of the peer's U-Net: those of UNET, and those that give it about as many parameters as flow-32 has."""


def student(
    teacher: Path, data: str, steps: int, images: int | None, settings: dict[str, str], count: int, out: Path
) -> Contestant:
    """Distil by the public interface; the samples, and what it took."""
    run = dq.distill(teacher, data, steps=steps, images=images, settings=settings, out=out)
    if run.status == "interrupted":
        raise SystemExit("The training was interrupted: run the same command again to continue.")
    samples, facts = sampled(dq.load(run), count)
    return samples, {
        "images": run.images,
        "seconds": run.seconds,
        "core_hours": run.cost["core_hours"],
        **facts,
    }


def sampled(model: Model, count: int, **options: Any) -> Contestant:
    """Samples of a model with its default options, and how often they evaluated its network."""
    generate = functools.partial(model.sample, count, seed=1, **options)
    samples, evaluations = flow_evaluations.counted(model, generate)
    return samples.array, {"evaluations": evaluations}


class ReflowBatches(TaughtBatches):
    """Ends of trajectories as images, with the noise that they come from."""

    def at(self, images_seen: int, rows: slice | None = None) -> Batch:
        taught = super().at(images_seen, rows).trajectories
        assert taught is not None
        points = taught.images
        images = points[:, -1].contiguous(memory_format=torch.channels_last)
        return replace(taught, images=images, noise=points[:, 0])


def reflow(teacher: Path, data: str, run: Path, images: int) -> tuple[Model, float]:
    """Train the teacher on the straight paths of the trajectories of a run; it, and the core hours."""
    dataset, source = open_dataset(data, size=SIZE), Source(str(teacher.resolve()))
    found = ensure(source, from_toml(run / "config.toml").for_data(dataset), dataset, CPU, dq.Listener())
    config = from_toml(teacher / "config.toml").for_data(dataset)
    # Its noise comes with the batch, as that of an optimal transport does; here the labels agree with it.
    model = config.model.model_copy(update={"transport": "semidiscrete"})
    config = config.model_copy(update={"model": model})
    batches = ReflowBatches(dataset, found, batch_size=config.batch_size, seed=0)
    begun = time.process_time()
    engine = Engine(config, batches, CPU, candidates(CPU)[0], start=carry(source, config.model))
    for step in range(images // config.batch_size):
        engine.step(step * config.batch_size, step, images)
    family = engine.ema.learner
    assert isinstance(family, families.base.Family)
    return Model(family.eval()), (time.process_time() - begun) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", nargs="?", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="teacher, steps-N and reflow-N")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the students")
    parser.add_argument("--count", type=int, default=5000, help="how many images are judged")
    parser.add_argument("--speed", action="store_true", help="measure the speed of sampling instead")
    parser.add_argument("--channels", type=int, default=1, choices=[1, 3])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs, the samples and grids here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    if arguments.speed:
        print(json.dumps(speed(arguments), indent=2))
    elif arguments.teacher is None or arguments.data is None:
        raise SystemExit("Give TEACHER and --data, or --speed.")
    else:
        print(json.dumps(quality(arguments), indent=2))


def quality(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, sample and score each contestant."""
    teacher, data, out = arguments.teacher, arguments.data, scoring.folder_for(arguments.out)
    budgets = dict(one.split("=", 1) for one in arguments.images)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    reference = scoring.pixels_of(open_dataset(data, size=SIZE, split="test"))
    cost = json.loads((teacher / "run.json").read_text())["cost"]["core_hours"]
    names = ["teacher", *(f"{kind}-{n}" for kind in ("steps", "reflow") for n in arguments.steps)]
    results: dict[str, Any] = {"teacher_core_hours": cost, "threads": arguments.threads}
    straight: dict[str, tuple[Model, float]] = {}

    def make(name: str) -> Contestant:
        kind, _, steps = name.partition("-")
        if kind == "teacher":
            return sampled(dq.load(teacher), arguments.count)
        if kind == "steps":
            images = int(budgets[name]) if name in budgets else None
            return student(teacher, data, int(steps), images, settings, arguments.count, out / f"run-{name}")
        if not straight:
            images = json.loads((out / "steps-1.json").read_text())["images"]
            straight["reflow"] = reflow(teacher, data, out / "run-steps-1", images)
        model, hours = straight["reflow"]
        samples, facts = sampled(model, arguments.count, sampler="euler", num_steps=int(steps))
        return samples, {"core_hours": hours, **facts}

    for name in arguments.only or names:
        pixels, facts = scoring.kept(out, name, 0, functools.partial(make, name))
        results[name] = {**scoring.score(pixels, reference), **facts}
        if "core_hours" in facts:
            results[name]["share_of_the_teachers_time"] = round(facts["core_hours"] / cost, 3)
        if "teacher" in results:
            whole = results["teacher"]["frechet_distance"]
            results[name]["of_the_teacher"] = round(results[name]["frechet_distance"] / whole, 3)
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    return results


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sample in turns with diffusers."""
    channels = arguments.channels
    few = {"objective": "solution", "num_steps": 2}
    shape = {"width": SIZE[0], "height": SIZE[1], "channels": channels}
    values: dict[str, Any] = {"family": "flow", **UNET, **few, **shape}
    preset = resolve(preset="flow-32", settings=few).model.model_copy(update=shape)
    ours = {
        "unet": Model(families.build(families.parse_config(values))),
        "flow-32": Model(families.build(preset)),
    }
    peers = {"unet": peer_network(WIDTHS, channels), "flow-32": peer_network(SMALL_WIDTHS, channels)}

    def work(once: Callable[[], object]) -> Work:
        def images_per_second(_: str, seconds: float) -> float:
            done, begun = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - begun) < seconds:
                once()
                done += CHUNK
            return done / elapsed

        return images_per_second

    works: dict[str, Work] = {}
    for name, model in ours.items():
        works[f"diffusers-{name}"] = work(functools.partial(peer_samples, peers[name], channels))
        works[name] = work(functools.partial(model.sample, CHUNK, seed=1))
    speeds = in_turns(works, "sampling", arguments.turns, arguments.seconds)
    pairs = {name: zip(speeds[name], speeds[f"diffusers-{name}"], strict=True) for name in ours}
    return {
        "images_per_second": {name: round(statistics.median(each), 2) for name, each in speeds.items()},
        "ratio": {name: round(statistics.median(a / b for a, b in each), 1) for name, each in pairs.items()},
        "parameters": {
            **{name: parameters_of(model.family) for name, model in ours.items()},
            **{f"diffusers-{name}": parameters_of(network) for name, network in peers.items()},
        },
        "threads": arguments.threads,
        "precision": candidates(CPU)[0],
        "channels": channels,
    }


def peer_network(widths: Sequence[int], channels: int) -> torch.nn.Module:
    """A U-Net of diffusers with two blocks per level and attention at 8x8."""
    diffusers: Any = importlib.import_module("diffusers")
    network: torch.nn.Module = diffusers.UNet2DModel(
        sample_size=SIZE[0],
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=tuple(widths),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    return network.eval()


@torch.inference_mode()
def peer_samples(network: Any, channels: int) -> torch.Tensor:
    """Sample by DPM-Solver++(2M) in 25 steps, in float32, as diffusers does by default."""
    diffusers: Any = importlib.import_module("diffusers")
    solver = diffusers.DPMSolverMultistepScheduler()
    solver.set_timesteps(SOLVER_STEPS)
    x = torch.randn(CHUNK, channels, *SIZE)
    for t in solver.timesteps:
        x = solver.step(network(x, t).sample, t, x).prev_sample
    return x


if __name__ == "__main__":
    main()
