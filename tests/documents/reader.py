"""A reader who types what the documentation shows into a folder with a small world."""

import contextlib
import io
import json
import os
import re
import shutil
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from danqing.cli import main
from danqing.service.http import server
from tests.documents import substitutes as small
from tests.documents.pages import Code, Command

WRITTEN = {"predict": ("--out", "--masks", "--drawn")}
"""The options that name what a command writes, where they are others than usual."""
AFRESH = ("train", "fill", "vary", "translate", "upscale", "enhance", "stylize", "export", "shrink")
"""The commands that refuse a place where something else is."""
_USUALLY_WRITTEN = ("--out", "--each", "--grid", "--card")
_RUN = re.compile(r"runs/[\w-]+")


class Printed(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


def run(words: Sequence[str]) -> Printed:
    """Run one command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as left:
            code = int(left.code or 0)
    return Printed(code, out.getvalue(), err.getvalue())


class Reader:
    """Types what one page shows, from top to bottom.

    page: its name. models: the folder of the models that several pages use, each trained when it is first
    needed.
    """

    def __init__(self, page: str, models: Path, patch: pytest.MonkeyPatch) -> None:
        self.page, self.models, self.patch = page, models, patch
        self.names: dict[str, Any] = {}
        self.runs = {**small.RUNS, **small.PAGE_RUNS.get(page, {})}
        self.served: list[Any] = []
        patch.syspath_prepend(Path.cwd())  # for the module of --signer
        patch.setattr(server, "serve", lambda app, *place, **more: self.served.append(app))

    def type(self, command: Command) -> str:
        """Run a command; returns what is wrong with it, or "" """
        words = in_small(command.words, self.page)
        self._provide(words)
        if command.line in small.NEW_TRUST:
            shutil.rmtree(os.environ["DANQING_TRUST"])
        for name, model in small.RUNS_BEFORE.get(command.line, {}).items():
            _remove(Path(name))
            shutil.copytree(trained(self.models, model), name)
        if command.line in small.COMMANDS_BEFORE:
            before = small.COMMANDS_BEFORE[command.line].split()
            self._provide(before)
            run(before)
        for source, target in small.FILES_BEFORE.get(command.line, {}).items():
            shutil.copyfile(next(Path.cwd().glob(source)), target)
        made = option(words, "--out")
        if made is not None and words[0] in AFRESH:
            _remove(Path(made))  # a page shows alternatives, each as if it came first
        with pytest.MonkeyPatch.context() as patch:
            for name, value in command.variables.items():
                patch.setenv(name, value)
            if command.line in small.OTHER_TRUST:
                patch.setenv("DANQING_TRUST", os.environ["DANQING_TRUST"] + "-of-another")
            printed = self._once(words) if words[0] in ("compare", "tune") else run(words)
        if printed.code != small.EXITS.get(command.line, 0):
            return f"danqing {' '.join(words)}\nends with {printed.code}: {printed.err}{printed.out}"
        return "; ".join(self._faults(command, words, printed))

    def _once(self, words: Sequence[str]) -> Printed:
        """Run a command that starts processes; where another page has the same one, take what it wrote."""
        place = str(option(words, "--out"))
        kept = self.models / "studies" / "-".join(words).replace("/", "-")[:200]
        if not kept.exists():
            printed = run(words)
            if printed.code == 0:
                shutil.copytree(place, kept)
            return printed
        shutil.copytree(kept, place)
        return Printed(0, "as before", "")

    def _faults(self, command: Command, words: Sequence[str], printed: Printed) -> Iterable[str]:
        """Yield what a command that succeeded did not do."""
        for name in WRITTEN.get(words[0], _USUALLY_WRITTEN):
            place = option(words, name)
            versions = [] if place is None else [Path(place), Path(place).with_stem(f"{Path(place).stem}-1")]
            if versions and not any(path.exists() for path in versions):
                yield f"{command.line}: there is no {place}"
        if words[0] == "serve":
            if not self.served:
                yield f"{command.line}: serves nothing"
        elif "--json" in words or command.into.endswith(".json"):
            told = json.loads(printed.out)
            if command.piped and command.piped.removeprefix("jq .") not in told:
                yield f"{command.line}: {command.piped} finds nothing"
        elif not (printed.out + printed.err).strip():
            yield f"{command.line}: prints nothing"
        if command.into:
            Path(command.into).write_text(printed.out, encoding="utf-8")

    def execute(self, code: Code) -> str:
        """Execute a Python block, with what the blocks before it have defined; returns what is wrong."""
        text = code.text
        for before, after in small.CODE.items():
            text = re.sub(before, after, text)
        if not self.names:
            text = small.PREAMBLES.get(self.page, "") + text
            self.names = {"TINY": small.settings_of}
        self._provide([text])
        for made in re.findall(r'out="([^"]+)"', text):
            _remove(Path(made))
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                exec(text, self.names)
        except Exception:
            return f"{text}\n{traceback.format_exc(limit=-4)}"
        return ""

    def _provide(self, words: Iterable[str]) -> None:
        """Put the runs that are named into the current folder, where nothing has made them yet."""
        words = list(words)
        made = option(words, "--out")
        files = [Path(word) for word in words if word.endswith(".toml")]
        words += [path.read_text(encoding="utf-8") for path in files if path.is_file()]
        for name in {found for word in words for found in _RUN.findall(word)}:
            if name != made and not Path(name).exists() and name in self.runs:
                shutil.copytree(trained(self.models, self.runs[name]), name)


def trained(models: Path, name: str) -> Path:
    """Return the folder of a model that several pages use; train it where it is not there yet."""
    folder = models / name
    if not folder.exists():
        words = small.MODELS[name].split()
        for base in {found for word in words for found in _RUN.findall(word)}:
            if not Path(base).exists():
                shutil.copytree(trained(models, small.RUNS[base]), base)
        printed = run([*in_small(words), "--out", str(folder)])
        assert printed.code == 0, f"{small.MODELS[name]}\n{printed.err}{printed.out}"
    return folder


def _remove(path: Path) -> None:
    """Delete a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def option(words: Sequence[str], name: str) -> str | None:
    """Return the value of an option, None where it is not given."""
    return words[words.index(name) + 1] if name in words[:-1] else None


def in_small(words: Sequence[str], page: str = "") -> list[str]:
    """Return a command with a small budget, tiny models and the files of the small world."""
    names: Mapping[str, str] = {**small.WORDS, **small.PAGE_WORDS.get(page, {})}
    words = [names.get(word, word) for word in words]
    verb = words[0]
    for name, value in small.REPLACED.get(verb, {}).items():
        if name in words:
            place = words.index(name)
            words[place : place + 2] = [name, value] if value else []
    words += [more for word in tuple(words) for more in small.WITH.get(word, ())]
    for name, value in small.OPTIONS.get(verb, {}).items():
        if name not in words and (name != "--size" or "--init" not in words):
            words += [name, "32" if name == "--size" and "--style-image" in words else value]
    given = {words[i + 1].partition("=")[0] for i, word in enumerate(words) if word == "--set"}
    for name, value in _settings(words).items():
        if name not in given:
            words += ["--set", f"{name}={value}"]
    return words


def _settings(words: Sequence[str]) -> dict[str, str]:
    """Return the settings that make the models of a command tiny."""
    match words[0]:
        case "train" if not {"--config", "--init"}.isdisjoint(words) and "--task" not in words:
            return dict(small.COMMON)
        case "train" | "tune":
            return small.settings_of(_preset(words))
        case "compare" | "distill":
            return dict(small.COMMON)
        case "sample" | "fill" | "vary" if any(one in words[1] for one in ("pipeline", "zzq")):
            return {"num_steps": "3"}
        case "fill" | "vary" if "painter" not in words[1]:
            return {"num_steps": "2"}
    return {}


def _preset(words: Sequence[str]) -> str:
    """Return the preset that a command of training means."""
    task = option(words, "--task")
    if preset := option(words, "--preset"):
        return preset
    if task == "translate":
        return "translation-64" if "--domains" in words else "translate-64"
    if task == "colorize":
        return "flow-colorize-64"
    return small.TASKS[task] if task else "gan-32"
