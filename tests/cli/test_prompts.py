"""Prompts on the command line, one and many, down to the files."""

import functools
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing import families
from danqing.cli import main
from danqing.cli.prompts import PromptRow, read, record
from danqing.data import open_dataset
from danqing.errors import ConfigError
from danqing.model.model import Model

DEFAULT = PromptRow(None, 8, 3, {"temperature": 0.5})
CAPTIONS = ("a red heart", "红心", "a blue star", "two circles")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer that reads text, with fresh weights: it writes a few pixels of noise."""
    plain = {"family": "transformer", "width": 5, "height": 4, "channels": 1, "condition": "text"}
    small = {"layers": 1, "features": 16, "heads": 2, "captions": CAPTIONS}
    small["text"] = {"length": 12, "vocabulary": 300}  # type: ignore[assignment]
    config = families.parse_config(plain | small).complete(CAPTIONS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        family = families.build(config)
    with torch.no_grad():
        for name, parameter in family.named_parameters():
            parameter.mul_(20 if name.startswith("prefix") else 4)
    return Model(family).save(tmp_path_factory.mktemp("model"))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def test_a_prompt_is_painted_as_the_library_paints_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "--prompt",
        "a red heart",
        "--guidance",
        "3",
        "-n",
        "5",
        "--seed",
        "2",
        "--each",
        tmp_path / "each",
    )
    code, out, _ = run(capsys, "sample", model, *words, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["prompts"] == [{"prompt": "a red heart", "asked": "a red heart", "n": 5, "seed": 2}]
    names = [Path(file).name for file in told["files"]]
    assert names == [f"a-red-heart-{n}.png" for n in range(5)]
    painted = danqing.load(model).sample(5, prompt="a red heart", seed=2, guidance_scale=3)
    for file, pixels in zip(told["files"], painted.array, strict=True):
        assert (np.asarray(Image.open(file)) == pixels[:, :, 0]).all()
    again = open_dataset(tmp_path / "each", cache_dir=tmp_path / "cache")
    assert again.texts(range(5)) == ("a red heart",) * 5


def test_a_seed_of_minus_one_is_picked_and_reported(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sample", model, "--prompt", "a red heart", "-n", 2)
    code, out, _ = run(capsys, *words, "--seed", -1, "--out", tmp_path / "one.png")
    assert re.search(r"^Seed +\d+$", out, re.MULTILINE)
    code, out, _ = run(capsys, *words, "--seed", -1, "--each", tmp_path / "picked", "--json")
    told = json.loads(out)
    assert (code, told["prompts"][0]["seed"]) == (0, told["seed"])
    assert 0 <= told["seed"] < 2**31
    code, out, _ = run(capsys, *words, "--seed", told["seed"], "--out", tmp_path / "again.png")
    assert "Seed" not in out
    again = danqing.load(model).sample(2, prompt="a red heart", seed=told["seed"])
    first = np.asarray(Image.open(tmp_path / "picked" / "a-red-heart-0.png"))
    assert (first == again.array[0, :, :, 0]).all()
    with pytest.raises(ConfigError, match="whole number from 0 on, not -1"):
        danqing.load(model).sample(2, prompt="a red heart", seed=-1)


def test_negative_prompts_lead_away_by_command_and_by_table(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = danqing.load(model)
    asked = {"prompt": "a red heart", "seed": 2, "guidance_scale": 3.0}
    plain, away = (trained.sample(3, **asked, negative_prompt=text).array for text in ("", "a star"))
    assert (plain != away).any()
    words = ("--guidance", "3", "-n", "3", "--seed", "2", "--each", tmp_path / "each", "--json")
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,negative_prompt\na red heart,a star\na red heart,\n")
    one = ("--prompt", "a red heart", "--negative-prompt", "a star")
    for given, expected in ((one, [away]), (("--prompts", table), [away, plain])):
        code, out, _ = run(capsys, "sample", model, *given, *words)
        assert code == 0
        files = [np.asarray(Image.open(file))[:, :, None] for file in json.loads(out)["files"]]
        assert (np.stack(files) == np.concatenate(expected)).all()
    code, _, err = run(capsys, "sample", model, *one, "--out", tmp_path / "x.png")
    assert (code, "guidance_scale above 1" in err.replace("\n", " ")) == (2, True)


def test_a_table_is_a_row_of_the_grid_for_each_prompt(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text('prompt,n,seed,guidance\n红心,2,,\n"a star, blue",3,7,2.5\n', encoding="utf-8")
    code, out, _ = run(
        capsys,
        "sample",
        model,
        "--prompts",
        table,
        "--out",
        tmp_path / "grid.png",
        "--each",
        tmp_path / "each",
        "--json",
    )
    assert code == 0
    told = json.loads(out)
    assert [Path(file).name for file in told["files"]] == [
        *(f"0-红心-{n}.png" for n in range(2)),
        *(f"1-a-star-blue-{n}.png" for n in range(3)),
    ]
    first, second = (
        danqing.load(model).sample(2, prompt="红心"),
        danqing.load(model).sample(3, prompt="a star, blue", seed=7, guidance_scale=2.5),
    )
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    scale = 96 // 5
    cells = grid[scale : scale * 11, scale:].reshape(2, -1, grid.shape[1] - scale)[:, : 4 * scale : scale]
    cells = cells[:, :, : 18 * scale : scale].reshape(2, 4, 3, 6)[..., :5].transpose(0, 2, 1, 3)
    assert (cells[0, :2] == first.array[..., 0]).all()
    assert (cells[0, 2] == 255).all()
    assert (cells[1] == second.array[..., 0]).all()


def test_lines_of_text_are_prompts_and_eight_pictures_each(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a red heart\n\n 红心 \r\n", encoding="utf-8")
    code, out, err = run(
        capsys, "sample", model, "--prompts", tmp_path / "prompts.txt", "--each", tmp_path / "e"
    )
    assert (code, err) == (0, "")
    assert out == f"Images  16 in {tmp_path / 'e'}\n"
    assert len(list((tmp_path / "e").glob("*.png"))) == 16


def test_rows_that_ask_for_few_are_painted_together(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of images is computed at once, however few are requested."""
    rows = [
        {"prompt": CAPTIONS[number % 4], "n": 1 + number % 3, "seed": number // 5} for number in range(17)
    ]
    rows[9] |= {"n": 2, "guidance": 2}
    table = tmp_path / "prompts.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    painted: list[int] = []
    family = type(danqing.load(model).family)
    plain = family.sample

    @functools.wraps(plain)
    def counted(self: Any, condition: Any, *, seeds: Any, **options: Any) -> Any:
        painted.append(len(seeds))
        return plain(self, condition, seeds=seeds, **options)

    monkeypatch.setattr(family, "sample", counted)
    monkeypatch.setattr(family, "chunk", 16)
    code, out, _ = run(capsys, "sample", model, "--prompts", table, "--each", tmp_path / "each", "--json")
    assert code == 0
    assert painted == [16, 16, 16, 16]  # 18 and 14 images of rows alike, and 2 between them
    files = iter(json.loads(out)["files"])
    trained = danqing.load(model)
    for row in rows:
        options = {"guidance_scale": 2} if "guidance" in row else {}
        alone = trained.sample(row["n"], prompt=row["prompt"], seed=row["seed"], **options)
        for pixels in alone:
            assert (np.asarray(Image.open(next(files))) == pixels[:, :, 0]).all()


MISTAKES = [
    (("--prompt", "a", "--prompts", "x.txt"), "Give --prompt or --prompts, not both"),
    (("--prompts", "/no/such.txt"), "/no/such.txt cannot be read"),
    (("--prompt", "a", "--set", "guidance=2"), "does not know the option 'guidance'"),
    (("--label", "cat"), "describe the image by a prompt"),
    (("--expand", "http://localhost:1/v1"), "give --prompt or --prompts with --expand"),
    (("--prompt", "a", "--expand", "localhost"), "is not the address of a chat endpoint"),
    (("--prompt", "x" * 12), "--prompt has 13 tokens, and this model reads 12: shorten it"),
    (
        ("--prompt", "a", "--negative-prompt", "x" * 12),
        "--negative-prompt has 13 tokens, and this model reads 12: shorten it",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_one_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    code, out, err = run(capsys, "sample", model, *words, "-n", "1", "--each", tmp_path / "each")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_a_prompt_whose_end_is_not_read_is_named_by_its_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 12
    for name, content, says in (
        ("a.txt", f"a red heart\n\n{long}\n", "a.txt, line 3, has 13 tokens, and this model reads 12"),
        ("a.csv", f"prompt,n\na star,1\n{long},1\n", "a.csv, line 3, has 13 tokens"),
        (
            "a.jsonl",
            f'{{"prompt": "a", "negative_prompt": "{long}"}}',
            "The negative prompt of a.jsonl, line 1, has 13",
        ),
    ):
        (tmp_path / name).write_text(content)
        code, out, err = run(
            capsys, "sample", model, "--prompts", tmp_path / name, "--out", tmp_path / "x.png"
        )
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert says in err.replace(f"{tmp_path}/", "")
        assert not (tmp_path / "x.png").exists()


def test_a_model_without_text_refuses_a_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = families.parse_config(
        {"family": "vae", "width": 8, "height": 8, "channels": 1, "net": "mlp", "features": 4, "latents": 4}
    )
    folder = Model(families.build(config)).save(tmp_path / "vae")
    code, _, err = run(capsys, "sample", folder, "--prompt", "a cat", "--out", tmp_path / "x.png")
    assert code == 2
    assert "This vae reads neither text nor labels" in err
    assert "Reads       nothing\n" in run(capsys, "show", folder)[1]


def test_show_and_the_card_say_what_is_read(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "show", model)[1]
    pieces = families.parse_config(json.loads((model / "config.json").read_text())["model"])
    count = pieces.text_facts.vocabulary  # type: ignore[attr-defined]
    assert f"Reads       text, in {count} word pieces learnt from its captions, 12 tokens at most\n" in shown
    assert "Prompts     a red heart, 红心, a blue star, two circles\n" in shown
    assert "on_step" not in shown
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-to-image\n" in card
    assert 'model.sample(16, prompt="a red heart", seed=1)' in card
    assert "- 红心\n" in card


class Chat(BaseHTTPRequestHandler):
    """Writes every prompt out, save those it was told to fail on."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][1]["content"]
        content: dict[str, Any] = {"choices": [{"message": {"content": f"{asked} on white"}}]}
        body = json.dumps(content).encode() if "star" not in asked else b"?"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    serving.join()
    server.server_close()


def test_prompts_are_written_out_until_that_fails_and_all_are_painted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], chat: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a heart\na heart\na star\na circle\n", encoding="utf-8")
    words = ("--prompts", tmp_path / "prompts.txt", "-n", "1", "--each", tmp_path / "each")
    code, out, err = run(
        capsys, "sample", model, *words, "--expand", chat, "--expand-model", "tiny", "--json"
    )
    assert code == 0
    told = json.loads(out)["prompts"]
    assert [row["prompt"] for row in told] == ["a heart on white"] * 2 + ["a star", "a circle"]
    assert [row["asked"] for row in told] == ["a heart", "a heart", "a star", "a circle"]
    assert "a heart: a heart on white\nThat is longer than the model reads: its end is ignored.\n" in err
    assert "gave no answer that can be read: the prompts are used as they are.\n" in err
    assert (tmp_path / "each" / "0-a-heart-0.png").is_file()
    again = open_dataset(tmp_path / "each", cache_dir=tmp_path / "cache")
    assert sorted(again.texts(range(4)) or ()) == [
        "a circle",
        "a heart on white",
        "a heart on white",
        "a star",
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_what_a_row_leaves_out_is_as_on_the_command_line(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "7", "n": 2, "seed": 0, "guidance": 1.5, "top_k": 5},
        {"prompt": " a star ", "n": "", "seed": "", "guidance": "", "top_k": ""},
    ]
    if ending == "csv":
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path = tmp_path / f"prompts.{ending}"
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    first, second = (f"{path}, line {number}" for number in ((2, 3) if ending == "csv" else (1, 2)))
    assert read(path, DEFAULT) == [
        PromptRow("7", 2, 0, {"temperature": 0.5, "guidance_scale": 1.5, "top_k": 5}, where=first),
        DEFAULT._replace(prompt="a star", where=second),
    ]


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    content = "Prompt; N ;Guidance Scale;\r\na, red heart;2;3;\r\nb;;;;\r\n"
    (tmp_path / "a.csv").write_text(content, encoding="utf-8-sig")
    first, second = read(tmp_path / "a.csv", DEFAULT)
    assert (first.prompt, first.n, first.options["guidance_scale"]) == ("a, red heart", 2, 3)
    assert (second.prompt, second.n) == ("b", DEFAULT.n)
    (tmp_path / "a.csv").write_text('prompt\na, red heart\n"b, c"\n')
    assert [row.prompt for row in read(tmp_path / "a.csv", DEFAULT)] == ["a, red heart", "b, c"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", "\n \n", "holds no prompts"),
        ("a.csv", "text\na\n", "line 2, has no prompt"),
        ("a.csv", "prompt,n\na, red heart,1\n", "line 2, has more cells than columns"),
        ("a.csv", "prompt,n\na,0\n", "line 2, has n 0: give a whole number"),
        ("a.csv", "prompt,seed\na,x\n", "line 2, has seed 'x'"),
        ("a.csv", f"prompt\n{'a' * 140_000}\n", "is not valid CSV"),
        ("a.jsonl", "{", "line 1, is not valid JSON"),
        ("a.jsonl", "\n[1]", "line 2, is not a JSON object"),
        ("a.jsonl", '{"prompt": 3}', "line 1, has no prompt"),
        ("a.jsonl", '{"prompt": "a", "n": true}', "has n True"),
        ("a.txt", "a\n" * 10_001, "give at most 10,000 at once"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_by_its_line(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path / name, DEFAULT)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read(tmp_path / name, DEFAULT)


def test_files_are_named_by_what_a_name_may_hold() -> None:
    row = PromptRow("../../etc: a <b>红心</b>?", 1, 0, {})
    assert row.file_name(3, 12) == "03-etc-a-b-红心-b-"
    assert PromptRow("/..", 1, 0, {}).file_name(0, 1) == ""
    assert len(PromptRow("a" * 500, 1, 0, {}).file_name(0, 1)) <= 41
    assert DEFAULT.file_name(0, 1) == ""


def test_notes_of_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "old"}\nodd \xff\n')
    record(tmp_path, {"b.png": "红心"})
    record(tmp_path, {"a.png": "new"})
    assert (tmp_path / "metadata.jsonl").read_bytes().splitlines() == [
        b"odd \xff",
        '{"file_name": "b.png", "text": "红心"}'.encode(),
        b'{"file_name": "a.png", "text": "new"}',
    ]
