"""Too much, too large and too many at once: what it costs is bounded, and others get what is theirs."""

import base64
import concurrent.futures
import contextlib
import io
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
from PIL import Image

import danqing as dq
from tests.service.attacks.asking import STAR, assert_paints, assert_refused, edit, paint, picture, raw
from tests.service.serving import Running


def form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    return (
        b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    )


def part(name: str, content: bytes, file: str = "") -> bytes:
    disposition = f'content-disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    return disposition.encode() + b"\r\n\r\n" + content


def test_multipart_dos_forms_and_json_are_read_under_limits(running: Running) -> None:
    """Starlette CVE-2024-47874 (text parts without bound), CVE-2025-62727 (Range), CVE-2025-54121 (spooling);
    python-multipart (negative Content-Length); BentoML CVE-2024-9056 (boundary).
    """
    url = f"{running.url}/v1/images/edits"
    began = time.monotonic()

    def send(body: bytes, kind: str = "multipart/form-data; boundary=x") -> httpx.Response:
        return httpx.post(url, content=body, headers={"content-type": kind}, timeout=20)

    image = part("image", picture(), "a.png")
    words = [part(name, value.encode()) for name, value in STAR.items()]
    assert send(form(image, *words)).status_code == 200
    for body in (
        form(image, *words, part("user", b"a" * 100_000)),
        form(image, part("model", b"masked"), part("prompt", b"a" * 200_000)),
        form(image, *words, *(part(f"f{i}", b"") for i in range(5000))),
        form(image, *words, *[image] * 40),
        form(image, *words, part("a" * 5000, b"")),
        form(image, *words, part("user", b"\xff\xfe")),
        form(image, *words, part("user", b"a\0b")),
        form(image, *words, part("prompt", b"circle")),
        form(image, *words, b"x-a: " + b"b" * 9000 + b"\r\n\r\n"),
        form(image, *words, b"x: y\r\n" * 200 + b"\r\n"),
        form(image, *words, b"content-transfer-encoding: base64\r\n" + part("user", b"YQ==")),
        form(image, *words, b"\r\n\r\nno headers"),
        form(image, *words)[:-6],
        form(image, *words)[:-300],
        form(image, *words, boundary=b"y"),
        b"\r\n" * 500_000 + form(image, *words)[5:],
        b"--x" * 300_000,
        b"",
    ):
        assert_refused(send(body))
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "-" * 100,
    ):
        assert_refused(send(form(image), kind))
    assert_refused(send(form(part("image", bytes(1_500_000), "a.png"))))
    assert_refused(
        httpx.post(url, content=bytes(3_000_000), headers={"content-type": "application/json"}), 413
    )
    for body in (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" + b"[]," * 300_000 + b"[]]",
        b'{"prompt": "' + b"\\" * 500_001 + b'"}',
        b'{"prompt": "' + b'\\"' * 900_000,
        b'{"prompt": "a", "n": ' + b"9" * 100_000 + b"}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": NaN}',
        b'{"prompt": "star", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\\u0000b"}',
        b"\xff\xfe{\x00}\x00",
        b'"text"',
        b"null",
    ):
        assert_refused(
            httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=20)
        )
    for length in (b"-1", b"1e3", b"+5", b"99999999999999999999", b"0x10", b"5, 5"):
        request = (
            b"POST /v1/images/edits HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + length + b"\r\n\r\nab"
        )
        assert raw(running, request)[0] in (400, 413)
    ranges = {"range": "bytes=" + ",".join(f"{i}-{i + 1}" for i in range(2000))}
    address = paint(running, response_format="url").json()["data"][0]["url"]
    assert httpx.get(address, headers=ranges).status_code == 200
    assert time.monotonic() - began < 60
    assert_paints(running)


