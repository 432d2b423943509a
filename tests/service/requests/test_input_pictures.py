"""Masks and windows by their definitions, JSON as the standard library reads it, addresses that may be called
and what comes from there.
"""

import asyncio
import base64
import io
import ipaddress
import json
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from danqing import image_files
from danqing.service.access.caller import LOCAL, Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError
from danqing.service.fairness.fair_share import FairShare
from danqing.service.http import exchange
from danqing.service.jobs import store
from danqing.service.jobs.manager import JobManager
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.requests import forms, input_pictures, json_bodies, outbound, schemas
from danqing.service.requests.masks import resize_mask, window_of
from danqing.service.requests.planner import Planner
from danqing.service.settings import Limits, Settings
from tests.image_files.files import file_of, photo
from tests.image_files.test_metadata import HUGE, exif_of_a_phone, png_with
from tests.service.serving import served

SIDES = st.integers(1, 40)
LIMITS = Limits()


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(SIDES), draw(SIDES)
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 4))):
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return mask


PICTURE = st.sampled_from([600_000, 1_500_000, 3_000_001]).map(lambda size: "/+Az" * (size // 4))


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=9) | PICTURE | st.integers(), max_size=6),
    PICTURE,
    st.sampled_from(["/", "\\/"]),
)
def test_large_json_is_read_as_small(body: dict[str, Any], picture: str, slash: str) -> None:
    whole = {**body, "images": [{"image_url": picture}], "n": 1}
    assume("\\u0000" not in json.dumps(body))  # which is taken out below, and may leave two equal names
    sent = json.dumps(whole).replace("\\u0000", "").replace("/", slash).encode()
    read = asyncio.run(json_bodies.read_json(sent, LIMITS, HeldBytes.unlimited()))
    assert read == json.loads(sent)
    assert "".join(pieces(read)) == json.dumps(read, sort_keys=True)


def pieces(value: Any) -> list[str]:
    async def written() -> list[str]:
        return [piece async for piece in json_bodies.write_json(value)]

    return asyncio.run(written())


@settings(max_examples=20, deadline=None)
@given(st.text(min_size=1, max_size=9), st.integers(0, 3))
def test_large_strings_are_written_as_the_standard_library_writes_them(text: str, before: int) -> None:
    string = "x" * before + text * (600_000 // len(text))
    value = {"b": [string, text, 1.5], "a": {"c": string[::-1], "": None}}
    written = pieces(value)
    assert "".join(written) == json.dumps(value, sort_keys=True)
    assert max(map(len, written)) <= 12 * 262_144


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"a": "' + b"\\u0041" * 10**7 + b'"}', "string_above_max_length"),
        (b'{"a": "' + b'\\"' * 10**7 + b'"}', "string_above_max_length"),
        (b'{"a": "' + "\u00e4".encode() * 10**7 + b'"}', "string_above_max_length"),
        (b'{"a": "' + b"x" * 6 * 10**7, "invalid_json"),
        (b'{"a": "' + b"x" * 6 * 10**7 + b"\\", "invalid_json"),
        (b"[" + b'"",' * 10**7, "request_too_complex"),
        (b'{"a": ' + b" " * 6 * 10**7 + b"1}", "request_too_large"),
        (b"[" + b'"' + b"y" * 9999 + b'",' + b'"' + b"y" * 10**7, "invalid_json"),
        (b"[" + (b'"' + b"y" * 300_000 + b'",') * 100, "request_too_large"),
    ],
    ids=lambda value: value[:8] if isinstance(value, bytes) else None,
)
def test_json_exhaustion_a_large_body_keeps_nobody_waiting(body: bytes, code: str) -> None:
    async def read() -> tuple[str | None, float]:
        # The time of the processor: while another thread holds the interpreter's lock it passes, and while
        # other processes run it does not.
        longest, last, ended = 0.0, time.process_time(), False

        async def tick() -> None:
            nonlocal longest, last
            while not ended:
                now = time.process_time()
                longest, last = max(longest, now - last), now
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        try:
            with pytest.raises(ApiError) as refused:
                await json_bodies.read_json(body, LIMITS, HeldBytes.unlimited())
        finally:
            ended = True
            await ticking
        return refused.value.code, longest

    found, longest = asyncio.run(read())
    assert found == code
    assert longest < 0.25


