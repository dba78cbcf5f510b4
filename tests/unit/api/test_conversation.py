"""A conversation on its way to the pool: rendered, tokenized, with its tools and its guide."""

import asyncio
from typing import Any, cast

import pytest

from tests.unit.api.served import Served
from tests.unit.chat.templates import DOCUMENTS
from trtllm_openai.api import conversation
from trtllm_openai.api.conversation import Conversation, encode, prepare
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.text.tokenizer import Tokenizer

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def prepared(
    tokenizer: Tokenizer, settings: dict[str, Any] | None = None, size: int = 0, **fields: Any
) -> Conversation:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})
    return asyncio.run(prepare(Served(tokenizer, **settings or {}).context.loaded(), body, 5, None, size))


def test_the_tokens_are_those_of_the_prompt(demo_tokenizer: Tokenizer) -> None:
    found = prepared(demo_tokenizer)
    assert "Hi" in found.prompt.text
    assert found.token_ids == demo_tokenizer.encode(found.prompt.text, add_special_tokens=False)
    assert found.guide is None
    assert found.token_ids[-3:] == prepared(demo_tokenizer, truncate_prompt_tokens=3).token_ids


def test_a_demanded_call_is_guided(demo_tokenizer: Tokenizer) -> None:
    assert prepared(demo_tokenizer, tools=[TOOL]).guide is None
    guide = prepared(demo_tokenizer, tools=[TOOL], tool_choice="required").guide
    assert guide is not None
    assert (guide.kind, guide.param) == ("json_schema", "tools[0].function.parameters")


def test_each_tool_is_named_as_the_client_has_it(demo_tokenizer: Tokenizer) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    guide = prepared(demo_tokenizer, tools=[other, TOOL], tool_choice="required").guide
    assert guide is not None
    assert guide.param == "tools"
    assert guide.param_at(".$defs.tool_1.properties.a") == "tools[1].function.parameters.properties.a"
    assert guide.param_at(".$defs.tool_10.type") == "tools.$defs.tool_10.type"
    chosen = {"type": "function", "function": {"name": "f"}}
    guide = prepared(demo_tokenizer, tools=[other, TOOL], tool_choice=chosen).guide
    assert guide is not None
    assert guide.param == guide.param_at(".$defs.tool_1") == "tools[1].function.parameters"


def test_documents_are_the_templates(demo_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_tokenizer, "chat_template", DOCUMENTS)
    documents = [{"title": "Seoul", "text": "A city."}]
    assert prepared(demo_tokenizer, documents=documents).prompt.text.startswith(
        "<document>Seoul: A city.</document>"
    )
    assert prepared(demo_tokenizer, documents=[]).prompt.text.startswith("<role>")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"tools": [TOOL], "tool_choice": "required", "min_tokens": 2}, "min_tokens"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        ({"tools": [TOOL], "settings": {"tool_parser": "none"}}, "tools"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
)
def test_refusals(demo_tokenizer: Tokenizer, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(demo_tokenizer, **fields)
    assert (caught.value.param or "").startswith(param)


def test_a_long_text_leaves_the_event_loop(
    demo_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Served(demo_tokenizer).context.loaded()
    threads: list[Any] = []
    to_thread = asyncio.to_thread

    async def seen(work: Any) -> Any:
        threads.append(work)
        return await to_thread(work)

    monkeypatch.setattr(asyncio, "to_thread", seen)
    for text, used in (("short", 0), ("a " * conversation.TOKENIZE_OFF_LOOP, 1)):
        ids = asyncio.run(encode(model, text, "prompt", add_special_tokens=False, salt=None))
        assert ids == demo_tokenizer.encode(text, add_special_tokens=False)
        assert len(threads) == used


@pytest.mark.parametrize(
    ("size", "messages", "used"),
    [(0, 1, False), (conversation.PREPARE_OFF_LOOP, 1, True), (0, conversation.STEPS_ON_LOOP + 1, True)],
)
def test_much_work_leaves_the_event_loop(
    demo_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, size: int, messages: int, used: bool
) -> None:
    """A large body does, and a rendering that takes more steps than its size suggested."""
    work: list[Any] = []
    to_thread = asyncio.to_thread

    async def seen(function: Any, *arguments: Any) -> Any:
        work.append(function)
        return await to_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", seen)
    talk = [{"role": "user", "content": "Hi"}] * messages
    found = prepared(demo_tokenizer, size=size, messages=talk, truncate_prompt_tokens=5)
    assert found.prompt.text.count("Hi") == messages
    assert (conversation._plan in work) == used


class _Panic(BaseException):
    """As a panic in Rust: no subclass of Exception."""


@pytest.mark.parametrize("error", [Exception("match error"), _Panic("panicked")])
def test_a_failing_tokenizer_is_an_error_of_the_request(error: BaseException) -> None:
    class Failing:
        def encode(self, text: str, **options: Any) -> list[int]:
            raise error

    with pytest.raises(InvalidRequest, match=str(error)) as caught:
        conversation.encode_all(
            cast(Tokenizer, Failing()), ["a"], "prompt", add_special_tokens=True, salt=None
        )
    assert caught.value.param == "prompt"
