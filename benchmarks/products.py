"""Matrix products of up to 64 rows on a GPU: `kernels.gemv`, `few_rows` and `int4_product` beside cuBLAS and
`_scaled_mm`, by tile.

Each time is that of a product with what comes before it in a layer, in a CUDA graph, over several matrices in
turn, since a single one might stay in L2. Before q, k, v, gate and up and the head comes RMSNorm (in `gemv`);
before the other two, with fp8, quantization. `bound`: the bytes of the weights over the bandwidth of a
matrix-vector product. SwiGLU is part of the product of gate and up. 4-bit weights: groups of 128, random
codes; the library's product is bfloat16.

    python benchmarks/products.py --model DIR [--ranks 1 2] [--rows 1 4 16 32 64] [--quantization fp8|int4]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
import triton

from benchmarks.gpu import DTYPE, ceilings, random, seconds
from trtllm_openai.engines.torch.cuda.kernels.few_rows import Tile, few_rows
from trtllm_openai.engines.torch.cuda.kernels.gemv import GemvTile, gemv
from trtllm_openai.engines.torch.cuda.kernels.int4_product import Int4Tile, int4_product
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm, add_rms_norm_fp8
from trtllm_openai.engines.torch.cuda.kernels.quantize import quantize
from trtllm_openai.engines.torch.cuda.kernels.splits import counters
from trtllm_openai.engines.torch.cuda.kernels.swiglu import swiglu
from trtllm_openai.engines.torch.model_config import ModelConfig, read_config
from trtllm_openai.engines.torch.quantized.packed import Int4Weight, pack_int4

COPIES = 6
Product = tuple[str, int, int, bool]
"""Name, inputs, outputs (of gate and up: of one of them), whether it is gate and up."""
AnyTile = Tile | GemvTile | Int4Tile
TimedCase = tuple[Product, int, str, list[AnyTile | None]]
"""Rows, kind of weights, and tiles; None: that of the server."""
INT4_GROUP = 128


def products(config: ModelConfig, ranks: int) -> list[Product]:
    dim, hidden, inner = config.head_dim, config.hidden_size, config.intermediate_size // ranks
    heads, kv_heads = config.heads // ranks, max(1, config.kv_heads // ranks)
    return [
        ("qkv", hidden, (heads + 2 * kv_heads) * dim, False),
        ("out", heads * dim, hidden, False),
        ("gate_up", hidden, inner, True),
        ("down", inner, hidden, False),
        ("head", hidden, config.vocab_size // ranks, False),
    ]


def candidates(product: Product, rows: int, kind: str) -> list[AnyTile | None]:
    """Tiles for a product of `rows` rows. `few_rows` does not split the inputs of gate and up."""
    *_, swiglu = product
    if kind == "int4":
        sizes = itertools.product([32, 64], [4], [3, 4, 6], [1, 2, 4, 8])
        return [Int4Tile(*size) for size in sizes]
    if rows == 1:
        lines = itertools.product([1, 2, 4, 8], [256, 512, 1024, 2048], [4, 8], [1, 3, 4])
        return [GemvTile(*size) for size in lines if 2048 <= size[0] * size[1] <= 8192]
    itemsize = 1 if kind == "fp8" else 2
    steps = itertools.product([128, 256], [3, 4, 6], [1] if swiglu else [1, 2, 4])
    return [Tile(64, inputs // itemsize, 4, stages, splits) for inputs, stages, splits in steps]


class Case:
    """One product of `rows` rows, with everything that is timed for it."""

    def __init__(self, product: Product, rows: int, kind: str, copies: int = COPIES) -> None:
        name, inputs, outputs, self.swiglu = product
        self.normed = name not in ("out", "down")
        self.x, self.gain = random(rows, inputs), random(inputs)
        self.weights, self.scales = [], []
        self.packed: list[Int4Weight] = []
        for _ in range(copies):
            weight, scale = random((1 + self.swiglu) * outputs, inputs), None
            if kind == "fp8":
                weight, scale = quantize(weight)
                scale = scale.squeeze(1)
            if kind == "int4":
                self.packed.append(_packed(len(weight), weight.shape[1], weight.device))
            self.weights.append(weight)
            self.scales.append(scale)
        self.addend, self.addend_in = random(rows, outputs), random(rows, inputs)
        self.arrived = counters(self.weights[0])

    @property
    def nbytes(self) -> int:
        """Of the weights that our kernel reads."""
        if not self.packed:
            return int(self.weights[0].nbytes)
        one = self.packed[0]
        return int(one.packed.nbytes + one.scales.nbytes + one.zeros.nbytes)

    def library(self, index: int) -> torch.Tensor:
        weight, scales = self.weights[index], self.scales[index]
        x, x_scales = self._before(scales is not None)
        if x_scales is None:
            out = F.linear(x, weight)
        else:
            assert scales is not None
            out = torch._scaled_mm(x, weight.t(), x_scales, scales.unsqueeze(0), out_dtype=DTYPE)
        return swiglu(out) if self.swiglu else out

    def ours(self, index: int, tile: AnyTile | None) -> torch.Tensor:
        weight, scales = self.weights[index], self.scales[index]
        if len(self.x) == 1 and not self.packed:
            assert tile is None or isinstance(tile, GemvTile)
            norm, addend = ((self.gain, 1e-5), None) if self.normed else (None, self.addend)
            return gemv(
                self.x, weight, scales=scales, norm=norm, addend=addend, swiglu=self.swiglu, tile=tile
            )
        x, x_scales = self._before(scales is not None)
        if self.packed:
            assert tile is None or isinstance(tile, Int4Tile)
            return int4_product(x, self.packed[index], self.arrived, swiglu=self.swiglu, tile=tile)
        assert tile is None or isinstance(tile, Tile)
        return few_rows(
            x,
            weight,
            self.arrived,
            x_scales=x_scales,
            scales=scales,
            swiglu=self.swiglu,
            dtype=DTYPE,
            tile=tile,
        )

    def _before(self, fp8: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows after the operation before the product, and their scales in fp8."""
        if self.normed and fp8:
            return add_rms_norm_fp8(self.x, self.addend_in, self.gain, 1e-5)
        if self.normed:
            return add_rms_norm(self.x, self.addend_in, self.gain, 1e-5), None
        return quantize(self.x) if fp8 else (self.x, None)

    def timed(self, tiles: list[AnyTile | None]) -> list[tuple[float, AnyTile | None]]:
        """Microseconds of each tile, fastest first."""
        got: list[tuple[float, AnyTile | None]] = []
        for tile in tiles:
            with contextlib.suppress(triton.runtime.errors.OutOfResources):
                got.append((time(partial(self.ours, tile=tile)), tile))
        return sorted(got, key=lambda one: one[0])


