"""A page that samples an exported model in the browser, and loads nothing from outside of its folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danqing import atomic
from danqing.compress.runtime.manifest import Manifest
from danqing.compress.runtime.model import RuntimeModel
from danqing.options import CONTROLS
from danqing.page import part
from danqing.trust import labels
from danqing.trust.marking import once
from danqing.trust.settings import MarkSettings

FIELDS = {"image_id": "{IMAGE_ID}", "pixels_sha256": "{PIXELS_SHA256}", "time": "{TIME}"}
"""What the page puts into the packet of an image, by the arguments of `labels.packet`."""

_README = """
## In the browser

`index.html` samples the model in a browser. Any web server can serve this folder:

```
python -m http.server
```

Then open http://localhost:8000. The page loads nothing from elsewhere. `runtime/` is ONNX Runtime, under the
licence beside it.
"""

_PAGE = Path(__file__).with_name("page")
_LICENCE = "LICENSE-onnxruntime.txt"


def write_page(
    folder: Path, manifest: Manifest, marks: str | MarkSettings | None, runtime: Mapping[str, bytes]
) -> None:
    """Write the page into the folder of an export in ONNX.

    marks: of its images, of which the page writes the metadata labels; None reads `DANQING_MARKS`.
    runtime: the files of ONNX Runtime, as `browser_runtime.runtime_files` returns them.
    Raises ConfigError for marks that cannot be read.
    """
    settings = MarkSettings.of(marks)
    if settings.labels:
        once("The page writes metadata labels into its images, but not the visible label.")
    (folder / "runtime").mkdir()
    for name, content in runtime.items():
        atomic.write_bytes(folder / "runtime" / name, content)
    shutil.copyfile(_PAGE / _LICENCE, folder / "runtime" / "LICENSE")
    for script in _PAGE.glob("*.js"):
        shutil.copyfile(script, folder / script.name)
    own_style = (_PAGE / "page.css").read_text(encoding="utf-8")
    atomic.write_text(folder / "page.css", part("studio.css") + own_style)
    atomic.write_json(folder / "page.json", _facts(folder, manifest, settings))
    with open(folder / "README.md", "a", encoding="utf-8") as readme:
        readme.write(_README)
    page = (_PAGE / "index.html").read_text(encoding="utf-8")
    atomic.write_text(folder / "index.html", page.replace("<!-- mountains.svg -->", part("mountains.svg")))


def _facts(folder: Path, manifest: Manifest, marks: MarkSettings) -> dict[str, Any]:
    """Return what the page needs besides `export.json`.

    Its `files` are the bytes of what it loads, for its progress.
    """
    told = manifest.provenance
    loaded = [*(folder / "runtime").iterdir(), *(folder / form.file for form in manifest.graphs.values())]
    return {
        "name": told.model,
        "licence": told.licence,
        "creator": told.creator,
        "xmp": _template(manifest, marks),
        "controls": {name: CONTROLS[name] for name in manifest.options if name in CONTROLS},
        "files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in loaded},
    }


def _template(manifest: Manifest, marks: MarkSettings) -> str:
    """Return the packet of an image with `FIELDS` in place of what only the image knows; "" without marks."""
    if not marks.regimes:
        return ""
    declaration = RuntimeModel(manifest, {}).declaration("sample")
    return labels.packet(declaration, marks, previous=b"", **FIELDS).decode()
