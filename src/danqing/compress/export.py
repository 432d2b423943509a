"""Exports a model: graphs that other programs run, what they need to know, and a check."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from danqing import atomic
from danqing.compress import codes, flow, one_shot, parity, recognizers, targets, tracing
from danqing.compress.browser_runtime import runtime_files
from danqing.compress.plan import Plan, Size
from danqing.compress.runtime import manifest as form
from danqing.compress.runtime.graphs import open_graph
from danqing.compress.runtime.manifest import Check, GraphForm, Manifest, Precision, Target
from danqing.compress.web import write_page
from danqing.errors import ConfigError, DanqingError, ModelError
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
    precision: fp16 stores weights in half the bytes; bf16 computes matrix products in bfloat16, for openvino
        alone.
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
    if runtime is not None and not is_page:
        raise ConfigError("Only an export to web has a runtime of its own: leave it out.", "runtime")
    folder = Path(out)
    _check_folder(folder)
    trained = open_trained(model) if isinstance(model, str | Path) else model
    plan = plan_of(trained)
    if is_page and not isinstance(trained, Model):
        raise ModelError("The page samples images, and this model recognizes them: export it to onnx.")
    scripts = runtime_files(None if runtime is None else Path(runtime), on_progress) if is_page else {}
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        manifest = _write(parts, trained, plan, target, precision, _checked_sizes(plan.sizes, sizes))
        if isinstance(trained, Model) and is_page:
            write_page(parts, manifest, trained.marks, scripts)
        if folder.exists():
            shutil.rmtree(folder)
        parts.chmod(0o777 & ~atomic.umask())
        os.replace(parts, folder)
    except OSError as error:
        raise DanqingError(f"{folder} cannot be written ({error}): choose another folder.") from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    atomic.sync_folder(folder.parent)
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


def _checked_sizes(possible: SizeRange, sizes: Sequence[Size]) -> list[Size]:
    """Return the sizes at which graphs are checked, the usual one first."""
    chosen = [possible.check(size) for size in sizes]
    if not chosen:
        chosen = list(possible.own)
        if possible.multiple and len(chosen) == 1:
            width, height = chosen[0]
            other = (width + possible.multiple, height)
            chosen += [other] if possible.fits(other) else []
    return list(dict.fromkeys([possible.own[0], *chosen]))


def _write(
    folder: Path,
    model: Model | Recognizer,
    plan: Plan,
    target: Target,
    precision: Precision,
    sizes: Sequence[Size],
) -> Manifest:
    """Write and check all graphs of a plan, then their manifest, which is returned."""
    graphs: dict[str, GraphForm] = {}
    checks: list[Check] = []
    lowered: list[Check] = []
    files: list[Path] = []
    for name, graph in plan.graphs.items():
        path = folder / f"{name}.onnx"
        tracing.trace(name, graph, path)
        traced = path.read_bytes()
        stored = targets.store(path, target, "float32")
        described = GraphForm(file=stored[0].name, inputs=graph.inputs, outputs=graph.outputs)
        found = list(parity.measure(name, graph, open_graph(stored[0], described), sizes))
        parity.check(found)
        checks += found
        if precision != "float32":
            path.write_bytes(traced)
            stored = targets.store(path, target, precision)
            opened = open_graph(stored[0], described, precision=precision)
            lowered += parity.measure(name, graph, opened, sizes)
            parity.check_lowered(lowered)
        graphs[name] = described
        files += stored
    parities = form.Parity(tolerance=parity.TOLERANCE, checks=tuple(checks), lowered=tuple(lowered))
    digests = {path.name: form.digest(path) for path in files}
    manifest = _manifest(model, plan, target, precision, graphs, parities, digests)
    atomic.write_text(folder / "README.md", _readme(manifest, plan))
    atomic.write_text(folder / form.FILE, manifest.model_dump_json(indent=1, exclude_defaults=False) + "\n")
    return manifest


def _manifest(
    model: Model | Recognizer,
    plan: Plan,
    target: Target,
    precision: Precision,
    graphs: dict[str, GraphForm],
    parities: form.Parity,
    digests: dict[str, str],
) -> Manifest:
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
        parity=parities,
        files=digests,
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
    lines = [
        f"# {manifest.provenance.model}",
        "",
        f"A {display_name(manifest.family)} as graphs for {runtime}, without PyTorch. In float32 they differ "
        f"from the model by at most {worst:.1g}.",
        "",
        "```python",
        f"from danqing.compress.runtime import load  # pip install 'danqing[{extra}]'",
        "",
        'load("this folder").sample(16, seed=1).save("grid.png")',
        "```",
        "",
        "`export.json` says what each graph takes and returns, and how noise is drawn.",
        *plan.left_out,
    ]
    return "\n".join(lines) + "\n"


def _check_folder(folder: Path) -> None:
    """Raise ConfigError for a folder that is not an export and not empty."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} is not a folder: choose another one.", "out")
    if folder.is_dir() and atomic.present(folder) and not (folder / form.FILE).is_file():
        raise ConfigError(f"{folder} has other files: choose a new folder.", "out")
