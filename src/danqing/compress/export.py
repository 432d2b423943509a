"""Exports a model: graphs that other programs run, what they need to know, and a check."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from danqing import atomic
from danqing.compress import codes, flow, one_shot, parity, recognizers, result_folder, targets, tracing
from danqing.compress.browser_runtime import runtime_files
from danqing.compress.plan import Plan, Size
from danqing.compress.quantization import recorded
from danqing.compress.runtime import manifest as form
from danqing.compress.runtime.graphs import Array, Graph, imported, open_graph
from danqing.compress.runtime.manifest import Check, GraphForm, Manifest, Precision, Target
from danqing.compress.web import write_page
from danqing.errors import ConfigError, ModelError, not_writable
from danqing.families import display_name
from danqing.families.base import Learner
from danqing.families.flow_sampling import FlowSampler
from danqing.families.gan import GAN
from danqing.families.transformer_sampling import TransformerFamily
from danqing.families.vae import VAE
from danqing.families.vqvae import VQVAE
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer, open_trained
from danqing.progress import ProgressCallback
from danqing.sizes import SizeRange
from danqing.version import __version__

_SAMPLING = """\
from danqing.compress.runtime import load  # pip install 'danqing[{extra}]'

load("this folder").sample(16, seed=1).save("grid.png")
"""
_RECOGNITION = """\
from danqing.compress.runtime import load_recognizer  # pip install 'danqing[{extra}]'
from danqing.image_files import decode

