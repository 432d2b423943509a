"""`danqing train`: train a model on images; the same command again resumes the run."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from danqing import interpreter
from danqing.cli import output
from danqing.cli.arguments import (
    AttributesOption,
    BoxesOption,
    DataArgument,
    DeviceOption,
    IgnoreReservationsOption,
    LabelSetsOption,
    MasksOption,
    PairsOption,
    TrainingSizeOption,
    size_and_settings,
    split_names,
)
from danqing.cli.exit_codes import INTERRUPTED
from danqing.cli.run_output import (
    IMAGE_TO_TRANSLATE,
    leave_if_interrupted,
    next_command,
    run_payload,
    run_text,
    train_with_bar,
)
from danqing.errors import ConfigError

EXAMPLES = """Examples:

  danqing train photos/ --out runs/photos --minutes 30

  danqing train sprites.zip --preset vae-32 --size 48x32 --out runs/sprites

  danqing train photos/ --preset flow-32 --size auto --out runs/all-shapes

  danqing train photos/ --minutes 120 --evaluate-every 200000 --patience 1000000

  danqing train faces/ --attributes age,glasses --preset vae-32 --out runs/faces

  danqing train emoji --preset text2image-32 --minutes 30 --out runs/words

  danqing train drawings/ --task translate --pairs outlines:photos --mode flow --out runs/colours

  danqing train photos/ --task upscale --out runs/larger

  danqing train photos/ --task style --style-image starry-night.jpg --out runs/starry

  danqing train scans/ --task enhance --degrade blur,noise0.1 --out runs/clean

  danqing train animals/ --domains horses:zebras --preset translation-64 --out runs/zebras

  danqing train photos/ --task classify --clean clean.csv --out runs/kinds

  danqing train scans/ --task segment --masks images:masks --out runs/cells

  danqing train street/ --task detect --boxes coco --out runs/street

  danqing train photos/ --task embed --out runs/looks

  danqing train few/ --task classify --init runs/looks --out runs/few

  danqing train few/ --init runs/photos --preset lora --out runs/few-adapter

  danqing train faces/ --preset private-32 --private epsilon=8 --secure --out runs/private

  danqing train digits --preset gan-32 --set net=mlp --set learning_rate=1e-4 --out runs/digits

  danqing train photos/ --preset flow-32 --processes 4 --out runs/four

