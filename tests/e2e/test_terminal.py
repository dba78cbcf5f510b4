"""The command line at a terminal: what is shown while a server starts, serves and stops."""

import threading

import httpx
import pytest

from tests.e2e.terminal import run

SERVE = ("serve", "--engine", "synthetic", "--port", "0", "--log-level", "warning")
SCRIPT = "--synthetic.script"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_shows_its_loading_a_summary_and_what_ctrl_c_does(workers: str) -> None:
    slow = ("--synthetic.load-time", "1", "--synthetic.itl", "0.5", "--workers", workers)
    with run(*SERVE, *slow, env={"TRTLLM_OPENAI_API_KEY": "sk-x"}) as terminal:
        terminal.wait_for(r"\[#+\.+\] +\d+%  simulating a load, about \d+ s left")
        terminal.wait_for(r"simulating a load +\d+\.\d s")
        url = terminal.wait_for(r"is ready on (http://\S+)")[1]
        terminal.wait_for(r"Context +8,192 tokens")
        terminal.wait_for(r"API keys +1, ")
        terminal.wait_for(rf"Workers +{workers}")
        terminal.wait_for(rf"curl {url}/v1/chat/completions .*Bearer \$TRTLLM_OPENAI_API_KEY")
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "ignore_eos": True}
        begun = threading.Event()
        told: list[httpx.Response] = []

        def ask() -> None:
            with httpx.Client(base_url=url, headers={"x-api-key": "sk-x"}, timeout=60) as client:
                with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
                    for line in answer.iter_lines():
                        if '"content"' in line:
                            begun.set()
                told.append(answer)

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(60)
        terminal.type("\x03")
        terminal.wait_for(
            r"Stopping: up to 30 s for (1 request|running requests) to finish. Ctrl-C again ends now."
        )
        assert terminal.wait() == 0
        asking.join(60)
        assert told[0].status_code == 200
        for word in ("warning", "Warning", "WARNING", "ERROR", "Traceback"):
            assert word not in terminal.screen


def test_a_second_ctrl_c_ends_serve_at_once() -> None:
    with run(*SERVE, "--synthetic.itl", "5", SCRIPT, "one two", "--drain-timeout", "600") as terminal:
        url = terminal.wait_for(r"is ready on (http://\S+)")[1]
        with httpx.Client(base_url=url, timeout=60) as client:
            body = {"prompt": "Hi", "max_tokens": 100, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                lines = answer.iter_lines()
                assert '"one' in next(lines)
                terminal.type("\x03")
                terminal.wait_for("Stopping: up to 600 s for 1 request to finish")
                terminal.type("\x03")
                terminal.wait_for("interrupting 1 request\n")
                assert "The server is shutting down" in "".join(lines)
        assert terminal.wait() == 0


def test_ctrl_c_while_it_loads_ends_it() -> None:
    with run(*SERVE, "--synthetic.load-time", "600") as terminal:
        terminal.wait_for("simulating a load")
        terminal.type("\x03")
        terminal.wait_for("Stopping: no request is running")
        assert terminal.wait() == 0


def test_ctrl_c_ends_other_commands_with_130() -> None:
    with run(
        "generate", "--engine", "synthetic", "--synthetic.itl", "5", SCRIPT, "one two", "Hi"
    ) as terminal:
        terminal.wait_for("one")
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.screen
