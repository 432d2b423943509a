"""Families of other packages are found by their entry points, and imported when their name is asked for."""

import sys
from pathlib import Path

import pytest

from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import Fills, HasLikelihood, HasTokenLikelihood, Tokenizes, Varies
from danqing.families.base import Family, FamilyConfig

MODULE = """
from typing import Literal
from danqing.families.base import Family, FamilyConfig

class TinyConfig(FamilyConfig):
    family: Literal["tiny"] = "tiny"
    strength: float = 1.0

class Tiny(Family):
    config: TinyConfig

    def __init__(self, config):
        super().__init__()
        self.config = config

    def vary(self, images, condition, *, seeds, strength):
        return images

class Bare(Family):
    pass
"""


def install(folder: Path, package: str, module: str, **points: str) -> None:
    """Lay a package out as an installer does."""
    (folder / f"{package}.py").write_text(module, encoding="utf-8")
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {package}:{value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[danqing.families]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that is searched first; what it holds is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for package in ("tiny_family", "broken_family"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    return tmp_path


def test_a_family_of_another_package_is_built_by_its_name(site: Path) -> None:
    install(site, "tiny_family", MODULE, tiny="Tiny", vae="Tiny")
    assert families.names()[-1] == "tiny"
    assert families.config_class("vae").__module__ == "danqing.families.vae"  # our own names win
    assert "tiny_family" not in sys.modules
    config = families.parse_config({"family": "tiny", "strength": 2})
    family = families.build(config)
    assert isinstance(config, FamilyConfig)
    assert isinstance(family, Family)
    assert type(family).__name__ == "Tiny"
    assert families.can_sample("tiny")
    del sys.modules["tiny_family"]


def test_a_broken_package_is_named_in_one_sentence(site: Path) -> None:
    install(site, "tiny_family", MODULE, bare="Bare", absent="Absent", settings="TinyConfig")
    install(site, "broken_family", "import a_module_that_is_not_there", broken="Broken", bare="Bare")
    expected = {
        "broken": r"'broken' of the package broken_family .*a_module_that_is_not_there.*update or uninstall",
        "absent": r"of the package tiny_family .*Absent",
        "settings": r"TinyConfig is not a subclass of Family",
        "bare": r"packages broken_family and tiny_family each have a family called 'bare'",
        "elsewhere": r"no family called 'elsewhere'.*embedder, absent, bare, broken, settings",
    }
    for name, sentence in expected.items():
        with pytest.raises(ConfigError, match=sentence):
            families.config_class(name)
    del sys.modules["tiny_family"]


def test_messages_name_the_families_that_can_and_no_others(site: Path) -> None:
    vqvae = families.parse_config({"family": "vqvae"})
    before = {protocol: families.implementing(protocol) for protocol in (Fills, Varies, HasTokenLikelihood)}
    assert {"GAN", "VAE", "transformer"} <= set(before[Varies])
    assert "VQ-VAE" not in before[Fills]
    assert before[HasTokenLikelihood] == ["raster transformer"]
    assert "transformer without a tokenizer" in families.implementing(HasLikelihood)
    assert families.alternatives(Tokenizes) == "a VQ-VAE"
    install(site, "tiny_family", MODULE, tiny="Tiny", absent="Absent")
    assert families.implementing(Varies) == [*before[Varies], "tiny"]
    assert families.implementing(Fills) == before[Fills]
    sentence = families.cannot(vqvae, "vary an image", Varies)
    assert sentence.startswith("A VQ-VAE cannot vary an image: use a GAN, a VAE, a transformer")
    assert sentence.endswith(" or a tiny.")
    del sys.modules["tiny_family"]


def test_a_family_without_a_configuration_of_its_own_is_rejected(site: Path) -> None:
    install(site, "tiny_family", MODULE, bare="Bare")
    with pytest.raises(ConfigError, match="does not annotate `config`"):
        families.config_class("bare")
    del sys.modules["tiny_family"]