def test_native_overflow_chunks_and_numbers_reach_no_limit_of_c(running: Running) -> None:
    """Triton CVE-2025-23310, -23311 (chunked), -23319, -23320, -23334 (an error tells of memory), -33201."""
    for number in (-1, 0, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400, 1.5, True, "9" * 5000, [], {}):
        for name in ("n", "num_steps", "output_compression", "partial_images", "top_k", "guidance_scale"):
            answer = paint(running, **{name: number})
            if answer.status_code != 200:
                assert_refused(answer)
    for seed in (2**63, -(2**63) - 1, 10**400, 0.5, "1"):
        assert_refused(paint(running, seed=seed))
    for size in (
        "0x0",
        "-8x8",
        "99999x99999",
        "8x8x8",
        "8X8",
        "８x８",
        "1e3x1e3",
        "9" * 999 + "x1",
        "8192x1",
    ):
        assert_refused(paint(running, size=size))
    head = b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    for body in (
        b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n0\r\n\r\n",
        b"fffffffffffffffffffffffff\r\n",
        b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
        b"1\r\n{\r\n" * 5000 + b"0\r\n\r\n",
    ):
        status, received = raw(running, head + body, ends=True)
        assert status in (0, 400, 413)
        assert b"/tmp" not in received
        assert b"Traceback" not in received
    both = head.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n") + b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
    status, received = raw(running, both)  # two lengths: a proxy before us could read the other
    assert received.count(b"HTTP/1.1 ") <= 1
    assert status in (0, 400)
    assert_paints(running)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, *further: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(further) + data + chunk(b"IEND", b"")


@contextlib.contextmanager
def growth() -> Iterator[list[int]]:
    """By how many bytes at most the service grew meanwhile, its worker included, which is told at the end."""
    parts = [psutil.Process(), *psutil.Process().children(recursive=True)]
    before, most, done = sum(part.memory_info().rss for part in parts), 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, sum(part.memory_info().rss for part in parts))

    watcher = threading.Thread(target=look)
    watcher.start()
    told: list[int] = []
    try:
        yield told
    finally:
        done.set()
        watcher.join()
        told.append(most - before)


def test_image_bombs_and_odd_sizes_cost_little_and_break_nothing(running: Running) -> None:
    """Pillow CVE-2022-45198 (GIF), CVE-2026-40192 (FITS); urllib3 GHSA-38jv-5279-wg99; vLLM CVE-2026-22773 (a
    picture of one pixel).
    """
    zeros = chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(20_000_000), 9))
    began = time.monotonic()
    for content in (
        png(60_000, 60_000, zeros),
        png(2**31 - 1, 1, zeros),
        png(0, 0, zeros),
        png(8, 8, b"", text),
        png(8, 8, chunk(b"IDAT", b"\0" * 8)),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(100),
        b"SIMPLE  =                    T" + bytes(2000),
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(100),
        b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xff\xff\xff" + bytes(10),
        b"\xff\xd8\xff\xe0" + bytes(1000),
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(1000),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n",
        b"P6\n99999 99999\n255\n",
        b"BM" + bytes(100),
        b"\x89PNG\r\n\x1a\n",
    ):
        with growth() as grown:
            assert_refused(edit(running, content))
        assert grown[-1] < 32 * 1024**2, content[:60]
    with growth() as grown:
        answer = edit(running, png(8, 8, chunk(b"IDAT", zlib.compress((b"\0" + bytes(32)) * 8)), profile))
    assert answer.status_code in (200, 400)
    assert grown[-1] < 32 * 1024**2
    for width, height in ((1, 1), (1, 2), (2, 1), (1, 999), (999, 1), (7, 5), (999, 999)):
        answer = edit(running, picture(width, height), n="1")
        if answer.status_code == 200:
            painted = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
            assert painted.size == (width, height)
        else:
            assert_refused(answer)
        words = {"model": "masked", "label": "star"}
        files = {"image": picture(width, height, alpha=False)}
        answer = httpx.post(f"{running.url}/v1/images/variations", data=words, files=files, timeout=60)
        assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < 60
    assert_paints(running)


def test_contamination_of_a_batch_each_gets_their_own_whoever_is_beside(
    running: Running, models: dict[str, str]
) -> None:
    """SGLang #28502, #29742 (padding that is not masked)."""
    model = dq.load(models["masked"])
    labels = ("circle", "red square", "star")

    def one(seed: int) -> bool:
        label = labels[seed % 3]
        if seed % 2:
            answer = paint(running, prompt=label, seed=seed, n=1 + seed % 4)
            expected = model.sample(1 + seed % 4, label=label, seed=seed).array
        else:
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), dtype=np.uint8)
            pixels[..., 3] = 255
            pixels[:4, : 1 + seed % 8, 3] = 0
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            answer = edit(running, file.getvalue(), prompt=label, seed=str(seed))
            where = pixels[..., 3] == 0
            shown = pixels[..., :3].copy()
            shown[where] = shown[~where].mean(axis=0).round().astype(np.uint8)
            expected = model.fill(dq.images.Images(shown[None]), where, label=label, seed=seed).array
        files = [base64.b64decode(picture["b64_json"]) for picture in answer.json()["data"]]
        painted = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        return np.array_equal(painted, expected)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(32)))
