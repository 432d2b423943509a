"""`compare`: families trained under one budget on the same images, measured alike, on one page."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from danqing import atomic
from danqing.data import DataReport
from danqing.errors import ConfigError, DanqingError
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.evaluate import SMALL
from danqing.evaluation.networks import open_network, taught
from danqing.evaluation.second_network import choose_second
from danqing.images import Images
from danqing.machine import hardware
from danqing.precision import choose_device
from danqing.progress import FractionalProgressCallback
from danqing.studies import compare_page, compare_setup, measurements, study_folder
from danqing.studies.compare_setup import ComparisonData
from danqing.studies.recommendations import cautions, verdict
from danqing.studies.results import Comparison, Contestant
from danqing.studies.training_process import TrainingProcess, wait_until_free
from danqing.training import config_reading
from danqing.training.command import command_line
from danqing.training.config import RunConfig, differences
from danqing.training.run import read_run
from danqing.training.run_folder import RunFolder
from danqing.version import __version__

FORMAT = 3
FEWEST_SAMPLES = 1000
_POLL_SECONDS = 0.1


def compare(
    data: str | Path,
    *,
    families: Sequence[str] = (),
    presets: Sequence[str] = (),
    minutes: float | None = None,
    images: int | None = None,
    size: tuple[int, int] | Literal["auto"] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    features: str = "auto",
    second_features: str = "auto",
    n: int | None = None,
    out: str | Path,
    device: str = "auto",
    on_progress: FractionalProgressCallback | None = None,
    on_dataset: Callable[[DataReport], None] | None = None,
) -> Comparison:
    """Train families under one budget on the same images, and measure all alike.

    families: each by its preset for about the size of the data.
    presets: by name, instead of families or as well.
    minutes, images: the budget of each; give one of the two.
    size: (width, height) in pixels; "auto" is several sizes, as of `train`.
    settings: for all of them, as `--set` takes them.
    features: the network that images are compared by.
    second_features: an independent network, by which the distances are measured again. "auto" is `hed` where
        it is installed, else a classifier of the data's labels ("classifier"), and "none" is none.
    n: how many images each samples to be measured; by default as many as there are real images to compare
        with, between 1,000 and 10,000.
    out: a folder that gets `compare.json`, `compare.html` and the runs.

    Each trains in a process of its own, and one that fails is listed with its reason. The same call again
    goes on where it was interrupted; nothing is trained or measured twice. Ctrl-C ends it, saved. Raises
    DanqingError.
    """
    size, settings = config_reading.without_auto(size, settings)
    names = compare_setup.choose_presets(families, presets, size, data)
    own: dict[str, Any] = {"evaluation.every_images": "tenth", "evaluation.features": str(features)}
    own["evaluation.keep"] = "last"  # chosen by a score, the one that swings most would gain most
    budget = {"minutes": minutes, "images": images}
    given: dict[str, Any] = {"size": size, "seed": seed, "settings": settings, **budget}
    first = compare_setup.configure(names, own=own, **given)[names[0]]
    judged = compare_setup.open_judged(data, first)
    own["evaluation.held_out"] = judged.held_out
    chosen = compare_setup.configure(names, own=own, **given)
    machine = hardware(choose_device(device))
    networks = [open_network(features, device=choose_device(device))]
    second = choose_second(second_features, features, lambda: judged.training)
    if on_dataset is not None:
        on_dataset(judged.training.info.report)
    if second is not None:
        networks.append(_open_second(second, judged, device, on_progress))
    samples = n if n is not None else min(max(len(judged.reference), FEWEST_SAMPLES), SMALL)
    folder = Path(out)
    asked = {
        "format": FORMAT,
        "data": judged.training.fingerprint,
        "reference": judged.reference.fingerprint,
        "size": first.size,
        "seed": seed,
        "features": features,
        "second_features": second,
        "settings": settings,
        "device": machine["device"],  # speed and memory are of one machine, and scores of one version
        "threads": machine["threads"],
        "danqing": __version__,
        **budget,
    }
    task = {
        "data": str(data),
        "size": first.size,
        "seed": seed,
        "device": device,
        "settings": {**settings, **own},
        **budget,
    }
    options: dict[str, Any] = {"families": ",".join(families) or None, "presets": ",".join(presets) or None}
    options |= {
        **budget,
        "size": size,
        "seed": seed or None,
        "features": features,
        "second_features": second or "none",
        "n": n,
        "device": device,
    }
    options["out"] = folder
    study = Comparison(
        command=command_line("compare", str(data), options, settings),
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
        name=judged.info.name,
        data=_data_facts(judged),
        reference=judged.info,
        budget={name: value for name, value in budget.items() if value is not None},
        seed=seed,
        samples=samples,
        machine=machine,
        contestants=tuple(
            Contestant(name=name, family=chosen[name].family, preset=name, run=f"runs/{name}")
            for name in names
        ),
    )
    with study_folder.locked(folder, "comparison"):
        study_folder.settle(folder, "comparison", asked)
        (folder / "runs").mkdir(exist_ok=True)
        (folder / "pictures").mkdir(exist_ok=True)
        atomic.remove_leftovers(folder / "pictures")
        _real_images(judged).save(folder / "pictures" / "real.png")
        identified = " ".join(f"{network.name} {network.sha256}" for network in networks)
        comparison = _ComparisonRun(folder, task, chosen, judged, second, identified, on_progress)
        return comparison.run(study)


def _open_second(
    name: str, judged: ComparisonData, device: str, on_progress: FractionalProgressCallback | None
) -> FeatureNetwork:
    """Open the second feature network, so that what is missing is said before anything is trained."""
    if name == taught.NAME:
        return taught.open_taught(judged.training, device=choose_device(device), on_progress=on_progress)
    return open_network(name, device=choose_device(device))


class _ComparisonRun:
    """A comparison at work: its folder, and what all contestants share."""

    def __init__(
        self,
        folder: Path,
        task: dict[str, Any],
        configs: dict[str, RunConfig],
        judged: ComparisonData,
        second_features: str | None,
        networks: str,
        on_progress: FractionalProgressCallback | None,
    ) -> None:
        self.folder, self.task, self.configs = folder, task, configs
        self.judged, self.second_features, self.networks = judged, second_features, networks
        self.tell = on_progress or (lambda done, total, text: None)

    def run(self, study: Comparison) -> Comparison:
        """Train all, then measure all: what one needs of the machine must not disturb another."""
        try:
            for place, one in enumerate(study.contestants):
                study = self._put(study, place, self._take_up(one, study))
            self._write(study)
            for place, one in enumerate(study.contestants):
                if one.status == "waiting":
                    study = self._replace(study, place, self._train(one, place, study))
            for place, one in enumerate(study.contestants):
                if one.status == "waiting":
                    study = self._replace(study, place, self._measure(one, study, place))
        except KeyboardInterrupt:
            pass
        return self._write(study)

    def _take_up(self, one: Contestant, study: Comparison) -> Contestant:
        """One as an earlier call has left it, with its measurements where they are of the very same run."""
        run = self.folder / one.run
        if not _is_complete(RunFolder(run), self.configs[one.name]):
            return one
        found = measurements.known(
            run,
            self.judged,
            self._measurements(one),
            n=study.samples,
            seed=study.seed,
            networks=self.networks,
        )
        one = one.model_copy(update=_of_run(run))
        return one if found is None else _with(one, found)

    def _train(self, one: Contestant, place: int, study: Comparison) -> Contestant:
        """Train one with as many threads as all the others, or continue it, unless it is complete."""
        run = self.folder / one.run
        if not _is_complete(RunFolder(run), self.configs[one.name]):
            wait_until_free(run)
            arguments = {**self.task, "preset": one.preset, "out": str(run)}
            text = f"Training {one.name} ({place + 1} of {len(study.contestants)})"
            with TrainingProcess(arguments, study.machine["threads"]) as process:
                while process.running:
                    self.tell(process.done, process.total or None, text)
                    time.sleep(_POLL_SECONDS)
            if error := process.error():
                return one.model_copy(update={"status": "failed", "error": error})
            if process.interrupted:
                raise KeyboardInterrupt
        return one.model_copy(update=_of_run(run))

    def _measure(self, one: Contestant, study: Comparison, place: int) -> Contestant:
        text = f"Measuring {one.name} ({place + 1} of {len(study.contestants)})"
        try:
            found = measurements.measure(
                self.folder / one.run,
                self.task["data"],
                self.judged,
                self._measurements(one),
                n=study.samples,
                seed=study.seed,
                features=self.task["settings"]["evaluation.features"],
                second_features=self.second_features,
                networks=self.networks,
                device=self.task["device"],
                on_progress=lambda done, total, stage: self.tell(done, total or None, f"{text}: {stage}"),
            )
        except DanqingError as error:
            return one.model_copy(update={"status": "failed", "error": str(error)})
        return _with(one, found)

    def _measurements(self, one: Contestant) -> Path:
        return self.folder / "pictures" / f"{one.name}.json"

    def _put(self, study: Comparison, place: int, one: Contestant) -> Comparison:
        contestants = (*study.contestants[:place], one, *study.contestants[place + 1 :])
        return study.model_copy(update={"contestants": contestants})

    def _replace(self, study: Comparison, place: int, one: Contestant) -> Comparison:
        """The study with one contestant's news, written down."""
        return self._write(self._put(study, place, one))

    def _write(self, study: Comparison) -> Comparison:
        told = study.model_copy(update={"verdict": verdict(study), "cautions": cautions(study)})
        told.write(self.folder / "compare.json")
        compare_page.write(told, self.folder)
        return told


