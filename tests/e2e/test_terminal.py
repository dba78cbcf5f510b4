"""The command line at a terminal: what is shown while a server starts, serves and stops."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve
from tests.e2e.terminal import run

SERVE = ("serve", "--engine", "synthetic", "--port", "0", "--log-level", "warning")
SCRIPT = "--synthetic.script"


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
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


def test_chat_streams_and_takes_commands(tmp_path: Path) -> None:
    thinking = "<think>\nhm\x1b[31m\n</think>\n\nSeoul."
    settings = {"synthetic": {"ttft": 0, "itl": 0, "script": [thinking, "Again.", "Edited.", "Loaded."]}}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**settings, "reasoning_parser": "think", "served_model_name": ["m", "n"]}))
    env = {"XDG_STATE_HOME": str(tmp_path), "TRTLLM_OPENAI_API_KEY": ""}
    with (
        serve("--config", str(config), "--engine", "synthetic", "--api-key", "sk-x") as server,
        run("chat", "--url", server.url, "--api-key", "sk-x", "--system", "Be brief.", env=env) as terminal,
    ):
        terminal.wait_for(rf"m on {server.url}\. /help lists commands")
        terminal.wait_for("> $")
        terminal.type("Where?\n")
        terminal.wait_for(r"hm\[31m\n+Seoul\.\n")  # the escape character itself is not printed
        terminal.wait_for(r"first token after \d+\.\d\d s")
        for typed, shown in (
            ("/retry\n", r"Again\.\n"),
            ("/edit Who?\n", r"Edited\.\n"),
            (f"/save {tmp_path / 'talk.json'}\n", "> $"),
            ("/clear\n", "> $"),
            ("/retry\n", r"Nothing was asked yet\."),
            (f"/load {tmp_path / 'talk.json'}\n", "2 messages"),
            ("/model n\n", r"  m\n\* n\n"),
            ("/model x\n", "The server has no model x; it has m, n"),
            ("/params temperature=9\n", r'\{"temperature": 9\}'),
            ("More\n", r"The server answered 400: .*temperature"),
            ("/params temperature=null\n", r"\{\}"),
            ("/sing\n", "There is no /sing; /help lists"),
            ("/sytem\n", r"There is no /sytem; did you mean /system\?"),
            ("/help\n", r"/edit \[TEXT\] +change the last message"),
            ('"""two\n', "… $"),
            ('lines"""\n', r"Loaded\.\n"),
        ):
            terminal.type(typed)
            terminal.wait_for(shown)
        terminal.type("/exit\n")
        assert terminal.wait() == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["system"] == "Be brief."
    assert [one["content"] for one in saved["messages"]] == ["Who?", "Edited."]
    history = tmp_path / "trtllm-openai" / "chat_history"
    assert "Where?" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_chat_answers_a_pipe_and_says_what_is_wrong(synthetic: RunningServer) -> None:
    def chat(*flags: str, text: str = "Hello") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trtllm_openai", "chat", *flags]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    done = chat("--url", f"{synthetic.url}/v1", "--max-tokens", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")
    refused = chat("--url", synthetic.url, "--model", "x", "Hi")
    assert refused.returncode == 1
    assert refused.stderr.startswith("trtllm-openai: The server answered 404: The model 'x' does not exist")
    nobody = chat("--url", "http://127.0.0.1:1", "Hi")
    assert nobody.returncode == 1
    assert nobody.stderr == (
        "trtllm-openai: The server at http://127.0.0.1:1 cannot be asked: Connection refused. "
        "`trtllm-openai serve` starts one; --url names another.\n"
    )
