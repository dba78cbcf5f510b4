"""The ModelRunner processes as seen from the HTTP side, and who may wait for them."""

from app.pool.admission import Admission, Overloaded, Ticket
from app.pool.board import Board
from app.pool.generation import Generation
from app.pool.pool import RunnerPool
from app.pool.sequences import PoolError, SequencePool, ShuttingDown
from app.pool.state import PoolStatus

__all__ = [
    "Admission",
    "Board",
    "Generation",
    "Overloaded",
    "PoolError",
    "PoolStatus",
    "RunnerPool",
    "SequencePool",
    "ShuttingDown",
    "Ticket",
]
