"""Loading: config.yaml, overridden by environment variables, overridden by flags.

A wrong value is refused, with the key's name, before anything starts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, YamlConfigSettingsSource

from trtllm_openai.config.environment import ENV_PREFIX, is_of_kubernetes
from trtllm_openai.config.fields import Section
from trtllm_openai.config.settings import Settings
from trtllm_openai.errors import ConfigError

_SECRET = frozenset({"api_key"})
"""Settings whose values are never shown."""
DEFAULT_FILE = Path("config.yaml")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and a flag for every setting (`--port`, `--torch.dtype` …), for `load_settings`."""
    parser.add_argument("--config", metavar="FILE", help="settings file (default: config.yaml, if it exists)")
    source: CliSettingsSource[Any] = CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
        cli_kebab_case=True,
    )
    parser.set_defaults(settings_source=source)


def load_settings(arguments: argparse.Namespace) -> Settings:
    """Settings from the file, the environment and the flags of a parser that `add_flags` prepared.

    Raises `ConfigError` naming each wrong key.
    """
    path = Path(arguments.config or DEFAULT_FILE)
    values: dict[str, Any] = {}
    if path.is_file():
        values = _read_yaml(path)
    elif arguments.config:
        raise ConfigError(f"config file {path} does not exist")
    _refuse_unknown_environment()
    flags = arguments.settings_source(parsed_args=arguments)
    try:
        return Settings(_cli_settings_source=flags, **values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path if values else None)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(YamlConfigSettingsSource(Settings, yaml_file=path)())
    except Exception as error:  # YAML's own exceptions, UnicodeDecodeError, a list at top level …
        raise ConfigError(f"config file {path} cannot be read: {error}") from error


def _refuse_unknown_environment() -> None:
    """Raise `ConfigError` for a variable with our prefix that names no setting: it is probably misspelt."""
    known = set()
    for name, field in Settings.model_fields.items():
        known.add(f"{ENV_PREFIX}{name}".upper())
        if isinstance(field.default, Section):
            known.update(f"{ENV_PREFIX}{name}__{sub}".upper() for sub in type(field.default).model_fields)
    for variable, value in os.environ.items():
        name = variable.upper()
        if name.startswith(ENV_PREFIX) and name not in known and not is_of_kubernetes(name, value):
            raise ConfigError(f"environment variable {variable} is not a setting")


def _explain(error: ValidationError, path: Path | None) -> str:
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            where = f" (in {path})" if path else ""
            lines.append(f"{key}: unknown setting{where}")
        elif key in _SECRET:
            lines.append(f"{key}: {item['msg']}")
        else:
            lines.append(f"{key}: {item['msg']} (got {item['input']!r})")
    return "\n".join(lines)
