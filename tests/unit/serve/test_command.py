"""The serve command before there is a server: port and announcement. Files: tests/unit/test_cli.py."""

import pytest

from trtllm_openai.api.context import Readiness
from trtllm_openai.config import Settings
from trtllm_openai.serve.command import ProgressDisplay, announce, bind


def test_a_taken_port_and_the_address_that_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with bind("0.0.0.0", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            bind("0.0.0.0", port)
        announce(listener, Settings(engine="synthetic"), "m")
    assert f"m is ready on http://127.0.0.1:{port}\n" in capsys.readouterr().out


def test_progress_is_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    display = ProgressDisplay()
    for progress in (0.0, 0.05, 0.31, 0.35, 1.0):
        display.update(Readiness(False, "weights", progress))
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["0%", "31%", "100%"]
