"""`tensorrt_llm.bindings.executor` as of 1.2.1, as far as it is used here.

Like nanobind classes, everything here refuses unknown arguments (TypeError) and attributes (AttributeError).
"""

import datetime
import enum
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar


class Behaviour:
    """What goes wrong, from FAKE_TRTLLM."""

    def __init__(self) -> None:
        options = json.loads(os.environ.get("FAKE_TRTLLM", "{}"))
        options.pop("version", None)
        self.itl = options.pop("itl", 0.002)  # seconds between tokens
        self.init_hang = options.pop("init_hang", False)
        self.shutdown_hang = options.pop("shutdown_hang", False)
        self.stall_after = options.pop("stall_after", None)  # tokens; then a rank is "dead" and nothing comes
        self.error_after = options.pop("error_after", None)  # tokens; then the request fails
        self.final_on_cancel = options.pop("final_on_cancel", True)
        self.burst = options.pop("burst", 1)  # tokens in one response
        self.end_token_included = options.pop("end_token_included", True)
        self.record = options.pop("record", None)  # file that notes what was asked of the executor
        if options:
            raise ValueError(f"unknown behaviour {options}")


class _Strict:
    """A class whose constructor takes the keywords of its class statement, in that order, and no other."""

    _defaults: ClassVar[dict[str, object]]

    def __init_subclass__(cls, **defaults: object) -> None:
        cls._defaults = defaults

    def __init__(self, *args: object, **kwargs: object) -> None:
        name, defaults = type(self).__name__, self._defaults
        if len(args) > len(defaults):
            raise TypeError(f"{name}(): incompatible function arguments")
        values = dict(zip(defaults, args, strict=False))
        for key, value in kwargs.items():
            if key not in defaults or key in values:
                raise TypeError(f"{name}(): incompatible function arguments: {key}")
            values[key] = value
        for key, default in defaults.items():
            object.__setattr__(self, key, values.get(key, default))

    def __setattr__(self, key: str, value: object) -> None:
        if key not in self._defaults:
            raise AttributeError(f"{type(self).__name__} has no attribute {key}")
        object.__setattr__(self, key, value)

    if TYPE_CHECKING:  # attributes are those of `_defaults`

        def __getattr__(self, key: str) -> Any: ...


class ModelType(enum.Enum):
    DECODER_ONLY = 0
    ENCODER_ONLY = 1
    ENCODER_DECODER = 2


class FinishReason(enum.Enum):
    NOT_FINISHED = 0
    END_ID = 1
    STOP_WORDS = 2
    LENGTH = 3
    TIMED_OUT = 4
    CANCELLED = 5


class CapacitySchedulerPolicy(enum.Enum):
    MAX_UTILIZATION = 0
    GUARANTEED_NO_EVICT = 1
    STATIC_BATCH = 2


class CommunicationType(enum.Enum):
    MPI = 0


class CommunicationMode(enum.Enum):
    LEADER = 0
    ORCHESTRATOR = 1


class KvCacheConfig(
    _Strict,
    enable_block_reuse=True,
    max_tokens=None,
    max_attention_window=None,
    sink_token_length=None,
    free_gpu_memory_fraction=None,
    host_cache_size=None,
    onboard_blocks=True,
    cross_kv_cache_fraction=None,
    secondary_offload_min_priority=None,
    event_buffer_max_size=0,
    enable_partial_reuse=True,
    copy_on_partial_reuse=True,
    use_uvm=False,
):
    """Size and reuse of the KV cache."""


class SchedulerConfig(
    _Strict,
    capacity_scheduler_policy=CapacitySchedulerPolicy.GUARANTEED_NO_EVICT,
    context_chunking_policy=None,
    dynamic_batch_config=None,
):
    """Scheduling policy."""


class OrchestratorConfig(
    _Strict,
    is_orchestrator=True,
    worker_executable_path="",
    orch_leader_comm=None,
    spawn_processes=True,
):
    """How rank processes are spawned."""


