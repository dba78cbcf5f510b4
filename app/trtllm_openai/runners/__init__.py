"""The ModelRunner processes as seen from the HTTP side, and who may wait for them."""

from trtllm_openai.runners.admission import Admission, Ticket
from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.pool import RunnerPool
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.runners.state import PoolStatus

__all__ = [
    "Admission",
    "Generation",
    "PoolStatus",
    "RunnerPool",
    "SequencePool",
    "SharedCounters",
    "Ticket",
]
