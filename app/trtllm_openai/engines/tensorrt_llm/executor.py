"""The Engine over `tensorrt_llm.bindings.executor.Executor`, NVIDIA's C++ runtime with in-flight batching.

The executor schedules, batches and samples by itself, on threads of its own; `step` collects what is ready.
The bindings are passed in, so that this module imports without tensorrt_llm.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from trtllm_openai.engines.base import refusal
from trtllm_openai.engines.tensorrt_llm.guide_check import GuideChecker
from trtllm_openai.engines.tensorrt_llm.guided import guided_decoding_params
from trtllm_openai.engines.tensorrt_llm.guided_requests import POLL_S, GuidedRequests
from trtllm_openai.engines.tensorrt_llm.lora import CACHE_FULL, EVICTED, Adapters
from trtllm_openai.engines.tensorrt_llm.sampling import to_executor
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import (
    QUEUE_FULL,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
    StepOutput,
    TokenLogprobs,
)

log = logging.getLogger(__name__)
QUEUE_FULL_MESSAGE = re.compile(r"max(imum)?[ _]queue[ _]size\b.*\breached|queue is full", re.IGNORECASE)
"""Executor::Impl::enqueueRequests (cpp/tensorrt_llm/executor/executorImpl.cpp): "Maximum queue size of %d has
been reached, please try again later"."""
SALT_KEY = secrets.token_bytes(16)
"""Makes the ids of salts differ between processes: nobody can look for two salts with the same id."""


@dataclass(slots=True)
class _Live:
    request: GenerationRequest
    generated: int = 0
    cached_told: bool = False
    ends: frozenset[int] = field(default_factory=frozenset)
    with_weights: bool = False
    """Whether the request brought the weights of its adapter."""


