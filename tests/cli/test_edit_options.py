"""What all editing commands share: their options, what they print, and the exit code."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from PIL import Image

from danqing.cli import edit_options, output
from danqing.errors import ConfigError
from danqing.quantities import parse_memory
from tests.editing.edits import Invert
from tests.image_files.files import file_of, photo

app = typer.Typer()


@app.command()
def invert(
    source: edit_options.InputArgument,
    out: edit_options.OutOption,
    n: edit_options.VersionsOption = 1,
    strip: edit_options.StripOption = False,
    dry_run: edit_options.DryRunOption = False,
    sequence: edit_options.SequenceOption = False,
    memory: edit_options.MemoryOption = None,
    strength: edit_options.StrengthOption = 1.0,
    compare: edit_options.CompareOption = None,
    reference: edit_options.ReferenceOption = None,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: output.JsonOption = False,
) -> None:
    edit_options.check(source, out, None)
    edit_options.run(
        Invert(strength=strength),
        source,
        out,
        seed=seed,
        n=n,
        strip=strip,
        dry_run=dry_run,
        sequence=sequence,
        memory=memory,
        compare=compare,
        reference=reference,
        as_json=as_json,
    )


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = typer.main.get_command(app)([str(word) for word in words], standalone_mode=False)
    printed = capsys.readouterr()
    return int(code or 0), printed.out, printed.err


def test_a_command_prints_what_became_of_each_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    (given / "a.png").write_bytes(file_of(photo()))
    (given / "b.gif").write_bytes(file_of(photo(), "GIF"))
    code, text, err = run(capsys, given, "--out", out)
    assert code == 0
    assert f"2 in {out}" in text
    assert "b.gif: GIF files cannot be written: the result is PNG." in text
    assert "2 to edit; the largest, a.png (40x30), needs about" in err
    (given / "c.png").write_bytes(b"damaged")
    code, text, _ = run(capsys, given, "--out", out)
    assert code == 1
    assert "2 that were done before" in text
    assert "c.png: The file is not an image" in text
    code, text, _ = run(capsys, given, "--out", tmp_path / "out.zip", "--json", "--strip", "-n", 2)
    told = json.loads(text)
    assert code == 1
    assert list(told["written"]) == ["1/a.png", "1/b.gif", "2/a.png", "2/b.gif"]
    assert list(told["failed"]) == ["1/c.png", "2/c.png"]
    code, text, _ = run(capsys, given / "a.png", "--out", tmp_path / "x.png", "--dry-run")
    assert (code, " ".join(text.split())) == (0, f"Would write {tmp_path / 'x.png'}")
    assert not (tmp_path / "x.png").exists()
    assert run(capsys, given / "a.png", given / "b.gif", "--out", tmp_path / "two", "--sequence")[0] == 0
    code, text, _ = run(capsys, given / "a.png", "--out", tmp_path / "x.png", "--strength", 0)
    assert (tmp_path / "x.png").read_bytes() == (given / "a.png").read_bytes()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "two/a.png")), 255 - np.asarray(photo()))
    with pytest.raises(ConfigError, match="over --memory 1 MB"):
        run(capsys, given / "a.png", "--out", tmp_path / "y.png", "--memory", "1M")


def test_a_page_compares_inputs_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, page = tmp_path / "given", tmp_path / "pages" / "page.html"
    given.mkdir()
    (given / "a.png").write_bytes(file_of(photo()))
    (given / "c.png").write_bytes(b"damaged")
    words = [given, "--out", tmp_path / "out.zip", "--compare", page, "--reference", given / "a.png"]
    run(capsys, *words, "--dry-run")
    assert not page.exists()
    with pytest.raises(ConfigError, match="add --compare"):
        run(capsys, given, "--out", tmp_path / "other", "--reference", given)
    with pytest.raises(ConfigError, match="no file or folder"):
        run(capsys, given, "--out", tmp_path / "other", "--compare", page, "--reference", tmp_path / "none")
    assert not (tmp_path / "other").exists()
    for _ in range(2):  # the second time what was done before
        code, text, _ = run(capsys, *words, "--json")
        assert (code, json.loads(text)["page"]) == (1, str(page))
        content = page.read_text()
        assert content.count("<figure") == 1
        assert "1 image was not edited" in content
        assert "PSNR, reference" in content
        page.unlink()


def test_an_amount_of_memory_is_read_as_people_write_it() -> None:
    amounts = {"1.5G": 1_500_000_000, "800M": 800_000_000, "2 gb": 2_000_000_000, "4096": 4096, "1k": 1000}
    assert {text: parse_memory(text) for text in amounts} == amounts
    for text in ("", "G", "1.5X", "-1G"):
        with pytest.raises(ConfigError, match="is not an amount of memory"):
            parse_memory(text)
