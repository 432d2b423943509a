"""Decoders give the logits of the whole network, code by code, in either number format."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from danqing.families.transformer import Transformer
from danqing.nets.decoders.contract import TransformerShape
from danqing.nets.decoders.parallel import ParallelDecoder
from danqing.nets.decoders.raster import RasterDecoder
from danqing.precision import Precision
from tests.families.test_transformer_network import SMALL, inputs, shaken, some_order


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_what_is_asked_for_step_by_step_is_what_all_at_once_would_say(
    rows: int, columns: int, depth: int, groups: int, prefix_tokens: int, seed: int
) -> None:
    shape = SMALL._replace(
        rows=rows, columns=columns, depth=depth, key_value_heads=groups, prefix=prefix_tokens
    )
    net, (prefix, codes) = shaken(shape), inputs(shape, n=3)
    ranks = some_order(shape, n=3)[0]
    order = ranks.argsort(1)
    decoder, rng = ParallelDecoder(net, prefix, "float32"), torch.Generator().manual_seed(seed)
    known = torch.zeros(3, 1, dtype=torch.int64)
    while int(known.min()) < shape.codes:
        # Images learn different numbers of codes at a step, some of them none.
        more = (torch.rand(3, 1, generator=rng) * (shape.codes - known + 1)).long()
        numbers = known + torch.arange(int(more.max()))
        real = numbers < known + more
        places = order.gather(1, numbers.clamp_max(shape.codes - 1))
        asked = torch.randint(shape.codes, (3, 4), generator=rng)
        logits = decoder.extend(codes.gather(1, places).masked_fill(~real, -1), places, asked)
        known = known + more
        unknown = ranks >= known
        with torch.no_grad():
            whole = net.parallel(prefix, codes, ranks, ranks.minimum(known))
        expected = whole.gather(1, asked[..., None].expand(-1, -1, shape.vocabulary))
        new = unknown.gather(1, asked)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits[new], expected[new], atol=1e-5)


def test_asking_in_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    shape = TransformerShape(512, 8, 8, 1, width=256, layers=6, heads=8, key_value_heads=2, prefix=1)
    net, (prefix, codes) = Transformer(shape), inputs(shape, n=8, double=False)
    order = torch.rand(codes.shape).argsort(1)
    decoders = [ParallelDecoder(net, prefix, precision) for precision in ("float32", "bfloat16")]
    for start, stop in ((0, 0), (0, 1), (1, 8), (8, 32), (32, 60)):
        given, asked = order[:, start:stop], order[:, stop : stop + 9]
        exact, close = (each.extend(codes.gather(1, given), given, asked) for each in decoders)
        shares, other = exact.log_softmax(-1), close.log_softmax(-1)
        assert (shares - other).abs().max() < 0.05
        assert F.kl_div(other, shares, log_target=True, reduction="none").sum(-1).max() < 1e-4
    assert not torch.equal(exact, close)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 3),
)
def test_the_cache_changes_nothing(
    rows: int, columns: int, depth: int, groups: int, prefix_tokens: int
) -> None:
    shape = SMALL._replace(
        rows=rows, columns=columns, depth=depth, key_value_heads=groups, prefix=prefix_tokens
    )
    net, (prefix, codes) = shaken(shape), inputs(shape)
    with torch.no_grad():
        expected = net(prefix, codes)
    decoder = RasterDecoder(net, prefix, "float32")
    for i in range(shape.codes):
        logits = decoder.extend(codes[:, i - 1]) if i else decoder.logits
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, expected[:, i], atol=1e-5)
        assert logits is decoder.logits


@pytest.mark.parametrize("groups", [2, 8])
def test_decoding_in_bfloat16_is_close_to_float32(groups: int) -> None:
    torch.manual_seed(0)
    shape = TransformerShape(512, 5, 4, 1, width=256, layers=6, heads=8, key_value_heads=groups, prefix=1)
    net, (prefix, codes) = Transformer(shape), inputs(shape, n=32, double=False)
    decoders = [RasterDecoder(net, prefix, precision) for precision in ("float32", "bfloat16")]
    for i in range(shape.codes - 1):
        exact, close = (decoder.extend(codes[:, i]) for decoder in decoders)
        shares, other = exact.log_softmax(-1), close.log_softmax(-1)
        assert (shares - other).abs().max() < 0.05
        assert F.kl_div(other, shares, log_target=True, reduction="none").sum(-1).max() < 1e-4
    assert not torch.equal(exact, close)


@pytest.mark.parametrize(("precision", "groups"), [("float32", 2), ("bfloat16", 2), ("bfloat16", 4)])
def test_a_row_does_not_depend_on_its_neighbours(precision: Precision, groups: int) -> None:
    shape = SMALL._replace(vocabulary=600, width=256, key_value_heads=groups)
    net, (prefix, codes) = shaken(shape, double=False), inputs(shape, n=16, double=False)
    others_prefix, others = torch.randn_like(prefix), torch.randint_like(codes, shape.vocabulary)
    others_prefix[5], others[5] = prefix[5], codes[5]
    first, second = (RasterDecoder(net, each, precision) for each in (prefix, others_prefix))
    for i in range(shape.codes - 1):
        assert torch.equal(first.logits[5], second.logits[5])
        first.extend(codes[:, i])
        second.extend(others[:, i])


IN_BFLOAT16 = """
import torch
from danqing.families.transformer import Transformer
from danqing.nets.decoders.contract import TransformerShape
from danqing.nets.decoders.parallel import ParallelDecoder
from danqing.nets.decoders.raster import RasterDecoder
net = Transformer(TransformerShape(8, 3, 3, 1, width=16, layers=2, heads=2, key_value_heads=1, prefix=1))
prefix, codes = torch.zeros(2, 1, 16), torch.zeros(2, 1, dtype=torch.int64)
said = RasterDecoder(net, prefix, "bfloat16").extend(codes[:, 0]), ParallelDecoder(net, prefix, "bfloat16")
print(*said[0].shape, *said[1].extend(codes, codes, codes + 1).shape)
"""


def test_processors_that_multiply_no_bfloat16_paint_in_it_all_the_same() -> None:
    older = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", IN_BFLOAT16], env=older, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "8", "2", "1", "8"], done.stderr