class ExecutorEngine:
    """Implements `engines.base.Engine`. `bindings` is the module `tensorrt_llm.bindings.executor`.

    An executor's final answer to a cancelled request is not waited for: whether one comes differs between
    versions. The request is over for us at once, and what still arrives for it is dropped.
    """

    def __init__(
        self,
        info: EngineInfo,
        executor: Any,
        bindings: Any,
        guides: GuideChecker | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """`guides` compiles each guide before its request is enqueued: a guide that XGrammar rejects
        inside the executor would end every active request.
        """
        self.info = info
        self._executor = executor
        self._bindings = bindings
        self._ignores_prompt = has_keyword(bindings.SamplingConfig, "prompt_ignore_length")
        self._ids: dict[str, int] = {}
        self._live: dict[int, _Live] = {}
        self._aborted: list[str] = []
        self._failed: list[StepOutput] = []
        self._guided = GuidedRequests(guides)
        self._adapters = adapters or Adapters([], bindings)
        self._stats = EngineStats(kv_blocks_total=info.kv_blocks)
        self._queued = 0  # requests in the executor's own queue

    def submit(self, request: GenerationRequest) -> None:
        total = len(request.prompt_token_ids) + request.sampling.max_tokens
        if not request.prompt_token_ids:
            raise InvalidRequest("The prompt is empty.", "prompt")
        if total > self.info.max_seq_len:
            raise InvalidRequest(
                f"{total} tokens exceed the engine's limit of {self.info.max_seq_len}.",
                "prompt",
                "context_length_exceeded",
            )
        if request.adapter is not None:
            self._adapters.needs_weights(request.adapter)  # refuse one that there is not
        if not self._guided.add(request):
            self._enqueue(request)

    def _enqueue(self, request: GenerationRequest, *, again: bool = False) -> None:
        """Hand a request to the executor; `again` because it has dropped the request's adapter."""
        with_weights = request.adapter is not None and (
            again or self._adapters.needs_weights(request.adapter)
        )
        try:
            number = self._executor.enqueue_request(self._request(request, with_weights=with_weights))
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"TensorRT-LLM refuses the request: {first_line(error)}") from error
        except RuntimeError as error:  # the executor's own failure, reported by the next step
            self._failed.append(_failure(request.request_id, error))
            return
        self._ids[request.request_id] = number
        ends = frozenset(request.sampling.stop_token_ids)
        if not request.sampling.ignore_eos:
            ends = ends.union(self.info.eos_token_ids)
        self._live[number] = _Live(request, ends=ends, with_weights=with_weights)
        if with_weights and request.adapter is not None:
            self._adapters.was_sent(request.adapter)
        self._stats.prompt_tokens += 0 if again else len(request.prompt_token_ids)

    def abort(self, request_id: str) -> None:
        self._aborted.append(request_id)

    def step(self, timeout: float) -> list[StepOutput]:
        outputs: dict[int, StepOutput] = {}
        cancelled = self._cancel_aborted() + self._enqueue_checked()
        cancelled, self._failed = cancelled + self._failed, []
        if self._guided:
            timeout = min(timeout, POLL_S)
        wait = datetime.timedelta(seconds=0 if cancelled else timeout)
        for response in self._executor.await_responses(timeout=wait):
            number = response.request_id
            if number not in self._live:
                continue
            if response.has_error():  # a method; touching `result` of such a response raises
                self._fail(number, response.error_msg, outputs)
            else:
                output = outputs.setdefault(number, StepOutput(self._live[number].request.request_id, []))
                self._take(number, response.result, output)
        self._stats.steps += bool(outputs)
        return cancelled + list(outputs.values())

    def stats(self) -> EngineStats:
        """Read what the executor recorded since the last call; reading drains it."""
        for iteration in self._executor.get_latest_iteration_stats():
            facts = _facts(iteration)
            self._stats.running = int(facts.get("numActiveRequests", 0))
            self._queued = int(facts.get("numQueuedRequests", 0))
            batch = facts.get("inflightBatchingStats") or {}
            self._stats.preemptions += int(batch.get("numPausedRequests", 0))
            if tokens := int(batch.get("numCtxTokens", 0)) + int(batch.get("numGenRequests", 0)):
                self._stats.count_step(tokens)
            cache = facts.get("kvCacheStats") or {}
            self._stats.kv_blocks_used = int(cache.get("usedNumBlocks", 0))
            self._stats.kv_blocks_reused = int(cache.get("reusedBlocks", 0))
            self._stats.kv_blocks_total = int(cache.get("maxNumBlocks", self._stats.kv_blocks_total))
        if not self._live:  # nothing iterates any more, so nothing would say it
            self._stats.running = self._queued = 0
        self._stats.deferred = len(self._guided)
        self._stats.waiting = self._queued + self._stats.deferred
        return self._stats

    def shutdown(self, timeout_s: float) -> None:
        """Blocks until the executor's workers are gone; the owner of the process bounds it."""
        self._guided.close()
        self._executor.shutdown()

    def _request(self, request: GenerationRequest, *, with_weights: bool = False) -> Any:
        bindings = self._bindings
        ignored = len(request.prompt_token_ids) if self._ignores_prompt else None
        mapped = to_executor(request.sampling, self.info.eos_token_ids, ignored)
        extra: dict[str, Any] = {}
        if mapped.stop_words:
            extra["stop_words"] = mapped.stop_words
        if mapped.bad_words:
            extra["bad_words"] = mapped.bad_words
        if mapped.embedding_bias:
            extra["embedding_bias"] = bias_tensor(mapped.embedding_bias, self.info.vocab_size)
        if request.priority is not None:
            extra["priority"] = request.priority
        if request.cache_salt is not None and self.info.capabilities.cache_salt:
            extra["cache_salt_id"] = cache_salt_id(request.cache_salt)
        if request.allotted_ms is not None:
            extra["allotted_time_ms"] = datetime.timedelta(milliseconds=request.allotted_ms)
        if (guide := self._guided.guide_of(request)) is not None:
            extra["guided_decoding_params"] = guided_decoding_params(guide, bindings)
        if request.adapter is not None:
            extra["lora_config"] = self._adapters.lora_config(request.adapter, weights=with_weights)
        return bindings.Request(
            input_token_ids=request.prompt_token_ids,
            max_tokens=request.sampling.max_tokens,
            streaming=True,
            sampling_config=bindings.SamplingConfig(beam_width=1, **mapped.config),
            output_config=bindings.OutputConfig(
                return_log_probs=request.sampling.logprobs is not None,
                exclude_input_from_output=True,
                return_perf_metrics=True,
            ),
            end_id=mapped.end_id,
            **extra,
        )

    def _cancel_aborted(self) -> list[StepOutput]:
        outputs = []
        for request_id in self._aborted:
            number = self._ids.get(request_id)
            if self._guided.drop(request_id):
                outputs.append(StepOutput(request_id, [], "abort"))
            elif number is not None:
                self._executor.cancel_request(number)
                self._forget(number)
                outputs.append(StepOutput(request_id, [], "abort"))
        self._aborted.clear()
        return outputs

    def _enqueue_checked(self) -> list[StepOutput]:
        """Enqueue the requests whose guides were checked. Returns the last outputs of those that are
        refused.
        """
        ready, ended = self._guided.take()
        for request in ready:
            try:
                self._enqueue(request)
            except InvalidRequest as error:
                ended.append(refusal(request.request_id, error))
        return ended

    def _fail(self, number: int, message: str, outputs: dict[int, StepOutput]) -> None:
        """End a request with an error, or send it again if the executor has dropped its adapter."""
        live = self._live[number]
        request = live.request
        self._forget(number)
        if request.adapter is not None and not live.with_weights and EVICTED.search(message):
            log.info("the executor has dropped the adapter %s; sending it again", request.adapter)
            self._stats.adapters_sent_again += 1
            self._enqueue(request, again=True)
            return
        output = outputs.setdefault(number, StepOutput(request.request_id, []))
        failure = _failure(request.request_id, message)
        output.finish_reason = failure.finish_reason
        output.error, output.error_code = failure.error, failure.error_code

    def _take(self, number: int, result: Any, output: StepOutput) -> None:
        """Add a result to the step's output of its request."""
        live = self._live[number]
        tokens = list(result.output_token_ids[0])
        output.token_ids += tokens
        live.generated += len(tokens)
        self._stats.generated_tokens += len(tokens)
        if live.request.sampling.logprobs is not None and tokens:
            output.logprobs = (output.logprobs or []) + _logprobs(tokens, result.log_probs, live.generated)
        if not live.cached_told:  # later the blocks that a preempted request finds again would count
            live.cached_told = True
            output.cached_tokens = self._cached_tokens(live, result)
        if result.is_final:
            self._finish(live, result, output)
            self._forget(number)

    def _finish(self, live: _Live, result: Any, output: StepOutput) -> None:
        reasons = self._bindings.FinishReason
        reason = result.finish_reasons[0] if result.finish_reasons else reasons.NOT_FINISHED
        if reason == reasons.TIMED_OUT:
            output.finish_reason, output.error = "error", "the request ran out of its time"
            return
        known: dict[Any, FinishReason] = {
            reasons.END_ID: "stop",
            reasons.STOP_WORDS: "stop",
            reasons.LENGTH: "length",
            reasons.CANCELLED: "abort",
        }
        output.finish_reason = known.get(reason, "length")
        # Whether the end token is among the tokens differs; where it is, it has no text.
        if output.finish_reason == "stop" and output.token_ids and output.token_ids[-1] in live.ends:
            output.stop_token_id = output.token_ids[-1]

    def _cached_tokens(self, live: _Live, result: Any) -> int:
        """Tokens of reused KV blocks. At most the prompt: a partly reused block counts whole."""
        metrics = getattr(result, "request_perf_metrics", None)
        if metrics is None:
            return 0
        tokens = int(metrics.kv_cache_metrics.num_reused_blocks) * self.info.kv_block_size
        return min(tokens, len(live.request.prompt_token_ids))

    def _forget(self, number: int) -> None:
        live = self._live.pop(number)
        del self._ids[live.request.request_id]