Ctrl-C saves the run; the same command again resumes it."""


def train(
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; with an existing run, resume it.", show_default="runs/..."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A named configuration (danqing presets).", show_default="gan-32")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What the model is for; it chooses the preset.",
            metavar="upscale|enhance|translate|colorize|fill|style|classify|segment|detect|embed",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="How the editor of a task computes: in one evaluation (regression) or in a few (flow).",
            metavar="regression|flow",
            show_default="regression; flow for fill, and style for style",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A configuration file instead of a preset.", metavar="FILE.toml")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    size: TrainingSizeOption = None,
    minutes: Annotated[float | None, typer.Option(help="How long to train.")] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images to train on, instead of --minutes.")
    ] = None,
    attributes: AttributesOption = None,
    pairs: PairsOption = None,
    domains: Annotated[
        str | None,
        typer.Option(
            help="Learn to turn images of one label or class folder into those of another, without pairs.",
            metavar="SOURCE:TARGET",
        ),
    ] = None,
    degrade: Annotated[
        str | None,
        typer.Option(
            help="Learn to restore images from copies made by blur, down, noise, jpeg, gray, dose or shrink.",
            metavar="STEP,STEP",
        ),
    ] = None,
    generated: Annotated[
        float | None,
        typer.Option(
            help="The share of each batch that --generator generates.",
            metavar="SHARE",
        ),
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="The model for --generated, which has labels.", metavar="MODEL")
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            help="More images, of which the classifier of --init labels those that it is sure of.",
            metavar="DATA",
        ),
    ] = None,
    masks: MasksOption = "",
    boxes: BoxesOption = "",
    label_sets: LabelSetsOption = "",
    style_image: Annotated[
        Path | None, typer.Option(help="The image whose style the task style learns.", metavar="FILE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed; the same seed repeats a run.")] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            help="How often to score on held-out images and keep the best; 0 is never.",
            metavar="IMAGES",
            show_default="ten times in a long run",
            min=0,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop when the held-out score has not improved for this many images.",
            metavar="IMAGES",
            min=0,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Use the tokenizer of this model (a run, a model folder or a hub id); train none.",
            metavar="MODEL",
            show_default="trained first, if the preset has one",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from the weights of this run, model folder or hub id, as far as they fit.",
            metavar="MODEL",
        ),
    ] = None,
    clean: Annotated[
        Path | None,
        typer.Option(
            help="A list of images to leave out or relabel, from danqing data clean.", metavar="FILE.csv"
        ),
    ] = None,
    ignore_reservations: IgnoreReservationsOption = False,
    private: Annotated[
        str | None,
        typer.Option(
            help="Guarantee that the model says little of any one image (differential privacy).",
            metavar="epsilon=8,delta=1e-5",
        ),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="Derive the noise of a private run from a secret key.")
    ] = False,
    track: Annotated[str | None, typer.Option(help="Log to wandb or mlflow too.", metavar="SERVICE")] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes of this machine that compute the run: 1, 2, 4, ...; its weights do not change.",
            metavar="N",
            show_default="one process, or those of torchrun",
        ),
    ] = None,
    fast_sums: Annotated[
        bool,
        typer.Option(
            "--fast-sums",
            help="Add the gradients of processes in any order; the weights then depend on their number.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Train a model on your images."""
    from danqing.cluster.launch import launch
    from danqing.cluster.place import Place, check_power_of_two

    place = Place.of()
    if place is None and processes is not None and processes > 1:
        check_power_of_two(processes, "--processes")
        status, _ = launch(interpreter.command("danqing", *sys.argv[1:]), processes)
        raise typer.Exit(status)
    of_all, given = size_and_settings(size, settings, ignore_reservations=ignore_reservations)
    given |= _of_data(attributes, pairs, domains, degrade)
    given |= _of_added(generated, generator, unlabelled)
    targets = {"data.masks": masks, "data.boxes": boxes, "data.label_sets": label_sets}
    given |= {name: value for name, value in targets.items() if value}
    if fast_sums:
        given["training.fast_sums"] = True
    if style_image is not None:
        given["model.style_image"] = str(style_image.resolve())
    run = train_with_bar(
        data,
        out=out,
        preset=preset,
        task=task,
        mode=mode,
        config=config,
        settings=given,
        size=of_all,
        minutes=minutes,
        images=images,
        seed=seed,
        evaluate_every=evaluate_every,
        patience=patience,
        tokenizer=tokenizer,
        init=init,
        clean=clean,
        private=None if private is None else _of_privacy(private),
        secure=secure,
        track=track,
        processes=processes,
        device=device,
    )
    if place is not None and place.rank:  # the first process says what there is to say
        raise typer.Exit(INTERRUPTED if run.status == "interrupted" else 0)
    leave_if_interrupted(run, as_json=as_json)
    following = next_command(
        run.folder,
        sources=_sources(data, pairs or domains) if run.translates or run.task == "style" else None,
        images=data if run.reconstructs or run.task == "embed" else None,
        task=run.task,
    )
    output.result(run_payload(run), output.facts({**run_text(run), "Next": following}), as_json=as_json)


def _sources(data: str, declared: str | None) -> str:
    """Return the folder of source images, or an example file if the data has no such folder.

    declared: the pairs or domains of the data.
    """
    folder = Path(data) / (declared or "").partition(":")[0]
    return str(folder) if declared and ":" in declared and folder.is_dir() else IMAGE_TO_TRANSLATE


def _of_data(
    attributes: str | None, pairs: str | None, domains: str | None, degrade: str | None
) -> dict[str, Any]:
    """The settings of `data` that have an option of their own."""
    names = None if attributes is None else split_names(attributes)
    given = {"data.attributes": names, "data.pairs": pairs, "data.domains": domains, "data.degrade": degrade}
    return {name: value for name, value in given.items() if value is not None}


def _of_added(share: float | None, generator: str | None, unlabelled: str | None) -> dict[str, Any]:
    """The settings of images besides the data; what is a path gets one that is valid everywhere."""
    given: dict[str, Any] = {} if share is None else {"data.generated": share}
    for key, name in (("data.generator", generator), ("data.unlabelled", unlabelled)):
        if name is not None:
            given[key] = json.dumps(str(Path(name).resolve()) if Path(name).exists() else name)
    return given


def _of_privacy(text: str) -> dict[str, str]:
    """The settings of the section `private`; raises ConfigError for what is not NAME=VALUE."""
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not (name.strip() and value.strip()) for name, _, value in pairs):
        raise ConfigError(
            f"--private {text} is not understood: write it as epsilon=8 or epsilon=8,delta=1e-5."
        )
    return {name.strip(): value.strip() for name, _, value in pairs}
