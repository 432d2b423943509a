"""Requests as users write them: a single prompt, or a table with one row per prompt or set of attributes."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from danqing import atomic
from danqing.cli.arguments import parse_value
from danqing.data.tables import delimiter_of, plain_header
from danqing.errors import ConfigError
from danqing.names import match
from danqing.text_encoding import decode_text, lines_of

if TYPE_CHECKING:
    from danqing.compress.runtime import RuntimeModel
    from danqing.model.model import Model

MOST_ROWS = 10_000
_LONGEST_NAME = 40
_TEXTS, _OPTIONS = ("prompt", "negative_prompt"), ("--prompt", "--negative-prompt")


class PromptRow(NamedTuple):
    """The images of one prompt.

    A prompt of None draws from the model's captions.

    asked: the prompt before a language model expanded it. negative_prompt: what guidance leads away from.
    attributes: what the images show, by name. where: the table and line of this row, for messages.
    """

    prompt: str | None
    n: int
    seed: int
    options: Mapping[str, Any]
    asked: str | None = None
    negative_prompt: str | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})
    where: str = ""

    def check(self, model: "Model | RuntimeModel") -> None:
        """Raise ConfigError for unknown options and attributes, and for texts that are too long."""
        model.check_options(self.options)
        if self.attributes and model.config.attributes:
            from danqing import attributes  # it imports pydantic, which would delay every command

            try:
                attributes.read(model.config.attributes, self.attributes)
            except ConfigError as error:
                raise ConfigError(f"{self.where}: {error}" if self.where else str(error)) from error
        where = (f"{self.where},", f"The negative prompt of {self.where},") if self.where else _OPTIONS
        for text, name in zip((self.prompt, self.negative_prompt), where, strict=True):
            model.check_prompt(text or "", name)

    def file_name(self, number: int, rows: int) -> str:
        """Return the beginning of this row's file names.

        It has the number and the words of the prompt.
        """
        words = "".join(c if c.isalnum() else " " for c in self.asked or self.prompt or "").split()
        name = "-".join(words).lower()[:_LONGEST_NAME].strip("-")
        before = f"{number:0{len(str(rows - 1))}d}-" if rows > 1 else ""
        return f"{before}{name}-" if name else before


def read(
    path: Path, default: PromptRow, attributes: Sequence[str] = (), *, needs_prompt: bool = True
) -> list[PromptRow]:
    """Read the rows of a table of prompts.

    A `.csv` or `.jsonl` file has a column `prompt` and optional columns `n`, `seed`, `guidance`,
    `negative_prompt`, attributes and options of the model. Any other file has one prompt per line. Missing
    values are those of `default`.
    attributes: the names of those that the model reads. needs_prompt: whether each row needs a prompt; a row
        without one needs an attribute.
    Raises ConfigError.
    """
    try:
        content = decode_text(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}).") from error
    kind = path.suffix.lower()
    default = default._replace(
        attributes={match(name, attributes) or name: value for name, value in default.attributes.items()}
    )
    found: Iterable[tuple[str, dict[str, Any]]]
    if kind == ".csv":
        found = _csv(path, content, (*_TEXTS, *attributes))
    elif kind in (".jsonl", ".ndjson"):
        found = _jsonl(path, content)
    else:
        found = (
            (f"{path}, line {number}", {"prompt": line.strip()})
            for number, line in enumerate(lines_of(content), start=1)
            if line.strip()
        )
    rows = [_row(values, default, where, attributes, needs_prompt) for where, values in found]
    if not rows:
        raise ConfigError(f"{path} holds no prompts: write one per line.")
    if len(rows) > MOST_ROWS:
        raise ConfigError(f"{path} holds {len(rows):,} prompts: give at most {MOST_ROWS:,} at once.")
    return rows


def record(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the prompt of each file into the folder's `metadata.jsonl`.

    The folder then has captions.

    Lines about other files are kept.
    """
    path = folder / "metadata.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    kept = [line for line in lines if _file_name(line) not in texts]
    new = [json.dumps({"file_name": n, "text": t}, ensure_ascii=False).encode() for n, t in texts.items()]
    atomic.write_bytes(path, b"".join(line + b"\n" for line in [*kept, *new]))


def _file_name(line: bytes) -> str:
    try:
        return str(json.loads(line)["file_name"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def _row(
    values: Mapping[str, Any], default: PromptRow, where: str, names: Sequence[str], needs_prompt: bool
) -> PromptRow:
    given = {key: value for key, value in values.items() if value not in (None, "")}
    prompt = given.pop("prompt", None)
    own = {name: given.pop(key) for key in list(given) if (name := match(key, names)) is not None}
    is_optional = prompt is None and own and not needs_prompt
    if not isinstance(prompt, str) and not is_optional:
        raise ConfigError(f"{where}, has no prompt: give each row one in the column 'prompt'.")
    numbers = {"n": default.n, "seed": default.seed}
    for name in numbers:
        value = given.pop(name, numbers[name])
        if not isinstance(value, int) or isinstance(value, bool) or value < (name == "n"):
            least = 1 if name == "n" else 0
            raise ConfigError(f"{where}, has {name} {value!r}: give a whole number of at least {least}.")
        numbers[name] = value
    if "guidance" in given:
        given["guidance_scale"] = given.pop("guidance")
    negative = given.pop("negative_prompt", default.negative_prompt)
    if not isinstance(negative, str | None):
        raise ConfigError(f"{where}, has negative_prompt {negative!r}: give a text.")
    options = {**default.options, **given}
    return PromptRow(
        None if prompt is None else prompt.strip(),
        numbers["n"],
        numbers["seed"],
        options,
        negative_prompt=negative,
        attributes={**default.attributes, **own},
        where=where,
    )


def _csv(path: Path, content: str, texts: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the cells of each row; cells of the columns `texts` stay as they are."""
    table = csv.DictReader(io.StringIO(content, newline=""), restkey="", delimiter=delimiter_of(content))
    try:
        for row in table:
            where = f"{path}, line {table.line_num}"
            if any(row.pop("", None) or ()):
                raise ConfigError(f"{where}, has more cells than columns: put its prompt in quotes.")
            yield (
                where,
                {
                    plain_header(key): value
                    if value is None or match(key, texts)
                    else parse_value(value.strip())
                    for key, value in row.items()
                },
            )
    except csv.Error as error:
        raise ConfigError(f"{path}, line {table.line_num}, is not valid CSV: {error}.") from error


def _jsonl(path: Path, content: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}, is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ConfigError(f'{where}, is not a JSON object: write {{"prompt": ...}}.')
        yield where, row
