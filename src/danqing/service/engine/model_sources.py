"""What models are served from: exports as they are, and others exported once where the settings say so."""

import asyncio
import contextlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from typing import Any

from danqing import interpreter
from danqing.folder_formats import is_export
from danqing.service.engine.catalogue import Catalogue
from danqing.service.settings import Settings

_log = logging.getLogger("danqing.engine")

_UNSIGNED = (
    "an export has no signature: serve the signed model itself with engine.runtime = onnx or openvino, or "
    "leave require_signature out."
)


async def prepare(settings: Settings, catalogue: Catalogue) -> None:
    """Find out what each model is served from, before the workers start.

    A model that cannot be served gets a `fault` in the catalogue.
    """
    others = dict[str, str]()
    for name, source in settings.all_models.items():
        if not is_export(source):
            others[name] = source
        elif settings.require_signature:
            catalogue.cannot_be_served(name, _UNSIGNED)
    if importlib.util.find_spec("torch") is None:
        target = settings.engine.runtime if settings.engine.runtime != "torch" else "onnx"
        for name, source in others.items():
            catalogue.cannot_be_served(
                name,
                f"{source} is not an export, and PyTorch is not installed here: run danqing export {source} "
                f"--to {target} --out {name}-{target} where it is, and serve that folder.",
            )
    elif others and settings.engine.runtime != "torch":
        await _export(others, settings, catalogue)


async def _export(models: Mapping[str, str], settings: Settings, catalogue: Catalogue) -> None:
    """Have models exported by a process of its own, which returns the memory of PyTorch when it ends."""
    process = await asyncio.create_subprocess_exec(
        *interpreter.command("danqing.service.engine.export_once"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=interpreter.environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told = {
        "models": dict(models),
        "target": settings.engine.runtime,
        "folder": str((settings.data / "exports").absolute()),
        "require_signature": [str(path) for path in settings.require_signature],
    }
    unanswered = dict(models)
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        await process.stdin.drain()
        async for line in process.stdout:
            answer = json.loads(line)
            if answer["kind"] != "begins":
                del unanswered[answer["name"]]
            _take(answer, settings, catalogue)
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    for name in unanswered:
        catalogue.cannot_be_served(
            name, f"the process that exported it ended with {code}: serve it with engine.runtime = torch."
        )


def _take(answer: Mapping[str, Any], settings: Settings, catalogue: Catalogue) -> None:
    """Record what the exporting process says of a model."""
    name, target = answer["name"], settings.engine.runtime
    if answer["kind"] == "begins":
        _log.info("the model %s is exported to %s once, which takes a while", name, target)
    elif answer["kind"] == "exported":
        _log.info("the model %s is served from its export %s", name, answer["folder"])
        catalogue.serve_from(name, answer["folder"])
    else:
        catalogue.cannot_be_served(name, answer["fault"])
