"""What stands in the tests for what a reader types: tiny models, small budgets, files of the small world."""

from collections.abc import Mapping

from tests.documents.pages import ROOT

COMMON = {"batch_size": "16", "measure_seconds": "0.001", "sample_images": "4", "sample_grids": "1"}
COMMON |= {"precision": "float32"}
SCORED = {"evaluation.features": "pixels", "evaluation.samples": "16"}
"""Settings of runs that are small, and of scores that are."""
EDITOR = {"model.features": "8", "blocks": "1", "discriminator_features": "4"}
FLOW = {"widths": "[16]", "layers": "1", "heads": "2", "net": "dit", "patch": "4", "num_steps": "2"}
TRUNK = {"model.features": "8"}
TOKENIZER = {"features": "4", "blocks": "0", "vocabulary": "16", "batch_size": "16"}
LATENTS = {"features": "4", "blocks": "1", "latents": "2", "downsamplings": "1", "batch_size": "16"}
TINY: Mapping[str, Mapping[str, str]] = {
    "gan-32": {"generator_features": "4", "discriminator_features": "4", "latents": "4"},
    "vae-32": {"net": "mlp", "model.features": "4", "latents": "4", "prior": "normal"},
    "vqvae-32": {"model.features": "4", "blocks": "0", "vocabulary": "16", "code_width": "4"},
    "text2image-32": {
        "layers": "1",
        "heads": "2",
        "model.features": "16",
        "model.text.length": "32",
        "model.text.vocabulary": "300",
        **{f"tokenizer.settings.{name}": value for name, value in TOKENIZER.items()},
    },
    "flow-32": FLOW,
    "flow-64": {"widths": "[8, 8, 16]", "layers": "1", "heads": "2", "num_steps": "2"},
    "flow-pairs-64": FLOW,
    "flow-colorize-64": FLOW,
    "private-32": {"widths": "[16]", "layers": "1", "heads": "2", "patch": "4"},
    "flow-128": {
        "widths": "[8, 16]",
        "layers": "1",
        "heads": "2",
        "num_steps": "2",
        **{f"tokenizer.settings.{name}": value for name, value in LATENTS.items()},
    },
    "upscale-64": EDITOR,
    "enhance-64": EDITOR,
    "translate-64": EDITOR,
    "translation-64": {"widths": "[8, 8]", "discriminator_features": "4"},
    "style-128": {"style_side": "32", "model.features": "4", "blocks": "1"},
    "classify-32": TRUNK,
    "classify-64": TRUNK,
    "segment-64": {"widths": "[8, 8]", "decoder_widths": "[8]"},
    "detect-128": {"model.features": "8", "head_features": "8"},
    "embed-32": {"model.features": "8", "projection": "8"},
    "lora": {},
}
"""Settings that make a preset tiny, beside the common ones."""
TASKS = {
    "upscale": "upscale-64",
    "enhance": "enhance-64",
    "fill": "flow-64",
    "style": "style-128",
    "classify": "classify-32",
    "segment": "segment-64",
    "detect": "detect-128",
    "embed": "embed-32",
}

