"""The style family: Gram matrices by an independent formula, learning, exact resuming."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import danqing as dq
from danqing.errors import ConfigError
from danqing.families import build_learner, parse_config
from danqing.families.base import Batch, Condition
from danqing.families.style import PHASE, Style
from danqing.families.style_loss import StyleLoss, gram, total_variation
from danqing.nets.style import StyleNet

SHAPE = {"width": 32, "height": 36, "channels": 3, "features": 4, "blocks": 1}


def stages(images: Tensor) -> list[Tensor]:
    """Four feature maps of a network that needs no weights."""
    maps, found = images, []
    for _ in range(4):
        maps = torch.cat([maps, maps.roll(1, 3) * maps], 1).relu()
        found.append(maps)
        maps = torch.nn.functional.avg_pool2d(maps, 2)
    return found


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_gram_matrix_is_that_of_its_definition() -> None:
    """Johnson et al. 2016, equation 3, summed pixel by pixel; where features are does not matter."""
    features = drawn(2, 3, 4, 5)
    wanted = np.zeros((2, 3, 3))
    for y in range(4):
        for x in range(5):
            pixel = features[:, :, y, x].numpy()
            wanted += pixel[:, :, None] * pixel[:, None, :] / (3 * 4 * 5)
    np.testing.assert_allclose(gram(features).numpy(), wanted, rtol=1e-5, atol=1e-6)
    shuffled = features.flatten(2)[:, :, torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(gram(shuffled.view(2, 3, 4, 5)), gram(features))


def test_an_image_has_no_distance_from_itself() -> None:
    style, image = drawn(1, 3, 40, 40), drawn(2, 3, 32, 32, seed=1)
    loss = StyleLoss(stages, style)
    same = loss.terms(image, loss.content_of(image))
    assert same.content == 0
    assert same.style > 0.01
    assert loss.terms(style, loss.content_of(style)).style < 1e-10
    flat = torch.zeros(1, 3, 8, 8)
    assert total_variation(flat) == 0
    assert total_variation(flat + torch.arange(8)) == 1


def test_it_learns_to_come_nearer_to_the_style() -> None:
    torch.manual_seed(0)
    learner = build_learner(parse_config({"family": "style", **SHAPE, "style": 5.0}))
    assert isinstance(learner, Style)
    learner._compare = StyleLoss(stages, drawn(1, 3, 40, 40) * torch.tensor([1.0, 0.1, 0.1])[:, None, None])
    batch = Batch(drawn(4, 3, 36, 32, seed=2), Condition())
    (phase,) = learner.phases()
    optimizer, rng, losses = torch.optim.Adam(learner.parameters(), lr=5e-3), torch.Generator(), []
    for _ in range(40):
        found = learner.loss(batch, phase, rng)
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        losses.append(float(found.logged["style"]))
    assert phase.name == PHASE
    assert min(losses[-5:]) < 0.5 * losses[0]


@pytest.mark.parametrize("shape", [(48, 32), (17, 23), (1, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_shapes_work_and_each_image_is_on_its_own(shape: tuple[int, int], channels: int) -> None:
    network = StyleNet(channels, features=4, blocks=1)
    images = drawn(3, channels, *shape)
    made = network(images)
    assert made.shape == images.shape
    torch.testing.assert_close(network(images[1:2])[0], made[1], rtol=0, atol=1e-5)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(8):
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((36, 36)).save(tmp_path / "photos" / f"{number}.png")
    Image.fromarray(rng.integers(0, 256, (40, 48, 3)).astype(np.uint8)).save(tmp_path / "style.png")
    return tmp_path


@pytest.mark.slow
def test_a_style_resumes_exactly_and_stylizes_files(data: Path) -> None:
    settings = {"style_image": str(data / "style.png"), "style_side": 32, "features": 4, "blocks": 1}
    settings |= {"training.measure_seconds": 0.001, "schedule.name": "constant"}
    settings |= {"training.precision": "float32"}  # a measured choice could differ between two runs

    def train(out: str, images: int) -> dq.Run:
        return dq.train(
            data / "photos", task="style", settings=settings, size=(32, 32), out=data / out, images=images,
            listener=dq.Listener(),
        )  # fmt: skip

    whole = train("whole", 16)
    train("parts", 8)
    parts = train("parts", 16)
    weights = [load_file(run.model / "model.safetensors") for run in (whole, parts)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    made = dq.stylize(whole, data / "photos" / "3.png")
    assert made.shape == (36, 36, 3)
    found = dq.stylize(whole.folder, data / "photos", out=data / "styled")
    assert len(found.written) == 8
    Image.new("RGB", (48, 40)).save(data / "style.png")
    with pytest.raises(ConfigError, match="is not the image that this run learns the style of"):
        train("parts", 24)


def test_a_style_needs_an_image(data: Path) -> None:
    with pytest.raises(ConfigError, match="name it by --style-image FILE"):
        dq.train(data / "photos", task="style", size=(32, 32), out=data / "run", images=8)
