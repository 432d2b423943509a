"""What is repeated of the errors of other packages."""

import pytest

from danqing.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("one\ntwo"), "one"),
        (ValueError("\n  one \n"), "one"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("name"), "'name'"),
    ],
)
def test_an_error_has_a_first_line_even_if_it_says_nothing(error: Exception, line: str) -> None:
    assert first_line(error) == line
