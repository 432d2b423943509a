"""The prompt writer against a real server: whatever it does, there is a prompt to paint from."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from danqing.errors import ConfigError
from danqing.text.prompt_writer import KEY, LONGEST, PromptWriter, Written

Answer = Callable[[BaseHTTPRequestHandler], None]
SECRET = "sk-not-to-be-told"


class Endpoint:
    """A local chat endpoint that answers as the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda request: None
        self.asked: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.asked.append(
                    {"path": self.path, "key": self.headers["Authorization"]} | json.loads(body)
                )
                endpoint.answer(self)

            def do_GET(self) -> None:
                endpoint.asked.append({"path": self.path})
                endpoint.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.address}/v1"

    def says(self, content: Any, status: int = 200) -> None:
        self.sends(json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}), status)

    def sends(self, body: str | bytes, status: int = 200, **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content)

        self.answer = answer


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEY, f" {SECRET}\n")
    made = Endpoint()
    serving = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield made
    made.server.shutdown()
    serving.join()
    made.server.server_close()


def test_a_prompt_is_written_out_in_the_manner_of_the_captions(endpoint: Endpoint) -> None:
    endpoint.says('  "A big red heart\n on  white." ')
    written = PromptWriter(endpoint.url + "/", "tiny").expand("a heart", ["a blue star", "红心"])
    assert written == Written("A big red heart on white.")
    (asked,) = endpoint.asked
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["model"], asked["key"]) == ("tiny", f"Bearer {SECRET}")
    system, user = asked["messages"]
    assert (system["role"], user) == ("system", {"role": "user", "content": "a heart"})
    assert "25 words" in system["content"]
    assert "a blue star; 红心" in system["content"]


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("<think>Hm, a heart\nshould I?</think>\n「一颗红心」", "一颗红心"),
        ("a\x1b[31m red\u202e heart", "a [31m red heart"),
        ("word " * 200, ("word " * 60).strip()),
        ("红" * 500, "红" * LONGEST),
    ],
)
def test_what_is_written_becomes_one_short_plain_line(endpoint: Endpoint, content: str, prompt: str) -> None:
    endpoint.says(content)
    written = PromptWriter(endpoint.url, "tiny").expand("a heart")
    assert written == Written(prompt)
    assert len(written.prompt) <= LONGEST


FAILURES: dict[str, tuple[Callable[[Endpoint], None], str]] = {
    "error": (lambda e: e.sends('{"error": {"message": "Bearer sk"}}', 500), "answers with the error 500"),
    "key": (lambda e: e.sends("no", 401), f"answers with the error 401 (is its key in {KEY}?)"),
    "no json": (lambda e: e.sends("<html>"), "gave no answer that can be read"),
    "no choice": (lambda e: e.sends('{"choices": []}'), "gave no answer that can be read"),
    "a list": (lambda e: e.sends("[1, 2]"), "gave no answer that can be read"),
    "null": (lambda e: e.says(None), "gave no answer that can be read"),
    "empty": (lambda e: e.says(' "" '), "gave no answer that can be read"),
    "only thoughts": (lambda e: e.says("<think>for ever"), "gave no answer that can be read"),
    "deep": (lambda e: e.sends("[" * 100_000), "gave no answer that can be read"),
    "no utf-8": (lambda e: e.sends(b"\xff\xfe{"), "gave no answer that can be read"),
    "endless": (lambda e: e.says("a" * 2_000_000), "gave no answer that can be read"),
    "elsewhere": (lambda e: e.sends("", 302, Location="http://192.0.2.1/"), "answers with the error 302"),
    "cut": (lambda e: e.sends("{}", 200, **{"Content-Length": "50"}), "gave no answer that can be read"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_leaves_the_prompt_as_it_is_and_says_why(endpoint: Endpoint, failure: str) -> None:
    prepare, reason = FAILURES[failure]
    prepare(endpoint)
    written = PromptWriter(endpoint.url, "tiny", timeout=5).expand("a heart")
    assert written == Written("a heart", f"The prompt writer at {endpoint.address} {reason}.")
    assert "sk" not in written.problem.replace("ask", "")


def test_an_endpoint_that_is_slow_or_trickles_is_left_behind(endpoint: Endpoint) -> None:
    stopped = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not stopped.wait(0.05):
            request.wfile.write(b" ")

    def wait(request: BaseHTTPRequestHandler) -> None:
        stopped.wait(20)

    for answer in (trickle, wait):
        endpoint.answer = answer
        started = time.monotonic()
        written = PromptWriter(endpoint.url, "tiny", timeout=0.3).expand("a heart")
        assert written == Written(
            "a heart", f"The prompt writer at {endpoint.address} did not answer within 0.3 s."
        )
        assert time.monotonic() - started < 10
    stopped.set()


def test_nobody_there_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    written = PromptWriter(f"http://127.0.0.1:{port}/v1", "tiny").expand("a heart")
    assert written == Written("a heart", f"The prompt writer at 127.0.0.1:{port} cannot be reached.")


def test_the_only_model_is_used_unasked_and_several_are_named(endpoint: Endpoint) -> None:
    models, chat = json.dumps({"data": [{"id": "tiny"}]}), endpoint
    chat.says("a red heart")
    say = chat.answer
    chat.sends(models)
    name = chat.answer
    chat.answer = lambda request: (name if request.command == "GET" else say)(request)
    assert PromptWriter(chat.url).expand("a heart") == Written("a red heart")
    assert [asked["path"] for asked in chat.asked] == ["/v1/models", "/v1/chat/completions"]
    assert chat.asked[1]["model"] == "tiny"
    chat.sends(json.dumps({"data": [{"id": "tiny"}, {"id": "large"}]}))
    written = PromptWriter(chat.url).expand("a heart")
    assert written.prompt == "a heart"
    assert "name one of those it has (tiny, large)" in written.problem


def test_no_key_is_sent_where_there_is_none(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    endpoint.says("a red heart")
    PromptWriter(endpoint.url, "tiny").expand("a heart")
    assert endpoint.asked[0]["key"] is None


@pytest.mark.parametrize(
    "url", ["", "localhost:1", "file:///etc/passwd", "http://", "ftp://a/b", "http://a b"]
)
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a chat endpoint"):
        PromptWriter(url)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e7])
def test_a_timeout_that_no_clock_can_wait_for_is_refused_at_once(timeout: float) -> None:
    with pytest.raises(ConfigError, match=f"cannot wait for {timeout:g} seconds".replace("+", r"\+")):
        PromptWriter("http://127.0.0.1:1", timeout=timeout)
