"""What reads files of others takes its samples, and raises one kind of error for changed ones."""

import contextlib
from pathlib import Path

import pytest

from danqing.errors import DanqingError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
INPUTS = 25


@pytest.mark.slow
def test_every_parser_takes_its_samples_and_rejects_others_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run of `benchmarks/file_fuzz.py`, which needs an hour to be thorough."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "trust"))
    from foreign_files import PARSERS
    from mutation import Mutator

    for number, (name, set_up) in enumerate(PARSERS.items()):
        folder = tmp_path / name
        folder.mkdir()
        parser = set_up(folder)
        assert parser.samples, name
        for sample in parser.samples:
            parser.read(sample)
        mutator = Mutator(number, parser.samples)
        for _ in range(INPUTS):
            with contextlib.suppress(DanqingError):
                parser.read(mutator.next())


def test_a_changed_png_has_right_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from mutation import Mutator, with_checksums

    from danqing.image_files import inspect
    from tests.data.pictures import png

    content = png(0)
    assert with_checksums(content) == content
    wider = content[:19] + bytes([content[19] + 1]) + content[20:]
    assert inspect(with_checksums(wider))[0][0] == inspect(content)[0][0] + 1
    one, other = (Mutator(7, [content, b'{"a": [1, 2]}']) for _ in range(2))
    inputs = [one.next() for _ in range(50)]
    assert inputs == [other.next() for _ in range(50)]
    assert len(set(inputs)) > 40
