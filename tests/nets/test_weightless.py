"""A learner without weights has the weights' names, shapes and types, and costs nothing to build."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from danqing import families, presets
from danqing.errors import ConfigError
from danqing.families.base import FamilyConfig
from danqing.model import shipped
from danqing.nets.weightless import weightless
from danqing.training.config_reading import resolve

FOLDERS = [file.parent for file in (Path(__file__).parents[1] / "golden").rglob("config.json")]


def config_of(folder: Path) -> FamilyConfig:
    return families.parse_config(json.loads((folder / "config.json").read_text())["model"])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_weights_have_the_names_shapes_and_types_of_real_ones(folder: Path) -> None:
    config = config_of(folder)
    real, without = families.build_learner(config).state_dict(), families.without_weights(config).state_dict()
    assert [*real] == [*without]
    assert all(tensor.is_meta for tensor in without.values())
    assert [(t.shape, t.dtype) for t in real.values()] == [(t.shape, t.dtype) for t in without.values()]


def test_values_that_are_computed_stay_apart() -> None:
    with weightless():
        drawn = torch.randn(2, 3)
        scaled, square, shifted = 0.5 * drawn / 2, torch.eye(2, 3), torch.arange(3) * 2
    assert scaled is not drawn
    assert (scaled.shape, square.shape, shifted.dtype) == ((2, 3), (2, 3), torch.int64)


def every_config() -> list[FamilyConfig]:
    demo = shipped.find("demo")
    assert demo is not None
    return [*map(config_of, (*FOLDERS, demo)), *(resolve(preset=name).model for name in presets.names())]


def build_all() -> None:
    for config in every_config():
        with contextlib.suppress(ConfigError):  # where data have to give captions first
            families.without_weights(config)
    assert not {"torch._dynamo", "sympy"} & sys.modules.keys()


def test_no_family_makes_pytorch_import_its_compiler() -> None:
    code = f"import runpy; runpy.run_path({__file__!r})['build_all']()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
