"""Tensor parallelism: two GPUs give the tokens of one, and no rank outlives another."""

import gc
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.unit.engines.torch.conftest import SIZES, VOCAB, make_checkpoint, make_engine, request, run
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.generation import GenerationRequest, Guide, SamplingParams

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs")


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def vocabulary() -> list[bytes]:
    """Bytes for the ids of the small checkpoints: none for special tokens, then single bytes, then pairs."""
    pairs = (bytes([97 + i // 26, 97 + i % 26]) for i in range(VOCAB))
    return [b""] * 3 + [bytes([i]) for i in range(256)] + [next(pairs) for _ in range(VOCAB - 259)]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_two_gpus_give_the_tokens_of_one(checkpoint: Callable[[str], Path], name: str) -> None:
    outputs = []
    for size in (1, 2):
        engine = make_engine(
            checkpoint(name), device="cuda", tensor_parallel_size=size, max_num_tokens=64, max_batch_size=4
        )
        try:
            asked = [
                request(str(i), ids, max_tokens=24, logprobs=1) for i, ids in enumerate(prompts(3, 40, 150))
            ]
            outputs.append(run(engine, *asked))
        finally:
            engine.shutdown(10)
    one, two = outputs
    for i in one:
        assert two[i].token_ids == one[i].token_ids
        for mine, other in zip(two[i].logprobs or (), one[i].logprobs or (), strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)


WITHOUT_PEER_ACCESS = """
import json, sys
from pathlib import Path
from tests.unit.engines.torch.conftest import make_engine, request, run
settings = {"tensor_parallel_size": 2, "max_num_tokens": 64, "max_batch_size": 4}
engine = make_engine(Path(sys.argv[1]), device="cuda", **settings)
asked = json.loads(sys.argv[2])
ends = run(engine, *(request(str(i), ids, max_tokens=24, prompt_logprobs=1) for i, ids in enumerate(asked)))
engine.shutdown(10)
print(json.dumps([ends[str(i)].token_ids for i in range(len(asked))]))
"""


def test_without_peer_access_graphs_use_nccl(checkpoint: Callable[[str], Path]) -> None:
    """In a process of its own, since NCCL reads its variables once."""
    asked = prompts(3, 40, 150)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]),
        "NCCL_P2P_DISABLE": "1",
    }
    command = [sys.executable, "-c", WITHOUT_PEER_ACCESS, str(checkpoint("llama")), json.dumps(asked)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0
    engine = make_engine(checkpoint("llama"), device="cuda", max_batch_size=4)
    alone = run(engine, *(request(str(i), ids, max_tokens=24) for i, ids in enumerate(asked)))
    assert json.loads(done.stdout.splitlines()[-1]) == [alone[str(i)].token_ids for i in range(len(asked))]


def test_bfloat16_tokens_differ_only_where_two_are_as_likely(checkpoint: Callable[[str], Path]) -> None:
    """In bfloat16 few rows are summed by the protocol of tags. Rounding decides between near ties only.

    The logits of these random models reach tens, where bfloat16 rounds to an eighth.
    """
    asked = [
        request(str(i), ids, max_tokens=32, ignore_eos=True, logprobs=2)
        for i, ids in enumerate(prompts(*range(5, 150, 6)))
    ]
    outputs = []
    for size in (1, 2):
        engine = make_engine(
            checkpoint("llama"), device="cuda", dtype="bfloat16", tensor_parallel_size=size, max_batch_size=8
        )
        try:
            outputs.append(run(engine, *asked))
        finally:
            engine.shutdown(10)
    one, two = outputs
    unequal = 0
    for name in one:
        alone, together = one[name], two[name]
        pairs = zip(alone.token_ids, together.token_ids, alone.logprobs or (), strict=True)
        for mine, other, scored in pairs:
            if mine != other:  # the texts part here
                unequal += 1
                assert scored.top[0][1] - scored.top[1][1] < 0.5, name
                break
    print(f"{unequal} of {len(one)} texts part at a near tie")
    assert unequal < len(one)


def test_guides_and_a_sequence_without_a_possible_token(checkpoint: Callable[[str], Path]) -> None:
    outputs = []
    for size in (1, 2):
        settings = TorchSettings(device="cuda", dtype="float32", tensor_parallel_size=size, max_batch_size=4)
        engine = load(checkpoint("llama"), settings, lambda *_: None, vocabulary)
        sampling = SamplingParams(max_tokens=30, temperature=0)
        guided = GenerationRequest("guided", [5, 9, 7], sampling, guide=Guide("regex", "[a-z]{5,9}"))
        impossible = {"min_tokens": 2, "stop_token_ids": tuple(range(VOCAB)), "logprobs": 1}
        try:
            outputs.append(
                run(
                    engine,
                    guided,
                    request("impossible", [5, 6, 7], **impossible),
                    request("beside", [9, 8, 7], max_tokens=12, ignore_eos=True),
                )
            )
            assert engine.stats().kv_blocks_used == 0
        finally:
            engine.shutdown(10)
    one, two = outputs
    assert re.fullmatch(
        rb"[a-z]{5,9}", b"".join(vocabulary()[token] for token in two["guided"].token_ids if token > 2)
    )
    assert two["impossible"].finish_reason == "error"
    assert two["impossible"].token_ids == []
    for name in one:
        assert two[name].token_ids == one[name].token_ids, name


def test_fp8_is_close_to_that_of_one(tmp_path: Path) -> None:
    """Each rank quantizes its own part, with scales of its own, so only nearly the same numbers come out."""
    sizes = {**SIZES, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.05}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    directory = make_checkpoint(transformers.LlamaConfig(**sizes), tmp_path)
    scores = []
    for size, quantization in ((1, "none"), (1, "fp8"), (2, "fp8")):
        engine = make_engine(
            directory,
            device="cuda",
            dtype="bfloat16",
            quantization=quantization,
            tensor_parallel_size=size,
            max_batch_size=8,
        )
        try:
            asked = [
                request(str(i), ids, max_tokens=12, ignore_eos=True, prompt_logprobs=0)
                for i, ids in enumerate(prompts(8, 40, 90))
            ]
            found = run(engine, *asked)
        finally:
            engine.shutdown(10)
        assert all(len(one.token_ids) == 12 for one in found.values())
        each = [score for i in range(3) for score in found[str(i)].prompt_logprobs or () if score is not None]
        scores.append(torch.tensor([score.logprob for score in each]))
    exact, alone, together = scores
    assert (alone - exact).abs().mean() < 0.1
    assert (together - exact).abs().mean() < 0.1
    assert not torch.equal(together, exact)


def test_ranks_repeat_key_value_heads_that_are_fewer(tmp_path: Path) -> None:
    sizes = {**SIZES, "num_attention_heads": 8, "num_key_value_heads": 1}
    directory = make_checkpoint(transformers.LlamaConfig(**sizes), tmp_path)
    outputs = []
    for size in (1, 2):
        engine = make_engine(
            directory, device="cuda", tensor_parallel_size=size, max_num_tokens=64, max_batch_size=4
        )
        try:
            asked = [request(str(i), ids, max_tokens=24) for i, ids in enumerate(prompts(3, 40, 150))]
            outputs.append(run(engine, *asked))
        finally:
            engine.shutdown(10)
    one, two = outputs
    for name in one:
        assert two[name].token_ids == one[name].token_ids, name


GPUS = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
HOPPERS = all(gpu.major >= 9 and gpu.total_memory > 70e9 for gpu in GPUS[:2])
LLAMA_3_70B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
MOST_OF_70B = 48 * 10**9
"""Bytes on a GPU, also while it loads: 34 GB of fp8 weights, 3.2 GB of embedding and head, a layer in 16
bits, and what CUDA, NCCL, graphs and a small KV cache need. Half of the model in 16 bits would be 70 GB."""


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """Yield the most bytes in use on each of two GPUs so far, by all processes, looked at every 50 ms."""
    most, done = [0, 0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for device in range(2):
                free, total = torch.cuda.mem_get_info(device)
                most[device] = max(most[device], total - free)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not HOPPERS, reason="two GPUs of compute capability 9.0 and 80 GB")
def test_a_70b_shape_at_fp8_loads_and_streams(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_70B))
    gc.collect()
    torch.cuda.empty_cache()
    before = [torch.cuda.mem_get_info(device)[0] for device in range(2)]
    pieces: dict[str, list[list[int]]] = {"0": [], "1": []}
    began = time.monotonic()
    with watched_memory() as most:
        engine = make_engine(
            tmp_path,
            device="cuda",
            dtype="bfloat16",
            load_format="dummy",
            quantization="fp8",
            tensor_parallel_size=2,
            max_batch_size=4,
            max_num_tokens=512,
            kv_cache_tokens=8192,
        )
        loaded = time.monotonic()
        try:
            for name in pieces:
                engine.submit(request(name, [5, 9, 7] * (1 + 50 * int(name)), max_tokens=8, ignore_eos=True))
            running = set(pieces)
            while running:
                for output in engine.step(0.01):
                    pieces[output.request_id].append(output.token_ids)
                    if output.finish_reason is not None:
                        assert output.finish_reason == "length"
                        running.discard(output.request_id)
        finally:
            engine.shutdown(30)
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    print(f"loaded in {loaded - began:.0f} s; at most {most[0] / 1e9:.1f} and {most[1] / 1e9:.1f} GB in use")
    assert max(most) < MOST_OF_70B
    for made in pieces.values():
        assert sum(map(len, made)) == 8
        assert max(map(len, made)) == 1  # one at a time
    left = [first - torch.cuda.mem_get_info(device)[0] for device, first in enumerate(before)]
    pooled = torch.cuda.memory_reserved()
    print(
        f"left: {left[0] / 1e6:.0f} and {left[1] / 1e6:.0f} MB, of which {pooled / 1e6:.0f} in PyTorch's pool"
    )
    # The next engine may use what the pool keeps; of the rest CUDA's own remains.
    assert pooled < 2**30
    assert max(left[0] - pooled, left[1]) < 2**30


