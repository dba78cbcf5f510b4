"""The routes of /v1/responses over a fake engine."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.api.auth import make_key
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/responses"


def text_of(response: dict[str, Any]) -> str:
    return "".join(item["content"][0]["text"] for item in response["output"])


def test_a_stored_conversation_goes_on(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    first = served.post(PATH, {"input": "Hi", "instructions": "Be brief."}).json()
    assert (first["status"], text_of(first)) == ("completed", "Hello world")
    assert served.get(f"{PATH}/{first['id']}").json()["output"] == first["output"]
    (item,) = served.get(f"{PATH}/{first['id']}/input_items").json()["data"]
    assert item["content"] == [{"type": "input_text", "text": "Hi"}]
    served.post(PATH, {"input": "And?", "previous_response_id": first["id"]})
    prompt = demo_tokenizer.decode(served.pool.requests[1].prompt_token_ids)
    assert prompt.index("Hi") < prompt.index("Hello world") < prompt.index("And?")
    assert "Be brief." not in prompt, "instructions are for one response"
    assert served.refusal(PATH, {"input": "a", "previous_response_id": "resp_x"})[:2] == (
        404,
        "previous_response_id",
    )


def test_delete_and_store_false(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    kept = served.post(PATH, {"input": "Hi"}).json()["id"]
    unkept = served.post(PATH, {"input": "Hi", "store": False}).json()["id"]
    assert served.get(f"{PATH}/{unkept}").status_code == 404
    deleted = asyncio.run(served.request("DELETE", f"{PATH}/{kept}")).json()
    assert (deleted["id"], deleted["deleted"]) == (kept, True)
    assert served.get(f"{PATH}/{kept}").status_code == 404


def test_the_stream_ends_with_the_whole_response(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    frames = served.post(PATH, {"input": "Hi", "stream": True}).text.removesuffix("\n\n").split("\n\n")
    events = [json.loads(frame.split("\ndata: ")[1]) for frame in frames]
    assert [frame.split("\n")[0] for frame in frames] == [f"event: {event['type']}" for event in events]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text_of(events[-1]["response"]) == "Hello world"
    assert served.get(f"{PATH}/{events[-1]['response']['id']}").status_code == 200


def test_background_is_answered_at_once_and_can_be_cancelled(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)

    async def main() -> None:
        served.pool.hold = True
        body = {"input": "Hi", "background": True}
        begun = (await served.request("POST", PATH, json=body)).json()
        assert begun["status"] in ("queued", "in_progress")
        go_on = {"input": "a", "previous_response_id": begun["id"]}
        assert (await served.request("POST", PATH, json=go_on)).status_code == 400
        cancelled = (await served.request("POST", f"{PATH}/{begun['id']}/cancel")).json()
        assert cancelled["status"] == "cancelled"
        assert served.pool.aborted == [served.pool.requests[0].request_id]
        served.pool.hold = False
        begun = (await served.request("POST", PATH, json=body)).json()
        for _ in range(100):
            await asyncio.sleep(0)
            found = (await served.request("GET", f"{PATH}/{begun['id']}")).json()
            if found["status"] == "completed":
                break
        assert text_of(found) == "Hello world"

    asyncio.run(main())


def test_times_are_integers(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    made = served.post(PATH, {"input": "Hi"}).json()
    found = served.get(f"{PATH}/{made['id']}").json()
    for name in ("created_at", "completed_at"):
        assert type(made[name]) is type(found[name]) is int


@pytest.mark.parametrize("name", ["max_output_tokens", "max_completion_tokens", "max_tokens"])
def test_the_answer_is_bounded_by_any_of_its_names(demo_tokenizer: Tokenizer, name: str) -> None:
    served = Served(demo_tokenizer)
    response = served.post(PATH, {"input": "Hi", name: 1})
    answer = response.json()
    assert (answer["status"], answer["usage"]["output_tokens"]) == ("incomplete", 1)
    assert answer["max_output_tokens"] == 1
    assert "x-ignored-params" not in response.headers
    assert served.refusal(PATH, {"input": "Hi", name: 0})[:2] == (400, name)


def test_what_a_stream_says_has_the_types_of_the_whole(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    frames = served.post(PATH, {"input": "Hi", "stream": True}).text.removesuffix("\n\n").split("\n\n")
    events = [json.loads(frame.split("\ndata: ")[1]) for frame in frames]
    shown = [event["response"] for event in events if "response" in event]
    stored = served.get(f"{PATH}/{shown[-1]['id']}").json()
    assert len(shown) == 3
    assert stored == shown[-1]
    assert {type(one["created_at"]) for one in shown} == {int}
    assert {one["created_at"] for one in shown} == {stored["created_at"]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": 5}]}, "input[0].output"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "x"}}}},
            "text.format.schema.type",
        ),
        ({"text": {"format": {"type": "json_object", "schema": {"items": 5}}}}, "text.format.schema.items"),
        ({"text": {"format": {"type": "regex"}}}, "text.format.regex"),
        (
            {
                "tools": [
                    {"type": "web_search"},
                    {"type": "function", "name": "f", "parameters": {"items": 5}},
                ],
                "tool_choice": "required",
            },
            "tools[1].parameters.items",
        ),
        (
            {"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b"}] * 2}]},
            "tools[0].tools[1].name",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"documents": [{"text": "a"}]}, "documents"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ],
)
def test_errors_name_the_clients_own_field(
    demo_tokenizer: Tokenizer, fields: dict[str, Any], param: str
) -> None:
    response = Served(demo_tokenizer).post(PATH, {"input": "Hi", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert f"'{param.removesuffix('.type')}" in error["message"]


def test_the_items_of_a_response_can_be_referred_to(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, "Hello Yuna")
    first = served.post(PATH, {"input": "Hi"}).json()
    (given,) = served.get(f"{PATH}/{first['id']}/input_items").json()["data"]
    ids = [given["id"], first["output"][0]["id"]]
    references = [{"type": "item_reference", "id": one} for one in ids]
    again = served.post(PATH, {"input": [*references, {"role": "user", "content": "And?"}]}).json()
    prompt = demo_tokenizer.decode(served.pool.requests[1].prompt_token_ids)
    assert prompt.index("Hi") < prompt.index("Hello Yuna") < prompt.index("And?")
    kept = served.get(f"{PATH}/{again['id']}/input_items").json()["data"]
    assert [item["type"] for item in kept] == ["item_reference", "item_reference", "message"]
    unknown = {"input": [{"type": "item_reference", "id": "msg_1"}]}
    assert served.refusal(PATH, unknown) == (404, "input[0].id", "item_not_found")


CALLS = (
    'Wait.<tool_call>\n{"name": "crm__find", "arguments": {"id": 1}}\n</tool_call>'
    '<tool_call>\n{"name": "shell", "arguments": {"input": "ls\\n"}}\n</tool_call>'
)
TOOLS = [
    {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find"}]},
    {"type": "custom", "name": "shell"},
    {"type": "image_generation"},
]


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_with_tools_of_every_kind(demo_tokenizer: Tokenizer, stream: bool) -> None:
    served = Served(demo_tokenizer, CALLS)
    answer = served.post(PATH, {"input": "Hi", "tools": TOOLS, "stream": stream})
    assert answer.headers["x-ignored-params"] == "tools[2] (image_generation)"
    if stream:
        response = json.loads(answer.text.rstrip().rsplit("\ndata: ", 1)[1])["response"]
    else:
        response = answer.json()
    message, function, custom = response["output"]
    assert message["content"][0]["text"].strip() == "Wait."
    assert (function["namespace"], function["name"]) == ("crm", "find")
    assert json.loads(function["arguments"]) == {"id": 1}
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "shell", "ls\n")
    outputs = [
        {"type": "function_call_output", "call_id": function["call_id"], "output": "Yuna"},
        {"type": "custom_tool_call_output", "call_id": custom["call_id"], "output": "a.txt"},
    ]
    tail = {"tools": TOOLS, "max_output_tokens": 5}
    served.post(PATH, {"input": outputs, "previous_response_id": response["id"], **tail})
    served.post(PATH, {"input": [{"role": "user", "content": "Hi"}, *response["output"], *outputs], **tail})
    continued, sent = (
        demo_tokenizer.decode(request.prompt_token_ids) for request in served.pool.requests[1:]
    )
    assert continued == sent, "stored or sent back, the conversation is the same"
    assert "crm__find" in sent
    assert "a.txt" in sent


def test_a_hint_is_no_news(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    hints = {"prompt_cache_key": "k", "session_id": "s"}
    response = served.post(PATH, {"input": "Hi", **hints}, headers={"session_id": "s"})
    assert (response.status_code, "x-ignored-params" in response.headers) == (200, False)
    assert served.post(PATH, {"input": "Hi", "verve": 1}).headers["x-ignored-params"] == "verve"


def test_only_background_responses_are_cancelled(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    done = served.post(PATH, {"input": "Hi"}).json()
    response = asyncio.run(served.request("POST", f"{PATH}/{done['id']}/cancel"))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_id")


def test_a_response_belongs_to_the_key_that_made_it(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    (alice, first), (bob, second) = make_key("alice", "api"), make_key("bob", "api")
    file = tmp_path / "keys"
    file.write_text(f"{first}\n{second}\n")
    served = Served(demo_tokenizer, api_keys_file=str(file))

    def status(key: str, method: str, path: str, body: Any = None) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return asyncio.run(served.request(method, path, json=body, headers=headers)).status_code

    made = served.post(PATH, {"input": "Hi"}, headers={"authorization": f"Bearer {alice}"}).json()["id"]
    own = f"{PATH}/{made}"
    go_on = {"input": "And?", "previous_response_id": made}
    operations = [
        ("GET", own, None, 200),
        ("GET", f"{own}/input_items", None, 200),
        ("POST", f"{own}/cancel", None, 400),  # it is not in the background
        ("POST", PATH, go_on, 200),
        ("DELETE", own, None, 200),
    ]
    assert [status(bob, *operation[:3]) for operation in operations] == [404] * 5
    assert [status(alice, *operation[:3]) for operation in operations] == [one[3] for one in operations]
