"""What the page of an export needs: ONNX Runtime Web, checked, and controls that allow what options allow."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from danqing.compress.browser_runtime import FILES, VERSION, runtime_files
from danqing.errors import ConfigError, DataError
from danqing.families.flow import FlowConfig
from danqing.options import CONTROLS, check


def test_a_runtime_of_another_version_and_an_incomplete_one_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not have ort\.wasm\.min\.mjs: it needs .*" + VERSION):
        runtime_files(tmp_path)
    for name in FILES:
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is not that of onnxruntime-web"):
        runtime_files(tmp_path)
    (tmp_path / f"onnxruntime-web-{VERSION}.tgz").write_bytes(b"\x1f\x8bnot a package")
    with pytest.raises(ConfigError, match=r"\.tgz cannot be read"):
        runtime_files(tmp_path)


def test_a_damaged_package_is_rejected_wherever_it_is_damaged(tmp_path: Path) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as package:
        for name in FILES:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = 400_000
            package.addfile(member, io.BytesIO(bytes(random.Random(0).choices(range(40), k=member.size))))
    content = whole.getvalue()
    for place in range(0, len(content), len(content) // 30):
        damaged = content[:place] + b"\xff" * 9 + content[place + 9 :]
        (tmp_path / f"onnxruntime-web-{VERSION}.tgz").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"cannot be read|is not that of"):
            runtime_files(tmp_path)


def test_without_network_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path))
    monkeypatch.delenv("DANQING_DATA", raising=False)
    monkeypatch.setenv("DANQING_MIRROR", "http://127.0.0.1:9/mirror")
    with pytest.raises(DataError) as raised:
        runtime_files()
    message = str(raised.value)
    assert f"http://127.0.0.1:9/mirror/onnxruntime-web/onnxruntime-web-{VERSION}.tgz" in message
    assert message.endswith("or name a folder that has its files with --runtime.")
    assert message.count(". ") == 0


@pytest.mark.parametrize("name", [name for name, control in CONTROLS.items() if "choices" not in control])
def test_a_control_allows_what_its_option_allows(name: str) -> None:
    control = CONTROLS[name]
    check(**{name: control["low"]})
    if "high" in control:
        check(**{name: control["high"]})
    for beyond in (control["low"] - 1, control.get("high", -2) + 1):
        with pytest.raises(ConfigError):
            check(**{name: beyond})


def test_choices_are_those_of_their_option() -> None:
    for choice in CONTROLS["guidance_schedule"]["choices"]:
        check(guidance_schedule=choice)
    for name in ("sampler", "guidance"):
        allowed = FlowConfig.model_json_schema()["properties"][name]["enum"]
        assert set(CONTROLS[name]["choices"]) <= set(allowed)
