"""Tensor parallelism: several ranks give the tokens of one, and none outlives another."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.unit.engines.torch.conftest import SIZES, make_checkpoint, make_engine, request, run
from trtllm_openai.engines.torch import followers
from trtllm_openai.engines.torch.followers import Followers
from trtllm_openai.engines.torch.parallel import Ranks
from trtllm_openai.engines.torch.weights import Weights
from trtllm_openai.errors import ConfigError

PROMPTS = {"short": [5, 9, 7], "long": [(i * 17) % 300 + 3 for i in range(150)]}
PROMPTS |= {"again": PROMPTS["long"][:140], "scored": list(range(3, 40))}
SAMPLING: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True, "logprobs": 2}
MORE: dict[str, dict[str, Any]] = {
    "short": {"temperature": 1.0, "seed": 3},
    "scored": {"prompt_logprobs": 1},
}


@pytest.fixture(scope="session")
def eight_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight heads over two key-value heads, biases, and a vocabulary that four ranks cannot share evenly."""
    sizes = {**SIZES, "num_attention_heads": 8, "vocab_size": 498, "hidden_size": 64}
    config = transformers.LlamaConfig(**sizes, attention_bias=True, mlp_bias=True)
    return make_checkpoint(config, tmp_path_factory.mktemp("eight"))


def answers(directory: Path, size: int, **settings: Any) -> dict[str, Any]:
    engine = make_engine(
        directory, tensor_parallel_size=size, max_num_tokens=100, max_batch_size=4, **settings
    )
    try:
        assert engine.info.tensor_parallel == size
        outputs = run(
            engine,
            *(request(name, ids, **{**SAMPLING, **MORE.get(name, {})}) for name, ids in PROMPTS.items()),
        )
        assert engine.stats().kv_blocks_used == 0
        assert engine.stats().kv_blocks_reused > 0
        return outputs
    finally:
        engine.shutdown(10)


@pytest.mark.parametrize(
    ("name", "size"),
    [("llama", 2), ("qwen3", 2), ("llama-3.1", 2), ("eight heads", 2), ("eight heads", 4)],
)
def test_the_tokens_of_one_rank(
    checkpoint: Callable[[str], Path], eight_heads: Path, name: str, size: int
) -> None:
    directory = eight_heads if name == "eight heads" else checkpoint(name)
    # a cache in which not all of them fit at once
    alone = answers(directory, 1)
    together = answers(directory, size, max_seq_len=256, kv_cache_tokens=16 * 20)
    for prompt, one in alone.items():
        assert together[prompt].token_ids == one.token_ids
        for mine, other in zip(together[prompt].logprobs, one.logprobs, strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_heads_that_do_not_divide_by_the_ranks_are_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"torch\.tensor_parallel_size: 4 ranks cannot evenly split 6 heads"
    ):
        make_engine(checkpoint("llama"), tensor_parallel_size=4)


@pytest.mark.parametrize(("total", "size"), [(498, 4), (500, 2), (5, 4), (1, 3)])
def test_parts_are_all_there_is_once(total: int, size: int) -> None:
    parts = [Ranks(rank, size).part(total) for rank in range(size)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(total))


RANK_0 = """
import sys, time, pathlib
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.loader import load
engine = load(
    pathlib.Path(sys.argv[1]), TorchSettings(device="cpu", tensor_parallel_size=2), lambda *_: None
)
print(engine._followers.processes[0].pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("killed", ["follower", "rank 0"])
def test_no_rank_outlives_another(checkpoint: Callable[[str], Path], killed: str) -> None:
    rank_0 = subprocess.Popen(
        [sys.executable, "-c", RANK_0, str(checkpoint("llama"))], stdout=subprocess.PIPE, text=True
    )
    assert rank_0.stdout is not None
    follower = int(rank_0.stdout.readline())
    # Ends of processes that are not our children show as pidfds that can be read.
    watched = os.pidfd_open(follower)
    os.kill(follower if killed == "follower" else rank_0.pid, signal.SIGKILL)
    assert rank_0.wait(20) == (1 if killed == "follower" else -signal.SIGKILL)
    assert select.select([watched], [], [], 20)[0]
    os.close(watched)
    rank_0.stdout.close()


HUNG = """
import subprocess, sys, threading, time
import numpy as np
from trtllm_openai.engines.torch import followers
from trtllm_openai.engines.torch.followers import Followers
from trtllm_openai.engines.torch.plan_channel import PlanChannel, create
followers.HANG_S, followers.WATCH_INTERVAL_S = 0.5, 0.05
channel = PlanChannel(create(), 100, 0, 2)
rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
whole = Followers([rank], None, -1, channel=channel)
threading.Thread(target=whole.watch, args=(rank, 1), daemon=True).start()
time.sleep(1.5)
print(rank.pid, rank.poll(), flush=True)  # without a step, it may rest
channel.send([np.zeros(3, np.int32)])
time.sleep(60)
"""


def test_a_rank_that_receives_no_step_ends_all() -> None:
    done = subprocess.run([sys.executable, "-c", HUNG], capture_output=True, text=True, timeout=50)
    follower, status = done.stdout.split()
    assert status == "None"
    assert done.returncode == 1
    assert "rank 1" in done.stderr
    assert "has not received a step for 0.5 seconds" in done.stderr
    stat = Path(f"/proc/{follower}/stat")  # killed, if perhaps not reaped yet
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_nothing_of_a_follower_stays_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "SHARED_MEMORY", tmp_path)
    rank = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    left, other = tmp_path / f"torch_{rank.pid}_123_0", tmp_path / f"torch_{rank.pid}1_123_0"
    left.touch()
    other.touch()
    whole = Followers([rank], tempfile.TemporaryDirectory(), -1)
    whole.end(10)
    assert rank.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [other.name]


def test_a_rank_reads_its_part(eight_heads: Path) -> None:
    whole, halves = (Weights(eight_heads, torch.float32, torch.device("cpu")) for _ in range(2))
    name = "model.layers.0.mlp.down_proj.weight"
    full = whole.take(name, 64, 96)
    assert torch.equal(halves.take(name, 64, 96, part=slice(48, 96), axis=1), full[:, 48:])
