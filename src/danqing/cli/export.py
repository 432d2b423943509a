"""`danqing export`: write a trained model as graphs that run without PyTorch."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import parse_size

EXAMPLES = """Examples:

  danqing export runs/photos --to onnx --out photos-onnx

  danqing export runs/photos --to openvino --precision bf16 --out photos-openvino

  danqing export runs/photos --to web --out photos-web

  danqing export runs/stone --to onnx --sizes 32x32,48x32 --out stone-onnx"""


def export(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, the id of a model on the hub, or demo.")
    ],
    to: Annotated[
        Literal["onnx", "openvino", "web"],
        typer.Option(help="The runtime that will run it; web is a page that runs it in a browser."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an earlier export.")],
    sizes: Annotated[
        str,
        typer.Option(
            help="Sizes at which a model of several sizes is checked.",
            metavar="WxH,WxH",
            show_default="its own and another one",
        ),
    ] = "",
    precision: Annotated[
        Literal["float32", "bf16", "fp16", "int8"],
        typer.Option(
            help="fp16 and bf16 store weights in half the bytes, int8 (onnx) in a quarter; bf16 (openvino) "
            "and int8 also compute with fewer bits."
        ),
    ] = "float32",
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="For web, a folder with the files of onnxruntime-web.", show_default="a checked download"
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Export a model to run without PyTorch, and check the result."""
    chosen = [parse_size(size.strip()) for size in sizes.split(",") if size.strip()]

    from danqing.compress.export import export
    from danqing.compress.runtime import manifest

    with progress.Bar() as bar:
        folder = export(
            model, out, to=to, precision=precision, sizes=chosen, runtime=runtime, on_progress=bar.update
        )
    written = manifest.read(folder)
    error = max(check.error for check in written.parity.checks)
    count = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    payload = {"export": folder, "bytes": count, "parity": written.parity.model_dump(mode="json")}
    facts = {
        "Export": folder,
        "Size": f"{count / 1e6:.1f} MB",
        "Difference": f"at most {error:.1g} in float32, of {len(written.parity.checks)} checks",
    }
    if to == "web":
        facts["To open it"] = f"python -m http.server -d {folder}, then http://localhost:8000"
    output.result(payload, output.facts(facts), as_json=as_json)
