"""Fields of other servers that would change the answer and that this one cannot honour, by request.

A body that has one of them with another value than a neutral one is refused, and the field named; with a
neutral value nothing would be different, and it is not named among the ignored ones either. null is neutral
everywhere. A field that is neither here nor in the request model is unknown, and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import RequestModel
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.protocol.messages import CountTokensRequest, MessagesRequest
from trtllm_openai.protocol.responses import CompactRequest, InputTokensRequest, ResponsesRequest
from trtllm_openai.protocol.tokens import TokenizeRequest


@dataclass(frozen=True, slots=True)
class Refused:
    """`instead`: what a client can do, as the end of a sentence. `neutral`: values that ask for nothing."""

    instead: str = ""
    neutral: tuple[object, ...] = ()
    is_neutral: Callable[[Any], bool] = lambda _: False

    def asked(self, value: object) -> bool:
        """Whether `value` asks for something."""
        if value is None or self.is_neutral(value):
            return False
        return not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.neutral
        )


def _empty(value: Any) -> bool:
    return isinstance(value, (list, dict, str)) and not value


_OFF = Refused(neutral=(False,))
_ZERO = Refused(neutral=(0,))
_ONE = Refused(neutral=(1,))
_NO_BEAMS = "there is no beam search"
_BEAMS: Mapping[str, Refused] = {
    "use_beam_search": Refused(_NO_BEAMS, (False,)),
    "early_stopping": Refused(_NO_BEAMS, (False, 0)),
    "length_penalty": Refused(_NO_BEAMS, (1, 0)),
    "beam_search_diversity_rate": Refused(_NO_BEAMS, (0,)),
    "beam_width_array": Refused(_NO_BEAMS, is_neutral=_empty),
}
_SAMPLING: Mapping[str, Refused] = {
    **_BEAMS,
    # TensorRT-LLM's
    "no_repeat_ngram_size": _ZERO,
    "prompt_ignore_length": _ZERO,
    "top_p_decay": _ONE,
    "top_p_min": _ZERO,
    "top_p_reset_ids": Refused(),
    # vLLM's and SGLang's
    "custom_logit_processor": Refused(),
    "custom_params": Refused(is_neutral=_empty),
    "logits_processors": Refused(is_neutral=_empty),
    "logprob_token_ids": Refused("use logprobs", is_neutral=_empty),
    "repetition_detection": Refused(),
    "vllm_xargs": Refused(is_neutral=_empty),
    "watermarking": _OFF,
    "regex": Refused("use guided_regex"),
    "ebnf": Refused("use guided_grammar"),
    "stop_regex": Refused("use stop", is_neutral=_empty),
    # llama.cpp's
    "dry_multiplier": _ZERO,
    "dynatemp_range": _ZERO,
    "grammar": Refused("use guided_grammar", ("",)),
    "json_schema": Refused("use guided_json", is_neutral=_empty),
    "mirostat": _ZERO,
    "tfs_z": _ONE,
    "top_a": _ZERO,
    "top_n_sigma": Refused(neutral=(-1, 0)),
    "typical_p": _ONE,
    "xtc_probability": _ZERO,
}
_DEPLOYMENT: Mapping[str, Refused] = {
    "disaggregated_params": Refused("this server both prefills and decodes"),
    "ec_transfer_params": Refused("this server both prefills and decodes"),
    "kv_transfer_params": Refused("this server both prefills and decodes"),
    "bootstrap_host": Refused("this server both prefills and decodes"),
    "lora_request": Refused("an adapter is chosen by model"),
    "lora_path": Refused("an adapter is chosen by model"),
}
_OUTPUT: Mapping[str, Refused] = {
    "detokenize": Refused(neutral=(True,)),
    "return_context_logits": _OFF,
    "return_generation_logits": _OFF,
    "return_hidden_states": _OFF,
    "return_routed_experts": _OFF,
}
_GUIDED = ("guided_choice", "guided_grammar", "guided_json", "guided_regex")
_COMMON = {**_SAMPLING, **_DEPLOYMENT, **_OUTPUT}
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "n": (1,),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "truncation_side": ("left",),
}
"""Values that ask for nothing, beside null, false and what is empty."""
_TRUE_BY_DEFAULT = frozenset({"add_generation_prompt", "include_reasoning", "skip_special_tokens"})
"""Of these it is true that asks for nothing."""
_HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "service_tier",
        "session_id",
        "store",
        "stream_options",
        "user",
    }
)
"""Fields of chat that do not change the answer, or only how fast and to whom it goes."""


def _refuse(names: Iterable[str], called: Mapping[str, str], instead: str) -> dict[str, Refused]:
    """These fields of another route. `called`: what this one calls some of them."""
    return {
        name: Refused(
            f"use {called[name]}" if name in called else instead,
            (True,) if name in _TRUE_BY_DEFAULT else (False, *_NEUTRAL.get(name, ())),
            _empty,
        )
        for name in sorted(names)
    }


def _of_chat(model: type[RequestModel], called: Mapping[str, str]) -> dict[str, Refused]:
    """The fields of chat that another route lacks. `called`: what it calls some of them."""
    missing = (ChatRequest.model_fields.keys() | {"best_of"}) - model.model_fields.keys() - _HARMLESS
    return _refuse(missing, called, "use /v1/chat/completions")


_OF_PROMPT = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "function_call",
        "functions",
        "mcp_servers",
        "messages",
        "prompt",
        "prompt_token_ids",
        "reasoning_effort",
        "suffix",
        "tool_choice",
        "tools",
        "truncate_prompt_tokens",
        "truncation_side",
    }
)
"""Fields that decide what the prompt is."""


def _prompt_only(model: type[RequestModel], fields: Mapping[str, Refused]) -> dict[str, Refused]:
    """The refused `fields` of a route that answers, for one that only makes its prompt."""
    return {name: fields[name] for name in sorted(fields.keys() & _OF_PROMPT - model.model_fields.keys())}


_OF_COMPLETIONS = {"prompt": Refused("use messages"), "suffix": Refused(is_neutral=_empty)}
_COMPLETION = {
    **_COMMON,
    "prompt_embeds": Refused("use prompt"),
    **_of_chat(
        CompletionRequest,
        {
            "messages": "prompt",
            "max_completion_tokens": "max_tokens",
            "top_logprobs": "logprobs",
            "prompt_token_ids": "prompt",
        },
    ),
}
_RESPONSE = {
    **_COMMON,
    "suffix": _OF_COMPLETIONS["suffix"],
    **_of_chat(
        ResponsesRequest,
        {
            "messages": "input",
            "response_format": "text.format",
            "guided_json": "text.format, or structured_outputs",
            "guided_regex": "text.format, or structured_outputs",
            "guided_grammar": "text.format, or structured_outputs",
            "guided_choice": "structured_outputs",
            "reasoning_effort": "reasoning.effort",
            "logprobs": "include: [message.output_text.logprobs]",
            "truncate_prompt_tokens": "truncation",
            "functions": "tools",
            "function_call": "tool_choice",
        },
    ),
}
_MESSAGE = {
    **_COMMON,
    **_OF_COMPLETIONS,
    **_of_chat(
        MessagesRequest,
        {
            "max_completion_tokens": "max_tokens",
            "stop": "stop_sequences",
            "response_format": "output_config.format",
            "structured_outputs": "output_config.format",
            **dict.fromkeys(_GUIDED, "output_config.format"),
            "reasoning_effort": "output_config.effort",
            "functions": "tools",
            "function_call": "tool_choice",
        },
    ),
    "mcp_servers": Refused("this server connects to no others", is_neutral=_empty),
    "output_format": Refused("use output_config.format"),
}
_NOT_IN_SUMMARY = frozenset(
    {
        "include",
        "max_tool_calls",
        "priority",
        "reasoning",
        "safety_identifier",
        "text",
        "tool_choice",
        "tool_strict",
        "tools",
    }
)
"""Fields of a response that make no other summary: that is plain text, without tools and thinking."""
_SUMMARY = {
    **_RESPONSE,
    **_refuse(
        ResponsesRequest.model_fields.keys()
        - CompactRequest.model_fields.keys()
        - _HARMLESS
        - _NOT_IN_SUMMARY,
        {},
        "a summary has the server's defaults",
    ),
}

REFUSED: Mapping[type[RequestModel], Mapping[str, Refused]] = {
    ChatRequest: {**_COMMON, **_OF_COMPLETIONS, "best_of": Refused("use n", (1,))},
    CompletionRequest: _COMPLETION,
    ResponsesRequest: _RESPONSE,
    InputTokensRequest: {
        **_prompt_only(InputTokensRequest, _RESPONSE),
        "prompt": Refused("this server stores no prompts"),
    },
    CompactRequest: _SUMMARY,
    MessagesRequest: _MESSAGE,
    CountTokensRequest: _prompt_only(CountTokensRequest, _MESSAGE),
    TokenizeRequest: _prompt_only(TokenizeRequest, _of_chat(TokenizeRequest, {"prompt_token_ids": "prompt"})),
}
"""On other routes than chat also chat's own fields, with the name that they have there."""


def refused_fields(model: type[RequestModel]) -> Mapping[str, Refused]:
    """The fields that are refused in a body of this model."""
    return REFUSED.get(model, {})
