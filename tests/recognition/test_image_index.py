"""An index of images: built, brought up to date, searched by images and words, and shown."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

import danqing as dq
from danqing import families
from danqing.cli import main
from danqing.data import sources
from danqing.errors import DanqingError, DataError, SearchError
from danqing.evaluation.judges import caption_matcher
from danqing.model.model import Model
from danqing.recognition import result_sheet, words
from danqing.recognition.image_index import ImageIndex
from tests import tiny_encoders


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(20):
        (folder / ("cat" if number % 2 else "dog")).mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / ("cat" if number % 2 else "dog") / f"{number}.png")
    return folder


def test_an_image_finds_itself_and_its_altered_copy(photos: Path, tmp_path: Path) -> None:
    picture(7).convert("L").convert("RGB").save(photos / "cat" / "copy.png")
    built = dq.index(photos, tmp_path / "index", encoder="pixels")
    assert len(built) == 21
    (found,) = dq.search(tmp_path / "index", photos / "cat" / "7.png", k=3)
    assert found[0].id == "cat/7.png"
    assert found[0].similarity == pytest.approx(1, abs=1e-6)
    assert found[1].id == "cat/copy.png"
    (cats,) = dq.search(built, photos / "dog" / "2.png", k=30, labels=["cat"])
    assert len(cats) == 11
    assert {match.label for match in cats} == {"cat"}
    pixels = np.asarray(picture(3))[None]
    assert dq.search(built, pixels, k=1)[0][0].id == "cat/3.png"
    assert dq.search(built, photos, k=1)[0][0].similarity == pytest.approx(1, abs=1e-6)


def test_an_update_adds_what_is_new_and_removes_what_is_gone(photos: Path, tmp_path: Path) -> None:
    first = dq.index(photos, tmp_path / "index", encoder="pixels")
    assert first.changed == (20, 0, ())
    picture(50).save(photos / "cat" / "new.png")
    (photos / "dog" / "2.png").unlink()
    (photos / "dog" / "broken.png").write_bytes(b"no image")
    again = dq.index(photos, tmp_path / "index", encoder="pixels")
    assert again.changed[:2] == (1, 1)
    assert [one.name for one in again.changed.skipped] == ["dog/broken.png"]
    fresh = dq.index(photos, tmp_path / "fresh", encoder="pixels")
    assert set(again.looks.ids) == set(fresh.looks.ids)
    queries = photos / "cat"
    ours, theirs = (dq.search(one, queries, k=20) for one in (tmp_path / "index", fresh))
    assert [set(one) for one in ours] == [set(one) for one in theirs]
    with pytest.raises(SearchError, match="built with encoder pixels, not hed"):
        dq.index(photos, tmp_path / "index", encoder="hed")


def test_an_index_follows_images_that_were_moved(photos: Path, tmp_path: Path) -> None:
    dq.index(photos, tmp_path / "index", encoder="pixels")
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    with pytest.raises(SearchError, match="built with data"):  # the old place still has its images
        dq.index(other, tmp_path / "index", encoder="pixels")
    photos.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no longer at"):
        ImageIndex.load(tmp_path / "index").pictures(["cat/1.png"])
    (tmp_path / "strange").mkdir()
    picture(99).save(tmp_path / "strange" / "unknown.png")
    with pytest.raises(SearchError, match="built with data"):
        dq.index(tmp_path / "strange", tmp_path / "index", encoder="pixels")
    assert dq.index(tmp_path / "moved", tmp_path / "index", encoder="pixels").changed == (0, 0, ())
    assert set(ImageIndex.load(tmp_path / "index").pictures(["cat/1.png"])) == {"cat/1.png"}


def test_an_interrupted_build_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danqing.data.decoding.CHUNK", 4)
    monkeypatch.setattr("danqing.recognition.image_index._SAVED_AFTER", 4)
    encode, seen = ImageIndex.encode, list[int]()

    def interrupted(self: ImageIndex, images: torch.Tensor) -> torch.Tensor:
        if sum(seen) >= 12:
            raise KeyboardInterrupt
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(ImageIndex, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dq.index(photos, tmp_path / "index", encoder="pixels")
    monkeypatch.setattr(ImageIndex, "encode", encode)
    assert dq.index(photos, tmp_path / "index", encoder="pixels").changed.added == 8
    assert len(ImageIndex.load(tmp_path / "index")) == 20


def test_words_that_were_learned_from_captions_find_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_matcher, "_SHOWN", 3000)
    built = dq.index("shapes:300", tmp_path / "index", encoder="pixels", size=(16, 16), text=True)
    again = ImageIndex.load(tmp_path / "index")
    source, _ = sources.find_source("shapes:300", "train")
    known = {record.name: record.text for record in source.records(built.facts.spec)}
    texts = [known[name].split("\n")[0] for name in built.looks.ids[:60]]
    found = dq.search(built, text=texts, k=30)
    assert found == dq.search(again, text=texts, k=30)
    hits = [
        any(known[match.id].split("\n")[0] == text for match in one)
        for one, text in zip(found, texts, strict=True)
    ]
    assert np.mean(hits) > 0.5  # by chance 0.1
    (tmp_path / "index" / "index.json").unlink()  # as where the first save was killed half-way
    monkeypatch.setattr(words, "learn", None)
    killed = dq.index("shapes:300", tmp_path / "index", encoder="pixels", size=(16, 16), text=True)
    assert dq.search(killed, text=texts, k=30) == found
    (tmp_path / "index" / "captions" / "words.safetensors").write_bytes(b"\x80")
    with pytest.raises(SearchError, match="damaged"):
        ImageIndex.load(tmp_path / "index")


def test_words_need_captions(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no two different captions"):
        dq.index(photos, tmp_path / "index", encoder="pixels", text=True)
    built = dq.index(photos, tmp_path / "index", encoder="pixels")
    with pytest.raises(SearchError, match="reads no words"):
        dq.search(built, text="a cat")
    with pytest.raises(SearchError, match="one of the two"):
        dq.search(built)
    (photos / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"broken.png cannot be searched for: "):
        dq.search(built, photos / "broken.png")


def test_clip_compares_texts_with_images_as_its_own_library_does(photos: Path, tmp_path: Path) -> None:
    folder, _ = tiny_encoders.written("clip", tmp_path / "clip")
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["a red heart", "two blue stars", "a " * 40]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.inference_mode():
        pooled = theirs.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        expected = F.normalize(theirs.text_projection(pooled), dim=1)
    torch.testing.assert_close(words.ClipTexts(str(folder)).of_texts(texts), expected, atol=1e-5, rtol=1e-4)
    built = dq.index(photos, tmp_path / "index", encoder=f"clip:{folder}", text=True)
    (found,) = dq.search(ImageIndex.load(tmp_path / "index"), text="a red heart", k=20)
    similarities = dict(zip(built.looks.ids, (built.looks.vectors @ expected[0]).tolist(), strict=True))
    assert [match.id for match in found] == sorted(similarities, key=similarities.__getitem__, reverse=True)


def test_other_weights_of_the_encoder_are_refused(photos: Path, tmp_path: Path) -> None:
    folder, _ = tiny_encoders.written("clip", tmp_path / "clip")
    dq.index(photos, tmp_path / "index", encoder=f"clip:{folder}")
    tiny_encoders.written("clip", tmp_path / "clip", seed=1)
    with pytest.raises(SearchError, match="other weights"):
        dq.search(tmp_path / "index", photos / "cat")


def test_a_trained_model_sees_images_at_its_own_size(photos: Path, tmp_path: Path) -> None:
    values = {"family": "vae", "width": 8, "height": 8, "channels": 1, "features": 4}
    family = families.build(families.parse_config(values))
    family.drop_training_only()
    model = Model(family).save(tmp_path / "model")
    built = dq.index(photos, tmp_path / "index", encoder=str(model))
    assert built.facts.spec.size == (8, 8)
    assert built.facts.spec.channels == 1
    (found,) = dq.search(tmp_path / "index", photos / "cat" / "3.png", k=1)
    assert found[0].id == "cat/3.png"


def test_what_was_found_is_shown(photos: Path, tmp_path: Path) -> None:
    built = dq.index(photos, tmp_path / "index", encoder="pixels")
    queries = built.prepared([photos / "cat" / "1.png", photos / "cat" / "3.png"])
    found = built.looks.search(built.encode(queries), 4)
    (photos / found[0][1].id).unlink()  # an image that is gone leaves a grey place
    for name in ("found.png", "found.html"):
        told: dict[str, Any] = {"titles": ["1.png", "<b>3</b>"], "queries": queries.numpy()}
        result_sheet.write(tmp_path / name, built, found, **told)
        result_sheet.write(tmp_path / "new" / name, built, found, **told)
        with pytest.raises(DanqingError, match=r"cannot be written .*choose another --out"):
            result_sheet.write(tmp_path / "found.png" / name, built, found, **told)
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.width > 5 * 104
    text = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert text.count("<img") == 10
    assert "<b>3</b>" not in text


def test_the_commands_build_search_and_group(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(4).save(photos / "dog" / "twin.png")

    def run(*options: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(options)
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out if not left.value.code else printed.err

    index, sheet = str(tmp_path / "index"), str(tmp_path / "found.png")
    code, printed = run("index", str(photos), "--out", index, "--encoder", "pixels", "--json")
    assert (code, json.loads(printed)["images"]) == (0, 21)
    code, printed = run("index", str(photos), "--out", index, "--encoder", "pixels")
    assert "21: 0 added, 0 removed" in printed
    image = str(photos / "dog" / "4.png")
    code, printed = run("search", index, image, "-k", "2", "--out", sheet, "--json")
    matches = json.loads(printed)["results"][0]["matches"]
    assert [match["id"] for match in matches] == ["dog/4.png", "dog/twin.png"]
    assert Path(sheet).exists()
    assert "dog/twin.png" in run("search", index, image)[1]
    assert json.loads(run("search", index, "--duplicates", "0.9999", "--json")[1])["groups"] == [
        ["dog/4.png", "dog/twin.png"]
    ]
    clusters = json.loads(run("search", index, "--clusters", "3", "--json")[1])["clusters"]
    assert sum(len(cluster["images"]) for cluster in clusters) == 21
    code, printed = run("search", index, image, "--text", "a cat")
    assert code == 2
    assert "one of them" in printed
    code, printed = run("search", str(tmp_path / "nothing"), image)
    assert (code, "There is no index in" in printed) == (2, True)
