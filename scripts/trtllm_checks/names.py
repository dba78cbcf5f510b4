"""Every name and keyword of the executor's bindings that the server uses."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from scripts.trtllm_checks.table import Row, rows
from trtllm_openai.engines.tensorrt_llm.executor import has_keyword


def check_names(bindings: Any) -> list[Row]:
    """Construct everything with the keywords the server uses: nanobind classes cannot be inspected."""
    import torch

    b = bindings
    rows_of_weights = torch.zeros(2, 8), torch.zeros(2, 3, dtype=torch.int32)
    checks: dict[str, Callable[[], Any]] = {
        "SamplingConfig": lambda: b.SamplingConfig(
            beam_width=1,
            temperature=0.7,
            top_p=0.9,
            top_k=5,
            min_p=0.1,
            seed=2**64 - 1,
            min_tokens=1,
            repetition_penalty=1.1,
            presence_penalty=0.1,
            frequency_penalty=0.1,
        ),
        "SamplingConfig that ignores the prompt": lambda: _ignores_prompt(b),
        "OutputConfig": lambda: b.OutputConfig(
            return_log_probs=True, exclude_input_from_output=True, return_perf_metrics=True
        ),
        "Request": lambda: b.Request(
            input_token_ids=[1, 2],
            max_tokens=1,
            streaming=True,
            sampling_config=b.SamplingConfig(beam_width=1, top_k=1),
            output_config=b.OutputConfig(),
            end_id=-1,
            stop_words=[[5]],
            bad_words=[[6, 7]],
            priority=0.5,
            allotted_time_ms=datetime.timedelta(milliseconds=1000),
            guided_decoding_params=b.GuidedDecodingParams(b.GuidedDecodingParams.GuideType.JSON),
        ),
        "GuideType": lambda: [
            b.GuidedDecodingParams(kind, "x")
            for kind in (
                b.GuidedDecodingParams.GuideType.JSON_SCHEMA,
                b.GuidedDecodingParams.GuideType.REGEX,
                b.GuidedDecodingParams.GuideType.EBNF_GRAMMAR,
                b.GuidedDecodingParams.GuideType.STRUCTURAL_TAG,
            )
        ],
        "GuidedDecodingConfig": lambda: b.GuidedDecodingConfig(
            backend=b.GuidedDecodingConfig.GuidedDecodingBackend.XGRAMMAR,
            encoded_vocab=["a", "b"],
            tokenizer_str=None,
            stop_token_ids=[0],
        ),
        "ExecutorConfig": lambda: b.ExecutorConfig(
            max_beam_width=1,
            scheduler_config=b.SchedulerConfig(
                capacity_scheduler_policy=b.CapacitySchedulerPolicy.MAX_UTILIZATION
            ),
            kv_cache_config=b.KvCacheConfig(
                enable_block_reuse=True, max_tokens=1024, free_gpu_memory_fraction=0.5
            ),
            enable_chunked_context=True,
            max_num_tokens=1024,
            gpu_weights_percent=1.0,
            max_batch_size=1,
            max_queue_size=1,
            normalize_log_probs=False,
            recv_poll_period_ms=0,
        ),
        # The classes keep any attribute, so that a wrong name would be no error.
        "ExecutorConfig's attributes": lambda: [
            getattr(b.ExecutorConfig, name)
            for name in ("guided_decoding_config", "peft_cache_config", "decoding_config")
        ],
        "LoraConfig": lambda: b.LoraConfig(1),
        "LoraConfig with weights": lambda: b.LoraConfig(1, *rows_of_weights),
        "Request for an adapter": lambda: b.Request(
            input_token_ids=[1], max_tokens=1, lora_config=b.LoraConfig(1, *rows_of_weights)
        ),
        "PeftCacheConfig": lambda: b.PeftCacheConfig(
            max_adapter_size=8, host_cache_size=2**30, device_cache_percent=0.1
        ),
        "DecodingConfig for lookahead": lambda: b.DecodingConfig(
            decoding_mode=b.DecodingMode.Lookahead(),
            lookahead_decoding_config=b.LookaheadDecodingConfig(7, 7, 7),
        ),
        "ParallelConfig": lambda: b.ParallelConfig(
            communication_type=b.CommunicationType.MPI,
            communication_mode=b.CommunicationMode.ORCHESTRATOR,
            device_ids=[0],
            orchestrator_config=b.OrchestratorConfig(
                is_orchestrator=True, worker_executable_path="x", spawn_processes=True
            ),
        ),
        "CommunicationMode.LEADER": lambda: b.CommunicationMode.LEADER,
        "FinishReason": lambda: [
            getattr(b.FinishReason, name)
            for name in ("NOT_FINISHED", "END_ID", "STOP_WORDS", "LENGTH", "TIMED_OUT", "CANCELLED")
        ],
        "Response": lambda: [
            getattr(b.Response, name) for name in ("request_id", "has_error", "error_msg", "result")
        ],
        "Result": lambda: [
            getattr(b.Result, name)
            for name in (
                "is_final",
                "output_token_ids",
                "finish_reasons",
                "log_probs",
                "request_perf_metrics",
            )
        ],
        "ModelType.DECODER_ONLY": lambda: b.ModelType.DECODER_ONLY,
        "Executor": lambda: [
            getattr(b.Executor, name)
            for name in (
                "enqueue_request",
                "await_responses",
                "cancel_request",
                "get_latest_iteration_stats",
                "can_enqueue_requests",
                "shutdown",
            )
        ],
    }
    return rows({f"name {name}": check for name, check in checks.items()})


def _ignores_prompt(bindings: Any) -> str:
    if not has_keyword(bindings.SamplingConfig, "prompt_ignore_length"):
        return "not in this version: penalties count the tokens of the prompt too"
    bindings.SamplingConfig(beam_width=1, prompt_ignore_length=1)
    return "penalties count generated tokens only"
