"""/tokenize and /detokenize."""

from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.text.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_text_there_and_back(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    body = {"prompt": "Hello 한국", "add_special_tokens": False, "return_token_strs": True}
    answer = served.post("/tokenize", body).json()
    assert answer["tokens"] == demo_tokenizer.encode("Hello 한국", add_special_tokens=False)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 512
    assert served.post("/detokenize", {"tokens": answer["tokens"]}).json() == {"prompt": "Hello 한국"}


@pytest.mark.parametrize(("skip", "text"), [(None, "Hi"), (True, "Hi"), (False, "<|im_start|>Hi")])
def test_special_tokens_have_text_if_asked_for(
    demo_tokenizer: Tokenizer, skip: bool | None, text: str
) -> None:
    ids = demo_tokenizer.encode("<|im_start|>Hi", add_special_tokens=False)
    body = {"tokens": ids, "skip_special_tokens": skip}
    assert Served(demo_tokenizer).post("/detokenize", body).json() == {"prompt": text}


def test_messages_are_tokenized_as_a_chat_sends_them(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    tokens = served.post("/tokenize", {"messages": MESSAGES}).json()["tokens"]
    served.post("/v1/chat/completions", {"messages": MESSAGES})
    assert served.pool.requests[0].prompt_token_ids == tokens
    without = served.post("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}).json()
    assert without["count"] < len(tokens)


def test_tools_are_in_the_prompt_unless_none_may_be_called(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    tools = [{"type": "function", "function": {"name": "look"}}]
    counts = [
        served.post("/tokenize", {"messages": MESSAGES, **more}).json()["count"]
        for more in ({}, {"tools": tools, "tool_choice": "none"}, {"tools": tools})
    ]
    assert counts[0] == counts[1] < counts[2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "look"}}]),
        ("tool_choice", "required"),
        ("chat_template_kwargs", {"enable_thinking": True}),
        ("documents", [{"title": "a"}]),
        ("reasoning_effort", "low"),
        ("add_generation_prompt", True),
        ("continue_final_message", True),
    ],
)
def test_a_text_has_no_template(demo_tokenizer: Tokenizer, field: str, value: Any) -> None:
    served = Served(demo_tokenizer)
    assert served.refusal("/tokenize", {"prompt": "a", field: value}) == (400, field, "unsupported_parameter")
    empty = type(value)()
    assert served.post("/tokenize", {"prompt": "a", field: empty}).status_code == 200


def test_what_the_template_reads(demo_tokenizer: Tokenizer) -> None:
    template = "{{ messages[0].content }}{{ documents[0].text }}{{ reasoning_effort }}"
    served = Served(Tokenizer(demo_tokenizer._backend, chat_template=template))
    fields = {"messages": MESSAGES, "documents": [{"text": "one"}], "reasoning_effort": "low"}
    answer = served.post("/tokenize", {**fields, "return_token_strs": True}).json()
    assert "".join(answer["token_strs"]) == "Hionelow"
    without = Served(demo_tokenizer).refusal("/tokenize", {"messages": MESSAGES, "documents": [{}]})
    assert without[:2] == (400, "documents")


def test_refusals(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    assert served.refusal("/tokenize", {})[:2] == (400, "prompt")
    assert served.refusal("/tokenize", {"prompt": "a", "messages": MESSAGES})[:2] == (400, "prompt")
    assert served.refusal("/tokenize", {"prompt": "a", "model": "b"})[:2] == (404, "model")
    assert served.refusal("/detokenize", {"tokens": [demo_tokenizer.vocab_size]})[:2] == (400, "tokens")
    assert served.refusal("/detokenize", {"tokens": [-1]})[:2] == (400, "tokens[0]")
