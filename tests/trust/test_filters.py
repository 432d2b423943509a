"""Filters of prompts and images: what they block, and what they say of themselves."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danqing.errors import ConfigError
from danqing.trust.filter_settings import FilterSettings
from danqing.trust.filters import ALLOWED, Filters, ImageFilter, Moderation, PromptFilter
from danqing.trust.nsfw import Nsfw
from danqing.trust.phrases import PhraseList, Phrases


def phrase_list(folder: Path, name: str, *lines: str, when_low: bool = True) -> PhraseList:
    path = folder / f"{name}.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return PhraseList.read(path, when_low=when_low)


def brightness(images: np.ndarray) -> np.ndarray:
    """A classifier for which bright images are unwanted."""
    assert images.dtype == np.uint8
    assert images.shape[3] == 3
    return images.mean((1, 2, 3)) / 255


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("a photo of Naked  people", 2),
        ("n@k3d-pe0ple, outdoors", 2),
        ("a nak\u0435d people", 2),
        ("gore", 4),
        ("GORY!", 5),
        ("Gorily", 5),
        ("einen Menschen töten", 6),
    ],
)
def test_a_phrase_blocks_prompts_in_any_spelling(tmp_path: Path, prompt: str, line: int) -> None:
    found = phrase_list(tmp_path, "en", "# a comment", "naked people", "", "gore", "gor*", "toten")
    verdict = PromptFilter([found]).check(prompt)
    assert (verdict.blocked, verdict.filter) == (True, "prompts")
    assert verdict.reason in (f"line {line} of en.txt", "line 5 of en.txt")


def test_a_phrase_blocks_whole_words_only(tmp_path: Path) -> None:
    chosen = PromptFilter([phrase_list(tmp_path, "en", "gore", "naked people", "c4")])
    for prompt in ("Gorecki's music", "people naked", "a naked person", "naked", "c 5", "ca", "", "mangore"):
        assert chosen.check(prompt) == ALLOWED, prompt
    assert chosen.check("c4 on a table").blocked


def test_phrases_in_scripts_without_spaces_are_found_inside_sentences(tmp_path: Path) -> None:
    chosen = PromptFilter([phrase_list(tmp_path, "zh", "裸体"), phrase_list(tmp_path, "ko", "누드")])
    assert chosen.check("一张裸体照片").reason == "line 1 of zh.txt"
    assert chosen.check("裸 体").blocked
    assert chosen.check("누드를 그려줘").reason == "line 1 of ko.txt"
    assert not chosen.check("身体").blocked


def test_neither_a_long_list_nor_a_long_prompt_takes_long(tmp_path: Path) -> None:
    lines = [f"how to word{'abcdefghij'[number % 10]} {number}" for number in range(20_000)]
    (tmp_path / "en.txt").write_text("\n".join([*lines, "how to grow ta*"]))
    phrases = Phrases([PhraseList.read(tmp_path / "en.txt")])
    started = time.perf_counter()
    for text in ("how to " * 4000, "a" * 32_000, "a1" * 16_000, "1" * 32_000, "a " * 16_000, "é" * 32_000):
        assert phrases.find(text) is None
    assert time.perf_counter() - started < 10
    for text, line in (("how to wordb 11", 12), ("tell me how to grow tall trees", 20_001)):
        found = phrases.find(text)
        assert found is not None
        assert found.line == line


def test_low_moderation_leaves_out_the_lists_for_auto_alone(tmp_path: Path) -> None:
    chosen = PromptFilter(
        [phrase_list(tmp_path, "always", "gore"), phrase_list(tmp_path, "strict", "blood", when_low=False)]
    )
    expected: dict[tuple[str, Moderation], bool] = {
        ("gore", "auto"): True,
        ("gore", "low"): True,
        ("blood", "auto"): True,
        ("blood", "low"): False,
    }
    for (prompt, moderation), blocked in expected.items():
        assert chosen.check(prompt, moderation).blocked is blocked


def test_a_verdict_never_repeats_the_prompt(tmp_path: Path) -> None:
    verdict = PromptFilter([phrase_list(tmp_path, "en", "gore")]).check("my secret gore")
    assert "secret" not in repr(verdict)
    assert "gore" not in repr(verdict)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no phrases"),
        (b"# only\n", "no phrases"),
        (b"ok\n***\n", "Line 2"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_phrase_list_that_says_nothing_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "en.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        PhraseList.read(tmp_path / "en.txt")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_images_of_any_form_are_judged_at_their_thresholds(channels: int, kind: Any) -> None:
    chosen = ImageFilter("bright", brightness, threshold=0.5, low_threshold=0.9)
    top = np.iinfo(kind).max
    images = np.stack([np.full((5, 7, channels), top * share, kind) for share in (0.2, 0.7, 1.0)])
    if channels in (2, 4):
        images[..., -1] = top
    assert [each.blocked for each in chosen.check_all(images)] == [False, True, True]
    assert [each.blocked for each in chosen.check_all(images, "low")] == [False, False, True]
    assert chosen.check(images[1]).score == pytest.approx(0.7, abs=0.01)
    assert chosen.check(images[1]).reason.endswith("of bright, from 0.5 on")


def test_a_transparent_image_is_judged_on_white_and_on_black() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    assert ImageFilter("bright", brightness, threshold=0.9, low_threshold=0.9).check(clear).blocked
    dark = ImageFilter("dark", lambda images: 1 - brightness(images), threshold=0.9, low_threshold=0.9)
    assert dark.check(clear).blocked


def test_a_score_that_is_not_a_number_blocks() -> None:
    broken = ImageFilter(
        "broken", lambda images: np.full(len(images), np.nan), threshold=0.5, low_threshold=1
    )
    assert broken.check(np.zeros((4, 4, 3), np.uint8)).blocked


def test_the_first_filter_that_blocks_an_image_gives_its_verdict() -> None:
    always = ImageFilter("always", lambda images: np.ones(len(images)), threshold=0.5, low_threshold=0.5)
    bright = ImageFilter("bright", brightness, threshold=0.5, low_threshold=0.5)
    filters = Filters(images=(bright, always))
    images = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])
    assert [each.filter for each in filters.check_images(images)] == ["always", "bright"]
    assert filters.check_images(images[:0]) == []
    assert Filters().check_images(images) == [ALLOWED, ALLOWED]
    assert Filters().check_prompt("anything") == ALLOWED


@pytest.mark.parametrize("limits", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.5)])
def test_thresholds_must_ascend_within_probabilities(limits: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="thresholds"):
        ImageFilter("x", brightness, threshold=limits[0], low_threshold=limits[1])


def test_settings_read_lists_and_classifiers_beside_their_file(tmp_path: Path) -> None:
    phrase_list(tmp_path, "en", "gore")
    phrase_list(tmp_path, "strict", "blood")
    (tmp_path / "filters.toml").write_text(
        '[prompts]\nlists = ["en.txt"]\nauto_lists = ["strict.txt"]\n'
        '[[images]]\nnetwork = "model"\nclasses = ["bad"]\nthreshold = 0.6\n'
    )
    settings = FilterSettings.read(tmp_path / "filters.toml")
    asked = list[tuple[Path, tuple[str, ...]]]()
    filters = settings.filters(lambda path, classes: asked.append((path, classes)) or brightness)
    assert asked == [(tmp_path / "model", ("bad",))]
    assert filters.check_prompt("blood").blocked
    assert not filters.check_prompt("blood", "low").blocked
    assert filters.check_images(np.full((1, 4, 4, 3), 200, np.uint8))[0].filter == "model"
    assert settings.describe() == {
        "prompts": {"lists": ["en"], "auto_lists": ["strict"]},
        "images": [{"name": "model", "classes": ["bad"], "threshold": 0.6, "low_threshold": 0.95}],
    }
    assert str(tmp_path) not in str(settings.describe())
    assert settings
    assert not FilterSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompts = 3", "not valid"),
        ("[prompt]\nlists = []", "prompt"),
        ("[[images]]\nnetwork = 'm'\nthreshold = 2", "threshold"),
        ("[prompts", "cannot be read"),
    ],
)
def test_settings_with_mistakes_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "filters.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        FilterSettings.read(tmp_path / "filters.toml")


def test_a_classifier_without_classes_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "filters.toml").write_text('[[images]]\nnetwork = "model"\n')
    with pytest.raises(ConfigError, match="classes"):
        FilterSettings.read(tmp_path / "filters.toml").filters(lambda *_: brightness)


def test_nsfw_gives_probabilities_that_do_not_depend_on_the_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    scorer = Nsfw()
    found = scorer(images)
    assert found.shape == (3,)
    assert ((found >= 0) & (found <= 1)).all()
    assert scorer(images[1:2])[0] == pytest.approx(found[1], abs=1e-5)


def test_filters_do_not_import_torch() -> None:
    code = "import sys, danqing.trust.filter_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
