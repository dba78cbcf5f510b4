"""The wire contract, line by line: what SDKs and front ends rely on. Numbers are those of the contract."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ROOT, RunningServer, serve

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hi."}], "temperature": 0}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "pick",
        "parameters": {
            "type": "object",
            "properties": {"color": {"enum": ["red", "green"]}},
            "required": ["color"],
        },
    },
}


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def stream(http: httpx.Client, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of every event; the last is "[DONE]"."""
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        data = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    detail: dict[str, Any] = response.json()["error"]
    assert set(detail) == {"message", "type", "param", "code", "request_id"}
    assert detail["request_id"] == response.headers["x-request-id"]
    return detail


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_01_end_then_usage_then_done(http: httpx.Client, path: str) -> None:
    body = HI if path == CHAT else {"prompt": "Hi"}
    *chunks, usage, done = stream(
        http, path, {**body, "max_tokens": 4, "stream_options": {"include_usage": True}}
    )
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 4
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_02_finish_reason_is_null_elsewhere(http: httpx.Client) -> None:
    *chunks, _, _ = stream(http, CHAT, {**HI, "max_tokens": 5})
    assert {repr(chunk["choices"][0]["finish_reason"]) for chunk in chunks} == {"None"}


def test_03_role_first_and_once(http: httpx.Client) -> None:
    first, *rest, _ = stream(http, CHAT, {**HI, "max_tokens": 5})
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in rest)


