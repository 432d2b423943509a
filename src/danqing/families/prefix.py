"""The prefix of a transformer: what an image should show, as vectors that stand before its codes."""

import torch
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.families.base import Condition
from danqing.families.conditioning import ConditionedConfig
from danqing.nets.attributes import AttributeEmbedding
from danqing.text.encoders import shared_encoder

EMBEDDING_SCALE = 0.3
"""Of initial embeddings: about what a block adds; with 0.02, blocks would drown them."""


class Prefix(nn.Module):
    """Vectors `[n, length, width]` that say what an image should show.

    There is one for a label, or one for each token of a text, and one for all attributes, if the model reads
    any. The vectors that stand there without a condition are learned too: guidance compares with them.
    """

    def __init__(self, config: ConditionedConfig, width: int) -> None:
        super().__init__()
        self.config, facts = config, config.text_facts
        self.length = config.text.length if config.reads_text else 1
        self.embed: nn.Embedding | nn.Linear | None = None
        if config.reads_text:
            if facts is None:
                raise ConfigError("This model reads captions and has none: train it on data with captions.")
            # An encoder gives hidden states of some width; byte pairs give the numbers of tokens.
            tokens = facts.vocabulary
            self.embed = nn.Linear(facts.width, width) if facts.width else nn.Embedding(tokens, width)
        elif config.reads_labels and config.labels:
            self.embed = nn.Embedding(len(config.labels), width)
        if isinstance(self.embed, nn.Embedding):
            nn.init.normal_(self.embed.weight, std=EMBEDDING_SCALE)
        self.attributes = AttributeEmbedding(config.attributes, width) if config.attributes else None
        self.length += self.attributes is not None
        self.absent = nn.Parameter(torch.empty(self.length, width))
        nn.init.normal_(self.absent, std=EMBEDDING_SCALE)

    @property
    def reads_any(self) -> bool:
        """Return whether the model learned from any condition."""
        return self.embed is not None or self.attributes is not None

    def forward(self, condition: Condition, absent: Tensor) -> Tensor:
        """Return the vectors of a condition, `[n, length, width]`.

        absent: bool `[n]`, the images to treat as if they had none, as are blank texts and a label of -1.
        Raises ConfigError where the condition lacks what this model reads.
        """
        encoded, blank = None, torch.zeros_like(absent)
        if self.config.reads_text:
            if condition.text is None:
                raise ConfigError('This model reads text: give it a prompt ("" for anything).')
            blank = torch.tensor([not text.strip() for text in condition.text], device=absent.device)
            assert self.config.text_facts is not None
            encoder = shared_encoder(self.config.text, self.config.text_facts)
            encoded = encoder.encode(condition.text).to(absent.device)
        return self.of_encoded(condition, encoded, absent, blank)

    def of_encoded(
        self, condition: Condition, encoded: Tensor | None, absent: Tensor, blank: Tensor
    ) -> Tensor:
        """Return the vectors of a condition whose texts are encoded.

        encoded: what the text encoder gave; None where the model reads no text.
        absent: as of `forward`. blank: bool `[n]`, the images whose text is blank.
        """
        nothing = self.nothing(absent.shape[0])
        if self.attributes is None:
            return self._of_label_or_text(condition, encoded, absent | blank, nothing)
        main = self._of_label_or_text(condition, encoded, absent | blank, nothing[:, :-1])
        told = self.attributes.of(condition, absent.shape[0])[:, None]  # [n] -> [n, 1, width]
        return torch.cat([main, torch.where(absent[:, None, None], nothing[:, -1:], told)], dim=1)

    def _of_label_or_text(
        self, condition: Condition, encoded: Tensor | None, absent: Tensor, nothing: Tensor
    ) -> Tensor:
        if self.embed is None:
            return nothing
        if encoded is not None:
            given: Tensor = self.embed(encoded)
        else:
            if condition.label is None:
                some = ", ".join(self.config.labels[:8])
                raise ConfigError(f"This model needs a label for every image: one of {some}.")
            absent = absent | (condition.label < 0)
            given = self.embed(condition.label.clamp_min(0))[:, None]  # [n] -> [n, 1, width]
        return torch.where(absent[:, None, None], nothing, given)

    def nothing(self, count: int) -> Tensor:
        """Return the vectors that stand for no condition, `[count, length, width]`."""
        return self.absent.expand(count, -1, -1)
