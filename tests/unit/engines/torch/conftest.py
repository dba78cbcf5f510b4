"""Small random checkpoints of every architecture, written by transformers, and engines on them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput

VOCAB = 500
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 72,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama-3.1": lambda: transformers.LlamaConfig(
        **SIZES, rope_theta=500.0, rope_scaling=dict(LLAMA3_ROPE), tie_word_embeddings=True
    ),
    "llama-linear-biased": lambda: transformers.LlamaConfig(
        **SIZES, rope_scaling={"rope_type": "linear", "factor": 2.0}, attention_bias=True, mlp_bias=True
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
}


def make_checkpoint(config: Any, directory: Path, **saving: Any) -> Path:
    """Save a random model; biases and norms too, which transformers would leave at 0 and 1."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name))
    model.save_pretrained(directory, **saving)
    return directory


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = make_checkpoint(CONFIGS[name](), tmp_path_factory.mktemp(name))
        return made[name]

    return get


def make_engine(directory: Path, **settings: Any) -> TorchEngine:
    return load(
        directory, TorchSettings(**{"dtype": "float32", "device": "cpu", **settings}), lambda *_: None
    )


def request(name: str, prompt: Iterable[int], **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        name, list(prompt), SamplingParams(**{"max_tokens": 8, "temperature": 0, **sampling})
    )


def run(engine: TorchEngine, *requests: GenerationRequest) -> dict[str, StepOutput]:
    """Submit all and run to the end; each request's outputs as one."""
    for one in requests:
        engine.submit(one)
    return finish(engine, {one.request_id for one in requests})


def finish(engine: TorchEngine, ids: set[str]) -> dict[str, StepOutput]:
    whole: dict[str, StepOutput] = {}
    waiting = set(ids)
    for _ in range(20_000):
        for output in engine.step(0.01):
            one = whole.setdefault(output.request_id, StepOutput(output.request_id, []))
            assert one.finish_reason is None, "an output after the last"
            one.token_ids += output.token_ids
            one.cached_tokens += output.cached_tokens
            one.prompt_logprobs = output.prompt_logprobs or one.prompt_logprobs
            if output.logprobs is not None:
                one.logprobs = (one.logprobs or []) + output.logprobs
            one.finish_reason, one.stop_token_id = output.finish_reason, output.stop_token_id
            if output.finish_reason is not None:
                waiting.discard(output.request_id)
        if not waiting:
            return whole
    raise AssertionError(f"still running: {waiting}")