class ParallelConfig(
    _Strict,
    communication_type=CommunicationType.MPI,
    communication_mode=CommunicationMode.LEADER,
    device_ids=None,
    participant_ids=None,
    orchestrator_config=None,
    num_nodes=None,
):
    """Ranks and their devices."""


class ExecutorConfig(
    _Strict,
    max_beam_width=1,
    scheduler_config=None,
    kv_cache_config=None,
    enable_chunked_context=False,
    normalize_log_probs=True,
    iter_stats_max_iterations=1000,
    request_stats_max_iterations=0,
    batching_type=None,
    max_batch_size=None,
    max_num_tokens=None,
    parallel_config=None,
    peft_cache_config=None,
    logits_post_processor_config=None,
    decoding_config=None,
    use_gpu_direct_storage=False,
    gpu_weights_percent=1.0,
    max_queue_size=None,
    extended_runtime_perf_knob_config=None,
    debug_config=None,
    recv_poll_period_ms=0,
    max_seq_idle_microseconds=180_000_000,
    spec_dec_config=None,
    guided_decoding_config=None,
):
    """Everything the executor is built with."""


class GuidedDecodingConfig(
    _Strict, backend=None, encoded_vocab=None, tokenizer_str=None, stop_token_ids=None
):
    """The grammar backend and the vocabulary it compiles for."""

    class GuidedDecodingBackend(enum.Enum):
        XGRAMMAR = 1
        LLGUIDANCE = 2


class GuidedDecodingParams(_Strict, guide_type=None, guide=None):
    """The grammar of one request."""

    class GuideType(enum.Enum):
        JSON = 1
        JSON_SCHEMA = 2
        REGEX = 3
        EBNF_GRAMMAR = 4
        STRUCTURAL_TAG = 5


class OutputConfig(
    _Strict,
    return_log_probs=False,
    return_context_logits=False,
    return_generation_logits=False,
    exclude_input_from_output=False,
    return_encoder_output=False,
    return_perf_metrics=False,
):
    """What a response contains beside tokens."""


class SamplingConfig(
    _Strict,
    beam_width=1,
    top_k=None,
    top_p=None,
    top_p_min=None,
    top_p_reset_ids=None,
    top_p_decay=None,
    seed=None,
    temperature=None,
    min_tokens=None,
    beam_search_diversity_rate=None,
    repetition_penalty=None,
    presence_penalty=None,
    frequency_penalty=None,
    length_penalty=None,
    early_stopping=None,
    no_repeat_ngram_size=None,
    num_return_sequences=None,
    min_p=None,
    beam_width_array=None,
):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if self.temperature is not None and self.temperature <= 0:
            raise RuntimeError("[TensorRT-LLM][ERROR] temperature must be positive\nstack trace …")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise TypeError("SamplingConfig(): incompatible function arguments: seed is uint64")
        if self.top_k is not None and self.top_k < 0:
            raise RuntimeError("[TensorRT-LLM][ERROR] top_k must not be negative")


class Request(
    _Strict,
    input_token_ids=None,
    max_tokens=None,
    streaming=False,
    sampling_config=None,
    output_config=None,
    end_id=None,
    pad_id=None,
    position_ids=None,
    bad_words=None,
    stop_words=None,
    embedding_bias=None,
    external_draft_tokens_config=None,
    prompt_tuning_config=None,
    lora_config=None,
    lookahead_config=None,
    kv_cache_retention_config=None,
    logits_post_processor_name=None,
    client_id=None,
    return_all_generated_tokens=False,
    priority=0.5,
    num_return_sequences=1,
    guided_decoding_params=None,
    allotted_time_ms=None,
):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.input_token_ids, list) or not isinstance(self.max_tokens, int):
            raise TypeError("Request(): incompatible function arguments")
        if not self.input_token_ids or self.max_tokens < 1:
            raise RuntimeError("[TensorRT-LLM][ERROR] empty prompt or max_tokens below 1")
        for words in (self.stop_words, self.bad_words):
            if words is not None and not all(isinstance(word, list) for word in words):
                raise TypeError("Request(): stop_words and bad_words are lists of lists of ids")
        if self.embedding_bias is not None:
            import torch

            bias = self.embedding_bias
            if not isinstance(bias, torch.Tensor) or bias.dtype != torch.float32 or bias.ndim != 1:
                raise TypeError("Request(): embedding_bias is a float32 tensor [vocab]")


