"""The real command in a process of its own, as a newcomer types it."""

import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from danqing.cli.demo import unused_numbers

DANQING = [sys.executable, "-c", "from danqing.cli import main; main()"]
QUICK = (
    "--preset",
    "vae-32",
    "--set",
    "net=mlp",
    "--set",
    "measure_seconds=0.01",
    "--set",
    "sample_images=4",
    "--set",
    "precision=float32",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `photos/red` and `photos/blue`, wide pictures of squares, where commands are typed."""
    place = tmp_path_factory.mktemp("place")
    for number in range(48):
        for label, colour in (("red", (200, 40 + number, 40)), ("blue", (40, 40 + number, 200))):
            picture = Image.new("RGB", (60, 40), colour)
            picture.paste((255, 255, 255), (number, 5, number + 10, 15))
            (place / "photos" / label).mkdir(parents=True, exist_ok=True)
            picture.save(place / "photos" / label / f"{number:03d}.png")
    yield place
    shutil.rmtree(place)


def danqing(place: Path, *words: str, expect: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [*DANQING, *words], cwd=place, env=surroundings(place), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == expect, done.stderr
    return done.stdout, done.stderr


def surroundings(place: Path) -> dict[str, str]:
    return {**os.environ, "DANQING_CACHE": str(place / "cache"), "COLUMNS": "100", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def trained(place: Path) -> dict[str, object]:
    """What `danqing train --json` prints of a short run in `place/run`."""
    words = ("train", "photos", *QUICK, "--size", "24x16", "--images", "2000", "--out", "run", "--json")
    stdout, stderr = danqing(place, *words)
    assert "Plan: " in stderr
    assert stdout.count("\n") == 1
    return dict(json.loads(stdout))


def test_train_prints_one_object_with_what_scripts_need(place: Path, trained: dict[str, object]) -> None:
    assert {"run", "model", "images", "seconds", "images_per_second", "final"} <= trained.keys()
    assert trained["status"] == "finished"
    assert 2000 <= int(str(trained["images"])) < 2256
    assert (place / str(trained["model"]) / "model.safetensors").exists()
    assert "Content-Security-Policy" in (place / str(trained["report"])).read_text(encoding="utf-8")


def test_the_same_command_with_more_images_goes_on(place: Path, trained: dict[str, object]) -> None:
    shutil.copytree(place / "run", place / "longer")
    words = ("train", "photos", *QUICK, "--size", "24x16", "--images", "2500", "--out", "longer")
    stdout, stderr = danqing(place, *words)
    assert f"{trained['images']:,} images seen before" in stderr
    assert re.search(r"Trained +2,5\d\d images", stdout)
    assert "Next" in stdout


def test_another_setting_in_the_same_folder_is_refused_by_name(
    place: Path, trained: dict[str, object]
) -> None:
    words = ("train", "photos", *QUICK, "--size", "24x16", "--images", "2500", "--out", "run", "--seed", "7")
    _, stderr = danqing(place, *words, expect=2)
    assert "seed: 0 → 7" in stderr


def test_a_first_try_that_failed_leaves_the_folder_free(place: Path) -> None:
    rest = (*QUICK, "--size", "24x16", "--images", "64", "--out", "first")
    _, stderr = danqing(place, "train", "photo", *rest, expect=2)
    assert "There is no data at photo" in stderr
    assert "Trained" in danqing(place, "train", "photos", *rest)[0]


def test_sample_paints_grids_and_files(place: Path, trained: dict[str, object]) -> None:
    words = ("sample", "run", "-n", "6", "--label", "red", "--seed", "3")
    printed, _ = danqing(place, *words, "--out", "deep/grid.webp", "--each", "each", "--json")
    told = json.loads(printed)
    assert (told["images"], told["label"], told["seed"], told["format"]) == (6, "red", 3, "webp")
    assert len(told["files"]) == 6
    with Image.open(place / "deep" / "grid.webp") as grid, Image.open(place / told["files"][0]) as picture:
        assert grid.format == picture.format == "WEBP"
        assert picture.size == (24, 16)
        assert grid.width > 3 * 24
    danqing(place, *words[:2], "-n", "2", *words[4:], "--each", "few", "--format", "png")
    danqing(place, *words[:2], "-n", "5", *words[4:], "--each", "many", "--format", "png")
    few, many = sorted((place / "few").iterdir()), sorted((place / "many").iterdir())
    assert [file.read_bytes() for file in few] == [file.read_bytes() for file in many[:2]]
    _, stderr = danqing(place, *words[:2], "-n", "2", *words[4:], "--each", "many", "--format", "png")
    assert "many also holds 3 images that were there before" in stderr
    _, stderr = danqing(place, *words[:2], "-n", "2", *words[4:], "--each", "few", "--format", "png")
    assert "were there before" not in stderr


def test_an_option_of_the_wrong_kind_is_refused(place: Path, trained: dict[str, object]) -> None:
    for wrong in ("temperature=warm", "temperature=-1", "colour=red"):
        _, stderr = danqing(place, "sample", "run", "--out", "x.png", "--set", wrong, expect=2)
        assert stderr.startswith("Error: ")
        assert wrong.partition("=")[0] in stderr


def test_show_tells_what_a_run_and_a_model_are(place: Path, trained: dict[str, object]) -> None:
    told = json.loads(danqing(place, "show", "run", "--json")[0])
    assert (told["model"]["width"], told["model"]["height"], told["model"]["channels"]) == (24, 16, 3)
    assert told["model"]["labels"] == ["blue", "red"]
    assert told["run"]["status"] == "finished"
    text, _ = danqing(place, "show", "run/model")
    assert re.search(r"^Labels +blue, red$", text, re.MULTILINE)


def test_ctrl_c_saves_and_the_same_command_goes_on(place: Path) -> None:
    words = [
        "train",
        "photos",
        *QUICK,
        "--size",
        "24x16",
        "--images",
        "9000000",
        "--out",
        "stopped",
        "--json",
    ]
    process = subprocess.Popen(
        [*DANQING, *words],
        cwd=place,
        env=surroundings(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = place / "stopped" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the same command resumes it: danqing train photos" in stderr
    told = json.loads(stdout)
    assert told["status"] == "interrupted"
    assert "the same command resumes it" in (place / "stopped" / "report.html").read_text(encoding="utf-8")
    more = str(told["images"] + 640)
    told_again = json.loads(danqing(place, *words[:-5], "--images", more, "--out", "stopped", "--json")[0])
    assert told_again["status"] == "finished"
    assert told_again["images"] >= told["images"] + 640


def test_on_a_terminal_the_time_left_is_in_view(place: Path) -> None:
    reader, writer = pty.openpty()
    words = ["train", "photos", *QUICK, "--size", "24x16", "--images", "3000", "--out", "terminal", "--json"]
    surroundings_there = {**surroundings(place), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*DANQING, *words], cwd=place, env=surroundings_there, stdout=subprocess.PIPE, stderr=writer
    )
    os.close(writer)
    seen = b""
    while True:
        try:
            piece = os.read(reader, 65536)
        except OSError:  # Linux tells the end of a terminal so
            break
        if not piece:
            break
        seen += piece
    stdout, _ = process.communicate(timeout=60)
    os.close(reader)
    assert process.returncode == 0
    assert json.loads(stdout)["status"] == "finished"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert re.search(r"Training .*\d+% .*images, [\d,]+/s .* left", text)


def test_help_does_not_wait_for_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)  # measuring coverage takes time of its own
    spent = []
    for _ in range(3):  # other processes on the same core make one try take longer
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for words in (["--help"], ["train", "--help"], ["presets"]):
            danqing(tmp_path, *words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) / 3 < 0.5
    code = "import sys, danqing.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


DEMO = ["demo", "a red apple", "--minutes", "0.02", "--out", "demo", "--data", "shapes:300"]


@pytest.fixture(scope="module")
def demonstrated(place: Path) -> tuple[str, str]:
    """The output of a demo in `place/demo` without a terminal."""
    return danqing(place, *DEMO)


SECONDS_TO_THE_FIRST_IMAGES = 20


def test_the_demo_begins_with_images_of_the_newcomers_words_within_seconds(place: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    stdout, said = danqing(place, "demo", "一只", "红色的苹果", "--no-train", "--out", "words", "--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's time: it is the time on the clock where one core does nothing else.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS_TO_THE_FIRST_IMAGES
    assert json.loads(stdout) == {
        "words": [{"prompt": "一只 红色的苹果", "images": "words/words-1.png"}],
        "page": "words/demo.html",
    }
    with Image.open(place / "words" / "words-1.png") as sheet:
        assert len(sheet.getcolors(1 << 24) or ()) > 100, "the images are empty"
    page = (place / "words" / "demo.html").read_text(encoding="utf-8")
    assert "一只 红色的苹果" in page
    assert page.count("data:image/") == 1
    assert "red apple" not in said


def test_images_of_words_replace_no_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "words-2.png").touch()
    numbers = unused_numbers(tmp_path, "words")
    assert [next(numbers), next(numbers)] == [1, 3]


def test_the_demo_asks_for_words_before_it_trains(place: Path) -> None:
    said = typed(place, ["demo", "--no-train", "--out", "asked"], ["", "a cat " * 40, "a <b>cat</b>", ""])
    assert '"a red apple": asked/words-1.png' in said
    assert "shorten it" in said
    page = (place / "asked" / "demo.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;cat&lt;/b&gt;" in page
    assert page.count("data:image/") == 2


def test_the_demo_leads_from_nothing_to_pictures_and_onwards(
    place: Path, demonstrated: tuple[str, str]
) -> None:
    stdout, said = demonstrated
    assert "a large red diamond in the centre" in said
    assert "Prompt" not in said + stdout, "nobody is asked where there is no terminal"
    for line in (
        r"^Report +demo/run/report.html$",
        r"^Images +demo/grid.png$",
        r"^Page +demo/demo.html$",
        r'^Again +danqing sample demo/run --prompt "?.a large green cross on the right',
        r"^  danqing data check photos/$",
        r"^  danqing train photos/ --preset text2image-32 --out runs/photos --minutes 30$",
        r'^  danqing sample runs/photos --prompt "what the images should show" --out photos.png$',
    ):
        assert re.search(line, stdout, re.MULTILINE), stdout
    with Image.open(place / "demo" / "grid.png") as grid:
        assert grid.width > 200
    page = (place / "demo" / "demo.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 2, "the page shows the user's words and the trained model"


@pytest.mark.usefixtures("demonstrated")
def test_the_demo_paints_what_is_typed(place: Path) -> None:
    (place / "demo" / "prompt-1.png").write_bytes(b"of another day")
    said = typed(place, DEMO, ["左边有两个粉色的大菱形", "a red heart", ""])
    for number in (2, 3):
        assert f"demo/prompt-{number}.png" in said
        with Image.open(place / "demo" / f"prompt-{number}.png") as painted:
            assert painted.width > 100
    assert (place / "demo" / "prompt-1.png").read_bytes() == b"of another day"


def typed(place: Path, words: list[str], answers: list[str]) -> str:
    """What a terminal shows of a command that asks for prompts and is given these."""
    screen, inside = pty.openpty()
    process = subprocess.Popen(
        [*DANQING, *words], cwd=place, env=surroundings(place), stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    seen, left = b"", list(answers)
    try:
        while select.select([screen], [], [], 120)[0] and (piece := os.read(screen, 65536)):
            seen += piece
            if left and seen.count(b"Prompt: ") > len(answers) - len(left):
                os.write(screen, f"{left.pop(0)}\n".encode())
    except OSError:  # Linux tells the end of a terminal so
        pass
    os.close(screen)
    assert not left, seen.decode()[-1000:]
    assert process.wait(timeout=60) == 0
    return seen.decode()
