"""Loads the components of a checked pipeline, and puts them together."""

import contextlib
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from danqing.errors import ConfigError, ModelError, first_line
from danqing.names import first_few
from danqing.pipelines.kinds import Kind
from danqing.pipelines.layout import Component, Layout
from danqing.pipelines.options import LoadOptions
from danqing.text.pretrained import quiet

_FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)


def check_installed() -> None:
    """Raise ModelError if the packages that pipelines need are missing."""
    missing = [name for name in ("diffusers", "transformers", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"A pipeline of diffusers needs {' and '.join(missing)}: run pip install 'danqing[diffusers]'."
        )


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silence what `diffusers` and `transformers` say while they load and compute."""
    import diffusers
    import transformers

    with (
        quiet(transformers.utils.logging),
        quiet(diffusers.utils.logging),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def pipeline_class(name: str) -> Any:
    """Return a class of pipelines that makes images from text; raises ModelError."""
    check_installed()
    with silent():
        import diffusers

        found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ModelError(
            f"diffusers {diffusers.__version__} has no pipeline {name}, or lacks a package for it: update "
            "diffusers."
        )
    taken = inspect.signature(found.__call__).parameters
    if not {"prompt", "num_inference_steps", "generator"} <= taken.keys() or "num_frames" in taken:
        raise ModelError(f"{name} does not make images from text: choose another pipeline.")
    return found


def load_components(layout: Layout, options: LoadOptions, device: torch.device) -> dict[str, Any]:
    """Load all components of a pipeline into the memory of the processor.

    device: where they will compute, which decides the number format.
    Raises ModelError for weights that are missing or do not fit, and ConfigError for options that cannot be.
    """
    check_installed()
    with silent(), torch.random.fork_rng(devices=[]):
        return {name: _load(layout, one, options, device) for name, one in layout.components.items()}


def build(layout: Layout, kind: Kind, components: Mapping[str, Any]) -> Any:
    """Return the pipeline that generates images, of loaded components; raises ModelError."""
    chosen = pipeline_class(kind.classes[0])
    arguments = inspect.signature(chosen.__init__).parameters
    settings = {name: value for name, value in layout.settings.items() if name in arguments}
    absent = {name: None for name in _components_of(chosen) if name not in components}
    given = {name: one for name, one in components.items() if name in arguments}
    with silent():
        try:
            pipe = chosen(**absent, **given, **settings)
        except _FAILURES as error:
            raise ModelError(
                f"{layout.folder} does not fit {chosen.__name__}: {first_line(error)}"
            ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def for_images(pipe: Any, task: Literal["vary", "fill"]) -> Any:
    """Return the pipeline of another task, with the same components."""
    with silent():
        import diffusers

        auto = {"vary": diffusers.AutoPipelineForImage2Image, "fill": diffusers.AutoPipelineForInpainting}
        other = auto[task].from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    return other


def _components_of(chosen: Any) -> list[str]:
    """Return the names of the components that a class takes."""
    expected, _ = chosen._get_signature_keys(chosen)
    return [*expected]


def _load(layout: Layout, component: Component, options: LoadOptions, device: torch.device) -> Any:
    import diffusers

    chosen = class_of(component)
    folder = layout.folder / component.name
    arguments: dict[str, Any] = {"local_files_only": True}
    if issubclass(chosen, nn.Module):
        is_diffusers = issubclass(chosen, diffusers.ModelMixin)
        dtype = options.torch_dtype(device)
        arguments |= {"torch_dtype" if is_diffusers else "dtype": dtype, "use_safetensors": True}
        arguments |= {"variant": component.variant, "output_loading_info": True}
        if (quantization := _quantization(component, options, dtype)) is not None:
            arguments["quantization_config"] = quantization
    try:
        loaded = chosen.from_pretrained(os.fspath(folder), **arguments)
    except (ModelError, ConfigError):
        raise
    except _FAILURES as error:
        raise ModelError(
            f"The {component.name} of {layout.folder} cannot be loaded: {first_line(error)}"
        ) from error
    if not issubclass(chosen, nn.Module):
        return loaded
    network, report = loaded
    if lacking := sorted(report["missing_keys"]):  # these would be random numbers
        raise ModelError(
            f"The {component.name} of {layout.folder} lacks weights ({first_few(lacking)}): get a whole copy."
        )
    return network.eval().requires_grad_(False)


def class_of(component: Component) -> Any:
    """Return the class of a component.

    Raises ModelError for one that is not part of the libraries.
    """
    import diffusers
    import transformers
    from diffusers import pipelines

    libraries = {"diffusers": diffusers, "transformers": transformers}
    place = libraries.get(component.library) or getattr(pipelines, component.library, None)
    found = getattr(place, component.kind, None)
    bases = (
        diffusers.ModelMixin,
        diffusers.SchedulerMixin,
        transformers.PreTrainedModel,
        transformers.PreTrainedTokenizerBase,
        transformers.image_processing_utils.BaseImageProcessor,
        transformers.ProcessorMixin,
        transformers.FeatureExtractionMixin,
    )
    if not (isinstance(found, type) and issubclass(found, bases)):
        raise ModelError(
            f"The {component.name} is a {component.kind} of {component.library}, which this version of "
            "diffusers and transformers does not have: update them, or use another pipeline."
        )
    return found


def _quantization(component: Component, options: LoadOptions, dtype: torch.dtype) -> Any:
    """Return how a denoiser is stored by bitsandbytes; None for other components and formats."""
    if options.quantize in ("none", "float8") or component.name not in ("unet", "transformer"):
        return None
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantize={options.quantize} needs bitsandbytes: run pip install bitsandbytes, or use "
            "quantize=float8."
        )
    import diffusers

    settings: dict[str, Any] = {"load_in_8bit": True}
    if options.quantize == "nf4":
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    chosen: Any = diffusers.BitsAndBytesConfig
    return chosen(**settings)
