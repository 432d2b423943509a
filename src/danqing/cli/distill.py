"""`danqing distill`: a flow model that samples in one, two or four steps."""

from pathlib import Path
from typing import Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DeviceOption, size_and_settings
from danqing.cli.exit_codes import INTERRUPTED
from danqing.cli.run_output import leave_if_interrupted, run_payload, run_text
from danqing.training.display import Display

EXAMPLES = """Examples:

  danqing distill runs/photos --steps 2 --data photos/ --out runs/photos-2-steps

  danqing distill runs/words --steps 1 --data emoji --guidance-scale 2 --minutes 20"""


def distill(
    teacher: Annotated[str, typer.Argument(help="The run folder, model folder or hub id of a flow model.")],
    data: Annotated[
        str,
        typer.Option(help="Images like those that it learned from, as danqing train takes them."),
    ],
    steps: Annotated[int, typer.Option(help="In how many steps the model will sample.", metavar="1|2|4")],
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; with an existing run, resume it.", show_default="runs/..."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="How long to train.", show_default="40% of the teacher's time"),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images to train on, instead of --minutes.")
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="Of the teacher; the new model needs none.", show_default="the teacher's own"),
    ] = None,
    trajectories: Annotated[
        int | None,
        typer.Option(min=1, help="How many of the teacher's to learn from.", show_default="8192"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of the run.", show_default="0")] = None,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Turn a flow model into one that samples in a few steps."""
    _, given = size_and_settings(None, settings)
    try:
        with progress.Bar() as bar:
            bar.update(0, None, "Starting")  # importing torch takes seconds
            import danqing

            run = danqing.distill(
                teacher,
                data,
                steps=steps,
                out=out,
                minutes=minutes,
                images=images,
                guidance_scale=guidance_scale,
                trajectories=trajectories,
                settings=given,
                seed=seed,
                device=device,
                listener=Display(bar),
            )
    except KeyboardInterrupt:  # before the first step, or for the second time
        progress.say("Stopped; the same command resumes from the last checkpoint.", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    leave_if_interrupted(run, as_json=as_json)
    output.result(run_payload(run), output.facts(run_text(run)), as_json=as_json)
