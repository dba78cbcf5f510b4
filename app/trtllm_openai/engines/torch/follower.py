"""`python -m trtllm_openai.engines.torch.follower`: a tensor-parallel rank other than rank 0.

Computes the steps that rank 0 writes to its standard input (`followers.py`), until end of file.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.executor import EagerExecutor, Executor
from trtllm_openai.engines.torch.followers import Join, Part, Step
from trtllm_openai.engines.torch.loader import load_rank
from trtllm_openai.engines.torch.parallel import Ranks
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams
from trtllm_openai.processes.framing import read_framed
from trtllm_openai.telemetry.logs import setup_logging


def follow(source: BinaryIO) -> None:
    """Join as the rank that the first message assigns, and compute steps until `source` ends."""
    told = msgspec.msgpack.decode(read_framed(source.read), type=Join)
    setup_logging(told.log_level, process=f"rank {told.rank}")
    ranks = Ranks(told.rank, told.size)
    settings = TorchSettings.model_validate(told.settings)
    steps: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(source, steps), daemon=True).start()
    own = load_rank(Path(told.model_dir), settings, lambda *_: None, ranks, Path(told.meeting))
    if not isinstance(own.executor, EagerExecutor):
        _follow_on_gpu(own.executor, told.plans)
        return
    os.close(told.plans)
    decoder = msgspec.msgpack.Decoder(Step)
    with torch.inference_mode():
        while True:
            own.executor.follow(_plan(decoder.decode(steps.get())))


def _follow_on_gpu(executor: Executor, plans: int) -> None:
    from trtllm_openai.engines.torch.cuda.executor import CudaExecutor

    assert isinstance(executor, CudaExecutor)
    executor.share(plans)
    with torch.inference_mode():
        while True:
            executor.follow()


def _plan(step: Step) -> Plan:
    plan = Plan([_sequence(part) for part in step.decode])
    plan.prefill = [Chunk(_sequence(part), part.start, part.length) for part in step.prefill]
    return plan


def _sequence(part: Part) -> Sequence:
    """Rebuild a sequence with just the fields that the step reads."""
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0 if part.scored else None)
    sequence = Sequence(GenerationRequest("", [0] * part.start + part.tokens, sampling))
    sequence.computed, sequence.blocks = part.start, part.blocks
    sequence.prefill_end, sequence.prompt_tokens = part.prefill_end, part.prompt_tokens
    return sequence


def _receive(source: BinaryIO, steps: queue.SimpleQueue[bytes]) -> None:
    """Read steps in a thread: if rank 0 dies, the computation may hang; end of file ends the process."""
    with contextlib.suppress(EOFError):
        while True:
            steps.put(read_framed(source.read))
    os._exit(0)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # rank 0 handles signals and ends this process
        signal.signal(number, signal.SIG_IGN)
    follow(sys.stdin.buffer)
