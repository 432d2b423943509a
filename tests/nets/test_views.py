"""Views, histograms of edges and whitening, by closed forms."""

import torch

from danqing.nets.gradients import edge_histograms
from danqing.nets.views import Changes, random_views
from danqing.nets.whitening import Whitening

WHOLE = Changes(area=(1.0, 1.0), aspect=1.0, flip=False)


def images(n: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.rand(n, channels, 10, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_view_of_all_is_the_image_and_a_smaller_one_averages_it() -> None:
    rng = torch.Generator().manual_seed(1)
    x = images(channels=4)
    x[:, 3] = 1  # opaque
    assert torch.allclose(random_views(x, (10, 14), WHOLE, rng), x, atol=1e-5)
    ramp = torch.linspace(-1, 1, 14).expand(2, 1, 10, 14)
    half = random_views(ramp, (5, 7), WHOLE, rng)
    assert torch.allclose(half[:, :, :, 1:-1], ramp.view(2, 1, 10, 7, 2).mean(4)[:, :, :5, 1:-1], atol=1e-5)


def test_views_lie_within_their_image_and_half_are_mirrored() -> None:
    rng = torch.Generator().manual_seed(2)
    ramp = torch.linspace(-1, 1, 14).expand(400, 1, 10, 14)
    views = random_views(ramp, (10, 14), Changes(area=(0.2, 0.5), blur=1.0), rng)
    across = views[:, 0, 0, -1] - views[:, 0, 0, 0]
    assert 0.4 < float((across < 0).float().mean()) < 0.6
    assert float(across.abs().min()) > 0.2
    assert float(across.abs().max()) < 1.8
    assert float(views.abs().max()) <= 1
    assert torch.allclose(views[:, :, 0], views[:, :, -1], atol=1e-5)  # columns are not mixed


def test_each_view_has_changes_of_its_own_that_follow_from_the_generator() -> None:
    changes = Changes(colour=0.5, cutout=0.4)
    same = images(1).expand(6, -1, -1, -1)
    first, again = (random_views(same, (8, 8), changes, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(view.flatten().tolist()) for view in first}) == 6
    assert bool(((first == 0).flatten(2).sum(2) > 0).all())


def test_the_edges_of_a_ramp_point_where_it_brightens() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    rightwards, downwards = (edge_histograms(x, 2)[0] for x in (ramp, ramp.transpose(2, 3)))
    assert rightwards[:, 0, 0].argmax() == 0
    assert downwards[:, 0, 0].argmax() == 2
    assert float(rightwards[4].max()) < 0.01  # the opposite direction
    assert torch.allclose(rightwards, edge_histograms(ramp + 0.3, 2)[0], atol=1e-5)


def test_whitening_makes_directions_uncorrelated_and_parts_count_alike() -> None:
    rng = torch.Generator().manual_seed(4)
    mixing = torch.randn(6, 6, generator=rng) * torch.tensor([1, 1, 1, 100, 100, 100.0])
    vectors = torch.randn(5000, 6, generator=rng) @ mixing + 3
    full = Whitening((6,), 6, 1.0, window=10**9)
    for part in vectors.split(500):
        full.observe(part)
    assert torch.allclose(full.mean, vectors.mean(0), atol=1e-2)
    assert torch.allclose(full.covariance, torch.cov(vectors.T, correction=0), rtol=1e-3, atol=1e-2)
    parted = Whitening((3, 3), 4, 0.0, window=10**9)
    parted.observe(vectors)
    found = torch.cov(parted(vectors).T)
    assert found.shape == (4, 4)
    assert torch.allclose(found, found.diagonal().diag(), atol=1e-3)
    assert bool((found.diagonal().diff() <= 0).all())
    scaled, scales = Whitening((3, 3), 4, 0.0, window=10**9), torch.tensor([1, 1, 1, 0.01, 0.01, 0.01])
    scaled.observe(vectors * scales)
    assert torch.allclose(scaled(vectors * scales), parted(vectors), atol=1e-2)


def test_a_whitening_that_is_loaded_projects_as_the_one_that_was_saved() -> None:
    vectors = torch.randn(100, 4, generator=torch.Generator().manual_seed(5)) * torch.arange(1, 5)
    first, second = (Whitening((4,), 2, 0.5, window=1000) for _ in range(2))
    first.observe(vectors)
    before = second(vectors)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        assert torch.equal(second(vectors), first(vectors))
    second(vectors.requires_grad_()).sum().backward()
    assert vectors.grad is not None
    assert not torch.equal(second(vectors), before)


def test_parts_that_never_change_count_for_nothing() -> None:
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    alone, beside, never = (
        Whitening((3,), 3, 0.5, 100),
        Whitening((3, 2), 5, 0.5, 100),
        Whitening((2,), 2, 1, 9),
    )
    constant = torch.full((50, 2), 0.5)
    alone.observe(vectors)
    beside.observe(torch.cat([vectors, constant], 1))
    never.observe(constant)
    expected, found = alone(vectors), beside(torch.cat([vectors, constant], 1))
    torch.testing.assert_close(torch.pdist(found), torch.pdist(expected), atol=1e-3, rtol=1e-3)
    assert (never(constant) == 0).all()
