"""The masks of the studio in a real browser, against NumPy and the masks of `danqing fill`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page

from danqing.editing.masks import feathered, grown
from danqing.service.pages.studio_page import _FOLDER as MODULES

ADDRESS = "http://studio.test"

pytestmark = pytest.mark.slow

Bits = NDArray[np.bool_]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A page at the address of the modules, which are answered from their folder."""
    opened = browser.new_page()
    opened.route(f"{ADDRESS}/*.js", lambda route: route.fulfill(path=MODULES / Path(route.request.url).name))
    opened.route(f"{ADDRESS}/", lambda route: route.fulfill(body="", content_type="text/html"))
    opened.goto(f"{ADDRESS}/")
    opened.evaluate(
        """async () => {
            Object.assign(window, await import('/mask.js'));
            window.drawn = (bits, width, work) => {
                const mask = new Mask(width, bits.length / width);
                mask.pixels.set([...bits]);
                mask.settled.set([...bits]);
                work(mask);
                return mask.pixels.join('');
            };
        }"""
    )
    yield opened
    opened.close()


def masks(count: int) -> Iterator[Bits]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        shape = rng.integers(1, 40, 2)
        yield rng.random(shape) < rng.choice([0.02, 0.3, 0.9])


def drawn(page: Page, where: Bits, work: str, *arguments: Any) -> Bits:
    """The mask after `work`, an expression of `mask` and the arguments `a`."""
    script = f"([bits, width, a]) => drawn(bits, width, (mask) => {{ {work}; }})"
    bits = page.evaluate(script, [text(where), where.shape[1], list(arguments)])
    return np.array([one == "1" for one in bits]).reshape(where.shape)


def text(where: Bits) -> str:
    """A mask as ones and zeros, which a browser receives faster than a list."""
    return "".join("01"[one] for one in where.ravel().tolist())


def test_masks_grow_shrink_and_soften_as_those_of_the_command(page: Page) -> None:
    for number, where in enumerate(masks(40)):
        pixels = [1, 3, 7, 50][number % 4]
        assert np.array_equal(drawn(page, where, "mask.grow(a[0])", pixels), grown(where, pixels))
        shrunk = drawn(page, where, "mask.grow(-a[0])", pixels)
        assert np.array_equal(shrunk, ~grown(~where, pixels) if (~where).any() else where)
        weights = page.evaluate(
            """([bits, width, pixels]) => {
                const mask = new Mask(width, bits.length / width);
                mask.pixels.set([...bits]);
                return feathered(mask, pixels, mask.all).join(' ');
            }""",
            [text(where), where.shape[1], pixels],
        )
        expected = np.floor(255 * feathered(where, pixels).astype(float) + 0.5)
        assert np.array_equal(np.array(weights.split(), float).reshape(where.shape), expected)


def test_a_part_of_a_soft_edge_is_that_of_the_whole(page: Page) -> None:
    found = page.evaluate(
        """() => {
            const mask = new Mask(90, 70);
            mask.disc(40, 33, 21.5, 1);
            const rect = { left: 20, top: 5, right: 60, bottom: 44 };
            const part = feathered(mask, 9, rect), whole = feathered(mask, 9, mask.all);
            return [...part].every((one, i) => one === whole[(5 + Math.floor(i / 40)) * 90 + 20 + (i % 40)]);
        }"""
    )
    assert found


def test_lines_have_round_ends_and_no_edges_within(page: Page) -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    for _ in range(15):
        x0, y0, x1, y1 = rng.uniform(-10, 90, 4)
        radius = float(rng.choice([0.2, 1, 4, 17.3]))
        line = drawn(
            page,
            np.zeros((60, 80), bool),
            "mask.line(a[0], a[1], a[4], a[2], a[3], a[4], 1)",
            x0,
            y0,
            x1,
            y1,
            radius,
        )
        length = np.hypot(x1 - x0, y1 - y0) ** 2
        along = np.clip(((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / length, 0, 1)
        distance = np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0))
        assert line[distance <= radius - 0.3].all()
        assert not line[distance > max(radius, 0.75) + 1e-6].any()


