"""`tensorrt_llm.bindings.executor` as of 1.2.1, as far as it is used here.

Classes, keywords and argument types are those of the compiled shim (`tensorrt_llm_shim`), so nanobind's own
casters judge each call. This module adds what the executor does; comments name the C++ source of a behaviour
(NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/).
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import tensorrt_llm_shim
from tensorrt_llm.bindings import ranks
from tensorrt_llm.guides import Follower
from tensorrt_llm.peft_cache import LoraExpectedError, PeftCache

shim: Any = tensorrt_llm_shim.load()
BatchingType = shim.BatchingType
CapacitySchedulerPolicy = shim.CapacitySchedulerPolicy
CommunicationMode = shim.CommunicationMode
CommunicationType = shim.CommunicationType
DecodingConfig = shim.DecodingConfig
DecodingMode = shim.DecodingMode
Executor = shim.Executor
ExecutorConfig = shim.ExecutorConfig
FinishReason = shim.FinishReason
GuidedDecodingConfig = shim.GuidedDecodingConfig
GuidedDecodingParams = shim.GuidedDecodingParams
KvCacheConfig = shim.KvCacheConfig
LookaheadDecodingConfig = shim.LookaheadDecodingConfig
LoraConfig = shim.LoraConfig
ModelType = shim.ModelType
OrchestratorConfig = shim.OrchestratorConfig
OutputConfig = shim.OutputConfig
ParallelConfig = shim.ParallelConfig
PeftCacheConfig = shim.PeftCacheConfig
Request = shim.Request
Response = shim.Response
Result = shim.Result
SamplingConfig = shim.SamplingConfig
SchedulerConfig = shim.SchedulerConfig

SAMPLING_FIELDS = (
    "beam_width",
    "top_k",
    "top_p",
    "min_p",
    "temperature",
    "seed",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "prompt_ignore_length",
)


class Behaviour:
    """Faults and timing, from FAKE_TRTLLM."""

    def __init__(self) -> None:
        options = json.loads(os.environ.get("FAKE_TRTLLM", "{}"))
        options.pop("version", None)
        self.itl = options.pop("itl", 0.002)  # seconds between tokens
        self.rank_load = options.pop("rank_load", 0.0)  # seconds that spawned ranks load
        self.init_hang = options.pop("init_hang", False)
        self.shutdown_hang = options.pop("shutdown_hang", False)
        self.stall_after = options.pop("stall_after", None)  # tokens; then a rank is dead: silence
        # tokens; then each request is paused and resumed, and its own blocks count as reused
        # (batch_manager/kvCacheManager.cpp, addSequence, calls updateReusedBlocksPerRequest again)
        self.pause_after = options.pop("pause_after", None)
        self.error_after = options.pop("error_after", None)  # tokens; then the request fails
        self.enqueue_error = options.pop("enqueue_error", None)  # message of a RuntimeError at enqueue
        self.final_on_cancel = options.pop("final_on_cancel", True)
        self.burst = options.pop("burst", 1)  # tokens in one response
        # kernels/samplingTopPKernels.cu: the sequence length does not grow when END_ID is generated
        self.end_token_included = options.pop("end_token_included", False)
        self.lora_cache = options.pop("lora_cache", 8)  # adapters that the executor keeps
        self.record = options.pop("record", None)  # file that notes what was asked of the executor
        self.wrong = set(options.pop("wrong", []))  # what it does not do as TensorRT-LLM does, by name
        if options:
            raise ValueError(f"unknown behaviour {options}")


class _Sequence:
    def __init__(self, request: Any) -> None:
        self.request = request
        self.prompt: list[int] = request.input_token_ids
        self.stop_words: list[list[int]] = request.stop_words or []
        self.bad_words: list[list[int]] = request.bad_words or []
        bias = request.embedding_bias
        self.favourite = int(bias.argmax()) if bias is not None and float(bias.max()) >= 50 else None
        self.reused = 0
        self.shift = 0  # of the adapter: its first weight
        self.made: list[int] = []
        self.sent = 0
        self.guide_compiled = request.guided_decoding_params is None
        self.follower: Follower | None = None
        self.activated = 0.0


class Backend:
    """Behind `Executor`: an answer repeats its prompt, shifted by the seed unless greedy, then ends."""

    def __init__(self, model_path: Path, executor_config: Any) -> None:
        self._behaviour = Behaviour()
        self._thread = threading.get_ident()
        config = json.loads((Path(model_path) / "config.json").read_text())
        self._vocab = config["pretrained_config"]["vocab_size"]
        self._max_seq_len = config["build_config"]["max_seq_len"]
        self._max_batch = executor_config.max_batch_size or config["build_config"]["max_batch_size"]
        self._reuse = executor_config.kv_cache_config.enable_block_reuse
        self._partial = executor_config.kv_cache_config.enable_partial_reuse
        self._block = config["build_config"]["plugin_config"]["tokens_per_block"]
        self._max_queue = executor_config.max_queue_size
        self._normalize = executor_config.normalize_log_probs
        self._guided = executor_config.guided_decoding_config
        self._compiler: Any = self._make_compiler() if self._guided is not None else None
        peft = executor_config.peft_cache_config or PeftCacheConfig()
        self._peft = PeftCache(config, peft, self._behaviour.lora_cache, self._behaviour.wrong)
        self._lookahead = self._check_speculation(config["build_config"], executor_config)
        world = config["pretrained_config"]["mapping"]["world_size"]
        self._rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
        parallel = executor_config.parallel_config
        self._orchestrator = (
            parallel is not None and parallel.communication_mode == CommunicationMode.ORCHESTRATOR
        )
        self._check_parallel(parallel, world)
        self._note(
            "init",
            world=world,
            rank=self._rank,
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
            lookahead=self._lookahead,
        )
        self._spawned: ranks.Spawned | None = None
        if self._orchestrator:
            worker = parallel.orchestrator_config.worker_executable_path
            self._spawned = ranks.Spawned(worker, world, self._behaviour.rank_load)
        if self._behaviour.init_hang:
            time.sleep(3600)
        self._ids = 0
        self._waiting: dict[int, _Sequence] = {}
        self._active: dict[int, _Sequence] = {}
        self._cancelled: set[int] = set()
        self._ready: list[Any] = []
        self._seen_blocks: set[tuple[int | None, ...]] = set()
        self._iterations: list[Any] = []
        self._due = 0.0
        self._shut_down = False

    def _guide(self, params: Any) -> list[object] | None:
        if params is None:
            return None
        if self._guided is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] guided decoding is not configured")
        return [params.guide_type.name, params.guide]

    def _check_parallel(self, parallel: Any, world: int) -> None:
        if world == 1:
            return
        if parallel is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] world size 1 does not match the engine's")
        if not self._orchestrator:
            if int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) != world:
                raise RuntimeError("[TensorRT-LLM][ERROR] MPI world size does not match the engine's")
            return
        if len(parallel.device_ids or []) != world:
            raise RuntimeError("[TensorRT-LLM][ERROR] device_ids do not match the world size")
        orchestrator = parallel.orchestrator_config
        if orchestrator is None or not Path(orchestrator.worker_executable_path).is_file():
            raise RuntimeError("[TensorRT-LLM][ERROR] no worker executable for orchestrator mode")

    def _check_speculation(self, build: dict[str, Any], executor_config: Any) -> list[int] | None:
        """batch_manager/trtGptModelInflightBatching.cpp, constructor and setupSpeculativeDecodingModule."""
        mode, decoding = build.get("speculative_decoding_mode", 1), executor_config.decoding_config
        if mode == 2 and not self._reuse:
            raise RuntimeError(
                "[TensorRT-LLM][ERROR] KV cache block reuse must be enabled for speculative decoding "
                "target model"
            )
        if mode != 8:
            return None
        if decoding is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] lookahead decoding without a configuration")
        sizes = decoding.lookahead_decoding_config
        window, ngram = sizes.max_window_size, sizes.max_ngram_size
        verification = sizes.max_verification_set_size
        if (ngram - 2) + (window - 1 + verification) * (ngram - 1) > build["max_draft_len"]:
            raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: maxDraftTokens <= …")
        return [window, ngram, verification]

    def can_enqueue_requests(self) -> bool:
        return self._rank == 0

    def enqueue_request(self, request: Any) -> int:
        self._check_usable()
        if self._behaviour.enqueue_error:
            raise RuntimeError(f"[TensorRT-LLM][ERROR] {self._behaviour.enqueue_error}\n1 0x7f…")
        if request.end_id is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] end_id is not set")
        self._ids += 1
        values = {name: getattr(request.sampling_config, name) for name in SAMPLING_FIELDS}
        allotted = request.allotted_time_ms
        self._note(
            "request",
            sampling={name: value for name, value in values.items() if value is not None},
            end_id=request.end_id,
            stop_words=request.stop_words,
            bad_words=request.bad_words,
            max_tokens=request.max_tokens,
            priority=round(request.priority, 6),
            allotted_time_ms=None if allotted is None else round(allotted.total_seconds() * 1000),
            guide=self._guide(request.guided_decoding_params),
            lora=_lora(request.lora_config),
        )
        full = self._max_queue is not None and len(self._waiting) >= self._max_queue
        if full and "queue" not in self._behaviour.wrong:
            # executor/executorImpl.cpp, enqueueRequests: a leader throws, an orchestrator sends a response
            text = f"Maximum queue size of {self._max_queue} has been reached, please try again later"
            if not self._orchestrator:
                raise RuntimeError(f"[TensorRT-LLM][ERROR] {text}\n1 0x7f…")
            self._ready.append(Response(self._ids, text))
            return self._ids
        self._waiting[self._ids] = _Sequence(request)
        return self._ids

    def cancel_request(self, request_id: int) -> None:
        """executor/executorImpl.cpp, terminateCancelledRequests: seen only once the request is active."""
        self._check_usable()
        self._note("cancel", id=request_id)
        if (request_id in self._active or request_id in self._waiting) and (
            "cancel" not in self._behaviour.wrong
        ):
            self._cancelled.add(request_id)

    def await_responses(self, milliseconds: int | None) -> list[Any]:
        self._check_usable()
        if milliseconds is None:
            raise RuntimeError("without a timeout this could block the runner's loop for ever")
        deadline = time.monotonic() + milliseconds / 1000
        while not self._ready:
            self._iterate()
            left = min(self._due, deadline) - time.monotonic()
            if self._ready or time.monotonic() >= deadline:
                break
            time.sleep(max(0.0, left) if self._active else max(0.0, deadline - time.monotonic()))
        ready, self._ready = self._ready, []
        return ready

    def get_latest_iteration_stats(self) -> list[Any]:
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
        if self._spawned is not None:
            self._spawned.end()
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
            number = max(self._waiting, key=self._rank_of)
            sequence = self._waiting.pop(number)
            try:
                sequence.shift = self._peft.add(number, sequence.request.lora_config)
            except LoraExpectedError as error:
                self._ready.append(Response(number, str(error)))
                continue
            except RuntimeError as error:
                self._ready.append(
                    Response(number, f"Encountered an error when fetching new request: {error}")
                )
                continue
            self._active[number] = sequence
            sequence.reused = self._reused_blocks(sequence.request)
            sequence.activated = time.monotonic()
        if not self._active or time.monotonic() < self._due:
            return
        if self._spawned is not None and self._spawned.lost():
            return  # silence for all requests
        self._due = time.monotonic() + self._behaviour.itl
        if fault := self._bad_guide():
            # executor/executorImpl.cpp, forwardAsync: an exception ends every active request
            for number, sequence in self._active.items():
                self._ready.append(Response(number, fault))
                self._peft.done(number, sequence.request.lora_config)
            self._active.clear()
        before = dict(self._active)
        for number, sequence in before.items():
            limit = sequence.request.allotted_time_ms
            if number in self._cancelled:
                del self._active[number]
                self._cancelled.discard(number)
                if self._behaviour.final_on_cancel:
                    self._ready.append(self._response(number, sequence, [], FinishReason.CANCELLED))
            elif limit is not None and time.monotonic() - sequence.activated > limit.total_seconds():
                del self._active[number]
                self._ready.append(self._response(number, sequence, [], FinishReason.TIMED_OUT))
            else:
                self._advance(number, sequence)
        for number, sequence in before.items():
            if number not in self._active:
                self._peft.done(number, sequence.request.lora_config)
        used = len(self._active)
        cache = {"usedNumBlocks": used, "maxNumBlocks": 64, "freeNumBlocks": 64, "reusedBlocks": 0}
        facts = {
            "iter": self._ids,
            "numActiveRequests": used,
            "numQueuedRequests": len(self._waiting),
            "kvCacheStats": cache,
        }
        self._iterations.append(shim.IterationStats(json.dumps(facts)))

    def _rank_of(self, number: int) -> tuple[float, int]:
        if "priority" in self._behaviour.wrong:
            return 0.0, -number
        return self._waiting[number].request.priority, -number

    def _bad_guide(self) -> str | None:
        """batch_manager/guidedDecoder.cpp, GuidedDecoder::build: XGrammar throws for such a guide."""
        for sequence in self._active.values():
            if sequence.guide_compiled:
                continue
            try:
                compiled = self._compile(sequence.request.guided_decoding_params)
            except Exception as error:
                return f"Encountered an error in forwardAsync function: {error}"
            sequence.guide_compiled = True
            if "guides" not in self._behaviour.wrong:
                config = self._guided
                sequence.follower = Follower(
                    compiled, config.encoded_vocab, self._vocab, config.stop_token_ids
                )
        return None

    def _make_compiler(self) -> Any:
        import xgrammar

        info = xgrammar.TokenizerInfo(
            self._guided.encoded_vocab, vocab_size=self._vocab, stop_token_ids=self._guided.stop_token_ids
        )
        return xgrammar.GrammarCompiler(info, max_threads=1)

    def _compile(self, params: Any) -> Any:
        match params.guide_type.name:
            case "JSON":
                return self._compiler.compile_builtin_json_grammar()
            case "JSON_SCHEMA":
                return self._compiler.compile_json_schema(params.guide)
            case "REGEX":
                return self._compiler.compile_regex(params.guide)
            case "EBNF_GRAMMAR":
                return self._compiler.compile_grammar(params.guide)
            case "STRUCTURAL_TAG":
                return self._compiler.compile_structural_tag(params.guide)
        raise ValueError(f"unknown kind of guide {params.guide_type.name}")

    def _advance(self, number: int, sequence: _Sequence) -> None:
        behaviour, tokens = self._behaviour, []
        if behaviour.stall_after is not None and len(sequence.made) >= behaviour.stall_after:
            return
        if behaviour.error_after is not None and len(sequence.made) >= behaviour.error_after:
            del self._active[number]
            self._ready.append(Response(number, "Encountered an error in forward: CUDA error\n1 0x7f…"))
            return
        if len(sequence.made) == behaviour.pause_after:
            sequence.reused += len(sequence.prompt) // self._block + 1
        reason = FinishReason.NOT_FINISHED
        for _ in range(behaviour.burst):
            token, reason = self._next(sequence)
            sequence.made.append(token)
            if reason == FinishReason.END_ID and not behaviour.end_token_included:
                break
            tokens.append(token)
            if reason != FinishReason.NOT_FINISHED:
                break
        if reason != FinishReason.NOT_FINISHED:
            del self._active[number]
        sequence.sent += len(tokens)
        self._ready.append(self._response(number, sequence, tokens, reason))

    def _next(self, sequence: _Sequence) -> tuple[int, Any]:
        request, sampling = sequence.request, sequence.request.sampling_config
        index, prompt = len(sequence.made), sequence.prompt
        # layers/lookaheadDecodingLayer.cpp, forwardAsync: maxTopK is 1
        greedy = (
            self._lookahead
            or sampling.top_k == 1
            or (sampling.temperature is None and sampling.top_p is None)
        )
        shift = 0 if greedy or "seed" in self._behaviour.wrong else sampling.seed
        if "greedy" in self._behaviour.wrong:
            shift += sampling.seed
        token = (prompt[index % len(prompt)] + sequence.shift + shift) % self._vocab
        least = 0 if "min_tokens" in self._behaviour.wrong else sampling.min_tokens or 0
        if sequence.follower is not None:
            token = sequence.follower.next()
        elif sequence.favourite is not None:
            token = sequence.favourite
        elif index >= len(prompt) and request.end_id != -1 and index >= least:
            token = request.end_id
        # layers/banWordsLayer.cpp: a word of which all but the last token was generated
        while any([*sequence.made, token][-len(word) :] == word for word in sequence.bad_words):
            token = (token + 1) % self._vocab
        if token == request.end_id:
            return token, FinishReason.END_ID
        if [token] in sequence.stop_words:
            return token, FinishReason.STOP_WORDS
        # batch_manager/llmRequest.cpp, validate: max_tokens is clamped to what max_seq_len leaves
        limit = min(request.max_tokens, self._max_seq_len - len(prompt))
        return token, FinishReason.LENGTH if index + 1 >= limit else FinishReason.NOT_FINISHED

    def _response(self, number: int, sequence: _Sequence, tokens: list[int], reason: Any) -> Any:
        result = Result()
        result.is_final = result.is_sequence_final = reason != FinishReason.NOT_FINISHED
        result.output_token_ids = [tokens]
        result.finish_reasons = [reason]
        if sequence.request.output_config.return_log_probs and not self._lookahead:
            # layers/topKSamplingLayer.cu with normalize_log_probs: a value after the cut, 0.0 at top_k 1
            normalize = self._normalize or "normalize_log_probs" in self._behaviour.wrong
            certain = normalize and sequence.request.sampling_config.top_k == 1
            result.log_probs = [[0.0 if certain else -0.25 * (1 + i % 4) for i in range(sequence.sent)]]
        if sequence.request.output_config.return_perf_metrics:
            cache, metrics = shim.KvCacheMetrics(), shim.RequestPerfMetrics()
            cache.num_reused_blocks = sequence.reused
            metrics.kv_cache_metrics = cache
            result.request_perf_metrics = metrics
        return Response(number, result)

    def _reused_blocks(self, request: Any) -> int:
        """batch_manager/kvCacheManager.cpp: a partly matching block counts as reused.

        kvCacheManager.h, BlockKey: the adapter's task and the salt are part of a block's key.
        """
        if not self._reuse or "reuse" in self._behaviour.wrong:
            return 0
        prompt, lora = request.input_token_ids, request.lora_config
        with_task = lora is not None and "adapter's blocks" not in self._behaviour.wrong
        key = (lora.task_id if with_task else None, request.cache_salt_id)
        blocks = [(key, *prompt[:end]) for end in range(self._block, len(prompt), self._block)]
        reused = sum(block in self._seen_blocks for block in blocks)
        most = (key, *prompt[:-1])  # the last token is always computed
        if self._partial and reused == len(blocks) and most in self._seen_blocks:
            reused += 1
        self._seen_blocks.update(blocks, [most])
        return reused

    def _note(self, what: str, **facts: object) -> None:
        if self._behaviour.record:
            with open(self._behaviour.record, "a") as file:
                file.write(json.dumps({"what": what, **facts}) + "\n")


def _lora(lora: Any) -> list[object] | None:
    """Task id, and whether the weights came along."""
    return None if lora is None else [lora.task_id, lora.weights is not None]


shim._set_backend(Backend)
