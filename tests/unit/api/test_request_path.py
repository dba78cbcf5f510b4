"""A streamed chat request enters no module more than twice between its route and the pool."""

import asyncio
import json
import sys
from collections import Counter
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

import trtllm_openai
from trtllm_openai.api.chat import create_chat_completion
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.generation import Capabilities, EngineInfo, GenerationRequest
from trtllm_openai.runners import NOBODY, Generation, Tenant
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.tokenizer import Tokenizer

ROOT = trtllm_openai.__path__[0]


class Submitted(Exception):  # noqa: N818 - ends the trace
    pass


class FakePool:
    routed = False

    def __init__(self, info: EngineInfo) -> None:
        self.info = info

    def new_request_id(self) -> str:
        return "r"

    def submit(self, requests: list[GenerationRequest], session: str = "") -> Generation:
        sys.setprofile(None)
        raise Submitted


@pytest.mark.parametrize("tenant", [NOBODY, Tenant("a", "a")], ids=["no keys", "a key"])
def test_entries_per_module(demo_tokenizer: Tokenizer, tenant: Tenant) -> None:
    info = EngineInfo("fake", "fake", "bf16", "cpu", demo_tokenizer.vocab_size, (2,), 4096, 8, Capabilities())
    context = InferenceService(Settings(engine="synthetic")).context
    context.tokenizer, context.chat = demo_tokenizer, ChatFormat(demo_tokenizer, "auto", "auto")
    context.pool = FakePool(info)  # type: ignore[assignment]
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    scope = {
        "type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b"",
        "app": SimpleNamespace(state=SimpleNamespace(context=context)),
        "state": {"record": RequestRecord(), "tenant": tenant},
    }  # fmt: skip
    if tenant.label:
        context.metrics.of_key(tenant.label)  # it is not the first request of the key
    entries: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        caller = frame.f_back
        if event == "call" and file.startswith(ROOT) and (not caller or caller.f_code.co_filename != file):
            entries[file.removeprefix(ROOT).lstrip("/")] += 1

    async def main() -> None:
        sys.setprofile(count)
        try:
            await create_chat_completion(Request(scope, receive))
        finally:
            sys.setprofile(None)

    with pytest.raises(Submitted):
        asyncio.run(main())
    print(dict(entries))
    assert {"api/chat.py", "api/submit.py", "runners/admission.py"} <= set(entries)
    del entries["chat/sandbox.py"]  # the template's own code counts its work there
    assert {module: n for module, n in entries.items() if n > 2} == {}
