"""Chat completions over a fake engine: the whole answer, its chunks, and what is refused."""

import json
from typing import Any

import httpx
import msgspec
import pytest

from tests.unit.api.served import CAPABILITIES, Served, engine_info
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def test_every_choice_has_its_answer_and_its_seed(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    answer = served.post(PATH, {"messages": MESSAGES, "n": 2, "seed": 5}).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello world"] * 2
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "stop"]
    assert [request.sampling.seed for request in served.pool.requests] == [5, 6]
    prompt = served.pool.requests[0].prompt_token_ids
    each = len(demo_tokenizer.encode("Hello world", add_special_tokens=False))
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert answer["usage"]["completion_tokens"] == 2 * each


def test_chunks_say_the_role_once_and_the_reason_last(demo_tokenizer: Tokenizer) -> None:
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    response = Served(demo_tokenizer).post(PATH, body)
    *frames, done = response.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello world"
    assert not any("role" in delta for delta in deltas[1:])
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_a_tool_call_is_no_content(demo_tokenizer: Tokenizer) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = {"messages": MESSAGES, "tools": tools}
    (choice,) = Served(demo_tokenizer, call, tool_parser="hermes").post(PATH, body).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (made,) = choice["message"]["tool_calls"]
    assert made["function"] == {"name": "f", "arguments": '{"a": 1}'}


