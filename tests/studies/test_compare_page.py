"""The page, the table and the sentences of a comparison: all that was measured, and no more than that."""

import html.parser
import re
from pathlib import Path

import pytest

from danqing.errors import DataError
from danqing.studies import compare_page, results
from danqing.studies.recommendations import cautions, verdict
from danqing.studies.results import Cell, Comparison
from tests.studies.written import HOSTILE, score, write_comparison


class Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def written(tmp_path: Path) -> tuple[Comparison, Page]:
    told = write_comparison(tmp_path)
    return told, Page(compare_page.write(told, tmp_path).read_text(encoding="utf-8"))


def with_scores(told: Comparison, *changed: tuple[float, float]) -> Comparison:
    """The same comparison with other kernel distances: (value, half of its interval) of each."""
    contestants = list(told.contestants)
    for place, (value, half) in enumerate(changed):
        new = score("kernel", value, half, higher=False, name="KD-x", headline=True)
        kept = [one for one in contestants[place].scores if one.metric != "kernel"]
        contestants[place] = contestants[place].model_copy(update={"scores": (new, *kept)})
    return told.model_copy(update={"contestants": tuple(contestants)})


def test_the_page_is_one_file_that_escapes_what_it_is_given(written: tuple[Comparison, Page]) -> None:
    told, page = written
    sources = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert len(sources) == 5  # real, two grids, two sheets of neighbours
    assert all(source is not None and source.startswith("data:image/") for source in sources)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) > 10
    for words in (
        *told.verdict,
        *told.cautions,
        "CC BY-SA 4.0",
        "danqing compare 'pets & more/'",
        "flow-32 failed.",
    ):
        assert words in page.text


def test_a_comparison_reads_back_as_it_was_written(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)
    told.write(tmp_path / "compare.json")
    assert results.read(tmp_path / "compare.json") == told
    assert '"text": "KD-efficientnet-lite0 0.0214 (95% interval' in (tmp_path / "compare.json").read_text()
    (tmp_path / "compare.json").write_text('{"contestants": 3}')
    with pytest.raises(DataError, match="compare again"):
        results.read(tmp_path / "compare.json")


def test_the_best_is_marked_only_where_its_interval_overlaps_no_other(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)

    def marks(*changed: tuple[float, float]) -> tuple[str, ...]:
        found = results.row(with_scores(told, *changed), "kernel")
        assert found is not None
        return found.marks

    assert marks((0.02, 0.004), (0.03, 0.004)) == ("best", "", "")
    assert marks((0.03, 0.004), (0.02, 0.004)) == ("", "best", "")
    assert marks((0.02, 0.006), (0.03, 0.006)) == ("tie", "tie", "")


def by_two_networks(
    told: Comparison, *pairs: tuple[float, float], flattered: tuple[bool, bool] = (False, False)
) -> Comparison:
    """The comparison with kernel distances by two networks: (first, second) of each contestant."""
    contestants = list(told.contestants)
    for place, (values, flatters) in enumerate(zip(pairs, flattered, strict=True)):
        first, second = (
            score("kernel", value, 0.002, higher=False, name=name)
            for value, name in zip(values, NAMES, strict=True)
        )
        first = first.model_copy(update={"headline": True, "flattered": flatters})
        kept = [one for one in contestants[place].scores if one.metric != "kernel"]
        contestants[place] = contestants[place].model_copy(update={"scores": (first, second, *kept)})
    return told.model_copy(update={"contestants": tuple(contestants)})


NAMES = ("KD-efficientnet-lite0", "KD-hed")


def test_both_networks_are_in_the_table_and_their_disagreement_is_said(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)
    agreed = by_two_networks(told, (0.02, 0.2), (0.03, 0.3))
    first, second = results.row(agreed, "kernel"), results.row(agreed, "second/kernel")
    assert first is not None
    assert second is not None
    assert (first.detail, second.detail) == NAMES
    assert (first.marks, second.marks) == (("best", "", ""), ("best", "", ""))
    assert "disagree" not in " ".join(cautions(agreed))
    overlapping = by_two_networks(told, (0.02, 0.301), (0.03, 0.3))
    assert "disagree" not in " ".join(cautions(overlapping))
    opposed = by_two_networks(told, (0.02, 0.4), (0.03, 0.3))
    (sentence,) = [one for one in cautions(opposed) if "disagree" in one]
    assert f"KD-efficientnet-lite0 puts gan-32 before vae-32 {HOSTILE}, and KD-hed the other way" in sentence
    page = Page(compare_page.write(opposed, tmp_path).read_text(encoding="utf-8"))
    assert "Kernel distance, second network" in page.text


def test_a_flattering_score_wins_nothing_where_another_network_does_not_flatter(tmp_path: Path) -> None:
    """The GAN leads by the network that it was trained with, and the VAE by the other one."""
    told = by_two_networks(write_comparison(tmp_path), (0.01, 0.4), (0.03, 0.3), flattered=(True, False))
    assert results.deciding_key(told) == "second/kernel"
    first, second = results.row(told, "kernel"), results.row(told, "second/kernel")
    assert first is not None
    assert second is not None
    assert first.marks == ("", "", "")
    assert second.marks == ("", "best", "")
    assert "most like the real ones, choose vae-32" in " ".join(verdict(told))
    assert "gan-32 was trained with efficientnet-lite0" in " ".join(cautions(told))
    page = Page(compare_page.write(told, tmp_path).read_text(encoding="utf-8"))
    assert [attributes.get("class") for _, attributes in page.tags].count("badge flattered") == 1


