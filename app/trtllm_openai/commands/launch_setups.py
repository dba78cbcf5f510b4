"""What each tool needs to be told of a server: files, environment variables and the command that starts it.

`make conformance` drives the coding agents with them (`tests/conformance/coding_agents.py`).
Nothing of the user's own configuration is changed: files go to a directory of ours, which a variable or
flag points at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NO_KEY = "none"
"""The key of a server that asks for none: most tools want one."""


@dataclass(frozen=True, slots=True)
class Server:
    """`url` without /v1; `context` in tokens, 0 if the server does not say."""

    url: str
    key: str
    model: str
    context: int = 0


@dataclass(frozen=True, slots=True)
class Setup:
    """`files` by name, of the directory that the tool is given. `install`: how to get the tool.

    `secret` are the variables that hold the key.
    """

    command: tuple[str, ...]
    install: str
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    secret: tuple[str, ...] = ()


def codex(server: Server, directory: Path) -> Setup:
    """OpenAI's Codex, over /v1/responses."""
    text = f"""model = {json.dumps(server.model)}
model_provider = "here"
{f"model_context_window = {server.context}" if server.context else ""}
[model_providers.here]
name = "trtllm-openai"
base_url = {json.dumps(server.url + "/v1")}
wire_api = "responses"
env_key = "TRTLLM_OPENAI_API_KEY"
"""
    return Setup(
        ("codex",),
        "npm install -g @openai/codex",
        {"CODEX_HOME": str(directory), "TRTLLM_OPENAI_API_KEY": server.key},
        {"config.toml": text},
        ("TRTLLM_OPENAI_API_KEY",),
    )


def claude(server: Server, directory: Path) -> Setup:
    """Anthropic's Claude Code, over /v1/messages."""
    environment = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": server.key,
        "ANTHROPIC_MODEL": server.model,
        "ANTHROPIC_SMALL_FAST_MODEL": server.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    install = "npm install -g @anthropic-ai/claude-code"
    return Setup(("claude",), install, environment, secret=("ANTHROPIC_AUTH_TOKEN",))


def opencode(server: Server, directory: Path) -> Setup:
    """opencode, over chat completions."""
    known: dict[str, object] = {"name": server.model, "tool_call": True}
    if server.context:
        known["limit"] = {"context": server.context, "output": min(8192, server.context // 2)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "trtllm-openai",
        "options": {"baseURL": f"{server.url}/v1", "apiKey": "{env:TRTLLM_OPENAI_API_KEY}"},
        "models": {server.model: known},
    }
    config = {"model": f"here/{server.model}", "provider": {"here": provider}}
    environment = {
        "OPENCODE_CONFIG": str(directory / "opencode.json"),
        "TRTLLM_OPENAI_API_KEY": server.key,
    }
    return Setup(
        ("opencode",),
        "npm install -g opencode-ai",
        environment,
        {"opencode.json": json.dumps(config, indent=2) + "\n"},
        ("TRTLLM_OPENAI_API_KEY",),
    )


def aider(server: Server, directory: Path) -> Setup:
    """aider, over chat completions."""
    command = ("aider", "--model", f"openai/{server.model}", "--no-show-model-warnings")
    environment = {"OPENAI_API_BASE": f"{server.url}/v1", "OPENAI_API_KEY": server.key}
    return Setup(command, "pip install aider-chat", environment, secret=("OPENAI_API_KEY",))


def open_webui(server: Server, directory: Path) -> Setup:
    """Open WebUI, with its data in a directory of its own."""
    environment = {
        "OPENAI_API_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": server.key,
        "ENABLE_OLLAMA_API": "false",
        "DATA_DIR": str(directory),
    }
    command = ("open-webui", "serve", "--port", "8080")
    return Setup(command, "pip install open-webui", environment, secret=("OPENAI_API_KEY",))


TOOLS: dict[str, Callable[[Server, Path], Setup]] = {
    "codex": codex,
    "claude": claude,
    "opencode": opencode,
    "aider": aider,
    "open-webui": open_webui,
}