def _failure(request_id: str, error: object) -> StepOutput:
    """A request's failure inside the executor; the code `queue_full` when `max_queue_size` was met or running
    requests use all of the cache of adapters.
    """
    message = first_line(error)
    full = QUEUE_FULL_MESSAGE.search(message) or CACHE_FULL.search(message)
    code = QUEUE_FULL if full else None
    return StepOutput(request_id, [], "error", error=message, error_code=code)


def _logprobs(tokens: list[int], log_probs: Any, generated: int) -> list[TokenLogprobs]:
    """The new tokens' log-probabilities: the last ones, whether all so far or only the new are given."""
    values = list(log_probs[0])[-len(tokens) :] if log_probs else []
    if len(values) != len(tokens):
        log.warning("%d log-probabilities for %d tokens (of %d)", len(values), len(tokens), generated)
        values += [float("-inf")] * (len(tokens) - len(values))
    return [TokenLogprobs(token, value, []) for token, value in zip(tokens, values, strict=True)]


def has_keyword(bound: Any, keyword: str) -> bool:
    """Whether the constructor of a class of the bindings takes `keyword` in this version."""
    return f"{keyword}:" in (bound.__init__.__doc__ or "")  # nanobind's signature


def has_cache_salt(bindings: Any) -> bool:
    """Whether this version's `Request` takes a salt for its KV blocks (1.2 does)."""
    return has_keyword(bindings.Request, "cache_salt_id")


def cache_salt_id(salt: str) -> int:
    """The executor's unsigned 64-bit form of a salt."""
    return int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8, key=SALT_KEY).digest())


def bias_tensor(biases: dict[int, float], vocab_size: int) -> Any:
    """A float32 tensor [vocab_size]."""
    import torch

    tensor = torch.zeros(vocab_size, dtype=torch.float32)
    tensor[list(biases)] = torch.tensor(list(biases.values()), dtype=torch.float32)
    return tensor


def _facts(iteration: Any) -> dict[str, Any]:
    text = iteration if isinstance(iteration, str) else iteration.to_json_str()
    facts: dict[str, Any] = json.loads(text)
    return facts


def first_line(error: object) -> str:
    """C++ errors bring a backtrace after their first line."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
