"""Every benchmark and example takes its default call: its arguments parse, none of its work is done here."""

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

import danqing

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BENCHMARKS = [
    path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "ArgumentParser(" in path.read_text()
]
_parse = argparse.ArgumentParser.parse_args


class _ParsedError(Exception):
    """The arguments are there, and the work would begin."""


def _required(parser: argparse.ArgumentParser) -> list[str]:
    """The shortest command line that a parser can accept."""
    words: list[str] = []
    for action in parser._actions:
        if action.required:
            words += [*action.option_strings[:1], next(iter(action.choices or ["1"]))]
    return words


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.stem)
def test_the_default_call_of_a_benchmark_parses(benchmark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse_args(self: argparse.ArgumentParser, *_: Any) -> NoReturn:
        self.format_help()
        found = _parse(self, _required(self))
        for action in self._actions:
            default = getattr(found, action.dest, None)
            values = default if isinstance(default, list) else [default]
            if action.choices is not None and default is not None:
                assert set(values) <= set(filter(None, action.choices)), action.dest
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [str(benchmark)])
    monkeypatch.syspath_prepend(str(benchmark.parent))
    with pytest.raises(_ParsedError):
        runpy.run_path(str(benchmark), run_name="__main__")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_default_call_of_an_example_trains_for_a_minute(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **options: Any) -> NoReturn:
        assert options["minutes"] == 1
        raise _ParsedError

    monkeypatch.setattr(danqing, "train", train)
    monkeypatch.setattr(sys, "argv", [str(example)])
    with pytest.raises(_ParsedError):
        runpy.run_path(str(example), run_name="__main__")
