"""A small model of images and captions: whether an image shows what its caption says, and not another."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.captions import captions_of
from danqing.data.dataset import Dataset
from danqing.errors import EvaluationError
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.painted import at_once, chunks
from danqing.images import to_float
from danqing.randomness import derived_seed, generator
from danqing.text.contract import TextConfig, TextEncoder
from danqing.text.encoders import open_encoder, settle

Progress = Callable[[int, int, str], None]

AMONG = 100
"""The right caption is looked for among so many."""
SIDE = 32
"""Larger images are averaged down to this longer side."""
WIDTH = 128
_LAYERS = ((32, 4, 2), (64, 3, 2), (64, 3, 1), (128, 3, 2), (128, 3, 1))
"""Convolutions of the image tower: width, kernel, stride."""
_PLACES = 4
"""It ends in so many places a side, since captions tell left from right."""
_TEXT = TextConfig(vocabulary=4096, length=32)
_BATCH = 256
_SHOWN = 80_000
"""Images shown in training in all, in epochs from `_EPOCHS[0]` to `_EPOCHS[1]`."""
_EPOCHS = (2, 40)
_MOST_TAUGHT = 50_000
_PEAK = 2e-3
_SHARPEST = math.log(100.0)
_ROUNDING = 1e-6
"""Products of equal vectors may differ by so much."""


class Agreement:
    """A trained pair of towers, which map images and texts to unit vectors: alike where they agree.

    taught: from how many images it learnt.
    """

    def __init__(self, images: nn.Module, texts: nn.Module, encoder: TextEncoder, taught: int) -> None:
        self._images, self._texts, self._encoder = images.eval(), texts.eval(), encoder
        self.taught = taught

    def of_images(self, images: ImageSet, rows: NDArray[np.int64]) -> Tensor:
        """Unit vectors `[n, WIDTH]` of the images at `rows`."""
        with torch.inference_mode():
            parts = [
                self._images(_prepared(images.images(rows[part])))
                for part in chunks(len(rows), at_once(images.size))
            ]
        return F.normalize(torch.cat(parts), dim=1)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `[n, WIDTH]` of texts."""
        with torch.inference_mode():
            parts = [
                self._texts(self._encoder.encode([texts[row] for row in part]))
                for part in chunks(len(texts), _BATCH)
            ]
        return F.normalize(torch.cat(parts), dim=1)

    def ranks(
        self,
        images: ImageSet,
        rows: NDArray[np.int64],
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
    ) -> NDArray[np.int64]:
        """How many of its other choices suit each image better than its prompt, `[n]`: 0 is right.

        Of captions that suit it just as well, half count.
        """
        every = list(dict.fromkeys([*prompts, *(text for others in choices for text in others)]))
        places = {text: place for place, text in enumerate(every)}
        texts, seen = self.of_texts(every), self.of_images(images, rows)
        found = np.empty(len(rows), np.int64)
        for row, (prompt, others) in enumerate(zip(prompts, choices, strict=True)):
            alike = texts[[places[text] for text in (prompt, *others)]] @ seen[row]
            ahead = alike[1:] - alike[0]
            better, equal = int((ahead > _ROUNDING).sum()), int((ahead.abs() <= _ROUNDING).sum())
            found[row] = better + (equal + 1) // 2
        return found


def other_captions(
    prompts: Sequence[str], captions: Sequence[Sequence[str]], *, seed: int = 0
) -> list[list[str]]:
    """For each prompt `AMONG - 1` other captions, all different, drawn by the seed; fewer where there are not
    as many.

    captions: of each real image. No caption of an image that the prompt is true of is among the others; and
    where the prompt is the second line of its image, so are they: they are in the same language.
    """
    pools: dict[int, dict[str, None]] = {}
    kin: dict[str, set[str]] = {}
    places: dict[str, int] = {}
    for lines in captions:
        for place, text in enumerate(lines):
            pools.setdefault(place, {})[text] = None
            kin.setdefault(text, set()).update(lines)
            places.setdefault(text, place)
    lists = {place: list(pool) for place, pool in pools.items()}
    drawn = []
    for number, prompt in enumerate(prompts):
        pool, same = lists.get(places.get(prompt, 0), []), kin.get(prompt, {prompt})
        order = torch.randperm(len(pool), generator=generator(seed, "other captions", number)).tolist()
        others = (pool[place] for place in order if pool[place] not in same)
        drawn.append(list(itertools.islice(others, AMONG - 1)))
    return drawn


def captions_in(images: Dataset) -> list[list[str]]:
    """The captions of every image, none where it has none."""
    texts = images.texts(np.arange(len(images)))
    return [[] for _ in range(len(images))] if texts is None else [captions_of(text) for text in texts]


