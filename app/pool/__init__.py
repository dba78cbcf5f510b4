"""The pool of ModelRunners as the HTTP side sees it: start, route, stream, abort."""

from app.pool.generation import Generation
from app.pool.pool import PoolError, PoolStatus, RunnerPool

__all__ = ["Generation", "PoolError", "PoolStatus", "RunnerPool"]
