"""What a pipeline takes is known before it is loaded, and what helps is said when memory runs out."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import danqing as dq
from danqing import machine
from danqing.errors import ConfigError, ModelError
from danqing.families.pipeline import Pipeline
from danqing.live_bytes import LiveBytes
from danqing.pipelines import running
from danqing.pipelines.components import silent
from danqing.pipelines.layout import read_layout
from danqing.pipelines.options import LoadOptions
from tests.tiny_pipelines import KINDS

Folder = Callable[[str], Path]
CPU = torch.device("cpu")


def opened(folder: Path, **options: str) -> Pipeline:
    return Pipeline.open(read_layout(folder), LoadOptions.of(options))


def held(module: nn.Module) -> int:
    return sum(one.nbytes for one in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("sd2", "sdxl-turbo", "flux-schnell")]
)
def test_memory_is_estimated_within_15_percent(kind: str, pipeline_folder: Folder) -> None:
    family = opened(pipeline_folder(kind), size="64x64")
    assert all(one.is_meta for one in family.parameters())
    told = family.memory(CPU)
    assert all(one.is_meta for one in family.parameters())  # nothing was loaded
    family.to("cpu")
    pipe = family.pipe
    for name, size in told.weights.items():
        assert size == pytest.approx(held(getattr(pipe, name)), rel=0.15)

    taken = inspect.signature(pipe.__call__).parameters
    own = {name: False for name in ("use_resolution_binning", "clean_caption") if name in taken}
    given: dict[str, Any] = {**own, "num_inference_steps": 2, "width": 64, "height": 64}
    if "complex_human_instruction" in taken:
        given["complex_human_instruction"] = None
    if kind == "qwen-image":
        given["negative_prompt"] = " "
    tokens = family.call_rules.tokens
    given["prompt"] = "a" * (tokens - 8) if kind in ("qwen-image", "z-image") else "a cat"
    with silent(), torch.no_grad(), LiveBytes() as counted:
        pipe(generator=torch.Generator().manual_seed(0), output_type="pt", **given)
    assert told.activations == pytest.approx(max(counted.trace), rel=0.15)


def test_the_estimate_follows_the_options(pipeline_folder: Folder) -> None:
    folder = pipeline_folder("sd1")
    plain = opened(folder).memory(CPU)
    small = opened(folder, dtype="bfloat16", quantize="float8").memory(CPU)
    assert small.weights["vae"] == plain.weights["vae"] / 2
    assert small.weights["unet"] == pytest.approx(plain.weights["unet"] / 4, rel=0.05)
    assert small.activations == pytest.approx(plain.activations / 2, rel=0.2)
    four = opened(folder, chunk="4").memory(CPU)
    assert four.activations == pytest.approx(4 * plain.activations, rel=0.1)
    less = opened(folder, chunk="4", slicing="true", tiling="true", size="64x64").memory(CPU)
    assert less.decoding < four.decoding  # of four times as many pixels
    assert plain.on_device("none") > plain.on_device("model") > plain.on_device("sequential")


def test_a_pipeline_that_does_not_fit_is_not_loaded(
    pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda device=None: 100_000)
    with pytest.raises(ModelError, match=r"needs .* kB of memory, and cpu has 100 kB free.*dtype=bfloat16"):
        dq.load(pipeline_folder("sd1"))
    with pytest.raises(ModelError, match="tiling=true"):
        dq.load(f"{pipeline_folder('sd1')},dtype=bfloat16")
    with pytest.raises(ModelError, match="quantize=float8"):
        dq.load(f"{pipeline_folder('sd1')},dtype=bfloat16,tiling=true")


def test_when_memory_runs_out_a_sentence_says_what_helps(
    pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dq.load(pipeline_folder("sd1"), marks="none")

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(model.family.pipe.unet, "forward", full)
        with pytest.raises(ConfigError, match="memory of cpu ran out: load it with dtype=bfloat16"):
            model.sample(prompt="x", num_steps=2)
    assert model.sample(prompt="x", num_steps=2).array.shape == (1, 32, 32, 3)
    advice = list[str]()
    options, offload, cuda = LoadOptions(dtype="bfloat16", chunk=2), "none", torch.device("cuda")
    for change in ({"chunk": 1}, {"tiling": True}, {}, {"quantize": "float8"}, {}):
        with pytest.raises(ConfigError) as caught, running.explained(options, cuda, offload):
            full()
        advice.append(str(caught.value))
        options = options.model_copy(update=change)
        offload = "model" if "offload=model" in advice[-1] else offload
    assert [text.partition("with ")[2].partition(",")[0] for text in advice] == [
        "chunk=1",
        "tiling=true",
        "offload=model",
        "quantize=float8",
        "offload=sequential",
    ]


@pytest.mark.parametrize("options", ["dtype=bfloat16", "tiling=true", "slicing=true,chunk=2"])
def test_options_of_loading_change_how_and_not_what_is_made(options: str, pipeline_folder: Folder) -> None:
    plain = dq.load(pipeline_folder("sd1"), marks="none")
    other = dq.load(f"{pipeline_folder('sd1')},{options}", marks="none")
    args: dict[str, Any] = {"prompt": "a cat", "seeds": [4], "num_steps": 3}
    found, expected = other.sample(**args).array.astype(int), plain.sample(**args).array
    assert abs(found - expected).mean() < 4
    if options == "dtype=bfloat16":
        assert other.family.pipe.unet.dtype == torch.bfloat16


def test_weights_are_stored_in_8_bits(pipeline_folder: Folder) -> None:
    model = dq.load(f"{pipeline_folder('sd1')},quantize=float8", marks="none")
    stored = {one.dtype for one in model.family.pipe.unet.parameters()}
    assert torch.float8_e4m3fn in stored
    assert model.sample(prompt="x", num_steps=2).array.std() > 0
    with pytest.raises(ConfigError, match="needs bitsandbytes"):
        dq.load(f"{pipeline_folder('sd1')},quantize=nf4")


def test_a_backend_of_attention_is_chosen_where_there_is_a_choice(pipeline_folder: Folder) -> None:
    model = dq.load(f"{pipeline_folder('flux')},attention=_native_math,size=32x32", marks="none")
    assert model.sample(prompt="x", num_steps=1).array.shape == (1, 32, 32, 3)
    with pytest.raises(ConfigError, match="attention=magic cannot be used"):
        dq.load(f"{pipeline_folder('flux')},attention=magic")
    with pytest.raises(ConfigError, match="no backends"):
        dq.load(f"{pipeline_folder('sd1')},attention=native")
