"""Decode step time on a GPU by batch and context, relative to the roofline, with a breakdown by operation.

Uses random weights of a model shape (config.json), without server and prefill: sequences are placed in the KV
cache directly. The bound is the larger of bytes / bandwidth of a matrix-vector product and operations / rate
of a square matrix product, both measured first; * marks compute-bound steps.

`--ranks N`: only the breakdown, of one of N tensor-parallel ranks, on one GPU. The sums over ranks, which
contain residual and norm, are not part of it: `make test-gpu-stress` prints what they take.

    python benchmarks/gpu.py --model DIR [--batches 1 16 64 256] [--contexts 1024 8192] [--quantization fp8]
    python benchmarks/gpu.py --model DIR --ranks 2
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.cuda.executor import CudaExecutor
from trtllm_openai.engines.torch.cuda.kernels.attention import PagedDecode
from trtllm_openai.engines.torch.cuda.kernels.few_rows import MOST_ROWS, able, few_rows
from trtllm_openai.engines.torch.cuda.kernels.gemv import gemv
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm
from trtllm_openai.engines.torch.cuda.kernels.rope import rope_and_store
from trtllm_openai.engines.torch.cuda.kernels.sampling import Sampler
from trtllm_openai.engines.torch.cuda.kernels.splits import counters
from trtllm_openai.engines.torch.cuda.kernels.swiglu import swiglu
from trtllm_openai.engines.torch.kv_cache import blocks_for, bytes_per_token
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.engines.torch.model_config import ModelConfig, read_config
from trtllm_openai.engines.torch.parallel import Ranks, shard
from trtllm_openai.engines.torch.plan import Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams

DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
BLOCK_SIZE = 16
Norm = tuple[torch.Tensor, float]
BROKEN_DOWN = (1, 16, 256)
BROKEN_DOWN_CONTEXT = 640
"""Batches and context of which each operation is timed alone."""
COPIES = 4
"""Copies of each timed matrix and cache, used in turn, since a single one might stay in L2."""


def seconds(calls: Collection[Callable[[], object]], repeats: int = 10) -> float:
    """Seconds per call, in a CUDA graph of all `calls`; best of three."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        start.record()
        for _ in range(repeats):
            graph.replay()
        stop.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(stop) / 1000 / repeats / len(calls))
    return best


def random(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=DTYPE, device=DEVICE).normal_(std=0.02)


def ceilings() -> tuple[float, float]:
    """Measure bytes/s of a matrix-vector product and operations/s of a square matrix product."""
    matrix, row, square = random(2**18, 4096), random(1, 4096), random(8192, 8192)
    bandwidth = matrix.nbytes / seconds([lambda: F.linear(row, matrix)])
    rate = 2 * 8192**3 / seconds([lambda: square @ square], 3)
    return bandwidth, rate


def step_seconds(executor: CudaExecutor, batch: int, context: int, steps: int = 20) -> float:
    """Seconds per greedy decode step of `batch` sequences of `context` tokens, overlapped as usual."""
    width = blocks_for(context, BLOCK_SIZE)
    sequences = []
    for index in range(batch):
        request = GenerationRequest(str(index), [1] * context, SamplingParams(max_tokens=1, temperature=0))
        sequence = Sequence(request)
        sequence.computed = context - 1
        sequence.blocks = list(range(1 + index * width, 1 + (index + 1) * width))
        sequences.append(sequence)
    plan = Plan(decode=sequences)
    executor.launch(plan).collect()
    started, flying = time.perf_counter(), executor.launch(plan)
    for _ in range(steps - 1):
        following = executor.launch(plan)
        flying.collect()
        flying = following
    flying.collect()
    taken = (time.perf_counter() - started) / steps
    for sequence in sequences:
        sequence.blocks = []
    return taken


