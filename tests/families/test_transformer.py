"""The transformer family: causal, exact where it says so, and able to paint what it is asked for."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import danqing as dq
from danqing import families
from danqing.data import Batches
from danqing.errors import ConfigError
from danqing.families import transformer_sampling
from danqing.families.abilities import (
    Fills,
    HasLikelihood,
    HasTokenizer,
    HasTokenLikelihood,
    PaintsInSteps,
    Varies,
)
from danqing.families.base import Batch, Condition
from danqing.families.transformer_sampling import TransformerConfig, TransformerFamily
from danqing.images import Images, to_float, to_uint8
from danqing.model.model import Model
from danqing.randomness import generator
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine

GOLDEN = {  # losses at steps 0, 6, 12 and 18 of `train` below
    "raster": [5.29295, 2.80351, 2.07187, 1.59508],
    "masked": [5.35153, 2.87182, 2.1525, 1.6466],
}
ORDERS = tuple(GOLDEN)
CAPTIONS = ("a bright square", "an upright bar")
SIDE = 6
TOKENIZER = {"family": "vqvae", "width": SIDE, "height": SIDE, "channels": 1}
TOKENIZER |= {"features": 4, "blocks": 0, "downsamplings": 1, "vocabulary": 16, "code_width": 4}


def build(seed: int = 0, **settings: Any) -> TransformerFamily:
    plain = {"family": "transformer", "width": SIDE, "height": SIDE, "channels": 1}
    small = {"layers": 2, "features": 32, "heads": 4, "key_value_heads": 2}
    config = families.parse_config(plain | small | settings)
    assert isinstance(config, TransformerConfig)
    config = config.complete(CAPTIONS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        family = families.build(config)
    assert isinstance(family, TransformerFamily)
    return family


def lively(family: TransformerFamily) -> TransformerFamily:
    """With logits far from uniform, and conditions far apart: fresh weights say almost nothing."""
    with torch.no_grad():
        family.net.head.weight.mul_(8)
        for name, parameter in family.prefix.named_parameters():
            parameter.mul_(50 if "bias" not in name else 1)
    return family.eval().requires_grad_(False)


def shapes(count: int, seed: int = 0) -> Batch:
    """Bright squares (label 0) and upright bars (label 1) of random place."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    places = torch.randint(0, SIDE - 2, (count, 1, 1), generator=rng)
    row, column = torch.arange(SIDE)[None, :, None], torch.arange(SIDE)[None, None, :]
    square = (row >= places) & (row < places + 3) & (column >= places) & (column < places + 3)
    bar = (column == places) & (row >= 0)
    inside = torch.where(labels[:, None, None] == 0, square, bar)
    images = torch.where(inside, 1.0, -1.0)[:, None]
    texts = tuple(CAPTIONS[label] for label in labels.tolist())
    return Batch(images.contiguous(memory_format=torch.channels_last), Condition(label=labels, text=texts))


