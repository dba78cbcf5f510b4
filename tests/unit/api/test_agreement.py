"""Stream and non-stream say the same, however the engine's deltas are cut."""

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trtllm_openai.api.accounting import Accounting
from trtllm_openai.api.chat import ChatChunks, chat_choice
from trtllm_openai.api.choice import Choice
from trtllm_openai.api.collect import collect
from trtllm_openai.api.flow import FlowControl
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.stream import ChunkFormatter, RunStream, UsageOptions
from trtllm_openai.api.time_limits import TimeLimits
from trtllm_openai.api.token_fields import TokenFields
from trtllm_openai.chat.parsers import REASONING, TOOL_FORMATS, ChatOutput
from trtllm_openai.chat.parsers.reasoning import ReasoningSplitter
from trtllm_openai.chat.parsers.written_calls import WrittenCalls
from trtllm_openai.config import LimitSettings
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput, TokenLogprobs
from trtllm_openai.runners import Admission, Generation, SharedCounters
from trtllm_openai.telemetry.metrics import Metrics
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.choice import ChoiceDecoder, TextRules
from trtllm_openai.text.tokenizer import Tokenizer

ARGUMENTS = '{"a": [1, "}</tool_call>", {"b": null}], "한": "👩‍👩‍👧"}'
CALL = f'<tool_call>\n{{"name": "f", "arguments": {ARGUMENTS}}}\n</tool_call>'
FRAGMENTS = [
    "Hello, ",
    "대한민국의 수도는 ",
    "👨‍👩‍👧‍👦",
    "é\u0301",
    "<think>\nhm\n</think>\n\n",
    "<tool_call>",
    CALL,
    '[TOOL_CALLS][{"name": "g", "arguments": {}}]',
    '{"name": "f", "parameters": {"x": "y"}}',
    '[f(a=1, b="x, y)")]',
    "STOP",
    "ST",
    " \n ",
]
METRICS = Metrics()


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    tools = draw(st.sampled_from([None, *TOOL_FORMATS]))
    form = TOOL_FORMATS[tools].form if tools else None
    own = [form.write([("f", {"a": "} <b>", "n": 1})])] * 3 if isinstance(form, WrittenCalls) else []
    text = "".join(draw(st.lists(st.sampled_from([*FRAGMENTS, *own]), max_size=6)))
    return {
        "text": text,
        "noise": draw(st.lists(st.integers(17, 49151), max_size=4)),
        "cuts": draw(st.lists(st.integers(1, 6), min_size=1, max_size=30)),
        "together": draw(st.integers(1, 5)),
        "behind": draw(st.lists(st.booleans(), min_size=1, max_size=5)),
        "stop": draw(st.sampled_from([(), ("STOP",), ("TO", "수도"), ("\n",)])),
        "logprobs": draw(st.booleans()),
        "ids": draw(st.booleans()),
        "tools": tools,
        "reasoning": draw(st.booleans()),
        "reason": draw(st.sampled_from(["stop", "length"])),
    }


def make_run(tokenizer: Tokenizer, case: dict[str, Any], generation: Generation) -> RequestRun:
    admission = Admission(LimitSettings(), lambda _: None, SharedCounters.alone())
    parser = None
    if case["tools"] or case["reasoning"]:
        tools = TOOL_FORMATS[case["tools"]].parser(("f", "g")) if case["tools"] else None
        splitter = ReasoningSplitter(REASONING["think"], opened=False) if case["reasoning"] else None
        parser = ChatOutput(splitter, tools)
    sampling = SamplingParams(max_tokens=99, logprobs=1 if case["logprobs"] else None)
    decoder = ChoiceDecoder(tokenizer, TextRules(stop=case["stop"], with_ids=case["ids"]), parser)
    choice = Choice(0, GenerationRequest("r", [1], sampling), decoder)
    ticket = admission.enter("", [1])
    accounting = Accounting(METRICS, RequestRecord(), ticket, [choice], prompt_tokens=1, started=0.0)
    return RequestRun(
        [choice], generation, accounting, TimeLimits(), admission.engine_refusal, lambda _: None
    )


def fields_of(tokenizer: Tokenizer, case: dict[str, Any]) -> TokenFields:
    return TokenFields(tokenizer, 1 if case["logprobs"] else None, ids=case["ids"])


