"""Random ids for requests and responses."""

import random


def new_id() -> str:
    """A unique id of 32 hexadecimal digits. Not a secret; unlike uuid4 it needs no system call."""
    return f"{random.getrandbits(128):032x}"