def test_arguments_that_are_text_have_the_types_of_the_tools_schema(demo_tokenizer: Tokenizer) -> None:
    given = [f"<arg_key>{name}</arg_key>\n<arg_value>5</arg_value>\n" for name in ("zip", "days")]
    parameters = {"type": "object", "properties": {"zip": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    served = Served(demo_tokenizer, f"<tool_call>f\n{''.join(given)}</tool_call>", tool_parser="glm45")
    (choice,) = served.post(PATH, {"messages": MESSAGES, "tools": tools}).json()["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"zip": "5", "days": 5}


def test_the_models_own_id_of_a_call_is_the_clients(demo_tokenizer: Tokenizer) -> None:
    call = "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    tools = [{"type": "function", "function": {"name": "f"}}]
    served = Served(demo_tokenizer, call, tool_parser="kimi_k2")
    (choice,) = served.post(PATH, {"messages": MESSAGES, "tools": tools}).json()["choices"]
    assert choice["message"]["tool_calls"][0]["id"] == "functions.f:0"


def test_channels_are_reasoning_and_content(demo_tokenizer: Tokenizer) -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    served = Served(demo_tokenizer, text, reasoning_parser="harmony")
    answer = served.post(PATH, {"messages": MESSAGES}).json()
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize(("stream", "channels"), [(False, True), (True, True), (True, False)])
def test_a_form_and_tools_on_channels(
    demo_tokenizer: Tokenizer, choice: str, stream: bool, channels: bool
) -> None:
    """A call or the form after thinking; where a call is required the form is left out.

    Without the capability it is one message of thinking at most.
    """
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    body = {"messages": MESSAGES, "tools": tools, "response_format": FORM, "tool_choice": choice}
    served = Served(demo_tokenizer, tool_parser="harmony", reasoning_parser="harmony")
    guides = ("json_schema", "structural_tag")
    capabilities = msgspec.structs.replace(CAPABILITIES, guides=guides, channels=channels)
    served.pool.info = engine_info(demo_tokenizer.vocab_size, capabilities)
    written = {"call": f"{THOUGHT}<|channel|>commentary to=functions.look <|constrain|>json<|message|>{{}}"}
    if choice == "auto":
        written["form"] = f'{THOUGHT}<|channel|>final <|constrain|>json<|message|>{{"a": 1}}'
    for kind, served.pool.text in written.items():
        response = served.post(PATH, body | {"stream": stream})
        assert response.status_code == 200, response.text
        expected = {"content": '{"a": 1}' if kind == "form" else "", "reasoning_content": "Hm."}
        assert whole(response, stream) == expected
        assert response.text.count('"name":"look"') == (kind == "call")
        guide = served.pool.requests[-1].guide
        assert guide is not None
        assert guide.kind == "structural_tag"
        assert not guide.optional
        assert "analysis" in guide.text
        assert "functions.look" in guide.text
        assert ("final" in guide.text) == (choice == "auto")


def whole(response: httpx.Response, stream: bool) -> dict[str, str]:
    """Content and reasoning of an answer, streamed or not."""
    if not stream:
        message = response.json()["choices"][0]["message"]
        return {key: message.get(key) or "" for key in ("content", "reasoning_content")}
    frames = response.text.removesuffix("\n\ndata: [DONE]\n\n").split("\n\n")
    deltas = [json.loads(frame.removeprefix("data: "))["choices"][0]["delta"] for frame in frames]
    assert deltas[0] == {"role": "assistant", "content": ""}
    return {
        key: "".join(delta.get(key) or "" for delta in deltas) for key in ("content", "reasoning_content")
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_prefill_is_continued_and_echoed(demo_tokenizer: Tokenizer, stream: bool) -> None:
    served = Served(demo_tokenizer)
    body = {"messages": [*MESSAGES, {"role": "assistant", "content": "```json\n"}], "stream": stream}
    going_on = {"continue_final_message": True, "add_generation_prompt": False}
    assert whole(served.post(PATH, body | going_on), stream)["content"] == "Hello world"
    assert whole(served.post(PATH, body | going_on | {"echo": True}), stream)["content"] == (
        "```json\nHello world"
    )
    assert whole(served.post(PATH, body | {"echo": True}), stream)["content"] == "```json\nHello world"
    prompts = [demo_tokenizer.decode(request.prompt_token_ids) for request in served.pool.requests]
    assert prompts[0].endswith("assistant\n```json\n")
    assert prompts[1] == prompts[0]
    assert prompts[2].endswith("assistant\n"), "a new turn"


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_continued_and_echoed(demo_tokenizer: Tokenizer, stream: bool) -> None:
    served = Served(demo_tokenizer, " think.\n</think>\nYes", reasoning_parser="think")
    body = {
        "messages": [*MESSAGES, {"role": "assistant", "content": "<think>\nLet me"}],
        "continue_final_message": True,
        "stream": stream,
    }
    answer = whole(served.post(PATH, body), stream)
    assert answer == {"content": "Yes", "reasoning_content": " think."}
    answer = whole(served.post(PATH, body | {"echo": True}), stream)
    assert answer == {"content": "<think>\nLet meYes", "reasoning_content": " think."}


def test_calls_cannot_be_continued(demo_tokenizer: Tokenizer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    last = {"role": "assistant", "content": "Wait", "tool_calls": [call]}
    body = {"messages": [*MESSAGES, last], "continue_final_message": True}
    assert Served(demo_tokenizer).refusal(PATH, body)[:2] == (400, "messages[1].tool_calls")


def test_a_prediction_is_ignored_by_name(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    body = {"messages": MESSAGES, "prediction": {"type": "content", "content": "Hello"}, "verbosity": "low"}
    assert served.post(PATH, body).headers["x-ignored-params"] == "verbosity, prediction"
    assert "x-ignored-params" not in served.post(PATH, {"messages": MESSAGES, "prediction": None}).headers


def test_render_generates_nothing(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    answer = served.post(f"{PATH}/render", {"messages": MESSAGES}).json()
    assert "Hi" in answer["prompt"]
    assert answer["count"] == len(answer["token_ids"]) > 0
    assert served.pool.requests == []
    served.post(PATH, {"messages": MESSAGES})
    assert served.pool.requests[0].prompt_token_ids == answer["token_ids"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"function_call": {"name": "f"}}, "function_call", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"chat_template": "{{ x }}"}, "chat_template", "unsupported_parameter"),
        ({"prompt_token_ids": [1]}, "prompt_token_ids", "unsupported_parameter"),
        ({"audio": {"voice": "ash", "format": "wav"}}, "audio", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"documents": [{"title": "a", "text": "b"}]}, "documents", "unsupported_parameter"),
        ({"truncation_side": "middle"}, "truncation_side", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ],
)
def test_refusals_name_the_parameter(
    demo_tokenizer: Tokenizer, fields: dict[str, Any], param: str, code: str
) -> None:
    served = Served(demo_tokenizer)
    assert served.refusal(PATH, {"messages": MESSAGES, **fields}) == (400, param, code)
    assert served.pool.requests == []


def test_a_model_that_is_not_served(demo_tokenizer: Tokenizer) -> None:
    body = {"messages": MESSAGES, "model": "other"}
    assert Served(demo_tokenizer).refusal(PATH, body) == (404, "model", "model_not_found")