recognizer = load_recognizer("this folder")
print(recognizer.predict(decode("image.png", **recognizer.reading())[None]))
"""


def export(
    model: str | Path | Model | Recognizer,
    out: str | Path,
    *,
    to: Target | Literal["web"] = "onnx",
    precision: Precision = "float32",
    sizes: Sequence[Size] = (),
    runtime: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Path:
    """Export a trained model as a folder of graphs; returns the folder.

    model: a model, or where `danqing.load` finds one.
    out: a new folder, or an earlier export, which is replaced.
    to: the runtime that will run it; web is onnx with a page that runs it in a browser.
    precision: fp16 stores weights in half the bytes; bf16, for openvino alone, also computes matrix products
        in bfloat16. int8, for onnx and models that sample, stores weights in a quarter of the bytes and
        computes most products in 8 bits, whose ranges are those of images that it samples.
    sizes: (width, height) at which a model of several sizes is checked; by default its own and another one.
    runtime: for web, a folder with the files of ONNX Runtime Web, which are downloaded otherwise.
    on_progress: called while they are downloaded.

    Each graph is compared with the network in float32 at several batches and sizes.
    Raises ModelError where a graph differs, a package is missing, or the model cannot be exported;
    ConfigError for an option that is not possible; DataError if a download fails. Nothing is then written.
    """
    is_page = to == "web"
    target: Target = "onnx" if to == "web" else to
    targets.check(target, precision)
    if is_page and precision == "int8":
        raise ConfigError("A page has weights of float32 or fp16: choose one of these.", "precision")
    if runtime is not None and not is_page:
        raise ConfigError("Only an export to web has a runtime of its own: leave it out.", "runtime")
    folder = Path(out)
    result_folder.check(folder, form.FILE)
    trained = open_trained(model) if isinstance(model, str | Path) else model
    plan = plan_of(trained)
    checked = checked_sizes(plan.sizes, sizes)
    if precision == "int8" and not isinstance(trained, Model):
        raise ModelError("int8 is for models that sample images, and this one recognizes them: choose fp16.")
    if is_page and not isinstance(trained, Model):
        raise ModelError("The page samples images, and this model recognizes them: export it to onnx.")
    scripts = runtime_files(None if runtime is None else Path(runtime), on_progress) if is_page else {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        parts = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            manifest = write(parts, trained, plan, traced(plan), target, precision, checked)
            if isinstance(trained, Model) and is_page:
                write_page(parts, manifest, trained.marks, scripts)
            result_folder.publish(parts, folder)
        finally:
            shutil.rmtree(parts, ignore_errors=True)
    except OSError as error:
        raise not_writable(folder, error) from error
    return folder


def plan_of(model: Model | Recognizer) -> Plan:
    """Return what an export consists of; raises ModelError without one."""
    learner = _learner(model)
    if isinstance(model, Recognizer):
        return recognizers.of_recognizer(model)
    if isinstance(learner, GAN):
        return one_shot.of_gan(learner)
    if isinstance(learner, VAE):
        return one_shot.of_vae(learner)
    if isinstance(learner, VQVAE):
        return one_shot.of_vqvae(learner)
    if isinstance(learner, TransformerFamily):
        return codes.of_transformer(learner)
    if isinstance(learner, FlowSampler):
        return flow.of_flow(learner)
    raise ModelError(
        f"A {display_name(learner.config.family)} turns images into others, and is not exported: export a "
        "model that samples or recognizes images."
    )


def _learner(model: Model | Recognizer) -> Learner:
    return model.family if isinstance(model, Model) else model.learner


def checked_sizes(possible: SizeRange, sizes: Sequence[Size] = ()) -> list[Size]:
    """Return the sizes at which graphs are checked, the usual one first.

    sizes: those that were chosen, if any. Raises ConfigError for one that the model does not sample.
    """
    chosen = [possible.check(size) for size in sizes]
    if not chosen:
        chosen = list(possible.own)
        if possible.multiple and len(chosen) == 1:
            width, height = chosen[0]
            other = (width + possible.multiple, height)
            chosen += [other] if possible.fits(other) else []
    return list(dict.fromkeys([possible.own[0], *chosen]))


def check_runtime(target: Target) -> None:
    """Raise ModelError if a package of a target is missing."""
    packages = {"onnx": "export", "onnxscript": "export", "onnxruntime": "export"}
    for package, extra in packages.items() if target == "onnx" else [("openvino", "openvino")]:
        imported(package, extra)


def traced(plan: Plan) -> dict[str, bytes]:
    """Return the graphs of a plan in ONNX and float32, by name.

    Raises ModelError.
    """
    with tempfile.TemporaryDirectory(prefix="danqing-graphs-") as folder:
        path = Path(folder) / "graph.onnx"
        found = {}
        for name, graph in plan.graphs.items():
            tracing.trace(name, graph, path)
            found[name] = path.read_bytes()
    return found


def write(
    folder: Path,
    model: Model | Recognizer,
    plan: Plan,
    graphs: Mapping[str, bytes],
    target: Target,
    precision: Precision,
    sizes: Sequence[Size],
) -> Manifest:
    """Write and check an export in an empty folder.

    Returns its manifest.
    graphs: of the plan, as `traced` returns them. sizes: as `checked_sizes` returns them.
    Raises ModelError.
    """
    forms: dict[str, GraphForm] = {}
    opened: dict[str, Graph] = {}
    files: dict[str, list[Path]] = {}
    checks: list[Check] = []
    for name, graph in plan.graphs.items():
        files[name] = _stored(folder, name, graphs[name], target, "float32")
        forms[name] = GraphForm(file=files[name][0].name, inputs=graph.inputs, outputs=graph.outputs)
        opened[name] = open_graph(files[name][0], forms[name])
        found = list(parity.measure(name, graph, opened[name], sizes))
        parity.check(found)
        checks += found
    manifest = _manifest(model, plan, target, precision, forms, checks)
    lowered: list[Check] = []
    inputs = recorded(manifest, opened) if precision == "int8" else {}
    for name, graph in plan.graphs.items() if precision != "float32" else ():
        files[name] = _stored(folder, name, graphs[name], target, precision, inputs.get(name, ()))
        lower = open_graph(files[name][0], forms[name], precision=precision)
        lowered += parity.measure(name, graph, lower, sizes)
        parity.check_lowered(lowered)
    told = manifest.parity.model_copy(update={"lowered": tuple(lowered)})
    digests = {path.name: form.digest(path) for stored in files.values() for path in stored}
    manifest = manifest.model_copy(update={"parity": told, "files": digests})
    atomic.write_text(folder / "README.md", _readme(manifest, plan))
    atomic.write_text(folder / form.FILE, manifest.model_dump_json(indent=1, exclude_defaults=False) + "\n")
    return manifest


def _stored(
    folder: Path,
    name: str,
    graph: bytes,
    target: Target,
    precision: Precision,
    inputs: Sequence[Mapping[str, Array]] = (),
) -> list[Path]:
    """Store a graph of ONNX as a target does; returns its files, the one to open first."""
    path = folder / f"{name}.onnx"
    path.write_bytes(graph)
    return targets.store(path, target, precision, inputs)


def _manifest(
    model: Model | Recognizer,
    plan: Plan,
    target: Target,
    precision: Precision,
    graphs: dict[str, GraphForm],
    checks: Sequence[Check],
) -> Manifest:
    """Return the manifest of an export whose files are not known yet."""
    config = _learner(model).config
    conditions = {}
    if isinstance(model, Model):
        names = ("labels", "label_frequencies", "label_captions", "captions", "attributes")
        conditions = {name: getattr(config, name) for name in (*names, "attribute_examples")}
    return Manifest(
        version=__version__,
        family=config.family,
        target=target,
        precision=precision,
        loop=plan.loop,
        graphs=graphs,
        width=config.width,
        height=config.height,
        channels=config.channels,
        sizes=plan.sizes,
        chunk=model.family.chunk if isinstance(model, Model) else 64,
        parameters=sum(parameter.numel() for parameter in _learner(model).parameters()),
        options=dict(plan.options),
        text=plan.text,
        **conditions,
        provenance=_provenance(model),
        facts=model.facts,
        parity=form.Parity(tolerance=parity.TOLERANCE, checks=tuple(checks)),
        files={},
    )


def _provenance(model: Model | Recognizer) -> form.ProvenanceForm:
    if not isinstance(model, Model):
        return form.ProvenanceForm(model=model.learner.config.family, model_digest="")
    told = model.declaration("sample")
    return form.ProvenanceForm(
        model=told.model,
        model_digest=told.model_digest,
        licence=told.licence,
        creator=told.creator,
        reservations=dict(told.reservations),
    )


def _readme(manifest: Manifest, plan: Plan) -> str:
    """Return a page that says what the folder holds and how it is run."""
    worst = max(check.error for check in manifest.parity.checks)
    extra, runtime = ("openvino", "OpenVINO") if manifest.target == "openvino" else ("export", "ONNX Runtime")
    samples = manifest.loop.kind != "recognize"
    lines = [
        f"# {manifest.provenance.model}",
        "",
        f"A {display_name(manifest.family)} as graphs for {runtime}, without PyTorch. In float32 they differ "
        f"from the model by at most {worst:.1g}.",
        "",
        "```python",
        *(_SAMPLING if samples else _RECOGNITION).format(extra=extra).splitlines(),
        "```",
        "",
        "`export.json` says what each graph takes and returns"
        f"{', and how noise is drawn' if samples else ''}.",
        *plan.left_out,
    ]
    return "\n".join(lines) + "\n"
