"""`inspect MODEL`: what a checkpoint or a TensorRT-LLM engine is, and the memory it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trtllm_openai.commands.verb import Described, Verb
from trtllm_openai.errors import CheckpointError

GIB = 2**30


def run(model: str, as_json: bool) -> int:
    """Print the report. Raises `CheckpointError`."""
    print(inspect(model, as_json=as_json))
    return 0


def inspect(model: str | Path, *, as_json: bool) -> str:
    """Report on a checkpoint, a .gguf file, `demo`, an engine directory, or a directory with an engine/ in
    it.

    Raises `CheckpointError`.
    """
    facts = _facts(str(model))
    if as_json:
        return json.dumps(facts, indent=2)
    width = max(map(len, facts))
    return "\n".join(
        f"{key.replace('_', ' '):{width}}  {line}"
        for name, value in facts.items()
        for key, line in _lines(name, value)
    )


def _facts(model: str) -> dict[str, Any]:
    from trtllm_openai.commands import checkpoint_report, engine_report

    directory = Path(model).expanduser()
    if directory.is_dir() and engine_report.is_engine(directory):
        return engine_report.engine_facts(directory)
    from trtllm_openai.checkpoints import resolve
    from trtllm_openai.config import load_settings

    if not directory.exists() and ("/" in model[:1] or model.startswith((".", "~"))):
        raise CheckpointError(f"There is no engine directory or checkpoint {model}.")
    settings = load_settings()
    return checkpoint_report.checkpoint_facts(
        resolve(model, settings.cache_path, lambda *_: None, weights=False)
    )


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    if name == "fits":
        return [
            (name if not index else "", _fit(gpu, found)) for index, (gpu, found) in enumerate(value.items())
        ]
    if name == "default_sampling":
        from trtllm_openai.serve.sampling_defaults import described

        return [(name, described(value))]
    if "bytes" in name:
        return [(name, f"{value} ({value / GIB:.2f} GiB)" if value >= GIB // 100 else str(value))]
    if name == "parameters":
        return [(name, f"{value} ({value / 1e9:.2f} billion)")]
    return [(name, _format(value))]


def _fit(gpu: str, found: dict[str, int] | None) -> str:
    if found is None:
        return f"{gpu}: not in 8"
    return f"{gpu}: {found['gpus']}, with room for {found['kv_cache_tokens']:,} tokens of KV cache"


def _format(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


command = Verb(
    "inspect",
    help="Show what a model is: architecture, quantization, sizes, KV cache per token, the GPUs it fits, "
    "and the tool and reasoning formats found in its chat template. MODEL is a checkpoint directory, a "
    ".gguf file, demo, a Hugging Face id, or a TensorRT-LLM engine directory.",
    run=run,
    params=[
        Described("model", "what to look at", type=click.Path()),
        click.Option(["--json", "as_json"], is_flag=True, help="print JSON"),
    ],
    examples=[
        ("trtllm-openai inspect demo", "the bundled model"),
        ("trtllm-openai inspect ./Llama-3.1-8B --json", "for a program"),
    ],
)
