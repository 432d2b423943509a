"""`compare`: families trained under one budget on the same images, measured alike, on one page."""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from danqing import atomic
from danqing.data import DataReport
from danqing.errors import ConfigError, DanqingError
from danqing.evaluation.contract import FeatureNetwork
from danqing.evaluation.evaluate import SMALL
from danqing.evaluation.learner_scores import has_own_score
from danqing.evaluation.networks import open_network, taught
from danqing.evaluation.second_network import choose_second
from danqing.images import Images
from danqing.machine import hardware
from danqing.precision import choose_device
from danqing.progress import FractionalProgressCallback
from danqing.studies import compare_page, compare_setup, measurements, study_folder
from danqing.studies.compare_setup import ComparisonData
from danqing.studies.recommendations import cautions, verdict
from danqing.studies.remote_training import started_by
from danqing.studies.results import Comparison, Contestant
from danqing.studies.training_process import StartsTraining, Training, wait_until_free
from danqing.training import config_reading
from danqing.training.command import command_line
from danqing.training.config import RunConfig, differences
from danqing.training.outcome import read_run
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
    ray: str | None = None,
    cpus: int | None = None,
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
    ray: the address of a Ray cluster on whose nodes all train at the same time, or "auto" for that of this
        machine. They are measured here, one after the other.
    cpus: how many CPUs each reserves there, and how many threads it has; by default those of the smallest
        node.

    Each trains in a process of its own, and one that fails is listed with its reason. The same call again
    goes on where it was interrupted; nothing is trained or measured twice. Ctrl-C ends it, saved. Raises
    DanqingError.
    """
    size, settings = config_reading.without_auto(size, settings)
    ignores = str(settings.get("data.ignore_reservations")).lower() == "true"
    names = compare_setup.choose_presets(families, presets, size, data, ignore_reservations=ignores)
    own: dict[str, Any] = {"evaluation.every_images": "tenth", "evaluation.features": str(features)}
    own["evaluation.keep"] = "last"  # chosen by a score, the one that swings most would gain most
    budget = {"minutes": minutes, "images": images}
    given: dict[str, Any] = {"size": size, "seed": seed, "settings": settings, **budget}
    first = compare_setup.configure(names, own=own, **given)[names[0]]
    judged = compare_setup.open_judged(data, first)
    own["evaluation.held_out"] = judged.held_out
    chosen = compare_setup.configure(names, own=own, **given)
    machine = hardware(choose_device(device))
    recognizes = has_own_score(first.family)
    networks: list[FeatureNetwork] = []
    second = None
    if not recognizes:
        networks.append(open_network(features, device=choose_device(device)))
        second = choose_second(second_features, features, lambda: judged.training)
    if on_dataset is not None:
        on_dataset(judged.training.info.report)
    if second is not None:
        networks.append(_open_second(second, judged, device, on_progress))
    samples = n if n is not None else min(max(len(judged.reference), FEWEST_SAMPLES), SMALL)
    folder = Path(out).expanduser()
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
        **({} if ray is None else {"trained_on": "a cluster", "cpus": cpus}),
    }
    task = {
        "data": str(Path(data).resolve()) if Path(data).exists() else str(data),
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
        "ray": ray,
        "cpus": cpus,
        "device": device,
    }
    if recognizes:
        del options["features"], options["second_features"]
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
        with started_by(ray, folder, str(task["data"]), cpus=cpus, device=device) as start:
            return comparison.run(study, start, at_once=1 if ray is None else len(names))


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

    def run(self, study: Comparison, start: StartsTraining, at_once: int) -> Comparison:
        """Train all, then measure all: what one needs of the machine must not disturb another.

        at_once: how many train at the same time.
        """
        try:
            for place, one in enumerate(study.contestants):
                study = self._put(study, place, self._take_up(one, study))
            self._write(study)
            with contextlib.closing(self._train(study, start, at_once)) as trained:
                for place, one in trained:
                    study = self._replace(study, place, one)
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

    def _train(
        self, study: Comparison, start: StartsTraining, at_once: int
    ) -> Generator[tuple[int, Contestant]]:
        """Train those that wait, or continue them, unless they are complete; yields each when it has ended.

        All have as many threads.
        """
        waiting = [place for place, one in enumerate(study.contestants) if one.status == "waiting"]
        running: dict[int, Training] = {}
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    place = waiting.pop(0)
                    one = study.contestants[place]
                    run = self.folder / one.run
                    if _is_complete(RunFolder(run), self.configs[one.name]):
                        yield place, one.model_copy(update=_of_run(run))
                        continue
                    wait_until_free(run)
                    arguments = {**self.task, "preset": one.preset, "out": str(run.resolve())}
                    running[place] = start(arguments, study.machine["threads"])
                self._tell_training(study, running)
                for place, process in list(running.items()):
                    if not process.running:
                        del running[place]
                        yield place, self._trained(study.contestants[place], process)
                time.sleep(_POLL_SECONDS)
        finally:
            for process in running.values():
                process.ask_to_stop()
            for process in running.values():
                process.stop()

    def _trained(self, one: Contestant, process: Training) -> Contestant:
        """One whose training has ended; raises KeyboardInterrupt where it was stopped."""
        process.stop()
        if error := process.error():
            return one.model_copy(update={"status": "failed", "error": error})
        if process.interrupted:
            raise KeyboardInterrupt
        return one.model_copy(update=_of_run(self.folder / one.run))

    def _tell_training(self, study: Comparison, running: Mapping[int, Training]) -> None:
        if not running:
            return
        names = ", ".join(study.contestants[place].name for place in running)
        which = ", ".join(str(place + 1) for place in running)
        done = sum(process.done for process in running.values())
        total = sum(process.total for process in running.values())
        self.tell(done, total or None, f"Training {names} ({which} of {len(study.contestants)})")

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
    names = ("sampling_speed", "recognition_speed", "parameters", "model_bytes")
    figures = {name: found[name] for name in names if name in found}
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
    facts = folder.facts()
    plan, hardware = facts.get("plan", {}), facts.get("hardware", {})
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
        "trained_on": f"{hardware.get('processor')}, {hardware.get('threads')} threads" if hardware else "",
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
