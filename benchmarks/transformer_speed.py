"""Speed of the transformer and of a GPT-2 of the same size from Hugging Face's `transformers`.

    python benchmarks/transformer_speed.py [sampling] [masked] [training] [--rounds 5] [--threads 2]

256 codes of a vocabulary of 512 for 16 images, 6 layers, width 256, 8 heads. Ours has 2 key heads
("grouped"), and for comparison all 8. Both have random weights and draw codes instead of taking the most
likely one. Theirs is `generate` with its cache, in the precision that is faster here. Ours and theirs run in
turns in one process, so that other load on the machine affects both equally.

sampling: codes per second in raster order.
masked: images per second in masked order, in the default number of steps, against theirs.
training: codes per second of a training step of the same batch with AdamW, theirs in float32 without dropout,
and our share of the speed of a matrix product on this machine. The last line of each part is the ratio
with grouped key heads, the line before it that with all (masked order is only measured grouped).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from peak import peak_flops
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from danqing.families.decoding import Sampling, write, write_in_parallel
from danqing.families.masked_order import spread
from danqing.families.transformer import Transformer
from danqing.families.transformer_sampling import NUM_STEPS
from danqing.nets.decoders.contract import TransformerShape
from danqing.nets.decoders.parallel import ParallelDecoder
from danqing.nets.decoders.raster import RasterDecoder
from danqing.precision import Precision, autocast, candidates
from danqing.randomness import uniform

IMAGES, SIDE, VOCABULARY, LAYERS, WIDTH, HEADS, GROUPED = 16, 16, 512, 6, 256, 8, 2
CODES = SIDE * SIDE
CPU = torch.device("cpu")


def ours(key_value_heads: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerShape(VOCABULARY, SIDE, SIDE, 1, WIDTH, LAYERS, HEADS, key_value_heads, prefix=1)
    ).eval()


def theirs() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CODES + 1,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    model.train(False)
    return model


def their_sampling(precision: Precision) -> Callable[[], None]:
    """One call writes 256 codes for 16 images, drawn from the whole vocabulary."""
    model = theirs().bfloat16() if precision == "bfloat16" else theirs()
    start = torch.zeros(IMAGES, 1, dtype=torch.int64)
    mask = torch.ones_like(start)

    def call() -> None:
        torch.manual_seed(0)
        written = model.generate(  # type: ignore[misc]
            start,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            use_cache=True,
            min_new_tokens=CODES,
            max_new_tokens=CODES,
        )
        assert isinstance(written, Tensor)
        assert written.shape == (IMAGES, CODES + 1)

    return call


def our_sampling(key_value_heads: int, precision: Precision) -> Callable[[], None]:
    """Write the same codes with the transformer family, with a random stream for each image."""
    net, unknown = ours(key_value_heads), torch.ones(IMAGES, CODES, dtype=torch.bool)

    def call() -> None:
        blank = torch.full((IMAGES, CODES), VOCABULARY)
        uniforms = uniform(range(IMAGES), (CODES,), purpose="codes")
        decoder = RasterDecoder(net, torch.zeros(IMAGES, 1, WIDTH), precision)
        codes = write(decoder, blank, unknown, uniforms, Sampling(), _tells_nobody)
        assert int(codes.max()) < VOCABULARY

    return call


def our_masked_sampling(key_value_heads: int, precision: Precision) -> Callable[[], None]:
    """Write many codes at once, in the family's default number of steps."""
    net, unknown = ours(key_value_heads), torch.ones(IMAGES, CODES, dtype=torch.bool)

    def call() -> None:
        blank = torch.full((IMAGES, CODES), VOCABULARY)
        uniforms = uniform(range(IMAGES), (CODES,), purpose="codes")
        moments = spread(SIDE, SIDE, 1)
        decoder = ParallelDecoder(net, torch.zeros(IMAGES, 1, WIDTH), precision)
        codes = write_in_parallel(
            decoder, blank, unknown, moments, uniforms, NUM_STEPS, Sampling(), _tells_nobody, partial=False
        )
        assert int(codes.max()) < VOCABULARY

    return call


