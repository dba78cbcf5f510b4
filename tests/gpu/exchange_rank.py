"""One rank of `test_exchange`: sums and gathers against NCCL's, by themselves and in CUDA graphs."""

import random
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from trtllm_openai.engines.torch.cuda.peers import Peers
from trtllm_openai.engines.torch.followers import join
from trtllm_openai.engines.torch.model_config import read_config
from trtllm_openai.engines.torch.parallel import Ranks

MOST = 64


def main(rank: int, size: int, meeting: Path, model: Path, repeats: int) -> None:
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    ranks = Ranks(rank, size)
    join(ranks, meeting, device)
    config = read_config(model)
    peers = Peers(config, ranks, MOST, torch.bfloat16, device)
    width = config.hidden_size
    torch.manual_seed(rank)  # each rank has other numbers
    choose = random.Random(0)  # all ranks choose alike

    part = torch.randn(MOST, width, device=device).bfloat16()
    x = torch.zeros(MOST, width, device=device, dtype=torch.bfloat16)
    graphs = {}
    for rows in (1, 3, MOST):
        peers.add(x[:rows], part[:rows])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            peers.add(x[:rows], part[:rows])
        graphs[rows] = graph
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for step in range(repeats):
        graph_rows = choose.choice([0, *graphs])
        rows = graph_rows or choose.randint(1, MOST)
        check = step % 8 == 0
        part.mul_(-1).add_(step % 7 - 3)
        x.zero_()
        if check:
            expected = part[:rows].float()
            dist.all_reduce(expected)
        if graph_rows:
            graphs[graph_rows].replay()
        else:
            peers.add(x[:rows], part[:rows])
        if check:
            wrong += (x[:rows] != expected.bfloat16()).sum() + x[rows:].count_nonzero()
    columns = config.vocab_size // size
    for rows in (1, 5, MOST):
        mine = torch.randn(rows, columns, device=device).bfloat16()
        whole = peers.scores(mine)
        got = peers.logits(mine)
        if rank == 0:
            wrong += (whole != got).sum()
        peers.sum(part[:1])
    torch.cuda.synchronize()
    assert int(wrong) == 0, f"rank {rank}: {int(wrong)} wrong numbers"
    assert int(peers.fault) == 0
    for rows in graphs:
        dist.barrier()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(2000):
            graphs[rows].replay()
        torch.cuda.synchronize()
        if rank == 0:
            print(f"{rows} rows of {width}: {(time.perf_counter() - began) / 2000 * 1e6:.1f} us")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
