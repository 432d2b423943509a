"""The network: parity with a small implementation, masks by perturbation, gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.families.transformer import Transformer
from danqing.nets.attention import ROTARY_BASE, attend
from danqing.nets.decoders.contract import TransformerShape

SMALL = TransformerShape(
    vocabulary=11, rows=3, columns=2, depth=2, width=32, layers=2, heads=4, key_value_heads=2, prefix=3
)


def shaken(shape: TransformerShape = SMALL, *, double: bool = True) -> Transformer:
    """A transformer whose every parameter, gains too, is away from where it starts."""
    net = Transformer(shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return net.double() if double else net


def inputs(shape: TransformerShape, n: int = 2, *, double: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    prefix = torch.randn(n, shape.prefix, shape.width, generator=generator)
    codes = torch.randint(shape.vocabulary, (n, shape.codes), generator=generator)
    return (prefix.double() if double else prefix), codes


def some_order(shape: TransformerShape, n: int) -> tuple[Tensor, Tensor]:
    """When each code becomes known, and how many are known when it is written: in steps of random sizes."""
    generator = torch.Generator().manual_seed(3)
    ranks = torch.rand(n, shape.codes, generator=generator).argsort(1)
    starts = torch.rand(n, shape.codes, generator=generator) < 0.4
    numbers = torch.arange(shape.codes).expand(n, -1)
    return ranks, torch.where(starts, numbers, 0).cummax(1).values.gather(1, ranks)


def logits_by_the_book(net: Transformer, prefix: Tensor, codes: Tensor, ranks: Tensor | None) -> Tensor:
    """The same network for one image, written with loops over positions, heads and pairs; in raster order
    where no ranks are given.
    """
    causal = ranks is None
    s, weights = net.shape, dict(net.named_parameters())
    half = s.head_width // 2

    def place(i: int) -> tuple[int, int, int]:
        return i // s.depth // s.columns, i // s.depth % s.columns, i % s.depth

    def vector(code: int, held: int, written: int) -> Tensor:
        row, column, index = place(written)
        position = weights["row"][row, 0, 0] + weights["column"][0, column, 0] + weights["index"][0, 0, index]
        return weights["embedding.weight"][held % s.depth * (s.vocabulary + 1) + code] + position

    def rms(x: Tensor) -> Tensor:
        return x / torch.sqrt(x.square().mean() + 1e-6)

    def rotate(x: Tensor, i: int) -> Tensor:
        row, column, _ = place(max(i, 0))
        out = []
        for pair in range(half):
            speed = ROTARY_BASE ** (-(pair % (half // 2)) / (half // 2))
            angle = (row if pair < half // 2 else column) * speed
            a, b = x[2 * pair], x[2 * pair + 1]
            out += [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)]
        return torch.stack(out)

    def seen(i: int) -> list[int]:
        """Of a position (prefix from -p, codes from 0), the positions that it sees."""
        if ranks is None:
            return list(range(-s.prefix, i + 1))
        known = [j for j in range(s.codes) if codes[j] < s.vocabulary]
        if i < 0:
            known = []
        elif codes[i] < s.vocabulary:
            known = [j for j in known if ranks[j] <= ranks[i]]
        return [*range(-s.prefix, 0), *known]

    ahead = int(causal)
    held = list(range(-s.prefix, s.codes - ahead))
    stream = [prefix[i] + weights["prefix"][i] for i in range(s.prefix)]
    stream += [vector(int(codes[i]), i, i + ahead) for i in held if i >= 0]
    for layer in range(s.layers):
        w = {
            name.removeprefix(f"blocks.{layer}."): p
            for name, p in weights.items()
            if f"blocks.{layer}." in name
        }
        queries, keys, values = [], [], []
        for i, x in zip(held, stream, strict=True):
            y = w["attention.qkv.weight"] @ (w["attention.qkv.gain"] * rms(x))
            heads = y.reshape(-1, s.head_width)
            q, k, v = torch.split(heads, [s.heads, s.key_value_heads, s.key_value_heads])
            gains = w["attention.gain"].repeat_interleave(2, 1)
            # Queries and keys by RMSNorm with scale 1/√d are unit vectors with scale √d.
            queries.append([rotate(gains[h] * rms(q[h]), i + ahead) for h in range(s.heads)])
            keys.append([rotate(rms(k[h]), i) for h in range(s.key_value_heads)])
            values.append(v)
        attended = []
        for i, number in enumerate(held):
            of_heads = []
            for h in range(s.heads):
                group = h // (s.heads // s.key_value_heads)
                others = [j + s.prefix for j in seen(number)]
                scores = [queries[i][h] @ keys[j][group] / math.sqrt(s.head_width) for j in others]
                shares = torch.stack(scores).softmax(0)
                of_heads.append(
                    sum(share * values[j][group] for share, j in zip(shares, others, strict=True))
                )
            attended.append(torch.cat(of_heads))
        for i, x in enumerate(stream):
            x = x + w["attention.out.weight"] @ attended[i]
            gate, up = (w["gate_up.weight"] @ (w["gate_up.gain"] * rms(x))).chunk(2)
            stream[i] = x + w["down.weight"] @ (gate * torch.sigmoid(gate) * up)
    logits = [weights["head.weight"] @ (weights["head.gain"] * rms(x)) for x in stream]
    return torch.stack(logits[s.prefix - ahead :])


def test_an_independent_implementation_gives_the_same_logits() -> None:
    net, (prefix, codes) = shaken(), inputs(SMALL, n=1)
    with torch.no_grad():
        got = net(prefix, codes)
        expected = logits_by_the_book(net, prefix[0], codes[0], None)
    assert got.dtype == torch.float32
    assert torch.allclose(got[0], expected.float(), atol=1e-5)
    (prefix, codes), (ranks, before) = inputs(SMALL), some_order(SMALL, n=2)
    with torch.no_grad():
        got = net.parallel(prefix, codes, ranks, before)
        for i in range(2):
            for known in before[i].unique().tolist():
                begun = codes[i].masked_fill(ranks[i] >= known, SMALL.vocabulary)
                expected = logits_by_the_book(net, prefix[i], begun, ranks[i])
                written = before[i] == known
                assert torch.allclose(got[i, written], expected[written].float(), atol=1e-5)


def test_raster_logits_follow_from_earlier_codes_alone() -> None:
    net, (prefix, codes) = shaken(), inputs(SMALL, n=1)
    for i in range(SMALL.codes):
        changed = codes.clone()
        changed[0, i] = (changed[0, i] + 1) % SMALL.vocabulary
        moved = (net(prefix, changed) - net(prefix, codes))[0].abs().amax(-1)
        assert (moved[: i + 1] == 0).all()
        assert (moved[i + 1 :] > 0).all()


def test_parallel_logits_follow_from_what_was_known_and_all_of_the_prefix() -> None:
    net, (prefix, codes), (ranks, before) = shaken(), inputs(SMALL, n=1), some_order(SMALL, n=1)
    logits = net.parallel(prefix, codes, ranks, before)[0]
    for i in range(SMALL.codes):
        other = codes.clone()
        other[0, i] = (other[0, i] + 1) % SMALL.vocabulary
        moved = (net.parallel(prefix, other, ranks, before)[0] - logits).abs().amax(-1) > 0
        assert torch.equal(moved, ranks[0, i] < before[0])
    for i in range(SMALL.prefix):
        changed = prefix.clone()
        changed[:, i] += 1
        assert ((net.parallel(changed, codes, ranks, before)[0] - logits).abs().amax(-1) > 0).all()


def test_the_code_above_is_one_offset_everywhere() -> None:
    shape = SMALL._replace(depth=1, rows=4, columns=5, prefix=2)
    queries, keys = Transformer(shape).raster_rotations()[:, shape.prefix :].unbind()
    writes = {
        i + 1: queries[i] for i in range(shape.codes - 1)
    }  # position i holds code i and writes the next
    offsets = [writes[i] * keys[i - shape.columns].conj() for i in range(shape.columns, shape.codes)]
    assert all(torch.allclose(offset, offsets[0], atol=1e-6) for offset in offsets)
    assert torch.allclose(Transformer(shape).raster_rotations()[0, 0], torch.ones(1, dtype=torch.complex64))


def test_parameters_are_those_counted_by_hand_and_all_learn() -> None:
    s, net = SMALL, shaken()
    kv = s.key_value_heads * s.head_width
    block = s.width * (s.width + 2 * kv) + s.width * s.width + 3 * s.width * s.hidden
    block += 2 * s.width + s.heads * s.head_width // 2
    tables = s.depth * (s.vocabulary + 1) + s.rows + s.columns + s.depth + s.prefix
    expected = s.layers * block + s.width * (tables + s.vocabulary + 1)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    prefix, codes = inputs(s)
    prefix.requires_grad_()
    logits = net(prefix, codes)
    torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), codes.flatten()))
    for name, parameter in [("given prefix", prefix), *net.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_training_in_bfloat16_has_nearly_the_gradients_of_float32() -> None:
    shape = SMALL._replace(width=64)
    net, (prefix, codes) = shaken(shape, double=False), inputs(shape, n=8, double=False)

    def gradient(enabled: bool) -> Tensor:
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = F.cross_entropy(net(prefix, codes).flatten(0, 1), codes.flatten())
        torch.autograd.backward(loss)
        return torch.cat(
            [parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None]
        )

    exact, close = gradient(False), gradient(True)
    assert F.cosine_similarity(exact, close, dim=0) > 0.999
    assert (close.norm() / exact.norm()).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_in_bfloat16_has_the_values_and_gradients_of_torch_s_own(causal: bool, groups: int) -> None:
    rng = torch.Generator().manual_seed(0)
    seen = None if causal else (torch.rand(3, 9, 9, generator=rng) < 0.5) | torch.eye(9, dtype=torch.bool)
    heads = [torch.randn(3, count, 9, 8, generator=rng).bfloat16() for count in (4, groups, groups)]
    above = torch.randn(3, 4, 9, 8, generator=rng)

    def found(dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype).requires_grad_() for x in heads)
        out = attend(q, k, v, seen)
        return [out, *torch.autograd.grad(out, (q, k, v), above.to(dtype))]

    for close, exact in zip(found(torch.bfloat16), found(torch.float64), strict=True):
        assert close.dtype == torch.bfloat16
        assert (close - exact).norm() < 0.01 * exact.norm()
