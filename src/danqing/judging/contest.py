"""`contest`: a leaderboard of models and folders, all judged alike on the same held-out images."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danqing import atomic, weights
from danqing.data.sources import open_dataset
from danqing.errors import ConfigError, DataError, EvaluationError
from danqing.evaluation.candidate import is_model
from danqing.evaluation.evaluate import evaluate
from danqing.evaluation.scores import Score
from danqing.images import conform, to_pil
from danqing.judging.entrants import as_png, names_of
from danqing.model.model import Model
from danqing.model.recognizer import open_trained
from danqing.progress import ProgressCallback
from danqing.quantities import number
from danqing.studies.study_folder import locked, settle

METRICS = ("kernel", "frechet", "precision", "recall")
_CHUNK = 500  # pictures that are sampled at once
_NAME = re.compile(r"[^/\\\x00-\x1f]{1,100}")
_WHAT = "contest"


@dataclass(frozen=True)
class Place:
    """A submission on the leaderboard.

    ranks: the best and the worst place that the intervals of the first score allow.
    identity: what was judged: the digest of a model's weights, or the fingerprint of a folder's images.
    people: the rating by people with its interval; None without votes.
    """

    name: str
    identity: str
    ranks: tuple[int, int]
    scores: tuple[Score, ...]
    people: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Contest:
    """A leaderboard, the best first.

    ranked_by: the score that decides: that of people where all submissions have votes, else the first metric.
    held_out: the fingerprint of the images that all were compared with.
    judged: which submissions were measured now; others were measured before.
    """

    places: tuple[Place, ...]
    ranked_by: str
    held_out: str
    judged: tuple[str, ...] = ()
    files: tuple[Path, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which are the same whenever the same was judged."""
        return {
            "ranked_by": self.ranked_by,
            "held_out": self.held_out,
            "places": [
                {
                    "name": one.name,
                    "identity": one.identity,
                    "ranks": list(one.ranks),
                    "people": None if one.people is None else list(one.people),
                    "scores": [score.to_json() for score in one.scores],
                }
                for one in self.places
            ],
        }


def contest(
    submissions: Mapping[str, str | Path] | Sequence[str | Path] = (),
    *,
    data: str | Path,
    out: str | Path,
    split: str | None = None,
    n: int = 1000,
    size: tuple[int, int] | None = None,
    metrics: Sequence[str] = METRICS,
    features: str | Path = "auto",
    votes: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    on_progress: ProgressCallback | None = None,
) -> Contest:
    """Compare models and folders alike, and write a leaderboard.

    Each submission becomes a folder of `n` pictures of one size: a model samples them with one seed, and
    without anything of the held-out images. `evaluate` compares all with the same images by the same network.
    Called again with the same folder, it judges what is new or has changed, and keeps the rest.

    submissions: models or folders of pictures, by their names or by paths.
    data, split: the held-out images; by default the test or validation split, else all.
    size: (width, height) at which all are compared; by default that of the data.
    metrics: which scores; the first one ranks.
    votes: the folder of a `judge` session with the same names, whose ratings then rank.

    Raises ConfigError, EvaluationError, DataError and ModelError.
    """
    folder = Path(out).expanduser()
    entered = _named(submissions)
    with locked(folder, _WHAT):
        width, height = size or open_dataset(data, split=split or _split(data), on_progress=on_progress).size
        asked = {
            "data": str(data),
            "split": split or _split(data),
            "n": n,
            "size": [width, height],
            "metrics": list(metrics),
            "features": str(features),
            "seed": seed,
        }
        settle(folder, _WHAT, asked)
        judged = []
        for name, source in entered.items():
            if _judge(name, source, folder, asked, device, on_progress):
                judged.append(name)
        found = _leaderboard(folder, votes)
        files = [folder / "leaderboard.json", folder / "leaderboard.md"]
        result = Contest(found.places, found.ranked_by, found.held_out, tuple(judged), tuple(files))
        atomic.write_json(files[0], result.to_json())
        atomic.write_text(files[1], _markdown(result, asked))
    return result


def _split(data: str | Path) -> str:
    from danqing.data.splits import has_split

    return next((split for split in ("test", "validation") if has_split(data, split)), "all")


def _named(submissions: Mapping[str, str | Path] | Sequence[str | Path]) -> dict[str, str]:
    if isinstance(submissions, Mapping):
        named = {name: str(source) for name, source in submissions.items()}
    else:
        sources = [str(source) for source in submissions]
        named = dict(zip(names_of(sources), sources, strict=True))
    for name in named:
        if not _NAME.fullmatch(name) or name.startswith("."):
            raise ConfigError(f"{name!r} cannot name a submission: use a short name without slashes.")
    return named


def _judge(
    name: str,
    source: str,
    folder: Path,
    asked: Mapping[str, Any],
    device: str,
    on_progress: ProgressCallback | None,
) -> bool:
    """Measure a submission, unless the very same was measured before; return whether it was."""
    path = folder / "results" / f"{name}.json"
    size = (int(asked["size"][0]), int(asked["size"][1]))
    model: Model | None = None
    if is_model(Path(source)):
        trained = open_trained(source, device=_device(device))
        if not isinstance(trained, Model):
            raise EvaluationError(f"{source} recognizes images and generates none: leave it out.")
        model, identity = trained, f"weights {weights.digest(trained.family.state_dict())[:16]}"
        pictures = str(folder / "pictures" / name)
    else:
        found = open_dataset(
            source, split="all", size=size, ignore_reservations=True, on_progress=on_progress
        )
        if len(found) < asked["n"]:
            raise EvaluationError(
                f"{source} has {len(found):,} pictures, and {asked['n']:,} of each are judged: add pictures."
            )
        identity, pictures = f"pictures {found.fingerprint[:16]}", source
    before = _stored(path)
    if before is not None and before["identity"] == identity:
        return False
    if model is not None:
        _paint(model, Path(pictures), asked, size, on_progress)
    evaluation = evaluate(
        pictures,
        asked["data"],
        metrics=asked["metrics"],
        features=asked["features"],
        n=asked["n"],
        split=asked["split"],
        seed=asked["seed"],
        size=size,
        device=device,
        on_progress=on_progress,
    )
    scores = [
        score.model_copy(update={"candidate": name, "headline": False}).to_json()
        for score in evaluation.scores
    ]
    path.parent.mkdir(exist_ok=True)
    atomic.write_json(path, {"name": name, "identity": identity, "scores": scores})
    return True


