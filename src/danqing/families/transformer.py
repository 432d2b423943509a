"""A transformer that writes an image code after code, as a language model writes words (Esser et al. 2021).

The codes are a trained tokenizer's, or the pixels themselves. What the image should show goes before them as
a prefix: a label, or the tokens of a text. Order `raster` writes them one by one, each from all before it,
and so knows how likely an image is; order `masked` writes many at once, far apart (Chang et al. 2022; Besnier
et al. 2025).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing import families
from danqing.errors import ConfigError
from danqing.families.base import (
    Batch,
    Condition,
    Family,
    FamilyConfig,
    HasTokenizer,
    Losses,
    OnStep,
    Phase,
    Tokenizes,
    nats_to_bits_per_dim,
)
from danqing.families.decoding import (
    OnCodes,
    Sampling,
    given_in_training,
    known_when_written,
    spread,
    write,
    write_in_parallel,
)
from danqing.families.pixel_codes import PixelCodes
from danqing.families.prefix import Prefix
from danqing.families.transformer_config import TransformerConfig as TransformerConfig
from danqing.nets.layers import crop
from danqing.nets.parallel import ParallelDecoder
from danqing.nets.raster import RasterDecoder
from danqing.nets.transformer import Shape, Transformer
from danqing.options import Schedule, check
from danqing.precision import Precision, candidates
from danqing.randomness import uniform

PHASE = "transformer"
MOST_CODES = 65_536
"""Of one image: more would take hours and all memory to write, whatever a small file asks for."""
NUM_STEPS = 12
TRAINED_STEPS = (8, 17)
"""Least number of steps in training, and one more than the most."""
GIVEN = 0.2
"""Share of the images that a masked transformer learns to fill rather than to paint."""
PrecisionName = Literal["auto", "float32", "bfloat16"]


class TransformerFamily(Family, HasTokenizer):
    """What both orders share: a tokenizer that was trained before, the prefix, the network."""

    chunk = 32  # a step costs little more than of 16
    config: TransformerConfig
    tokenizer: nn.Module
    _further_options: ClassVar[tuple[str, ...]] = ("precision",)

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = (
            PixelCodes(config.height, config.width, config.channels)
            if config.tokenizer is None
            else _first_stage(config.tokenizer)
        )
        self.prefix = Prefix(
            config.features,
            labels=config.labels if config.reads_labels else (),
            text=config.text if config.reads_text else None,
            facts=config.text_facts,
        )
        rows, columns, depth = self._codec.code_shape
        if rows * columns * depth > MOST_CODES:
            raise ConfigError(
                f"An image would be {rows * columns * depth:,} codes, too many to write: use a tokenizer "
                "with more downsamplings, or smaller images."
            )
        self.net = Transformer(
            Shape(
                vocabulary=self._codec.vocabulary,
                rows=rows,
                columns=columns,
                depth=depth,
                width=config.features,
                layers=config.layers,
                heads=config.heads,
                key_value_heads=config.key_value_heads or config.heads,
                prefix=self.prefix.length,
            )
        )

    @property
    def _codec(self) -> Tokenizes:
        """The tokenizer as what it does."""
        assert isinstance(self.tokenizer, Tokenizes)
        return self.tokenizer

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.tokenizer.eval()
        return self

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(PHASE, ("prefix", "net")),)

    def fill(
        self, images: Tensor, mask: Tensor, condition: Condition, *, seeds: Sequence[int], **options: Any
    ) -> Tensor:
        """Paint anew what `mask` covers: the codes of each place that it touches. The options are those of
        `sample`.
        """
        return self.sample(replace(condition, image=images, mask=mask), seeds=seeds, **options)

    def vary(
        self, images: Tensor, condition: Condition, *, seeds: Sequence[int], strength: float, **options: Any
    ) -> Tensor:
        """Write a share `strength` of the places anew, chosen at random, and paint all codes. The options are
        those of `sample`.
        """
        codes = self._codec.tokenize(images)
        anew = uniform(seeds, codes.shape[1:3], purpose="places", device=codes.device) < strength
        begun = codes.masked_fill(anew[..., None], self._codec.vocabulary).flatten(1)
        return self.sample(replace(condition, begun=begun), seeds=seeds, **options)

    def codes_of(self, batch: Batch) -> Tensor:
        """The codes of a batch, int64 `[n, N]`, in the order in which they are written."""
        codes = self._codec.tokenize(batch.images) if batch.codes is None else batch.codes
        return codes.long().flatten(1)

    def _prefix_for_training(self, batch: Batch, rng: torch.Generator) -> Tensor:
        absent = torch.rand(len(batch), generator=rng, device=rng.device) < self.config.condition_dropout
        prefix: Tensor = self.prefix(batch.condition, absent)
        return prefix

    def _prefix(self, condition: Condition, count: int, *, guided: bool) -> Tensor:
        """Of `count` images, `[n, p, features]`; guided, then what to lead away from: the negative text, or
        no condition. Raises ConfigError for a negative text without guidance.
        """
        absent = torch.zeros(count, dtype=torch.bool, device=self.prefix.absent.device)
        given: Tensor = self.prefix(condition, absent)
        negative = condition.negative_text or ()
        if not guided:
            if any(text.strip() for text in negative):
                raise ConfigError(
                    "A negative prompt is what guidance leads away from: set guidance_scale above 1, or "
                    "leave the negative prompt out.",
                    "negative_prompt",
                )
            return given
        away = self.prefix(Condition(text=negative), absent) if negative else self.prefix.nothing(count)
        return torch.cat([given, away])

    def _begin(self, condition: Condition, count: int) -> Tensor:
        """Codes `[n, N]` to start from: those to write have the id `vocabulary`.

        A place is painted anew where the mask touches any of the pixels that it stands for.
        """
        if condition.begun is not None:
            return condition.begun
        rows, columns, depth = self._codec.code_shape
        blank = self._codec.vocabulary
        if condition.image is None or condition.mask is None:
            shape = (count, rows * columns * depth)
            return torch.full(shape, blank, dtype=torch.int64, device=self.prefix.absent.device)
        codes = self._codec.tokenize(condition.image)
        cell = self._cell
        missing = (columns * cell[1] - self.config.width, rows * cell[0] - self.config.height)
        touched = F.max_pool2d(F.pad(condition.mask, (0, missing[0], 0, missing[1])), cell) > 0
        return codes.masked_fill(touched.permute(0, 2, 3, 1), blank).flatten(1)  # from [n, 1, rows, columns]

    @property
    def _cell(self) -> tuple[int, int]:
        """Height and width in pixels of what a place stands for: halved sides, rounded up, begin at the top
        left.
        """
        rows, columns, _ = self._codec.code_shape
        return _halved(self.config.height, rows), _halved(self.config.width, columns)

    def _paint(self, codes: Tensor, condition: Condition) -> Tensor:
        """Images of codes `[n, N]`, grey where they are not yet written; given pixels stay as they are."""
        rows, columns, depth = self._codec.code_shape
        grid = codes.reshape(-1, rows, columns, depth)
        unknown = grid == self._codec.vocabulary
        images = self._codec.detokenize(grid.masked_fill(unknown, 0))
        if bool(unknown.any()):
            hidden = unknown.any(3)[:, None]
            for axis, side in zip((2, 3), self._cell, strict=True):
                hidden = hidden.repeat_interleave(side, axis)
            images = images.masked_fill(crop(hidden, (self.config.height, self.config.width)), 0)
        if condition.image is not None and condition.mask is not None:
            images = torch.where(condition.mask > 0, images, condition.image)
        return images

    def _teller(self, condition: Condition, on_step: OnStep | None) -> OnCodes:
        """What tells `on_step` of codes in terms of images."""

        def told(done: int, steps: int, codes: Tensor) -> None:
            if on_step is not None:
                on_step(done, steps, lambda: self._paint(codes, condition))

        return told

    def sample_defaults(self) -> Mapping[str, Any]:
        has_two = self.prefix.embed is not None and self.config.condition_dropout > 0
        return {"guidance_scale": self.config.guidance_scale if has_two else 1.0}

    def _sampling(self, others: Mapping[str, Any], **chosen: Any) -> Sampling:
        """The options of `Sampling`, checked; `others` are those that there are not."""
        if others:
            names, known = ", ".join(others), ", ".join([*chosen, *self._further_options])
            raise ConfigError(
                f"A {self.config.order} transformer has no sampling option {names}: it has {known}."
            )
        if chosen["guidance_scale"] is None:
            chosen["guidance_scale"] = self.sample_defaults()["guidance_scale"]
        sampling = Sampling(**chosen)
        if sampling.is_guided and self.prefix.embed is None:
            raise ConfigError(
                "This model was trained without labels or captions: leave guidance_scale at 1.",
                "guidance_scale",
            )
        if sampling.is_guided and not self.config.condition_dropout:
            raise ConfigError(
                "This model never learnt to paint without a condition, which guidance needs: leave "
                "guidance_scale at 1, or train it with condition_dropout=0.1.",
                "guidance_scale",
            )
        return sampling


class RasterTransformer(TransformerFamily):
    """Writes codes one by one, and knows how likely they are."""

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Cross-entropy of every code given those before it, in nats per code."""
        codes = self.codes_of(batch)
        read = codes
        if self.config.noise:
            wrong = torch.rand(codes.shape, generator=rng, device=rng.device) < self.config.noise
            others = torch.randint(self._codec.vocabulary, codes.shape, generator=rng, device=rng.device)
            read = torch.where(wrong, others, codes)
        logits = self.net(self._prefix_for_training(batch, rng), read)
        return _cross_entropy(logits, codes, self.config, None)

    def token_nll(self, batch: Batch) -> Tensor:
        """-log p(codes | condition) in nats per image, `[n]` float32."""
        codes = self.codes_of(batch)
        logits = self.net(self._prefix(batch.condition, len(batch), guided=False), codes)
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").sum(1)

    def painting_steps(self, **options: Any) -> int:
        return math.prod(self._codec.code_shape)

    def sample(
        self,
        condition: Condition,
        *,
        seeds: Sequence[int],
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance_scale: float | None = None,
        guidance_schedule: Schedule = "constant",
        precision: PrecisionName = "auto",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Write an image per seed, code after code; `decoding.Sampling` says what the options mean.

        precision: of the matrix products, by default what the machine is fast at. Where the condition has an
        image and a mask, only what the mask covers is written, each code knowing what comes before it alone.
        """
        sampling = self._sampling(
            options,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
        )
        count = len(seeds)
        codes = self._begin(condition, count)
        prefix = self._prefix(condition, count, guided=sampling.is_guided)
        uniforms = uniform(seeds, codes.shape[1:], purpose="codes", device=codes.device)
        decoder = RasterDecoder(self.net, prefix, _chosen(precision, codes.device))
        unknown = codes == self._codec.vocabulary
        told = self._teller(condition, on_step)
        return self._paint(write(decoder, codes, unknown, uniforms, sampling, told), condition)


class PixelTransformer(RasterTransformer):
    """Writes pixels one by one: it knows exactly how likely an image is."""

    @torch.no_grad()
    def bits_per_dim(self, batch: Batch, rng: torch.Generator, *, samples: int = 1) -> Tensor:
        """-log2 p(image | condition) per dimension, `[n]`: exact, whatever `samples`."""
        return nats_to_bits_per_dim(self.token_nll(batch), self.config.dimensions)


class MaskedTransformer(TransformerFamily):
    """Writes many codes at once, in a few steps."""

    _further_options: ClassVar[tuple[str, ...]] = ("num_steps", "precision")

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        """Cross-entropy of codes given those that are known when they are written, in nats per code: in the
        order of `sample`, in about as many steps, and in some of the images around codes that are given.
        """
        codes = self.codes_of(batch)
        given = given_in_training(*self._codec.code_shape, len(codes), GIVEN, rng)
        ranks = (self._moments(codes.device) + ~given).argsort(1).argsort(1)
        num_steps = int(torch.randint(*TRAINED_STEPS, (), generator=rng, device=rng.device))
        before = known_when_written(ranks, given.sum(1), num_steps)
        logits = self.net.parallel(self._prefix_for_training(batch, rng), codes, ranks, before)
        return _cross_entropy(logits, codes, self.config, ~given)

    def painting_steps(self, **options: Any) -> int:
        return int(options.get("num_steps", NUM_STEPS))

    def sample(
        self,
        condition: Condition,
        *,
        seeds: Sequence[int],
        num_steps: int = NUM_STEPS,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance_scale: float | None = None,
        guidance_schedule: Schedule = "constant",
        precision: PrecisionName = "auto",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Tensor:
        """Write an image per seed in `num_steps`; `decoding.Sampling` says what the other options mean.

        The codes of a step lie far apart. Where the condition has an image and a mask, only what the mask
        covers is written, and suits all that surrounds it.
        """
        check(num_steps=num_steps)
        sampling = self._sampling(
            options,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
        )
        count = len(seeds)
        codes = self._begin(condition, count)
        prefix = self._prefix(condition, count, guided=sampling.is_guided)
        uniforms = uniform(seeds, codes.shape[1:], purpose="codes", device=codes.device)
        decoder = ParallelDecoder(self.net, prefix, _chosen(precision, codes.device))
        unknown = codes == self._codec.vocabulary
        told = self._teller(condition, on_step)
        written = write_in_parallel(
            decoder,
            codes,
            unknown,
            self._moments(codes.device),
            uniforms,
            num_steps,
            sampling,
            told,
            begun=condition.begun is not None or condition.mask is not None,
        )
        return self._paint(written, condition)

    def _moments(self, device: torch.device) -> Tensor:
        """When each code is written, `[N]` in [0, 1)."""
        return spread(*self._codec.code_shape).to(device)


def build(config: TransformerConfig) -> TransformerFamily:
    """The class that has what this configuration allows: a likelihood of codes, or of images."""
    if config.order == "masked":
        return MaskedTransformer(config)
    return PixelTransformer(config) if config.tokenizer is None else RasterTransformer(config)


def _halved(side: int, places: int) -> int:
    """The power of two that cuts `side` pixels into so many places; where there is none, what suffices."""
    fitting = (2**k for k in range(side.bit_length() + 1) if math.ceil(side / 2**k) == places)
    return next(fitting, math.ceil(side / places))


def _first_stage(config: FamilyConfig) -> Family:
    """A tokenizer as painting needs it, to be given its trained weights, which never change."""
    tokenizer = families.build(config)
    if not isinstance(tokenizer, Tokenizes):
        raise ConfigError(f"A {config.family} makes no codes of images: use a vqvae as the tokenizer.")
    tokenizer.drop_training_only()
    return tokenizer.eval().requires_grad_(False)


def _cross_entropy(logits: Tensor, codes: Tensor, config: TransformerConfig, where: Tensor | None) -> Losses:
    """Of codes `[n, N]` under logits `[n, N, vocabulary]`, averaged over those in `where`, bool `[n, N]`."""
    if where is not None:
        logits, codes = logits[where], codes[where]
    logs = F.log_softmax(logits.float().flatten(0, -2), -1)
    nll = F.nll_loss(logs, codes.flatten())
    smooth = config.label_smoothing
    total = nll if not smooth else (1 - smooth) * nll - smooth * logs.mean()
    with torch.no_grad():
        logged = {"nll": nll.detach(), "accuracy": (logs.argmax(-1) == codes.flatten()).float().mean()}
        if config.tokenizer is None and config.order == "raster":
            logged["bits_per_dim"] = nll.detach() / math.log(2)
    return Losses(total, logged)


def _chosen(name: PrecisionName, device: torch.device) -> Precision:
    """The number format to paint in; "auto" is what the device is known to be fast at."""
    check(precision=name)
    return candidates(device)[0] if name == "auto" else name