@settings(max_examples=60, deadline=None)
@given(masks(), SIDES, SIDES)
def test_a_new_pixel_is_touched_where_it_overlaps_one_of_the_mask(
    mask: np.ndarray, width: int, height: int
) -> None:
    found = resize_mask(mask, (width, height))
    assert found.shape == (height, width)

    def overlaps(new: int, news: int, old: int, olds: int) -> bool:
        return Fraction(new, news) < Fraction(old + 1, olds) and Fraction(old, olds) < Fraction(new + 1, news)

    expected = np.zeros_like(found)
    for row, column in np.argwhere(mask):
        rows = [overlaps(i, height, int(row), mask.shape[0]) for i in range(height)]
        columns = [overlaps(i, width, int(column), mask.shape[1]) for i in range(width)]
        expected |= np.outer(rows, columns)
    assert np.array_equal(found, expected)


@settings(max_examples=100, deadline=None)
@given(masks(), st.integers(4, 64), st.integers(4, 64))
def test_the_window_holds_the_mask_in_the_shape_of_the_model(
    mask: np.ndarray, width: int, height: int
) -> None:
    offer = Offer("model", "", width=width, height=height)
    window = window_of(mask, offer)
    assume(window is not None)  # it reaches too far; the largest window would leave a part of it out
    assert window is not None
    rows, columns = window
    assert mask[rows, columns].sum() == mask.sum()
    tall, wide = mask[rows, columns].shape
    assert tall == mask.shape[0] or wide == mask.shape[1]  # the largest there is
    assert min(abs(tall - wide * height / width), abs(wide - tall * width / height)) <= 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(), PLAIN, max_size=5), st.booleans())
def test_json_is_read_as_the_standard_library_reads_it(value: dict[str, Any], escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    body = text.encode("utf-8", "surrogatepass")
    hostile = any("\0" in one or _has_half(one) for one in _strings(value))
    try:
        found = json_bodies.parse_json(body, LIMITS)
    except ApiError:
        assert hostile
    else:
        assert found == json.loads(text)


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(one for inner in value.values() for one in _strings(inner))]
    if isinstance(value, list):
        return [one for inner in value for one in _strings(inner)]
    return [value] if isinstance(value, str) else []


def _has_half(text: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in text)


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 5000])
def test_nesting_is_counted_outside_of_strings(depth: int) -> None:
    body = b'{"a": "[[[[{{{{", "b": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    body = body.replace(b": }", b": 0}")
    if depth <= LIMITS.depth:
        assert set(json_bodies.parse_json(body, LIMITS)) == {"a", "b"}
    else:
        with pytest.raises(ApiError, match=f"nested {depth} levels deep"):
            json_bodies.parse_json(body, LIMITS)


