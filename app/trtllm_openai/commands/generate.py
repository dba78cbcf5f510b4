"""`generate`: complete one prompt on the configured engine, without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from trtllm_openai.commands.verb import CONFIG, Described, Verb, settings_of
from trtllm_openai.errors import ConfigError

NAMES = ("max_tokens", "temperature", "top_p", "top_k", "seed")
"""Sampling parameters that have a flag."""


def run(
    words: str | None, prompt: str | None, schema: str | None, stream: bool, config: str | None, **given: Any
) -> int:
    """Print the completion. Raises `CheckpointError`, `ConfigError` or `InvalidRequest`."""
    context = click.get_current_context()
    if words is not None and prompt is not None:
        raise click.UsageError("the prompt is given twice", context)
    text = words if words is not None else prompt
    if text is None and sys.stdin.isatty():
        raise click.UsageError("there is no prompt: give one, or pipe it in", context)
    if text is None or text == "-":
        text = sys.stdin.read()
    settings = settings_of(context, config)
    from trtllm_openai.commands.completing import generate
    from trtllm_openai.generation.parameters import BY_NAME

    sampling = {name: value for name in NAMES if (value := given[name]) is not None}
    for name, value in sampling.items():
        if fault := BY_NAME[name].fault(value):
            raise ConfigError(f"--{name.replace('_', '-')} {fault}")
    if given["max_tokens"] == 0:
        raise ConfigError("--max-tokens must be at least 1")
    return generate(
        settings, text, sampling, schema=None if schema is None else read_schema(schema), stream=stream
    )


def read_schema(text: str) -> dict[str, Any]:
    """A JSON schema as the flag has it, or the file that holds it. Raises `ConfigError`."""
    try:
        value = json.loads(
            text if text.lstrip().startswith("{") else Path(text).expanduser().read_text("utf-8")
        )
    except OSError as error:
        raise ConfigError(f"--json: {text} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--json: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError("--json: must be a JSON schema, an object")
    return value


command = Verb(
    "generate",
    help="Complete one prompt on the configured engine, in this process: no server. The prompt is the "
    "argument, or standard input. The completion alone goes to standard output.",
    run=run,
    params=[
        Described("words", "the prompt; - or none reads standard input", required=False, metavar="[PROMPT]"),
        click.Option(["--prompt"], help="the same as the argument"),
        click.Option(["--max-tokens"], type=int, default=64, metavar="N", show_default=True),
        click.Option(["--temperature"], type=float, metavar="X", help="without: the model's"),
        click.Option(["--top-p"], type=float, metavar="X", help="without: the model's"),
        click.Option(["--top-k"], type=int, metavar="N", help="without: the model's"),
        click.Option(["--seed"], type=int, metavar="N", help="without: random"),
        click.Option(
            ["--json", "schema"], metavar="SCHEMA", help="a JSON schema, or its file, that the text follows"
        ),
        click.Option(
            ["--stream/--no-stream"], default=True, help="print tokens as they come, or all at the end"
        ),
        CONFIG,
    ],
    examples=[
        ('trtllm-openai generate "The capital of France is"', "the demo model"),
        ("git diff | trtllm-openai generate --model ./model --max-tokens 200", "a prompt from a pipe"),
        ("trtllm-openai generate --json schema.json 'A person as JSON:'", "JSON that follows a schema"),
    ],
    settings=True,
)
