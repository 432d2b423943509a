"""Attributions add up, find what counts, and equal those of captum."""

import pytest
import torch
from torch import Tensor, nn

from danqing.recognition.explain.attribution import grad_cam, integrated_gradients, occlusion


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.GELU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 14, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


COLUMNS = torch.tensor([4, 0, 2])


def test_integrated_gradients_equal_those_of_captum(network: nn.Module, images: Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    expected = attr.IntegratedGradients(network).attribute(images, target=COLUMNS, n_steps=50)
    found = integrated_gradients(network, images, COLUMNS)
    assert (found - expected).abs().max() < 1e-5


def test_occlusion_equals_that_of_captum(network: nn.Module, images: Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    expected = attr.Occlusion(network).attribute(
        images, target=COLUMNS, sliding_window_shapes=(3, 5, 4), strides=(3, 2, 3)
    )
    found = occlusion(network, images, COLUMNS, window=(5, 4), stride=(2, 3))
    assert (found - expected).abs().max() < 1e-5


def test_grad_cam_equals_that_of_captum(network: nn.Sequential, images: Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    maps = attr.LayerGradCam(network, network[2]).attribute(images, target=COLUMNS)
    expected = attr.LayerAttribution.interpolate(maps, (14, 12), interpolate_mode="bilinear")
    found = grad_cam(network, images, COLUMNS, layer=network[2], signed=True)
    assert (found - expected).abs().max() < 1e-5
    assert torch.equal(
        grad_cam(network, images, COLUMNS, layer=network[2]).min().sign().relu(), torch.zeros(())
    )


def test_integrated_gradients_add_up_to_the_change_of_the_output(network: nn.Module, images: Tensor) -> None:
    found = integrated_gradients(network, images, COLUMNS, baseline=-1.0).sum((1, 2, 3))
    with torch.no_grad():
        change = network(images) - network(torch.full_like(images, -1.0))
    assert torch.allclose(found, change.gather(1, COLUMNS[:, None])[:, 0], atol=1e-4)


def test_all_methods_find_the_one_place_that_counts() -> None:
    class Corner(nn.Module):
        """Output 1 is the mean of four pixels."""

        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Conv2d(1, 1, 1, bias=False)
            nn.init.ones_(self.map.weight)

        def forward(self, x: Tensor) -> Tensor:
            seen = torch.zeros_like(x)
            seen[:, :, 2:4, 4:6] = 0.25
            value = (self.map(x) * seen).sum((1, 2, 3))
            return torch.stack([0 * value, value], 1)

    net, image, column = Corner(), torch.ones(1, 1, 8, 8), torch.tensor([1])
    for found in (
        integrated_gradients(net, image, column),
        occlusion(net, image, column, window=(2, 2), stride=(2, 2)),
    ):
        assert torch.allclose(found[0, 0, 2:4, 4:6].mean(), found.max())
        found[:, :, 2:4, 4:6] = 0
        assert found.abs().max() < 1e-6


def test_what_is_explained_does_not_change_the_network(network: nn.Sequential, images: Tensor) -> None:
    with torch.inference_mode():
        grad_cam(network, images, COLUMNS, layer=network[2])
        integrated_gradients(network, images, COLUMNS, steps=3)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network[2]._forward_hooks
