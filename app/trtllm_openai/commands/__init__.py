"""The verbs of the command line, one module each, with a `Verb` called `command` (see `verb`).

A verb's callback does the work and returns the exit status. It raises `ConfigError`, `CheckpointError`,
`InvalidRequest` or click's `UsageError`; `cli.main` turns them into a message and an exit status. A module
imports what is slow to import (pydantic, FastAPI, torch) in its functions: `--help` must stay quick.
"""

from __future__ import annotations

PROGRAM = "trtllm-openai"
SUMMARIES = {
    "serve": "serve a model over HTTP",
    "chat": "talk to a server in the terminal",
    "generate": "complete one prompt, without a server",
    "launch": "set up and start a coding agent or web page on a server",
    "doctor": "check that this machine can serve the configured model",
    "inspect": "show what a checkpoint or engine is, and the memory it needs",
    "key": "create an API key",
    "bench": "load-test any OpenAI-compatible server",
    "completion": "print the completion script of a shell",
}
"""Every verb with its line in `trtllm-openai --help`; its module has the same name."""
