"""Names for what comes and goes with a request."""

import random


def new_id() -> str:
    """32 hexadecimal digits that nothing else has; no secret, and unlike a UUID without a system call."""
    return f"{random.getrandbits(128):032x}"
