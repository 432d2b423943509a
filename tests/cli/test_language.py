"""The real command in Chinese."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from danqing import locale, progress
from danqing.cli import main, output

DANQING = [sys.executable, "-m", "danqing"]


def danqing(place: Path, *words: str, expect: int = 0, **variables: str) -> tuple[str, str]:
    surroundings = {
        **{name: value for name, value in os.environ.items() if name != "DANQING_LANG"},
        "DANQING_CACHE": str(place / "cache"),
        "COLUMNS": "100",
        "OMP_NUM_THREADS": "1",
        "PYTHONIOENCODING": "utf-8",
        "LC_ALL": "C.UTF-8",
        **variables,
    }
    done = subprocess.run(
        [*DANQING, *words], cwd=place, env=surroundings, capture_output=True, encoding="utf-8", timeout=180
    )
    assert done.returncode == expect, done.stderr
    return done.stdout, done.stderr


def test_help_is_chinese_and_its_panels_align(tmp_path):
    help_of_train, _ = danqing(tmp_path, "train", "--help", DANQING_LANG="zh")
    for words in (
        "用法：danqing train",
        "用你的图片训练模型",
        "参数",
        "选项",
        "必填",
        "示例：",
        "显示帮助并退出",
    ):
        assert words in help_of_train
    for english in ("Usage", "Options", "Show this message", "default", "Examples"):
        assert english not in help_of_train
    assert not re.search("(?<!…)…(?!…)", help_of_train)  # nothing is cut
    from rich.cells import cell_len

    rows = [line for line in help_of_train.splitlines() if line.startswith(("│", "╭", "╰"))]
    assert len(rows) > 60
    assert {cell_len(row) for row in rows} == {100}


def test_the_locale_of_the_system_chooses_and_english_is_the_default(tmp_path):
    assert "用法：" in danqing(tmp_path, "data", "--help", LC_ALL="", LANG="zh_CN.UTF-8")[0]
    assert "Usage: " in danqing(tmp_path, "data", "--help", LC_ALL="", LANG="de_DE.UTF-8")[0]


def test_english_is_used_where_the_terminal_cannot_show_chinese(tmp_path):
    shown, _ = danqing(
        tmp_path, "data", "list", "--help", DANQING_LANG="zh", PYTHONIOENCODING="ascii:replace"
    )
    assert "List the built-in data sets" in shown


def test_errors_are_chinese_with_their_values_and_json_stays_english(tmp_path):
    (tmp_path / "a b").mkdir()
    out, error = danqing(tmp_path, "train", "a b", "--json", expect=2, DANQING_LANG="zh")
    assert "错误：a b 中没有文件：请给出含图片的文件夹。" in error
    assert json.loads(out)["error"] == "a b holds no files: name a folder with images."


def test_training_is_told_in_chinese(tmp_path):
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 90, 200)).save(tmp_path / f"{number:02d}.png")
    settings = ("net=mlp", "measure_seconds=0.01", "sample_images=4", "precision=float32", "batch_size=4")
    words = [word for setting in settings for word in ("--set", setting)]
    out, error = danqing(
        tmp_path, "train", ".", "--preset", "vae-32", "--size", "16", "--images", "8", "--out", "run", *words,
        DANQING_LANG="zh",
    )  # fmt: skip
    assert "图片：找到 12 张：使用 12 张。" in error
    assert "计划：8 张图片，约 " in error
    assert "训练    8 张图片，用时 " in out
    assert "下一步  danqing sample run --out grid.png" in out
    assert "Traceback" not in error
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["status"] == "finished"
    assert not any("\u4e00" <= letter <= "\u9fff" for letter in json.dumps(facts, ensure_ascii=False))


MISTAKES = [
    (["trian"], "没有命令 'trian'。你是不是想写 'train'？用法请看“danqing --help”。"),
    (["train"], "缺少参数 'data'；用法请看“danqing train --help”。"),
    (["train", "photos", "--nothing"], "没有选项 --nothing"),
    (["train", "photos", "--out"], "选项 '--out' 需要一个值"),
    (["data", "check", "photos", "--fit", "wide"], "取值无效"),
    (["data", "list", "more"], "多余的参数（more）"),
    (["train", ".", "--set", "x"], "--set x 不是 key=value 的形式"),
    (["train", ".", "--quiet", "--verbose"], "--quiet 和 --verbose 只能给一个。"),
    (["data", "check", ".", "--size", "big"], "--size big 不是有效的尺寸"),
]


@pytest.mark.parametrize(
    ("words", "expected"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_mistakes_on_the_command_line_are_told_in_chinese(monkeypatch, capsys, words, expected):
    monkeypatch.setenv("DANQING_LANG", "zh")
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("错误：")
    assert expected in shown.replace("\n", "")
    assert locale.language() == locale.ENGLISH  # for the next call in this process


def test_an_unknown_language_is_an_error_in_english(monkeypatch, capsys):
    monkeypatch.setenv("DANQING_LANG", "fr")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 2
    assert "Error: DANQING_LANG=fr is not a known language: write en or zh." in capsys.readouterr().err


@pytest.fixture
def _chinese():
    locale.set_language("zh")
    yield
    locale.set_language(locale.ENGLISH)


@pytest.mark.usefixtures("_chinese")
def test_columns_align_where_characters_are_wide():
    assert output.facts({"Data": "photos", "Label sets": "none"}) == "数据      photos\n标签集合  无\n"
    assert (
        output.table([("Kind", "Size"), ("图片", "1"), ("codes", "2")]) == "类型   大小\n图片   1\ncodes  2\n"
    )


@pytest.mark.usefixtures("_chinese")
def test_progress_without_a_terminal_is_one_chinese_line(monkeypatch, capsys):
    clock = iter([0.0, 20.0])
    monkeypatch.setattr("danqing.progress.time.monotonic", lambda: next(clock))
    with progress.Bar() as bar:
        bar.update(0, 400, "Training")
        bar.update(100, 400, "Training", seconds_left=245, detail="100 images, 5/s")
    assert capsys.readouterr().err == "训练：25%，100 张图片，5 张/秒，剩余 4 分 05 秒\n"