def pictures(count: int, channels: int = 1, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return to_float(torch.randint(256, (count, SIDE, SIDE, channels), dtype=torch.uint8, generator=rng))


def logits(family: TransformerFamily, images: Tensor, condition: Condition) -> Tensor:
    absent = torch.zeros(len(images), dtype=torch.bool)
    return family.net(family.prefix(condition, absent), family.codes_of(Batch(images)))


def test_a_code_is_foretold_by_those_before_it_and_by_no_other() -> None:
    family = lively(build(labels=("a", "b"), channels=2, height=4, width=4))
    images = to_float(torch.randint(256, (1, 4, 4, 2), dtype=torch.uint8))
    condition = Condition(label=torch.tensor([0]))
    before = logits(family, images, condition)
    codes = family.codes_of(Batch(images))
    for place in range(codes.shape[1]):
        other = codes.clone()
        other[0, place] = (other[0, place] + 100) % 256
        after = logits(family, family.tokenizer.detokenize(other.reshape(1, 4, 4, 2)), condition)
        changed = (after != before).any(-1)[0]
        assert not changed[: place + 1].any()
        assert changed[place + 1 :].all()
    relabelled = logits(family, images, Condition(label=torch.tensor([1])))
    assert (relabelled != before).any(-1).all()


def test_in_masked_order_a_code_is_foretold_by_all_that_are_known() -> None:
    family = lively(build(order="masked", height=4, width=4))
    codes, ranks = torch.randint(256, (1, 16)), torch.arange(16)[None]
    prefix, known = family.prefix.nothing(1), ranks.clamp_max(12)
    before = family.net.parallel(prefix, codes, ranks, known)[:, 12:]
    for place in range(12):
        other = codes.clone()
        other[0, place] = (other[0, place] + 100) % 256
        assert (family.net.parallel(prefix, other, ranks, known)[:, 12:] != before).any(-1).all()


def test_the_likelihood_of_a_uniform_model_is_the_logarithm_of_the_vocabulary() -> None:
    batch = shapes(5)
    for settings, places, vocabulary in (({}, 36, 256), ({"tokenizer": TOKENIZER}, 9, 16)):
        family = build(labels=("square", "bar"), **settings).eval()
        with torch.no_grad():
            family.net.head.weight.zero_()
        assert isinstance(family, HasTokenLikelihood)
        nll = family.token_nll(batch)
        assert nll.tolist() == pytest.approx([places * math.log(vocabulary)] * 5, rel=1e-6)
    (phase,) = family.phases()
    loss = family.loss(batch, phase, generator(0, "loss")).total.item()
    assert loss == pytest.approx(math.log(16), rel=1e-6)


def test_probabilities_of_all_images_of_a_tiny_space_sum_to_one() -> None:
    config = TransformerConfig.model_construct(
        **TransformerConfig(features=16, heads=2, layers=1).model_dump()
        | {"width": 1, "height": 1, "channels": 2}
    )
    torch.manual_seed(0)
    family = lively(families.build(config))
    assert isinstance(family, HasLikelihood)
    first, second = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    values = torch.stack([first, second], -1).reshape(-1, 1, 1, 2).byte()
    every = values.float().div(127.5).sub(1).permute(0, 3, 1, 2)
    total = torch.zeros((), dtype=torch.float64)
    for images in every.split(8192):
        bits = 2 * family.bits_per_dim(Batch(images), generator(0, "unused"))
        total += (0.5 ** bits.double()).sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


def test_what_a_family_can_do_follows_from_its_codes_and_its_order() -> None:
    for settings, kinds in (
        ({}, (True, True)),
        ({"tokenizer": TOKENIZER}, (True, False)),
        ({"order": "masked"}, (False, False)),
        ({"order": "masked", "tokenizer": TOKENIZER}, (False, False)),
    ):
        family = build(**settings)
        assert (isinstance(family, HasTokenLikelihood), isinstance(family, HasLikelihood)) == kinds
        assert isinstance(family, Fills)
        assert isinstance(family, Varies)
        assert isinstance(family, PaintsInSteps)
        assert isinstance(family, HasTokenizer)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("condition", ["label", "text", "none"])
def test_every_condition_keeps_the_contract(order: str, condition: str) -> None:
    size = {"width": 7, "height": 5, "channels": 3}
    family = build(order=order, condition=condition, labels=("square", "bar"), **size, text={"length": 6})
    batch = Batch(torch.rand(4, 3, 5, 7) * 2 - 1, shapes(4).condition)
    (phase,) = family.phases()
    losses = family.loss(batch, phase, generator(0, "loss"))
    losses.total.backward()
    assert {name for name, _ in family.named_children()} == {*phase.modules, "tokenizer"}
    assert losses.total.item() == pytest.approx(math.log(256), abs=0.3)
    assert all(not value.requires_grad and value.numel() == 1 for value in losses.logged.values())
    assert family.config.reads_labels == (condition == "label")
    assert family.config.reads_text == (condition == "text")
    steps: list[tuple[int, int]] = []

    def on_step(done: int, total: int, preview: Any) -> None:
        if done % 50 == 1:
            assert preview().shape == (4, 3, 5, 7)
        steps.append((done, total))

    family.eval()
    with torch.inference_mode():
        painted = family.sample(batch.condition, seeds=range(4), on_step=on_step)
    assert painted.shape == (4, 3, 5, 7)
    assert painted.abs().max() <= 1
    total = family.painting_steps()
    assert steps == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("condition", ["label", "text"])
def test_guidance_of_one_is_none_bit_for_bit_and_more_changes_the_picture(
    order: str, condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = lively(build(order=order, condition=condition, labels=("square", "bar")))
    asked, seeds = shapes(4).condition, range(4)
    rows: list[int] = []
    for name in ("RasterDecoder", "ParallelDecoder"):
        kind = getattr(transformer_sampling, name)
        told = lambda net, prefix, how, kind=kind: rows.append(len(prefix)) or kind(net, prefix, how)  # noqa: E731
        monkeypatch.setattr(transformer_sampling, name, told)
    plain = family.sample(asked, seeds=seeds, precision="float32")
    assert torch.equal(plain, family.sample(asked, seeds=seeds, precision="float32", guidance_scale=1.0))
    guided = family.sample(asked, seeds=seeds, precision="float32", guidance_scale=3.0)
    assert rows == [4, 4, 8]  # no row is computed without the condition where it would not count
    assert not torch.equal(plain, guided)
    none = family.sample(asked, seeds=seeds, precision="float32", guidance_scale=0.0)
    nothing = Condition(text=("", " ", "", "\t\n"))
    if condition == "text":  # no prompt at all is what guidance leads away from
        assert torch.equal(none, family.sample(nothing, seeds=seeds, precision="float32"))
        assert not torch.equal(none, plain)


def test_the_configuration_says_how_much_samples_are_guided_unless_asked_otherwise() -> None:
    labels, asked = ("square", "bar"), shapes(4).condition
    family = lively(build(guidance_scale=3.0, labels=labels))
    assert Model(family).sample_options["guidance_scale"] == 3.0
    both = [family.sample(asked, seeds=range(4), **options) for options in ({}, {"guidance_scale": 3.0})]
    assert torch.equal(*both)
    assert not torch.equal(both[0], family.sample(asked, seeds=range(4), guidance_scale=1.0))
    for settings in ({"condition": "none"}, {"condition_dropout": 0.0, "labels": labels}):
        plain = build(guidance_scale=3.0, **settings).eval()  # there is nothing to lead away from
        assert Model(plain).sample_options["guidance_scale"] == 1.0
        assert plain.sample(asked, seeds=range(4)).shape == (4, 1, SIDE, SIDE)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_an_image_does_not_depend_on_its_neighbours(order: str, guidance_scale: float) -> None:
    model = Model(lively(build(order=order, labels=("square", "bar"))))
    options = {"guidance_scale": guidance_scale}
    whole = model.sample(21, seed=5, **options).array
    for n in (1, 3, 17):
        assert np.array_equal(model.sample(n, seed=5, **options).array, whole[:n])
    seeds, labels = [4, 8, 15, 16, 23], ["bar", "square", "bar", "bar", "square"]
    together = model.sample(5, seeds=seeds, label=labels, **options).array
    backwards = model.sample(5, seeds=seeds[::-1], label=labels[::-1], **options).array
    assert np.array_equal(together, backwards[::-1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tokenizer", [None, TOKENIZER])
def test_filling_keeps_every_other_pixel_and_paints_the_rest_by_its_own_seed(
    order: str, tokenizer: dict[str, Any] | None
) -> None:
    family = lively(build(order=order, tokenizer=tokenizer, labels=("square", "bar")))
    images, asked = pictures(4), shapes(4).condition
    mask = torch.zeros(4, 1, SIDE, SIDE)
    mask[0, :, 2:5, 3:6] = 1
    mask[1] = 1
    mask[3, :, 5, 5] = 1  # nothing at all of image 2
    with torch.inference_mode():
        filled = family.fill(images, mask, asked, seeds=range(4), precision="float32")
        again = family.fill(images, mask, asked, seeds=range(10, 14), precision="float32")
        painted = family.sample(asked, seeds=range(4), precision="float32")
    outside = mask.expand_as(images) == 0
    assert torch.equal(filled[outside], images[outside])
    assert torch.equal(filled[2], images[2])
    assert not torch.equal(filled[0], images[0])
    assert not torch.equal(filled[0], again[0])
    assert torch.equal(filled[1], painted[1])  # a whole image is painted as if there had been none


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_filled_does_not_depend_on_its_neighbours_nor_on_their_masks(
    order: str, precision: str
) -> None:
    model = Model(lively(build(order=order, tokenizer=TOKENIZER, features=64, labels=("square", "bar"))))
    images, rng = Images(to_uint8(pictures(5))), torch.Generator().manual_seed(1)
    mask = (torch.rand(5, SIDE, SIDE, generator=rng) < torch.linspace(0, 1, 5)[:, None, None]).numpy()

    def filled(rows: list[int]) -> np.ndarray:
        some, labels = images[rows], [("square", "bar")[row % 2] for row in rows]
        return model.fill(some, mask[rows], label=labels, seeds=rows, precision=precision).array

    together = filled([0, 1, 2, 3, 4])
    for i in range(5):
        assert (filled([i])[0] == together[i]).all()
    assert (filled([3, 1])[0] == together[3]).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tokenizer", [None, TOKENIZER])
def test_variations_go_from_what_the_codes_say_to_a_picture_of_the_seed_alone(
    order: str, tokenizer: dict[str, Any] | None
) -> None:
    family = lively(build(order=order, tokenizer=tokenizer, labels=("square", "bar")))
    images, asked, seeds = pictures(40), shapes(40).condition, range(40)
    assert isinstance(family, Varies)
    with torch.inference_mode():
        same, near, far, other = (
            family.vary(images, asked, seeds=seeds, strength=strength) for strength in (0, 0.3, 0.7, 1)
        )
        painted = family.sample(asked, seeds=seeds)
    decoded = family.tokenizer.detokenize(family.tokenizer.tokenize(images))
    assert torch.equal(same, decoded)
    assert torch.equal(other, painted)
    model, rows = Model(family), Images(to_uint8(images))
    several, one = (
        model.vary(rows[chosen], strength=0.3, label=["bar"] * len(chosen), seeds=chosen).array
        for chosen in ([*range(40)], [7])
    )
    assert (one[0] == several[7]).all()
    if tokenizer is None:  # each place is a pixel: as many as `strength` says are written anew
        for varied, share in ((near, 0.3), (far, 0.7)):
            assert (varied != images).float().mean().item() == pytest.approx(share, abs=0.05)
    assert ((near - decoded).abs().mean() < (far - decoded).abs().mean()).item()


@pytest.mark.parametrize("order", ORDERS)
def test_guidance_leads_away_from_a_negative_text(order: str) -> None:
    family = lively(build(order=order, condition="text"))
    first, second = CAPTIONS

    def paint(text: str, negative: tuple[str, ...] | None, **options: Any) -> Tensor:
        condition = Condition(text=(text,) * 3, negative_text=negative)
        return family.sample(condition, seeds=range(3), precision="float32", **options)

    plain = paint(first, None, guidance_scale=2.0)
    assert torch.equal(paint(first, ("", " ", ""), guidance_scale=2.0), plain)
    one = paint(first, ("", second, ""), guidance_scale=2.0)
    assert [torch.equal(one[i], plain[i]) for i in range(3)] == [True, False, True]
    alone = paint(second, None, guidance_scale=1.0)  # a scale of 0 is where guidance sets out from
    assert torch.equal(paint(first, (second,) * 3, guidance_scale=0.0), alone)
    with pytest.raises(ConfigError, match="guidance_scale above 1"):
        paint(first, ("", second, ""), guidance_scale=1.0)


@pytest.mark.parametrize(("height", "width"), [(9, 6), (14, 15), (8, 8)])
def test_every_code_that_stands_for_a_covered_pixel_is_written_anew(height: int, width: int) -> None:
    shape = {"height": height, "width": width}
    tokenizer = TOKENIZER | shape | {"downsamplings": 2}
    family = build(**shape, tokenizer=tokenizer, condition="none").eval()
    rows, columns, _ = family.tokenizer.code_shape
    image = torch.zeros(1, 1, height, width)
    for place in range(height * width):
        mask = torch.zeros(1, 1, height, width)
        mask.view(-1)[place] = 1
        codes = family._codes_outside(Condition(image=image, mask=mask)).reshape(rows, columns)
        unknown = (codes == 16).nonzero().tolist()
        assert unknown == [[place // width // 4, place % width // 4]]


def test_a_label_that_is_not_known_is_no_condition() -> None:
    family = lively(build(labels=("a", "b")))
    absent = torch.zeros(2, dtype=torch.bool)
    prefix = family.prefix(Condition(label=torch.tensor([1, -1])), absent)
    assert torch.equal(prefix[1], family.prefix.nothing(1)[0])
    assert not torch.equal(prefix[0], prefix[1])


@pytest.mark.parametrize("order", ORDERS)
def test_the_first_stage_never_changes_and_codes_may_come_ready_made(order: str) -> None:
    family = build(order=order, tokenizer=TOKENIZER, condition="none").train()
    assert not family.tokenizer.training
    assert not any(parameter.requires_grad for parameter in family.tokenizer.parameters())
    (phase,) = family.phases()
    assert "tokenizer" not in phase.modules
    before = {name: value.clone() for name, value in family.tokenizer.state_dict().items()}
    batch = shapes(8)
    codes = family.tokenizer.tokenize(batch.images)
    coded = Batch(torch.empty(8, 0, 0, 0), batch.condition, codes)
    losses = [family.loss(one, phase, generator(0, "loss")).total for one in (batch, coded)]
    assert torch.equal(*losses)
    losses[0].backward()
    after = family.tokenizer.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_wrong_requests_are_refused_with_what_to_do() -> None:
    labelled = build(labels=("square", "bar")).eval()
    asked = Condition(label=torch.tensor([0]))
    for order in ORDERS:
        family = build(order=order, labels=("square", "bar")).eval()
        with pytest.raises(ConfigError, match="no sampling option truncation"):
            family.sample(asked, seeds=[0], truncation=0.5)
        with pytest.raises(ConfigError, match="square, bar"):
            family.sample(Condition(), seeds=[0])
        with pytest.raises(ConfigError, match="bfloat16"):
            family.sample(asked, seeds=[0], precision="int8")
    with pytest.raises(ConfigError, match="num_steps"):
        labelled.sample(asked, seeds=[0], num_steps=4)
    with pytest.raises(ConfigError, match="at least 1"):
        build(order="masked").sample(Condition(), seeds=[0], num_steps=0)
    with pytest.raises(ConfigError, match="prompt"):
        build(condition="text").sample(asked, seeds=[0])
    with pytest.raises(ConfigError, match="without labels"):
        build(condition="none").sample(asked, seeds=[0], guidance_scale=2.0)
    with pytest.raises(ConfigError, match="condition_dropout"):
        build(labels=("a",), condition_dropout=0.0).sample(asked, seeds=[0], guidance_scale=2.0)
    for settings, message in (
        ({"features": 20}, "four times heads"),
        ({"key_value_heads": 3}, "key_value_heads"),
        ({"width": 128, "height": 128}, "tokenizer"),
        ({"tokenizer": TOKENIZER | {"width": 16}}, "same width"),
        ({"tokenizer": {"family": "vae", "width": SIDE, "height": SIDE, "channels": 1}}, "VQ-VAE"),
        ({"order": "spiral"}, "raster"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(**settings)


@pytest.mark.parametrize("order", ORDERS)
def test_a_saved_model_paints_the_same_pictures(order: str, tmp_path: Path) -> None:
    family = lively(build(order=order, condition="text", tokenizer=TOKENIZER, text={"length": 6}))
    prompts = CAPTIONS
    model = Model(family)
    with torch.inference_mode():
        before = family.sample(Condition(text=prompts), seeds=[1, 2], guidance_scale=2.0)
    images = dq.images.Images(np.zeros((4, SIDE, SIDE, 1), np.uint8))
    loaded = dq.load(model.save(tmp_path / "model", images)).family
    assert isinstance(loaded, TransformerFamily)
    assert loaded.config == family.config
    with torch.inference_mode():
        after = loaded.sample(Condition(text=prompts), seeds=[1, 2], guidance_scale=2.0)
    assert torch.equal(before, after)


def train(family: TransformerFamily, steps: int, rate: float = 3e-3) -> list[float]:
    optimizer = torch.optim.Adam([p for p in family.parameters() if p.requires_grad], lr=rate)
    (phase,) = family.phases()
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        total = family.loss(shapes(32, seed=step), phase, generator(0, "loss", step)).total
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses


@pytest.mark.parametrize("order", ORDERS)
def test_losses_follow_the_golden_curve(order: str) -> None:
    losses = train(build(order=order, labels=("square", "bar"), noise=0.1, label_smoothing=0.1), 20)
    assert losses[::6] == pytest.approx(GOLDEN[order], rel=2e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_state_put_into_a_fresh_engine_continues_bit_for_bit(order: str, tmp_path: Path) -> None:
    dataset = dq.open_dataset("digits", size=(8, 8), cache_dir=tmp_path)
    small = {"order": order, "layers": 1, "features": 16, "heads": 2, "batch_size": 8, "noise": 0.1}
    config = resolve(preset="transformer-16", settings=small, size=(8, 8)).for_data(dataset)
    whole, first, second = (
        Engine(config, Batches(dataset, 8, config.seed), torch.device("cpu"), "bfloat16") for _ in range(3)
    )
    for engine, steps in ((whole, range(5)), (first, range(3))):
        for step in steps:
            engine.step(8 * step, step, 1000)
    tensors = {name: value.clone() for name, value in first.tensors().items()}
    second.load_tensors(tensors, first.meter.counts)
    for step in range(3, 5):
        second.step(8 * step, step, 1000)
    expected = whole.tensors()
    assert expected.keys() == second.tensors().keys()
    assert all(torch.equal(value, expected[name]) for name, value in second.tensors().items())


@pytest.mark.parametrize("order", ORDERS)
def test_training_is_a_function_of_its_seeds(order: str) -> None:
    runs = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        runs.append(train(build(order=order, labels=("square", "bar"), noise=0.1), 3))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("order", "condition"), [("raster", "label"), ("masked", "text")])
def test_it_learns_to_paint_what_it_is_asked_for_and_to_fill_in(order: str, condition: str) -> None:
    family = build(order=order, condition=condition, labels=("square", "bar"), text={"length": 4})
    train(family, 160 if order == "raster" else 320)
    family.eval()
    asked = shapes(64).condition
    with torch.inference_mode():
        painted = family.sample(asked, seeds=range(64), guidance_scale=1.5, precision="float32") > 0
        columns = painted[:, 0].sum(1).amax(1)  # of the fullest column: 6 of a bar, 3 of a square
        bars = columns >= 5
        assert (bars == (asked.label == 1)).float().mean() > 0.85
        test = shapes(64, seed=1)
        mask = torch.zeros(64, 1, SIDE, SIDE)
        mask[:, :, 4:] = 1
        filled = family.fill(test.images, mask, test.condition, seeds=range(64), precision="float32")
        wrong = ((filled > 0) != (test.images > 0)).float().mean()
    assert wrong < 0.03
    if isinstance(family, HasLikelihood):
        with torch.inference_mode():
            right = family.bits_per_dim(test, generator(0, "bits")).mean()
            mistaken = Condition(label=1 - test.condition.label, text=test.condition.text[::-1])
            assert right < 0.25  # 36 pixels, 4 images of a label: 2 / 36 = 0.06 at best
            assert family.bits_per_dim(Batch(test.images, mistaken), generator(0, "bits")).mean() > 2 * right
