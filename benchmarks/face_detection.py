"""How often `danqing data check` finds faces: in faces, in rotated faces, and in images without any.

    python benchmarks/face_detection.py [DATA_WITHOUT_FACES] [--most 200]

The faces are the 100 crops of Labeled Faces in the Wild that scikit-image brings, beside 100 other crops.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from danqing.data.faces import find_faces
from danqing.data.originals import Original, Originals

TILTS = (10, 20, 30)


def crops(faces: bool, tilt: int = 0) -> Iterator[Original]:
    """Yield 100 crops of 25x25, rotated by some degrees."""
    values = np.load(Path(skimage.data.__file__).parent / "lfw_subset.npy")
    for number, one in enumerate(values[:100] if faces else values[100:]):
        image = Image.fromarray((one * 255).astype(np.uint8))
        if tilt:
            image = image.rotate(tilt, Image.Resampling.BICUBIC, fillcolor=int(one.mean() * 255))
        yield Original(str(number), np.asarray(image)[:, :, np.newaxis])


def main() -> None:
    """Print one line for each kind of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="images without faces")
    parser.add_argument("--most", type=int, default=200, help="how many of them; 0 is all")
    given = parser.parse_args()
    kinds: dict[str, Iterable[Original]] = {"faces": crops(True)}
    kinds |= {f"faces, rotated by {tilt} degrees": crops(True, tilt) for tilt in TILTS}
    kinds["other crops"] = crops(False)
    if given.data:
        kinds[given.data] = Originals(given.data, most=given.most)
    for name, images in kinds.items():
        start = time.perf_counter()
        found = find_faces(images)
        each = 1000 * (time.perf_counter() - start) / max(1, found.images)
        share = found.showing / max(1, found.images)
        print(f"{name}: found in {found.showing} of {found.images} ({share:.1%}), {each:.0f} ms each")


if __name__ == "__main__":
    main()
