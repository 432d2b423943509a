"""A comparison as a study leaves it, with hostile names, written by hand: no training needed."""

import math
import random
from pathlib import Path

from PIL import Image

from danqing.evaluation.scores import FeatureInfo, ReferenceInfo, Score
from danqing.studies.recommendations import cautions, verdict
from danqing.studies.results import Comparison, Contestant, Point

HOSTILE = "<script>document.title='broken'</script>"
REFERENCE = ReferenceInfo(name="pets & more", split="test", count=412, fingerprint="9f2c41d07a55" * 5)
FEATURES = FeatureInfo(
    name="efficientnet-lite0", sha256="ab" * 32, resizer="bicubic, antialiased", precision="float32"
)


def score(
    metric: str, value: float, half: float, *, higher: bool, name: str = "", headline: bool = False
) -> Score:
    return Score(
        metric=metric,
        name=name or metric,
        value=value,
        interval=(value - half, value + half),
        higher_is_better=higher,
        images=1000,
        candidate="a model",
        reference=REFERENCE,
        features=FEATURES,
        headline=headline,
        versions={"danqing": "0.2.0"},
    )


def scores(kernel: float, precision: float, recall: float, memorised: float) -> tuple[Score, ...]:
    return (
        score("kernel", kernel, 0.003, higher=False, name="KD-efficientnet-lite0", headline=True),
        score("frechet", kernel * 4000, 6.0, higher=False, name="FD-efficientnet-lite0"),
        score("precision", precision, 0.03, higher=True),
        score("recall", recall, 0.04, higher=True),
        score("coverage", recall + 0.1, 0.04, higher=True),
        score("memorised/copies", memorised, 0.02, higher=False),
    )


def curve(best: float, minutes: float) -> tuple[Point, ...]:
    points = []
    for tenth in range(1, 11):
        value = best * (1 + 6 * math.exp(-tenth / 2))
        seconds = minutes * 6 * tenth
        points.append(
            Point(images=tenth * 20_000, seconds=seconds, value=value, interval=(value * 0.9, value * 1.1))
        )
    return tuple(points)


def contestant(
    name: str, family: str, found: tuple[Score, ...], speed: float, curve_end: float
) -> Contestant:
    return Contestant(
        name=name,
        family=family,
        preset=f"{family}-32",
        run=f"runs/{family}-32",
        status="finished",
        scores=found,
        curve=curve(curve_end, 10.0),
        curve_name="KD-efficientnet-lite0",
        measured={
            "training_speed": speed,
            "sampling_speed": speed * 4.5,
            "peak_memory_bytes": 1.1e9 if family == "gan" else 0.8e9,
            "parameters": 1_061_000 if family == "gan" else 2_412_000,
            "model_bytes": 4.2e6 if family == "gan" else 9.6e6,
            "core_hours": 0.33,
            "images": 200_000,
            "seconds": 600,
        },
        precision="bfloat16",
        config=f'family = "{family}"\nbatch_size = 64\n# {HOSTILE}\n',
        pictures={"grid": f"pictures/{family}.png", "neighbours": f"pictures/{family}-near.png"},
    )


def write_comparison(folder: Path) -> Comparison:
    """A comparison of three, of which one failed; `folder` gets its pictures."""
    (folder / "pictures").mkdir(parents=True)
    noise = random.Random(0)
    for name in ("real", "gan", "vae"):
        Image.effect_noise((200, 200), 40 + 40 * noise.random()).convert("RGB").save(
            folder / "pictures" / f"{name}.png"
        )
    for name in ("gan", "vae"):
        Image.effect_noise((700, 240), 60).convert("RGB").save(folder / "pictures" / f"{name}-near.png")
    comparison = Comparison(
        danqing="0.2.0",
        command="danqing compare 'pets & more/' --families gan,vae,flow --minutes 10 --out runs/pets",
        written="2026-01-31 12:00",
        name=f"pets & more {HOSTILE}",
        data={
            "name": f"pets & more {HOSTILE}",
            "source": "/home/someone/pets & more",
            "images": 2748,
            "width": 32,
            "height": 32,
            "fingerprint": "5b3a77c1" * 8,
            "licence": "CC BY-SA 4.0",
            "citation": "Someone, <i>Pets</i>, 2024.",
        },
        reference=REFERENCE,
        budget={"minutes": 10.0},
        seed=0,
        samples=1000,
        machine={
            "device": "cpu",
            "processor": "A processor",
            "cores": 2,
            "threads": 2,
            "memory_bytes": 24_000_000_000,
            "system": "Linux",
            "python": "3.11.7",
            "torch": "2.13.0",
        },
        contestants=(
            contestant("gan-32", "gan", scores(0.0214, 0.71, 0.31, 0.02), 388.0, 0.021),
            contestant(f"vae-32 {HOSTILE}", "vae", scores(0.0341, 0.69, 0.47, 0.03), 1210.0, 0.034),
            Contestant(
                name="flow-32",
                family="flow",
                preset="flow-32",
                run="runs/flow-32",
                status="failed",
                error=f"The loss stopped being a number: lower learning_rate {HOSTILE}.",
            ),
        ),
    )
    told = comparison.model_copy(update={"verdict": verdict(comparison), "cautions": cautions(comparison)})
    return told
