"""A stage of a run, and what the second stage takes from the first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danqing.families.base import Family
from danqing.training.codes import Codes
from danqing.training.listener import Plan

OF_TOKENIZER = "These are the tokenizer's settings: --set tokenizer.settings.KEY=VALUE."
TOKENIZER, PRIOR = "tokenizer (stage 1 of 2)", "prior (stage 2 of 2)"


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A trained tokenizer and the codes of the images.

    facts: what `run.json` says of them under `tokenizer`, with their `cost`.
    """

    tokenizer: Family
    codes: Codes
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """Which stage of a run is trained.

    name: "" if there is only one stage.
    settings: a sentence on where the stage's settings are found, "" if that is obvious.
    then: the plan of the stage that follows.
    tokenized: the result of the stage before.
    """

    name: str = ""
    settings: str = ""
    then: Plan | None = None
    tokenized: Tokenized | None = field(default=None, repr=False)
