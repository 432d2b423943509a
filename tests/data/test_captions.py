"""One caption of an image's several is shown at a time, and which one follows from the place in the run."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.data import Batches, Dataset, open_dataset
from danqing.data.captions import captions_of, chosen
from danqing.data.tables import caption_text as text_of

from .pictures import write


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Image 0 has no caption, image n has n captions: `n.0`, `n.1` and so on."""
    folder = tmp_path_factory.mktemp("pictures")
    write(folder, [f"{n}.png" for n in range(5)])
    texts: list[object] = [
        None,
        "1.0",
        ["2.0", "2.1"],
        "3.0\n3.1\n\n 3.2 ",
        ["4.0", None, "4.1", "4.2", "4.\n3"],
    ]
    rows = [{"file_name": f"{n}.png", "text": text} for n, text in enumerate(texts)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_dataset(folder, cache_dir=tmp_path_factory.mktemp("cache"))


def test_a_list_in_the_metadata_is_a_line_each(dataset: Dataset) -> None:
    assert dataset.texts([0, 1, 2, 4]) == ("", "1.0", "2.0\n2.1", "4.0\n4.1\n4.2\n4. 3")
    assert captions_of(dataset.texts([3])[0]) == ["3.0", "3.1", "3.2"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "text"), [(None, None), ("", None), ([], None), ("a", "a"), (7, "7"), (["a", "b\tc"], "a\nb c")]
)
def test_text_of_what_metadata_may_hold(value: object, text: str | None) -> None:
    assert text_of(value) == text


def test_a_batch_shows_a_caption_of_each_of_its_images(dataset: Dataset) -> None:
    batches = Batches(dataset, 5, seed=1, use_texts=True, prefetch=False)
    ahead = Batches(dataset, 5, seed=1, use_texts=True, prefetch=True)
    seen: dict[int, set[str]] = {n: set() for n in range(5)}
    for position in range(0, 400, 5):
        text = batches.at(position).condition.text
        assert text is not None
        assert text == ahead.at(position).condition.text == batches.condition(position).text
        for index, caption in zip(batches.indices(position).tolist(), text, strict=True):
            seen[index].add(caption)
    assert seen == {
        0: {""},
        1: {"1.0"},
        2: {"2.0", "2.1"},
        3: {"3.0", "3.1", "3.2"},
        4: {"4.0", "4.1", "4.2", "4. 3"},
    }
    assert Batches(dataset, 5, seed=1).at(0).condition.text is None


def test_data_without_captions_gives_none(tmp_path: Path) -> None:
    write(tmp_path, ["0.png"])
    assert Batches(open_dataset(tmp_path), 2, 0, use_texts=True).at(0).condition.text is None


@given(st.integers(1, 12), st.integers(0, 500), st.integers(0, 2**40))
def test_the_choice_hangs_on_seed_and_place_alone(batch_size: int, position: int, seed: int) -> None:
    texts = ["a\nb\nc"] * batch_size
    one_by_one = [chosen(["a\nb\nc"], seed, position + row)[0] for row in range(batch_size)]
    assert list(chosen(texts, seed, position)) == one_by_one


def test_every_caption_comes_as_often() -> None:
    lines = chosen(["a\nb\nc"] * 3000, 7, 0)
    counts = np.array([lines.count(line) for line in "abc"])
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(3000 * 2 / 9)
    assert lines != chosen(["a\nb\nc"] * 3000, 8, 0)
