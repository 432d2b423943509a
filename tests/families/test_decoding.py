"""How codes are drawn: exact distributions, and what is given stays."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danqing.errors import ConfigError
from danqing.families.decoding import Sampling, guide, invert, write, write_in_parallel
from danqing.families.masked_order import known_when_written, spread
from danqing.families.transformer import Transformer
from danqing.nets.decoders.contract import TransformerShape
from danqing.nets.decoders.parallel import ParallelDecoder
from danqing.nets.decoders.raster import RasterDecoder
from danqing.randomness import uniform

LARGEST = 1 - 2**-24
"""The largest number that `uniform` gives."""


def evenly(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count


def shares(sampling: Sampling, logits: Tensor, count: int = 4096) -> Tensor:
    """How often each code is chosen by evenly spaced numbers: probabilities, but for 1 / count."""
    chosen = sampling.choose(logits.expand(count, -1), evenly(count))
    return torch.bincount(chosen, minlength=len(logits)) / count


def silent(done: int, steps: int, codes: Tensor) -> None:
    pass


distributions = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12).map(torch.tensor)


@settings(max_examples=60, deadline=None)
@given(distributions, st.floats(0.2, 3))
def test_codes_come_as_often_as_the_softmax_says(logits: Tensor, temperature: float) -> None:
    found = shares(Sampling(temperature=temperature), logits)
    assert (found - (logits / temperature).softmax(0)).abs().max() <= 1.01 / 4096 + 1e-5


@settings(max_examples=60, deadline=None)
@given(distributions, st.integers(1, 15), st.floats(0.05, 1))
def test_top_k_and_top_p_renormalise_the_fewest_likeliest_codes(
    logits: Tensor, top_k: int, top_p: float
) -> None:
    order = logits.softmax(0).sort(descending=True, stable=True)
    kept = torch.zeros(len(logits))
    total = order.values[:top_k].sum()
    mass = 0.0
    for probability in order.values[:top_k] / total:
        if mass >= top_p - 1e-6:
            break
        kept[int((kept > 0).sum())] = probability
        mass += float(probability)
    found = shares(Sampling(top_k=top_k, top_p=top_p), logits).sort(descending=True).values
    expected = kept / kept.sum()
    # An edge that rounding decides may fall on either side: then one code more, or one less.
    if (found - expected).abs().max() > 2 / 4096 + 1e-4:
        assert (found > 0).sum() != (expected > 0).sum()
        assert (order.values[:top_k] / total).cumsum(0).sub(top_p).abs().min() < 1e-5


def test_top_p_holds_the_probability_that_it_names() -> None:
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log()
    for top_p, expected in (
        (0.01, [0, 1, 0, 0]),
        (0.5, [0, 1, 0, 0]),
        (0.6, [0, 0.625, 0, 0.375]),
        (0.9, [0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95]),
        (1.0, [0.05, 0.5, 0.15, 0.3]),
    ):
        assert shares(Sampling(top_p=top_p), logits).tolist() == pytest.approx(expected, abs=5e-4)


def test_the_ends_of_the_unit_interval_never_choose_what_is_impossible() -> None:
    weights = torch.tensor([0.0, 0.0, 0.2, 0.0, 0.7, 0.0, 0.0])
    uniforms = torch.tensor([0.0, 0.2 / 0.9 - 1e-4, 0.2 / 0.9 + 1e-4, LARGEST])
    assert invert(weights.expand(4, -1), uniforms).tolist() == [2, 2, 4, 4]
    wide = torch.randn(200, 4096, generator=torch.Generator().manual_seed(0))
    for sampling in (Sampling(top_k=3), Sampling(top_p=0.1), Sampling(temperature=0.01)):
        for number in (0.0, LARGEST):
            chosen = sampling.choose(wide, torch.full((200,), number))
            shares = (wide / sampling.temperature).softmax(1)
            own = shares.gather(1, chosen[:, None])
            assert (own > 0).all()
            assert (shares > own).sum(1).max() < (sampling.top_k or 4096)
            assert (shares * (shares > own)).sum(1).max() < sampling.top_p + 1e-6


def test_no_temperature_at_all_takes_the_likeliest_and_a_tiny_one_does_not_overflow() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [300.0, -300.0, 299.0]])
    for temperature in (0.0, 1e-30):
        chosen = Sampling(temperature=temperature).choose(logits, torch.tensor([0.99, 0.01]))
        assert chosen.tolist() == [1, 0]


def test_guidance_leads_from_what_is_likely_at_all_past_what_the_condition_says() -> None:
    logits = torch.randn(6, 5)
    conditional, unconditional = logits[:3], logits[3:]
    assert torch.equal(guide(logits, 1.0), conditional)
    assert torch.equal(guide(logits, 0.0), unconditional)
    assert torch.allclose(guide(logits, 3.0), unconditional + 3 * (conditional - unconditional), atol=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_of_guidance_rises_from_one_to_the_scale(schedule: str) -> None:
    sampling = Sampling(guidance_scale=4.0, guidance_schedule=schedule)
    course = [sampling.guidance(share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert course == sorted(course)
    assert course[::2] == pytest.approx([1, 2.5, 4])
    assert Sampling(guidance_scale=4.0).guidance(0) == 4


def test_wrong_options_are_refused_with_their_bounds() -> None:
    for options, message in (
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "above 0"),
        ({"top_p": 1.5}, "at most 1"),
        ({"guidance_scale": math.nan}, "guidance_scale"),
        ({"guidance_schedule": "steep"}, "constant, linear, cosine"),
    ):
        with pytest.raises(ConfigError, match=message):
            Sampling(**options)


def small_net(vocabulary: int, rows: int, columns: int) -> Transformer:
    torch.manual_seed(3)
    shape = TransformerShape(
        vocabulary, rows, columns, 1, width=16, layers=2, heads=2, key_value_heads=1, prefix=2
    )
    net = Transformer(shape).eval().requires_grad_(False)
    net.head.weight.mul_(6)  # far from uniform
    return net


class Uncached:
    """A decoder that remembers codes alone, and reads all of them again each time."""

    def __init__(self, net: Transformer, prefix: Tensor) -> None:
        self.net, self.prefix = net, prefix
        self.codes = torch.empty(len(prefix), 0, dtype=torch.int64)
        self.logits = self._next()

    def extend(self, codes: Tensor) -> Tensor:
        self.codes = torch.cat([self.codes, codes[:, None]], 1)
        self.logits = self._next()
        return self.logits

    def _next(self) -> Tensor:
        missing = self.net.shape.codes - self.codes.shape[1]
        whole = torch.cat([self.codes, torch.zeros(len(self.codes), missing, dtype=torch.int64)], 1)
        return self.net(self.prefix, whole)[:, self.codes.shape[1]]


def test_writing_follows_the_joint_distribution_of_the_network() -> None:
    net, count = small_net(3, 1, 3), 6000
    prefix = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(0))
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    logs = net(prefix.expand(27, -1, -1), every).log_softmax(-1).gather(2, every[..., None])
    expected = logs.sum((1, 2)).exp()
    assert expected.sum().item() == pytest.approx(1, abs=1e-5)
    rows = prefix.expand(count, -1, -1)
    blank = torch.full((count, 3), 3)
    uniforms = uniform(range(count), (3,), purpose="codes")
    decoder = RasterDecoder(net, rows, "float32")
    codes = write(decoder, blank, blank == 3, uniforms, Sampling(), silent)
    found = torch.bincount((codes * torch.tensor([9, 3, 1])).sum(1), minlength=27) / count
    squares = (count * (found - expected).square() / expected).sum().item()
    assert squares < 55  # chi-squared with 26 degrees of freedom: p = 0.0007


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_the_cache_changes_nothing_and_given_codes_stay(guidance_scale: float) -> None:
    net = small_net(7, 3, 4)
    rng = torch.Generator().manual_seed(1)
    count = 5
    prefix = torch.randn(2 * count if guidance_scale != 1 else count, 2, 16, generator=rng)
    sampling = Sampling(guidance_scale=guidance_scale, guidance_schedule="linear", top_p=0.95)
    unknown = torch.rand(count, 12, generator=rng) < 0.6
    unknown[:, :2] = False  # given to all at the beginning, in the middle, and at the end
    unknown[:, 6:8] = False
    unknown[:, 11] = False
    given = torch.randint(7, (count, 12), generator=rng)
    begun = given.masked_fill(unknown, 7)
    uniforms = torch.rand(count, 12, generator=rng)
    told = []
    both = []
    for decoder in (RasterDecoder(net, prefix, "float32"), Uncached(net, prefix)):
        codes = write(
            decoder, begun, unknown, uniforms, sampling, lambda done, steps, codes: told.append((done, steps))
        )
        both.append(codes)
        assert torch.equal(codes[~unknown], given[~unknown])
        assert codes.max() < 7
    assert torch.equal(*both)
    assert told == 2 * [(done, 11) for done in range(1, 12)]
    assert torch.equal(begun, given.masked_fill(unknown, 7))  # what the caller holds is left alone


def test_what_is_filled_in_does_not_depend_on_what_is_covered_elsewhere() -> None:
    torch.manual_seed(0)
    net = Transformer(
        TransformerShape(32, 4, 4, 1, width=256, layers=2, heads=8, key_value_heads=2, prefix=1)
    )
    prefix, given = torch.randn(16, 1, 256), torch.randint(32, (16, 16))
    alone = torch.zeros(16, 16, dtype=torch.bool)
    alone[5, 6:9] = True
    others = torch.rand(16, 16) < 0.3
    others[5] = alone[5]
    whole = torch.ones(16, 16, dtype=torch.bool)
    whole[5] = alone[5]

    def course(unknown: Tensor) -> Tensor:
        """What the network said at each place of image 5."""
        decoder, said = RasterDecoder(net, prefix, "bfloat16"), []
        uniforms = evenly(16).expand(16, -1)
        write(decoder, given, unknown, uniforms, Sampling(), lambda *_: said.append(decoder.logits[5]))
        return torch.stack(said[:9])

    assert torch.equal(course(alone), course(whole))
    assert torch.equal(course(alone), course(others))


def test_nothing_to_write_is_nothing_done() -> None:
    net = small_net(3, 1, 3)
    codes = torch.tensor([[0, 1, 2]])
    none = torch.zeros(1, 3, dtype=torch.bool)
    written = write(
        RasterDecoder(net, torch.zeros(1, 2, 16), "float32"),
        codes,
        none,
        torch.rand(1, 3),
        Sampling(),
        silent,
    )
    assert torch.equal(written, codes)
    parallel = Recorded(torch.zeros(1, 3, 3))
    moments, uniforms = torch.rand(3), torch.rand(1, 3)
    written = write_in_parallel(parallel, codes, none, moments, uniforms, 4, Sampling(), silent, partial=True)
    assert torch.equal(written, codes)
    assert not parallel.asked


class Recorded:
    """Says the same of a place whatever is known; remembers what it was given, and what was asked of it."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.known: list[dict[int, int]] = [{} for _ in logits]
        self.asked: list[list[list[int]]] = []

    def extend(self, codes: Tensor, places: Tensor, asked: Tensor) -> Tensor:
        for known, of_image, there in zip(self.known, codes.tolist(), places.tolist(), strict=True):
            new = {place: code for place, code in zip(there, of_image, strict=True) if code >= 0}
            assert not new.keys() & known.keys()  # nothing is given twice
            known.update(new)
        self.asked.append(asked.tolist())
        return self.logits.gather(1, asked[..., None].expand(-1, -1, self.logits.shape[2]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 30), st.floats(0, 1), st.integers(0, 99))
