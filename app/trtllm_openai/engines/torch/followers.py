"""The other ranks of a tensor-parallel engine, as rank 0 sees them: processes that compute what it says.

It writes to each one's standard input (`follower.py` reads it): first what to load, then every step. The end
of that pipe ends a follower, and a follower that ends by itself ends rank 0, so that no rank is ever alone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

import trtllm_openai
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch import plan_channel
from trtllm_openai.engines.torch.executor import EagerExecutor, Executor
from trtllm_openai.engines.torch.parallel import Ranks
from trtllm_openai.engines.torch.scheduler import Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.processes.framing import framed

log = logging.getLogger(__name__)

LAST_WORDS = 1.0
"""Seconds in which rank 0 can say by itself what went wrong, once a follower has ended."""


WATCH_INTERVAL_S = 0.25


class Join(msgspec.Struct):
    """What a follower loads, and the file over which the ranks find each other."""

    rank: int
    size: int
    meeting: str
    model_dir: str
    settings: dict[str, object]
    log_level: str
    plans: int
    """File descriptor of the shared memory for `PlanChannel`."""


class Part(msgspec.Struct, array_like=True):
    """Tokens of one sequence from position `start` on, of which a step computes `length`, and its blocks."""

    start: int
    length: int
    tokens: list[int]
    blocks: list[int]
    prefill_end: int
    prompt_tokens: int
    scored: bool


class Step(msgspec.Struct, array_like=True):
    """A plan, as far as followers need it."""

    decode: list[Part]
    prefill: list[Part]


@dataclass(slots=True)
class Followers:
    """Rank 0's hold on the others."""

    processes: list[subprocess.Popen[bytes]]
    folder: tempfile.TemporaryDirectory[str]
    plans: int
    """File descriptor of the shared memory for `PlanChannel`."""
    ending: bool = False
    by_channel: bool = False

    def share(self, executor: Executor) -> None:
        """On GPUs the executor itself tells the others, through shared memory."""
        if not isinstance(executor, EagerExecutor):
            executor.share(self.plans)  # type: ignore[attr-defined]
            self.by_channel = True

    def compute(self, plan: Plan) -> None:
        """Have the others compute `plan`, too."""
        if self.by_channel:
            return
        step = Step(
            [_part(sequence, sequence.computed, 1) for sequence in plan.decode],
            [_part(chunk.sequence, chunk.start, chunk.length) for chunk in plan.prefill],
        )
        body = msgspec.msgpack.encode(step)
        for process in self.processes:
            _write(process, body)

    def end(self, patience: float) -> None:
        """End them: politely, then, after `patience` seconds, by force."""
        self.ending = True
        deadline = time.monotonic() + patience
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
        if not self.by_channel:
            self.by_channel = True
            os.close(self.plans)
        self.folder.cleanup()

    def watch(self, process: subprocess.Popen[bytes], rank: int) -> None:
        """Wait for a follower's end, and end this process unless it was meant to."""
        while True:
            try:
                status = process.wait(WATCH_INTERVAL_S)
            except subprocess.TimeoutExpired:
                if self.ending or not _stopped(process.pid):
                    continue
                log.error("rank %d (process %d) was stopped: all ranks end", rank, process.pid)
                process.kill()
                os._exit(1)
            break
        if self.ending:
            return
        log.error("rank %d ended with status %d", rank, status)
        time.sleep(LAST_WORDS)
        if not self.ending:
            os._exit(1)


def start_followers(model_dir: Path, settings: TorchSettings) -> Followers:
    """Start ranks 1 and up; the group of all ranks is formed by `join`."""
    folder = tempfile.TemporaryDirectory(prefix="ranks-")
    followers = Followers([], folder, plan_channel.create())
    environment = dict(os.environ)
    root = str(Path(trtllm_openai.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
    for rank in range(1, settings.tensor_parallel_size):
        process = subprocess.Popen(
            [sys.executable, "-m", "trtllm_openai.engines.torch.follower"],
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=(followers.plans,),
        )
        followers.processes.append(process)
        message = Join(
            rank,
            settings.tensor_parallel_size,
            str(meeting(followers)),
            str(model_dir),
            settings.model_dump(mode="json"),
            level,
            followers.plans,
        )
        _write(process, msgspec.msgpack.encode(message))
        threading.Thread(target=followers.watch, args=(process, rank), daemon=True).start()
    return followers


def meeting(followers: Followers) -> Path:
    """The file over which the ranks find each other."""
    return Path(followers.folder.name) / "meeting"


def join(ranks: Ranks, at: Path, device: torch.device) -> None:
    """Form the group of all ranks; returns when every one is there."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=at.as_uri(),
        rank=ranks.rank,
        world_size=ranks.size,
    )


def _part(sequence: Sequence, start: int, length: int) -> Part:
    return Part(
        start,
        length,
        sequence.tokens[start : start + length + 1],
        sequence.blocks,
        sequence.prefill_end,
        sequence.prompt_tokens,
        sequence.prompt_logprobs is not None,
    )


def _write(process: subprocess.Popen[bytes], body: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(framed(body))
    process.stdin.flush()


def _stopped(pid: int) -> bool:
    """Whether a signal stopped the process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False
