"""From prompts to the ids that a graph reads."""

from collections.abc import Sequence

import numpy as np

from danqing.compress.runtime.graphs import Array
from danqing.compress.runtime.manifest import TextForm
from danqing.errors import ConfigError
from danqing.text.bpe import MOST_CHARACTERS, BytePairs


class Prompts:
    """Reads prompts by the vocabulary of a model; raises ModelError if that is damaged."""

    def __init__(self, form: TextForm) -> None:
        self._pairs, self._length = BytePairs(form.bpe), form.length

    def inputs(self, texts: Sequence[str]) -> dict[str, Array]:
        """Return `tokens` int64 `[n, length]`, 0 beyond an end, and `blank` bool `[n]`."""
        tokens = np.zeros((len(texts), self._length), np.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = self._pairs.ids(_readable(text))[: self._length]
            row[: len(ids)] = ids
        return {"tokens": tokens, "blank": np.array([not text.strip() for text in texts], np.bool_)}

    def check(self, text: str, name: str = "prompt") -> None:
        """Raise ConfigError for a prompt that is too long to read.

        name: of the option that holds it.
        """
        length, most = self._pairs.measure(_readable(text), self._length)
        if length > most:
            raise ConfigError(f"{name} has {length} tokens, and this model reads {most}: shorten it.", name)


def _readable(text: str) -> str:
    """Return the part of a text that can be read, without lone surrogates."""
    return text[:MOST_CHARACTERS].encode("utf-8", "replace").decode()
