"""`danqing explain`: why a model gives images their labels, or what a generator has learned."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DeviceOption, ModelArgument

if TYPE_CHECKING:
    from danqing.recognition.explain.findings import Explanation

EXAMPLES = """Examples:

  danqing explain runs/kinds cat.jpg dog.jpg --out why.html

  danqing explain runs/kinds 'mistakes/*.png' --label dog --index photos.index

  danqing explain runs/faces --classifier runs/smiles --out faces.html

  danqing explain runs/faces --segmenter runs/parts --layer generator.blocks.2

  danqing explain demo --prompt 'a red apple on a blue background'"""


def explain(
    model: ModelArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="For a model that recognizes: files, a folder, a zip, or a pattern.",
            metavar="IMAGE",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Also explain this label, besides the most probable one.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="For a generator that reads text: show where its samples attend to each word.",
            metavar="TEXT",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(help="For a GAN or a VAE: a classifier whose labels name directions.", metavar="MODEL"),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="For a GAN or a VAE: a segmenter whose classes name units of a layer.", metavar="MODEL"
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="The layer with these units; a wrong name lists all.", show_default="the one in the middle"
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            help="An index of the training images (danqing index), to show the nearest.", metavar="DIR"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed explains the same samples.")] = 0,
    out: Annotated[Path, typer.Option(help="Write the page to this file.", metavar="FILE.html")] = Path(
        "explanation.html"
    ),
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Explain a model's answers, or what a generator has learned, on one page."""
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")  # torch alone takes seconds to import
        import danqing
        from danqing.machine import use_free_cores

        use_free_cores()
        found = danqing.explain(
            model,
            list(images) if images else None,
            label=label,
            prompt=prompt,
            classifier=classifier,
            segmenter=segmenter,
            layer=layer,
            index=index,
            seed=seed,
            device=device,
            out=out,
            on_progress=bar.update,
        )
    output.result({**found.plain(), "page": out}, _text(found, out), as_json=as_json)


def _text(found: "Explanation", out: Path) -> str:
    rows = {section.title: section.words for section in found.sections}
    return output.facts({**rows, "Page": out})