def outputs(tokenizer: Tokenizer, case: dict[str, Any], *, whole: bool) -> list[StepOutput]:
    """The engine's deltas: all tokens at once, or cut as the case says."""
    ids = tokenizer.encode(case["text"], add_special_tokens=False) + case["noise"]
    sizes = [len(ids)] if whole else case["cuts"]
    found: list[StepOutput] = []
    place, turn = 0, 0
    while place < len(ids) or not found:
        part = ids[place : place + max(sizes[turn % len(sizes)], 1)]
        logprobs = [TokenLogprobs(token, -token / 7, [(token, -1.0)]) for token in part]
        found.append(StepOutput("r", part, logprobs=logprobs if case["logprobs"] else None))
        place, turn = place + max(len(part), 1), turn + 1
    found[-1].finish_reason = case["reason"]
    return found


class Sink:
    """Stands for an `SseWriter` whose socket is full now and then."""

    def __init__(self, flow: FlowControl, behind: list[bool]) -> None:
        self.flow = flow
        self.behind = behind
        self.frames = b""
        self.pushes = 0
        self.ended = False

    def push(self, frames: bytes) -> None:
        assert frames
        assert not self.ended
        self.frames += frames
        self.pushes += 1
        if self.behind[self.pushes % len(self.behind)]:
            self.flow.pause()

    def finish(self, tail: bytes) -> None:
        self.frames += tail
        self.ended = True


async def streamed(tokenizer: Tokenizer, case: dict[str, Any]) -> dict[str, Any]:
    """The stream, put together as a client does it."""
    generation = Generation(["r"], lambda _: None)
    run = make_run(tokenizer, case, generation)
    deltas = outputs(tokenizer, case, whole=False)
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    form = ChatChunks(head, 1, fields_of(tokenizer, case), include_usage=True)
    result: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "logprobs": [], "ids": []}
    usage = UsageOptions(at_end=True)
    source = RunStream(run, lambda writer: ChunkFormatter(writer, run, form, usage))
    sink = Sink(run.flow, case["behind"])
    source.start(sink)  # type: ignore[arg-type]
    for start in range(0, len(deltas), case["together"]):
        news = [generation.put(delta) for delta in deltas[start : start + case["together"]]]
        if any(news):
            generation.listener()
        if run.flow.paused and start % 2:
            run.flow.resume()
    while run.flow.paused and not sink.ended:
        run.flow.resume()
    assert sink.ended
    source.close()
    for frame in sink.frames.decode("utf-8").split("\n\n")[:-1]:
        if frame != "data: [DONE]":
            add(result, json.loads(frame.removeprefix("data: ")))
    return result


def add(result: dict[str, Any], chunk: dict[str, Any]) -> None:
    assert "error" not in chunk, chunk
    if not chunk["choices"]:
        result["usage"] = chunk["usage"]
        return
    (choice,) = chunk["choices"]
    assert "finish_reason" not in result, "something follows the end"
    result["ids"] += choice.get("token_ids", [])
    delta = choice["delta"]
    result["content"] += delta.get("content") or ""
    result["reasoning"] += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls", []):
        if "id" in call:
            assert call["index"] == len(result["calls"])
            result["calls"].append([call["function"]["name"], ""])
        else:
            result["calls"][call["index"]][1] += call["function"]["arguments"]
    if choice["logprobs"]:
        result["logprobs"] += choice["logprobs"]["content"]
    if choice["finish_reason"]:
        result["finish_reason"] = choice["finish_reason"]
        result["stop_reason"] = choice["stop_reason"]


async def collected(tokenizer: Tokenizer, case: dict[str, Any]) -> dict[str, Any]:
    generation = Generation(["r"], lambda _: None)
    run = make_run(tokenizer, case, generation)
    for delta in outputs(tokenizer, case, whole=True):
        generation.put(delta)
    (answer,) = await collect(run)
    choice = json.loads(chat_choice(answer, fields_of(tokenizer, case)).model_dump_json())
    message = choice["message"]
    calls = [
        [call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls", [])
    ]
    return {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning_content", ""),
        "calls": calls,
        "logprobs": choice["logprobs"]["content"] if choice["logprobs"] else [],
        "ids": choice.get("token_ids", []),
        "finish_reason": choice["finish_reason"],
        "stop_reason": choice["stop_reason"],
        "usage": run.accounting.usage().model_dump(),
    }


@given(case=cases())
@settings(max_examples=400, deadline=None)
def test_stream_and_whole_agree(demo_tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    stream = asyncio.run(streamed(demo_tokenizer, case))
    assert stream == asyncio.run(collected(demo_tokenizer, case))
    assert len(stream["ids"]) == (stream["usage"]["completion_tokens"] if case["ids"] else 0)