def test_parallel_writing_keeps_what_is_given_and_leaves_nothing_out(
    steps: int, places: int, share: float, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    unknown = torch.rand(3, places, generator=rng) < share
    given = torch.randint(5, (3, places), generator=rng)
    begun = given.masked_fill(unknown, 5)
    decoder = Recorded(torch.randn(3, places, 5, generator=rng))
    moments, uniforms = torch.rand(places, generator=rng), torch.rand(3, places, generator=rng)
    course, known = [begun], []

    def told(done: int, total: int, codes: Tensor) -> None:
        assert (done, total) == (len(course), steps)
        course.append(codes.clone())
        known.append([dict(each) for each in decoder.known])

    codes = write_in_parallel(
        decoder, begun, unknown, moments, uniforms, steps, Sampling(), told, partial=True
    )
    assert torch.equal(codes[~unknown], given[~unknown])
    assert torch.equal(codes[unknown], Sampling().choose(decoder.logits, uniforms)[unknown])
    assert torch.equal(codes, course[-1])
    assert torch.equal(begun, given.masked_fill(unknown, 5))  # what the caller holds is left alone
    wanted = unknown.sum(1)
    ranks = (moments + unknown).argsort(1).argsort(1)
    foreseen = known_when_written(ranks, places - wanted, steps)
    for step, (before, after) in enumerate(itertools.pairwise(course), 1):
        left, were = (after == 5).sum(1), (before == 5).sum(1)
        cosine = (wanted * math.cos(math.pi / 2 * step / steps) + 1e-6).floor().long()
        assert torch.equal(left, torch.minimum(cosine, (were - 1).clamp_min(0)))
        for i in range(3):
            was, new = before[i] < 5, (before[i] == 5) & (after[i] < 5)
            assert torch.equal(before[i][was], after[i][was])  # what is written stays
            if new.any():  # the step knew all that was written before, and wrote what comes next in order
                assert known[step - 1][i] == {j: int(before[i, j]) for j in was.nonzero().flatten().tolist()}
                assert not (moments[after[i] == 5] < moments[new].max()).any()
                assert (foreseen[i][new] == int(was.sum())).all()  # as in training


def test_what_is_asked_of_an_image_does_not_depend_on_how_much_is_given_of_others() -> None:
    torch.manual_seed(0)
    net = Transformer(
        TransformerShape(64, 8, 8, 1, width=192, layers=2, heads=3, key_value_heads=3, prefix=1)
    ).eval()
    codes, moments = torch.randint(64, (4, 64)), spread(8, 8, 1)
    hidden = torch.rand(64) < 0.5

    def said_of_the_first(shares: tuple[float, ...]) -> list[Tensor]:
        unknown = torch.stack([hidden, *(torch.rand(64) < share for share in shares)])
        decoder, heard = ParallelDecoder(net, torch.zeros(4, 1, 192), "float32"), []

        class Listening:
            def extend(self, *given: Tensor) -> Tensor:
                logits = decoder.extend(*given)
                heard.append(logits[0])
                return logits

        begun = codes.masked_fill(unknown, 64)
        write_in_parallel(
            Listening(),
            begun,
            unknown,
            moments,
            torch.full((4, 64), 0.5),
            12,
            Sampling(),
            silent,
            partial=True,
        )
        return heard

    few, many = said_of_the_first((0.1, 0.2, 0.3)), said_of_the_first((1.0, 0.9, 0.6))
    assert len(few) == len(many) == 12
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=True))
