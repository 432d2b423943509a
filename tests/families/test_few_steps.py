"""Models of few steps: what they learn is the solution of a flow, and they sample in so many steps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families import build, parse_config, solution
from danqing.families.base import Batch, Condition
from danqing.families.few_steps import DISCRIMINATOR, FewStepFlow
from danqing.families.flow_variants import Flow
from danqing.images import Images
from danqing.model.model import Model
from danqing.samplers import integrate, time_grid
from tests.families.test_samplers import DEVIATIONS, MEAN, exact, of_gaussian

TINY = {"family": "flow", "width": 8, "height": 8, "channels": 1, "widths": (8, 16), "layers": 1, "heads": 2}
FINISH = {"adversarial_start": 0.5, "discriminator_features": 4}
GOLDEN = {"trajectory": 1.40599, "consistency": 0.34543, "verdict": 0.69453, DISCRIMINATOR: 0.69297}


def make(*, fresh: bool = False, **settings: Any) -> FewStepFlow:
    """Build a tiny model whose output is not zero, as that of fresh weights is."""
    torch.manual_seed(0)
    family = build(parse_config({**TINY, "objective": "solution", "num_steps": 2, **settings}))
    assert isinstance(family, FewStepFlow)
    for parameter in family.network.parameters():
        parameter.data += 0 if fresh else 0.05 * torch.randn_like(parameter)
    return family


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def taught(n: int = 16, points: int = 3) -> Batch:
    """A batch of images and trajectories, labelled 0 and 1."""
    images = torch.rand((n, 1, 8, 8), generator=rng(1)) * 2 - 1
    trajectories = torch.randn((n, points, 1, 8, 8), generator=rng(2))
    condition = Condition(torch.arange(n) % 2)
    return Batch(images, condition, trajectories=Batch(trajectories, condition))


def losses(family: FewStepFlow, batch: Batch, share: float) -> dict[str, float]:
    """What each phase logs when a share of the run is over, and the loss of the discriminator."""
    family.on_share(share)
    found = {phase.name: family.loss(batch, phase, rng()) for phase in family.phases()}
    logged = {name: float(value) for name, value in found["flow"].logged.items()}
    if DISCRIMINATOR in found:
        logged[DISCRIMINATOR] = float(found[DISCRIMINATOR].total.detach())
    return logged


def solved(x: Tensor, t: float, s: float) -> Tensor:
    """The average velocity of the flow of Gaussian data."""
    return (exact(x, t, s) - x) / (s - t)


@pytest.mark.parametrize(("t", "s"), [(0.0, 1.0), (0.2, 0.9), (0.6, 1.0)])
def test_the_exact_solution_is_a_fixed_point_as_the_gap_closes(t: float, s: float) -> None:
    """The error of the target, over the gap, falls with the gap: the derivative that is learned is right."""
    x = torch.randn(64, 4, generator=rng(), dtype=torch.float64)
    velocity = of_gaussian(x, torch.full((64,), t, dtype=torch.float64))
    errors = []
    for gap in (0.02, 0.01, 0.005):
        middle = t + gap * (s - t)
        rest = solved(x + (middle - t) * velocity, middle, s)
        target = solution.average_velocity(velocity, rest, gap)
        errors.append(float((target - solved(x, t, s)).abs().max()) / gap)
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)
    assert errors[2] == pytest.approx(errors[1] / 2, rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_jumps_of_the_exact_solution_sample_the_data_in_any_number_of_steps(steps: int) -> None:
    n = 40_000
    x = torch.randn(n, 4, generator=rng(), dtype=torch.float64)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return solved(x, float(t[0]), 1.0)

    def noise(step: int) -> Tensor:
        return torch.randn(n, 4, generator=rng(10 + step), dtype=torch.float64)

    found = integrate("consistency", velocity, x, time_grid(steps), noise=noise)
    assert torch.allclose(found.mean(0), torch.full((4,), MEAN, dtype=found.dtype), atol=0.03)
    assert torch.allclose(found.std(0), DEVIATIONS, rtol=0.02)


def test_the_pseudo_huber_distance_is_a_length_far_away_and_a_square_near_by() -> None:
    zero, edge = torch.zeros(2, 1, 8, 8), solution.HUBER
    far, near = torch.full_like(zero, 0.7), torch.full_like(zero, 1e-3 * edge)
    assert float(solution.distance(far, zero)) == pytest.approx(0.7, rel=1e-3)
    assert float(solution.distance(near.double(), zero.double())) == pytest.approx(0.5e-6 * edge, rel=1e-3)


def test_losses_follow_the_golden_values_and_only_their_own_part_of_the_run() -> None:
    family = make(
        prediction="velocity",
        labels=("a", "b"),
        solution={"trajectories": 16, "consistency_start": 0.25, **FINISH},
    ).train()
    first, second, third = (losses(family, taught(), share) for share in (0.1, 0.3, 0.6))
    assert first["trajectory"] == pytest.approx(GOLDEN["trajectory"], rel=1e-3)
    assert (first["consistency"], first["verdict"], first[DISCRIMINATOR]) == (0, 0, 0)
    assert second["consistency"] == pytest.approx(GOLDEN["consistency"], rel=1e-3)
    assert (second["verdict"], second[DISCRIMINATOR]) == (0, 0)
    assert third["verdict"] == pytest.approx(GOLDEN["verdict"], rel=1e-3)
    assert third[DISCRIMINATOR] == pytest.approx(GOLDEN[DISCRIMINATOR], rel=1e-3)
    assert third["consistency"] == 0
    alone = losses(family, replace(taught(), trajectories=None), 0.6)  # from points of its own steps
    assert (alone["trajectory"], alone["consistency"] > 0) == (0, True)
    assert 0.6 < alone["verdict"] < 0.8
    assert first.keys() == second.keys() == third.keys()


def test_a_fresh_network_has_the_losses_that_follow_by_hand() -> None:
    """It predicts no velocity, so that it jumps to where it is."""
    family = make(
        fresh=True,
        prediction="velocity",
        solution={"trajectories": 16, "gap": 0.25, "final_gap": 0.25},
        num_steps=1,
    )
    batch = replace(taught(256, points=2), condition=Condition())
    assert batch.trajectories is not None
    points = batch.trajectories.images
    found = losses(family, batch, 0.5)
    far = float(solution.distance(points[:, 0], points[:, 1]))
    assert found["trajectory"] == pytest.approx(far, rel=1e-5)
    wanted = 0.25 * float(batch.images.square().mean() + 1)  # gap² E|x - ε|² / gap, with ε normal
    assert found["consistency"] == pytest.approx(wanted, rel=0.03)


def test_from_scratch_it_learns_the_velocity_and_the_way_to_other_times() -> None:
    family = make(solution={"flow_share": 0.5})
    batch, seen = replace(taught(64), trajectories=None), []
    output = family.output

    def watched(z: Tensor, t: Tensor, *arguments: Any, s: Tensor) -> Tensor:
        seen.append((t, s))
        return output(z, t, *arguments, s=s)

    family.output = watched  # type: ignore[assignment,method-assign]
    family.loss(batch, family.phases()[0], rng()).total.backward()
    (middle, far), (t, s) = seen
    assert torch.equal(s[:32], t[:32])
    assert torch.equal(far, s[32:])
    assert bool(((middle > t[32:]) & (middle <= s[32:])).all())
    whole = int((s[32:] == 1).sum())
    assert 5 < whole < 27
    assert all(parameter.grad is not None for parameter in family.network.parameters())


def test_a_student_begins_with_the_predictions_of_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = build(parse_config({**TINY, "labels": ("a", "b")})).eval()
    assert isinstance(teacher, Flow)
    for parameter in teacher.network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    student = make(labels=("a", "b")).eval()
    student.network.load_state_dict(teacher.network.state_dict())
    z, t = torch.randn((4, 1, 8, 8), generator=rng()), torch.tensor([0.0, 0.3, 0.6, 0.9])

    def predicted(family: Any) -> Tensor:
        with torch.no_grad():
            label, present = torch.tensor([0, 1, 0, 1]), torch.zeros(4, dtype=torch.bool)
            given = family.given(Condition(label), present, (8, 8))
            found: Tensor = family.predict(z, t, given, "float32")
        return found

    assert not torch.allclose(predicted(student), predicted(teacher), atol=1e-3)
    student.on_start(teacher.config)
    assert torch.allclose(predicted(student), predicted(teacher), atol=1e-5)
    student.network.net.time.first.weight.data += 0.1
    before = predicted(student)
    student.on_start(student.config)  # it has learned target times already
    assert torch.equal(predicted(student), before)


def test_a_trajectory_has_the_points_of_sampling_and_its_guidance() -> None:
    torch.manual_seed(0)
    settings = {"labels": ("a", "b"), "num_steps": 4, "sampler": "stochastic", "guidance_scale": 1.5}
    teacher = build(parse_config({**TINY, **settings})).eval()
    assert isinstance(teacher, Flow)
    for parameter in teacher.network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    condition, noise = Condition(torch.tensor([0, 1])), torch.randn((2, 1, 8, 8), generator=rng())
    with torch.no_grad():
        points = teacher.trajectory(condition, noise, time_grid(4))
        images = teacher.sample(condition, seeds=[0, 0], noise=noise, sampler="ab2")
        plain = teacher.trajectory(condition, noise, time_grid(4), guidance_scale=1.0)
    assert points.shape == (2, 5, 1, 8, 8)
    assert torch.equal(points[:, 0], noise)
    assert torch.equal(points[:, -1].clamp(-1, 1), images)
    assert not torch.allclose(points[:, -1], plain[:, -1])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_samples_in_its_own_steps_and_a_seed_alone_gives_the_same_bits(steps: int) -> None:
    model = Model(make(num_steps=steps, labels=("a", "b"), label_frequencies=(1, 1), solution=FINISH))
    calls: list[int] = []
    handle = model.family.network.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    together = model.sample(seeds=range(16), label=["a", "b"] * 8).array
    handle.remove()
    assert len(calls) == steps
    assert np.array_equal(model.sample(seeds=[5], label="b").array[0], together[5])
    assert model.sample_options["num_steps"] == steps


def test_it_fills_and_varies_and_keeps_what_it_should() -> None:
    model = Model(make())
    image = Images((torch.rand((1, 8, 8, 1), generator=rng()) * 255).byte())
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 3:6] = True
    filled = model.fill(image, mask, seed=1).array
    assert np.array_equal(filled[:, ~mask], image.array[:, ~mask])
    assert np.array_equal(model.vary(image, strength=0.0).array, image.array)
    assert not np.array_equal(model.vary(image, strength=0.5).array, image.array)


def test_it_has_no_likelihood_and_follows_no_other_sampler() -> None:
    model = Model(make())
    image = Images((torch.rand((1, 8, 8, 1), generator=rng()) * 255).byte())
    with pytest.raises(ConfigError, match="A flow model of few steps cannot compute how likely an image is"):
        model.bits_per_dim(image)
    with pytest.raises(ConfigError, match="leave sampler out"):
        model.sample(sampler="heun")
    with pytest.raises(ConfigError, match="does not know the option 'guidance_scale'"):
        model.sample(guidance_scale=2.0)


@pytest.mark.parametrize("setting", [{"mask_share": 0.5}, {"pairs": True}, {"guide": True}])
def test_settings_that_few_steps_do_not_work_with_are_rejected(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"does not work with {next(iter(setting))}"):
        parse_config({**TINY, "objective": "solution", **setting})


@pytest.mark.parametrize("transport", ["minibatch", "semidiscrete"])
def test_few_steps_are_not_learned_with_transport(transport: str) -> None:
    with pytest.raises(ConfigError, match="set transport = 'none'"):
        parse_config({**TINY, "objective": "solution", "transport": transport})


def test_a_model_of_one_point_is_learned_from_scratch() -> None:
    """All images are the same, so that every jump ends there: a minute of learning in a second."""
    family = make(solution={"flow_share": 0.5})
    image = torch.linspace(-0.8, 0.8, 64).view(1, 1, 8, 8)
    optimizer = torch.optim.Adam(family.network.parameters(), 1e-2)
    (phase,) = family.phases()
    for step in range(60):
        family.on_share(step / 60)
        loss = family.loss(Batch(image.expand(16, -1, -1, -1)), phase, rng(step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = family.eval().sample(Condition(), seeds=range(8))
    assert float((found - image).square().mean().sqrt()) < 0.25
