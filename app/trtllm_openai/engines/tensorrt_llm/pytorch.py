"""The Engine over `tensorrt_llm.LLM`, whose PyTorch backend serves Hugging Face checkpoints.

For versions that load no engines any more. The LLM wants an event loop, and one loop for all requests: the
engine has its own, which runs only inside `step`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trtllm_openai.checkpoints.metadata import read_json
from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.base import Progress
from trtllm_openai.engines.tensorrt_llm import guide_check
from trtllm_openai.engines.tensorrt_llm.executor import bias_tensor, first_line
from trtllm_openai.engines.tensorrt_llm.guide_check import GuideChecker
from trtllm_openai.engines.tensorrt_llm.guided import GUIDES, guide_text
from trtllm_openai.engines.tensorrt_llm.guided_requests import POLL_S, GuidedRequests
from trtllm_openai.engines.tensorrt_llm.sampling import to_executor
from trtllm_openai.errors import ConfigError, InvalidRequest
from trtllm_openai.generation import (
    Capabilities,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Guide,
    StepOutput,
    TokenLogprobs,
)
from trtllm_openai.processes.mpi import prepare_to_spawn

MAX_LOGPROBS = 20
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "cancelled": "abort"}


class LLMEngine:
    """Implements `engines.base.Engine`. `package` is `tensorrt_llm`, `llmapi` its module of that name."""

    def __init__(
        self, info: EngineInfo, llm: Any, package: Any, llmapi: Any, guides: GuideChecker | None = None
    ) -> None:
        """`guides` checks each guide before its request is submitted."""
        self.info = info
        self._llm = llm
        self._package = package
        self._ignores_prompt = "prompt_ignore_length" in inspect.signature(package.SamplingParams).parameters
        self._llmapi = llmapi
        self._loop = asyncio.new_event_loop()
        self._something = asyncio.Event()
        self._guided = GuidedRequests(guides)
        self._new: list[GenerationRequest] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._results: dict[str, Any] = {}
        self._aborted: list[str] = []
        self._ready: dict[str, StepOutput] = {}
        self._stats = EngineStats()

    def submit(self, request: GenerationRequest) -> None:
        total = len(request.prompt_token_ids) + request.sampling.max_tokens
        if not request.prompt_token_ids:
            raise InvalidRequest("The prompt is empty.", "prompt")
        if total > self.info.max_seq_len:
            raise InvalidRequest(
                f"{total} tokens exceed the limit of {self.info.max_seq_len}.",
                "prompt",
                "context_length_exceeded",
            )
        if not self._guided.add(request):
            self._new.append(request)
        self._stats.prompt_tokens += len(request.prompt_token_ids)

    def abort(self, request_id: str) -> None:
        self._aborted.append(request_id)

    def step(self, timeout: float) -> list[StepOutput]:
        return self._loop.run_until_complete(self._step(timeout))

    def stats(self) -> EngineStats:
        """Counted here: reading the LLM's own statistics waits for them."""
        self._stats.running = len(self._tasks) + len(self._new)
        self._stats.waiting = self._stats.deferred = len(self._guided)
        return self._stats

    def shutdown(self, timeout_s: float) -> None:
        self._guided.close()
        self._loop.run_until_complete(self._cancel_all())
        self._llm.shutdown()
        self._loop.close()

    async def _cancel_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _step(self, patience: float) -> list[StepOutput]:
        outputs = self._drop_aborted()
        ready, refused = self._guided.take()
        self._new += ready
        outputs += refused
        if self._guided:
            patience = min(patience, POLL_S)
        while self._new:
            self._start(self._new.pop(0))
        if not self._ready and not outputs:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._something.wait()
        self._something.clear()
        outputs += self._ready.values()
        self._stats.steps += bool(self._ready)
        self._ready = {}
        return outputs

    def _start(self, request: GenerationRequest) -> None:
        try:
            result = self._llm.generate_async(
                request.prompt_token_ids,
                sampling_params=self._sampling(request),
                streaming=True,
                cache_salt=request.cache_salt,
            )
        except (
            Exception
        ) as error:  # ValueError and TypeError of its checks, RuntimeError when it is shut down
            self._fail(request.request_id, error)
            return
        self._results[request.request_id] = result
        self._tasks[request.request_id] = asyncio.create_task(self._follow(request, result))

    async def _follow(self, request: GenerationRequest, result: Any) -> None:
        """Collect a request's deltas; the object that comes is the same every time."""
        request_id = request.request_id
        try:
            async for update in result:
                self._take(request, update.outputs[0])
        except asyncio.CancelledError:
            raise
        except Exception as error:  # RequestError, or the executor's own failure
            self._fail(request_id, error)
        self._tasks.pop(request_id, None)
        self._results.pop(request_id, None)

    def _take(self, request: GenerationRequest, completion: Any) -> None:
        output = self._output(request.request_id)
        tokens = list(completion.token_ids_diff)
        output.token_ids += tokens
        self._stats.generated_tokens += len(tokens)
        if request.sampling.logprobs is not None:
            found = [
                _logprobs(token, alternatives, request.sampling.logprobs)
                for token, alternatives in zip(tokens, completion.logprobs_diff, strict=True)
            ]
            output.logprobs = (output.logprobs or []) + found
        reason = completion.finish_reason
        if reason is None:
            return
        if reason == "timeout":
            output.finish_reason, output.error = "error", "the request ran out of its time"
            return
        output.finish_reason = FINISH.get(reason, "length")
        ends = set(request.sampling.stop_token_ids)
        if not request.sampling.ignore_eos:
            ends.update(self.info.eos_token_ids)
        if output.finish_reason == "stop" and output.token_ids and output.token_ids[-1] in ends:
            output.stop_token_id = output.token_ids[-1]

    def _output(self, request_id: str) -> StepOutput:
        self._something.set()
        return self._ready.setdefault(request_id, StepOutput(request_id, []))

    def _fail(self, request_id: str, error: Exception) -> None:
        output = self._output(request_id)
        output.finish_reason, output.error = "error", first_line(error)

    def _drop_aborted(self) -> list[StepOutput]:
        outputs = []
        for request_id in self._aborted:
            waiting = [request for request in self._new if request.request_id == request_id]
            task = self._tasks.pop(request_id, None)
            if task is not None:
                task.cancel()
                self._results.pop(request_id).abort()
            elif waiting:
                self._new.remove(waiting[0])
            elif not self._guided.drop(request_id):
                continue
            self._ready.pop(request_id, None)
            outputs.append(StepOutput(request_id, [], "abort"))
        self._aborted.clear()
        return outputs

    def _sampling(self, request: GenerationRequest) -> Any:
        sampling = request.sampling
        ignored = len(request.prompt_token_ids) if self._ignores_prompt else None
        mapped = to_executor(sampling, self.info.eos_token_ids, ignored)
        extra: dict[str, Any] = {}
        if mapped.embedding_bias:
            extra["embedding_bias"] = bias_tensor(mapped.embedding_bias, self.info.vocab_size)
        if mapped.stop_words:
            extra["stop_token_ids"] = [word[0] for word in mapped.stop_words]
        if sampling.logprobs is not None:
            extra["logprobs"] = max(sampling.logprobs, 1)  # 1 is the fewest it gives
        if (guide := self._guided.guide_of(request)) is not None:
            extra["guided_decoding"] = _guided(guide, self._llmapi)
        return self._package.SamplingParams(
            max_tokens=sampling.max_tokens,
            end_id=mapped.end_id,
            pad_id=max(mapped.end_id, 0),
            detokenize=False,
            include_stop_str_in_output=True,  # else token_ids lack the stop token that logprobs has
            **mapped.config,
            **extra,
        )


