"""A service that requires a signature serves signed models alone, sealed ones too."""

import base64
import io
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.errors import ModelError
from danqing.model.files import Access
from danqing.service import settings
from danqing.service.engine import model_description
from danqing.trust import keys
from tests.service.serving import served


def test_only_signed_models_are_served_and_sealed_ones_are_opened(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, mine = tmp_path / "release.key", tmp_path / "mine.key"
    public, recipient = keys.create_signing_key(release), keys.create_sealing_key(mine)
    signed = shutil.copytree(models["gan"], tmp_path / "gan")
    dq.sign(signed, release)
    sealed = dq.seal(signed, tmp_path / "gan.sealed", to=recipient)
    changed = shutil.copytree(signed, tmp_path / "changed")
    (changed / "README.md").write_text("Another card.")
    unsigned = dq.seal(models["gan"], tmp_path / "unsigned.sealed", to=recipient)
    folders = {"signed": signed, "sealed": sealed, "changed": changed, "unsigned": unsigned}
    named = {name: str(path) for name, path in folders.items()} | {"plain": models["gan"]}
    monkeypatch.setenv("DANQING_SEAL_KEY", str(mine))
    with served(named, tmp_path / "data", require_signature=(public,)) as here:
        listed = httpx.get(f"{here.url}/v1/models").json()["data"]
        available = {model["id"]: model["available"] for model in listed}
        body = {"prompt": "", "seed": 3}
        answers = {
            name: httpx.post(f"{here.url}/v1/images/generations", json={**body, "model": name}, timeout=60)
            for name in ("signed", "sealed", "plain")
        }
        card = httpx.get(f"{here.url}/v1/models/sealed").json()["card"]
        (signed / "config.json").write_text("{}")  # the loaded model does not change
        again = httpx.post(f"{here.url}/v1/images/generations", json={**body, "model": "signed"}, timeout=60)
    good = {"signed": True, "sealed": True}
    assert available == {**good, "changed": False, "unsigned": False, "plain": False}
    expected = dq.load(models["gan"]).sample(1, seed=3).array[0]
    for answer in (answers["signed"], answers["sealed"], again):
        picture = base64.b64decode(answer.json()["data"][0]["b64_json"])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), expected)
    assert answers["plain"].status_code == 503
    assert "# GAN" in card


def test_an_index_is_not_served_where_a_signature_is_required() -> None:
    model_description.check_index(Access())
    with pytest.raises(ModelError, match="not signed"):
        model_description.check_index(Access(require=(Path("release.pub"),)))


def test_keys_in_a_settings_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text('require_signature = ["release.pub"]\n[models]\ncats = "cats"\n')
    assert settings.checked(settings.read(file)).require_signature == (tmp_path / "release.pub",)
