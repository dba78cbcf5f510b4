"""Readers for the small JSON files of a checkpoint directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trtllm_openai.errors import CheckpointError

GENERATION_CONFIG = "generation_config.json"


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`. Raises `CheckpointError` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return content


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`; empty if the file does not exist."""
    return read_json(path) if path.is_file() else {}


def read_eos_token_ids(directory: Path) -> tuple[int, ...]:
    """End-of-sequence token ids from generation_config.json, else from config.json; possibly none."""
    for name in (GENERATION_CONFIG, "config.json"):
        value = read_optional_json(directory / name).get("eos_token_id")
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list) and value:
            return tuple(int(token) for token in value)
    return ()