def load(
    model_dir: Path,
    tokenizer_dir: Path,
    settings: TensorRTLLMSettings,
    eos_token_ids: tuple[int, ...],
    progress: Progress,
    vocabulary: Callable[[], list[bytes]],
) -> LLMEngine:
    """Load the Hugging Face checkpoint in `model_dir`. Raises `CheckpointError` or `ConfigError`.

    `vocabulary` gives each token's bytes by id; it is called only with guided decoding.
    """
    config = read_json(model_dir / "config.json")
    prepare_to_spawn()  # importing the package starts MPI, and the LLM's ranks are spawned
    try:
        with contextlib.redirect_stdout(sys.stderr):  # importing prints; standard output is the answer's
            package = importlib.import_module("tensorrt_llm")
            llmapi = importlib.import_module("tensorrt_llm.llmapi")
    except ImportError as error:
        raise ConfigError(f"engine: tensorrt_llm_pytorch cannot be imported here ({error})") from None
    optional: dict[str, Any] = {}
    for name in ("max_batch_size", "max_num_tokens", "max_seq_len"):
        if (value := getattr(settings, name)) is not None:
            optional[name] = value
    if settings.guided_decoding:
        optional["guided_decoding_backend"] = "xgrammar"
        optional["tokenizer"] = str(tokenizer_dir)
    else:
        optional["skip_tokenizer_init"] = True
    guides = None
    if settings.guided_decoding and guide_check.available():
        guides = guide_check.GuideChecker(vocabulary(), int(config["vocab_size"]), eos_token_ids)
    progress(0.1, "loading the checkpoint")
    llm = package.LLM(
        model=str(model_dir),
        tensor_parallel_size=settings.tensor_parallel_size,
        kv_cache_config=llmapi.KvCacheConfig(
            free_gpu_memory_fraction=settings.kv_cache_memory_fraction,
            max_tokens=settings.kv_cache_tokens,
            enable_block_reuse=settings.enable_block_reuse,
        ),
        enable_chunked_prefill=settings.enable_chunked_context,
        **optional,
    )
    if guides is not None:
        guides.wait_until_ready()
    progress(1.0, "ready")
    complete_sampler = has_complete_sampler(package.__version__)
    batch = settings.max_batch_size or DEFAULT_MAX_BATCH_SIZE
    info = EngineInfo(
        engine="tensorrt_llm_pytorch",
        architecture=(config.get("architectures") or ["unknown"])[0],
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "auto"),
        device=f"{settings.tensor_parallel_size} GPU(s)",
        vocab_size=int(config["vocab_size"]),
        eos_token_ids=eos_token_ids,
        max_seq_len=settings.max_seq_len or int(config["max_position_embeddings"]),
        max_batch_size=batch,
        lookahead=max(1, batch // 16),
        capabilities=Capabilities(
            max_logprobs=MAX_LOGPROBS,
            seed=complete_sampler,
            logit_bias=True,
            min_p=complete_sampler,
            penalties=complete_sampler,
            min_tokens=True,
            cache_salt=True,
            guides=GUIDES if settings.guided_decoding else (),
        ),
        tensor_parallel=settings.tensor_parallel_size,
        max_num_tokens=settings.max_num_tokens or 0,
    )
    return LLMEngine(info, llm, package, llmapi, guides)


def has_complete_sampler(version: str) -> bool:
    """Whether the PyTorch backend of this version applies `seed`, `min_p` and the penalties.

    Its sampler accepts them up to 1.2.x and ignores them; they are refused there instead.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= COMPLETE_SAMPLER


COMPLETE_SAMPLER = (1, 3)
DEFAULT_MAX_BATCH_SIZE = 2048
"""The LLM's own when it is not said."""


def _logprobs(token: int, alternatives: dict[int, Any], count: int) -> TokenLogprobs:
    """One token's values: a mapping of ids to objects with a `logprob`, the chosen one among them."""
    ranked = sorted(
        ((other, value.logprob) for other, value in alternatives.items()), key=lambda one: -one[1]
    )
    return TokenLogprobs(token, alternatives[token].logprob, ranked[:count])


def _guided(guide: Guide, llmapi: Any) -> Any:
    match guide.kind:
        case "json_object" | "json_schema":
            return llmapi.GuidedDecodingParams(json=guide_text(guide))
        case "regex":
            return llmapi.GuidedDecodingParams(regex=guide.text)
        case "grammar":
            return llmapi.GuidedDecodingParams(grammar=guide.text)
        case "structural_tag":
            return llmapi.GuidedDecodingParams(structural_tag=guide.text)
