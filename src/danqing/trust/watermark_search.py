"""The search for the watermark over crops, and its p-value.

Without a mark, an image does not depend on the key. Whatever the image is, the correlation of its
coefficients c with the key's random signs s, z = sum(s c) / sqrt(sum(c^2)), is then a sum of independent
random signs with weights whose squares sum to 1. For such sums P(z >= t) <= 3.18 Q(t), where Q is the tail
of the normal distribution (V. Bentkus and D. Dzindzalieta, "A tight Gaussian bound for weighted sums of
Rademacher random variables", Bernoulli 21, 2015). This assumes nothing about images, networks or attacks.
Many such z are computed, for all places of a crop and for all numbers, and the best one counts: its p-value
is multiplied by the number of those that could have been the best (Bonferroni).
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danqing.trust import carriers, extractor, golay
from danqing.trust.carriers import Floats, Format
from danqing.trust.watermark_key import WatermarkKey

_BOUND = 1 / (2 * math.erfc(1))
"""1 / (4 Q(sqrt 2)) = 3.18, the constant of Bentkus and Dzindzalieta."""
_STEPS = 64
"""Crops are tried whose place and size are whole 64ths of the image."""
_SHORTEST = 50
"""The shortest part of a side that is tried, in 64ths."""
_FINER = 2
"""How much finer the places are that are tried around the best ones."""
_REFINED = 6
"""How many of the best places are refined."""
_COARSE = 48
"""Crops in whole steps are compared by the cosines of lower frequencies: a step is too coarse for others."""
_SURE = 1e-12
"""Below this p-value nothing better is looked for."""


class Found(NamedTuple):
    """The best mark of one format.

    p_value: before the number of formats counts. number: the most likely one. certainty: the probability that
    it is the right one, given that there is a mark.
    """

    p_value: float
    number: int
    certainty: float


class _Reader(NamedTuple):
    """What is needed to read the marks of a key in a format.

    signs, weights: of each cosine.
    """

    form: Format
    signs: Floats
    weights: Floats

    def read(self, spectrum: Floats, places: float) -> Found:
        """Return the mark in coefficients `[f, f]`, given how many places could have been read.

        Two tests share the error: the pilots alone, and all cosines with the most likely number.
        """
        cells = carriers.cells(self.form)
        values = spectrum[cells.rows, cells.columns] * self.weights
        signed, is_pilot = values * self.signs, cells.bits < 0
        code = self.form.blocks * golay.BLOCK
        bits = np.bincount(cells.bits[~is_pilot], signed[~is_pilot], minlength=code).astype(np.float32)
        number, correlations = golay.decode(bits)
        factors = np.append(golay.encode(number, self.form.blocks), np.float32(1))[cells.bits]
        z = _normalized(signed[is_pilot].sum(), values[is_pilot])
        pilots = tail(z) * places
        everything = tail(_normalized((signed * factors).sum(), values)) * places * 2.0**self.form.bits
        # The pilots say how strong a bit is beside the noise, so the words of a block have known odds.
        strength = max(z, 0) / math.sqrt(is_pilot.sum()) * math.sqrt(np.count_nonzero(~is_pilot) / code)
        noise = math.sqrt(float(np.vdot(values[~is_pilot], values[~is_pilot])) / code) or 1.0
        odds = np.exp(strength / noise * (correlations - correlations.max(1, keepdims=True)))
        certainty = float(np.prod(1 / odds.sum(1)))
        return Found(min(1.0, 2 * min(pilots, everything)), number, certainty)


def search(estimate: Floats, key: WatermarkKey, form: Format) -> Found:
    """Find the mark of a key, in place or in a crop.

    estimate: `[grid, grid]`, as `watermark.estimate` returns it.
    Half of the error is for the mark in place, a quarter each for crops in whole steps and for finer ones.
    """
    whole = in_place(estimate, key, form)
    if whole.p_value <= _SURE:
        return whole
    reader = _reader(key, form)
    starts, lengths = crops()
    scores = pilot_scores(estimate, key, form)
    best = np.argsort(scores, axis=None)[: -_REFINED - 1 : -1]
    found = [whole]
    for row, column in zip(*np.unravel_index(best, scores.shape), strict=True):
        place = (starts[row], lengths[row]), (starts[column], lengths[column])
        rows, columns = (carriers.window(*part, form.grid, form.frequencies) for part in place)
        found.append(reader.read(rows @ estimate @ columns.T, 4 * scores.size))
        found.append(_refined(estimate, reader, *place))
    return min(found)


def in_place(estimate: Floats, key: WatermarkKey, form: Format) -> Found:
    """Find the mark of a key in an uncropped image.

    estimate: as of `search`.
    """
    basis = carriers.basis(form.grid, form.frequencies)
    return _reader(key, form).read(basis @ estimate @ basis.T, 2)


def tail(z: float) -> float:
    """Return a bound on the probability of a correlation.

    z: the sum of weighted random signs, in standard deviations.
    """
    return min(1.0, _BOUND * 0.5 * math.erfc(z / math.sqrt(2)))


@functools.cache
def crops(finer: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where the parts of a side start, and their lengths.

    These are the parts that are tried. finer: how many steps there are for one of 1/64.
    """
    steps = _STEPS * finer
    parts = [
        (start / steps, length / steps)
        for length in range(_SHORTEST * finer, steps + 1)
        for start in range(steps - length + 1)
    ]
    starts, lengths = np.array(parts).T
    return starts, lengths


