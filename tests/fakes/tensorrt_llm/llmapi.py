"""`tensorrt_llm.llmapi` as of 1.2.1, as far as it is used here: the PyTorch backend's LLM and its parameters.

It behaves as the fake executor does (`bindings.executor.Behaviour`): an answer repeats its prompt, then ends.
"""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from tensorrt_llm.bindings.executor import Behaviour

LLM_ARGUMENTS = {
    "kv_cache_config",
    "scheduler_config",
    "max_batch_size",
    "max_num_tokens",
    "max_seq_len",
    "enable_chunked_prefill",
    "guided_decoding_backend",
}


class RequestError(RuntimeError):
    pass


class KvCacheConfig:
    def __init__(
        self,
        *,
        free_gpu_memory_fraction: float = 0.9,
        max_tokens: int | None = None,
        enable_block_reuse: bool = True,
    ) -> None:
        self.free_gpu_memory_fraction = free_gpu_memory_fraction


class GuidedDecodingParams:
    def __init__(
        self,
        *,
        json: object = None,
        regex: str | None = None,
        grammar: str | None = None,
        json_object: bool = False,
        structural_tag: str | None = None,
    ) -> None:
        if sum(bool(one) for one in (json, regex, grammar, json_object, structural_tag)) != 1:
            raise ValueError("exactly one guide")
        given = {"json": json, "regex": regex, "grammar": grammar, "structural_tag": structural_tag}
        self.given = {kind: guide for kind, guide in given.items() if guide is not None}


class SamplingParams:
    def __init__(
        self,
        *,
        end_id: int | None = None,
        pad_id: int | None = None,
        max_tokens: int = 32,
        stop_token_ids: list[int] | None = None,
        embedding_bias: Any = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        min_tokens: int | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        prompt_ignore_length: int | None = None,
        include_stop_str_in_output: bool = False,
        min_p: float | None = None,
        logprobs: int | None = None,
        guided_decoding: GuidedDecodingParams | None = None,
        ignore_eos: bool = False,
        detokenize: bool = True,
    ) -> None:
        if top_p is not None and not 0 <= top_p <= 1:
            raise ValueError("top_p")
        self.__dict__.update(locals())
        del self.__dict__["self"]

    if TYPE_CHECKING:  # attributes are the arguments above

        def __getattr__(self, key: str) -> Any: ...


class LLM:
    def __init__(
        self,
        model: str,
        tokenizer: object = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: object,
    ) -> None:
        if unknown := set(kwargs) - LLM_ARGUMENTS:
            raise ValueError(f"unknown arguments {unknown}")
        if kwargs.get("guided_decoding_backend") and (skip_tokenizer_init or tokenizer is None):
            raise ValueError("guided decoding needs a tokenizer")
        self._config = json.loads((Path(model) / "config.json").read_text())
        self._behaviour = Behaviour()
        self._has_tokenizer = not skip_tokenizer_init
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shut_down = False
        self.salts: list[str | None] = []
        self.guides: list[dict[str, object]] = []

    def generate_async(
        self,
        inputs: object,
        sampling_params: object = None,
        lora_request: object = None,
        prompt_adapter_request: object = None,
        streaming: bool = False,
        kv_cache_retention_config: object = None,
        disaggregated_params: object = None,
        _postproc_params: object = None,
        scheduling_params: object = None,
        cache_salt: str | None = None,
    ) -> "RequestOutput":
        if self._shut_down:
            raise RuntimeError("LLM is shutting down")
        loop = asyncio.get_running_loop()  # without one there would be no queue
        if self._loop not in (None, loop):
            raise RuntimeError("all requests of an LLM belong to one event loop")
        self._loop = loop
        if not isinstance(inputs, list) or not isinstance(sampling_params, SamplingParams):
            raise TypeError("inputs are token ids here")
        if sampling_params.end_id is None and not self._has_tokenizer:
            raise ValueError("end_id must be set when there is no tokenizer")
        self.salts.append(cache_salt)
        if sampling_params.guided_decoding is not None:
            self.guides.append(sampling_params.guided_decoding.given)
        return RequestOutput(inputs, sampling_params, self._behaviour, self._config["vocab_size"])

    def shutdown(self) -> None:
        self._shut_down = True


class RequestOutput:
    """The same object at every step."""

    def __init__(
        self, prompt: list[int], sampling: SamplingParams, behaviour: Behaviour, vocab_size: int
    ) -> None:
        self.prompt_token_ids = prompt
        self._sampling, self._behaviour, self._vocab_size = sampling, behaviour, vocab_size
        self.finished = False
        self._aborted = False
        self._made = 0
        self.outputs = [
            SimpleNamespace(index=0, token_ids=[], token_ids_diff=[], logprobs_diff=[], finish_reason=None)
        ]

    def abort(self) -> None:
        self._aborted = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        if self.finished:
            raise StopAsyncIteration
        await asyncio.sleep(self._behaviour.itl)
        output, sampling, prompt = self.outputs[0], self._sampling, self.prompt_token_ids
        place = self._made
        if self._behaviour.error_after is not None and place >= self._behaviour.error_after:
            raise RequestError("Encountered an error in forward\n1 0x7f…")
        # the PyTorch backend's sampler of 1.2.x has no use for a seed: any sampled token is another one
        greedy = sampling.top_k == 1 or (sampling.temperature is None and sampling.top_p is None)
        token = (prompt[place % len(prompt)] + (0 if greedy else 1)) % self._vocab_size
        if sampling.embedding_bias is not None and float(sampling.embedding_bias.max()) >= 50:
            token = int(sampling.embedding_bias.argmax())
        elif place >= len(prompt) and sampling.end_id != -1:
            token = sampling.end_id
        stops = token == sampling.end_id or token in (sampling.stop_token_ids or [])
        self._made += 1
        # executor/result.py cuts the stop token from token_ids, and from nothing else
        output.token_ids_diff = [] if stops and not sampling.include_stop_str_in_output else [token]
        output.token_ids += output.token_ids_diff
        others = {
            token + i: SimpleNamespace(logprob=-0.5 - i, rank=i + 1) for i in range(sampling.logprobs or 0)
        }
        output.logprobs_diff = [others] if sampling.logprobs else []
        if stops:
            output.finish_reason = "stop"
        elif place + 1 >= sampling.max_tokens:
            output.finish_reason = "length"
        self.finished = output.finish_reason is not None
        return self
