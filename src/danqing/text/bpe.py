"""A byte-level vocabulary learned from captions: it reads any language, and words that it never saw."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from danqing.errors import DataError, ModelError

if TYPE_CHECKING:  # torch is imported where it is used: an exported model reads prompts without it
    from torch import Tensor

PADDING, END = 0, 1
"""Ids that no text can contain, since the ids of the vocabulary begin after them."""
MOST_CHARACTERS = 16_384
"""The most that is read of a text: what follows could not change its first 512 tokens."""
_FIRST = 2

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Scripts without spaces between words: each character stands alone, or whole sentences would be learned as
one token, and a new combination of known words would be unknown."""
_PIECES = rf"{_UNSPACED}| ?(?:(?!{_UNSPACED})[\p{{L}}\p{{M}}])+| ?\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+"
"""Pieces whose ends no pair crosses: words with the space before them, single digits, runs of signs."""


def learn(captions: Iterable[str], vocabulary: int) -> str:
    """Learn the most frequent byte pairs of some captions.

    vocabulary: the number of ids, at most.
    Returns the JSON of the library `tokenizers`, the same for the same captions in any order. Source:
    Sennrich et al. 2016, on bytes as in Radford et al. 2019. Raises DataError where there is no caption.
    """
    known = sorted(filter(None, captions))
    if not known:
        raise DataError(
            "There is no caption to learn words from: give the images captions, or choose a preset that "
            "reads none."
        )
    tokenizer = _with_pipeline(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - _FIRST,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(known, trainer)
    return tokenizer.to_str()


class BytePairs:
    """A vocabulary that `learn` wrote.

    vocabulary: the number of all ids, with padding and the end.
    Raises ModelError where the JSON is not of that kind.
    """

    def __init__(self, content: str) -> None:
        try:
            model: dict[str, Any] = json.loads(content)["model"]
            words, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
            whole = sorted(words.values()) == list(range(len(words)))
            self._tokenizer = _with_pipeline(models.BPE(words, merges))
        except Exception as error:  # the library's errors have no base class
            raise ModelError("The model's words are damaged: get a whole copy of its config.json.") from error
        if not whole or not set(pre_tokenizers.ByteLevel.alphabet()) <= words.keys():
            raise ModelError("The model's words are damaged: get a whole copy of its config.json.")
        self.vocabulary = len(words) + _FIRST

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text and its end."""
        return [*(_FIRST + i for i in self._tokenizer.encode(text).ids), END]

    def row(self, text: str) -> "Tensor":
        """Return the ids of a text and its end, int64 `[tokens]`."""
        import torch

        return torch.tensor(self.ids(text))

    def measure(self, text: str, length: int) -> tuple[int, int]:
        """Return how many ids a text has, and how many fit.

        The end does not count.
        """
        return len(self._tokenizer.encode(text).ids), length

    def tokens(self, text: str) -> list[str]:
        """Return the text that each id of a text stands for."""
        decoder = decoders.ByteLevel()
        return [decoder.decode([token]) for token in self._tokenizer.encode(text).tokens]


def _with_pipeline(model: models.BPE) -> Tokenizer:
    """Return a tokenizer with what happens to a text before its bytes are paired.

    A model folder cannot bring another pipeline.
    """
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(" "),  # a word is the same at the start and within
            normalizers.Replace(Regex(rf" (?={_UNSPACED})"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
