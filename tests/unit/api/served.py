"""The whole application in this process, over a pool whose engine is a list of tokens."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec

from trtllm_openai.api.auth import make_key
from trtllm_openai.api.context import ServerContext
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.generation import (
    Capabilities,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    StepOutput,
    TokenLogprobs,
)
from trtllm_openai.runners import Generation, SequencePool
from trtllm_openai.runners.runner import Runner
from trtllm_openai.runners.state import Phase, RunnerReport, RunnerState
from trtllm_openai.serve.application import Application, create_app
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.text.tokenizer import Tokenizer

CAPABILITIES = Capabilities(
    max_logprobs=5, max_prompt_logprobs=5, seed=True, priority=True, guides=("json_object", "json_schema")
)


def engine_info(vocab_size: int = 1000, capabilities: Capabilities = CAPABILITIES) -> EngineInfo:
    return EngineInfo("fake", "Fake", "bfloat16", "cpu", vocab_size, (2,), 512, 8, capabilities)


class FakePool(SequencePool):
    """Answers every sequence with `text`, one token a delta; `hold` keeps sequences without an answer."""

    def __init__(self, tokenizer: Tokenizer, text: str = "Hello world", *, hold: bool = False) -> None:
        super().__init__(lambda: None)
        self.info = engine_info(tokenizer.vocab_size)
        self.tokenizer = tokenizer
        self.text = text
        self.hold = hold
        self.requests: list[GenerationRequest] = []
        self.aborted: list[str] = []
        self.restarted: list[tuple[int, float]] = []
        self.sessions: list[str] = []
        self.phase = Phase.READY
        self.reason = ""

    def with_salts(self) -> EngineInfo:
        """The engine's facts, if it knew cache salts."""
        assert self.info is not None
        capabilities = msgspec.structs.replace(self.info.capabilities, cache_salt=True)
        return msgspec.structs.replace(self.info, capabilities=capabilities)

    @property
    def runners(self) -> list[Runner]:
        return []

    @property
    def wanted(self) -> int:
        return 1

    @property
    def restarts(self) -> int:
        return len(self.restarted)

    @property
    def stats(self) -> EngineStats:
        return EngineStats()

    def states(self) -> list[RunnerState]:
        return [RunnerState(index=0, state=self.phase, reason=self.reason, loaded=0.5, pid=7, sequences=3)]

    async def report(self) -> RunnerReport:
        return RunnerReport(self.states(), self.restarts, self.wanted)

    async def restart(self, index: int, drain_timeout_s: float) -> None:
        if index != 0:
            raise LookupError(f"There is no runner {index}.")
        self.restarted.append((index, drain_timeout_s))

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def submit(self, requests: list[GenerationRequest], session: str = "") -> Generation:
        self.requests += requests
        self.sessions.append(session)
        generation = Generation([request.request_id for request in requests], self.aborted.extend)
        if not self.hold:
            asyncio.get_running_loop().call_soon(self._answer, generation, requests)
        return generation

    def _answer(self, generation: Generation, requests: list[GenerationRequest]) -> None:
        news = [generation.put(output) for request in requests for output in self.outputs(request)]
        if any(news):
            generation.listener()

    def outputs(self, request: GenerationRequest) -> list[StepOutput]:
        """The deltas of one sequence."""
        ids = self.tokenizer.encode(self.text, add_special_tokens=False)
        sampling = request.sampling
        kept = ids[: sampling.max_tokens]
        outputs = [StepOutput(request.request_id, [token]) for token in kept]
        outputs = outputs or [StepOutput(request.request_id, [])]
        if sampling.logprobs is not None:
            for output in outputs:
                output.logprobs = [TokenLogprobs(token, -0.5, [(token, -0.5)]) for token in output.token_ids]
        if sampling.prompt_logprobs is not None:
            rest = request.prompt_token_ids[1:]
            outputs[0].prompt_logprobs = [None, *(TokenLogprobs(token, -1.5, []) for token in rest)]
        outputs[-1].finish_reason = "stop" if len(kept) == len(ids) else "length"
        return outputs


def keys_file(directory: Path, **limits: str) -> tuple[str, dict[str, dict[str, str]]]:
    """A file with a key for each name, with these limits; the headers that each authenticates with."""
    made = {name: make_key(name, "api,admin") for name in limits}
    file = directory / "keys"
    file.write_text("".join(f"{line} {limits[name]}\n" for name, (_, line) in made.items()))
    return str(file), {name: {"authorization": f"Bearer {key}"} for name, (key, _) in made.items()}


class Served:
    """An application that is ready: its context, its pool, and requests to it."""

    def __init__(self, tokenizer: Tokenizer, text: str = "Hello world", **settings: Any) -> None:
        chosen = Settings(**{"engine": "synthetic", **settings})
        self.service = service = InferenceService(chosen)
        self.pool = FakePool(tokenizer, text)
        self.context: ServerContext = service.context
        self.context.tokenizer = tokenizer
        self.context.chat = ChatFormat(tokenizer, chosen.tool_parser, chosen.reasoning_parser)
        self.context.pool = self.pool
        self.app: Application = create_app(service)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://server"
        ) as client:
            return await client.request(method, path, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return asyncio.run(self.request("POST", path, json=body, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self.request("GET", path, **options))

    def refusal(self, path: str, body: Any) -> tuple[int, str | None, str | None]:
        """Status, parameter and code of a request that is refused."""
        response = self.post(path, body)
        error = response.json()["error"]
        return response.status_code, error["param"], error["code"]