def time(call: Callable[[int], object]) -> float:
    """Microseconds of one call."""
    return 1e6 * seconds([partial(call, index) for index in range(COPIES)])


def parts(case: TimedCase) -> list[TimedCase]:
    """The case with a few of its tiles each."""
    product, rows, kind, tiles = case
    return [(product, rows, kind, tiles[first : first + 4]) for first in range(0, len(tiles), 4)]


def compile_case(case: TimedCase) -> None:
    """Run every tile once, which leaves its code in Triton's cache."""
    product, rows, kind, tiles = case
    one = Case(product, rows, kind, 1)
    for tile in tiles:
        with contextlib.suppress(triton.runtime.errors.OutOfResources):  # the timing skips it as well
            one.ours(0, tile)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 32, 64])
    parser.add_argument("--quantization", choices=["none", "fp8", "int4"], default="none")
    parser.add_argument("--best", action="store_true", help="only the tile that the server uses")
    parser.add_argument("--processes", type=int, default=12, help="that compile")
    args = parser.parse_args()
    kind = args.quantization
    config = read_config(args.model)
    cases: list[TimedCase] = [
        (product, rows, kind, [None] if args.best else candidates(product, rows, kind))
        for ranks in args.ranks
        for product in products(config, ranks)
        for rows in args.rows
    ]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        pool.map(compile_case, [part for case in cases for part in parts(case)], chunksize=1)
    bandwidth, _ = ceilings()
    print(f"{torch.cuda.get_device_name()}, {bandwidth / 1e12:.2f} TB/s; µs with what comes before")
    print("| product | in → out | rows | bound | library | ours | tile | others |\n|" + " --- |" * 8)
    for product, rows, _, tiles in cases:
        name, inputs, outputs, pair = product
        case = Case(product, rows, kind)
        got = case.timed(tiles)
        bound = 1e6 * case.nbytes / bandwidth
        others = ", ".join(f"{micro:.1f} {_text(tile)}" for micro, tile in got[1:6])
        print(
            f"| {name} | {inputs} → {outputs * (1 + pair)} | {rows} | {bound:.1f}"
            f" | {time(case.library):.1f} | {got[0][0]:.1f} | {_text(got[0][1])} | {others} |",
            flush=True,
        )
        torch.cuda.empty_cache()


def _packed(outputs: int, inputs: int, device: torch.device) -> Int4Weight:
    codes = torch.randint(16, (outputs, inputs), dtype=torch.uint8, device=device)
    scales = torch.full((inputs // INT4_GROUP, outputs), 0.01, dtype=torch.float16, device=device)
    return pack_int4(codes, scales, torch.full_like(scales, 8, dtype=torch.uint8))


def _text(tile: AnyTile | None) -> str:
    if isinstance(tile, GemvTile):
        return f"{tile.outputs}x{tile.inputs} w{tile.warps} s{tile.stages}"
    if isinstance(tile, Int4Tile):
        return f"{tile.outputs} w{tile.warps} s{tile.stages} k{tile.splits}"
    return "the server's" if tile is None else f"{tile.outputs}x{tile.inputs} s{tile.stages} k{tile.splits}"


if __name__ == "__main__":
    main()
