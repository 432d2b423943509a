"""The settings of marks: their text, the environment, and the folder with keys."""

import stat
from pathlib import Path

import pytest

from danqing.errors import ConfigError, TrustError
from danqing.trust.settings import MarkSettings, Regime, trust_folder


def test_the_default_is_eu_and_the_environment_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DANQING_MARKS")
    assert MarkSettings.from_environment() == MarkSettings.from_text("eu") == MarkSettings()
    monkeypatch.setenv("DANQING_MARKS", "cn")
    assert MarkSettings.of(None).regimes == {Regime.CN}
    assert MarkSettings.of("none").regimes == frozenset()


def test_each_regime_has_its_marks() -> None:
    eu, cn, both, none = (MarkSettings.from_text(text) for text in ("eu", "cn", "eu, cn", "none"))
    assert (eu.signs, eu.registers, eu.labels) == (True, True, False)
    assert (cn.signs, cn.registers, cn.labels) == (False, False, True)
    assert (both.signs, both.registers, both.labels) == (True, True, True)
    assert not none.regimes


@pytest.mark.parametrize(
    "text", ["eu", "cn,eu", "none", "eu,credentials=sidecar,watermark=off,prompt=on,producer=A Studio"]
)
def test_settings_are_the_same_after_writing_and_reading_their_text(text: str) -> None:
    settings = MarkSettings.from_text(text)
    assert MarkSettings.from_text(str(settings)) == settings


@pytest.mark.parametrize("text", ["us", "none,eu", "eu,credentials=yes", "eu,colour=red", "eu,watermark=1"])
def test_unknown_marks_are_rejected(text: str) -> None:
    with pytest.raises(ConfigError):
        MarkSettings.from_text(text)


@pytest.mark.parametrize("text", ["none,cn", "cn,none"])
def test_what_contradicts_none_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be none and cn at once"):
        MarkSettings.from_text(text)


def test_only_its_owner_may_read_the_trust_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "deep" / "trust"))
    assert stat.S_IMODE(trust_folder().stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "file"))
    with pytest.raises(TrustError, match="DANQING_TRUST"):
        trust_folder()
