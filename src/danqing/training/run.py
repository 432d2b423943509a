"""`train`: from images and a preset to a run folder, and the run that comes of it."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danqing.data import open_dataset
from danqing.errors import TrainingError
from danqing.precision import choose_device
from danqing.progress import Bar
from danqing.training.config import RunConfig, resolve
from danqing.training.display import Display
from danqing.training.listener import Listener
from danqing.training.run_folder import RunFolder
from danqing.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run. final: the averages in the last line of its log; status: "finished" or
    "interrupted".
    """

    folder: Path
    status: str
    images: int
    seconds: float
    images_per_second: float
    final: dict[str, float]

    @property
    def model(self) -> Path:
        """The model folder."""
        return RunFolder(self.folder).model

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML file."""
        return RunFolder(self.folder).report


def train(
    data: str | Path,
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    minutes: float | None = None,
    images: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    listener: Listener | None = None,
) -> Run:
    """Train a model on images; the same call again goes on where a stopped or killed one was.

    data: a folder, a file (zip, tar, Parquet, IDX) or a built-in name such as "emoji". preset: "gan-32"
    unless a configuration file is given. out: the run folder, by default `runs/<data>-<preset>`. settings:
    further `key: value` pairs, as `--set` takes them. size: (width, height). The budget is `minutes` or
    `images`, where the preset's own is not wanted. listener: told of the run's progress, by default a bar on
    stderr; `Listener()` is silent. Ctrl-C ends the run after its step, saved. Raises DanqingError.
    """
    budget = {"minutes": minutes, "images": images}
    wanted = resolve(preset=preset, config=config, settings=settings, size=size, seed=seed, **budget)
    folder = RunFolder(out if out is not None else _default_folder(data, preset, config))
    wanted = wanted.model_copy(update={"source": _absolute(data)})
    chosen = choose_device(device)
    folder.create()
    with contextlib.ExitStack() as stack:
        listener = listener or Display(stack.enter_context(Bar()))
        stack.enter_context(_disk_errors_explained(folder))
        stack.enter_context(folder.locked())
        wanted = folder.settle_config(wanted)
        dataset = open_dataset(
            data,
            size=wanted.size,
            channels=wanted.data.channels,
            alpha=wanted.data.alpha,
            background=wanted.data.background,
            fit=wanted.data.fit,
            on_progress=listener.on_data,
        )
        known = folder.facts().get("data", {}).get("fingerprint", dataset.fingerprint)
        if known != dataset.fingerprint:
            raise TrainingError(
                f"The images have changed since the run in {folder.path} began: choose another --out."
            )
        options = {"preset": preset, "config": config, "size": size, "seed": seed, "device": device, **budget}
        folder.update_facts(command=_command(str(data), folder, options, settings or {}))
        if _is_complete(folder, wanted):
            listener.on_message("This run is complete: ask for more --images or --minutes to go on with it.")
        else:
            Trainer(wanted.for_data(dataset), dataset, folder, chosen, listener).run()
    return read_run(folder.path)


def read_run(path: str | Path) -> Run:
    """The run in a folder, as its facts tell it; raises TrainingError where there is none."""
    folder = RunFolder(path)
    facts = folder.facts()
    if "progress" not in facts:
        raise TrainingError(f"{path} is not a run folder.")
    lines = folder.log_file.read_text(encoding="utf-8").splitlines() if folder.log_file.exists() else []
    return Run(
        folder=folder.path,
        status=facts["status"],
        images=int(facts["progress"]["images"]),
        seconds=facts["progress"]["seconds"],
        images_per_second=facts["progress"]["images_per_second"],
        final=json.loads(lines[-1]) if lines else {},
    )


@contextlib.contextmanager
def _disk_errors_explained(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.filename or folder.path} cannot be written or read ({error.strerror or error}): "
            "make room or mend the folder, then run the same command again to go on."
        ) from error


def _is_complete(folder: RunFolder, wanted: RunConfig) -> bool:
    facts = folder.facts()
    budget = {"images": wanted.images, "minutes": wanted.minutes}
    return facts.get("status") == "finished" and facts.get("budget") == budget and folder.report.exists()


def _command(data: str, folder: RunFolder, options: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The command line that asks for the same run, for its report."""
    words = ["danqing", "train", data, "--out", str(folder.path)]
    for option, value in options.items():
        if value is not None and (option, value) != ("device", "auto"):
            words += [f"--{option}", "x".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    for key, value in settings.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _default_folder(data: str | Path, preset: str | None, config: str | Path | None) -> Path:
    name = Path(str(data).replace(":", "-")).stem or "images"
    return Path("runs") / f"{name}-{Path(config).stem if config is not None else preset or 'gan-32'}"


def _absolute(data: str | Path) -> str:
    """The source as the run keeps it: an absolute path, so that a run can be resumed from another folder."""
    return str(Path(data).resolve()) if Path(data).exists() else str(data)
