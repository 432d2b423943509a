"""What a pipeline is loaded from: the files are checked before anything of them is used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import danqing as dq
from danqing.cli.serve import named_models
from danqing.errors import ConfigError, ModelError
from danqing.pipelines import kinds
from danqing.pipelines.layout import INDEX, choose_weights, read_layout, wanted
from danqing.pipelines.options import LoadOptions
from danqing.pipelines.sources import split_source
from danqing.service import settings
from tests.tiny_pipelines import KINDS

Folder = Callable[[str], Path]


@pytest.fixture
def copy(pipeline_folder: Folder, tmp_path: Path) -> Path:
    """A tiny Stable Diffusion that a test may damage."""
    return Path(shutil.copytree(pipeline_folder("sd1"), tmp_path / "sd1"))


def change_index(folder: Path, **values: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | values))


def test_the_place_of_a_pipeline_and_its_options(tmp_path: Path) -> None:
    assert split_source("org/model") == ("org/model", {})
    assert split_source("org/model,dtype=bfloat16,size=64x32") == (
        "org/model",
        {"dtype": "bfloat16", "size": "64x32"},
    )
    assert split_source("a, b/model,chunk=2") == ("a, b/model", {"chunk": "2"})
    odd = tmp_path / "sd,dtype=float16"
    odd.mkdir()
    assert split_source(str(odd)) == (str(odd), {})
    options = LoadOptions.of({"size": "64x32", "tiling": "true", "chunk": "4", "guidance": "0"})
    assert (options.size, options.tiling, options.chunk, options.guidance) == ((64, 32), True, 4, 0.0)


def test_a_network_that_also_reads_a_mask_is_rejected(copy: Path) -> None:
    file = copy / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 9}))
    change_index(copy, _class_name="StableDiffusionInpaintPipeline")
    with pytest.raises(ModelError, match=r"reads 9 channels, not the 4 of an image\. Use the text-to-image"):
        dq.load(copy)


def test_a_pipeline_without_its_denoiser_is_rejected(copy: Path) -> None:
    change_index(copy, unet=[None, None])
    with pytest.raises(ModelError, match="sd1 has no unet, which would remove the noise"):
        dq.load(copy)
    change_index(copy, _class_name="StableCascadeCombinedPipeline")
    with pytest.raises(ModelError, match="sd1 has no transformer"):
        dq.load(copy)


@pytest.mark.parametrize("values", [{"dtype": "int4"}, {"chunk": "0"}, {"colour": "red"}, {"size": "big"}])
def test_other_options_are_rejected_in_a_sentence(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        LoadOptions.of(values)


def test_an_own_model_has_no_options_of_loading(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a pipeline"):
        dq.load("demo,dtype=float16")


@pytest.mark.parametrize(
    ("names", "variant", "chosen"),
    [
        (["model.safetensors", "model.fp16.safetensors"], "", ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], "fp16", ["model.fp16.safetensors"]),
        (["model.fp16.safetensors", "pytorch_model.bin"], "", ["model.fp16.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"],
            "",
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["diffusion_pytorch_model.non_ema.safetensors", "x.safetensors"], "fp16", None),
        (["pytorch_model.bin"], "", []),
    ],
)
def test_which_weights_are_read(names: list[str], variant: str, chosen: list[str] | None) -> None:
    found, _ = choose_weights(names, variant)
    assert found == (names[:1] if chosen is None else chosen)


def test_only_what_is_read_is_downloaded(pipeline_folder: Folder) -> None:
    folder = pipeline_folder("sd1")
    own = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    extra = ["pipeline.py", "unet/net.py", "unet/diffusion_pytorch_model.bin", "sd.safetensors", "a.ckpt"]
    extra += ["unet/diffusion_pytorch_model.fp16.safetensors", "onnx/model.onnx", "unet/flax_model.msgpack"]
    index = json.loads((folder / INDEX).read_text())
    assert sorted(wanted([*own, *extra], index)) == sorted(own)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in wanted([*own, *extra], index, "fp16")


def test_code_that_comes_with_a_pipeline_is_rejected(copy: Path) -> None:
    (copy / "unet" / "my_unet.py").write_text("raise SystemExit('this ran')")
    change_index(copy, unet=["my_unet", "MyUNet"])
    with pytest.raises(ModelError, match="comes with its own code"):
        dq.load(copy)
    (copy / "unet" / "my_unet.py").unlink()
    with pytest.raises(ModelError, match="MyUNet of my_unet"):
        dq.load(copy)
    change_index(copy, unet=["diffusers", "UNet2DConditionModel"], _class_name=["pipeline", "Mine"])
    with pytest.raises(ModelError, match="comes with its own code"):
        dq.load(copy)
    change_index(copy, _class_name="os")
    with pytest.raises(ModelError, match="has no pipeline os"):
        dq.load(copy)
    change_index(copy, _class_name="TextToVideoSDPipeline")
    with pytest.raises(ModelError, match=r"does not make images|has no pipeline"):
        dq.load(copy)


@pytest.mark.parametrize("kind", ["os:system", "diffusers:ModelMixin.from_pretrained", "torch:load"])
def test_a_component_is_a_class_of_the_libraries(copy: Path, kind: str) -> None:
    change_index(copy, unet=kind.split(":"))
    with pytest.raises(ModelError):
        dq.load(copy)


def test_pickled_weights_are_rejected(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="only pickled weights"):
        dq.load(copy)
    shutil.copy(copy / "unet" / "diffusion_pytorch_model.bin", weights)
    with pytest.raises(ModelError, match="pickle"):
        dq.load(copy)


def test_damaged_and_missing_files_are_named(copy: Path, tmp_path: Path) -> None:
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ModelError, match="cut short"):
        dq.load(copy)
    outside = tmp_path / "elsewhere.safetensors"
    outside.write_bytes(whole)
    weights.unlink()
    weights.symlink_to(outside)
    with pytest.raises(ModelError, match="link that leads out"):
        dq.load(copy)
    weights.unlink()
    with pytest.raises(ModelError, match="no safetensors"):
        dq.load(copy)
    shutil.rmtree(copy / "vae")
    with pytest.raises(ModelError, match="lacks the files of its vae"):
        dq.load(copy)


def test_an_index_of_weights_names_files_beside_it(copy: Path) -> None:
    index = copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}))
    with pytest.raises(ModelError, match="not weights beside it"):
        dq.load(copy)


def test_weights_that_are_missing_are_not_drawn(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_in.weight")
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"lacks weights .*conv_in.weight"):
        dq.load(copy)


def test_each_class_has_its_row_and_its_sizes(pipeline_folder: Folder) -> None:
    found = {}
    for name in KINDS:
        layout = read_layout(pipeline_folder(name))
        kind = kinds.kind_of(layout)
        assert layout.kind in kind.classes
        found[name] = kinds.learned_size(layout, kind), kinds.size_multiple(layout, kind)
    assert found["sd1"] == ((32, 32), 8)
    assert found["sd3"] == ((32, 32), 4)
    assert found["flux"] == found["qwen-image"] == found["z-image"] == ((256, 256), 4)
    assert found["sana"] == ((32, 32), 32)
    assert found["pixart-sigma"] == ((32, 32), 8)


def test_paths_in_a_configuration_of_the_service_keep_their_options(tmp_path: Path) -> None:
    (tmp_path / "sd").mkdir()
    (tmp_path / "service.toml").write_text(
        '[models]\na = "sd,dtype=float16"\nb = "org/model,chunk=2"\nc = {path = "sd,chunk=4", workers = 1}\n'
    )
    models = settings.read(tmp_path / "service.toml")["models"]
    assert models["a"] == f"{tmp_path / 'sd'},dtype=float16"
    assert models["b"] == "org/model,chunk=2"
    assert models["c"]["path"] == f"{tmp_path / 'sd'},chunk=4"
    names = named_models(["org/model,chunk=2", "xl=org/other,dtype=float16", "modelscope:Qwen/Qwen-Image"])
    assert names == {
        "model": "org/model,chunk=2",
        "xl": "org/other,dtype=float16",
        "Qwen-Image": "modelscope:Qwen/Qwen-Image",
    }
