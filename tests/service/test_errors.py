"""Every mistake has the documented shape, says whether to ask again, and names nothing of the machine."""

import json

import httpx
import openai
import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from danqing.errors import ConfigError, DanqingError, DataError, ModelError
from danqing.service.engine.orders import (
    DeadlinePassedError,
    ModelUnavailableError,
    OrderCancelledError,
    OverloadedError,
    PaintingFailedError,
)
from danqing.service.errors import ApiError, answer
from danqing.service.failures import from_danqing, from_validation

SECRET = "/home/somebody/runs/secret"


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (OverloadedError("Too much.", 2.1), 429, None),
        (ModelUnavailableError(f"{SECRET} is broken"), 503, None),
        (OrderCancelledError("The service stops."), 503, None),
        (DeadlinePassedError("Too slow."), 504, "false"),
        (PaintingFailedError(f"RuntimeError in {SECRET}"), 500, "false"),
        (ConfigError("top_p must be above 0."), 400, None),
        (DataError("The picture cannot be decoded."), 400, None),
        (ModelError(f"{SECRET} is no model folder."), 500, "false"),
        (DanqingError(SECRET), 500, "false"),
    ],
)
def test_an_error_from_within_is_told_as_its_client_can_use_it(
    error: DanqingError, status: int, again: str | None
) -> None:
    response = answer(from_danqing(error))
    assert response.status_code == status
    assert response.headers.get("x-should-retry") == again
    assert response.headers["content-type"] == "application/json"
    told = json.loads(bytes(response.body))["error"]
    assert told.keys() == {"message", "type", "param", "code"}
    assert SECRET not in told["message"]
    if isinstance(error, OverloadedError):
        assert response.headers["retry-after"] == "3"


def test_half_a_character_in_a_message_can_be_sent() -> None:
    body = answer(ApiError(400, "There is no \ud800 here: 狗.")).body
    assert json.loads(bytes(body))["error"]["message"] == "There is no ? here: 狗."


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"n": 1}, "prompt", "missing_required_parameter"),
        ({"prompt": "", "m": 1}, "m", "unknown_parameter"),
        ({"prompt": "", "inner": [{"side": "x"}]}, "inner.0.side", "invalid_value"),
        ({"prompt": "", "n": []}, "n", "invalid_value"),
    ],
)
def test_a_mistake_in_a_body_names_its_field(values: dict[str, object], param: str, code: str) -> None:
    class Inner(BaseModel):
        side: int

    class Body(BaseModel):
        model_config = ConfigDict(extra="forbid")
        prompt: str
        n: str | int | None = None
        inner: list[Inner] = []

    with pytest.raises(ValidationError) as found:
        Body.model_validate(values)
    error = from_validation(found.value)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert param in error.message


def test_each_status_is_the_class_of_the_official_client() -> None:
    client = openai.OpenAI(api_key="none")
    for status, kind in (
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ):
        sent = answer(ApiError(status, "No.", param="n", code="a_code"))
        request = httpx.Request("POST", "http://127.0.0.1")
        error = client._make_status_error_from_response(
            httpx.Response(status, content=bytes(sent.body), request=request)
        )
        assert type(error) is kind
        assert (error.code, error.param) == ("a_code", "n")
