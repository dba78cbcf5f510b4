"""Loading: config.yaml, overridden by environment variables, overridden by flags.

A wrong value is refused, with the key's name, before anything starts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, SettingsError, YamlConfigSettingsSource

from trtllm_openai.config.environment import ENV_PREFIX, is_of_kubernetes
from trtllm_openai.config.fields import Section
from trtllm_openai.config.settings import Settings
from trtllm_openai.errors import ConfigError

_SECRET = frozenset({"api_key"})
"""Settings whose values are never shown."""
DEFAULT_FILE = Path("config.yaml")
_TEXTS = "synthetic.script"
"""A setting whose flag is one text, with the commas and brackets that it has, or a JSON list of texts."""


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

    A list as a flag is `a,b`, the flag given several times, or a JSON list; a map is `key=value` or a JSON
    object. As an environment variable both are JSON.

    Raises `ConfigError` naming each wrong key.
    """
    path = Path(arguments.config or DEFAULT_FILE)
    values: dict[str, Any] = {}
    if path.is_file():
        values = _read_yaml(path)
    elif arguments.config:
        raise ConfigError(f"config file {path} does not exist")
    _check_environment()
    try:
        flags = _read_flags(arguments)
        return Settings(_cli_settings_source=flags, **values)
    except SettingsError as error:
        raise ConfigError(_unreadable(error)) from None
    except ValidationError as error:
        raise ConfigError(_explain(error, path if values else None)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(YamlConfigSettingsSource(Settings, yaml_file=path)())
    except Exception as error:  # YAML's own exceptions, UnicodeDecodeError, a list at top level …
        raise ConfigError(f"config file {path} cannot be read: {error}") from error


def _check_environment() -> None:
    """Raise `ConfigError` for a variable with our prefix that names no setting, as it is probably misspelt.

    Also for a list or map that is no JSON.
    """
    known: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        known[f"{ENV_PREFIX}{name}".upper()] = field.annotation
        if isinstance(field.default, Section):
            for sub, inner in type(field.default).model_fields.items():
                known[f"{ENV_PREFIX}{name}__{sub}".upper()] = inner.annotation
    for variable, value in os.environ.items():
        name = variable.upper()
        if not name.startswith(ENV_PREFIX) or is_of_kubernetes(name, value):
            continue
        if name not in known:
            raise ConfigError(f"environment variable {variable} is not a setting")
        if _is_complex(known[name]):
            try:
                json.loads(value)
            except ValueError as error:
                raise ConfigError(
                    f"environment variable {variable} must be JSON ({error}), not {value!r}"
                ) from None


def _is_complex(annotation: Any) -> bool:
    """Whether a setting is a list or a map, or may be one, or is a section."""
    if get_origin(annotation) in (list, tuple, dict):
        return True
    if isinstance(annotation, type):
        return issubclass(annotation, Section)
    return any(_is_complex(one) for one in get_args(annotation) if not isinstance(one, str))


def _read_flags(arguments: argparse.Namespace) -> CliSettingsSource[Any]:
    """The flags as a source of settings. Raises `SettingsError`."""
    given = vars(arguments).copy()
    texts = given.pop(_TEXTS, None)
    flags: CliSettingsSource[Any] = arguments.settings_source(parsed_args=argparse.Namespace(**given))
    if texts is not None:
        listed = [one for text in texts for one in _as_list(text)]
        flags.env_vars = {**flags.env_vars, _TEXTS: json.dumps(listed)}
    return flags


def _as_list(text: str) -> list[str]:
    """The texts of a JSON list, else the text as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    listed = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return value if listed else [text]


def _unreadable(error: SettingsError) -> str:
    """A list or map that pydantic-settings cannot take apart; its message names the key, or the section."""
    text = str(error)
    found = re.search(
        r"encountered for (?P<key>[\w.-]+): (?P<why>.*)|for field \"(?P<field>\w+)\"", text, re.DOTALL
    )
    key = found and (found["key"] or found["field"])
    why = found["why"] if found and found["why"] else str(error.__cause__ or text)
    forms = "a list is a,b or a JSON list, a map is key=value or a JSON object"
    return f"{key or 'flags'}: cannot be read: {why} ({forms})"


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
