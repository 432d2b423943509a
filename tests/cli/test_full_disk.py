"""Every command that writes says that the disk is full, and keeps what it would have replaced."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small_disk import DANQING, needs_mount, with_disk

GOLDEN = Path(__file__).parents[1] / "golden/vae"
COMMANDS = (
    "sample {model} --label bar -n 16 --out {disk}/old.png",
    "vary {model} {data} --label bar --out {disk}/varied",
    "data clean {data} --out {disk}/old.html",
    "data shard {data} {disk}/shards",
    "evaluate {model} --data {data} --features pixels -n 8 --out {disk}/scores",
    "export {model} --to onnx --out {disk}/exported",
    "export {model} --to web --out {disk}/exported",
    "seal {model} --passphrase-file {words} --out {disk}/sealed",
    "index {data} --out {disk}/index",
    "explain {model} --out {disk}/explained.html",
    "compare {data} --families gan,vae --size 16 --images 64 --features pixels --out {disk}/compared",
)
FOLDERS = ("varied", "shards", "scores", "index", "compared")
"""That a command may have begun: the same command continues with them."""


@needs_mount
@pytest.mark.slow
def test_each_command_says_that_the_disk_is_full_and_harms_nothing(tmp_path):
    disk, data, words = tmp_path / "disk", tmp_path / "data", tmp_path / "words"
    rng = np.random.default_rng(0)
    for label in ("bar", "square"):
        (data / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (24, 24), np.uint8)
            Image.fromarray(pixels).save(data / label / f"{number}.png")
    words.write_text("correct horse battery staple\n")
    model = shutil.copytree(GOLDEN, tmp_path / "model")
    places = {"model": model, "disk": disk, "data": data, "words": words}
    script = f"export DANQING_CACHE={tmp_path}/cache\n"
    for number, command in enumerate(COMMANDS):
        script += f"""
            rm -rf {disk}/*; echo old | tee {disk}/old.png > {disk}/old.html
            dd if=/dev/zero of={disk}/ballast bs=4k 2>/dev/null
            "$@" {command.format(**places)} < /dev/null > {tmp_path}/{number}.out 2> {tmp_path}/{number}.err
            echo $? > {tmp_path}/{number}.code
            cat {disk}/old.* > {tmp_path}/{number}.old
            ls -A {disk} > {tmp_path}/{number}.left
        """
    with_disk(disk, "256k", script, *DANQING)
    for number, command in enumerate(COMMANDS):
        said = (tmp_path / f"{number}.err").read_text()
        facts = command, said
        assert (tmp_path / f"{number}.code").read_text() == "2\n", facts
        assert "No space left on device" in " ".join(said.split()), facts
        assert "Traceback" not in said + (tmp_path / f"{number}.out").read_text(), facts
        assert (tmp_path / f"{number}.old").read_text() == "old\nold\n", facts
        left = set((tmp_path / f"{number}.left").read_text().split())
        assert left <= {"ballast", "old.png", "old.html", *FOLDERS}, (sorted(left), facts)
