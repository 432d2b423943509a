"""A run shown on the terminal."""

from typing import TYPE_CHECKING

from danqing.progress import Bar
from danqing.quantities import duration, memory
from danqing.training.listener import Listener, Plan, Progress, Scored

if TYPE_CHECKING:
    from danqing.data import DataReport


class Display(Listener):
    """Shows a run on a progress bar, with lines above it."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._said: set[str] = set()

    def on_data(self, done: int, total: int, text: str) -> None:
        self._bar.update(done, total, text)

    def on_dataset(self, report: "DataReport") -> None:
        show_report(self._bar, report)

    def on_plan(self, plan: Plan) -> None:
        self._bar.close()
        parts = " + ".join(f"{name} {count:,}" for name, count in plan.parameters.items() if count)
        self._bar.say(f"Parameters: {parts}")
        resumed = f"; {plan.resumed_from:,} images seen before" if plan.resumed_from else ""
        self._bar.say(f"{_titled('Plan', plan.stage)}: {_plan_text(plan)}{resumed}")
        if plan.then is not None:
            if plan.then.codes_seconds:
                self._bar.say(f"Then the images are encoded, in about {duration(plan.then.codes_seconds)}")
            self._bar.say(f"{_titled('Then', plan.then.stage)}: {_plan_text(plan.then)}")
        advised = plan.then or plan
        if advised.nearest and advised.nearest not in self._said:  # both stages of a run have the same
            self._bar.say(advised.nearest)
            self._said.add(advised.nearest)
        if advised.warning:
            self._bar.say(advised.warning, style="yellow")

    def on_progress(self, progress: Progress) -> None:
        speed = progress.images / progress.seconds if progress.seconds > 0 else 0.0
        self._bar.update(
            progress.images,
            progress.total_images,
            _titled("Training", progress.stage),
            seconds_left=progress.seconds_left,
            detail=f"{progress.images:,} images, {speed:,.0f}/s",
        )

    def on_score(self, scored: Scored) -> None:
        if scored.best_images is None:
            standing = ""
        else:
            standing = ": the best so far" if scored.is_best else f": the best was at {scored.best_images:,}"
        score = scored.score
        length = "" if scored.ema_length is None else f", EMA length {scored.ema_length:g}"
        from danqing.evaluation.scores import FLATTERED  # importing PyTorch takes seconds

        mark = f" ({FLATTERED})" if score.flattered else ""
        self._bar.say(f"{score.name} {score.value:.4g}{mark} at {scored.images:,} images{length}{standing}")

    def on_message(self, text: str) -> None:
        self._bar.say(text)

    def on_advice(self, text: str) -> None:
        self._bar.say(text)

    def on_alarm(self, text: str) -> None:
        self._bar.say(text, style="yellow")


def show_report(bar: Bar, report: "DataReport") -> None:
    """Show what was found in the data, with notes in yellow."""
    notes = {*report.notes, *report.consent.notes()}
    for line in report.lines():
        bar.say(line, style="yellow" if line in notes else "")


def _titled(title: str, stage: str) -> str:
    return f"{title}, {stage}" if stage else title


def _plan_text(plan: Plan) -> str:
    disk = f", up to {memory(plan.snapshot_bytes)} of disk for snapshots" if plan.snapshot_bytes else ""
    parts = f", {plan.micro_batch} images at once" if plan.micro_batch < plan.batch_size else ""
    parts += ", activations computed again" if plan.checkpointing else ""
    return (
        f"{plan.images:,} images in about {duration(plan.seconds)} "
        f"({plan.images_per_second:,.0f} images/s, {plan.precision} on {plan.device}, "
        f"{memory(plan.memory_bytes)} of memory{parts}{disk})"
    )
