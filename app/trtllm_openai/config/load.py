"""Loading: config.yaml, overridden by environment variables, overridden by flags.

A wrong value is refused, with the key's name and where it was given, before anything starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trtllm_openai.config.environment import ENV_PREFIX, is_of_kubernetes
from trtllm_openai.config.flags import flags
from trtllm_openai.config.settings import Settings
from trtllm_openai.errors import ConfigError

_SECRET = frozenset({"api_key"})
"""Settings whose values are never shown."""
DEFAULT_FILE = Path("config.yaml")


def load_settings(given: Mapping[str, Sequence[str]] | None = None, file: str | None = None) -> Settings:
    """Settings from the file, the environment and the flags.

    `given`: the texts of each flag by its setting's key, in order. `file` None: config.yaml in the working
    directory, if there is one. A list as a flag is `a,b`, the flag given several times, or a JSON list; a
    map is `key=value` or a JSON object. As an environment variable both are JSON.

    Raises `ConfigError` naming each wrong key.
    """
    path = Path(file or DEFAULT_FILE)
    values: dict[str, Any] = {}
    if path.is_file():
        values = _read_yaml(path)
    elif file:
        raise ConfigError(f"config file {path} does not exist")
    origins: dict[str, str] = {}
    for key, value in _environment().items():
        _put(values, key, value)
        origins[key] = flags()[key].variable
    for key, texts in (given or {}).items():
        _put(values, key, flags()[key].read(texts))
        origins[key] = flags()[key].flag
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, path)) from None


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key; a map as the value of a section overrides its keys only."""
    section, _, name = key.rpartition(".")
    if section:
        inner: Any = values.setdefault(section, {})
        if not isinstance(inner, dict):
            return  # the file has no section there, which the check reports
        values = inner
    if flags()[key].kind == "section" and isinstance(value, dict) and isinstance(values.get(name), dict):
        value = {**values[name], **value}
    values[name] = value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not settings by name")
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: UnicodeDecodeError too
        raise ConfigError(f"config file {path} cannot be read: {error}") from error
    return found


def _environment() -> dict[str, Any]:
    """The settings that environment variables have, by key, sections before their settings.

    Raises `ConfigError` for a variable with our prefix that names no setting, as it is probably misspelt, and
    for a list or map that is no JSON.
    """
    known = {flag.variable: flag for flag in flags().values()}
    found: dict[str, str] = {}
    for variable, value in os.environ.items():
        name = variable.upper()
        if not name.startswith(ENV_PREFIX) or is_of_kubernetes(name, value):
            continue
        if name not in known:
            raise ConfigError(f"environment variable {variable} is not a setting")
        found[name] = value
    return {flag.key: flag.from_variable(found[name]) for name, flag in known.items() if name in found}


def _explain(error: ValidationError, origins: Mapping[str, str], path: Path) -> str:
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        origin = next(
            (where for name, where in origins.items() if f"{key}.".startswith(f"{name}.")), str(path)
        )
        if item["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown setting (in {origin})")
        elif key in _SECRET:
            lines.append(f"{key}: {item['msg']} (from {origin})")
        else:
            lines.append(f"{key}: {item['msg']} (got {item['input']!r} from {origin})")
    return "\n".join(lines)