MODELS = {
    "gan": "train photos/ --preset gan-32",
    "vae": "train photos/ --preset vae-32 --set net=conv",
    "flow": "train photos/ --preset flow-32",
    "faces": "train faces/ --attributes age,glasses --preset vae-32",
    "plain": "train faces/ --preset gan-32 --evaluate-every 16",
    "tiles": "train many/ --preset flow-32",
    "tokens": "train photos/ --preset vqvae-32",
    "painter": "train photos/ --preset text2image-32",
    "pairs": "train drawings/ --preset flow-pairs-64 --pairs outlines:colours",
    "kinds": "train photos/ --task classify",
    "unwanted": "train unwanted/ --task classify",
    "cells": "train scans/ --task segment --masks images:masks",
    "looks": "train photos/ --task embed",
    "starry": "train stone/ --task style --style-image starry.jpg",
    "upscaler": "train photos/ --task upscale",
    "enhancer": "train photos/ --task enhance",
    "digits": "train digits --preset vae-32",
    "averaged": "train photos/ --preset gan-32 --set ema_lengths=[0.05,0.1] --evaluate-every 16",
    "gold": "train stone/ --init runs/tiles --preset lora",
}
"""Models that pages use and do not train, and how each is trained once for all pages."""
RUNS = {
    "runs/photos": "gan",
    "runs/other": "vae",
    "runs/gan": "gan",
    "runs/flow": "flow",
    "runs/new": "vae",
    "runs/faces": "plain",
    "runs/landscapes": "tiles",
    "runs/textures": "tiles",
    "runs/animals": "flow",
    "runs/clothes": "flow",
    "runs/colours": "pairs",
    "runs/larger": "upscaler",
    "runs/clean": "enhancer",
    "runs/tiles": "tiles",
    "runs/stone": "gold",
    "runs/gold": "gold",
    "runs/painter": "painter",
    "runs/emoji": "painter",
    "runs/words": "painter",
    "runs/tokens": "tokens",
    "runs/kinds": "kinds",
    "runs/smiles": "kinds",
    "runs/fashion": "kinds",
    "runs/cats": "gan",
    "runs/unwanted": "unwanted",
    "runs/parts": "cells",
    "runs/looks": "looks",
    "runs/starry": "starry",
    "runs/digits": "digits",
    "runs/averaged": "averaged",
}
"""Which of these stands for a run of a page."""


def settings_of(preset: str) -> dict[str, str]:
    """Return all settings that make a preset tiny."""
    scored = {} if preset in TASKS.values() else SCORED
    return {**COMMON, **scored, **TINY[preset]}


