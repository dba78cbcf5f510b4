"""Compaction: a conversation becomes the user's messages and a summary, which later input begins with."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import CompactedResponse

from tests.unit.api.served import Served, keys_file
from trtllm_openai.api.responses.compaction import MAX_SUMMARY_TOKENS, TASK
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/responses"
COMPACT = "/v1/responses/compact"
TALK: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Find the file."},
    {"type": "function_call", "call_id": "1", "name": "ls", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "a.txt"},
    {"role": "user", "content": [{"type": "input_text", "text": "Open it."}]},
]


def prompt(served: Served, index: int = -1) -> str:
    return served.pool.tokenizer.decode(served.pool.requests[index].prompt_token_ids)


def test_the_users_messages_and_a_summary(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, " The file is a.txt. ")
    compacted = served.post(COMPACT, {"input": TALK, "instructions": "Rules."}).json()
    assert compacted["object"] == "response.compaction"
    sdk = CompactedResponse.construct(**compacted)
    assert [item.type for item in sdk.output] == ["message", "message", "compaction"]
    *kept, summary = compacted["output"]
    assert [item["content"][0]["text"] for item in kept] == ["Find the file.", "Open it."]
    assert {item["role"] for item in kept} == {"user"}
    assert summary["type"] == "compaction"
    assert compacted["usage"]["output_tokens"] > 0
    asked = prompt(served)
    assert asked.index("Rules.") < asked.index("a.txt") < asked.index(TASK)
    served.post(PATH, {"input": [*compacted["output"], {"role": "user", "content": "Go on."}]})
    later = prompt(served)
    assert later.index("Open it.") < later.index("The file is a.txt.") < later.index("Go on.")
    assert "Be brief." not in later


def test_a_stored_conversation_is_compacted(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    first = served.post(PATH, {"input": "Hi"}).json()["id"]
    output = served.post(COMPACT, {"previous_response_id": first}).json()["output"]
    assert [item["type"] for item in output] == ["message", "compaction"]
    assert "Hello world" in prompt(served)


@pytest.mark.parametrize("stream", [False, True])
def test_a_trigger_makes_a_response_of_one_item(demo_tokenizer: Tokenizer, stream: bool) -> None:
    served = Served(demo_tokenizer, "All is well.")
    ask = {
        "input": [*TALK, {"type": "compaction_trigger"}],
        "tools": [{"type": "function", "name": "f"}],
        "stream": stream,
    }
    answer = served.post(PATH, ask)
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert [event["type"] for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event["sequence_number"] for event in events] == list(range(5))
        response = events[-1]["response"]
        assert events[3]["item"] == response["output"][0]
    else:
        response = answer.json()
    (item,) = response["output"]
    assert item["type"] == "compaction"
    assert TASK in prompt(served)
    served.post(PATH, {"input": "Go on.", "previous_response_id": response["id"]})
    assert "All is well." in prompt(served)
    assert "Find the file." not in prompt(served), "the summary stands for it"
    served.post(PATH, {"input": [{"type": "item_reference", "id": item["id"]}, *TALK[-1:]]})
    assert "All is well." in prompt(served)


def test_the_length_of_a_summary_is_bounded(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, small="max_tokens=7", large="")
    served = Served(demo_tokenizer, api_keys_file=file)
    lengths = []
    for name in ("small", "large"):
        response = served.post(COMPACT, {"input": "Hi"}, headers=headers[name])
        assert response.status_code == 200, response.text
        lengths.append(served.pool.requests[-1].sampling.max_tokens)
    assert lengths[0] == 7
    left = 512 - len(served.pool.requests[-1].prompt_token_ids)
    assert lengths[1] == left < MAX_SUMMARY_TOKENS


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": [{"role": "", "content": "x"}]}, 400, "input[0].role"),
        ({"input": "word " * 600}, 400, "input"),
        ({"input": "x", "model": "nobody"}, 404, "model"),
        ({"previous_response_id": "resp_1"}, 404, "previous_response_id"),
        ({"input": [{"type": "compaction_trigger"}, TALK[1]]}, 400, "input[0].type"),
    ],
)
def test_refusals(demo_tokenizer: Tokenizer, body: dict[str, Any], status: int, param: str) -> None:
    assert Served(demo_tokenizer).refusal(COMPACT, body)[:2] == (status, param)
