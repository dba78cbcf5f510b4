"""Rank 0's management of the other tensor-parallel ranks: child processes that compute its steps.

Rank 0 writes to the standard input of each follower (`follower.py` reads it): first the model to load, then
every step. A follower exits when that pipe closes, and rank 0 exits when a follower exits unexpectedly, so no
rank is orphaned.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import torch
import torch.distributed as dist

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch import plan_channel
from trtllm_openai.engines.torch.executor import EagerExecutor, Executor
from trtllm_openai.engines.torch.parallel import Ranks
from trtllm_openai.engines.torch.plan import Plan
from trtllm_openai.engines.torch.plan_channel import PlanChannel
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.processes.environment import child_environment, module
from trtllm_openai.processes.framing import framed

log = logging.getLogger(__name__)

EXIT_GRACE_S = 1.0
"""After a follower exits, time for rank 0 to report the error itself before it is terminated."""
WATCH_INTERVAL_S = 0.25
SHARED_MEMORY = Path("/dev/shm")
HANG_S = 5.0
"""Time that a follower may leave a step unreceived: longer than it may compile a kernel that rank 0 has
already."""


class Join(msgspec.Struct):
    """First message to a follower: the model to load and the rendezvous file of the ranks."""

    rank: int
    size: int
    meeting: str
    model_dir: str
    settings: dict[str, object]
    log_level: str
    plans: int
    """File descriptor of the shared memory for `PlanChannel`."""


class Part(msgspec.Struct, array_like=True):
    """Part of a sequence: `length` tokens to compute from position `start`, and all of its block ids."""

    start: int
    length: int
    tokens: list[int]
    blocks: list[int]
    prefill_end: int
    prompt_tokens: int
    scored: bool


class Step(msgspec.Struct, array_like=True):
    """The part of a plan that followers need."""

    decode: list[Part]
    prefill: list[Part]


@dataclass(slots=True)
class Followers:
    """Rank 0's handle on the follower processes."""

    processes: list[subprocess.Popen[bytes]]
    folder: tempfile.TemporaryDirectory[str]
    plans: int
    """File descriptor of the shared memory for `PlanChannel`."""
    ending: bool = False
    channel: PlanChannel | None = None
    """On GPUs; it then owns `plans`."""

    def share(self, executor: Executor) -> None:
        """On GPUs, hand the shared memory to the executor, which sends steps to the followers itself."""
        if not isinstance(executor, EagerExecutor):
            self.channel = executor.share(self.plans)  # type: ignore[attr-defined]

    def compute(self, plan: Plan) -> None:
        """Send `plan` to the followers, unless the executor sends steps itself."""
        if self.channel is not None:
            return
        step = Step(
            [_part(sequence, sequence.computed, 1) for sequence in plan.decode],
            [_part(chunk.sequence, chunk.start, chunk.length) for chunk in plan.prefill],
        )
        body = msgspec.msgpack.encode(step)
        for process in self.processes:
            _write(process, body)

    def end(self, timeout_s: float) -> None:
        """Close the followers' standard input; kill those still running after `timeout_s` seconds."""
        self.ending = True
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _remove_counters(process.pid)
        if dist.is_initialized():
            dist.destroy_process_group()
        if self.channel is None and self.plans >= 0:
            os.close(self.plans)
            self.plans = -1
        self.folder.cleanup()

    def watch(self, process: subprocess.Popen[bytes], rank: int) -> None:
        """Wait for a follower to exit, stop or hang, and exit this process too unless `end` was called."""
        awaited, looks = 0, 0
        while True:
            try:
                status = process.wait(WATCH_INTERVAL_S)
            except subprocess.TimeoutExpired:
                if self.ending:
                    continue
                if _stopped(process.pid):
                    self._give_up(process, rank, "was stopped by a signal")
                step = 0 if self.channel is None else self.channel.awaited(rank)
                # Looks are counted, since time also passes while the whole machine is suspended.
                awaited, looks = step, looks + 1 if step and step == awaited else 0
                if looks * WATCH_INTERVAL_S >= HANG_S:
                    self._give_up(process, rank, f"has not received a step for {HANG_S:g} seconds")
                continue
            break
        if self.ending:
            return
        _remove_counters(process.pid)
        log.error("rank %d exited with status %d", rank, status)
        time.sleep(EXIT_GRACE_S)
        if not self.ending:
            os._exit(1)

    def _give_up(self, process: subprocess.Popen[bytes], rank: int, why: str) -> NoReturn:
        log.error("rank %d (process %d) %s: all ranks exit", rank, process.pid, why)
        process.kill()
        _remove_counters(process.pid)
        os._exit(1)


def start_followers(model_dir: Path, settings: TorchSettings) -> Followers:
    """Start ranks 1 and up. `join` then forms the process group of all ranks."""
    folder = tempfile.TemporaryDirectory(prefix="ranks-")
    followers = Followers([], folder, plan_channel.create())
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
    for rank in range(1, settings.tensor_parallel_size):
        process = subprocess.Popen(
            module("trtllm_openai.engines.torch.follower"),
            stdin=subprocess.PIPE,
            env=child_environment(),
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
    """Return the path of the rendezvous file for `init_process_group`."""
    return Path(followers.folder.name) / "meeting"


def join(ranks: Ranks, at: Path, device: torch.device) -> None:
    """Form the process group of all ranks; returns once every rank has joined."""
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


def _remove_counters(pid: int) -> None:
    """Remove the files in which PyTorch counts readers of a process's GPU memory; a follower leaves them."""
    for path in SHARED_MEMORY.glob(f"torch_{pid}_*"):
        path.unlink(missing_ok=True)


def _stopped(pid: int) -> bool:
    """Whether the process is stopped (SIGSTOP or a debugger)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False
