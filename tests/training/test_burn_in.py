"""What changes in the burn-in follows its formula, and the images seen alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.training import burn_in
from danqing.training.config_sections import OptimizerConfig, ScheduleConfig


def test_the_burn_in_rises_by_half_a_cosine_over_its_share_of_the_run():
    config = ScheduleConfig(burn_in=0.4)
    shares = [burn_in.progress(config, images, 1000) for images in (0, 100, 200, 300, 400, 900)]
    assert shares == pytest.approx([0, 0.5 - 0.125**0.5, 0.5, 0.5 + 0.125**0.5, 1, 1])
    assert burn_in.progress(ScheduleConfig(burn_in=0), 0, 1000) == 1


@given(burnt_in=st.floats(0, 1), total=st.integers(1, 10**9), images=st.integers(0, 10**9))
def test_the_burn_in_never_falls_and_stays_in_bounds(burnt_in, total, images):
    config = ScheduleConfig(burn_in=burnt_in)
    now, later = (burn_in.progress(config, seen, total) for seen in (images, images + 1000))
    assert 0 <= now <= later <= 1


def test_betas_go_from_the_first_to_the_final_ones():
    config = OptimizerConfig(betas=(0.0, 0.9), final_betas=(0.0, 0.99))
    assert burn_in.betas(config, 0.0) == (0.0, 0.9)
    assert burn_in.betas(config, 0.5) == pytest.approx((0.0, 0.945))
    assert burn_in.betas(config, 1.0) == pytest.approx((0.0, 0.99))
    assert burn_in.betas(OptimizerConfig(betas=(0.5, 0.9)), 0.5) == (0.5, 0.9)
