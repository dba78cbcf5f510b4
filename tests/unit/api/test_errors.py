"""The error contract in detail."""

import contextvars
import json

import pytest
from pydantic import ValidationError
from starlette.responses import Response

from trtllm_openai.api.errors import ApiError, anthropic, from_exception, json_path
from trtllm_openai.errors import InvalidRequest, PoolError
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.completions import CompletionRequest


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, "invalid_request_error") for status in (400, 401, 403, 404, 405, 413, 415)),
        (429, "rate_limit_error"),
        *((status, "server_error") for status in (500, 503, 504)),
    ],
)
def test_type_follows_the_status(status: int, kind: str) -> None:
    error = ApiError(status, "x", param="p", code="c")
    detail = {"message": "x", "type": kind, "param": "p", "code": "c", "request_id": None}
    assert json.loads(error.body()) == {"error": detail}
    assert error.response().status_code == status


@pytest.mark.parametrize(
    ("status", "sent", "kind"),
    [
        *((status, status, "invalid_request_error") for status in (400, 405, 415)),
        (401, 401, "authentication_error"),
        (403, 403, "permission_error"),
        (404, 404, "not_found_error"),
        (413, 413, "request_too_large"),
        (429, 429, "rate_limit_error"),
        (500, 500, "api_error"),
        (503, 529, "overloaded_error"),
        (504, 504, "timeout_error"),
    ],
)
def test_anthropics_shape(status: int, sent: int, kind: str) -> None:
    def response() -> Response:
        anthropic.set(True)
        return ApiError(status, "x", param="p", code="c", headers={"retry-after": "5"}).response()

    found = contextvars.copy_context().run(response)
    error = {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": None}
    assert json.loads(bytes(found.body)) == error
    assert (found.status_code, found.headers["retry-after"]) == (sent, "5")


def test_place_is_written_as_openai_does() -> None:
    assert json_path(("messages", 0, "content", 1, "type")) == "messages[0].content[1].type"


def validation_error(model: type, value: object) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)  # type: ignore[attr-defined]
    return from_exception(caught.value)


def test_validation_names_the_place() -> None:
    error = validation_error(CompletionRequest, {"prompt": [1, "a"]})
    assert (error.status, error.param) == (400, "prompt[1]")
    error = validation_error(ChatRequest, {"messages": [{"role": "user"}], "temperature": float("nan")})
    assert error.param == "temperature"


def test_other_exceptions() -> None:
    assert from_exception(InvalidRequest("m", "p", "c")).code == "c"
    unavailable = from_exception(PoolError("loading", loading=True))
    assert (unavailable.status, unavailable.headers["retry-after"]) == (503, "5")
    secret = from_exception(RuntimeError("password=hunter2"))
    assert secret.status == 500
    assert "hunter2" not in secret.body().decode()