class Result:
    def __init__(
        self,
        tokens: list[int],
        reason: FinishReason,
        *,
        final: bool,
        log_probs: list[list[float]] | None,
        reused: int,
    ) -> None:
        self.is_final = self.is_sequence_final = final
        self.sequence_index = 0
        self.output_token_ids = [tokens]
        self.finish_reasons = [reason]
        self.log_probs = log_probs
        self.cum_log_probs = None
        self.context_logits = self.generation_logits = None
        self.decoding_iter = 0
        cache = SimpleNamespace(
            num_total_allocated_blocks=1,
            num_new_allocated_blocks=1,
            num_reused_blocks=reused,
            num_missed_blocks=0,
        )
        self.request_perf_metrics = SimpleNamespace(kv_cache_metrics=cache, timing_metrics=None)


class Response:
    def __init__(self, request_id: int, result: Result | None = None, error: str | None = None) -> None:
        self.request_id = request_id
        self.client_id = None
        self._result = result
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    @property
    def error_msg(self) -> str:
        return self._error or ""

    @property
    def result(self) -> Result | None:
        if self._error is not None:
            raise RuntimeError("[TensorRT-LLM][ERROR] the response holds an error, not a result")
        return self._result


class IterationStats:
    def __init__(self, facts: dict[str, object]) -> None:
        self._facts = facts

    def to_json_str(self) -> str:
        return json.dumps(self._facts)


class _Sequence:
    def __init__(self, request: Request, reused: int) -> None:
        self.request = request
        self.reused = reused
        self.made: list[int] = []
        self.arrived = time.monotonic()