def test_04_usage_only_when_asked(http: httpx.Client) -> None:
    *chunks, _ = stream(http, CHAT, {**HI, "max_tokens": 3})
    assert all("usage" not in chunk for chunk in chunks)
    *chunks, usage, _ = stream(http, CHAT, {**HI, "max_tokens": 3, "stream_options": {"include_usage": True}})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, usage, _ = stream(http, TEXT, {"prompt": "Hi", "max_tokens": 3, "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == usage["usage"]["completion_tokens"] == 3
    first, second, *_ = stream(http, CHAT, {**HI, "max_tokens": 3, "stream_options": options})
    assert first["usage"]["completion_tokens"] == 0, "the role comes before the first token"
    assert first["usage"]["total_tokens"] == first["usage"]["prompt_tokens"]
    assert second["usage"]["completion_tokens"] >= 1


def test_05_an_error_in_a_stream_is_an_event(http: httpx.Client) -> None:
    *_, last = stream(http, TEXT, {"prompt": "Hi", "max_tokens": 1500, "ignore_eos": True, "timeout": 0.4})
    assert last["error"]["code"] == "timeout"
    assert last["error"]["type"] == "server_error"


def test_06_no_half_characters(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Repeat: 안녕하세요 👩‍👩‍👧 こんにちは"}]
    for seed in range(2):
        body = {"messages": messages, "max_tokens": 48, "seed": seed, "temperature": 0.5}
        whole = post(http, CHAT, body)["choices"][0]["message"]["content"]
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in stream(http, CHAT, body)[:-1]]
        assert "".join(pieces) == whole
        assert not any("\ufffd" in piece for piece in pieces[:-2])


def test_07_stop_strings_do_not_leak(http: httpx.Client) -> None:
    body = {"prompt": "1, 2, 3, 4,", "max_tokens": 30, "temperature": 0}
    free = post(http, TEXT, body)["choices"][0]["text"]
    end = free[16:22]
    for stop in (end, [end, "zzz"], ["zzz", "qqq", "www", "yyy", end]):
        whole = post(http, TEXT, {**body, "stop": stop})
        choice = whole["choices"][0]
        assert choice["text"] == free[: free.index(end)]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", end)
        *chunks, usage, _ = stream(
            http, TEXT, {**body, "stop": stop, "stream_options": {"include_usage": True}}
        )
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]
        assert usage["usage"] == whole["usage"]


def test_08_stream_and_whole_agree(http: httpx.Client) -> None:
    body = {**HI, "max_tokens": 30, "temperature": 1, "seed": 11, "logprobs": True, "top_logprobs": 2}
    whole = post(http, CHAT, body)
    *chunks, usage, _ = stream(http, CHAT, {**body, "stream_options": {"include_usage": True}})
    choices = [chunk["choices"][0] for chunk in chunks]
    (expected,) = whole["choices"]
    assert "".join(one["delta"].get("content", "") for one in choices) == expected["message"]["content"]
    assert choices[-1]["finish_reason"] == expected["finish_reason"]
    tokens = [token for one in choices if one["logprobs"] for token in one["logprobs"]["content"]]
    assert tokens == expected["logprobs"]["content"]
    assert usage["usage"] == whole["usage"]


def test_09_keep_alive_and_line_ends() -> None:
    flags = ["--engine", "synthetic", "--synthetic.ttft", "2.5", "--ping-interval", "1"]
    with serve(*flags, "--log-level", "warning") as server:
        body = {"prompt": "Hi", "max_tokens": 2, "stream": True}
        with httpx.stream("POST", server.url + TEXT, json=body, timeout=30) as response:
            text = response.read().decode()
    assert text.startswith(": ping\n\n: ping\n\ndata: ")
    assert "\r" not in text


def test_10_default_length(http: httpx.Client) -> None:
    assert post(http, TEXT, {"prompt": "Once", "ignore_eos": True})["usage"]["completion_tokens"] == 16
    near_the_end = {"messages": [{"role": "user", "content": "word " * 1980}]}
    usage = post(http, CHAT, {**near_the_end, "ignore_eos": True})["usage"]
    assert usage["prompt_tokens"] > 1980
    assert usage["total_tokens"] == 2048
    usage = post(http, CHAT, {**near_the_end, "ignore_eos": True, "max_tokens": 32_000})["usage"]
    assert usage["total_tokens"] == 2048


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), (TEXT, "prompt")])
def test_11_too_long(http: httpx.Client, path: str, param: str) -> None:
    long = "word " * 3000
    body = {"prompt": long} if path == TEXT else {"messages": [{"role": "user", "content": long}]}
    detail = error(http.post(path, json=body), 400)
    assert (detail["code"], detail["param"]) == ("context_length_exceeded", param)
    assert "2048" in detail["message"]
    assert int(max(re.findall(r"\d+", detail["message"]), key=int)) > 3000
    kept = post(http, path, {**body, "truncate_prompt_tokens": 50, "max_tokens": 1})
    assert kept["usage"]["prompt_tokens"] == 50
    assert (
        post(http, path, {**body, "truncate_prompt_tokens": -1, "max_tokens": 9})["usage"]["prompt_tokens"]
        == 2039
    )


def test_12_messages_of_every_kind(http: httpx.Client) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "pick", "arguments": '{"color": "red"}'}}
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "dev"},
        {"role": "user", "content": [{"type": "text", "text": "Pick"}, {"type": "text", "text": "a color."}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "call_1", "content": "red"},
        {"role": "assistant", "content": "Red.", "reasoning_content": "hm", "tool_calls": []},
        {"role": "user", "content": "Thanks."},
    ]
    extras: list[dict[str, Any]] = [
        {},
        {"tools": []},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
    ]
    for extra in extras:
        answer = post(http, CHAT, {"messages": messages, "max_tokens": 3, **extra})
        assert answer["choices"][0]["message"]["role"] == "assistant"
    prompt = post(http, f"{CHAT}/render", {"messages": messages})["prompt"]
    assert prompt.index("Be brief.") < prompt.index('"color": "red"') < prompt.index("Thanks.")