def _device(name: str) -> str:
    from danqing.precision import choose_device

    return str(choose_device(name))


def _paint(
    model: Model,
    where: Path,
    asked: Mapping[str, Any],
    size: tuple[int, int],
    on_progress: ProgressCallback | None,
) -> None:
    """Write the pictures of a model as files without marks, which nobody judges."""
    from danqing.randomness import derived_seed

    where.mkdir(parents=True, exist_ok=True)
    for old in where.glob("*.png"):
        old.unlink()
    n = int(asked["n"])
    seeds = [derived_seed(int(asked["seed"]), "image", place) for place in range(n)]
    for start in range(0, n, _CHUNK):
        for place, pixels in enumerate(model.sample(seeds=seeds[start : start + _CHUNK]), start):
            content = as_png(conform(to_pil(pixels), size=size, channels=3))
            atomic.write_bytes(where / f"{place:06}.png", content)
        if on_progress is not None:
            on_progress(min(n, start + _CHUNK), n, f"Painting {where.name}")


def _stored(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told["identity"], str) or not isinstance(told["name"], str):
            raise TypeError("names must be texts")
        scores = [
            Score.model_validate({k: v for k, v in one.items() if k != "text"}) for one in told["scores"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: delete it, and the submission is judged again.") from error
    return {**told, "scores": scores}


def _leaderboard(folder: Path, votes: str | Path | None) -> Contest:
    results = [told for path in sorted((folder / "results").glob("*.json")) if (told := _stored(path))]
    if not results:
        raise ConfigError("The contest has no submission: name a model or a folder of pictures.")
    held_out = {one["scores"][0].reference.fingerprint for one in results if one["scores"][0].reference}
    if len(held_out) > 1:
        raise EvaluationError(
            f"The held-out images have changed since some of {folder} was judged: choose another folder."
        )
    people = {} if votes is None else _people(Path(votes))
    by_people = bool(people) and all(one["name"] in people for one in results)
    first: dict[str, Score] = {one["name"]: one["scores"][0] for one in results}
    metric = next(iter(first.values()))
    if by_people:
        intervals = {name: (people[name][1], people[name][2]) for name in first}
        key = {name: -people[name][0] for name in first}
    else:
        sign = -1.0 if metric.higher_is_better else 1.0
        key = {name: sign * score.value for name, score in first.items()}
        spans = {name: score.interval or (score.value, score.value) for name, score in first.items()}
        intervals = {
            name: (-max(sign * a, sign * b), -min(sign * a, sign * b)) for name, (a, b) in spans.items()
        }
    places = [
        Place(
            one["name"],
            one["identity"],
            _ranks(intervals, one["name"]),
            tuple(one["scores"]),
            people.get(one["name"]),
        )
        for one in sorted(results, key=lambda one: (key[one["name"]], one["name"]))
    ]
    return Contest(tuple(places), "people" if by_people else metric.metric, "".join(held_out))


def _ranks(intervals: Mapping[str, tuple[float, float]], name: str) -> tuple[int, int]:
    """Return the places that intervals allow, where more is better."""
    low, high = intervals[name]
    above = sum(other[0] > high for key, other in intervals.items() if key != name)
    below = sum(other[1] < low for key, other in intervals.items() if key != name)
    return 1 + above, len(intervals) - below


def _people(folder: Path) -> dict[str, tuple[float, float, float]]:
    path = folder / "results.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found = {
            str(one["name"]): (float(one["rating"]), *(float(end) for end in one["interval"]))
            for one in told["standings"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not hold results of people: run danqing judge --out {folder} first."
        ) from error
    return found  # type: ignore[return-value]


def _markdown(found: Contest, asked: Mapping[str, Any]) -> str:
    titles = list(dict.fromkeys(score.name for one in found.places for score in one.scores))
    has_votes = any(one.people is not None for one in found.places)
    head = ["place", "submission", *(["rating by people"] if has_votes else []), *titles]
    lines = [
        "# Leaderboard",
        "",
        f"{asked['n']:,} pictures of each, {asked['size'][0]}×{asked['size'][1]}, seed {asked['seed']}, "
        f"against the split {asked['split']} of {asked['data']} ({found.held_out[:12]}).",
        f"Ranked by {found.ranked_by}; places that intervals do not part are given as a range.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for one in found.places:
        low, high = one.ranks
        cells = [str(low) if low == high else f"{low} to {high}", one.name.replace("|", "\\|")]
        if has_votes:
            cells.append("" if one.people is None else _cell(one.people[0], one.people[1:]))
        by_name = {score.name: score for score in one.scores}
        cells += [_score_cell(by_name.get(title)) for title in titles]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _score_cell(score: Score | None) -> str:
    return "" if score is None else _cell(score.value, score.interval)


def _cell(value: float, interval: Sequence[float] | None) -> str:
    if interval is None or not all(map(math.isfinite, interval)):
        return number(value)
    return f"{number(value)} ({' to '.join(map(number, interval))})"
