"""Tensor-parallel scaling: TPOT and throughput of one model on one and on several GPUs, without HTTP.

Uses random weights of a model shape (config.json). For each concurrency, that many prompts are submitted at
once and run to completion. TPOT is measured from first to last token, median over requests.

    python benchmarks/ranks.py --model DIR [--sizes 1 2] [--concurrency 1 16 64 256] [--quantization fp8]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "app"))

import torch

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.generation import GenerationRequest, SamplingParams


def measure(engine: TorchEngine, concurrency: int, prompt: int, output: int) -> tuple[float, float, float]:
    """Return output tokens/s, median TPOT and median TTFT in seconds."""
    generator = torch.Generator().manual_seed(concurrency)
    sampling = SamplingParams(max_tokens=output, temperature=0, ignore_eos=True)
    for index in range(concurrency):
        ids = torch.randint(3, engine.info.vocab_size, (prompt,), generator=generator).tolist()
        engine.submit(GenerationRequest(str(index), ids, sampling))
    began = time.perf_counter()
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    left = concurrency
    while left:
        for one in engine.step(0.01):
            now = time.perf_counter()
            if one.token_ids:
                first.setdefault(one.request_id, now)
                last[one.request_id] = now
            if one.error:
                raise SystemExit(f"request {one.request_id}: {one.error}")
            left -= one.finish_reason is not None
    total = time.perf_counter() - began
    token = statistics.median((last[name] - first[name]) / (output - 1) for name in first)
    return concurrency * output / total, token, statistics.median(at - began for at in first.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--quantization", default="none")
    args = parser.parse_args()
    print("| GPUs | concurrency | tok/s | TPOT ms | TTFT ms |\n| --- | --- | --- | --- | --- |")
    for size in args.sizes:
        settings = TorchSettings(
            load_format="dummy",
            device="cuda",
            dtype="bfloat16",
            tensor_parallel_size=size,
            max_seq_len=args.input_tokens + args.output_tokens + 16,
            quantization=args.quantization,
        )
        engine = load(args.model, settings, lambda *_: None)
        try:
            measure(engine, 2, args.input_tokens, 8)
            for concurrency in args.concurrency:
                rate, token, wait = measure(engine, concurrency, args.input_tokens, args.output_tokens)
                print(
                    f"| {size} | {concurrency} | {rate:.0f} | {token * 1e3:.2f} | {wait * 1e3:.0f} |",
                    flush=True,
                )
        finally:
            engine.shutdown(10)
        del engine
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
