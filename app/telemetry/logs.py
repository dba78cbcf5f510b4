"""Logging set-up, the same for every process of the server."""

from __future__ import annotations

import logging


def setup_logging(level: str, process: str) -> None:
    """Log to standard error, one line a record: time, level, process, logger, message."""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s",
        force=True,
    )
    for noisy in ("httpx", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
