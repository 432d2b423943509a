"""What options may be is said in one place, and is what the families themselves take."""

import math
from typing import Any

import pytest
import torch

from danqing import families, options
from danqing.errors import ConfigError
from danqing.families.base import Condition
from danqing.model.model import Model

SHAPE = {"width": 4, "height": 4, "channels": 1}
WRITES = {"family": "transformer", **SHAPE, "layers": 1, "features": 16, "heads": 2, "labels": ("a", "b")}
FAMILIES: list[dict[str, Any]] = [
    {"family": "gan", **SHAPE, "latents": 2, "generator_features": 4, "discriminator_features": 4},
    {"family": "vae", **SHAPE, "net": "mlp", "features": 4, "latents": 2},
    WRITES,
    {**WRITES, "order": "masked"},
]
VALUES: dict[type, tuple[Any, ...]] = {
    float: (-1e-9, 0.0, 1e-50, 1e-9, 1e-3, 1.0, 1.0 + 1e-9, 9.0, 1e3, 1e38, 1e39, math.inf, math.nan),
    int: (-1, 0, 1, 3),
    str: ("", "auto", "float32", "bfloat16", "constant", "linear", "cosine", "Linear"),
}


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.get("order", config["family"]))
def test_a_family_takes_what_its_options_may_be(config: dict[str, Any]) -> None:
    model = Model(families.build(families.parse_config(config)))
    condition = Condition(label=torch.tensor([0]) if model.labels else None)
    tried = 0
    for name, default in model.sample_options.items():
        for value in VALUES[type(default)]:
            found = []
            for take in (
                lambda value=value, name=name: options.check(**{name: value}),
                lambda value=value, name=name: model.family.sample(condition, seeds=[0], **{name: value}),
            ):
                try:
                    painted = take()
                except ConfigError:
                    found.append(False)
                else:
                    found.append(True)
                    assert painted is None or painted.isfinite().all()
            assert found in ([True, True], [False, False]), (name, value)
            tried += 1
    assert tried >= 8


def test_a_verb_has_the_options_that_its_family_passes_on() -> None:
    _, vae, raster, _ = (Model(families.build(families.parse_config(config))) for config in FAMILIES)
    assert vae.options_of("sample") == {"temperature": 1.0}
    assert vae.options_of("vary") == {"strength": 0.5}
    assert raster.options_of("fill") == raster.sample_options
    assert raster.options_of("vary") == {"strength": 0.5, **raster.sample_options}
    with pytest.raises(ConfigError, match="temperature") as refused:
        vae.check_options({"temperature": 0.5}, "vary")
    assert refused.value.option == "temperature"
    for name in ("top_k", "top_p", "temperature"):
        with pytest.raises(ConfigError, match=f"option {name} cannot be True"):
            raster.check_options({name: True})
    for name in ("precision", "guidance_schedule"):
        with pytest.raises(ConfigError, match=name) as refused:
            raster.check_options({name: "x"})
        assert refused.value.option == name
