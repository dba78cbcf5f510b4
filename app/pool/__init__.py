"""The ModelRunner processes as seen from the HTTP side, and who may wait for them."""

from app.pool.admission import Admission, Overloaded, Ticket
from app.pool.board import Board
from app.pool.generation import Generation
from app.pool.pool import PoolError, PoolStatus, RunnerPool, ShuttingDown

__all__ = [
    "Admission",
    "Board",
    "Generation",
    "Overloaded",
    "PoolError",
    "PoolStatus",
    "RunnerPool",
    "ShuttingDown",
    "Ticket",
]
