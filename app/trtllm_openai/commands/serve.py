"""`serve`: the HTTP server, until SIGTERM or SIGINT."""

from __future__ import annotations

import click

from trtllm_openai.commands.verb import CONFIG, MODEL, Verb, settings_of


def run(config: str | None, model: str | None) -> int:
    """Serve; returns the exit status. Raises `ConfigError` or `CheckpointError`."""
    settings = settings_of(click.get_current_context(), config, model)
    from trtllm_openai.serve import start

    return start.run(settings)


command = Verb(
    "serve",
    help="Serve a model over HTTP until Ctrl-C or SIGTERM: the first one lets running requests finish, a "
    "second one ends at once. MODEL is a checkpoint directory, a .gguf file, demo, or a Hugging Face id.",
    run=run,
    params=[MODEL, CONFIG],
    examples=[
        ("trtllm-openai serve", "the demo model on http://127.0.0.1:8000"),
        ("trtllm-openai serve ./Llama-3.1-8B --port 9000", "a checkpoint directory"),
        ("trtllm-openai serve Qwen/Qwen3-0.6B", "from the Hugging Face hub"),
        ("trtllm-openai serve ./model --torch.tensor-parallel-size 2", "on two GPUs"),
        ("trtllm-openai serve --engine tensorrt_llm ./model", "engine/ and tokenizer/ in ./model"),
        ("trtllm-openai serve --config prod.yaml --host 0.0.0.0", "settings of a file, and a flag above it"),
    ],
    settings=True,
)
