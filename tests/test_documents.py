"""What the documents say can be typed: commands parse, presets exist, the example family trains."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import danqing
from danqing import families, presets
from danqing.evaluation.metrics import METRICS
from tests.documents.pages import COMMANDS, FENCE, READMES, ROOT, blocks, commands, pages

PAGES = [*pages(), *pages(".zh.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_documents_parses(page: Path) -> None:
    for typed in commands(page):
        command, rest = COMMANDS[typed.words[0]], typed.words[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        assert command.make_context(typed.words[0], list(rest)).params is not None
        for option, value in itertools.pairwise(rest):
            known = [*presets.names(), *presets.overlays(), "pixels-32"]
            assert option != "--preset" or value in known, typed.line


def test_there_are_commands_in_the_documents() -> None:
    assert sum(len(commands(page)) for page in pages()) > 250


@pytest.mark.parametrize("page", pages(".zh.md"), ids=lambda page: page.name)
def test_a_chinese_page_shows_the_same_commands(page: Path) -> None:
    english = READMES[".md"] if page == READMES[".zh.md"] else page.with_name(f"{page.name[:-6]}.md")
    shown = [[re.sub(r'"[^"]*"', "PROMPT", one.line) for one in commands(each)] for each in (page, english)]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_the_documents_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = [re.sub(r"\s+", " ", found) for found in re.findall(r"`(danqing [^`]+)`", FENCE.sub("", text))]
    syntax = [block for block in blocks(page, "") if block.startswith("danqing ") and "[--" in block]
    for line in [*lines, *syntax]:
        words = line.split()[1:]
        command = COMMANDS.get(words[0])
        if command is None:
            assert words[0].startswith("--"), line
            continue
        if hasattr(command, "commands") and words[1:] and words[1] in command.commands:
            command = command.commands[words[1]]
        if not hasattr(command, "commands"):
            known = {"--help", *(name for one in command.params for name in (*one.opts, *one.secondary_opts))}
            assert set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", line)) <= known, line


def test_every_command_and_every_metric_is_in_the_documents() -> None:
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES if not page.stem.endswith(".zh"))
    assert not [name for name in COMMANDS if f"danqing {name}" not in told]
    table = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert not [name for name in METRICS if f"`{name}`" not in table]


def test_every_script_in_the_documents_is_there() -> None:
    scripts = {
        script
        for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
        for script in re.findall(
            r"python ((?:benchmarks|examples)/\w+\.py)", page.read_text(encoding="utf-8")
        )
    }
    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file(), script


def test_the_two_readmes_show_the_same_commands() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    strip = [
        [re.sub(r"\s*#.*", "", line) for block in blocks(page, "(?:python)?") for line in block.splitlines()]
        for page in (english, chinese)
    ]
    assert strip[0] == strip[1]


def test_the_example_family_trains_and_finds_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ROOT / "docs" / "add-a-family.md"
    module_file = tmp_path / "pixels.py"
    module_file.write_text(blocks(recipe, "python")[0])
    specification = importlib.util.spec_from_file_location("danqing.families.pixels", module_file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "danqing.families.pixels", module)
    specification.loader.exec_module(module)
    monkeypatch.setitem(families.REGISTRY, "pixels", ("danqing.families.pixels", "Pixels", "PixelsConfig"))
    preset = tmp_path / "pixels-32.toml"
    preset.write_text(blocks(recipe, "toml")[0])
    run = danqing.train(
        "digits",
        config=preset,
        size=(8, 8),
        images=20_000,
        out=tmp_path / "run",
        settings={"learning_rate": 0.05, "measure_seconds": 0.01, "precision": "float32"},
    )
    painted = danqing.load(run).sample(400, temperature=0.0).array.astype(float)
    real = danqing.open_dataset("digits", size=(8, 8))
    mean = np.asarray(real.images(np.arange(len(real))), dtype=float).mean(0)
    assert abs(painted.mean(0) - mean).mean() < 8
    assert abs(painted - painted[:1]).max() == 0


def test_the_map_of_the_service_names_each_of_its_modules() -> None:
    named = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    service = ROOT / "src" / "danqing" / "service"
    modules = {path for path in service.rglob("*.py") if "migrations" not in path.parts}
    names = {path.stem for path in modules if path.stem != "__init__"}
    packages = {f"{path.parent.name}/" for path in modules if path.parent != service}
    missing = {name for name in names | packages if f"`{name}`" not in named}
    assert not missing, f"Name {sorted(missing)} in the table of the service in docs/architecture.md."