def test_where_all_are_flattered_they_are_ranked_with_a_caution(tmp_path: Path) -> None:
    told = by_two_networks(write_comparison(tmp_path), (0.01, 0.4), (0.03, 0.3), flattered=(True, True))
    one_network = [
        one.model_copy(update={"scores": tuple(s for s in one.scores if s.name != NAMES[1])})
        for one in told.contestants
    ]
    alone = told.model_copy(update={"contestants": tuple(one_network)})
    assert results.deciding_key(alone) == "kernel"
    found = results.row(alone, "kernel")
    assert found is not None
    assert found.marks == ("best", "", "")
    assert "were trained with efficientnet-lite0" in " ".join(cautions(alone))


def test_sentences_choose_only_what_the_intervals_allow(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)
    clear = " ".join(verdict(with_scores(told, (0.02, 0.004), (0.03, 0.004))))
    assert "most like the real ones, choose gan-32: by kernel distance" in clear
    assert "0.02 (0.016 to 0.024)" in clear
    level = " ".join(verdict(with_scores(told, (0.02, 0.006), (0.03, 0.006))))
    assert re.search(r"most like the real ones, gan-32 and vae-32 .* are a tie", level)
    assert "flow-32 did not finish and is left out." in level
    assert "only 412 real images" in " ".join(cautions(told))
    alone = told.model_copy(update={"contestants": told.contestants[:1]})
    assert "choose" not in " ".join(verdict(alone))
    nobody = told.model_copy(update={"contestants": told.contestants[2:]})
    assert verdict(nobody) == ("No family finished, so that there is nothing to compare.",)


def test_copies_are_told_where_they_are_more_than_chance(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)
    assert "Neither can be said to repeat training images" in " ".join(told.verdict)
    copying = score("memorised/copies", 0.12, 0.02, higher=False)
    kept = [one for one in told.contestants[0].scores if one.metric != copying.metric]
    first = told.contestants[0].model_copy(update={"scores": (*kept, copying)})
    changed = told.model_copy(update={"contestants": (first, *told.contestants[1:])})
    assert "gan-32 repeats training images: 12.0% (10.0% to 14.0%)" in " ".join(verdict(changed))


@pytest.mark.parametrize(
    ("shares", "marks"),
    [
        (((0.001, 0.0005), (0.009, 0.001)), ("", "", "")),  # neither more than real images would have
        (((0.01, 0.005), (0.08, 0.02)), ("best", "", "")),
        (((0.05, 0.02), (0.06, 0.02)), ("tie", "tie", "")),
    ],
)
def test_fewer_copies_than_chance_has_are_no_merit(
    tmp_path: Path, shares: tuple[tuple[float, float], ...], marks: tuple[str, ...]
) -> None:
    told = write_comparison(tmp_path)
    contestants = list(told.contestants)
    for place, (value, half) in enumerate(shares):
        new = score("memorised/copies", value, half, higher=False)
        contestants[place] = contestants[place].model_copy(update={"scores": (new,)})
    found = results.row(told.model_copy(update={"contestants": tuple(contestants)}), "memorised/copies")
    assert found is not None
    assert found.marks == marks


def test_what_scoring_has_part_in_is_told_but_not_judged(tmp_path: Path) -> None:
    found = results.row(write_comparison(tmp_path), "core_hours")
    assert found is not None
    assert "scoring" in found.detail
    assert set(found.marks) == {""}


def test_copies_are_told_by_what_few_real_images_make_of_chance(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)
    some = score("memorised/copies", 0.06, 0.02, higher=False)
    for chance, said in ((0.01, True), (1 / 21, False)):
        copying = some.model_copy(update={"settings": {"expected": chance}})
        kept = [one for one in told.contestants[0].scores if one.metric != some.metric]
        first = told.contestants[0].model_copy(update={"scores": (*kept, copying)})
        changed = told.model_copy(update={"contestants": (first, *told.contestants[1:])})
        assert ("gan-32 repeats training images" in " ".join(verdict(changed))) is said


def test_a_share_is_shown_with_its_own_interval(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)
    none = score("recall", 0.0, 0.0, higher=True).model_copy(update={"interval": (0.0, 0.0093)})
    first = told.contestants[0].model_copy(update={"scores": (none,)})
    found = results.row(told.model_copy(update={"contestants": (first, *told.contestants[1:])}), "recall")
    assert found is not None
    assert found.cells[0] == Cell(0.0, (0.0, 0.0093), "0", "0 to 0.0093")


def test_a_picture_or_a_figure_that_is_missing_is_left_out(tmp_path: Path) -> None:
    told = write_comparison(tmp_path)
    (tmp_path / "pictures/real.png").unlink()
    (tmp_path / "pictures/gan.png").write_bytes((tmp_path / "pictures/gan.png").read_bytes()[:300])
    bare = told.contestants[1].model_copy(update={"measured": {}, "scores": (), "curve": ()})
    told = told.model_copy(
        update={"contestants": (told.contestants[0], bare), "machine": {}, "reference": None}
    )
    page = compare_page.write(told, tmp_path).read_text(encoding="utf-8")
    assert page.count("data:image/") == 3
    assert "not measured" in page
