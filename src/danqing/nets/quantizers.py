"""Quantizers: a map of vectors to a map of whole numbers, and back.

`Codebook` learns its vectors as moving averages (van den Oord et al. 2017, appendix A.1); `FiniteScalar`
(Mentzer et al. 2024) and `Binary` (Yu et al. 2024) round each number by itself, and have nothing to learn.
An estimator passes gradients through the rounding. Maps are `[n, d, h, w]`; all arithmetic is in float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.gathering import Gathers, Grain

Gradient = Literal["straight_through", "rotation"]
IN_USE = 0.01
"""A code is in use while it is written at least this many times as often as the average code."""
DEAD = 0.05
"""A code that is written less than this many times as often as the average code is moved to a vector."""
KMEANS_ROUNDS = 10
_GROUP_BITS = 8


class Quantized(NamedTuple):
    """A quantized map of latents `[n, d, h, w]`.

    latents: `[n, d, h, w]` float32, through which gradients pass by the estimator.
    codes: int64 `[n, h, w, depth]`.
    loss: to be minimised with the others.
    logged: detached scalars.
    """

    latents: Tensor
    codes: Tensor
    loss: Tensor
    logged: dict[str, Tensor]


class Quantizer(Gathers):
    """What all quantizers share: how often each code was written lately.

    width: d of the maps.
    vocabulary, depth: there are `depth` codes at each place, each below `vocabulary`.
    frequencies: `[depth, vocabulary]`, a moving average of shares.
    """

    frequencies: Tensor

    def __init__(self, *, width: int, vocabulary: int, depth: int = 1, decay: float = 0.99) -> None:
        super().__init__()
        self.width, self.vocabulary, self.depth, self.decay = width, vocabulary, depth, decay
        self.register_buffer("frequencies", torch.full((depth, vocabulary), 1 / vocabulary))

    def forward(self, latents: Tensor, rng: torch.Generator | None) -> Quantized:
        """Quantize a map of latents `[n, width, h, w]`.

        rng: in training mode the quantizer also learns from the latents, if it is given.
        """
        n, _, height, width = latents.shape
        with torch.autocast(latents.device.type, enabled=False):
            vectors = latents.float().permute(0, 2, 3, 1).reshape(-1, self.width)
            learning = rng if self.training else None
            if self.grain is not None and learning is not None:
                self.seen = []
            quantized, codes, loss = self._quantize(vectors, learning)
            if learning is not None and not self.starting:
                shares = self._shares_of_codes(codes)
                if self.grain is None:
                    self._count(shares)
                else:
                    self._keep(shares)
        found = quantized.reshape(n, height, width, self.width).permute(0, 3, 1, 2)
        return Quantized(found, codes.reshape(n, height, width, self.depth), loss, self.usage())

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the latents `[n, width, h, w]` of codes.

        codes: `[n, h, w, depth]`.
        """
        return self._vectors(codes).permute(0, 3, 1, 2)

    @torch.no_grad()
    def usage(self) -> dict[str, Tensor]:
        """Compute how evenly the codes are used, over all depths.

        codebook_use: the share of the codes that are in use.
        perplexity: exp of the entropy: how many codes, evenly used, would be as varied.
        """
        shares = self.frequencies / self.frequencies.sum(1, keepdim=True)
        perplexity = torch.special.entr(shares).sum(1).exp().mean()
        return {
            "codebook_use": (shares > IN_USE / self.vocabulary).float().mean(),
            "perplexity": perplexity,
        }

    def _quantize(self, vectors: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors `[m, width]` to the quantized ones, their codes `[m, depth]` and a loss; `rng` where it
        learns.
        """
        raise NotImplementedError

    def _vectors(self, codes: Tensor) -> Tensor:
        """Codes `[..., depth]` to vectors `[..., width]`."""
        raise NotImplementedError

    def settle(self, seen: Sequence[Tensor], grains: int) -> None:
        """Learn from a batch.

        seen: its last tensor holds how often each code was written, as shares.
        """
        self._count(seen[-1])

    def _keep(self, *tensors: Tensor) -> None:
        """Add to what the grain has seen."""
        assert self.seen is not None
        self.seen += tensors

    @torch.no_grad()
    def _shares_of_codes(self, codes: Tensor) -> Tensor:
        """How often each code was written, as a share of its depth, `[depth, vocabulary]`."""
        counts = torch.stack([torch.bincount(c, minlength=self.vocabulary) for c in codes.T]).float()
        return counts / counts.sum(1, keepdim=True)

    @torch.no_grad()
    def _count(self, shares: Tensor) -> None:
        self.frequencies.lerp_(shares, 1 - self.decay)


class Codebook(Quantizer):
    """Replaces each vector by the nearest of some learned vectors.

    The learned vectors, `vocabulary` codes, are averages of those that chose them. With a `depth` of more,
    each further codebook quantizes what those before it left over, and their sum is the quantized vector (Lee
    et al. 2022, section 3.1). A codebook starts as the k-means of the first batch; later, a code that hardly
    any vector chooses is moved onto one of the batch's vectors. In a batch that is computed in grains, it
    starts as the k-means of the first grain, and each grain offers vectors to a share of the codes.

    normalised: vectors and codes lie on the unit sphere (Yu et al. 2022, section 3.2).
    commitment: the weight of the loss E (z - q)², the mean over the partial sums q (Lee et al. 2022, equation
        8), which has no gradient for the codes.
    """

    codes: Tensor
    sums: Tensor
    weights: Tensor
    steps: Tensor

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        depth: int = 1,
        normalised: bool = False,
        commitment: float = 0.25,
        gradient: Gradient = "straight_through",
        decay: float = 0.99,
    ) -> None:
        super().__init__(width=width, vocabulary=vocabulary, depth=depth, decay=decay)
        self.normalised, self.commitment, self.gradient = normalised, commitment, gradient
        self.register_buffer("codes", self._placed(torch.randn(depth, vocabulary, width)))
        self.register_buffer("weights", torch.full((depth, vocabulary), 1 / vocabulary))
        self.register_buffer("sums", self.codes / vocabulary)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def nearest(self, vectors: Tensor, stage: int = 0) -> Tensor:
        """Return the index `[m]` of the code nearest to each vector.

        vectors: `[m, width]`. The distance is Euclidean.
        """
        codes = self._table(stage)
        distances = torch.addmm(codes.square().sum(1), vectors, codes.T, alpha=-2)
        return distances.min(1).indices  # twice as fast as argmin on a processor

    def _quantize(self, vectors: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        vectors = self._placed(vectors)
        rest, total = vectors.detach(), torch.zeros_like(vectors)
        loss, chosen = vectors.new_zeros(()), []
        for stage in range(self.depth):
            if rng is not None and self.grain is None and self.steps == 0:
                self._start(stage, rest, rng)
            indices = self.nearest(rest, stage)
            quantized = self._table(stage)[indices]
            if rng is not None and self.grain is not None:
                self._keep(*self._shares(rest, indices), self._offered(rest, rng, self.grain))
            elif rng is not None and not self.starting:
                self._learn(stage, rest, indices, rng)
            total, rest = total + quantized, rest - quantized
            loss = loss + F.mse_loss(vectors, total)
            chosen.append(indices)
        if rng is not None and self.grain is None and not self.starting:
            self.steps += 1
        loss = self.commitment * loss / self.depth
        return estimated(vectors, total, self.gradient), torch.stack(chosen, dim=1), loss

    @property
    def has_started(self) -> bool:
        return bool(self.steps > 0)

    @torch.no_grad()
    def settle(self, seen: Sequence[Tensor], grains: int) -> None:
        """Move the codes as after a batch.

        seen: for each stage, what `_shares` and `_offered` return; then as of `Quantizer`.
        """
        for stage in range(self.depth):
            shares, sums, offered = seen[3 * stage : 3 * stage + 3]
            self._move(stage, shares, sums, lambda vectors=offered: vectors)  # type: ignore[misc]
        self.steps += 1
        super().settle(seen, grains)

    def _vectors(self, codes: Tensor) -> Tensor:
        return torch.stack([self._table(stage)[codes[..., stage]] for stage in range(self.depth)]).sum(0)

    def _table(self, stage: int) -> Tensor:
        """The codes `[vocabulary, width]`, back on the sphere that an average of them has left."""
        return self._placed(self.codes[stage])

    def _placed(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.normalised else vectors

    @torch.no_grad()
    def _start(self, stage: int, vectors: Tensor, rng: torch.Generator) -> None:
        """Lloyd's k-means from random vectors; a cluster that runs empty starts again at a random vector."""
        self.codes[stage] = self._drawn(vectors, rng)
        for _ in range(KMEANS_ROUNDS):
            shares, sums = self._shares(vectors, self.nearest(vectors, stage))
            means = self._placed(sums / shares.clamp_min(1e-12)[:, None])
            self.codes[stage] = torch.where(shares[:, None] > 0, means, self._drawn(vectors, rng))
        # The weights say that every code has been chosen alike: none is dead before it had its chance.
        self.sums[stage] = self.codes[stage] / self.vocabulary

    @torch.no_grad()
    def _learn(self, stage: int, vectors: Tensor, indices: Tensor, rng: torch.Generator) -> None:
        """Learn from vectors `[m, width]` and the codes `[m]` that they chose."""
        self._move(stage, *self._shares(vectors, indices), lambda: self._drawn(vectors, rng))

    def _move(self, stage: int, shares: Tensor, sums: Tensor, draw: Callable[[], Tensor]) -> None:
        """Move the codes towards the averages of those that chose them, and the dead to new places.

        shares, sums: as `_shares` returns them.
        draw: returns a vector for each code, `[vocabulary, width]`.
        """
        codes, weights, all_sums = self.codes[stage], self.weights[stage], self.sums[stage]
        # The averages are short at first, while the encoder moves fast.
        rate = (9 / (10 + self.steps)).clamp_min(1 - self.decay)
        weights.lerp_(shares, rate)
        all_sums.lerp_(sums, rate)
        dead = weights < DEAD / self.vocabulary
        if dead.any():
            weights[dead] = 1 / self.vocabulary
            all_sums[dead] = draw()[dead] / self.vocabulary
        codes.copy_(self._placed(all_sums / weights[:, None]))

    def _shares(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the vectors that chose each code `[k]`, and the sum of these divided by the count of
        all `[k, width]`.
        """
        counts = torch.bincount(indices, minlength=self.vocabulary).float()
        if vectors.device.type == "cpu":
            sums = vectors.new_zeros(self.vocabulary, self.width).index_add_(0, indices, vectors)
        else:  # where an index_add adds up in another order each time
            chosen = vectors.new_zeros(len(vectors), self.vocabulary).scatter_(1, indices[:, None], 1)
            sums = chosen.T @ vectors
        both = torch.cat([counts[:, None], sums], dim=1)
        both /= both[:, 0].sum()
        return both[:, 0], both[:, 1:]

    def _drawn(self, vectors: Tensor, rng: torch.Generator) -> Tensor:
        """As many of the vectors as there are codes, drawn at random."""
        order = torch.randperm(len(vectors), generator=rng, device=vectors.device)
        return vectors[order[torch.arange(self.vocabulary, device=vectors.device) % len(vectors)]]

    @torch.no_grad()
    def _offered(self, vectors: Tensor, rng: torch.Generator, grain: Grain) -> Tensor:
        """Vectors for the codes of a grain, and zeros for those of others, so that the mean has them all."""
        own = torch.arange(self.vocabulary, device=vectors.device) % grain.grains == grain.number
        return self._drawn(vectors, rng) * (grain.grains * own)[:, None]


class FiniteScalar(Quantizer):
    """Bounds each number and rounds it to one of some levels.

    Mentzer et al. 2024.

    levels: how many for each of the d numbers; the vocabulary is their product, and the first number is the
        least significant digit of the code.
    Quantized numbers lie in [-1, 1]. There is no loss.
    """

    levels: Tensor
    places: Tensor

    def __init__(self, levels: Sequence[int], *, decay: float = 0.99) -> None:
        super().__init__(width=len(levels), vocabulary=math.prod(levels), decay=decay)
        counts = torch.tensor(levels, device="cpu")  # on any device of the weights: no file holds these
        self.register_buffer("levels", counts, persistent=False)
        self.register_buffer("places", torch.cumprod(counts, 0) // counts, persistent=False)

    def _quantize(self, vectors: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        # Even counts of levels lie half a step off the middle (the paper's listing, appendix A.1).
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = 0.5 * (self.levels % 2 == 0)
        bounded = torch.tanh(vectors + torch.atanh(offset / half)) * half - offset
        digits = bounded.detach().round()
        lowest = self.levels // 2
        codes = ((digits.long() + lowest) * self.places).sum(-1, keepdim=True)
        quantized = estimated(bounded, digits, "straight_through") / lowest
        return quantized, codes, vectors.new_zeros(())

    def _vectors(self, codes: Tensor) -> Tensor:
        digits = codes // self.places % self.levels
        lowest = self.levels // 2
        return (digits - lowest) / lowest


class Binary(Quantizer):
    """Replaces each number by its sign: one bit of the code.

    The first number is the least significant bit. Lookup-free quantization (Yu et al. 2024, section 3.1). The
    loss is `commitment` E (z - q)² plus `entropy` times that of its equation 4: the entropy of a vector's
    choice, which should be sure, less the entropy of the average choice, which should be varied. A choice of
    code c has p ∝ exp(2 z·c / temperature), in which bits are independent; the average choice's entropy is
    that of groups of eight bits, summed.
    """

    powers: Tensor

    def __init__(
        self,
        bits: int,
        *,
        commitment: float = 0.25,
        entropy: float = 0.1,
        temperature: float = 1.0,
        decay: float = 0.99,
    ) -> None:
        super().__init__(width=bits, vocabulary=2**bits, decay=decay)
        self.commitment, self.entropy, self.temperature = commitment, entropy, temperature
        self.register_buffer("powers", 2 ** torch.arange(bits, device="cpu"), persistent=False)

    def _quantize(self, vectors: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        positive = vectors.detach() > 0
        signs = 2.0 * positive - 1
        loss = self.commitment * F.mse_loss(vectors, signs)
        if self.training:
            loss = loss + self.entropy * self.entropies(vectors)
        codes = (positive * self.powers).sum(-1, keepdim=True)
        return estimated(vectors, signs, "straight_through"), codes, loss

    def entropies(self, vectors: Tensor) -> Tensor:
        """Compute E H(p(c | z)) - H(E p(c | z)) in nats.

        vectors: `[m, bits]`.
        """
        logits = 4 * vectors / self.temperature
        sure = torch.stack([logits.sigmoid(), (-logits).sigmoid()], dim=-1)  # [m, bits, 2]
        own = torch.special.entr(sure).sum((1, 2)).mean()
        average = vectors.new_zeros(())
        for group in torch.split(sure, _GROUP_BITS, dim=1):
            joint = group[:, 0]
            for bit in group.unbind(1)[1:]:  # [m, 2], [m, 4], ... [m, 256]
                joint = (joint[:, :, None] * bit[:, None, :]).flatten(1)
            average = average + torch.special.entr(joint.mean(0)).sum()
        entropies: Tensor = own - average
        return entropies

    def _vectors(self, codes: Tensor) -> Tensor:
        return 2.0 * (codes // self.powers % 2) - 1


def estimated(vectors: Tensor, quantized: Tensor, gradient: Gradient) -> Tensor:
    """Return quantized vectors with gradients for the vectors before.

    vectors, quantized: `[m, d]`.
    gradient: `straight_through`, as if they were the same (Bengio et al. 2013), or `rotation`, as if the turn
        and the stretch that take one to the other were constants (Fifty et al. 2025, section 4).
    """
    if not vectors.requires_grad:
        return quantized
    if gradient == "straight_through":
        return vectors + (quantized - vectors).detach()
    fixed = vectors.detach()
    length = fixed.norm(dim=1, keepdim=True).clamp_min(1e-6)
    stretch = quantized.norm(dim=1, keepdim=True) / length
    start, end = fixed / length, F.normalize(quantized, dim=1)
    middle = F.normalize(start + end, dim=1)
    turned = vectors - 2 * middle * (middle * vectors).sum(1, keepdim=True)
    turned = turned + 2 * end * (start * vectors).sum(1, keepdim=True)
    rotated: Tensor = stretch * turned
    return rotated
