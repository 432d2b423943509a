import html.parser
import json
from pathlib import Path

import pytest
from PIL import Image

from danqing.cli import main
from danqing.training.report import document as report

HOSTILE = "<script>document.title='broken'</script>"


class Page(html.parser.HTMLParser):
    """The tags of a page and what they point at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(folder: Path) -> Page:
    return Page(report.write(folder).read_text(encoding="utf-8"))


def test_the_report_is_one_file_that_needs_nothing_else(written_run: Path) -> None:
    page = read(written_run)
    sources = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert len(sources) == 6  # five frames and the real images
    assert all(source is not None and source.startswith("data:image/") for source in sources)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}


@pytest.mark.parametrize(
    ("family", "called"),
    [
        *(("gan", "A GAN"), ("vae", "A VAE"), ("vqvae", "A VQ-VAE"), ("transformer", "A transformer")),
        ("regression", "A regression model"),
        ("pixels", "A pixels"),  # of a family that is not registered here
    ],
)
def test_the_report_calls_each_family_as_people_do(written_run: Path, family: str, called: str) -> None:
    config = written_run / "config.toml"
    config.write_text(config.read_text().replace('family = "gan"', f'family = "{family}"'))
    assert f"{called} trained on 2,748 images" in read(written_run).text


def test_the_report_tells_the_runs_story(written_run: Path) -> None:
    page = read(written_run)
    for words in (
        "A GAN trained on 2,748 images from pets at 32 × 32 pixels, after 64% of its planned training.",
        "the same command resumes it",
        "The discriminator has won: raise r1 to 1.0.",
        "192,000",
        "4 min 31 s",
        "CC BY-SA 4.0",
        "the file ends too early",
        "danqing train 'pets & more/' --preset gan-32 --out runs/pets",
        'net = "dcgan"',
        "狗",
        "A processor",
        "Core-hours",
    ):
        assert words in page.text, words
    assert sum(tag == "figure" and attributes.get("class") == "chart" for tag, attributes in page.tags) == 6


def test_hostile_names_stay_text(written_run: Path) -> None:
    page = read(written_run)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not {"b", "i"} & {tag for tag, attributes in page.tags if not attributes and tag != "b"}
    assert page.text.count(HOSTILE) == 2


def test_scores_are_shown_with_their_stories(scored_run: Path) -> None:
    page = read(scored_run)
    for words in (
        "The best is 0.0234, after 80,000 images; that model is kept.",
        "(512, held-out)",
        "Evaluation took 30 s, 10% of the run’s time.",
        "0.0181 to 0.0263",
        "KD-pixels ↓",
        f"precision {HOSTILE} ↑",
        f"10,000 images of {HOSTILE} Small data.",
        "Spent on evaluation",
        "1.3 GB",
        "12.5 Wh",
    ):
        assert words in page.text, words
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert sum(attributes.get("class") == "chart" for _, attributes in page.tags) == 7
    assert "Samples, each beside its nearest training images" in [
        attributes.get("alt") for tag, attributes in page.tags if tag == "img"
    ]


@pytest.mark.parametrize("content", ["", "{", "[1, {}, null]", '{"a": 1}'])
def test_scores_that_cannot_be_read_are_left_out(written_run: Path, content: str) -> None:
    (written_run / "model").mkdir()
    (written_run / "model/scores.json").write_text(content)
    (written_run / "scores.jsonl").write_text(content)
    assert "Scores" not in read(written_run).text


def test_the_report_verb_writes_it_anew(written_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in ((["report", str(written_run), "--json"], 0), (["report", "/no/run"], 2)):
        with pytest.raises(SystemExit) as leaving:
            main(words)
        assert leaving.value.code == expected
    said = capsys.readouterr()
    assert json.loads(said.out) == {"report": str(written_run / "report.html")}
    assert (written_run / "report.html").stat().st_size > 10_000
    assert "/no/run is not a run folder" in " ".join(said.err.split())


@pytest.mark.parametrize("status", ["running", "failed", "finished", "interrupted"])
def test_every_status_is_told(written_run: Path, status: str) -> None:
    facts = json.loads((written_run / "run.json").read_text(encoding="utf-8"))
    facts |= {"status": status, "reason": "The loss is not a number: lower optimizer.learning_rate."}
    (written_run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    page = read(written_run)
    assert ("span", {"class": f"status {status}"}) in page.tags
    assert "lower optimizer.learning_rate" in page.text  # a run may also finish early, for a reason


def test_a_run_that_was_killed_anywhere_still_has_a_report(written_run: Path) -> None:
    with open(written_run / "log.jsonl", "a") as log:
        log.write('{"images": 1930')
    last = sorted((written_run / "samples").glob("0*.png"))[-1]
    last.write_bytes(last.read_bytes()[:500])
    whole = read(written_run)
    assert "Samples after 144,000 images" in whole.text
    for part in ("run.json", "config.toml", "log.jsonl", "timing.jsonl"):
        (written_run / part).unlink()
        assert "Samples" in read(written_run).text


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    assert tmp_path.name in read(tmp_path).text


def test_long_runs_and_large_grids_give_a_file_that_can_be_mailed(written_run: Path) -> None:
    grid = Image.effect_noise((536, 536), 80).convert("RGB")
    for seen in range(60):
        grid.save(written_run / "samples" / f"{seen:09d}.png", compress_level=1)
    path = report.write(written_run)
    page = Page(path.read_text(encoding="utf-8"))
    frames = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert len(frames) == 17
    assert frames[0] == "Samples after 0 images"
    assert frames[15] == "Samples after 192,000 images"
    assert path.stat().st_size < 5_000_000  # of noise, which packs worst; the PNGs themselves have some 40 MB
