"""One rank of `test_exchange`: sums and gathers against NCCL's, by themselves and in CUDA graphs.

Arguments: rank, ranks, rendezvous file, model directory, repeats, and `tags`, `flags` or `nccl`.
"""

import random
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from trtllm_openai.engines.torch.cuda import peers as module
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm, add_rms_norm_fp8
from trtllm_openai.engines.torch.cuda.peers import Peers
from trtllm_openai.engines.torch.followers import join
from trtllm_openai.engines.torch.model_config import read_config
from trtllm_openai.engines.torch.parallel import Ranks

MOST = 64
TAGGED_BYTES = {"tags": 2**30, "flags": 0, "nccl": 0}
EPS = 1e-5


def captured(peers: Peers, x: torch.Tensor, part: torch.Tensor) -> torch.cuda.CUDAGraph:
    """A graph of one sum."""
    peers.add(x, part)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        peers.add(x, part)
    return graph


def wrong_sums(peers: Peers, part: torch.Tensor, repeats: int) -> torch.Tensor:
    """Number of values that differ from NCCL's, over sums of random sizes."""
    choose = random.Random(0)  # all ranks choose alike
    x = torch.zeros_like(part)
    graphs = {rows: captured(peers, x[:rows], part[:rows]) for rows in (1, 3, MOST)}
    wrong = torch.zeros((), dtype=torch.int64, device=part.device)
    for step in range(repeats):
        graph_rows = choose.choice([0, *graphs])
        rows = graph_rows or choose.randint(1, MOST)
        check = step % 8 == 0
        part.mul_(-1).add_(step % 7 - 3)
        x.zero_()
        if check:
            expected = part[:rows].float()
            dist.all_reduce(expected)
        own = part.clone() if peers.rows < rows else part  # NCCL sums in place
        if graph_rows:
            graphs[graph_rows].replay()
            part.copy_(own)
        else:
            peers.add(x[:rows], own[:rows])
        if check:
            near = (x[:rows].float() - expected).abs() <= expected.abs() * 2**-8
            wrong += (~near).sum() + x[rows:].count_nonzero()
    return wrong


def differs(got: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """1 if the relative error exceeds a bfloat16 rounding, else 0. (Sums of squares may differ in order.)"""
    error = (got.float() - expected.float()).norm() / expected.float().norm()
    wrong: torch.Tensor = ~(error < 2**-8)
    return wrong.long()


def wrong_norms(peers: Peers, part: torch.Tensor) -> torch.Tensor:
    """Number of cases in which sum and norm in one kernel differ from the two kernels."""
    wrong = torch.zeros((), dtype=torch.int64, device=part.device)
    gain = torch.randn(part.shape[1], device=part.device).to(part.dtype)
    dist.broadcast(gain, 0)
    for rows in (1, 5, MOST):
        x = torch.zeros_like(part[:rows])
        expected, inputs = x.clone(), [part[:rows].clone() for _ in range(3)]
        peers.add(expected, inputs[0])
        one = peers.add_rms_norm(x, inputs[1], gain, EPS)
        wrong += (x != expected).sum() + differs(one, add_rms_norm(expected, None, gain, EPS))
        if torch.cuda.get_device_capability() < (9, 0):
            continue
        values, scales = peers.add_rms_norm_fp8(x.zero_(), inputs[2], gain, EPS)
        other, other_scales = add_rms_norm_fp8(expected, None, gain, EPS)
        wrong += differs(values.float() * scales, other.float() * other_scales)
    return wrong


def wrong_logits(peers: Peers, columns: int, width: int, device: torch.device) -> torch.Tensor:
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for rows in (1, 5, MOST):
        mine = torch.randn(rows, columns, device=device).bfloat16()
        whole = peers.scores(mine)
        got = peers.logits(mine)
        if peers.ranks.rank == 0:
            wrong += (whole != got).sum()
        peers.sum(torch.zeros(1, width, dtype=torch.bfloat16, device=device))
    return wrong


def main(rank: int, size: int, meeting: Path, model: Path, repeats: int, protocol: str) -> None:
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    ranks = Ranks(rank, size)
    join(ranks, meeting, device)
    config = read_config(model)
    module.TAGGED_BYTES = TAGGED_BYTES[protocol]
    peers = Peers(config, ranks, MOST, torch.bfloat16, device, direct=protocol != "nccl")
    if peers.rows:  # counts of uses overflow on the way
        assert peers._many.flags is not None
        peers._many.counts.fill_(2**31 - 100)
        peers._many.flags.own.fill_(2**31 - 100)
        if peers._few is not None:
            peers._few.counts.fill_(2**16 - 100)
        torch.cuda.synchronize()
        dist.barrier(device_ids=[rank])
    torch.manual_seed(rank)  # each rank has other numbers
    part = torch.randn(MOST, config.hidden_size, device=device).bfloat16()
    for name, wrong in (
        ("sums", wrong_sums(peers, part, repeats)),
        ("norms", wrong_norms(peers, part)),
        ("logits", wrong_logits(peers, config.vocab_size // size, config.hidden_size, device)),
    ):
        assert int(wrong) == 0, f"rank {rank}: {int(wrong)} wrong numbers in {name}"
    assert int(peers.fault) == 0
    replays = min(2000, repeats)
    for rows in (1, 16, MOST):
        graph = captured(peers, torch.zeros_like(part[:rows]), part[:rows])
        dist.barrier(device_ids=[rank])
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(replays):
            graph.replay()
        torch.cuda.synchronize()
        if rank == 0:
            each = (time.perf_counter() - began) / replays * 1e6
            print(f"{protocol}: {rows} rows of {config.hidden_size}: {each:.1f} us", flush=True)
    del graph  # a communicator outlives the graphs that it is in
    peers.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3]),
        Path(sys.argv[4]),
        int(sys.argv[5]),
        sys.argv[6],
    )
