"""An optional writer of prompts: a language model behind an OpenAI-compatible address expands a short prompt.

It is never called without a request for it. If it fails, the image is sampled from the prompt as it was.
"""

import http.client
import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from danqing.errors import ConfigError

KEY = "DANQING_CHAT_KEY"
"""The environment variable that holds the key. The name is ours, so that no other service's key is sent."""
LONGEST = 300
"""Characters of a written prompt; what follows is cut off."""

_MAX_BYTES = 1_000_000
_A_DAY = 86_400.0
_EXAMPLES = 6
_TASK = (
    "You write captions for a small painter that knows only what captions like those of its training say. "
    "Write the user's request out as one such caption of at most 25 words, in the language of the request. "
    "Keep everything that it says, add only what can be seen, and answer with the caption alone."
)


_FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError)


class Written(NamedTuple):
    """A written prompt, and what went wrong.

    problem: a sentence; "" where nothing went wrong.
    """

    prompt: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PromptWriter:
    """A chat endpoint that writes prompts.

    url: its base address, such as `http://localhost:11434/v1`.
    model: its name at the endpoint; "" takes the only one there.
    timeout: seconds for the whole answer, at most a day.
    key_variable: the environment variable that holds the key, where the endpoint needs one.
    Raises ConfigError for an invalid address or timeout.
    """

    url: str
    model: str = ""
    timeout: float = 20.0
    key_variable: str = KEY

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address or not self.url.isascii() or any(c.isspace() for c in self.url):
            raise ConfigError(
                f"{self.url!r} is not the address of a chat endpoint: write for instance http://localhost:11434/v1."
            )
        if not 0 < self.timeout <= _A_DAY:
            raise ConfigError(
                f"A prompt writer cannot wait for {self.timeout:g} seconds: choose up to {_A_DAY:,.0f}."
            )

    def expand(self, prompt: str, examples: Sequence[str] = ()) -> Written:
        """Write a prompt out as a caption in the style of examples.

        The examples are sent too. Where writing fails, the prompt comes back as it was, with the problem.
        """
        found: list[Written] = []

        def ask() -> None:
            try:
                found.append(Written(self._ask(prompt, examples)))
            except _FAILURES as error:
                found.append(Written(prompt, self._problem(error)))

        # The timeout of a socket starts again with each packet: this one also ends a slow stream of packets.
        asking = threading.Thread(target=ask, name="danqing-prompt-writer", daemon=True)
        asking.start()
        asking.join(self.timeout)
        return found[0] if found else Written(prompt, self._problem(TimeoutError()))

    def _ask(self, prompt: str, examples: Sequence[str]) -> str:
        task = _TASK
        if examples:
            task += " Captions of its training: " + "; ".join(examples[:_EXAMPLES])
        messages = [{"role": "system", "content": task}, {"role": "user", "content": prompt}]
        answer = self._call(
            "/chat/completions", {"model": self.model or self._only_model(), "messages": messages}
        )
        return _caption(answer["choices"][0]["message"]["content"])

    def _only_model(self) -> str:
        names = [str(model["id"]) for model in self._call("/models")["data"]]
        if len(names) != 1:
            raise _UnclearModelError(names)
        return names[0]

    def _call(self, path: str, payload: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.key_variable, "").strip():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            self.url.rstrip("/") + path,
            data=None if payload is None else json.dumps(payload).encode(),
            headers=headers,
        )
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=self.timeout) as response:
            content = response.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError("too long")
        return json.loads(content)

    def _problem(self, error: Exception) -> str:
        """Return a sentence about an error, without the key, whatever the error quotes."""
        if isinstance(error, urllib.error.HTTPError):
            reason = f"answers with the error {error.code}"
            if error.code in (401, 403):
                reason += f" (is its key in {self.key_variable}?)"
        elif isinstance(error, _UnclearModelError):
            names = ", ".join(error.names[:8]) or "none"
            reason = f"does not say which model to use: name one of those it has ({names})"
        elif isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            reason = f"did not answer within {self.timeout:g} s"
        elif isinstance(error, OSError):
            reason = "cannot be reached"
        else:
            reason = "gave no answer that can be read"
        return f"The prompt writer at {urlsplit(self.url).netloc.rpartition('@')[2]} {reason}."


class _UnclearModelError(LookupError):
    def __init__(self, names: list[str]) -> None:
        self.names = names


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key goes to the address that was given and nowhere else."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


def _caption(content: Any) -> str:
    """Return one line without thoughts and quotation marks; raises ValueError where nothing is left."""
    if not isinstance(content, str):
        raise ValueError("no text")
    plain = re.sub(r"<think>.*?(</think>|$)", " ", content, flags=re.DOTALL)
    words = "".join(c if c.isprintable() else " " for c in plain).split()
    line = " ".join(words).strip("\"'“”‘’「」*` ")
    if len(line) > LONGEST:
        line = line[:LONGEST].rsplit(" ", 1)[0] if " " in line[:LONGEST] else line[:LONGEST]
    if not line:
        raise ValueError("an empty text")
    return line
