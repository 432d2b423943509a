"""The mark in codes: exact p-values, similar codes of one kind, and nothing of the key in any text."""

import itertools
import math

import numpy as np
import pytest

from danqing.trust import codes_mark
from danqing.trust.codes_mark import KINDS, SHARE, CodesMark, kinds_of, p_value

KEY = bytes(range(32))


def test_the_p_value_is_the_share_of_keys_that_favour_as_many() -> None:
    for places in (1, 3, 6):
        for favoured in range(places + 1):
            exact = sum(
                SHARE ** sum(pattern) * (1 - SHARE) ** (places - sum(pattern))
                for pattern in itertools.product((0, 1), repeat=places)
                if sum(pattern) >= favoured
            )
            assert p_value(favoured, places) == pytest.approx(exact)
    assert 0 < p_value(60_000, 65_536) < 1e-300 or p_value(60_000, 65_536) == 0
    assert p_value(16_384, 65_536) == pytest.approx(0.5, abs=0.01)


def test_p_values_of_one_image_are_valid_over_keys() -> None:
    rng = np.random.default_rng(0)
    image = np.where(rng.random(64) < 0.7, 5, rng.integers(KINDS, size=64))  # one kind nearly everywhere
    values = np.array([CodesMark(rng.bytes(16)).detect(image, KINDS).p_value for _ in range(4000)])
    for level in (0.5, 0.1, 0.01):
        share = (values <= level).mean()
        assert share <= level + 4 * math.sqrt(level * (1 - level) / len(values))
    assert (values <= 0.5).mean() > 0.3


def test_what_is_favoured_follows_from_the_key_the_place_and_the_kind() -> None:
    mark = CodesMark(KEY)
    favoured = mark.favoured(200, KINDS)
    assert np.array_equal(favoured, CodesMark(bytes(KEY)).favoured(200, KINDS))
    assert favoured.mean() == pytest.approx(SHARE, abs=0.02)
    other = CodesMark(KEY[::-1]).favoured(200, KINDS)
    assert (favoured & other).mean() == pytest.approx(SHARE**2, abs=0.02)
    assert np.abs(favoured.mean(0) - SHARE).max() < 0.2  # no kind is favoured everywhere
    chosen = favoured.argmax(1)  # the first kind that is favoured at each place
    found = mark.detect(chosen, KINDS)
    assert (found.favoured, found.count) == (200, 200)
    assert found.p_value == pytest.approx(SHARE**200)


def test_similar_codes_are_of_one_kind() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(KINDS, 8)) * 10
    groups = np.concatenate([np.arange(KINDS), rng.integers(KINDS, size=512 - KINDS)])
    order = rng.permutation(512)
    vectors = (centres[groups] + rng.normal(size=(512, 8)) * 0.01)[order]
    kinds = kinds_of(vectors)
    near = [len(set(kinds[groups[order] == group])) for group in range(KINDS)]
    assert np.mean(np.array(near) == 1) > 0.8  # k-means may divide a group
    assert kinds.max() < KINDS
    assert np.array_equal(kinds, kinds_of(vectors))
    values = kinds_of(np.arange(256)[:, None])
    assert (np.diff(values) >= 0).all()
    assert len(set(values)) == KINDS
    assert np.array_equal(kinds_of(vectors[:30]), np.arange(30))


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(CodesMark(KEY))
    with pytest.raises(ValueError, match="16 bytes"):
        CodesMark(b"short")
    assert not codes_mark._favoured(KEY, 4, 4).flags.writeable
