"""Tokens per second of the torch engine beside transformers' `generate` and its continuous batching.

All run in one process, without a server, on the same weights, prompts and greedy tokens. The contenders
alternate in each round, so that noise affects all of them; the table shows the best round of each, and the
engine's ratio to the others. The prefix cache is off.

Then prefill alone: the engine's FLOP/s relative to one large matrix product in the same dtype. Last, the
quality cost of int8: the perplexity of a text.

    python benchmarks/engine.py [--model demo] [--streams 1 8 32] [--tokens 64] [--rounds 3]
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # the engine's setting, for all contenders
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from trtllm_openai import checkpoints
from trtllm_openai.config import Settings, TorchSettings
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.linear import make_linear
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.engines.torch.model_config import read_config
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.text.tokenizer import Tokenizer

TEXT = (
    "The harbour was quiet in the early morning, and the fishermen had not yet returned with their catch. "
    "대한민국의 수도는 서울이다. A long road led from the market to the old town, past gardens and walls. "
)
Run = Callable[[list[list[int]], int], None]


def make_prompts(tokenizer: Tokenizer, count: int, tokens: int) -> list[list[int]]:
    """`count` different prompts of `tokens` tokens each."""
    ids = tokenizer.encode(TEXT * (2 + tokens // 32), add_special_tokens=True)
    return [ids[index : index + tokens] for index in range(count)]


def ours(engine: TorchEngine) -> Run:
    def run(prompts: list[list[int]], tokens: int) -> None:
        sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        for index, prompt in enumerate(prompts):
            engine.submit(GenerationRequest(str(index), prompt, sampling))
        left, made = len(prompts), 0
        while left:
            for output in engine.step(0.01):
                made += len(output.token_ids)
                left -= output.finish_reason is not None
        assert made == len(prompts) * tokens

    return run


def generate(model: Any) -> Run:
    def run(prompts: list[list[int]], tokens: int) -> None:
        ids = torch.tensor(prompts, device=model.device)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
            min_new_tokens=tokens,
        )  # fmt: skip
        assert out.shape[1] == ids.shape[1] + tokens

    return run


def continuous_batching(model: Any, *, tuned: bool) -> Run:
    """`tuned`: size the cache for these streams; the default fills most of the memory."""

    def run(prompts: list[list[int]], tokens: int) -> None:
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        pages = len(prompts) * (2 + (len(prompts[0]) + tokens) // 32)
        small = ContinuousBatchingConfig(page_size=32, num_blocks=pages, max_batch_tokens=512)
        out = model.generate_batch(
            prompts, generation_config=config, continuous_batching_config=small if tuned else None
        )
        assert sum(len(item.generated_tokens) for item in out.values()) == len(prompts) * tokens

    return run


def without_cache(arguments: argparse.Namespace, max_seq_len: int, quantization: str) -> TorchSettings:
    return TorchSettings(
        dtype=arguments.dtype,
        device=arguments.device,
        threads=arguments.threads,
        max_seq_len=max_seq_len,
        max_batch_size=max(arguments.streams),
        enable_prefix_caching=False,
        quantization=quantization,
    )


def matrix_rate(dtype: torch.dtype, device: str, rounds: int) -> float:
    """Operations/s of one large matrix product, with the engine's linear layer."""
    rows, size = 512, 2048
    linear = make_linear(torch.randn(size, size, dtype=dtype, device=device), None)
    x = torch.randn(rows, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(10 * rounds):
        started = time.perf_counter()
        linear(x)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * rows * size * size / best


def print_prefill(directory: Path, tokenizer: Tokenizer, arguments: argparse.Namespace) -> None:
    engine = load(directory, without_cache(arguments, max(arguments.prompts) + 1, "none"), lambda *_: None)
    config = read_config(directory)
    heads, dim, hidden = config.heads, config.head_dim, config.hidden_size
    products = hidden * dim * (heads + 2 * config.kv_heads) + heads * dim * hidden
    products = config.layers * (products + 3 * hidden * config.intermediate_size)
    rate = matrix_rate(getattr(torch, arguments.dtype), arguments.device, arguments.rounds)
    print(f"\nOne large GEMM: {rate / 1e9:.0f} GFLOP/s\n\n| prompt | ms | tok/s | GFLOP/s | share |")
    print("|---" * 5 + "|")
    for tokens in arguments.prompts:
        prompt = make_prompts(tokenizer, 1, tokens)
        run, best = ours(engine), float("inf")
        for _ in range(1 + arguments.rounds):
            started = time.perf_counter()
            run(prompt, 1)
            best = min(best, time.perf_counter() - started)
        # the layers' weights and causal attention; the head computes one row
        work = 2 * products * tokens + 2 * config.layers * heads * dim * tokens**2
        print(
            f"| {tokens} | {best * 1e3:.0f} | {tokens / best:.0f} | {work / best / 1e9:.0f} "
            f"| {work / best / rate:.0%} |",
            flush=True,
        )


def print_int8(directory: Path, tokenizer: Tokenizer, arguments: argparse.Namespace) -> None:
    text = Path(__file__).resolve().parent.parent.joinpath("docs", "architecture.md").read_text()[:6000]
    prompt = tokenizer.encode(text, add_special_tokens=True)[:1024]
    scores = []
    for quantization in ("none", "int8"):
        engine = load(directory, without_cache(arguments, 1025, quantization), lambda *_: None)
        engine.submit(GenerationRequest("text", prompt, SamplingParams(max_tokens=0, prompt_logprobs=0)))
        outputs: list[StepOutput] = []
        while not outputs:
            outputs = [one for one in engine.step(0.01) if one.finish_reason is not None]
        given = outputs[0].prompt_logprobs or []
        scores.append([one.logprob for one in given if one is not None])
    changes = [abs(one - other) for one, other in zip(*scores, strict=True)]
    before, after = (math.exp(-sum(score) / len(score)) for score in scores)
    print(
        f"\nint8, over {len(changes)} tokens of a text: perplexity {before:.3f} -> {after:.3f}, a token's "
        f"log-probability changed by {sum(changes) / len(changes):.3f} on average, {max(changes):.2f} at most"
    )


PEERS: dict[str, Callable[[Any], Run]] = {
    "generate": generate,
    "continuous batching": functools.partial(continuous_batching, tuned=False),
    "continuous batching, tuned cache": functools.partial(continuous_batching, tuned=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens per request")
    parser.add_argument("--tokens", type=int, default=64, help="output tokens per request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--prompts",
        type=int,
        nargs="+",
        default=[256, 1024, 2048],
        help="of prefill, in tokens",
    )
    parser.add_argument("--skip", nargs="*", default=[], choices=PEERS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()

    directory = checkpoints.resolve(arguments.model, Settings().cache_path, lambda *_: None)
    tokenizer = Tokenizer.load(directory)
    contenders: dict[str, Run] = {}
    for quantization in ("none", "int8") if arguments.device == "cpu" else ("none",):
        settings = without_cache(arguments, arguments.prompt + arguments.tokens, quantization)
        name = "this engine" if quantization == "none" else f"this engine, {quantization}"
        contenders[name] = ours(load(directory, settings, lambda *_: None))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, arguments.dtype))
    model = model.to(arguments.device).eval()
    for name, make in PEERS.items():
        if name not in arguments.skip:
            contenders[name] = make(model)

    print(f"{directory.name}, {arguments.dtype}, {arguments.device}, {torch.get_num_threads()} threads,")
    print(f"prompts of {arguments.prompt} tokens, {arguments.tokens} generated, best of {arguments.rounds}")
    print("\n| streams | " + " | ".join(f"{name}, tok/s | ratio" for name in contenders) + " |")
    print("|---" * (1 + 2 * len(contenders)) + "|")
    for streams in arguments.streams:
        prompts = make_prompts(tokenizer, streams, arguments.prompt)
        best = dict.fromkeys(contenders, float("inf"))
        for run in contenders.values():
            run(prompts, 4)  # warm-up
        for _ in range(arguments.rounds):
            for name, run in contenders.items():
                started = time.perf_counter()
                run(prompts, arguments.tokens)
                best[name] = min(best[name], time.perf_counter() - started)
        speed = {name: streams * arguments.tokens / seconds for name, seconds in best.items()}
        mine = speed["this engine"]
        cells = [f"{value:.0f} | {mine / value:.2f}" for value in speed.values()]
        print(f"| {streams} | " + " | ".join(cells) + " |", flush=True)
    print_prefill(directory, tokenizer, arguments)
    if arguments.device == "cpu":
        print_int8(directory, tokenizer, arguments)


if __name__ == "__main__":
    main()
