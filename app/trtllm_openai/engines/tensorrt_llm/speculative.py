"""Speculative decoding of an engine: what it was built for, and what of that is used.

The mode is a property of the engine (`trtllm-build --speculative_decoding_mode`), not of a request.

* `lookahead_decoding` is used. Its layer takes the likeliest token, returns no log-probabilities and knows no
  penalties (cpp/tensorrt_llm/layers/lookaheadDecodingLayer.cpp; `DecodingMode::Lookahead` in
  cpp/include/tensorrt_llm/executor/types.h).
* `draft_tokens_external` runs without drafts, a token per step. Drafts of n-grams are not made: a request
  takes draft tokens once, when it is enqueued, and ends with their verification, so that each step of
  drafting is a request of its own (examples/ngram/README.md, "V1 workflow", and
  `test_request_perf_metrics_draft` of the binding's tests). Seed, penalties, guide, deadline and place in the
  queue would start anew with each. Its layer returns no log-probabilities and knows no min_p
  (cpp/tensorrt_llm/layers/externalDraftTokensLayer.cpp).
* The other modes need a draft head or a tree of choices that this server does not configure.
"""

from __future__ import annotations

from typing import Any

from trtllm_openai.config import Lookahead, TensorRTLLMSettings
from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir
from trtllm_openai.errors import CheckpointError, ConfigError

LOOKAHEAD = "lookahead_decoding"
EXTERNAL = "draft_tokens_external"
DEFAULT_LOOKAHEAD = (4, 3, 4)
"""TensorRT-LLM's own default: `LookaheadDecodingConfig` in cpp/include/tensorrt_llm/executor/executor.h."""
USE = {
    "none": "none",
    LOOKAHEAD: "lookahead (greedy decoding only)",
    EXTERNAL: "draft_tokens_external (served without drafts, one token per step)",
}


def describe(engine: EngineDir) -> str:
    """The mode in words, and whether it is served."""
    mode = engine.speculative_decoding
    return USE.get(mode, f"{mode} (not served)")


def check_speculation(engine: EngineDir, settings: TensorRTLLMSettings) -> None:
    """Raise `CheckpointError` for a mode that is not served, `ConfigError` for settings that it excludes."""
    mode = engine.speculative_decoding
    if mode not in USE:
        raise CheckpointError(
            f"The engine in {engine.path} was built for the speculative decoding mode {mode}, which this "
            "server does not serve: build it without --speculative_decoding_mode, or with lookahead_decoding."
        )
    if mode == LOOKAHEAD:
        lookahead(engine, settings)
        if settings.guided_decoding:
            # batch_manager/guidedDecoder.cpp masks and accepts one token per sequence and step.
            raise ConfigError(
                f"tensorrt_llm.guided_decoding: the engine in {engine.path} was built for lookahead "
                "decoding, whose several tokens per step cannot be guided; set it to false"
            )
    elif settings.lookahead is not None:
        raise ConfigError(
            f"tensorrt_llm.lookahead: the engine in {engine.path} was not built for it; build it with "
            "--speculative_decoding_mode lookahead_decoding"
        )
    if mode == EXTERNAL and not (settings.enable_block_reuse and engine.paged_context_fmha):
        # batch_manager/trtGptModelInflightBatching.cpp, the constructor
        raise ConfigError(
            f"tensorrt_llm.enable_block_reuse: the engine in {engine.path} was built with "
            "--speculative_decoding_mode draft_tokens_external, which needs it and --use_paged_context_fmha"
        )


def draft_length(window: int, ngram: int, verification: int) -> int:
    """Draft tokens of one step, by `LookaheadDecodingConfig::calculateSpeculativeResource`
    (cpp/tensorrt_llm/executor/decodingConfig.cpp).
    """
    return (0 if ngram == 1 else ngram - 2) + (window - 1 + verification) * (ngram - 1)


def lookahead(engine: EngineDir, settings: TensorRTLLMSettings) -> Lookahead:
    """Window, n-gram and verification set size for a lookahead engine.

    Without a setting: those that make up the `max_draft_len` of the build, TensorRT-LLM's default or three
    equal numbers. Raises `ConfigError`.
    """
    longest = engine.max_draft_len
    if settings.lookahead is None:
        for sizes in (DEFAULT_LOOKAHEAD, *((n, n, n) for n in range(2, longest + 3))):
            if draft_length(*sizes) == longest:
                return sizes
        raise ConfigError(
            f"tensorrt_llm.lookahead: the engine in {engine.path} was built with max_draft_len {longest}, "
            "which does not say the window, n-gram and verification set sizes; set them"
        )
    window, ngram, verification = settings.lookahead
    if ngram == 1 and (window, verification) != (1, 0):
        raise ConfigError("tensorrt_llm.lookahead: an n-gram size of 1 needs [1, 1, 0]")
    if (needed := draft_length(window, ngram, verification)) > longest:
        raise ConfigError(
            f"tensorrt_llm.lookahead: {list(settings.lookahead)} makes {needed} draft tokens, but the engine "
            f"in {engine.path} was built with max_draft_len {longest}"
        )
    return settings.lookahead


def decoding_config(engine: EngineDir, settings: TensorRTLLMSettings, bindings: Any) -> Any | None:
    """The executor's `DecodingConfig` for a lookahead engine; None for others."""
    if engine.speculative_decoding != LOOKAHEAD:
        return None
    return bindings.DecodingConfig(
        decoding_mode=bindings.DecodingMode.Lookahead(),
        lookahead_decoding_config=bindings.LookaheadDecodingConfig(*lookahead(engine, settings)),
    )