def test_boxes_lassos_and_colours_select_what_numpy_selects(page: Page) -> None:
    rng = np.random.default_rng(2)
    empty = np.zeros((16, 22), bool)
    for _ in range(8):
        left, top = rng.integers(-5, 20, 2).tolist()
        width, height = rng.integers(1, 30, 2).tolist()
        expected = empty.copy()
        expected[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = True
        assert np.array_equal(drawn(page, empty, "mask.box(...a, 1)", left, top, width, height), expected)
        path = rng.uniform(-4, 26, (rng.integers(3, 9), 2))
        lasso = drawn(page, empty, "mask.polygon(a[0], 1)", path.tolist())
        assert np.array_equal(lasso, inside(path, empty.shape))
        colours = rng.integers(0, 4, (16, 22, 4)) * 9
        x, y = int(rng.integers(22)), int(rng.integers(16))
        alike = (np.abs(colours - colours[y, x]) <= 18).all(-1)
        for everywhere, selected in ((True, alike), (False, connected(alike, x, y))):
            found = drawn(
                page,
                empty,
                "mask.similar(Uint8Array.from(a[0].split(' ')), a[1], a[2], 18, a[3], 1)",
                " ".join(map(str, colours.ravel())),
                x,
                y,
                everywhere,
            )
            assert np.array_equal(found, selected)


def inside(path: NDArray[np.float64], shape: tuple[int, int]) -> Bits:
    """The even-odd rule at the centres of pixels."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    crossings = np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(path, np.roll(path, -1, axis=0), strict=True):
        crosses = (y0 <= rows) != (y1 <= rows)
        crossings += crosses & (x0 + (rows - y0) / (y1 - y0) * (x1 - x0) <= columns)
    odd: Bits = crossings % 2 == 1
    return odd


def connected(alike: Bits, x: int, y: int) -> Bits:
    """What can be reached from a pixel over the sides of pixels that are alike."""
    found = np.zeros_like(alike)
    found[y, x] = True
    while True:
        wider = found.copy()
        wider[1:] |= found[:-1]
        wider[:-1] |= found[1:]
        wider[:, 1:] |= found[:, :-1]
        wider[:, :-1] |= found[:, 1:]
        wider &= alike
        if np.array_equal(wider, found):
            return found
        found = wider


def test_undo_takes_back_and_redo_repeats_exactly_whatever_was_drawn(page: Page) -> None:
    faults = page.evaluate(
        """() => {
            let seed = 7;
            const random = (n) => {
                seed = (seed * 1103515245 + 12345) % 2147483648;
                return Math.floor(seed / 65536) % n;
            };
            const place = () => [random(70), random(60)];
            const colours = Uint8Array.from({ length: 4 * 61 * 47 }, () => random(4) * 10);
            const works = [
                (mask) => mask.line(...place(), random(9), ...place(), random(9), random(2)),
                (mask) => mask.box(random(60), random(50), random(30), random(30), random(2)),
                (mask) => mask.polygon([place(), place(), place()], random(2)),
                (mask) => mask.similar(colours, random(61), random(47), 10, random(2) > 0, random(2)),
                (mask) => mask.grow(random(7) - 3), (mask) => mask.invert(), (mask) => mask.fill(random(2)),
            ];
            const faults = [], mask = new Mask(61, 47), states = [mask.pixels.slice()];
            const check = (what) => {
                const expected = states[mask.done], count = expected.reduce((a, b) => a + b);
                if (!mask.pixels.every((one, i) => one === expected[i])) faults.push(what);
                if (mask.count !== count) faults.push(`count after ${what}`);
            };
            for (let i = 0; i < 400; i++) {
                works[random(works.length)](mask);
                if (random(9) === 0) mask.revert();
                else if (mask.commit('any')) {
                    states.length = mask.done;
                    states.push(mask.pixels.slice());
                }
                check('commit or revert');
                if (random(3)) continue;
                for (let k = random(mask.done + 1); k > 0; k--) mask.undo();
                check('undo');
                for (let k = random(mask.operations.length - mask.done + 1); k > 0; k--) mask.redo();
                check('redo');
                const again = new Mask(61, 47, mask.operations.slice(), mask.done);
                if (again.pixels.some((one, k) => one !== mask.pixels[k])) faults.push('restored');
                if (again.count !== mask.count) faults.push('count when restored');
                if (random(3)) while (mask.canRedo) mask.redo();
            }
            return [...faults, ...(states.length < 20 ? ['too few states'] : [])];
        }"""
    )
    assert faults == []
