"""The official openai client against a few layers of the demo model."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion

from tests.e2e.conftest import RunningServer

MODEL = "SmolLM2-135M-Instruct"
QUESTION: list[Any] = [
    {"role": "user", "content": "What is the capital of France? Answer in one short sentence."}
]
KOREAN = "대한민국의 수도는"


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_models(client: OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_chat_stream_equals_the_whole(client: OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "messages": QUESTION,
        "seed": 11,
        "temperature": 1.0,
        "max_tokens": 60,
    }
    whole = client.chat.completions.create(**arguments)
    chunks = list(
        client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True})
    )
    *body, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in body)
    deltas = [chunk.choices[0] for chunk in body]
    assert (deltas[0].delta.role, deltas[0].delta.content) == ("assistant", "")
    assert all(delta.delta.role is None for delta in deltas[1:])
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + [
        whole.choices[0].finish_reason
    ]
    assert "".join(delta.delta.content or "" for delta in deltas) == whole.choices[0].message.content


def test_completion_and_its_stream(client: OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "prompt": KOREAN,
        "seed": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 48,
    }
    whole = client.completions.create(**arguments)
    text, finish = "", None
    for chunk in client.completions.create(**arguments, stream=True):
        text += chunk.choices[0].text
        finish = chunk.choices[0].finish_reason
    assert text == whole.choices[0].text != ""
    assert finish == whole.choices[0].finish_reason


def test_completions_default_to_16_tokens(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_batch_of_prompts_in_every_form(client: OpenAI) -> None:
    texts = client.completions.create(model=MODEL, prompt=["One two", "A b c"], temperature=0, max_tokens=4)
    assert [choice.index for choice in texts.choices] == [0, 1]
    ids = client.completions.create(model=MODEL, prompt=[[504, 3575], [49, 272]], temperature=0, max_tokens=4)
    assert len(ids.choices) == 2
    one = client.completions.create(model=MODEL, prompt=[504, 3575], temperature=0, max_tokens=4)
    assert one.choices[0].text == ids.choices[0].text
    assert one.usage is not None
    assert one.usage.prompt_tokens == 2


def test_chat_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=12, logprobs=True, top_logprobs=5
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert answer.usage is not None
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert len(token.top_logprobs) == 5
        ranked = [alternative.logprob for alternative in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        assert token.logprob == pytest.approx(ranked[0])  # greedy takes the likeliest
        assert token.logprob <= 0
    shown = b"".join(bytes(token.bytes or ()) for token in content if not token.token.startswith("<|"))
    assert shown.decode() == answer.choices[0].message.content

    streamed = [
        token
        for chunk in client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=12,
            logprobs=True,
            top_logprobs=5,
            stream=True,
        )
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or ()
    ]
    assert [token.token for token in streamed] == [token.token for token in content]
    for left, right in zip(streamed, content, strict=True):
        assert left.logprob == pytest.approx(right.logprob, abs=1e-6)


def test_completion_logprobs(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=6, logprobs=3
    )
    choice = answer.choices[0]
    logprobs = choice.logprobs
    assert answer.usage is not None
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.text_offset is not None
    assert len(logprobs.tokens) == answer.usage.completion_tokens
    assert all(len(top) == 3 for top in logprobs.top_logprobs)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert choice.text[offset:].startswith(token) or token.startswith("<|")


def test_stop_string_and_list(client: OpenAI) -> None:
    arguments: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 40}
    plain = client.chat.completions.create(**arguments).choices[0].message.content
    word = plain.split()[2]
    at = plain.index(word)
    for stop in (word, ["never there", word]):
        answer = client.chat.completions.create(**arguments, stop=stop)
        assert answer.choices[0].message.content == plain[:at]
        assert answer.choices[0].finish_reason == "stop"
        chunks = list(
            client.chat.completions.create(
                **arguments, stop=stop, stream=True, stream_options={"include_usage": True}
            )
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed == plain[:at]
        assert chunks[-1].usage == answer.usage


def test_n_choices_differ_and_repeat(client: OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "messages": QUESTION,
        "temperature": 1.5,
        "seed": 3,
        "max_tokens": 24,
        "n": 2,
    }
    answer = client.chat.completions.create(**arguments)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert texts[0] != texts[1]
    streamed = ["", ""]
    for chunk in client.chat.completions.create(**arguments, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_sampling_parameters_reach_the_engine(client: OpenAI) -> None:
    def text(**extra: object) -> str:
        arguments: dict[str, Any] = {
            "model": MODEL,
            "prompt": "The capital of France is",
            "max_tokens": 8,
            "temperature": 0,
            **extra,
        }
        answer: Completion = client.completions.create(**arguments)
        return answer.choices[0].text

    plain = text()
    assert text(temperature=1.8, seed=1, extra_body={"top_k": 1}) == plain
    assert text(temperature=1.8, seed=1, top_p=1e-6) == plain
    assert text(temperature=1.8, seed=1, extra_body={"min_p": 1.0}) == plain
    first = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=1, temperature=0, logprobs=1
    )
    assert text(logit_bias={"0": 100}) != plain
    assert first.choices[0].logprobs is not None
    assert first.choices[0].logprobs.tokens is not None
    assert first.choices[0].logprobs.tokens[0] in plain
    assert text(frequency_penalty=2.0, max_tokens=60) != text(max_tokens=60)
    assert text(extra_body={"repetition_penalty": 1.8}, max_tokens=60) != text(max_tokens=60)


def test_errors_are_the_sdks_own(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=9)
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 3000}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert "2048" in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=QUESTION)


def test_async_client_many_at_once(server: RunningServer) -> None:
    async def main() -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(i: int) -> str:
                if i % 2:
                    stream = await client.chat.completions.create(
                        model=MODEL, messages=QUESTION, seed=i, max_tokens=16, stream=True
                    )
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                answer = await client.chat.completions.create(
                    model=MODEL, messages=QUESTION, seed=i, max_tokens=16
                )
                return answer.choices[0].message.content or ""

            texts = await asyncio.gather(*(one(i) for i in range(8)))
            assert all(texts)

    asyncio.run(main())
