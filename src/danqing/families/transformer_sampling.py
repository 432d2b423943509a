"""What a trained transformer offers: sampling with options, filling, variations, likelihoods.

`transformer.py` explains the model and has the simplest way to sample from it. Here codes are written by the
decoders of `nets/decoders/`, some of an image's codes may be given, and the result becomes an image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.families import word_attention
from danqing.families.abilities import ComparesCodes, OnStep
from danqing.families.base import Batch, Condition, Learner, bytes_of, nats_to_bits_per_dim
from danqing.families.code_features import CodeFeatures
from danqing.families.decoding import OnCodes, Sampling, write, write_in_parallel
from danqing.families.masked_order import known_when_written, spread
from danqing.families.transformer import TransformerConfig as TransformerConfig
from danqing.families.transformer import TransformerLearner
from danqing.guidance import GuidanceRules
from danqing.nets.decoders.layout_cache import MOST_LAYOUTS
from danqing.nets.decoders.parallel import ParallelDecoder
from danqing.nets.decoders.raster import RasterDecoder
from danqing.nets.layers import crop
from danqing.options import complete
from danqing.precision import Precision, candidates
from danqing.randomness import uniform
from danqing.trust.codes_mark import KINDS, CodesDetection, CodesMark, kinds_of

NUM_STEPS = 12


class TransformerFamily(TransformerLearner):
    """A transformer of either order, as it samples."""

    chunk = 32  # a step costs little more than of 16
    lends = "encoder"

    def lent(self) -> CodeFeatures:
        return CodeFeatures(self)

    @classmethod
    def variants(cls) -> Mapping[str, type[Learner]]:
        return {
            "": TransformerFamily,
            "raster transformer": RasterTransformer,
            "transformer without a tokenizer": PixelTransformer,
        }

    @classmethod
    def variant(cls, config: TransformerConfig) -> type[Learner]:
        if config.order == "masked":
            return TransformerFamily
        return PixelTransformer if config.tokenizer is None else RasterTransformer

    def sampling_bytes(self) -> int:
        return super().sampling_bytes() + MOST_LAYOUTS * bytes_of(self.net)

    def painting_steps(self, **options: Any) -> int:
        if self.config.order == "masked":
            return int(options.get("num_steps", NUM_STEPS))
        return math.prod(self.codec.code_shape)

    def sample_defaults(self) -> Mapping[str, Any]:
        guidance_scale = self.config.guidance_scale if self.config.can_guide else 1.0
        return {
            **({"num_steps": NUM_STEPS} if self.config.order == "masked" else {}),
            **asdict(Sampling(guidance_scale=guidance_scale)),
            "precision": "auto",
        }

    def sample(
        self,
        condition: Condition,
        *,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        mark: CodesMark | None = None,
        **options: Any,
    ) -> Tensor:
        """Write an image per seed.

        condition: where it has an image and a mask, only what the mask covers is written. In masked order it
            suits all that surrounds it; in raster order each code knows only what comes before it.
        num_steps: in masked order, how many steps write the codes; those of a step lie far apart.
        precision: of the matrix products; "auto" is what the machine is fast at.
        mark: which codes are favoured, so that the image can be recognized.
        options: as of `decoding.Sampling`.
        Raises ConfigError.
        """
        return self._write(condition, self._codes_outside(condition), seeds, on_step, options, mark)

    evidence_samples = 1

    def log_evidence(self, batch: Batch, *, seeds: Sequence[int], samples: int = 1) -> Tensor:
        """Compute log p(codes | condition) as they are sampled by default, `[n]`.

        It is exact: each code has a probability given those of earlier steps. seeds and samples do nothing.
        """
        codes, shape = self.codes_of(batch), self.codec.code_shape
        ranks = spread(*shape).to(codes.device).argsort().argsort().expand_as(codes)
        before = known_when_written(ranks, torch.zeros_like(codes[:, 0]), NUM_STEPS)
        prefix = self._prefixes(batch.condition, len(codes), guided=False)
        return -_nll(self.net.parallel(prefix, codes, ranks, before), codes)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Return the shape of the noise of an image.

        The first channel chooses the places that `vary` writes again, the others draw codes.
        """
        rows, columns, depth = self.codec.code_shape
        return depth + 1, rows, columns

    def fill(
        self,
        images: Tensor,
        mask: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
        mark: CodesMark | None = None,
        **options: Any,
    ) -> Tensor:
        """Write the codes of each place that a mask touches again.

        mark, options: as of `sample`.
        """
        condition = replace(condition, image=images, mask=mask)
        return self._write(condition, self._codes_outside(condition), seeds, on_step, options, mark, noise)

    def detect_mark(self, images: Tensor, mark: CodesMark) -> list[CodesDetection]:
        """Count the codes of each image that a mark favours.

        images: `[n, c, h, w]` in [-1, 1], which become codes again.
        """
        first = self.codec.tokenize(images)[..., 0].flatten(1).cpu().numpy()  # [n, rows · columns]
        return [mark.detect(kinds, KINDS) for kinds in self._kinds[first]]

    def _favoured(self, mark: CodesMark) -> Tensor:
        """Return which codes a mark favours, bool `[N, vocabulary]`.

        They are first codes of their place. The others refine it, and few of them stay the same when an image
        becomes codes again.
        """
        (rows, columns, depth), vocabulary = self.codec.code_shape, self.codec.vocabulary
        favoured = torch.zeros(rows * columns, depth, vocabulary, dtype=torch.bool)
        favoured[:, 0] = torch.from_numpy(mark.favoured(rows * columns, KINDS)[:, self._kinds])
        return favoured.flatten(0, 1)

    @cached_property
    def _kinds(self) -> NDArray[np.int64]:
        """The kind of each code, `[vocabulary]`."""
        if isinstance(self.codec, ComparesCodes):
            return kinds_of(self.codec.code_vectors().cpu().numpy())
        return np.arange(self.codec.vocabulary) % KINDS

    def word_attention(self, images: Tensor, condition: Condition, *, seeds: Sequence[int]) -> Tensor:
        """Return how much places of images attend to tokens of texts."""
        return word_attention.of_transformer(self, images, condition)

    def vary(
        self,
        images: Tensor,
        condition: Condition,
        *,
        seeds: Sequence[int],
        strength: float,
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
        mark: CodesMark | None = None,
        **options: Any,
    ) -> Tensor:
        """Write a share `strength` of the places again, chosen at random.

        mark, options: as of `sample`.
        """
        codes = self.codec.tokenize(images)  # [n, rows, columns, depth]
        if noise is None:
            again = uniform(seeds, codes.shape[1:3], purpose="places", device=codes.device) < strength
        else:
            again = _uniforms(noise[:, 0]) < strength
        given = codes.masked_fill(again[..., None], self.codec.vocabulary).flatten(1)
        return self._write(condition, given, seeds, on_step, options, mark, noise)

    def _write(
        self,
        condition: Condition,
        given: Tensor | None,
        seeds: Sequence[int],
        on_step: OnStep | None,
        options: Mapping[str, Any],
        mark: CodesMark | None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Write images from given codes `[n, N]`, where those to write have the id `vocabulary`.

        given: None where all are to be written. noise: `[n, *noise_shape]` instead of that of the seeds.
        """
        chosen = complete(options, self.sample_defaults(), f"A {self.config.order} transformer")
        sampling = self._sampling(chosen)
        self.guidance_rules.check_code_guidance(chosen, condition.negative_text or ())
        count, blank = len(seeds), self.codec.vocabulary
        shape = (count, math.prod(self.codec.code_shape))
        device = self.prefix.absent.device
        codes = torch.full(shape, blank, device=device) if given is None else given
        prefix = self._prefixes(condition, count, guided=sampling.is_guided)
        if noise is None:
            uniforms = uniform(seeds, codes.shape[1:], purpose="codes", device=device)
        else:
            uniforms = _uniforms(noise[:, 1:].permute(0, 2, 3, 1).flatten(1))
        precision: Precision = candidates(device)[0] if chosen["precision"] == "auto" else chosen["precision"]
        told, unknown = self._teller(condition, on_step), codes == blank
        favoured = None if mark is None else self._favoured(mark).to(device)
        if self.config.order == "raster":
            raster = RasterDecoder(self.net, prefix, precision)
            written = write(raster, codes, unknown, uniforms, sampling, told, favoured=favoured)
        else:
            parallel = ParallelDecoder(self.net, prefix, precision)
            moments = spread(*self.codec.code_shape).to(device)
            written = write_in_parallel(
                parallel,
                codes,
                unknown,
                moments,
                uniforms,
                chosen["num_steps"],
                sampling,
                told,
                partial=given is not None,
                favoured=favoured,
            )
        return self._image(written, condition)

    def _sampling(self, options: Mapping[str, Any]) -> Sampling:
        """Return how codes are drawn; raises ConfigError for values out of their range."""
        return Sampling(**{field.name: options[field.name] for field in fields(Sampling)})

    @property
    def guidance_rules(self) -> GuidanceRules:
        """Return what guidance can lead away from."""
        return GuidanceRules(self.prefix.reads_any, bool(self.config.condition_dropout))

    def _prefixes(self, condition: Condition, count: int, *, guided: bool) -> Tensor:
        """Return the prefix of `count` images, `[n, p, features]`.

        guided: return `[2n, p, features]`; the second half is what guidance leads away from, the negative
            text or no condition.
        """
        present = torch.zeros(count, dtype=torch.bool, device=self.prefix.absent.device)
        given: Tensor = self.prefix(condition, present)
        negative = condition.negative_text or ()
        if not guided:
            return given
        away = (
            self.prefix(replace(condition, text=negative), present)
            if negative
            else self.prefix.nothing(count)
        )
        return torch.cat([given, away])

    def _codes_outside(self, condition: Condition) -> Tensor | None:
        """Return the codes `[n, N]` of an image that a mask leaves; the others have the id `vocabulary`.

        A place is written again where the mask touches any of its pixels. None where there is no mask.
        """
        if condition.image is None or condition.mask is None:
            return None
        codes = self.codec.tokenize(condition.image)  # [n, rows, columns, depth]
        (rows, columns, _), cell = self.codec.code_shape, self._cell
        missing = (columns * cell[1] - self.config.width, rows * cell[0] - self.config.height)
        padded = F.pad(condition.mask, (0, missing[0], 0, missing[1]))
        touched = F.max_pool2d(padded, cell) > 0  # [n, 1, rows, columns]
        return codes.masked_fill(touched.permute(0, 2, 3, 1), self.codec.vocabulary).flatten(1)

    @property
    def _cell(self) -> tuple[int, int]:
        """Height and width in pixels of a place; places begin at the top left, the last may be cut off."""
        rows, columns, _ = self.codec.code_shape
        return _halved(self.config.height, rows), _halved(self.config.width, columns)

    def _image(self, codes: Tensor, condition: Condition) -> Tensor:
        """Turn codes `[n, N]` into images, grey where they are unknown; given pixels stay as they are."""
        grid = codes.reshape(-1, *self.codec.code_shape)  # [n, rows, columns, depth]
        unknown = grid == self.codec.vocabulary
        images = self.codec.detokenize(grid.masked_fill(unknown, 0))
        if bool(unknown.any()):
            hidden = unknown.any(3)[:, None]  # [n, 1, rows, columns]
            for axis, side in zip((2, 3), self._cell, strict=True):
                hidden = hidden.repeat_interleave(side, axis)
            images = images.masked_fill(crop(hidden, (self.config.height, self.config.width)), 0)
        if condition.image is not None and condition.mask is not None:
            images = torch.where(condition.mask > 0, images, condition.image)
        return images

    def _teller(self, condition: Condition, on_step: OnStep | None) -> OnCodes:
        """Return a function that is called with codes and calls `on_step` with images."""

        def told(done: int, steps: int, codes: Tensor) -> None:
            if on_step is not None:
                on_step(done, steps, lambda: self._image(codes, condition))

        return told


class RasterTransformer(TransformerFamily):
    """Raster order: the model computes the probability of codes."""

    def token_nll(self, batch: Batch) -> Tensor:
        """Compute -log p(codes | condition) in nats per image, `[n]` float32."""
        codes = self.codes_of(batch)
        return _nll(self.net(self._prefixes(batch.condition, len(batch), guided=False), codes), codes)

    def log_evidence(self, batch: Batch, *, seeds: Sequence[int], samples: int = 1) -> Tensor:
        """Compute log p(codes | condition), `[n]`; seeds and samples do nothing."""
        return -self.token_nll(batch)


class PixelTransformer(RasterTransformer):
    """Raster order over pixels: the model computes the probability of images."""

    @torch.no_grad()
    def bits_per_dim(self, batch: Batch, rng: torch.Generator, *, samples: int = 1) -> Tensor:
        """Compute -log2 p(image | condition) per dimension, `[n]`.

        It is exact, whatever `samples`.
        """
        return nats_to_bits_per_dim(self.token_nll(batch), self.config.dimensions)


def _nll(logits: Tensor, codes: Tensor) -> Tensor:
    """Compute the sum of the cross-entropies of codes `[n, N]` under logits `[n, N, vocabulary]`, `[n]`."""
    return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").sum(1)


def _uniforms(noise: Tensor) -> Tensor:
    """Turn standard normal values into uniform ones in [0, 1)."""
    uniforms: Tensor = torch.special.ndtr(noise)
    return uniforms.clamp(max=1 - 2**-24)


def _halved(side: int, places: int) -> int:
    """Return the power of two that cuts `side` pixels into so many places, or the smallest size that does."""
    fitting = (2**k for k in range(side.bit_length() + 1) if math.ceil(side / 2**k) == places)
    return next(fitting, math.ceil(side / places))
