"""A small model of images and captions: whether an image shows what its caption says, and not another."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.captions import captions_of
from danqing.data.dataset import Dataset
from danqing.errors import EvaluationError
from danqing.evaluation.contract import ImageSet
from danqing.evaluation.image_sets import batch_size_for, index_batches
from danqing.evaluation.judges.small_networks import begun, image_tower, prepared, set_rate
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed, generator
from danqing.text.contract import TextConfig, TextFacts
from danqing.text.encoders import open_encoder, settle

AMONG = 100
"""The right caption must be found among this many."""
WIDTH = 128
_PLACES = 4
"""The image tower keeps this many places a side, since captions tell left from right."""
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


class MatcherFacts(BaseModel):
    """What a matcher is besides its weights.

    channels: of its images. text: its words. taught: how many images it learned from.
    """

    model_config = ConfigDict(frozen=True)

    channels: int = Field(ge=1, le=4)
    text: TextFacts
    taught: int = Field(ge=0)


class CaptionMatcher:
    """A network that maps images and texts to unit vectors.

    The vectors of an image and a text that belong together are alike.

    facts: what it is besides its weights, which are random until `fit` or `restore`. rng: draws them.
    """

    def __init__(self, facts: MatcherFacts, rng: torch.Generator) -> None:
        self.facts, self._encoder = facts, open_encoder(_TEXT, facts.text)
        images = image_tower(facts.channels, WIDTH, rng, places=_PLACES)
        texts = begun(lambda: _Texts(facts.text.vocabulary), rng)
        self.towers = nn.ModuleDict({"images": images, "texts": texts}).eval()

    @property
    def taught(self) -> int:
        """Return from how many images it learned."""
        return self.facts.taught

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the weights of another matcher with these facts."""
        self.towers.load_state_dict(dict(tensors))

    def of_images(self, images: ImageSet, rows: NDArray[np.int64]) -> Tensor:
        """Return unit vectors `[n, WIDTH]` of the images at `rows`."""
        parts = [
            self.of_pixels(images.images(rows[part]))
            for part in index_batches(len(rows), batch_size_for(images.size))
        ]
        return torch.cat(parts)

    def of_pixels(self, images: Tensor) -> Tensor:
        """Return unit vectors `[n, WIDTH]` of images, uint8 `[n, h, w, c]`."""
        with torch.inference_mode():
            return F.normalize(self.towers["images"](prepared(images)), dim=1)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors `[n, WIDTH]` of texts."""
        with torch.inference_mode():
            parts = [
                self.towers["texts"](self._encoder.encode([texts[row] for row in part]))
                for part in index_batches(len(texts), _BATCH)
            ]
        return F.normalize(torch.cat(parts), dim=1)

    def ranks(
        self,
        images: ImageSet,
        rows: NDArray[np.int64],
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
    ) -> NDArray[np.int64]:
        """Return how many other choices suit each image better, `[n]`.

        0 means that its prompt suits it best.

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
    """Draw `AMONG - 1` different other captions for each prompt.

    There are fewer if the data has fewer.

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
    """Return the captions of every image; an empty list for none."""
    texts = images.texts(np.arange(len(images)))
    return [[] for _ in range(len(images))] if texts is None else [captions_of(text) for text in texts]


def fit(images: Dataset, *, seed: int = 0, on_progress: ProgressCallback | None = None) -> CaptionMatcher:
    """Learn which images and captions belong together (CLIP, Radford et al. 2021).

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
    words = settle(_TEXT, [text for row in rows for text in lines[row]])
    matcher = CaptionMatcher(MatcherFacts(channels=images.channels, text=words, taught=len(rows)), rng)
    of_images, of_texts = matcher.towers.train().values()
    encoder = open_encoder(_TEXT, words)
    sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    weights = [*of_images.parameters(), *of_texts.parameters()]
    groups = [{"params": weights, "weight_decay": 0.05}, {"params": [sharpness], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=_PEAK)
    epochs = max(_EPOCHS[0], min(_EPOCHS[1], round(_SHOWN / len(rows))))
    steps = epochs * math.ceil(len(rows) / _BATCH)
    step = 0
    for epoch in range(epochs):
        order = rows[torch.randperm(len(rows), generator=rng).numpy()]
        for part in index_batches(len(order), _BATCH):
            if len(part) < 2:  # one pair has nothing to be told apart from
                continue
            set_rate(optimizer, _PEAK, step, steps, rise=10)
            shown = order[part]
            texts = [_line(lines[row], derived_seed(seed, "line", epoch, row)) for row in shown.tolist()]
            seen = F.normalize(of_images(prepared(images.images(shown))), dim=1)
            read = F.normalize(of_texts(encoder.encode(texts)), dim=1)
            loss = _contrast(sharpness.clamp(max=_SHARPEST).exp() * seen @ read.T, texts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if on_progress:
                on_progress(min(step, steps), steps, "Learning which captions suit which images")
    matcher.towers.eval()
    return matcher


def _line(lines: Sequence[str], drawn: int) -> str:
    return lines[drawn % len(lines)]


def _contrast(logits: Tensor, texts: Sequence[str]) -> Tensor:
    """The mean of both directions' cross-entropies, where equal texts are equally right."""
    places: dict[str, int] = {}
    kinds = torch.tensor([places.setdefault(text, len(places)) for text in texts])
    right = (kinds[:, None] == kinds).float()
    right /= right.sum(1, keepdim=True)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


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
