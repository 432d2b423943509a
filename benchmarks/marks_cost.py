"""Time and size of marks, for images of one size.

`signing` is the time of Content Credentials alone, and `library` that of a smaller manifest with the calls of
c2pa-python alone. `marks` are all marks of `eu`: watermark, metadata, credentials and registry. `encoding` is
the same image without marks. `cpu_ms` are the medians of the processor's time and `ms` those of the clock,
which other programs disturb; `best_ms` are the shortest. `added` are the bytes that credentials add to a
file, and `added_by_marks` those of all marks. Each image is another smooth random one.

    pip install 'danqing[trust]'
    python benchmarks/marks_cost.py [--size 64] [--count 300] [--format png]
"""

import argparse
import functools
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import c2pa
import numpy as np
from PIL import Image

from danqing import images
from danqing.images import Pixels
from danqing.trust import authority, credentials
from danqing.trust.authority import Authority
from danqing.trust.declaration import Declaration
from danqing.trust.marking import Marking
from danqing.trust.settings import MarkSettings
from danqing.trust.verify import verify

DECLARATION = Declaration(model="benchmark", model_digest="ab" * 32)


def drawn(size: int, number: int) -> Pixels:
    """Draw a smooth random image, uint8 `[size, size, 3]`."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def by_library(owner: Authority, format: str) -> Callable[[bytes], bytes]:
    """Return a function that signs with the library alone."""
    settings = {"verify": {"verify_after_sign": False}, "builder": {"thumbnail": {"enabled": False}}}
    context = c2pa.Context.from_dict(settings)
    signer = c2pa.Signer.from_callback(owner.sign, c2pa.C2paSigningAlg.ES256, owner.certificate)
    definition = json.dumps({"claim_generator_info": [{"name": "benchmark", "version": "1"}]})
    intent = c2pa.C2paBuilderIntent.CREATE
    source = c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA

    def sign(file: bytes) -> bytes:
        builder = c2pa.Builder(definition, context)
        builder.set_intent(intent, source)
        signed = io.BytesIO()
        builder.sign(signer, f"image/{format}", io.BytesIO(file), signed)
        return signed.getvalue()

    return sign


Times = dict[str, list[tuple[float, float]]]


def measured(calls: dict[str, Callable[[], bytes]], times: Times) -> dict[str, bytes]:
    """Run each call once and note its time; return what the calls wrote."""
    written = {}
    for name, call in calls.items():
        clock, processor = time.perf_counter(), time.process_time()
        written[name] = call()
        took = 1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - processor)
        times.setdefault(name, []).append(took)
    return written


def summary(times: Times, column: int, of: Callable[[list[float]], float]) -> dict[str, float]:
    """Summarize the times of each call."""
    return {name: round(of([each[column] for each in values]), 3) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--format", choices=["png", "jpeg", "webp"], default="png")
    chosen = parser.parse_args()
    times: Times = {}
    added, added_by_marks = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DANQING_TRUST"] = folder
        owner = authority.create(Path(folder) / "authority")
        library = by_library(owner, chosen.format)
        marks = Marking(MarkSettings(), DECLARATION)
        for number in range(chosen.count + 5):
            image = images.to_pil(drawn(chosen.size, number))
            file = images.encode(image, chosen.format)
            signed = functools.partial(credentials.sign, authority=owner)
            calls: dict[str, Callable[[], bytes]] = {
                "encoding": functools.partial(images.encode, image, chosen.format),
                "signing": functools.partial(signed, file, chosen.format, DECLARATION),
                "library": functools.partial(library, file),
                "marks": functools.partial(images.encode, image, chosen.format, marks=marks),
            }
            if number < 5:  # the first calls load libraries
                measured(calls, {})
                continue
            written = measured(calls, times)
            added.append(len(written["signing"]) - len(file))
            added_by_marks.append(len(written["marks"]) - len(file))
        last = verify(written["marks"], folder=Path(folder)).verdict
    result = {
        "size": chosen.size,
        "format": chosen.format,
        "cpu_ms": summary(times, 1, statistics.median),
        "ms": summary(times, 0, statistics.median),
        "best_ms": summary(times, 0, min),
        "added": round(float(np.mean(added))),
        "added_by_marks": round(float(np.mean(added_by_marks))),
        "verdict": last,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
