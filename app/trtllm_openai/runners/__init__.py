"""The ModelRunner processes as seen from the HTTP side, and who may wait for them."""

from trtllm_openai.runners.admission import Admission, Ticket
from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.pool import RunnerPool
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.runners.state import PoolStatus
from trtllm_openai.runners.tenants import NOBODY, Tenant

__all__ = [
    "NOBODY",
    "Admission",
    "Generation",
    "PoolStatus",
    "RunnerPool",
    "SequencePool",
    "SharedCounters",
    "Tenant",
    "Ticket",
]