@pytest.mark.parametrize(
    ("protocol", "width"), [("tags", 72), ("tags", 4096), ("flags", 72), ("flags", 4096), ("nccl", 72)]
)
def test_exchange(tmp_path: Path, protocol: str, width: int) -> None:
    """Sums of random sizes, by themselves and in graphs, are NCCL's; so are norms and gathered logits.

    Variables: EXCHANGE_REPEATS, the number of sums; EXCHANGE_UNDER, a command that each rank is run under,
    and EXCHANGE_TIMEOUT, in seconds (`make test-gpu-sanitize`); EXCHANGE_SHAPE, the directory of a model.
    """
    vocabulary = {72: VOCAB, 4096: LLAMA_3_70B["vocab_size"]}[width]
    config = LLAMA_3_70B | {"hidden_size": width, "vocab_size": vocabulary}
    (tmp_path / "config.json").write_text(json.dumps(config))
    repeats = os.environ.get("EXCHANGE_REPEATS", "2000" if protocol == "nccl" else "5000")
    command = [
        *shlex.split(os.environ.get("EXCHANGE_UNDER", "")),
        sys.executable,
        str(Path(__file__).with_name("exchange_rank.py")),
    ]
    arguments = [
        str(tmp_path / "meeting"),
        os.environ.get("EXCHANGE_SHAPE", str(tmp_path)),
        repeats,
        protocol,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [
        subprocess.Popen([*command, str(rank), "2", *arguments], env=environment, start_new_session=True)
        for rank in range(2)
    ]
    deadline = time.monotonic() + float(os.environ.get("EXCHANGE_TIMEOUT", "240"))
    try:
        assert [process.wait(max(0.1, deadline - time.monotonic())) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it is run under
            process.wait()


def test_nothing_is_left_by_loads_and_shutdowns(checkpoint: Callable[[str], Path]) -> None:
    """GPU memory and processes after `LOADS` engines, compared with those after the first."""
    free: list[list[int]] = []
    for _ in range(int(os.environ.get("LOADS", "4"))):
        engine = make_engine(checkpoint("llama"), device="cuda", tensor_parallel_size=2, max_batch_size=4)
        assert engine._followers is not None
        followers = [process.pid for process in engine._followers.processes]
        try:
            run(engine, request("x", [5, 9, 7]))
        finally:
            engine.shutdown(10)
        del engine
        gc.collect()
        torch.cuda.empty_cache()
        assert not any(Path(f"/proc/{pid}").exists() for pid in followers)
        assert not any(list(Path("/dev/shm").glob(f"torch_{pid}_*")) for pid in followers)
        free.append([torch.cuda.mem_get_info(device)[0] for device in range(2)])
    for first, last in zip(free[0], free[-1], strict=True):
        assert first - last < 2**20 * len(free)


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