def fit(images: Dataset, *, seed: int = 0, on_progress: Progress | None = None) -> Agreement:
    """Learn which images and captions belong together, the same way each time (CLIP, Radford et al. 2021).

    Nothing but the seed decides what is learnt; torch's global randomness is not touched, and it computes in
    float32 whatever the processor has. A batch may hold a caption twice: it then belongs to both images.
    Raises EvaluationError where there are no two captions to tell apart.
    """
    lines, rng = captions_in(images), generator(seed, "agreement")
    rows = np.flatnonzero([bool(texts) for texts in lines])
    if len({text for row in rows for text in lines[row]}) < 2:
        raise EvaluationError("Prompt agreement needs images of at least two captions: leave it out.")
    if len(rows) > _MOST_TAUGHT:
        rows = np.sort(rows[torch.randperm(len(rows), generator=rng)[:_MOST_TAUGHT].numpy()])
    facts = settle(_TEXT, [text for row in rows for text in lines[row]])
    encoder = open_encoder(_TEXT, facts)
    of_images, of_texts = _image_tower(images.channels, rng), _text_tower(facts.vocabulary, rng)
    sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    weights = [*of_images.parameters(), *of_texts.parameters()]
    groups = [{"params": weights, "weight_decay": 0.05}, {"params": [sharpness], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK)
    epochs = max(_EPOCHS[0], min(_EPOCHS[1], round(_SHOWN / len(rows))))
    steps = epochs * math.ceil(len(rows) / _BATCH)
    step = 0
    for epoch in range(epochs):
        order = rows[torch.randperm(len(rows), generator=rng).numpy()]
        for part in chunks(len(order), _BATCH):
            if len(part) < 2:  # of one pair nothing can be told apart
                continue
            for group in optimizer.param_groups:
                group["lr"] = _PEAK * min(1.0, 10 * step / steps) * (1 - step / steps)
            shown = order[part]
            texts = [_line(lines[row], derived_seed(seed, "line", epoch, row)) for row in shown.tolist()]
            seen = F.normalize(of_images(_prepared(images.images(shown))), dim=1)
            read = F.normalize(of_texts(encoder.encode(texts)), dim=1)
            loss = _contrast(sharpness.clamp(max=_SHARPEST).exp() * seen @ read.T, texts)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if on_progress:
                on_progress(min(step, steps), steps, "Learning which captions suit which images")
    return Agreement(of_images, of_texts, encoder, len(rows))


def _line(lines: Sequence[str], drawn: int) -> str:
    return lines[drawn % len(lines)]


def _contrast(logits: Tensor, texts: Sequence[str]) -> Tensor:
    """The mean of both directions' cross-entropies, where equal texts are equally right."""
    places: dict[str, int] = {}
    kinds = torch.tensor([places.setdefault(text, len(places)) for text in texts])
    right = (kinds[:, None] == kinds).float()
    right /= right.sum(1, keepdim=True)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def _prepared(images: Tensor) -> Tensor:
    """Images uint8 `[n, h, w, c]` to float `[n, c, h, w]` in [-1, 1] of at most `SIDE` a side."""
    values = to_float(images)
    shrink = SIDE / max(values.shape[2:])
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in values.shape[2:]]
        values = F.interpolate(values, size, mode="area")
    return values.contiguous(memory_format=torch.channels_last)


class _Texts(nn.Module):
    """Ids `[n, length]` to vectors `[n, WIDTH]`: each token sees its neighbours twice, then all are one."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.mixes = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        known = (ids > 0).unsqueeze(1)
        hidden = self.tokens(ids).transpose(1, 2) * known
        for mix in self.mixes:
            hidden = (hidden + F.gelu(mix(hidden))) * known
        pooled: Tensor = self.out(hidden.sum(2) / known.sum(2).clamp_min(1))
        return pooled


def _image_tower(channels: int, rng: torch.Generator) -> nn.Module:
    """Strided convolutions with batch normalisation, then one matrix over all places."""
    layers: list[nn.Module] = []
    with torch.device("meta"):  # on meta, constructors draw nothing from torch's global randomness
        width_in = channels
        for width, kernel, stride in _LAYERS:
            layers += [
                nn.Conv2d(width_in, width, kernel, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            width_in = width
        places = [nn.AdaptiveAvgPool2d(_PLACES), nn.Flatten()]
        layers += [*places, nn.Linear(width_in * _PLACES**2, WIDTH)]
    tower = _begun(nn.Sequential(*layers), rng)
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tower


def _text_tower(vocabulary: int, rng: torch.Generator) -> nn.Module:
    with torch.device("meta"):
        tower = _Texts(vocabulary)
    return _begun(tower, rng)


def _begun(tower: nn.Module, rng: torch.Generator) -> nn.Module:
    """A tower with fresh weights that follow from the generator."""
    tower = tower.to_empty(device="cpu")
    for module in tower.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=rng)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=rng)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.reset_running_stats()
    return tower
