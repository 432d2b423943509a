"""What is estimated before the first step: memory by counting and by measuring, time by stretches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import danqing as dq
from danqing import machine, presets
from danqing.data import Batches
from danqing.errors import TrainingError
from danqing.families.vae import VAE
from danqing.live_bytes import LiveBytes
from danqing.training import measured_runs, requirements
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine
from danqing.training.memory import step_bytes
from danqing.training.requirements import estimate_requirements
from tests.small_run import SMALL

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SMALL_VAE = {"net": "mlp", "features": 4, "latents": 4, "prior": "normal"}
SMALL_VQGAN = {"features": 4, "blocks": 1, "vocabulary": 16, "adversarial": 1.0, "discriminator_features": 4}


def needs_of(dataset, preset, earlier=None, **settings):
    budget = {key: settings.pop(key) for key in ("images", "minutes") if key in settings}
    values = {"batch_size": 8, "measure_seconds": 0.001, **settings}
    config = resolve(preset=preset, settings=values, **budget).for_data(dataset)
    batches = Batches(dataset, config.batch_size, 0)
    precision = settings.get("precision", "float32")
    return estimate_requirements(config, batches, CPU, precision, earlier=earlier)


@pytest.fixture
def counting(monkeypatch):
    """The memory of the process is not measured, only that of the run counted."""
    monkeypatch.setattr(machine, "resident_memory", lambda: 0)
    monkeypatch.setattr(machine, "peak_memory", lambda device: None)


def test_the_bytes_of_tensors_are_counted_while_they_live():
    given = torch.zeros(1000)
    with LiveBytes() as counted:
        first = given + 1  # 4,000 bytes
        second = first.view(10, 100).T  # the same memory
        given.add_(1)  # not new
        assert max(counted.trace) == 4000
        del first, second
        torch.cat([given, given]).sum()  # 8,000 bytes and a number
    assert max(counted.trace) == 8004


def test_the_backward_pass_is_counted_too():
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as counted:
        weight.exp().sum().backward()
    assert 8000 <= max(counted.trace) <= 8100  # the kept exponentials, and the gradient


@pytest.mark.parametrize("preset", ["flow-32", "gan-32", "vae-64"])
def test_a_step_is_counted_on_a_few_images_and_extrapolated(dataset, preset):
    config = resolve(preset=preset, settings={"batch_size": 32}).for_data(dataset)
    engine = Engine(config, Batches(dataset, 32, 0), CPU, "float32")
    expected = step_bytes(engine)(32)
    batch = engine.batches.at(0)
    most = 0
    for phase in engine.phases:
        with LiveBytes() as counted:
            engine.compute_gradients(phase, [batch], 0, 0)
        engine.optimizers[phase.name].zero_grad(set_to_none=True)
        most = max(most, *counted.trace)
    assert expected == pytest.approx(most, rel=0.1)


def test_the_estimate_counts_what_starts_later_than_the_run(dataset, counting):
    settings = SMALL_VQGAN | {"discriminator_features": 64, "adversarial_start_images": 1000}
    never, later, unknown = (
        needs_of(dataset, "vqvae-32", **settings, **budget).memory_bytes
        for budget in ({"images": 500}, {"images": 2000}, {"minutes": 1.0})
    )
    assert later > never + 1_000_000  # the discriminator's own activations, while it judges
    assert unknown == pytest.approx(later, rel=0.1)


def test_the_estimate_counts_each_average_and_its_snapshots(dataset, counting):
    one, two = (
        needs_of(dataset, "vae-32", **SMALL_VAE | {"features": 64}, **lengths)
        for lengths in ({}, {"ema_lengths": (0.05, 0.1)})
    )
    values = sum(two.parameters.values())
    copied = 2  # a checkpoint is written from a copy while steps go on
    assert two.memory_bytes - one.memory_bytes == pytest.approx(copied * 4 * values, rel=0.01)
    assert one.snapshot_bytes == 0
    assert two.snapshot_bytes == pytest.approx(32 * 2 * 2 * values, rel=0.01)


def test_the_estimate_grows_with_the_batch(dataset, counting):
    one, two, four = (
        needs_of(dataset, "vae-32", batch_size=size, net="conv").memory_bytes for size in (256, 512, 1024)
    )  # activations count most there, and gradients on fewer images
    assert (four - two) == pytest.approx(2 * (two - one), rel=0.1)


def test_short_memory_is_met_by_smaller_parts_then_by_computing_again_then_by_a_sentence(
    dataset, counting, monkeypatch
):
    settings = {"batch_size": 64, "widths": (16, 32), "layers": 2, "heads": 2}

    def with_memory(free, **more):
        monkeypatch.setattr(machine, "available_memory", lambda device: free)
        needs = needs_of(dataset, "flow-32", **settings, **more)
        return needs.micro_batch, needs.checkpointing

    whole = needs_of(dataset, "flow-32", **settings).memory_bytes
    eight = needs_of(dataset, "flow-32", **settings, micro_batch=8).memory_bytes
    again = needs_of(dataset, "flow-32", **settings, micro_batch=8, checkpointing="on").memory_bytes
    assert whole > eight > again
    assert with_memory(2 * whole) == (64, False)
    assert with_memory(2 * whole, checkpointing="on") == (64, True)
    found = with_memory(whole)
    assert 8 <= found[0] < 64
    assert not found[1]
    assert with_memory(int((eight + again) / 2 / 0.85))[1]
    assert with_memory(2 * whole, earlier={"micro_batch": 16}) == (16, False)
    for more in ({}, {"micro_batch": 64}, {"checkpointing": "off"}):
        with pytest.raises(TrainingError, match=r"about .* GiB.* are free: choose a smaller --size"):
            with_memory(again // 2, **more)


@pytest.mark.parametrize(
    ("settings", "chosen"), [({}, "float32"), ({"grains": 4}, "bfloat16"), ({"grains": 1}, "float32")]
)
def test_a_run_with_grains_has_the_format_of_the_hardware_and_measures_none(
    dataset, monkeypatch, settings, chosen
):
    monkeypatch.setattr(requirements, "candidates", lambda device: ["bfloat16", "float32"])
    speed = {"bfloat16": 1.0, "float32": 2.0}
    monkeypatch.setattr(requirements, "_images_per_second", lambda engine, *_, **__: speed[engine.precision])
    assert needs_of(dataset, "vae-32", precision="auto", **SMALL_VAE | settings).precision == chosen


def test_the_plan_includes_the_grids_of_the_images_that_remain(dataset):
    needs = needs_of(dataset, "vae-32", **SMALL_VAE)
    whole, half = (needs.plan(640, CPU, seen=seen, grid_seconds=0.5) for seen in (0, 320))
    assert whole.seconds == pytest.approx(640 / needs.images_per_second + 5)
    assert half.seconds == pytest.approx(whole.seconds / 2)


@pytest.mark.parametrize("run", measured_runs.read_table().runs, ids=lambda run: run.preset)
def test_a_measured_run_can_be_looked_up(run):
    assert run.preset in presets.names()
    assert presets.read(run.preset)["family"] == run.family
    assert (ROOT / run.source).is_file()
    assert run.preset in (ROOT / run.source).read_text(encoding="utf-8")


def test_the_nearest_measured_run_is_of_the_family_then_of_the_size_then_of_the_time():
    run = measured_runs.nearest_run("gan", (40, 24), 9)
    assert run is not None
    assert (run.preset, run.data, run.minutes) == ("gan-32", "emoji", 10)
    assert run.sentence == (
        "Nearest measured run: gan-32 on emoji, 32x32, 10 min on two cores: kernel distance 1.75 "
        "(docs/results.md)"
    )
    assert measured_runs.nearest_run("unknown", (32, 32), 5) is None


def test_a_budget_that_is_too_small_for_the_size_is_met_by_a_smaller_preset():
    def advice(side, images, seconds):
        config = resolve(preset="gan-64", images=images)
        model = config.model.model_copy(update={"width": side, "height": side})
        return measured_runs.advise(config.model_copy(update={"model": model}), images, seconds)

    at_32 = measured_runs.images_needed("gan", (32, 32))
    assert measured_runs.images_needed("gan", (128, 128)) == 4 * at_32
    assert advice(128, 4 * at_32, 600).warning == ""
    assert advice(128, at_32, 600).warning == (
        "A budget of 10 min is too small for 128x128: on this machine, images are recognisable after about "
        "40 min. 64x64 fits into this budget: --preset gan-64."
    )
    assert advice(64, at_32 // 8, 600).warning.endswith("Give more --minutes, or a smaller --size.")
    assert advice(64, at_32, 7200).warning.endswith("32x32 fits into this budget: --preset gan-32.")
    started = resolve(preset="gan-64", images=1000).model_copy(update={"init": "runs/other"})
    assert measured_runs.advise(started, 1000, 60).warning == ""


@pytest.mark.parametrize(
    ("preset", "size", "better"),
    [
        ("gan-32", (64, 64), "gan-64"),
        ("gan-32", (40, 40), ""),
        ("gan-32", (28, 28), ""),
        ("gan-64", (96, 96), ""),
        ("gan-64", (176, 88), "gan-128"),
        ("flow-64", (128, 128), "flow-128"),
        ("flow-128", (256, 256), "flow-256"),
        ("flow-256", (64, 64), "flow-64"),
        ("flow-text-64", (128, 128), ""),  # there is no other one for captions
        ("flow-upscale-64", (256, 256), ""),
        ("vae-128", (256, 256), ""),  # vae-latents-256 samples nothing
        ("vae-latents-128", (256, 256), "vae-latents-256"),
        ("classify-32", (64, 64), "classify-64"),
        ("private-32", (64, 64), ""),
    ],
)
def test_a_size_that_another_preset_is_for_is_met_by_its_name(preset, size, better):
    config = resolve(preset=preset)
    found = measured_runs.preset_advice(config, preset, size)
    sides = "{}x{}".format(*size)
    expected = f"for {sides}, --preset {better} suits better."
    assert found is None if not better else found.endswith(expected)
    started = config.model_copy(update={"init": "runs/other"})
    assert measured_runs.preset_advice(started, preset, size) is None


def test_what_a_first_stage_needs_is_not_compared_with_models_that_sample():
    config = resolve(preset="vae-latents-128", images=1000)
    assert measured_runs.advise(config, 1000, 60).warning == ""


def test_the_time_of_both_stages_is_compared_with_measured_runs():
    config = resolve(preset="text2image-32", images=100_000)
    assert config.tokenizer is not None
    needed = measured_runs.images_needed("transformer", (32, 32))
    model = config.model.model_copy(update={"width": 32, "height": 32})
    config = config.model_copy(update={"model": model})
    found = measured_runs.advise(config, needed // 4, 600 * (1 - config.tokenizer.share))
    assert found.warning.startswith("A budget of 10 min is too small for 32x32: on this machine, images are")
    assert "after about 40 min." in found.warning


def test_memory_that_runs_out_in_a_run_is_reported_and_the_order_of_the_data_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    healthy = VAE.loss

    class Heard(dq.Listener):
        """Hears a run whose memory is full after two steps for more than some images."""

        def __init__(self, most):
            self.most, self.parts, self.messages, self.begun = most, [], [], False

        def on_message(self, text):
            self.messages.append(text)

        def on_plan(self, plan):
            self.begun = True  # what came before was estimated

        def loss(self, family, batch, phase, rng):
            if self.begun:
                if len(batch) > self.most and len(self.parts) >= 2:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                self.parts.append(batch.images.double().mean((1, 2, 3)))
            return healthy(family, batch, phase, rng)

    def train(most):
        heard = Heard(most)
        monkeypatch.setattr(VAE, "loss", lambda *arguments: heard.loss(*arguments))
        out = tmp_path / str(most)
        run = dq.train(
            "digits", preset="vae-32", out=out, images=160, size=(8, 8), settings=SMALL, listener=heard
        )
        assert (run.status, run.images) == ("finished", 160)
        return heard

    whole, short = train(16), train(4)
    assert whole.messages == []
    assert short.messages == [
        "Memory ran out after 32 images: training continues with 4 images at once (training.micro_batch)."
    ]
    assert [len(part) for part in short.parts] == [16, 16] + [4] * 32
    assert torch.equal(torch.cat(short.parts), torch.cat(whole.parts))
    with pytest.raises(TrainingError, match=r"Memory is too small for 1 images at once"):
        train(0)


SCRIPT = """
import json, sys
import danqing as dq

plans = []
class Keeps(dq.Listener):
    def on_plan(self, plan):
        plans.append(plan)

preset, side, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
run = dq.train("digits", preset=preset, size=(side, side), out=out, images=int(sys.argv[4]), evaluate_every=0,
               settings={"measure_seconds": 0.5}, listener=Keeps())
print(json.dumps([plans[0].memory_bytes, run.cost["peak_memory_bytes"]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "side", "images"),
    [
        *(("gan-32", 32, 3200), ("vqvae-32", 32, 3200)),
        *(("flow-64", 64, 960), ("gan-64", 64, 1280), ("vae-64", 64, 640)),
    ],
)
def test_the_estimate_of_memory_is_near_the_peak_of_the_run(tmp_path, preset, side, images):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, preset, str(side), str(tmp_path / "run"), str(images)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    estimated, peak = json.loads(done.stdout.splitlines()[-1])
    assert estimated == pytest.approx(peak, rel=0.15)