def test_13_unknown_fields_are_named(http: httpx.Client) -> None:
    response = http.post(TEXT, json={"prompt": "Hi", "max_tokens": 1, "sparkle": 1, "glitter": 2})
    assert response.headers["x-ignored-params"] == "glitter, sparkle"
    refused = error(http.post(TEXT, json={"prompt": "Hi", "suffix": "!"}), 400)
    assert (refused["param"], refused["code"]) == ("suffix", "unsupported_parameter")


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models", "/v1/models/", "/v1/models"])
def test_14_paths_and_models(http: httpx.Client, path: str) -> None:
    card = httpx.get(str(http.base_url).rstrip("/") + path, timeout=30).raise_for_status().json()["data"][0]
    assert card["trtllm_openai"]["max_batch_size"] == 32
    assert card["trtllm_openai"]["capabilities"]["seed"] is True
    assert http.get(f"/v1/models/{card['id']}").json() == card
    detail = error(http.post(TEXT, json={"model": "other", "prompt": "x"}), 404)
    assert (detail["code"], detail["param"]) == ("model_not_found", "model")


def test_15_prompts_in_every_form(http: httpx.Client) -> None:
    ids = post(http, "/tokenize", {"prompt": "Hello there"})["tokens"]
    base = {"max_tokens": 2, "temperature": 0, "echo": True, "logprobs": 1, "n": 2, "best_of": 3}
    for prompt, count in (("Hello there", 1), (["Hello there"] * 2, 2), (ids, 1), ([ids, ids], 2)):
        whole = post(http, TEXT, {**base, "prompt": prompt})
        assert [choice["index"] for choice in whole["choices"]] == list(range(2 * count))
        for choice in whole["choices"]:
            assert choice["text"].startswith("Hello there")
            parts = choice["logprobs"]
            assert len(parts["tokens"]) == len(parts["token_logprobs"]) == len(ids) + 2
            assert parts["token_logprobs"][0] is None
            assert "".join(parts["tokens"]) == choice["text"]
            places = [
                choice["text"].startswith(*pair)
                for pair in zip(parts["tokens"], parts["text_offset"], strict=True)
            ]
            assert all(places)
        assert whole["usage"]["completion_tokens"] == 6 * count
    chunks = stream(http, TEXT, {**base, "best_of": 2, "prompt": "Hello there"})[:-1]
    first = next(chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == 0)
    assert first["text"] == "Hello there"
    assert len(first["logprobs"]["tokens"]) == len(ids)


def test_16_accepted(http: httpx.Client) -> None:
    fields = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "x"},
        "modalities": ["text"],
    }
    response = http.post(CHAT, json={**HI, "max_tokens": 1, **fields})
    assert response.status_code == 200
    assert response.headers["x-ignored-params"] == "prediction", "the server does not draft"