def our_training(key_value_heads: int, precision: Precision, batch: int) -> Callable[[], None]:
    """Return a step like the trainer's: under autocast, clipped, with the fused AdamW."""
    net = ours(key_value_heads).train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05, fused=True)
    codes = torch.randint(VOCABULARY, (batch, CODES), generator=torch.Generator().manual_seed(0))
    prefix = torch.zeros(batch, 1, WIDTH)

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision, CPU):
            loss = F.cross_entropy(net(prefix, codes).flatten(0, 1), codes.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return call


def their_training(batch: int) -> Callable[[], None]:
    """Return a step of the usual loop, in float32 and without dropout."""
    model = theirs().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, fused=True)
    codes = torch.randint(VOCABULARY, (batch, CODES + 1), generator=torch.Generator().manual_seed(0))

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=codes[:, :-1], labels=codes[:, :-1]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return call


def compare(calls: Mapping[str, Callable[[], None]], rounds: int, inference: bool) -> dict[str, list[float]]:
    """Measure the seconds of each call, in turns, after an uncounted first one."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode(inference):
        for turn in range(rounds + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, other: str) -> float:
    """Return how many times as fast `name` is as `other`: the median of the rounds."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))


def flops_per_code(key_value_heads: int) -> float:
    """Count the operations of a training step: six per weight, plus attention (Hoffmann et al. 2022)."""
    net = ours(key_value_heads)
    weights = sum(p.numel() for name, p in net.named_parameters() if p.dim() == 2 and "embed" not in name)
    return 6 * weights + 6 * LAYERS * WIDTH * CODES


def sampling(rounds: int, precision: Precision) -> float:
    calls = {"gpt2-float32": their_sampling("float32"), "gpt2-bfloat16": their_sampling("bfloat16")}
    calls |= {"danqing-all": our_sampling(HEADS, precision), "danqing": our_sampling(GROUPED, precision)}
    seconds = compare(calls, rounds, inference=True)
    report("codes_per_second", seconds, IMAGES * CODES)
    best = min(("gpt2-float32", "gpt2-bfloat16"), key=lambda name: statistics.median(seconds[name]))
    print(json.dumps({"ratio_with_all_key_heads": round(ratio(seconds, "danqing-all", best), 2), "to": best}))
    return ratio(seconds, "danqing", best)


def masked(rounds: int, precision: Precision) -> float:
    calls = {"gpt2-float32": their_sampling("float32"), "danqing": our_masked_sampling(GROUPED, precision)}
    seconds = compare(calls, rounds, inference=True)
    report("images_per_second", seconds, IMAGES)
    return ratio(seconds, "danqing", "gpt2-float32")


def training(rounds: int, precision: Precision, batch: int = 32) -> float:
    calls = {"gpt2-float32": their_training(batch)}
    calls |= {"danqing-all": our_training(HEADS, precision, batch)}
    calls |= {"danqing": our_training(GROUPED, precision, batch)}
    seconds = compare(calls, rounds, inference=False)
    report("codes_per_second", seconds, batch * CODES)
    peak = peak_flops(precision)
    share = flops_per_code(GROUPED) * batch * CODES / statistics.median(seconds["danqing"]) / peak
    print(json.dumps({"model_flops_utilisation": round(share, 3), "peak_teraflops": round(peak / 1e12, 2)}))
    all_heads = ratio(seconds, "danqing-all", "gpt2-float32")
    print(json.dumps({"ratio_with_all_key_heads": round(all_heads, 2)}))
    return ratio(seconds, "danqing", "gpt2-float32")


def report(unit: str, seconds: Mapping[str, list[float]], count: int) -> None:
    medians = {name: round(count / statistics.median(values), 1) for name, values in seconds.items()}
    best = {name: round(count / min(values), 1) for name, values in seconds.items()}
    print(json.dumps({unit: medians, "best": best, "threads": torch.get_num_threads()}), flush=True)


def _tells_nobody(_done: int, _steps: int, _codes: Tensor) -> None:
    pass


PARTS = {"sampling": sampling, "masked": masked, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # argparse would check the default, an empty list, against the choices.
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    precision = candidates(CPU)[0]
    for part in arguments.parts or PARTS:
        result = PARTS[part](arguments.rounds, precision)
        print(json.dumps({"part": part, "precision": precision, "ratio": round(result, 2)}), flush=True)


if __name__ == "__main__":
    main()
