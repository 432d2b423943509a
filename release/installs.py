"""Install the wheel and the source archive from a local index into empty environments, with each extra.

    python release/installs.py [--extras tune search ...] [--dist dist] [--index build/index]

`dist` holds one wheel and one source archive, as `make build` leaves them. The index is a folder with them
and with all packages that the extras need, in the versions of `constraints.txt`; it is filled from PyPI
first. After that pip sees nothing but the index. In each environment `pip check` passes, `danqing doctor`
finds all of the extra, its packages can be imported, and the model in the wheel draws an image. Without
--extras, it tries all of them, and the source archive: several GB and an hour.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
_IMPORTS = """
import importlib, sys
from importlib.metadata import packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
wanted = [Requirement(line) for line in sys.argv[1:]]
wanted = {canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate()}
for module, names in packages_distributions().items():
    if module.isidentifier() and not module.startswith("_") and wanted & {*map(canonicalize_name, names)}:
        importlib.import_module(module)
"""


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command; returns what it prints, and exits with all of it if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def fill(index: Path, archives: list[Path], extras: list[str]) -> None:
    """Download what the archives need with some extras into a folder."""
    index.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        shutil.copy(archive, index)
    wheel = next(path for path in archives if path.suffix == ".whl")
    wanted = f"{wheel}[{','.join(extra for extra in extras if extra)}]".removesuffix("[]")
    constraints = ("--constraint", ROOT / "constraints.txt")
    to_build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
        "requires"
    ]
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--dest", index, *constraints)
    run(*pip, wanted, *to_build)


def install(folder: Path, index: Path, source: str) -> Path:
    """Install from the index alone into a new environment; returns its folder of commands."""
    venv.create(folder, with_pip=True)
    commands = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pip = (commands / "python", "-m", "pip", "--isolated")
    run(*pip, "install", "--quiet", "--no-index", "--find-links", index, source)
    run(*pip, "check")
    return commands


def check(commands: Path, extra: str, requirements: list[str], work: Path) -> None:
    """Check that an environment can do what it should."""
    run(commands / "python", "-c", _IMPORTS, *requirements, cwd=work)
    found = json.loads(run(commands / "danqing", "doctor", "--json", cwd=work))
    lacking = [one["missing"] for one in found["extras"] if one["name"] == extra and one["missing"]]
    if lacking or found["problems"]:
        sys.exit(f"With the extra {extra!r}, danqing doctor finds {lacking or found['problems']}.")
    run(commands / "danqing", "sample", "demo", "--prompt", "a cat", "-n", "1", "--out", "cat.png", cwd=work)
    assert (work / "cat.png").stat().st_size > 200


def main() -> None:
    """Try each installation."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = described["optional-dependencies"]
    known = ["", *(extra for extra in optional if extra not in ("test", "docs"))]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", nargs="*", choices=known, help="all by default; '' is none")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--index", type=Path, default=ROOT / "build" / "index")
    options = parser.parse_args()
    archives = sorted(
        path.resolve() for path in options.dist.glob("danqing-*") if path.suffix in (".whl", ".gz")
    )
    if [path.suffix for path in archives] != [".whl", ".gz"]:
        sys.exit(
            f"{options.dist} must hold one wheel and one source archive: delete it, then run make build."
        )
    extras = known if options.extras is None else options.extras
    fill(options.index, archives, extras)
    trials = [(f"{archives[0]}[{extra}]".removesuffix("[]"), extra) for extra in extras]
    for source, extra in [*trials, *([(str(archives[1]), "")] if "" in extras else [])]:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            commands = install(work / "environment", options.index, source)
            requirements = [*described["dependencies"], *optional.get(extra, ())]
            check(commands, extra, [one for one in requirements if not one.startswith("danqing[")], work)
        print(f"{Path(source).name} works ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