class Executor:
    """Answers repeat their prompts, shifted by the seed unless greedy; then the end token if any."""

    def __init__(self, model_path: object, model_type: object, executor_config: ExecutorConfig) -> None:
        if not isinstance(model_path, str | Path) or model_type is not ModelType.DECODER_ONLY:
            raise TypeError("Executor(): incompatible function arguments")
        if type(executor_config).__name__ != "ExecutorConfig":
            raise TypeError("Executor(): incompatible function arguments")
        self._behaviour = Behaviour()
        self._thread = threading.get_ident()
        config = json.loads((Path(model_path) / "config.json").read_text())
        self._vocab = config["pretrained_config"]["vocab_size"]
        self._max_seq_len = config["build_config"]["max_seq_len"]
        self._max_batch = executor_config.max_batch_size or config["build_config"]["max_batch_size"]
        self._reuse = executor_config.kv_cache_config.enable_block_reuse
        self._block = config["build_config"]["plugin_config"]["tokens_per_block"]
        self._max_queue = executor_config.max_queue_size
        self._guided = executor_config.guided_decoding_config
        if self._guided is not None and len(self._guided.encoded_vocab) != self._vocab:
            raise RuntimeError("[TensorRT-LLM][ERROR] encoded_vocab does not match the engine's vocabulary")
        world = config["pretrained_config"]["mapping"]["world_size"]
        self._rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
        self._check_parallel(executor_config.parallel_config, world)
        self._note("init", world=world, rank=self._rank, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
        if self._behaviour.init_hang:
            time.sleep(3600)
        self._ids = 0
        self._waiting: dict[int, _Sequence] = {}
        self._active: dict[int, _Sequence] = {}
        self._ready: list[Response] = []
        self._seen_blocks: set[tuple[int, ...]] = set()
        self._iterations: list[IterationStats] = []
        self._due = 0.0
        self._shut_down = False

    def _guide(self, params: GuidedDecodingParams | None) -> list[object] | None:
        if params is None:
            return None
        if self._guided is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] guided decoding is not configured")
        if (params.guide is None) != (params.guide_type.name == "JSON"):
            raise RuntimeError("[TensorRT-LLM][ERROR] this guide type takes a guide, or none")
        return [params.guide_type.name, params.guide]

    def _check_parallel(self, parallel: ParallelConfig | None, world: int) -> None:
        if world == 1:
            return
        if parallel is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] world size 1 does not match the engine's")
        if parallel.communication_mode is CommunicationMode.LEADER:
            if int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) != world:
                raise RuntimeError("[TensorRT-LLM][ERROR] MPI world size does not match the engine's")
            return
        if len(parallel.device_ids or []) != world:
            raise RuntimeError("[TensorRT-LLM][ERROR] device_ids do not match the world size")
        orchestrator = parallel.orchestrator_config
        if orchestrator is None or not Path(orchestrator.worker_executable_path).is_file():
            raise RuntimeError("[TensorRT-LLM][ERROR] no worker executable for orchestrator mode")

    def can_enqueue_requests(self) -> bool:
        return self._rank == 0

    def enqueue_request(self, request: Request) -> int:
        self._check_usable()
        if not isinstance(request, Request):
            raise TypeError("enqueue_request(): incompatible function arguments")
        if len(request.input_token_ids) + request.max_tokens > self._max_seq_len:
            raise RuntimeError("[TensorRT-LLM][ERROR] prompt and max_tokens exceed max_seq_len\n1 0x7f…")
        if request.end_id is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] end_id is not set")
        self._ids += 1
        sampling = {key: value for key, value in vars(request.sampling_config).items() if value is not None}
        self._note(
            "request",
            sampling=sampling,
            end_id=request.end_id,
            stop_words=request.stop_words,
            max_tokens=request.max_tokens,
            priority=request.priority,
            allotted_time_ms=request.allotted_time_ms,
            guide=self._guide(request.guided_decoding_params),
        )
        if self._max_queue is not None and len(self._waiting) >= self._max_queue:
            self._ready.append(Response(self._ids, error="Maximum queue size reached, request rejected"))
            return self._ids
        self._waiting[self._ids] = _Sequence(request, self._reused_blocks(request.input_token_ids))
        return self._ids

    def cancel_request(self, request_id: int) -> None:
        self._check_usable()
        self._note("cancel", id=request_id)
        known = self._active.pop(request_id, None) or self._waiting.pop(request_id, None)
        if known is not None and self._behaviour.final_on_cancel:
            self._ready.append(self._response(request_id, known, [], FinishReason.CANCELLED))

    def await_responses(self, *args: object, timeout: object = None) -> list[Response]:
        self._check_usable()
        if args or not isinstance(timeout, datetime.timedelta):
            raise TypeError("await_responses(): this server waits for any response, for a timedelta")
        deadline = time.monotonic() + timeout.total_seconds()
        while not self._ready:
            self._iterate()
            left = min(self._due, deadline) - time.monotonic()
            if self._ready or time.monotonic() >= deadline:
                break
            time.sleep(max(0.0, left) if self._active else max(0.0, deadline - time.monotonic()))
        ready, self._ready = self._ready, []
        return ready

    def get_latest_iteration_stats(self) -> list[IterationStats]:
        self._check_usable()
        stats, self._iterations = self._iterations, []
        return stats

    def shutdown(self) -> None:
        self._note("shutdown", rank=self._rank)
        if self._behaviour.shutdown_hang:
            time.sleep(3600)
        parent = os.getppid()
        while self._rank and os.getppid() == parent:  # until the launcher ends this rank
            time.sleep(0.05)
        self._shut_down = True

    def _check_usable(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("the fake executor is used from one thread only")
        if self._shut_down:
            raise RuntimeError("[TensorRT-LLM][ERROR] the executor is shut down")
        if self._rank:
            raise RuntimeError("[TensorRT-LLM][ERROR] only the leader may do this")

    def _iterate(self) -> None:
        while self._waiting and len(self._active) < self._max_batch:
            number = max(self._waiting, key=lambda n: (self._waiting[n].request.priority, -n))
            self._active[number] = self._waiting.pop(number)
        if not self._active or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._behaviour.itl
        for number, sequence in list(self._active.items()):
            limit = sequence.request.allotted_time_ms
            if limit is not None and (time.monotonic() - sequence.arrived) * 1000 > limit:
                del self._active[number]
                self._ready.append(self._response(number, sequence, [], FinishReason.TIMED_OUT))
            else:
                self._advance(number, sequence)
        cache = {
            "usedNumBlocks": len(self._active),
            "maxNumBlocks": 64,
            "freeNumBlocks": 64,
            "reusedBlocks": 0,
        }
        self._iterations.append(
            IterationStats(
                {
                    "iter": self._ids,
                    "numActiveRequests": len(self._active),
                    "numQueuedRequests": len(self._waiting),
                    "kvCacheStats": cache,
                }
            )
        )

    def _advance(self, number: int, sequence: _Sequence) -> None:
        behaviour = self._behaviour
        tokens: list[int] = []
        if behaviour.stall_after is not None and len(sequence.made) >= behaviour.stall_after:
            return
        if behaviour.error_after is not None and len(sequence.made) >= behaviour.error_after:
            del self._active[number]
            self._ready.append(Response(number, error="Encountered an error in forward: CUDA error\n1 0x7f…"))
            return
        reason = FinishReason.NOT_FINISHED
        for _ in range(behaviour.burst):
            token, reason = self._next(sequence)
            sequence.made.append(token)
            if reason is FinishReason.END_ID and not behaviour.end_token_included:
                break
            tokens.append(token)
            if reason is not FinishReason.NOT_FINISHED:
                break
        if reason is not FinishReason.NOT_FINISHED:
            del self._active[number]
        self._ready.append(self._response(number, sequence, tokens, reason))

    def _next(self, sequence: _Sequence) -> tuple[int, FinishReason]:
        request, sampling = sequence.request, sequence.request.sampling_config
        place, prompt = len(sequence.made), request.input_token_ids
        greedy = sampling.top_k == 1 or (sampling.temperature is None and sampling.top_p is None)
        token = (prompt[place % len(prompt)] + (0 if greedy else sampling.seed)) % self._vocab
        if request.embedding_bias is not None and float(request.embedding_bias.max()) >= 50:
            token = int(request.embedding_bias.argmax())
        elif place >= len(prompt) and request.end_id != -1 and place >= (sampling.min_tokens or 0):
            token = request.end_id
        if token == request.end_id:
            return token, FinishReason.END_ID
        if any(word == [token] for word in request.stop_words or []):
            return token, FinishReason.STOP_WORDS
        return token, FinishReason.LENGTH if place + 1 >= request.max_tokens else FinishReason.NOT_FINISHED

    def _response(
        self, number: int, sequence: _Sequence, tokens: list[int], reason: FinishReason
    ) -> Response:
        wanted = sequence.request.output_config.return_log_probs
        log_probs = [[-0.25 * (1 + i % 4) for i in range(len(sequence.made))]] if wanted else None
        final = reason is not FinishReason.NOT_FINISHED
        return Response(
            number, Result(tokens, reason, final=final, log_probs=log_probs, reused=sequence.reused)
        )

    def _reused_blocks(self, prompt: list[int]) -> int:
        if not self._reuse:
            return 0
        blocks = [
            tuple(prompt[: end + self._block]) for end in range(0, len(prompt) - self._block, self._block)
        ]
        reused = sum(block in self._seen_blocks for block in blocks)
        self._seen_blocks.update(blocks)
        return reused

    def _note(self, what: str, **facts: object) -> None:
        if self._behaviour.record:
            with open(self._behaviour.record, "a") as file:
                file.write(json.dumps({"what": what, **facts}) + "\n")
