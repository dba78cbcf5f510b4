"""The serve command before there is a server: its port. Files: tests/unit/test_cli.py."""

import pytest

from trtllm_openai.serve.command import bind


def test_a_taken_port() -> None:
    with bind("0.0.0.0", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            bind("0.0.0.0", port)
