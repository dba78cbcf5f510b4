"""Raw HTTP: frames as bytes, UTF-8 at every chunk, errors of every kind, paths, headers."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve

KOREAN = "대한민국의 수도는"
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def frames(response: httpx.Response) -> list[str]:
    """The data of every event; checks framing on the way."""
    data = []
    for event in response.read().decode().split("\n\n")[:-1]:
        if event.startswith(":"):
            continue
        assert event.startswith("data: ")
        assert "\n" not in event
        data.append(event[6:])
    return data


def test_korean_streams_as_valid_utf8_and_adds_up(http: httpx.Client) -> None:
    body: dict[str, object] = {
        "prompt": KOREAN,
        "max_tokens": 64,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 1,
    }
    body["guided_regex"] = "[가-힣 ]{30,60}"  # a syllable is several tokens
    whole = http.post(TEXT, json=body).raise_for_status().json()["choices"][0]["text"]
    text = ""
    with http.stream("POST", TEXT, json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for raw in response.iter_raw():
            for event in raw.decode("utf-8").split("\n\n"):  # every chunk decodes by itself
                if event.startswith("data: {"):
                    piece = json.loads(event[6:])["choices"][0]["text"]
                    piece.encode("utf-8")
                    text += piece
    assert text == whole
    assert len(whole) >= 10


def test_chat_frames_in_full(http: httpx.Client) -> None:
    body = {
        "messages": [{"role": "user", "content": "Say hi."}],
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with http.stream("POST", CHAT, json=body) as response:
        data = frames(response)
    assert data[-1] == "[DONE]"
    chunks = [json.loads(item) for item in data[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *body_chunks, usage = chunks
    for chunk in body_chunks:
        assert chunk["usage"] is None
        assert "finish_reason" in chunk["choices"][0]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in body_chunks]
    assert reasons[-1] in ("stop", "length")
    assert set(reasons[:-1]) == {None}
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_no_usage_unless_asked(http: httpx.Client) -> None:
    with http.stream("POST", TEXT, json={"prompt": "Hi", "max_tokens": 3, "stream": True}) as response:
        assert all("usage" not in json.loads(item) for item in frames(response)[:-1])


def error_of(response: httpx.Response, status: int) -> dict[str, str]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code", "request_id"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"]
    return body["error"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", None),
        ({"messages": [{"role": "", "content": "x"}]}, "messages[0].role", None),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"repetition_penalty": 1e-38}, "repetition_penalty", "invalid_value"),
        ({"top_k": 2**31}, "top_k", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"seed": 1e30}, "seed", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_tokens": 2.5}, "max_tokens", "invalid_type"),
        ({"stop_token_ids": [-1] * 1000}, "stop_token_ids[0]", "invalid_value"),
        ({"stop_token_ids": [-1] * 100_000}, "stop_token_ids", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [99999999]}, "stop_token_ids", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "unsupported_parameter"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "invalid_value"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message", None),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        ({"use_beam_search": True}, "use_beam_search", "unsupported_parameter"),
        ({"lora_request": {"lora_name": "a"}}, "lora_request", "unsupported_parameter"),
        ({"disaggregated_params": {}}, "disaggregated_params", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "invalid_value"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "invalid_value"),
        ({"bad_words": ["a", ""]}, "bad_words[1]", "invalid_value"),
        ({"guided_regex": "(a"}, "guided_regex", "invalid_value"),
        ({"guided_regex": "(a", "stream": True}, "guided_regex", "invalid_value"),
        ({"guided_regex": ""}, "guided_regex", "invalid_value"),
        ({"guided_grammar": "root ::= nowhere"}, "guided_grammar", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"guided_json": {"type": "text"}}, "guided_json.type", "invalid_schema"),
        ({"guided_json": {"properties": {"a": {"minimum": "1"}}}}, "guided_json.properties.a.minimum", None),
        ({"guided_json": {"$ref": "#/nowhere"}}, "guided_json", "invalid_value"),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "invalid_value"),
        ({"guided_regex": "a+", "min_tokens": 1}, "min_tokens", "invalid_value"),
        ({"structured_outputs": {"yaml": "a"}}, "structured_outputs.yaml", "unsupported_parameter"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice", "invalid_type"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.format", "invalid_value"),
        (
            {"response_format": {"type": "structural_tag", "format": None}},
            "response_format.format",
            "invalid_value",
        ),
        ({"priority": 1.5}, "priority", "invalid_value"),
        ({"cache_salt": ""}, "cache_salt", "invalid_value"),
        ({"timeout": 0}, "timeout", "invalid_value"),
    ],
)
def test_bad_chat_parameters_are_named(
    http: httpx.Client, body: dict[str, object], param: str, code: str | None
) -> None:
    base = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    error = error_of(http.post(CHAT, json={**base, **body} if body else {}), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    if code:
        assert error["code"] == code


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [99999999]}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "x", "best_of": 3, "stream": True}, "best_of"),
        ({"prompt": "x", "best_of": 129}, "best_of"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "echo": True, "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "add_special_tokens": "no"}, "add_special_tokens"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": ["x"] * 100, "n": 2}, "n"),
        ({"prompt": "word " * 4000}, "prompt"),
    ],
)
def test_bad_completion_parameters_are_named(http: httpx.Client, body: dict[str, object], param: str) -> None:
    assert error_of(http.post(TEXT, json=body), 400)["param"] == param


def test_errors_of_the_framework_have_the_same_shape(http: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    assert error_of(http.get("/nowhere"), 404)["code"] == "not_found"
    assert error_of(http.get(CHAT), 405)["code"] == "method_not_allowed"
    assert error_of(http.post(CHAT, content=b"{nope", headers=json_type), 400)["code"] == "invalid_json"
    assert error_of(http.post(CHAT, content=b"[1]", headers=json_type), 400)["code"] == "invalid_type"
    assert error_of(http.post(CHAT, content=b"\xff\xfe", headers=json_type), 400)["code"] == "invalid_json"
    assert (
        error_of(http.post(CHAT, content=b"a=b", headers={"content-type": "text/plain"}), 415)["code"]
        == "unsupported_media_type"
    )
    assert error_of(http.post(TEXT, json={"model": "gpt-9", "prompt": "x"}), 404)["code"] == "model_not_found"
    big = b'{"prompt": "' + b"x" * (17 * 2**20) + b'"}'
    assert error_of(http.post(TEXT, content=big, headers=json_type), 413)["code"] == "payload_too_large"
    chunked = (big[i : i + 65536] for i in range(0, len(big), 65536))
    assert error_of(http.post(TEXT, content=chunked, headers=json_type), 413)["code"] == "payload_too_large"


def test_paths_are_forgiving(server: RunningServer) -> None:
    for path in ("//v1/models", "/v1//models", "/v1/models/", "/v1/models"):
        assert httpx.get(server.url + path).status_code == 200, path


def test_unknown_fields_are_served_and_named(http: httpx.Client) -> None:
    response = http.post(TEXT, json={"prompt": "x", "max_tokens": 1, "stream_otpions": {}, "zeta": 1})
    assert response.status_code == 200
    assert response.headers["x-ignored-params"] == "stream_otpions, zeta"


def test_accepted_without_effect(http: httpx.Client) -> None:
    body = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": "Hi", "name": "ann"},
            {
                "role": "assistant",
                "content": "Yes?",
                "reasoning_content": "…",
                "refusal": None,
                "annotations": [],
            },
            {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
        ],
        "max_completion_tokens": 2,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "x"},
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "temperature": None,
        "n": None,
    }
    response = http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-params"] == "prediction", "the server does not draft"


def test_request_id_is_kept_when_sane(http: httpx.Client) -> None:
    sane = http.get("/v1/models", headers={"x-request-id": "abc-123"})
    assert sane.headers["x-request-id"] == "abc-123"
    wild = http.get("/v1/models", headers={"x-request-id": "a b\tc"})
    assert wild.headers["x-request-id"] != "a b\tc"


def test_chat_without_max_tokens_may_use_the_whole_context(http: httpx.Client) -> None:
    """Of which a long prompt leaves little, so that this is soon over."""
    long = "Count from 1 to 30. " + "again " * 1900
    answer = http.post(
        CHAT, json={"messages": [{"role": "user", "content": long}], "ignore_eos": True}
    ).json()
    assert answer["usage"]["completion_tokens"] > 16
    assert answer["usage"]["total_tokens"] == 2048
    assert answer["choices"][0]["finish_reason"] == "length"


def test_health_version_metrics_and_document(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "alive"}
    for path in ("/health/ready", "/health"):
        assert http.get(path).json()["status"] == "ready"
    assert http.get("/health/startup").json() == {"status": "started"}
    generated = http.get("/health_generate").json()
    assert (generated["status"], generated["ms"] > 0) == ("generated", True)
    assert http.post("/ping").status_code == 200
    assert http.get("/version").json()["engine"] == "torch"
    metrics = http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    for name in ("cache_config_info", "iteration_tokens_total_bucket", "num_preemptions_total"):
        assert f"vllm:{name}" in metrics.text
    for name in ("requests_running", "kv_blocks_total", "time_to_first_token_seconds_bucket"):
        assert f"trtllm_openai_{name}" in metrics.text
    document = http.get("/openapi.json").json()
    assert "ChatRequest" in document["components"]["schemas"]
    assert http.get("/v1/models").json()["data"][0]["max_model_len"] == 2048


def test_wrong_model_ends_the_server_with_a_sentence() -> None:
    with (
        pytest.raises(AssertionError, match="the server ended") as caught,
        serve("--model", "/no/such/model"),
    ):
        pass
    message = str(caught.value)
    assert "cannot serve" in message
    assert "/no/such/model" in message
    assert "Traceback" not in message


def test_port_taken_is_said(server: RunningServer) -> None:
    port = str(httpx.URL(server.url).port)
    with pytest.raises(AssertionError, match="cannot listen"), serve("--port", port):
        pass


def test_a_prompt_seen_before_is_taken_from_the_cache_of_its_salt(http: httpx.Client) -> None:
    words = " ".join(f"word {i}" for i in range(120))

    def ask(salt: str, **more: object) -> tuple[str, int, int]:
        body = {
            "prompt": words,
            "max_tokens": 8,
            "temperature": 0,
            "cache_salt": salt,
            "priority": 0.7,
            **more,
        }
        answer = http.post(TEXT, json=body).json()
        usage = answer["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return answer["choices"][0]["text"], cached, usage["prompt_tokens"]

    text, cached, prompt_tokens = ask("mine", n=3)
    assert cached == 0  # the prompt counts once, and its first answer computed it
    assert ask("mine") == (text, cached_again := (prompt_tokens - 1) // 64 * 64, prompt_tokens)
    assert cached_again > 0
    assert ask("other")[:2] == (text, 0)
    assert ask("mine", echo=True, logprobs=0, max_tokens=0)[1] == 0
