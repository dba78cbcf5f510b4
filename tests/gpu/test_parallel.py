"""Tensor parallelism: two GPUs give the tokens of one, and no rank outlives another."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.unit.engines.torch.conftest import VOCAB, make_engine, request, run

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs")


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_two_gpus_give_the_tokens_of_one(checkpoint: Callable[[str], Path], name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    prompts = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in (3, 40, 150)]
    outputs = []
    for size in (1, 2):
        engine = make_engine(
            checkpoint(name), device="cuda", tensor_parallel_size=size, max_num_tokens=64, max_batch_size=4
        )
        try:
            asked = [request(str(i), ids, max_tokens=24, logprobs=1) for i, ids in enumerate(prompts)]
            outputs.append(run(engine, *asked))
        finally:
            engine.shutdown(10)
    one, two = outputs
    for i in one:
        assert two[i].token_ids == one[i].token_ids
        for mine, other in zip(two[i].logprobs or (), one[i].logprobs or (), strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_exchange(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Sums of random sizes, by themselves and in graphs, are NCCL's; so are gathered logits."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    script = Path(__file__).with_name("exchange_rank.py")
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                script,
                str(rank),
                "2",
                tmp_path / "meeting",
                os.environ.get("EXCHANGE_SHAPE", checkpoint("llama")),
                os.environ.get("EXCHANGE_REPEATS", "2000"),
            ],
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(240) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()


def test_sampling_rules_scores_and_prefix_cache(checkpoint: Callable[[str], Path]) -> None:
    prompt = [(i * 17) % 300 + 3 for i in range(150)]
    asked = [
        request("drawn", prompt[:20], max_tokens=16, temperature=1.0, seed=3, logprobs=2),
        request("rules", prompt[:40], max_tokens=16, frequency_penalty=1.0, logit_bias={7: 2.0}),
        request("scored", prompt, max_tokens=4, prompt_logprobs=1),
        request("again", prompt[:140], max_tokens=8),
    ]
    outputs = []
    for size in (1, 2):
        # A cache in which not all of them fit at once: some are preempted.
        engine = make_engine(
            checkpoint("llama"),
            device="cuda",
            tensor_parallel_size=size,
            max_num_tokens=64,
            max_batch_size=4,
            max_seq_len=256,
            kv_cache_tokens=16 * 20,
        )
        try:
            outputs.append(run(engine, *asked))
            engine.submit(request("aborted", prompt, max_tokens=8))
            engine.step(0)
            engine.abort("aborted")
            outputs[-1] |= run(engine, request("after", prompt[:30], max_tokens=8))
            assert engine.stats().kv_blocks_used == 0
            assert engine.stats().kv_blocks_reused > 0
        finally:
            engine.shutdown(10)
    one, two = outputs
    for name in (*(each.request_id for each in asked), "after"):
        assert two[name].token_ids == one[name].token_ids, name
    scores = [outcome["scored"].prompt_logprobs for outcome in (two, one)]
    for mine, other in zip(*(each[1:] for each in scores if each is not None), strict=True):
        assert mine is not None
        assert other is not None
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)


LOADED = """
import sys
from pathlib import Path
from tests.unit.engines.torch.conftest import make_engine, request
engine = make_engine(Path(sys.argv[1]), device="cuda", tensor_parallel_size=2, max_batch_size=4)
engine.submit(request("endless", [5, 9, 7], max_tokens=200, ignore_eos=True))
print(engine._followers.processes[0].pid, flush=True)
while True:
    if any(one.finish_reason for one in engine.step(0.01)):
        engine.submit(request("endless", [5, 9, 7], max_tokens=200, ignore_eos=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_all(checkpoint: Callable[[str], Path], sent: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    first = subprocess.Popen(
        [sys.executable, "-c", LOADED, checkpoint("llama")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert first.stdout is not None
        follower = int(first.stdout.readline())
        time.sleep(0.5)
        os.kill(follower, sent)
        _, errors = first.communicate(timeout=4)
        assert first.returncode != 0
        assert "rank 1" in errors
        assert not Path(f"/proc/{follower}").exists() or _zombie(follower)
    finally:
        first.kill()


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