OPTIONS: Mapping[str, Mapping[str, str]] = {
    "train": {"--images": "32", "--size": "16"},
    "compare": {"--images": "32", "--size": "16", "--features": "pixels", "-n": "16"},
    "tune": {"--images": "32", "--size": "16", "--trials": "1"},
    "distill": {"--images": "32", "--trajectories": "16"},
    "evaluate": {"-n": "16", "--features": "pixels"},
    "contest": {"-n": "16", "--features": "pixels"},
    "judge": {"-n": "4"},
    "attack": {"-n": "8", "--steps": "2"},
    "shrink": {"-n": "16", "--features": "pixels"},
    "index": {"--encoder": "pixels"},
    "sample": {"-n": "4"},
}
"""Options that a command gets unless it has them."""
WITH: Mapping[str, tuple[str, ...]] = {
    "ema_lengths=[0.05, 0.1]": ("--evaluate-every", "16"),
    "frechet,absolute-error,psnr,perceptual": ("--features", "auto"),
    "--generated": ("--set", "data.generated_images=32", "--evaluate-every", "16"),
    "--unlabelled": ("--set", "data.confidence=0.1"),
    "--optimize": ("--steps", "1", "--side", "32"),
}
"""What a command gets beside a word: a long run is scored, which a short one is not."""
REPLACED: Mapping[str, Mapping[str, str]] = {
    "train": {"--minutes": "", "--evaluate-every": "16", "--patience": "32", "-n": "8"},
    "compare": {"--minutes": ""},
    "tune": {"--minutes": "", "--trials": "1", "--images": "32", "--jobs": "1"},
    "distill": {"--minutes": ""},
    "shrink": {"--minutes": "0.01"},
    "attack": {"-n": "8"},
    "evaluate": {"-n": "16"},
    "sample": {"-n": "4"},
}
"""Options whose value is a budget, and the small one; "" leaves them out."""
WORDS: Mapping[str, str] = {
    "stabilityai/stable-diffusion-xl-base-1.0": "./my-pipeline",
    "modelscope:Qwen/Qwen-Image": "./my-pipeline",
    "1216x832": "32x32",
    "--size=auto": "--size=auto:16",
    "auto": "auto:16",
    "auto:64": "auto:16",
    "emoji": "photos/",
    "flowers128.zip": "new-photos.zip",
    "fashion-mnist": "photos/",
    "FASHION_MNIST": "photos/",
    "pictures.zip": "photos/",
    "benchmarks/demo_model.toml": str(ROOT / "benchmarks" / "demo_model.toml"),
    "runs/demo/run": "runs/painter",
    "painted/": "generated/",
    "grow=[16, 32, 64]": "grow=[8, 16]",
    "--passphrase": "--passphrase-file=passphrase.txt",
}
"""Words of a page, and what stands for them in the small world."""
PAGE_WORDS: Mapping[str, Mapping[str, str]] = {
    "editing": {"photos/": "album/"},
    "pipelines": {"photos/": "album/"},
    "trust": {"photos/": "album/"},
    "fine-tuning": {"photos/": "few/"},
    "flow": {"96x64": "20x12"},
    "text-to-image": {"picture.png": "photo.png"},
}
PAGE_RUNS: Mapping[str, Mapping[str, str]] = {
    "recognition": {"runs/faces": "vae"},
    "flow": {"runs/stone": "flow"},
    "fine-tuning": {"runs/emoji": "gan"},
    "choosing-a-family": {"runs/faces": "faces"},
    "training": {"runs/photos": "gan"},
}
RUNS_BEFORE: Mapping[str, Mapping[str, str]] = {
    "danqing train photos/ --preset gan-32 --set teacher=runs/photos --set generator_features=32"
    " --out runs/small": {"runs/photos": "gan"},
}
"""Models of other sections of a page, which stand where its last command left another one."""
NEW_TRUST = frozenset({"danqing authority create --name 'Studio North'"})
"""Commands before which the trust folder is deleted: they come before the first image."""
OTHER_TRUST = frozenset({"danqing authority create --signer my_kms:sign --public-key leaf.pub.pem"})
"""Commands that have a trust folder of their own: they are another reader's."""
COMMANDS_BEFORE: Mapping[str, str] = {"danqing verify picture.png": "sample runs/gan -n 1 --out picture.png"}
"""What is typed before a command: its file must be of the present authority."""
FILES_BEFORE: Mapping[str, Mapping[str, str]] = {
    "danqing seal runs/photos --to mine.pub --to colleague.pub --out photos.sealed": {
        "mine.pub": "colleague.pub"
    },
}
"""Files that are copied before a command: it needs one that a command before it wrote."""
EXITS: Mapping[str, int] = {
    "danqing verify downloads/ --json": 1,
    "danqing verify picture.jpg --model runs/words": 1,
}
"""The exit codes of commands that say no, as their pages tell."""
CODE: Mapping[str, str] = {
    r'preset="([\w-]+)", minutes=5': r'preset="\1", images=32, size=(16, 16), settings=TINY("\1")',
    "minutes=10": "images=32, size=(16, 16), features='pixels', n=16",
    "n=10_000": "n=16, features='pixels'",
    'evaluate\\(model, "photos/"\\)': 'evaluate(model, "photos/", n=16, features="pixels")',
    'budget="2x"': 'budget="2x", n=16, features="pixels"',
    "epsilon=4 / 255": "epsilon=4 / 255, n=8, steps=2",
    "raters=8": "raters=8, n=4",
    "stabilityai/stable-diffusion-xl-base-1.0": "./my-pipeline",
    'sample\\(4, prompt="a lighthouse': 'sample(4, num_steps=3, prompt="a lighthouse',
    'device="cuda"': 'device="cpu"',
    r"size=\(1216, 832\)": "size=(32, 32)",
    r"size=\(32, 32\)": "size=(16, 16)",
}
"""Patterns in Python blocks, and what stands for them in the small world."""
ARRAYS = "import numpy as np\narray = np.zeros((24, 24, 3), np.uint8)\n"
PREAMBLES: Mapping[str, str] = {
    "choosing-a-family": "import danqing as dq\nmodel = dq.load('runs/faces')\nimages = model.sample(2)\n",
    "editing": f"{ARRAYS}import danqing as dq\nmodel = dq.load('runs/faces')\n",
    "recognition": f"""{ARRAYS}
images = np.random.default_rng(0).integers(0, 256, (1200, 24, 24, 3), dtype=np.uint8)
first, second = images, np.roll(images, 1, axis=0)
second[:100] = first[:100]
truth = np.arange(1200) < 100
new_first, new_second, images = first[:8], second[:8], images[:8]
""",
    "scale": "import danqing as dq\n",
    "studio": "import danqing as dq\nmodel = dq.load('runs/photos')\n",
    "trust": "import danqing as dq\nimages = dq.load('runs/photos').sample(2)\n",
}
"""What a page takes for granted in its Python blocks."""
EXCUSED: Mapping[str, str] = {
    'danqing demo "a rocket"': "trains for minutes: tests/cli/test_command.py",
    'danqing demo "a red apple"': "trains for minutes: tests/cli/test_command.py",
    "danqing sample demo": "the page only mentions it",
    "danqing serve --workers auto": "the page only mentions it",
    "danqing serve --filters filters.toml": "the page only mentions it",
    "danqing train digits --preset pixels-32 --images 5000 --out runs/pixels": (
        "a family of one's own: tests/test_documents.py trains it"
    ),
    "danqing authority create --root-key /media/usb/root.key": "a USB stick: tests/trust/test_authority.py",
    "danqing authority rotate --root-key /media/usb/root.key": "a USB stick: tests/trust/test_authority.py",
    ".venv/bin/danqing demo": "trains for minutes: tests/cli/test_command.py",
    "danqing train photos/ --preset flow-32 --processes 4 --out runs/photos": (
        "four processes: tests/cluster/test_launch.py"
    ),
    "danqing data shard photos/ s3://bucket/photos --size 256MiB": (
        "a store: tests/data/shards/test_writing.py has a folder"
    ),
    "danqing train https://store.example/photos --preset gan-32": (
        "a store: tests/data/shards/test_streaming.py has a server"
    ),
    "danqing tune photos/ --preset gan-32 --space space.toml --trials 40 --images 500000 --out runs/search"
    " --jobs 4 --ray auto": "a Ray cluster: tests/cluster/test_ray.py",
    "danqing compare photos/ --families gan,vae --minutes 10 --out runs/compared --ray auto": (
        "a Ray cluster: tests/cluster/test_ray.py"
    ),
    "danqing evaluate runs/photos --data photos/ --ray 10.0.0.2:6379": (
        "a Ray cluster: tests/cluster/test_ray.py"
    ),
    "danqing replicas 2 --ray auto -- --config /shared/service.toml": (
        "a Ray cluster: tests/cluster/test_ray.py"
    ),
    'danqing sample runs/emoji --prompt "a heart" --expand http://localhost:11434/v1 --expand-model qwen3:4b'
    " --out hearts.png": "a language model: tests/cli/test_prompts.py",
    "class PixelsConfig": "tests/test_documents.py trains it",
    "danqing shrink runs/photos --data photos/ --out photos-fast": "slow: the line above measures the same",
    "danqing shrink runs/photos --data photos/ --budget 2MB --out photos-small": (
        "slow: tests/compress/test_shrink.py"
    ),
    "danqing shrink runs/photos --data photos/ --minutes 10 --out photos-student": (
        "slow: tests/compress/test_shrink.py"
    ),
    "dq.shrink(": "slow: tests/compress/test_shrink.py",
    "danqing contest --data photos/ --out runs/contest --votes runs/judged": (
        "votes of people: tests/judging/test_contest.py"
    ),
    "REGISTRY = {": "lines of a file",
    "def brightness(c: MetricInputs)": "lines of a file",
    '@router.get("/v1/brightness"': "lines of a file",
    "processes=4": "four processes: tests/cluster/test_launch.py",
    "client = OpenAI(": "a service that runs: tests/service/routes/test_images.py",
    "client.images.edit(": "a service that runs: tests/service/routes/test_edits.py",
    "client.embeddings.create(": "a service that runs: tests/service/routes/test_recognition.py",
    'model.push_to_hub("me/photos")': "the hub: tests/model/test_hub.py",
    "import boto3": "a key in a cloud: tests/trust/test_authority.py",
    "danqing compare fashion-mnist --families gan,vae --minutes 10 --size 32 --out runs/fashion-mnist": (
        "a download: comparing.md has the same with photos/"
    ),
    "danqing compare emoji --families gan,vae --minutes 10 --size 32 --out runs/emoji": (
        "comparing.md has the same with photos/"
    ),
}
"""Commands and the first lines of Python blocks that are not run here: why, and which tests run them."""
