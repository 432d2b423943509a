"""What an image should show, as the vectors that stand before its codes."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danqing.data.batch import Condition
from danqing.errors import ConfigError
from danqing.nets.transformer import EMBEDDING_SCALE
from danqing.text.cache import RememberedRows
from danqing.text.contract import TextConfig, TextEncoder, TextFacts
from danqing.text.encoders import open_encoder


class Prefix(nn.Module):
    """One vector for a label or for nothing, or one per token of a text: `[n, length, features]`.

    labels: their names. text: how texts are read, where they are; facts: what that came to. What stands there
    without a condition is learned too.
    """

    def __init__(
        self, features: int, *, labels: Sequence[str], text: TextConfig | None, facts: TextFacts | None
    ) -> None:
        super().__init__()
        self.labels, self._text, self._facts = tuple(labels), text, facts
        self.length = 1 if text is None else text.length
        self.embed: nn.Embedding | nn.Linear | None = None
        if text is not None:
            if facts is None:
                raise ConfigError("This model reads captions and has none: train it on data with captions.")
            self.embed = (
                nn.Linear(facts.width, features) if facts.width else nn.Embedding(facts.vocabulary, features)
            )
        elif labels:
            self.embed = nn.Embedding(len(labels), features)
        if isinstance(self.embed, nn.Embedding):
            nn.init.normal_(self.embed.weight, std=EMBEDDING_SCALE)
        self.absent = nn.Parameter(torch.empty(self.length, features))
        nn.init.normal_(self.absent, std=EMBEDDING_SCALE)

    def forward(self, condition: Condition, absent: Tensor) -> Tensor:
        """Vectors of a condition; as without one where `absent`, bool `[n]`, and where a text is blank or a
        label -1.

        Raises ConfigError where the condition lacks what this model reads.
        """
        nothing = self.nothing(len(absent))
        if self.embed is None:
            return nothing
        if self._text is not None:
            if condition.text is None:
                raise ConfigError('This model paints what a text says: give it a prompt ("" for anything).')
            empty = [not text.strip() for text in condition.text]
            absent = absent | torch.tensor(empty, device=absent.device)
            given: Tensor = self.embed(self._reader().encode(condition.text).to(absent.device))
        else:
            if condition.label is None:
                some = ", ".join(self.labels[:8])
                raise ConfigError(f"This model needs a label for every image: one of {some}.")
            absent = absent | (condition.label < 0)
            given = self.embed(condition.label.clamp_min(0))[:, None]
        return torch.where(absent[:, None, None], nothing, given)

    def nothing(self, count: int) -> Tensor:
        """The vectors that stand there without a condition, `count` times."""
        return self.absent.expand(count, -1, -1)

    def _reader(self) -> TextEncoder:
        assert self._text is not None
        assert self._facts is not None
        return reader(self._text, self._facts)


@functools.lru_cache(maxsize=4)
def reader(config: TextConfig, facts: TextFacts) -> RememberedRows:
    """What reads texts: one for all models that read alike, and no part of any, for models are copied."""
    return open_encoder(config, facts)