def _is_complete(run: RunFolder, wanted: RunConfig) -> bool:
    facts = run.facts()
    budget = {"images": wanted.images, "minutes": wanted.minutes}
    if facts.get("status") != "finished" or facts.get("budget") != budget or not run.report.exists():
        return False
    try:
        recorded = config_reading.from_toml(run.config_file)
    except ConfigError:
        return False  # training will say what is wrong with it
    return not differences(recorded, wanted.model_copy(update={"source": recorded.source}))


def _with(one: Contestant, found: Mapping[str, Any]) -> Contestant:
    """A contestant with its measurements."""
    figures = {name: found[name] for name in ("sampling_speed", "parameters", "model_bytes")}
    pictures = {"grid": f"pictures/{one.name}.png"}
    if found["neighbours"]:
        pictures["neighbours"] = f"pictures/{one.name}-neighbours.png"
    return one.model_copy(
        update={
            "status": "finished",
            "scores": measurements.scores(found),
            "measured": one.measured | figures,
            "pictures": pictures,
        }
    )


def _of_run(path: Path) -> dict[str, Any]:
    """What a run records about itself."""
    run, folder = read_run(path), RunFolder(path)
    plan = folder.facts().get("plan", {})
    name, points = measurements.curve(path)
    figures = {
        "training_speed": run.images_per_second,
        "images": run.images,
        "seconds": run.seconds,
        "trained_parameters": sum(plan.get("parameters", {}).values()),
        **{key: value for key, value in run.cost.items() if value is not None},
    }
    return {
        "measured": figures,
        "curve": points,
        "curve_name": name,
        "precision": plan.get("precision", ""),
        "config": folder.config_file.read_text(encoding="utf-8"),
    }


def _real_images(judged: ComparisonData) -> Images:
    """As many real images as a grid has, evenly from those that all learn from."""
    count = min(measurements.PICTURES, len(judged.training))
    return Images(judged.training.images(np.linspace(0, len(judged.training) - 1, count).astype(np.int64)))


def _data_facts(judged: ComparisonData) -> dict[str, Any]:
    dataset = judged.training
    return {
        "name": dataset.info.name,
        "source": dataset.info.source,
        "images": len(dataset),
        "width": dataset.size[0],
        "height": dataset.size[1],
        **({"sizes": [list(size) for size in dataset.sizes]} if len(dataset.sizes) > 1 else {}),
        "channels": dataset.channels,
        "labels": len(dataset.label_names),
        "account": dataset.info.report.account(),
        "notes": list(dataset.info.report.notes),
        "fingerprint": dataset.fingerprint,
        "licence": dataset.info.licence,
        "citation": dataset.info.citation,
    }