def test_17_one_shape_of_errors(http: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    found = [
        (http.get("/nowhere"), 404, "not_found"),
        (http.get(CHAT), 405, "method_not_allowed"),
        (http.post(CHAT, content=b"{", headers=json_type), 400, "invalid_json"),
        (
            http.post(CHAT, content=b"x=1", headers={"content-type": "text/plain"}),
            415,
            "unsupported_media_type",
        ),
        (http.post(CHAT, content=b" " * (17 << 20), headers=json_type), 413, "payload_too_large"),
        (http.post(CHAT, json={"messages": "x"}), 400, "invalid_type"),
        (http.post(CHAT, json={**HI, "n": 0}), 400, "invalid_value"),
        (http.post(CHAT, json={}), 400, "missing_required_parameter"),
        (http.post(TEXT, json={"prompt": "Hi", "timeout": 0.001, "max_tokens": 500}), 504, "timeout"),
    ]
    for response, status, code in found:
        detail = error(response, status)
        assert detail["code"] == code
        assert detail["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def test_18_retry_headers_while_loading() -> None:
    """The port answers from the first moment; a client that follows retry-after gets through."""
    port = httpx.URL(_free_url()).port
    slow = ["--engine", "synthetic", "--synthetic.load-time", "3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trtllm_openai", "serve", "--port", str(port), *slow],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        seen = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                response = httpx.get(f"{url}/health/ready")
            except httpx.ConnectError:
                time.sleep(0.05)
                continue
            if response.status_code == 200:
                break
            seen.append(error(response, 503))
            startup = httpx.get(f"{url}/health/startup")
            if startup.status_code != 200:
                error(startup, 503)
            assert response.headers["retry-after-ms"] == response.headers["retry-after"] + "000"
            assert httpx.get(f"{url}/health/live").status_code == 200
            refused = httpx.post(f"{url}{TEXT}", json={"prompt": "x"})
            if refused.status_code != 200:
                error(refused, 503)
            time.sleep(0.2)
        assert any("loading" in detail["message"] for detail in seen)
        assert httpx.post(f"{url}{TEXT}", json={"prompt": "x"}).status_code == 200
    finally:
        process.terminate()
        process.wait(30)


def _free_url() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def test_19_request_id(http: httpx.Client) -> None:
    response = http.get("/nowhere", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == response.json()["error"]["request_id"] == "mine-1"
    strange = http.get("/nowhere", headers={"x-request-id": "a b" * 90})
    assert re.fullmatch(r"[0-9a-f]{32}", strange.headers["x-request-id"])
    with http.stream(
        "POST",
        TEXT,
        json={"prompt": "Hi", "max_tokens": 1500, "ignore_eos": True, "timeout": 0.3, "stream": True},
        headers={"x-request-id": "mine-2"},
    ) as late:
        last = [line for line in late.iter_lines() if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["error"]["request_id"] == "mine-2"


def test_20_length_wins_over_tool_calls(http: httpx.Client, terse: dict[str, float]) -> None:
    closed: dict[str, Any] = {**TOOL["function"]["parameters"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "pick", "parameters": closed}}
    body = {**HI, "tools": [tool], "tool_choice": "required", "logit_bias": terse}
    whole = post(http, CHAT, {**body, "max_tokens": 200, "parallel_tool_calls": False})["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert json.loads(whole["message"]["tool_calls"][0]["function"]["arguments"])["color"] in ("red", "green")
    assert whole["message"]["content"] is None
    for budget in (12, 14, 16):
        cut = post(http, CHAT, {**body, "max_tokens": budget})["choices"][0]
        assert cut["finish_reason"] == "length"


def test_21_usage_details(http: httpx.Client) -> None:
    usage = post(http, CHAT, {**HI, "max_tokens": 3})["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0
    details = usage["completion_tokens_details"]
    assert details["reasoning_tokens"] == 0
    assert {"accepted_prediction_tokens", "rejected_prediction_tokens"} <= details.keys()


def test_21_reasoning_tokens(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A template that opens the thinking: all that the model writes before the tag is thinking."""
    template = tmp_path_factory.mktemp("template") / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n<think>\n{# </think> #}"
    )
    flags = [
        "--model",
        str(few_layers),
        "--chat-template",
        str(template),
        "--torch.max-seq-len",
        "256",
        "--log-level",
        "warning",
    ]
    with serve(*flags) as server, httpx.Client(base_url=server.url, timeout=60) as own:
        whole = post(own, CHAT, {**HI, "max_tokens": 12, "ignore_eos": True})
        message = whole["choices"][0]["message"]
        assert message["reasoning_content"]
        assert message["content"] == ""
        assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 12
        chunks = stream(own, CHAT, {**HI, "max_tokens": 12, "ignore_eos": True})[:-1]
        pieces = [chunk["choices"][0]["delta"].get("reasoning_content", "") for chunk in chunks]
        assert "".join(pieces) == message["reasoning_content"]


def test_22_logprobs_of_both_kinds(http: httpx.Client) -> None:
    chat = post(http, CHAT, {**HI, "max_tokens": 4, "logprobs": True, "top_logprobs": 2})["choices"][0]
    for token in chat["logprobs"]["content"]:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert bytes(token["bytes"]).decode("utf-8", "replace") == token["token"]
        assert len(token["top_logprobs"]) == 2
    text = post(http, TEXT, {"prompt": "1, 2, 3,", "max_tokens": 4, "logprobs": 2})["choices"][0]
    assert set(text["logprobs"]) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert {len(part) for part in text["logprobs"].values()} == {4}
