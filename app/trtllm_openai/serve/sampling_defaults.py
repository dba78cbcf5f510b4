"""Sampling parameters of requests that do not say: those of the settings, else those of the model.

A model's are in its generation_config.json, which its authors write for Hugging Face's `generate`. As in vLLM
five of them are read; `do_sample` is not, since files that recommend a temperature often leave it out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from trtllm_openai.checkpoints.metadata import GENERATION_CONFIG, read_json
from trtllm_openai.config import DefaultSampling, Settings
from trtllm_openai.generation.parameters import BY_NAME

log = logging.getLogger(__name__)

NAMES = tuple(DefaultSampling.model_fields)


def sampling_defaults(settings: Settings, directories: Sequence[Path]) -> dict[str, float]:
    """The defaults by name, as on the wire. `directories`: see `of_model`. Raises `CheckpointError`."""
    found = of_model(directories) if settings.generation_config == "auto" else {}
    return {**found, **settings.default_sampling.model_dump(exclude_none=True)}


def of_model(directories: Sequence[Path]) -> dict[str, float]:
    """The values in the generation_config.json of the first of a model's `directories` that has one.

    A value out of range is left out, with a warning. Raises `CheckpointError` for what is no JSON object.
    """
    files = (directory / GENERATION_CONFIG for directory in directories)
    file = next((file for file in files if file.is_file()), None)
    content = read_json(file) if file is not None else {}
    found: dict[str, float] = {}
    for name in NAMES:
        value = content.get(name)
        if value is None:
            continue
        integral = BY_NAME[name].kind == "integer"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or (integral and value != int(value)) or BY_NAME[name].fault(value) is not None:
            log.warning("%s: %s is %r, which is not accepted: left out", file, name, value)
            continue
        found[name] = int(value) if integral else float(value)
    return found


def described(defaults: Mapping[str, float]) -> str:
    """The defaults as a text, such as "temperature 0.6, top_p 0.9"."""
    return ", ".join(f"{name} {value:g}" for name, value in defaults.items()) or "none"