def matrices(config: ModelConfig, ranks: int = 1) -> dict[str, tuple[int, int, int]]:
    """Outputs, inputs and count of each kind of matrix that a step reads. `config`: of one of the `ranks`."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "q, k, v": (q + 2 * kv, hidden, config.layers),
        "attention out": (hidden, q, config.layers),
        "gate, up": (2 * inner, hidden, config.layers),
        "down": (hidden, inner, config.layers),
        "vocabulary": (config.vocab_size // ranks, hidden, 1),
    }


def product(name: str, x: torch.Tensor, weight: torch.Tensor, norm: Norm) -> Callable[[], object]:
    """The matrix product that a step with the rows of `x` runs."""
    if 1 < len(x) <= MOST_ROWS and able(DEVICE):
        arrived = counters(weight)
        return lambda: few_rows(x, weight, arrived, swiglu=name == "gate, up")
    if len(x) > 1:
        return lambda: F.linear(x, weight)
    if name in ("attention out", "down"):
        addend = random(1, len(weight))
        return lambda: gemv(x, weight, addend=addend)
    return lambda: gemv(x, weight, norm=norm, swiglu=name == "gate, up")


def parts(config: ModelConfig, batch: int, context: int, ranks: int) -> dict[str, tuple[float, int, int]]:
    """Each operation in isolation: seconds per call, calls per step, bytes per call."""
    found: dict[str, tuple[float, int, int]] = {}
    norm = random(config.hidden_size), config.norm_eps
    for name, (outputs, inputs, calls) in matrices(config, ranks).items():
        weights = [random(outputs, inputs) for _ in range(COPIES if calls > 1 else 1)]
        row = random(batch, inputs)
        work = [product(name, row, weight, norm) for weight in weights]
        found[name] = seconds(work), calls, 2 * outputs * inputs
    heads, kv_heads, dim = config.heads, config.kv_heads, config.head_dim
    width = blocks_for(context, BLOCK_SIZE)
    caches = [random(batch * width + 1, BLOCK_SIZE, 2, kv_heads, dim) for _ in range(2)]
    tables = torch.arange(1, batch * width + 1, dtype=torch.int32, device=DEVICE)
    stride = torch.tensor([width], dtype=torch.int32, device=DEVICE)
    lengths = torch.full((batch,), context, dtype=torch.int32, device=DEVICE)
    qkv, out = random(batch, heads + 2 * kv_heads, dim), random(batch, heads * dim)
    paged = PagedDecode(heads, kv_heads, dim, batch, DEVICE)
    work = [functools.partial(paged, qkv, c, tables, stride, lengths, out) for c in caches]
    found["attention"] = seconds(work), config.layers, batch * context * kv_heads * dim * 4
    table = torch.ones(context, dim // 2, device=DEVICE)
    slots = tables.view(batch, width)[:, -1] * BLOCK_SIZE
    rope = [lambda: rope_and_store(qkv, caches[0], lengths - 1, slots, (table, table), None)]
    found["rope, cache write"] = seconds(rope), config.layers, 2 * qkv.nbytes
    if batch > 1 and ranks == 1:
        x = random(batch, config.hidden_size)
        work = [lambda: add_rms_norm(x, x, *norm)]
        found["residual, norm"] = seconds(work), 2 * config.layers, 4 * x.nbytes
    if batch > MOST_ROWS or (batch > 1 and not able(DEVICE)):
        both = random(batch, 2 * config.intermediate_size)
        found["swiglu"] = seconds([lambda: swiglu(both)]), config.layers, both.nbytes * 3 // 2
    logits, sampler = random(batch, config.vocab_size), Sampler(config.vocab_size, batch, DEVICE)
    ints = torch.zeros(batch, dtype=torch.int32, device=DEVICE)
    none = torch.zeros(batch, 4, device=DEVICE)
    work = [lambda: sampler(logits, none, ints, none.double(), ints, ints.clone(), ints)]
    found["greedy choice"] = seconds(work), 1, logits.nbytes
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 128, 256])
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--quantization", default="none", choices=["none", "fp8"])
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    config = read_config(arguments.model)
    if arguments.ranks > 1:
        print(torch.cuda.get_device_name())
        part = shard(config, Ranks(0, arguments.ranks))
        with torch.inference_mode():
            for batch in BROKEN_DOWN:
                break_down(part, batch, ranks=arguments.ranks)
        return
    bandwidth, rate = ceilings()
    torch.cuda.empty_cache()
    settings = TorchSettings(
        device="cuda", dtype="bfloat16", load_format="dummy", quantization=arguments.quantization,
        max_batch_size=max(arguments.batches),
    )  # fmt: skip
    started = time.perf_counter()
    engine = load(arguments.model, settings, lambda *_: None)
    executor = engine._executor
    assert isinstance(executor, CudaExecutor)
    print(f"{torch.cuda.get_device_name()}: {bandwidth / 1e12:.2f} TB/s, {rate / 1e12:.0f} TFLOP/s; ", end="")
    print(f"ready in {time.perf_counter() - started:.1f} s, {engine.info.kv_blocks} KV blocks")
    elements = sum(outputs * inputs * calls for outputs, inputs, calls in matrices(config).values())
    head = config.vocab_size * config.hidden_size
    small = 1 if arguments.quantization == "fp8" else 2
    weight_bytes = (elements - head) * small + 2 * head
    with torch.inference_mode():
        for layer in engine._cache.layers:
            layer.normal_()
        print(
            "\nms of a step (times the bound)\n\n| batch | " + " | ".join(map(str, arguments.contexts)) + " |"
        )
        print("|---" * (1 + len(arguments.contexts)) + "|")
        for batch in arguments.batches:
            cells = []
            for context in arguments.contexts:
                if (
                    batch * blocks_for(context, BLOCK_SIZE) > engine.info.kv_blocks
                    or context > engine.info.max_seq_len
                ):
                    cells.append("does not fit")
                    continue
                taken = step_seconds(executor, batch, context)
                moved = (weight_bytes + batch * context * bytes_per_token(config, DTYPE)) / bandwidth
                counted = 2 * elements * batch / rate
                star = "*" if counted > moved else ""
                cells.append(f"{taken * 1e3:.2f} ({taken / max(moved, counted):.2f}{star})")
            print(f"| {batch} | " + " | ".join(cells) + " |", flush=True)
        wholes = {batch: step_seconds(executor, batch, BROKEN_DOWN_CONTEXT) for batch in arguments.batches}
        engine.shutdown(0)
        del engine, executor
        torch.cuda.empty_cache()
        if arguments.quantization != "none":
            return
        for batch in BROKEN_DOWN:
            if batch in wholes:
                break_down(config, batch, whole=wholes[batch])


def break_down(config: ModelConfig, batch: int, *, whole: float | None = None, ranks: int = 1) -> None:
    """Print the time of each operation of a step, alone. `whole`: seconds of the step, if measured."""
    context = BROKEN_DOWN_CONTEXT
    print(f"\nbatch {batch}, {context} tokens each: each operation alone\n")
    print("| operation | calls | µs | TB/s | ms of a step |\n|---|---|---|---|---|")
    total = 0.0
    for name, (taken, calls, size) in parts(config, batch, context, ranks).items():
        total += taken * calls
        speed = size / taken / 1e12
        print(f"| {name} | {calls} | {taken * 1e6:.1f} | {speed:.2f} | {taken * calls * 1e3:.2f} |")
    print(f"| sum | | | | {total * 1e3:.2f} |", flush=True)
    if whole is not None:
        print(f"| a step | | | | {whole * 1e3:.2f} |", flush=True)


if __name__ == "__main__":
    main()
