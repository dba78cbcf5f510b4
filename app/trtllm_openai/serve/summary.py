"""What `serve` says once it is ready: the address, what is served how, and a command to try it."""

from __future__ import annotations

import json
import shlex
import socket
import sys

from trtllm_openai.api.auth import keys_of
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.generation import EngineInfo
from trtllm_openai.serve.uvicorn import print_safely

QUESTION = "What is the capital of South Korea?"
KEY_VARIABLE = "TRTLLM_OPENAI_API_KEY"
"""Environment variable from which the command takes the key: it is not printed, as output ends up in logs."""
LOCAL = ("127.0.0.1", "::1", "localhost")


def url_of(listener: socket.socket, settings: Settings) -> str:
    """The server's URL, as a client of this machine uses it."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if settings.tls_certificate else 'http'}://{shown}:{port}"


def rows(settings: Settings, model_id: str, info: EngineInfo, chat: ChatFormat) -> dict[str, str]:
    """The facts by name, in order. Sizes of caches and batches are those of one replica."""
    ranks = info.tensor_parallel * info.pipeline_parallel
    replicas = settings.replica_range
    number = str(replicas.max) if replicas.fixed else f"{replicas.min} to {replicas.max}"
    parts = [f"{number} replicas" if replicas.max > 1 else ""]
    parts += [f"{ranks} ranks each" if ranks > 1 else ""]
    found = {
        "Model": ", ".join([model_id, *settings.aliases, *settings.adapters]),
        "Engine": ", ".join([f"{info.engine} ({info.architecture})", *filter(None, parts)]),
        "Device": info.device,
        "Type": info.dtype + _quantized(settings),
        "Context": f"{info.max_seq_len:,} tokens",
    }
    if tokens := info.kv_blocks * info.kv_block_size:
        full = tokens // info.max_seq_len
        found["KV cache"] = (
            f"room for {tokens:,} tokens{_kv_type(settings, info)}, {full:,} full-length requests"
        )
    found["Batch"] = f"{info.max_batch_size:,} requests at a time"
    if info.max_num_tokens:
        found["Batch"] += f", {info.max_num_tokens:,} tokens a step"
    found["Tools"] = chat.tool_format or "none"
    found["Thinking"] = chat.reasoning_format or "none"
    found["API keys"] = _keys(settings)
    found["Workers"] = str(settings.http_workers)
    return found


def announce(url: str, model_id: str, facts: dict[str, str], settings: Settings) -> None:
    """Print the summary to standard output: a panel on a terminal, else plain lines."""
    ready = f"{model_id} is ready on {url}"
    command = try_it(url, model_id, settings)
    if sys.stdout.isatty():
        _panel(ready, facts)
        print_safely(f"\nTry it:\n  {command}\n\nCtrl-C stops it.", sys.stdout)
        return
    width = max(map(len, facts))
    lines = "\n".join(f"  {name:{width}}  {fact}" for name, fact in facts.items())
    print_safely(f"\n{ready}\n\n{lines}\n\nTry it:\n  {command}\n", sys.stdout)


def try_it(url: str, model_id: str, settings: Settings) -> str:
    """A curl command that chats with the server, with its key if it asks for one."""
    body = json.dumps({"model": model_id, "messages": [{"role": "user", "content": QUESTION}]})
    words = [f"curl {url}/v1/chat/completions", "-H 'content-type: application/json'"]
    if settings.api_key or settings.api_keys_file:
        words.append(f'-H "authorization: Bearer ${KEY_VARIABLE}"')
    if settings.tls_certificate:
        words.append(f"--cacert {shlex.quote(settings.tls_certificate)}")
    return " ".join([*words, f"-d {shlex.quote(body)}"])


def _panel(title: str, facts: dict[str, str]) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(Text(name, style="dim"), Text(fact))
    try:
        Console().print(Panel(grid, title=Text(title, style="bold"), title_align="left", expand=False))
    except OSError:
        return  # a closed terminal must not stop the server


def _quantized(settings: Settings) -> str:
    if settings.engine == "torch" and settings.torch.quantization != "none":
        return f", weights in {settings.torch.quantization}"
    return ""


def _kv_type(settings: Settings, info: EngineInfo) -> str:
    if settings.engine != "torch":
        return ""  # it is not known
    return f" in {info.dtype if settings.torch.kv_cache_dtype == 'auto' else settings.torch.kv_cache_dtype}"


def _keys(settings: Settings) -> str:
    keys = keys_of(settings)
    if keys is not None:
        return f"{len(keys)}, send one as Authorization: Bearer KEY"
    if settings.host in LOCAL:
        return "none: programs of this machine may use it"
    return "none: whoever reaches the port may use it"
