"""Fuzzes the service: no request may cause an answer of 500 or a memory leak.

    python benchmarks/service_fuzz.py [--requests 100000] [--examples 200] [--concurrency 16] [--seed 0]

First schemathesis reads the service's OpenAPI document and sends `examples` requests to each operation. Then
come `requests` mutated bodies: generations, edits and variations in JSON, as forms and as jobs, whose fields,
bytes and pictures are changed at random. Pictures are truncated, begin like another format, or have changed
bytes, with or without correct PNG checksums. Every answer must have a status below 500, and be a picture or
an error in the documented shape. No job may fail because of a bug in the service. Memory is read after a
tenth of the requests and at the end, when the service is idle. A body that fails is saved in --out. The last
line is JSON.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from PIL import ExifTags, Image
from service_process import LABELS, SIDE, ServiceProcess, write_models

JSON, BOUNDARY = "application/json", b"danqing-fuzz"
FORM = f"multipart/form-data; boundary={BOUNDARY.decode()}"
REST = 3.0
"""Seconds without work before memory is read: the worker has then returned its free memory."""
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 11, 2**31, 2**63, 2**64, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1e308, 1e-308),
    *("", " ", "\x7f", "é", "红", "\ud800", "\0", "a" * 5000, "auto", "8x8", "0x0", "16x16", "1024x1024"),
    *("../../etc/passwd", "%s%n", "<script>", "' or 1=1 --", "data:image/png;base64,"),
    *("http://127.0.0.1/", "http://xn--a/", "0000000002"),
    *([], {}, [[]], {"a": {}}, [None], ["star"] * 3),
)
TROUBLE = (
    *(b"\0", b"\xff", b"\r\n", b"--", b'"', b"\\", b"{", b"["),
    *(b"\x80" * 9, b"\xff" * 8, b"\x7f\xff\xff\xff"),
)


class Body(NamedTuple):
    path: str
    kind: str
    content: bytes


GUIDED: dict[str, Any] = {
    "num_steps": 2,
    "top_k": 3,
    "guidance_scale": 2.0,
    "quality": "low",
    "stream": True,
    "partial_images": 2,
}
"""Fields that only requests with a prompt have."""
MASKS = 4
"""How many of the pictures of a size, from the first, are often used as masks."""
MOVING = ("PNG", "WEBP", "GIF")
FOREIGN = ("style", "mask", "images", "negative_prompt", "strength", "endpoint", "__class__", "")


def pictures(height: int, width: int) -> list[bytes]:
    """Return pictures of one size in supported and unsupported formats.

    The upper half of those with an alpha channel is transparent.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[:, :, 3] = 255
    pixels[: max(1, height // 2), :, 3] = 0
    whole, turned = Image.fromarray(pixels), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    found = []
    kinds: tuple[tuple[str, str, dict[str, Any]], ...] = (
        *((("RGBA", "PNG", {}),) * MASKS),
        *(("LA", "PNG", {}), ("RGBA", "WEBP", {}), ("RGBA", "WEBP", {"lossless": True})),
        *(("RGB", "JPEG", {"exif": turned}), ("L", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {})),
        *(("L", "PNG", {}), ("P", "PNG", {"transparency": 0}), ("I;16", "PNG", {}), ("1", "PNG", {})),
        *(("RGB", "GIF", {}), ("RGB", "TIFF", {}), ("RGB", "BMP", {})),
        *(("RGBA", format, {"save_all": True, "append_images": [whole.rotate(180)]}) for format in MOVING),
    )
    for mode, format, options in kinds:
        file = io.BytesIO()
        picture = whole.convert("L").convert("I;16") if mode == "I;16" else whole.convert(mode)
        picture.save(file, format, **options)
        found.append(file.getvalue())
    return found


def form(parts: Sequence[tuple[str, bytes | str]]) -> bytes:
    body = b""
    for name, value in parts:
        file = '; filename="a.png"' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        head = f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode("utf-8", "replace") + content + b"\r\n"
    return body + b"--" + BOUNDARY + b"--\r\n"


class Fuzzer:
    """Mutates valid bodies in one or two respects: fields, pictures or bytes. The seed determines them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pictures = [pictures(*size) for size in ((SIDE, SIDE), (24, 40), (1, 1))]

    def body(self) -> Body:
        """Return the next body."""
        changed = self._random.choice(
            ((), ("fields",), ("fields",), ("pictures",), ("pictures",), ("bytes",), ("fields", "pictures"))
        )
        endpoint = self._random.choice(("generations", "edits", "edits", "variations"))
        words = self._words(endpoint, odd="fields" in changed)
        sent = {} if endpoint == "generations" else self._sent(endpoint, spoiled="pictures" in changed)
        if sent and self._random.random() < 0.5:
            body = Body(f"/v1/images/{endpoint}", FORM, self._form(words, sent, odd="fields" in changed))
        else:
            references = self._references(sent, odd="fields" in changed)
            body = Body(f"/v1/images/{endpoint}", JSON, json.dumps(words | references).encode())
            if self._random.random() < 0.2:
                body = self._job(endpoint, words | references, odd="fields" in changed)
        if "bytes" in changed:
            body = body._replace(content=self._bytes(body.content))
        if self._random.random() < 0.02:
            kinds = (JSON, FORM, "multipart/form-data", "text/plain", "", "application/json; charset=utf-16")
            body = body._replace(kind=self._random.choice(kinds))
        return body

    def _words(self, endpoint: str, *, odd: bool) -> dict[str, Any]:
        """Return the fields of a request without its pictures."""
        labelled = endpoint == "edits" or self._random.random() < 0.6
        words: dict[str, Any] = {"model": "masked" if labelled else "vae", "seed": 1}
        further = {
            "n": self._random.randint(1, 3),
            "size": self._random.choice(("auto", "32x32", "64x64", "17x17")),
            "output_format": self._random.choice(("png", "jpeg", "webp")),
            "response_format": "b64_json",
            "background": self._random.choice(("auto", "opaque")),
            "temperature": 0.5,
            "user": "fuzz",
        }
        if endpoint == "variations":
            further["strength"] = 0.3
            words |= {"label": self._random.choice(LABELS)} if labelled else {}
        else:
            words["prompt"] = self._random.choice(LABELS) if labelled else ""
            further |= GUIDED if labelled else {}
        chosen = self._random.sample(sorted(further), self._random.choice((0, 1, 2)))
        words |= {name: further[name] for name in chosen}
        if words.get("partial_images"):
            words["stream"] = True
        if odd:
            for _ in range(self._random.choice((1, 1, 2))):
                name = self._random.choice([*words, *further, *FOREIGN])
                words[name] = self._random.choice(ODD)
        return words

    def _sent(self, endpoint: str, *, spoiled: bool) -> dict[str, bytes]:
        """Return the pictures of a request by field."""
        kinds = self._random.choice(self._pictures)
        found = {"image": self._random.choice(kinds)}
        if endpoint == "edits" and self._random.random() < 0.5:
            found["mask"] = self._random.choice(kinds[:MASKS])
        if spoiled:
            name = self._random.choice(sorted(found))
            found[name] = self._spoiled(found[name])
        return found

    def _spoiled(self, content: bytes) -> bytes:
        """Return a picture that is truncated, has another format's header or size, or changed bytes."""
        other = self._random.choice(self._random.choice(self._pictures))
        match self._random.randrange(6):
            case 0:
                return content[: self._random.randrange(len(content))]
            case 1:
                length = self._random.choice((4, 8, 12, 16, 26, 33))
                return other[:length] + content[length:]
            case 2:
                return other
            case _:
                content = self._bytes(content)
        if content[:4] == b"\x89PNG" and self._random.random() < 0.7:
            content = mended(content)
        return content

    def _references(self, sent: Mapping[str, bytes], *, odd: bool) -> dict[str, Any]:
        """Return pictures in the form of a JSON body."""

        def reference(content: bytes) -> Any:
            url: Any = "data:image/png;base64," + base64.b64encode(content).decode()
            if odd and self._random.random() < 0.1:
                url = self._random.choice(ODD)
            return {"image_url": url}

        found = {name: reference(content) for name, content in sent.items()}
        if "image" in found:
            found["images"] = [found.pop("image")]
        return found

    def _job(self, endpoint: str, words: Mapping[str, Any], *, odd: bool) -> Body:
        body = {name: value for name, value in words.items() if name not in ("stream", "partial_images")}
        asked: dict[str, Any] = {"endpoint": endpoint, "body": body}
        if odd and self._random.random() < 0.3:
            asked[self._random.choice(("endpoint", "body", "webhook", "x"))] = self._random.choice(ODD)
        if odd and self._random.random() < 0.1:
            asked["webhook"] = {"url": self._random.choice(ODD)}
        return Body("/v1/jobs", JSON, json.dumps(asked).encode())

    def _form(self, words: Mapping[str, Any], sent: Mapping[str, bytes], *, odd: bool) -> bytes:
        parts: list[tuple[str, bytes | str]] = [
            (name, value if isinstance(value, str) else json.dumps(value)) for name, value in words.items()
        ]
        parts += sent.items()
        if odd and self._random.random() < 0.2:
            parts.append(self._random.choice(parts))
        self._random.shuffle(parts)
        return form(parts)

    def _bytes(self, content: bytes) -> bytes:
        """Change, remove, repeat, move or insert a few bytes."""
        found = bytearray(content)
        for _ in range(self._random.choice((1, 1, 2, 5))):
            at = self._random.randrange(len(found) + 1)
            end = min(len(found), at + self._random.choice((1, 1, 4, 16, 200)))
            match self._random.randrange(6):
                case 0 if found:
                    found[at % len(found)] ^= 1 << self._random.randrange(8)
                case 1:
                    del found[at:end]
                case 2:
                    found[at:at] = found[at:end] * self._random.choice((1, 2, 50))
                case 3:
                    found[at:at] = self._random.choice(TROUBLE)
                case 4:
                    found[at:end] = self._random.randbytes(end - at)
                case _:
                    del found[at if self._random.random() < 0.3 else len(found) :]
        return bytes(found)


def mended(content: bytes) -> bytes:
    """Return a PNG with correct checksums, so that its chunks are read."""
    found, at = content[:8], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        found += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return found


def complaint(answer: httpx.Response) -> str | None:
    """Return what is wrong with an answer, or None."""
    if answer.status_code >= 500:
        return f"status {answer.status_code}"
    if answer.status_code >= 400:
        error = answer.json().get("error", {})
        return None if set(error) == {"message", "type", "param", "code"} else "an error of another shape"
    if answer.headers["content-type"].startswith("text/event-stream"):
        return "a failed stream" if b"event: error" in answer.content else None
    for one in answer.json().get("data", ()):
        Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).load()
    return None


async def bombard(service: ServiceProcess, options: argparse.Namespace) -> dict[str, Any]:
    """Send the mutated bodies; return the results."""
    fuzzer, statuses, wrong = Fuzzer(options.seed), Counter[int](), []
    sent, began, broken = 0, time.perf_counter(), 0

    async def send(client: httpx.AsyncClient, body: Body) -> httpx.Response:
        nonlocal broken
        headers = {"content-type": body.kind}
        try:
            return await client.post(service.url + body.path, content=body.content, headers=headers)
        except httpx.TransportError:  # an idle connection may just have been closed: retry on another one
            broken += 1
            return await client.post(service.url + body.path, content=body.content, headers=headers)

    async def one(client: httpx.AsyncClient, until: int) -> None:
        nonlocal sent
        while sent < until:
            body = fuzzer.body()
            sent += 1
            number = sent
            try:
                answer = await send(client, body)
                statuses[answer.status_code] += 1
                told, reason = answer.text[:300], complaint(answer)
            except Exception as error:
                told, reason = "", f"{type(error).__name__}: {error}"
            if reason is not None:
                wrong.append(f"{number}: {body.path} {reason}")
                (options.out / f"{number}.body").write_bytes(body.content)
                print(wrong[-1], told, flush=True)
            if number % 5000 == 0:
                print(f"{number:,} sent, {dict(statuses)}, {service.memory()}", flush=True)

    async def memory_after(client: httpx.AsyncClient, until: int) -> dict[str, float]:
        """Return the memory of both processes after a number of bodies, when the service is idle."""
        await asyncio.gather(*(one(client, until) for _ in range(options.concurrency)))
        for status in ("queued", "running"):
            while await jobs(client, status):
                await asyncio.sleep(0.5)
        await asyncio.sleep(REST)
        return service.memory()

    async def jobs(client: httpx.AsyncClient, status: str) -> list[Any]:
        answer = await client.get(f"{service.url}/v1/jobs", params={"status": status, "limit": 100})
        found: list[Any] = answer.json()["data"]
        return found

    async with httpx.AsyncClient(timeout=120) as client:
        before = await memory_after(client, max(1, options.requests // 10))
        after = await memory_after(client, options.requests)
        for job in await jobs(client, "failed"):
            if job["error"]["type"] == "server_error":
                wrong.append(f"job {job['id']} failed: {job['request']} {job['error']}")
                print(wrong[-1], flush=True)
    return {
        "requests": sent,
        "seconds": round(time.perf_counter() - began, 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "connections_broken": broken,
        "failures": len(wrong),
        "megabytes": {
            name: {"before": round(value, 1), "after": round(after[name], 1)}
            for name, value in before.items()
        },
        "memory_change": {name: round(after[name] / value - 1, 4) for name, value in before.items()},
    }


def follow_the_document(service: ServiceProcess, examples: int, folder: Path) -> int:
    """Let schemathesis send what the OpenAPI document allows and forbids; return its exit status."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{service.url}/openapi.json",
        f"--max-examples={examples}",
        "--phases=examples,coverage,fuzzing",
        "--checks=not_a_server_error,content_type_conformance,response_schema_conformance",
        "--exclude-path-regex=events$",
        "--request-timeout=120",
        "--continue-on-failure",
        "--suppress-health-check=all",
        "--no-color",
    ]
    return subprocess.run(command, check=False, cwd=folder).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--examples", type=int, default=200, help="of each operation; 0 skips schemathesis")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder) / "models")
        limits = {"seconds": 60.0, "pixels": 2_000_000}
        with ServiceProcess(Path(folder), models, limits=limits, engine={"threads": 1}) as service:
            examples = options.examples
            status = follow_the_document(service, examples, Path(folder)) if examples else 0
            result = asyncio.run(bombard(service, options))
    print(json.dumps({"schemathesis_status": status, **result}))
    steady = all(abs(change) <= 0.05 for change in result["memory_change"].values())
    sys.exit(0 if not status and not result["failures"] and steady else 1)


if __name__ == "__main__":
    main()