def test_hostile_json_takes_as_long_as_it_is() -> None:
    for unit in ('\\"', "\\", '"', "[", '"\\', "\\u0041", "{}", '""'):
        began = time.process_time()
        with pytest.raises(ApiError):
            json_bodies.parse_json(b'{"a": "' + unit.encode() * (1_000_000 // len(unit)) + b"x", LIMITS)
        assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        *((address, False) for address in ("0.0.0.0", "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1")),
        *((address, False) for address in ("169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255")),
        *((address, False) for address in ("::", "::1", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1")),
        *(
            (address, False)
            for address in ("::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")
        ),
    ],
)
def test_only_addresses_that_everybody_reaches_are_public(address: str, public: bool) -> None:
    assert outbound.is_public(ipaddress.ip_address(address)) == public


def test_few_pictures_are_decoded_at_once_and_owners_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, order = io.BytesIO(), []
    Image.new("RGB", (8, 8)).save(file, "PNG")
    sent = forms.Uploads((file.getvalue(),))
    decode, decoding, most = image_files.decode, [], 0

    def slowly(*arguments: Any, **options: Any) -> Any:
        nonlocal most
        decoding.append(1)
        most = max(most, len(decoding))
        time.sleep(0.02)
        decoding.pop()
        return decode(*arguments, **options)

    monkeypatch.setattr(image_files, "decode", slowly)

    async def walk() -> float:
        pictures = EncodePool()
        offer = Offer("model", "", width=8, height=8, channels=3, options={"sample": {}, "vary": {}})
        planner, places = (
            Planner(Settings(models={"model": ""}), {"model": offer}, pictures),
            pictures.turns.most,
        )

        async def ask(owner: str) -> None:
            caller = Caller(owner, owner, frozenset({"edit"}))
            await planner.check_and_plan("variations", {}, caller, HeldBytes.unlimited(), sent)
            order.append(owner)

        greedy = [asyncio.create_task(ask("greedy")) for _ in range(10 * places)]
        await asyncio.sleep(0)
        greedy[-1].cancel()  # nobody waits for it
        await asyncio.gather(*greedy, ask("modest"), return_exceptions=True)
        assert pictures.turns.in_use == 0
        pictures.stop()
        return places

    places = asyncio.run(asyncio.wait_for(walk(), 60))
    assert most == places
    assert len(order) == 10 * places
    assert "modest" in order[: 3 * places]


def test_pictures_that_are_fetched_count_among_the_bytes_that_are_held(
    models: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "origin"
    folder.mkdir()
    for name, side in (("small", 8), ("large", 40)):
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    hole = Image.new("LA", (8, 8), (0, 0))
    hole.save(folder / "hole.png")
    hole.resize((40, 40)).save(folder / "wide.png")

    class Origin(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Origin) as origin:
        threading.Thread(target=origin.serve_forever).start()
        host = f"127.0.0.1:{origin.server_port}"
        limits = {"body_bytes": 1024, "bytes_in_flight": 4096}
        try:
            with served(
                {"masked": models["masked"]}, tmp_path, limits=limits, outbound={"pictures": [host]}
            ) as running:

                def edit(picture: str, mask: str) -> httpx.Response:
                    words = {"prompt": "star", "images": [{"image_url": f"http://{host}/{picture}.png"}]}
                    body = {**words, "mask": {"image_url": f"http://{host}/{mask}.png"}}
                    return httpx.post(f"{running.url}/v1/images/edits", json=body, timeout=30)

                for _ in range(4):  # what was held is given back
                    refused = edit("large", "wide")
                    assert (refused.status_code, refused.headers.get("retry-after")) == (429, "1")
                    assert refused.json()["error"]["code"] == "overloaded"
                    assert edit("small", "hole").status_code == 200
        finally:
            origin.shutdown()


@pytest.mark.parametrize("length", [60, 76, 64, 3])
@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_base64_may_be_broken_into_lines(monkeypatch: pytest.MonkeyPatch, length: int, end: str) -> None:
    monkeypatch.setattr(input_pictures, "_SLICE", 250)
    monkeypatch.setattr(json_bodies, "_LONG", 1000)
    for size in (1, 2, 3, 3000):
        content = np.random.default_rng(size).bytes(size)
        text = base64.b64encode(content).decode()
        lines = end.join(text[at : at + length] for at in range(0, len(text), length)) + end
        body = b"\xef\xbb\xbf" + json.dumps({"image_url": f"data:image/png;base64,{lines}"}).encode()
        limits = Limits(prompt=1)
        reference = schemas.Reference(
            **asyncio.run(json_bodies.read_json(body, limits, HeldBytes.unlimited()))
        )
        settings = SimpleNamespace(limits=limits)
        read = input_pictures.read_one(reference, "image", settings, HeldBytes.unlimited())
        assert asyncio.run(read) == content
        broken = schemas.Reference(image_url=f"data:image/png;base64,{lines}A=")
        with pytest.raises(ApiError, match="valid base64"):
            asyncio.run(input_pictures.read_one(broken, "image", settings, HeldBytes.unlimited()))


class Asking:
    """A request on its way whose body is JSON with a large picture; shares: those of which it holds some."""

    def __init__(self, most: float) -> None:
        self.headers, self.shares = {"content-type": "application/json"}, FairShare(most)
        limits = Limits(body_bytes=16 * 1024**2)
        scope = {"type": "http", "method": "POST", "path": "/"}
        self.exchange = exchange.Exchange(scope, self._receive, self._nobody, limits, self.shares)
        self._sent = self._chunks()

    async def stream(self) -> AsyncIterator[bytes]:
        while (message := await self.exchange.receive()).get("more_body"):
            yield message["body"]

    async def _receive(self) -> dict[str, Any]:
        body = next(self._sent, b"")
        return {"type": "http.request", "body": body, "more_body": bool(body)}

    async def _nobody(self, message: Any) -> None:
        raise AssertionError

    def _chunks(self) -> Iterator[bytes]:
        yield b'{"model": "fill", "prompt": "", "images": [{"image_url": "data:image/png;base64,'
        file = base64.b64encode(PNG)
        yield from (file[at : at + 65_536] for at in range(0, len(file), 65_536))
        yield b'"}]}'


def large_picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[:500, :, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


PNG = large_picture()
BODY = len(PNG) * 4 // 3


def asked(most: float, tmp_path: Path, kind: str) -> tuple[dict[str, float], FairShare]:
    """How many bytes are in memory, and are counted, while a request waits that edits a large picture; and
    how many there were at most before, all in bytes of its body.
    """
    found: dict[str, float] = {}
    asking = Asking(most)
    offer = Offer("fill", "", width=8, height=8, channels=3, options={"sample": {}, "fill": {}})

    def look() -> None:
        found.update(memory=(tracemalloc.get_traced_memory()[0] - before) / BODY)
        found.update(counted=asking.shares.held / BODY)

    async def run(function: Any, *arguments: Any) -> Any:
        assert function is store.accept
        look()
        return SimpleNamespace(id=arguments[0].id)

    async def walk() -> None:
        pictures, settings = EncodePool(), Settings(models={"fill": ""})
        planner, held = Planner(settings, {"fill": offer}, pictures), asking.exchange.held
        database: Any = SimpleNamespace(run=run)
        none: Any = None  # what paints jobs is not started
        jobs = JobManager(
            settings,
            database,
            planner=planner,
            scheduler=none,
            encode_pool=pictures,
            keys=none,
            draining=asyncio.Event(),
        )
        try:
            request: Any = asking
            tracemalloc.reset_peak()
            body = await json_bodies.json_body(request, settings.limits, held, pictures=True)
            found["most"] = (tracemalloc.get_traced_memory()[1] - before) / BODY
            if kind == "job":
                await jobs.accept("edits", body, LOCAL, held)
            else:
                waits = await planner.check_and_plan("edits", body, LOCAL, held)
                look()
                assert waits.compose is not None
        finally:
            held.release()
            pictures.stop()

    image_files.decode(PNG, alpha="keep")  # what is imported when it is first needed is not of the request
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        asyncio.run(walk())
    finally:
        tracemalloc.stop()
    return found, asking.shares


@pytest.mark.parametrize("kind", ["request", "job"])
def test_memory_dos_whatever_is_kept_of_a_body_is_counted(kind: str, tmp_path: Path) -> None:
    found, shares = asked(4 * BODY, tmp_path, kind)
    assert found["memory"] <= found["counted"] + 0.1
    assert found["counted"] < 3
    assert found["most"] < 2.3  # as it came, and what was read of it
    assert shares.held == 0
    with pytest.raises(ApiError) as refused:
        asked(1.6 * BODY, tmp_path, kind)
    assert (refused.value.status, refused.value.code) == (429, "overloaded")


@pytest.mark.parametrize("name", HUGE)
def test_an_upload_with_bad_metadata_is_taken_for_its_pixels(name: str) -> None:
    offer = Offer("model", "", width=40, height=30, channels=3)
    given = input_pictures._varied(png_with(HUGE[name]), offer, 1, LIMITS)
    assert np.array_equal(given.images[0], np.asarray(photo()))
    turned = file_of(photo(), "JPEG", quality=95, exif=exif_of_a_phone(6))
    offer = Offer("model", "", width=30, height=40, channels=3)
    upright = np.asarray(photo().transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(input_pictures._varied(turned, offer, 1, LIMITS).images[0] - upright).mean() < 4


def test_an_upload_of_many_bits_is_read_in_the_range_of_the_model() -> None:
    values = np.tile(np.array([0, 1000, 2000, 4000], np.uint16), (4, 1))
    offer = Offer("model", "", width=4, height=4, channels=1, range=(0, 2000))
    given = input_pictures._varied(file_of(Image.fromarray(values)), offer, 1, LIMITS)
    assert given.images[0, 0, :, 0].tolist() == [0, 128, 255, 255]


def test_why_an_upload_cannot_be_read_is_said() -> None:
    offer = Offer("model", "", width=40, height=30, channels=3)
    with pytest.raises(ApiError) as refused:
        input_pictures._varied(file_of(photo())[:-200], offer, 1, LIMITS)
    assert refused.value.code == "image_parse_error"
    assert "truncated" in str(refused.value)