def pilot_scores(estimate: Floats, key: WatermarkKey, form: Format) -> Floats:
    """Return z of the compared pilots for each crop, `[rows, columns]`."""
    values, signs = pilot_values(estimate, form), carriers.signs(key.secret, form)[compared_pilots(form)]
    sums, squares = np.zeros_like(values[0]), np.zeros_like(values[0])
    for sign, value in zip(signs, values, strict=True):
        sums += sign * value
        squares += value * value
    scores: Floats = sums / np.sqrt(squares + np.float32(1e-20))
    return scores


def pilot_values(estimate: Floats, form: Format) -> Floats:
    """Return the weighted coefficients of the compared pilots.

    They are `[pilots, rows, columns]`: one for each crop in whole steps.
    """
    cells, chosen = carriers.cells(form), compared_pilots(form)
    weights = carriers.at_cells(extractor.learned().weight, form)[chosen]
    bases = _window_bases(form)
    projected = bases @ estimate  # [frequencies, windows, grid]
    values = np.empty((len(chosen), bases.shape[1], bases.shape[1]), np.float32)
    for place, (row, column) in enumerate(zip(cells.rows[chosen], cells.columns[chosen], strict=True)):
        np.matmul(projected[row], bases[column].T, out=values[place])
    values *= weights[:, None, None]
    return values


def compared_pilots(form: Format) -> NDArray[np.int64]:
    """Return the pilots by which crops in whole steps are compared."""
    cells = carriers.cells(form)
    is_low = np.maximum(cells.rows, cells.columns) < _COARSE
    return np.flatnonzero((cells.bits < 0) & is_low)


@functools.lru_cache(maxsize=2)
def _window_bases(form: Format) -> Floats:
    """The cosines of low frequency in each part of a side, `[frequencies, windows, grid]`."""
    parts, count = zip(*crops(), strict=True), min(_COARSE, form.frequencies)
    bases = [carriers.window(start, length, form.grid, count) for start, length in parts]
    return np.ascontiguousarray(np.stack(bases, axis=1))


def _refined(
    estimate: Floats, reader: _Reader, row: tuple[float, float], column: tuple[float, float]
) -> Found:
    """Read the best of the finer crops around one."""
    form = reader.form
    cells, basis = (
        carriers.cells(form),
        functools.partial(carriers.window, samples=form.grid, frequencies=form.frequencies),
    )
    count = len(crops(_FINER)[0])
    rows, columns = (np.stack([basis(*part) for part in _finer(*place)]) for place in (row, column))
    spectra = np.einsum("afg,gh,bkh->abfk", rows, estimate, columns, optimize=True)
    pilots = cells.pilots
    values = spectra[:, :, cells.rows[pilots], cells.columns[pilots]] * reader.weights[pilots]
    scores = values @ reader.signs[pilots] / np.sqrt((values * values).sum(-1) + np.float32(1e-20))
    best = np.unravel_index(scores.argmax(), scores.shape)
    return reader.read(spectra[best], 4 * count * count)


def _finer(start: float, length: float) -> list[tuple[float, float]]:
    """The parts of a side around one, in finer steps."""
    step = 1 / (_STEPS * _FINER)
    shortest = _SHORTEST / _STEPS
    around = [(start + i * step, length + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return [part for part in around if part[0] >= 0 and shortest <= part[1] <= 1 - part[0]]


@functools.lru_cache(maxsize=16)
def _reader(key: WatermarkKey, form: Format) -> _Reader:
    weights = carriers.at_cells(extractor.learned().weight, form)
    return _Reader(form, carriers.signs(key.secret, form), weights)


def _normalized(total: float, values: Floats) -> float:
    size = math.sqrt(float(np.vdot(values, values)))
    return float(total) / size if size else 0.0
