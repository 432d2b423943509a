"""Quantizers against closed forms, and the gradients, starts and grains of codebooks."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from danqing.nets.gathering import Grain
from danqing.nets.quantizers import Binary, Codebook, FiniteScalar, Gradient, Quantizer, estimated
from danqing.randomness import generator

QUANTIZERS = {
    "codebook": lambda: Codebook(width=4, vocabulary=16),
    "normalised": lambda: Codebook(width=4, vocabulary=16, normalised=True, gradient="rotation"),
    "residual": lambda: Codebook(width=4, vocabulary=16, depth=3),
    "fsq": lambda: FiniteScalar([4, 3, 5]),
    "binary": lambda: Binary(4),
}


def latents(quantizer: Quantizer, count: int = 4, seed: int = 0) -> Tensor:
    shape = (count, quantizer.width, 5, 6)
    return torch.randn(shape, generator=generator(seed, "latents")).requires_grad_()


def as_vectors(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_keeps_the_contract(name: str) -> None:
    torch.manual_seed(0)
    quantizer = QUANTIZERS[name]()
    for step in range(3):
        found = quantizer(latents(quantizer, seed=step), generator(0, "quantize", step))
        assert torch.isfinite(found.loss)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    z = latents(quantizer, seed=9)
    unlearning = quantizer(z, None)
    evaluated = quantizer.eval()(z, generator(0, "quantize"))
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
    assert evaluated.codes.shape == (4, 5, 6, quantizer.depth)
    assert evaluated.codes.dtype == torch.int64
    assert 0 <= evaluated.codes.min() <= evaluated.codes.max() < quantizer.vocabulary
    assert torch.equal(evaluated.codes, unlearning.codes)
    assert torch.allclose(quantizer.lookup(evaluated.codes), evaluated.latents, atol=1e-5)
    one = quantizer(z[1:2, :, 2:4], None)  # a place depends on its own vector alone
    assert torch.equal(one.codes, evaluated.codes[1:2, 2:4])
    (found.latents.square().mean() + found.loss).backward()
    assert all(not value.requires_grad for value in found.logged.values())


@pytest.mark.parametrize("name", QUANTIZERS)
def test_learning_follows_from_the_generator_and_resumes_from_the_buffers(name: str) -> None:
    states = []
    for ambient in (1, 2):
        torch.manual_seed(0)
        quantizer = QUANTIZERS[name]()
        torch.manual_seed(ambient)
        for step in range(4):
            if step == 2:  # a resumed run knows the buffers and nothing else
                saved = {key: value.clone() for key, value in quantizer.state_dict().items()}
                quantizer = QUANTIZERS[name]()
                quantizer.load_state_dict(saved)
            quantizer(latents(quantizer, seed=step), generator(0, "quantize", step))
        states.append(quantizer.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_vector_becomes_the_nearest_code() -> None:
    torch.manual_seed(0)
    quantizer = Codebook(width=3, vocabulary=11).eval()
    z = latents(quantizer)
    found = quantizer(z, None)
    distances = torch.cdist(as_vectors(z), quantizer.codes[0], compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(found.codes.flatten(), distances.argmin(1))
    assert found.loss.item() == pytest.approx(0.25 * distances.amin(1).square().mean().item() / 3, rel=1e-5)


def test_codes_are_moving_averages_of_the_vectors_that_chose_them() -> None:
    torch.manual_seed(0)
    quantizer = Codebook(width=2, vocabulary=3, decay=0.9)
    quantizer.steps.fill_(10_000)
    quantizer.codes.copy_(torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]]))
    quantizer.sums.copy_(quantizer.codes / 3)
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [9.0, 1.0], [0.0, 2.0]]).T.reshape(1, 2, 2, 2)
    quantizer(z, generator(0, "x"))
    share = 0.9 / 3
    expected = [
        [0.1 * (1 + 3 + 0) / 4 / (share + 0.075), 0.1 * (0 + 0 + 2) / 4 / (share + 0.075)],
        [(share * 10 + 0.1 * 9 / 4) / (share + 0.025), 0.1 / 4 / (share + 0.025)],
        [0.0, 10.0],
    ]
    assert torch.allclose(quantizer.codes[0], torch.tensor(expected), atol=1e-5)
    assert quantizer.weights.sum().item() == pytest.approx(1.0)


def test_codes_stay_on_the_sphere_where_they_have_been_averaged() -> None:
    torch.manual_seed(0)
    quantizer = QUANTIZERS["normalised"]().eval()
    quantizer.codes.lerp_(quantizer.codes.roll(1, 1), 0.3)  # as a moving average of two states
    codes = torch.arange(16).reshape(1, 4, 4, 1)
    vectors = quantizer.lookup(codes)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(1, 4, 4))
    found = quantizer(2 * vectors, None)
    assert torch.equal(found.codes, codes)
    assert torch.allclose(found.latents.norm(dim=1), torch.ones(1, 4, 4))


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
@given(seed=st.integers(0, 10_000))
def test_the_estimators_turn_gradients_as_they_say(gradient: Gradient, seed: int) -> None:
    rng = generator(seed, "vectors")
    vectors = torch.randn(7, 5, generator=rng, dtype=torch.float64).requires_grad_()
    quantized = torch.randn(7, 5, generator=rng, dtype=torch.float64)
    above = torch.randn(7, 5, generator=rng, dtype=torch.float64)
    out = estimated(vectors, quantized, gradient)
    assert torch.allclose(out, quantized, atol=1e-9)
    (given_back,) = torch.autograd.grad((out * above).sum(), vectors)
    if gradient == "straight_through":
        assert torch.equal(given_back, above)
        return
    for e, q, up, down in zip(vectors.detach(), quantized, above, given_back, strict=True):
        turn = rotation(e, q)
        assert torch.allclose(turn @ e / e.norm(), q / q.norm(), atol=1e-9)
        assert torch.allclose(down, q.norm() / e.norm() * turn.T @ up, atol=1e-8)
        # What the trick is for: a gradient keeps its angle to the vector that it moves.
        assert torch.allclose(down @ e / down.norm() / e.norm(), up @ q / up.norm() / q.norm(), atol=1e-8)


def rotation(start: Tensor, end: Tensor) -> Tensor:
    """The matrix that turns one direction into another within their plane, from sines and cosines."""
    first = start / start.norm()
    second = end - (end @ first) * first
    second = second / second.norm()
    cosine = (end @ first) / end.norm()
    sine = (1 - cosine**2).sqrt()
    plane = torch.stack([first, second], 1)
    within = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=start.dtype)
    identity = torch.eye(2, dtype=start.dtype)
    return torch.eye(len(start), dtype=start.dtype) + plane @ (within - identity) @ plane.T


def test_gradients_reach_the_latents_through_a_codebook() -> None:
    quantizer = Codebook(width=4, vocabulary=16, commitment=0.0)
    z = latents(quantizer)
    weights = torch.randn(z.shape, generator=generator(1, "weights"))
    (found,) = torch.autograd.grad((quantizer(z, None).latents * weights).sum(), z)
    assert torch.equal(found, weights)
    quantizer.commitment = 0.5
    out = quantizer(z, None)
    (found,) = torch.autograd.grad(out.loss, z)
    assert torch.allclose(found, (z - out.latents).detach() / z.numel(), atol=1e-7)


def test_it_starts_as_the_k_means_of_the_first_batch() -> None:
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])
    rng = generator(3, "clusters")
    z = centres[torch.arange(400) % 4] + torch.randn(400, 2, generator=rng)
    quantizer = Codebook(width=2, vocabulary=32)
    quantizer(z.T.reshape(1, 2, 20, 20), rng)
    errors = torch.cdist(z, quantizer.codes[0]).amin(1).square().mean()
    drawn = z[torch.randperm(400, generator=rng)[:32]]
    assert errors < 0.85 * torch.cdist(z, drawn).amin(1).square().mean()
    chosen = quantizer.nearest(z)
    means = torch.stack([z[chosen == code].mean(0) for code in range(32)])
    assert (means - quantizer.codes[0]).norm(dim=1).mean() < 0.15  # Lloyd's fixed point, nearly
    assert chosen.unique().numel() == 32


def test_a_batch_smaller_than_the_codebook_starts_it_too() -> None:
    quantizer = Codebook(width=2, vocabulary=32)
    z = torch.randn(1, 2, 2, 2, generator=generator(0, "few"))
    out = quantizer(z, generator(0, "start"))
    assert torch.allclose(out.latents, z, atol=1e-6)


def test_dead_codes_come_back_to_where_the_vectors_are() -> None:
    quantizer = Codebook(width=2, vocabulary=16, decay=0.9)
    rng = generator(0, "dead")
    for _ in range(5):
        quantizer(torch.randn(1, 2, 16, 16, generator=rng), rng)
    assert quantizer.codes.abs().max() < 5
    for _ in range(120):
        quantizer(50 + torch.randn(1, 2, 16, 16, generator=rng), rng)
    assert quantizer.codes.min() > 40
    assert quantizer.usage()["codebook_use"] == 1


@pytest.mark.parametrize("depth", [1, 2])
def test_usage_counts_what_is_written(depth: int) -> None:
    quantizer = Codebook(width=2, vocabulary=8, depth=depth)
    assert quantizer.usage()["perplexity"].item() == pytest.approx(8)
    assert quantizer.usage()["codebook_use"] == 1
    quantizer.frequencies.copy_(torch.tensor([[0.5, 0.25, 0.25, 0, 0, 0, 0, 0]]).expand(depth, -1))
    assert quantizer.usage()["perplexity"].item() == pytest.approx(2 * math.sqrt(2))
    assert quantizer.usage()["codebook_use"] == pytest.approx(3 / 8)


def test_each_stage_quantizes_what_the_ones_before_left_over() -> None:
    torch.manual_seed(0)
    quantizer = Codebook(width=4, vocabulary=16, depth=4, commitment=1.0)
    for step in range(3):
        out = quantizer(latents(quantizer, seed=step), generator(0, "x", step))
    z = latents(quantizer, seed=7)
    out = quantizer.eval()(z, None)
    rest, errors = as_vectors(z.detach()), []
    for stage, codes in enumerate(quantizer.codes):
        chosen = torch.cdist(rest, codes).argmin(1)
        assert torch.equal(chosen, out.codes[..., stage].flatten())
        rest = rest - codes[chosen]
        errors.append(rest.square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3
    assert out.loss.item() == pytest.approx(sum(errors) / 4, rel=1e-5)


def test_normalised_codes_lie_on_the_sphere_whatever_the_length_of_the_latents() -> None:
    quantizer = Codebook(width=4, vocabulary=16, normalised=True)
    for step in range(3):
        quantizer(7 * latents(quantizer, seed=step), generator(0, "x", step))
    assert torch.allclose(quantizer.codes.norm(dim=-1), torch.ones(1, 16), atol=1e-5)
    z = latents(quantizer)
    assert torch.equal(quantizer(z, None).codes, quantizer(5 * z, None).codes)


@given(levels=st.lists(st.integers(2, 7), min_size=1, max_size=3))
def test_finite_scalars_have_exactly_their_levels(levels: list[int]) -> None:
    quantizer = FiniteScalar(levels)
    line = torch.linspace(-9, 9, 400)
    z = line[None, None, None, :].expand(1, len(levels), 1, 400)
    out = quantizer(z, None)
    for values, count in zip(out.latents[0, :, 0], levels, strict=True):
        assert torch.equal(values, values.sort().values)
        expected = [(digit - count // 2) / (count // 2) for digit in range(count)]
        assert values.unique().tolist() == pytest.approx(expected)
    everything = torch.arange(math.prod(levels)).reshape(1, -1, 1, 1)
    digits = list(itertools.product(*(range(count) for count in reversed(levels))))
    expected = [
        [(digit - count // 2) / (count // 2) for digit, count in zip(row[::-1], levels, strict=True)]
        for row in digits
    ]
    assert torch.allclose(as_vectors(quantizer.lookup(everything)), torch.tensor(expected))
    assert torch.equal(
        quantizer(torch.zeros(1, len(levels), 1, 1), None).latents.flatten(), torch.zeros(len(levels))
    )


def test_finite_scalars_pass_the_gradient_of_their_bound() -> None:
    quantizer = FiniteScalar([5])
    z = torch.tensor([-0.7, 0.0, 0.4]).reshape(1, 1, 1, 3).requires_grad_()
    (found,) = torch.autograd.grad(quantizer(z, None).latents.sum(), z)
    assert torch.allclose(found, (1 - z.detach().tanh() ** 2) * 1.001, atol=1e-6)


def test_binary_codes_are_the_signs() -> None:
    z = torch.tensor([[0.3, -2.0, 0.1], [-1.0, -0.1, 5.0]]).T.reshape(1, 3, 1, 2)
    out = Binary(3)(z, None)
    assert out.codes.flatten().tolist() == [0b101, 0b100]
    assert as_vectors(out.latents).tolist() == [[1, -1, 1], [-1, -1, 1]]


@pytest.mark.parametrize(("bits", "temperature"), [(1, 1.0), (4, 0.7), (8, 2.0)])
def test_binary_entropies_are_those_of_the_whole_codebook(bits: int, temperature: float) -> None:
    quantizer = Binary(bits, temperature=temperature)
    vectors = torch.randn(50, bits, generator=generator(0, "vectors"))
    codebook = as_vectors(quantizer.lookup(torch.arange(2**bits).reshape(1, -1, 1, 1)))
    choice = (2 * vectors @ codebook.T / temperature).softmax(1)  # -(z - c)² but for what c does not change
    own = torch.special.entr(choice).sum(1).mean()
    average = torch.special.entr(choice.mean(0)).sum()
    assert quantizer.entropies(vectors).item() == pytest.approx((own - average).item(), abs=1e-5)


def test_sure_and_varied_bits_have_the_least_entropy_loss() -> None:
    quantizer = Binary(10)
    every = 20 * as_vectors(quantizer.lookup(torch.arange(1024).reshape(1, -1, 1, 1)))
    assert quantizer.entropies(every).item() == pytest.approx(-10 * math.log(2), abs=1e-4)
    assert quantizer.entropies(every[:1]).item() == pytest.approx(0, abs=1e-4)


def in_grains(codebook: Codebook, z: Tensor, seed: int) -> None:
    """Let a codebook learn from a batch of four grains."""
    found = []
    for number, part in enumerate(z.chunk(4)):
        codebook.grain = Grain(number, 4)
        codebook(part, generator(seed, "quantize", number))
        assert codebook.seen is not None
        found.append(codebook.seen)
    codebook.grain = None
    codebook.settle([torch.stack(same).mean(0) for same in zip(*found, strict=True)], 4)


def test_a_codebook_learns_from_grains_what_it_learns_from_their_batch() -> None:
    torch.manual_seed(0)
    whole = Codebook(width=3, vocabulary=4, depth=2, decay=0.8)
    z = torch.randn(16, 3, 4, 4)
    whole(z, generator(0, "start"))
    parts = copy.deepcopy(whole)
    for step in range(5):
        z = torch.randn(16, 3, 4, 4)
        whole(z, generator(0, "quantize", step))
        in_grains(parts, z, step)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_dead_codes_move_onto_vectors_of_their_grain() -> None:
    torch.manual_seed(0)
    codebook = Codebook(width=2, vocabulary=8, decay=0.0)
    z = torch.randn(8, 2, 2, 2)
    codebook(z, generator(0, "start"))
    codebook.codes[0, 4:] = 100.0  # far from all vectors
    in_grains(codebook, z, 0)
    for code in range(4, 8):
        own = as_vectors(z[2 * (code % 4) : 2 * (code % 4) + 2])
        assert (own - codebook.codes[0, code]).norm(dim=1).min() < 1e-5
