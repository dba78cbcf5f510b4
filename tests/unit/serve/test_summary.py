"""What is said once the server is ready."""

import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.unit.api.served import engine_info
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.serve.command import bind
from trtllm_openai.serve.summary import KEY_VARIABLE, announce, rows, try_it, url_of
from trtllm_openai.text.tokenizer import Tokenizer


def test_facts(demo_tokenizer: Tokenizer) -> None:
    info = msgspec.structs.replace(
        engine_info(), kv_blocks=100, kv_block_size=16, max_num_tokens=64, tensor_parallel=2
    )
    settings = Settings(
        replicas=2,
        workers=3,
        served_model_name=["m", "alias"],
        torch={"quantization": "int8"},
        host="0.0.0.0",
    )
    assert rows(settings, "m", info, ChatFormat(demo_tokenizer, "auto", "auto")) == {
        "Model": "m, alias",
        "Engine": "fake (Fake), 2 replicas, 2 ranks each",
        "Device": "cpu",
        "Type": "bfloat16, weights in int8",
        "Context": "512 tokens",
        "KV cache": "room for 1,600 tokens in bfloat16, 3 full-length requests",
        "Batch": "8 requests at a time, 64 tokens a step",
        "Tools": "hermes",
        "Thinking": "none",
        "API keys": "none: whoever reaches the port may use it",
        "Workers": "3",
    }
    settings = Settings(torch={"kv_cache_dtype": "fp8"})
    fp8 = rows(settings, "m", info, ChatFormat(demo_tokenizer, "none", "none"))
    assert fp8["KV cache"] == "room for 1,600 tokens in fp8, 3 full-length requests"
    few = rows(Settings(api_key="sk-secret"), "m", engine_info(), ChatFormat(demo_tokenizer, "none", "none"))
    assert few["API keys"] == "1, send one as Authorization: Bearer KEY"
    assert "KV cache" not in few, "an engine that does not say"
    assert (
        "programs of this machine"
        in rows(Settings(), "m", info, ChatFormat(demo_tokenizer, "none", "none"))["API keys"]
    )


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")])
def test_the_address(host: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with bind(host, 0) as listener:
        url = url_of(listener, Settings())
        assert url == f"http://{shown}:{listener.getsockname()[1]}"
    announce(url, "m", {"Engine": "e"}, Settings())
    said = capsys.readouterr().out
    assert f"m is ready on {url}\n" in said
    assert "  Engine  e\n" in said


def test_the_command_sends_the_key_and_does_not_show_it(tmp_path: Path) -> None:
    """It runs as printed, against a socket that records what it sends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = url_of(listener, Settings())
        command = try_it(url, "it's", Settings(api_key="sk-secret"))
        assert "sk-secret" not in command
        process = subprocess.Popen(
            ["bash", "-c", f"{command} --silent --max-time 20"],
            env={KEY_VARIABLE: "sk-secret", "PATH": "/usr/bin:/bin"},
        )
        connection, _ = listener.accept()
        with connection:
            sent = b""
            while b"}]}" not in sent:
                sent += connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        assert process.wait(20) == 0
    assert b"POST /v1/chat/completions" in sent
    assert b"authorization: Bearer sk-secret" in sent
    assert b'"model": "it\'s"' in sent
