"""`danqing verify`: where images come from, by their credentials, labels, watermark and registry."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing import locale
from danqing.cli import output
from danqing.errors import ConfigError, DanqingError

if TYPE_CHECKING:
    from danqing.trust.verify import Provenance

EXAMPLES = """Examples:

  danqing verify picture.png

  danqing verify downloads/ --json

  danqing verify picture.webp --sidecar credentials.c2pa

  danqing verify picture.jpg --root studio-root.pem

  danqing verify picture.jpg --model runs/words"""
_NOT_OURS = 1


def verify(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="A root certificate that is trusted besides your own; may be repeated.", metavar="FILE"
        ),
    ] = None,
    sidecar: Annotated[
        Path | None,
        typer.Option(
            help="Credentials of a single image that are in a file of their own.",
            metavar="FILE",
            show_default="the image's name with the suffix .c2pa",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A transformer, to look for the mark in the codes that it samples.",
            metavar="MODEL",
            show_default="only marks that need no model",
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Verify where images come from: ours, other, none or broken.

    Nothing is fetched from the network. The exit code is 0 if all images are ours, and 1 otherwise.
    """
    from danqing.trust import verify as verification

    paths = list(_files(images))
    if sidecar is not None and len(paths) != 1:
        raise ConfigError("--sidecar belongs to one image: give one image.")
    trained = None
    if model is not None:
        import danqing

        trained = danqing.load(model)
    found: dict[Path, Provenance] = {}
    failed: dict[Path, str] = {}
    for path in paths:
        try:
            found[path] = verification.verify(path, roots=root or (), sidecar=sidecar, model=trained)
        except DanqingError as error:
            if len(paths) == 1:
                raise
            failed[path] = str(error)
    payload = {
        "images": [{"name": str(path), **each.plain()} for path, each in found.items()],
        "failed": {str(path): why for path, why in failed.items()},
    }
    shown = [_shown(path, each) for path, each in found.items()]
    shown += [output.printable(f"{path} was not verified: {why}\n") for path, why in failed.items()]
    output.result(payload, "\n".join(shown), as_json=as_json)
    if failed or any(each.verdict is not verification.Verdict.OURS for each in found.values()):
        raise typer.Exit(_NOT_OURS)


def _files(images: Sequence[Path]) -> Iterator[Path]:
    """List the images; a zip is a file like others, as an image can be a zip at the same time."""
    from danqing.image_files.formats import is_image_name
    from danqing.names import natural_order

    for path in images:
        if not path.is_dir():
            yield path
            continue
        inside = [file for file in path.rglob("*") if file.is_file() and is_image_name(file.name)]
        if not inside:
            raise ConfigError(f"There are no images in {path}: name image files or another folder.")
        yield from sorted(inside, key=lambda file: natural_order(str(file)))


def _shown(path: Path, found: "Provenance") -> str:
    rows = [(each.name, locale.translate_exactly(str(each.outcome)), each.detail) for each in found.checks]
    summary = output.printable(found.summary).replace("\n", " ")  # a signer chooses the name in it
    verdict = f"{output.printable(path)}: {found.verdict}. {summary}\n"
    return verdict + output.table([("CHECK", "RESULT", "DETAIL"), *rows])
