"""Processes that keep parts of the parameters compute the same, and hold about their share of the bytes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import danqing as dq
from danqing import weights
from danqing.cluster.place import Place
from danqing.cluster.world import World, joined
from danqing.data import open_dataset
from danqing.families import build_learner
from danqing.families.base import Learner
from danqing.nets.recomputing import recompute_blocks
from danqing.precision import Precision
from danqing.training import checkpoint
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine
from danqing.training.grains import grains_of
from danqing.training.listener import Listener
from danqing.training.parts import blocks_of, is_here
from danqing.training.run_batches import Material, open_batches
from danqing.training.run_folder import RunFolder
from tests import forked
from tests.training.every_learner import state_of

CPU = torch.device("cpu")
STEPS = 2
FLOW: dict[str, Any] = {"net": "dit", "patch": 2, "widths": [16], "layers": 6, "heads": 2}
UNET: dict[str, Any] = {"net": "unet", "widths": [16, 16], "layers": 1, "heads": 2}
TRANSFORMER: dict[str, Any] = {"layers": 8, "model.features": 16, "heads": 2, "optimizer": "muon"}
CLASSIFIER: dict[str, Any] = {"net": "transformer", "blocks": 3, "model.features": 32, "patch": 2}
RUNS: dict[str, tuple[str, dict[str, Any], Precision, bool]] = {
    "flow": ("flow-32", {**FLOW, "clip_norm": 0.5}, "float32", False),
    "flow, recomputed": ("flow-32", {**FLOW, "guide": True}, "float32", True),
    "flow, fast sums": ("flow-32", {**FLOW, "fast_sums": True}, "float32", False),
    "flow, bfloat16": ("flow-32", FLOW, "bfloat16", True),
    "u-net": ("flow-32", {**UNET, "ema_lengths": [0.05, 0.1]}, "float32", True),
    "transformer": ("transformer-16", TRANSFORMER, "float32", True),
    "classifier": ("classify-32", {**CLASSIFIER, "adversarial_epsilon": 0.1}, "float32", False),
}
"""Preset, settings, number format, and whether blocks compute their activations again."""


def engine_of(name: str, folder: Path, shard: str | bool) -> Engine:
    preset, settings, precision, recomputes = RUNS[name]
    small = {"batch_size": 16, "grains": 4, "precision": precision, "shard": shard}
    config = resolve(preset=preset, settings={**small, **settings}, size=(8, 8))
    options = config.data.of_source()
    config = config.for_data(dataset := open_dataset("digits", size=(8, 8), cache_dir=folder, **options))
    material = Material(config, dataset, None, None, RunFolder(folder / "run"), CPU)
    batches = open_batches(material, Listener(), is_begun=False)
    engine = Engine(config, batches, CPU, precision, grains=grains_of(config))
    recompute_blocks(engine.learner, recomputes)
    return engine


def stepped(engine: Engine, begin: int, end: int) -> list[float]:
    """Take some steps; returns their losses."""
    images = engine.images_per_step
    return [float(engine.step(step * images, step, total=2 * STEPS * images)) for step in range(begin, end)]


def held(engine: Engine, learner: Learner) -> float:
    """Return which share of the bytes of trained parameters this process holds."""
    trained = [learner.get_submodule(name) for phase in engine.phases for name in phase.modules]
    tensors = [parameter for module in trained for parameter in module.parameters()]
    return sum(each.nbytes for each in tensors if is_here(each)) / sum(each.nbytes for each in tensors)


def compute(place: Place, folder: Path) -> None:
    """Take steps as one of several processes, with whole parameters and in parts, and note what follows."""
    os.environ["DANQING_MEETING"] = (folder / "meeting").as_uri()
    torch.set_num_threads(1)
    found = dict[str, Any]()
    with joined(place) as here:
        for name in RUNS:
            for how, shard in (("whole", False), ("parts", "parameters")):
                engine = engine_of(name, folder, shard)
                losses = stepped(engine, 0, STEPS)
                state = state_of(engine, here, folder / name / how)
                found[f"{name}, {how}"] = [losses, weights.digest(state)]
            learners = [engine.learner, *(average.learner for average in engine.averages)]
            found[f"{name}, held"] = [held(engine, learner) for learner in learners]
            assert engine.weights_are_finite()
        found["continued"] = continued(folder, here)
    (folder / f"{place.rank}.json").write_text(json.dumps(found))


def continued(folder: Path, here: World) -> list[Any]:
    """Continue what one process has begun, and note the losses and the state."""
    engine = engine_of("flow", folder, "parameters")
    read = checkpoint.read_latest(folder / "alone")
    assert read is not None
    engine.load_tensors({name: tensor for name, tensor in read[0].items() if engine.keeps(name)}, {})
    engine.release()
    losses = stepped(engine, STEPS, 2 * STEPS)
    return [losses, weights.digest(state_of(engine, here, folder / "continued"))]


@pytest.mark.slow
def test_two_processes_with_parts_of_the_parameters_compute_what_they_compute_with_all(
    tmp_path: Path,
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = engine_of("flow", tmp_path, False)
        losses = stepped(alone, 0, STEPS)
        begun = state_of(alone, World(), tmp_path / "alone")
        later = stepped(alone, STEPS, 2 * STEPS)
        end = state_of(alone, World(), tmp_path / "end")
        ranks = [forked.call(compute, Place(rank, 2, rank, 2), tmp_path) for rank in range(2)]
        for rank in ranks:
            rank.join()
        assert [rank.exitcode for rank in ranks] == [0, 0]
        first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
        for name in RUNS:
            assert first[f"{name}, parts"] == first[f"{name}, whole"], name
            for one, other in zip(first[f"{name}, held"], second[f"{name}, held"], strict=True):
                assert 0.35 < one < 0.7, name
                assert 1 <= one + other < 1.35, name  # what is in no block is whole in both
        assert first["flow, parts"] == [losses, weights.digest(begun)]
        assert first["continued"] == [later, weights.digest(end)]
        resumed = engine_of("flow", tmp_path, "parameters")  # alone, from what two have written in parts
        read = checkpoint.read_latest(tmp_path / "flow" / "parts")
        assert read is not None
        resumed.load_tensors(read[0], {})
        assert stepped(resumed, STEPS, 2 * STEPS) == later
    finally:
        torch.set_num_threads(threads)


def test_a_learner_that_learns_in_its_forward_pass_is_not_divided() -> None:
    with torch.device("meta"):
        first_stage = build_learner(resolve(preset="vqvae-32", settings={}, size=(8, 8)).model)
    assert blocks_of(first_stage, set(dict(first_stage.named_children()))) == []


SETTINGS: dict[str, Any] = {
    **{
        "batch_size": 16,
        "grains": 2,
        "precision": "float32",
        "measure_seconds": 0.01,
        "ema_lengths": [0.05, 0.1],
    },
    **{"sample_images": 4, "sample_grids": 2, "evaluation.samples": 16, "evaluation.features": "pixels"},
    **{key: value for key, value in FLOW.items() if key != "layers"},
    **{"model.layers": 2, "num_steps": 2, "checkpointing": "off"},
}


@pytest.mark.slow
def test_a_run_in_parts_ends_as_one_of_one_process_and_one_process_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    options: dict[str, Any] = {"preset": "flow-32", "size": (8, 8), "evaluate_every": 64, "seed": 1}
    options |= {"listener": dq.Listener()}
    ends = []
    for name, shard, processes in (("alone", False, 1), ("parts", "parameters", 2)):
        options["out"] = tmp_path / name
        settings = {**SETTINGS, "shard": shard}
        begun = dq.train("digits", images=96, processes=processes, settings=settings, **options)
        assert begun.status == "finished"
        assert begun.best is not None
        run = dq.train("digits", images=160, settings=settings, **options)
        written = [path.name for path in sorted((tmp_path / name / "samples").iterdir())]
        files = [
            run.folder / "log.jsonl",
            run.model / "model.safetensors",
            *(run.folder / "samples" / "x" for x in ()),
        ]
        ends.append([written, run.best, *(path.read_bytes() for path in files)])
    assert ends[0] == ends[1]
